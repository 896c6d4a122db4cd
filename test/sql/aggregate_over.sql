-- Continuous aggregates over continuous aggregates: kept from the rows below, equal to
-- their query over the inner view.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
CREATE ROLE over_owner;
CREATE ROLE over_other;
CREATE SCHEMA levels AUTHORIZATION over_owner;
SET SESSION AUTHORIZATION over_owner;
SET search_path = levels;
SET timezone = 'UTC';

CREATE TABLE clicks (id int PRIMARY KEY, at timestamptz, page text, ms int, price numeric);
CREATE TABLE pages (page text PRIMARY KEY, site text);
INSERT INTO pages SELECT 'p' || i, 's' || i % 2 FROM generate_series(0, 4) i;
INSERT INTO clicks SELECT i, '2026-03-28 21:00+00'::timestamptz + i * interval '97 seconds', 'p' || i % 5, nullif(i % 17, 3), i / 7.0 FROM generate_series(1, 600) i;

CREATE VIEW per_minute AS
SELECT w.window_start AS minute, c.page, count(*) AS n, count(ms) AS nms, sum(ms) AS ms, sum(price) AS price, min(ms) AS least, max(price) AS most,
    bool_and(ms > 1) AS all_slow, count(*) FILTER (WHERE ms > 5) AS slow, sum(ms) FILTER (WHERE ms > 5) AS slow_ms
FROM clicks c, mill.tumble(at, '1 minute') w GROUP BY 1, 2;
SELECT mill.materialize('per_minute', backfill => false);
CREATE VIEW per_hour AS
SELECT h.window_start AS hour, page, sum(n) AS n, sum(nms) AS nms, sum(ms) AS ms, round(sum(ms) / sum(nms), 3) AS mean, sum(price) AS price, min(least) AS least,
    max(most) AS most, bool_and(all_slow) AS all_slow, sum(slow) AS slow, sum(slow_ms) AS slow_ms, sum(n) FILTER (WHERE page <> 'p1') AS not_p1,
    count(DISTINCT minute) AS minutes, max(minute) AS last
FROM per_minute m, mill.tumble(m.minute, '1 hour') h GROUP BY 1, 2;
SELECT mill.materialize('per_hour', backfill => false);
-- days of 23 hours; with a table that is looked up
CREATE VIEW per_day AS
SELECT d.window_start AS day, d.window_end, p.site, sum(n) AS n, sum(price) AS price, min(least) AS least
FROM per_hour JOIN pages p USING (page) CROSS JOIN LATERAL mill.tumble(hour, '1 day', time_zone => 'Europe/Berlin') d GROUP BY 1, 2, 3;
SELECT mill.materialize('per_day', backfill => false);
CREATE VIEW by_minute AS SELECT minute, sum(n) AS n FROM per_minute GROUP BY 1;
CREATE VIEW by_page AS SELECT page, sum(n) AS n, sum(price) AS price FROM per_minute WHERE page > 'p0' GROUP BY 1 HAVING sum(n) > 10;
CREATE VIEW hourly AS SELECT window_start, window_end, sum(n) AS n FROM per_minute, mill.hop(minute, '20 minutes', '1 hour') GROUP BY 1, 2;
CREATE VIEW total AS SELECT sum(n) AS n, max(minute) AS last FROM per_minute;
SELECT mill.materialize(v, backfill => false) FROM unnest('{by_minute,by_page,hourly,total}'::regclass[]) v;
SELECT * FROM mill.explain_aggregate('per_hour');
SELECT mill.definition('by_page') LIKE '%FROM per_minute%' AS over_the_view;

-- Whether views over live views, and their queries over what the inner views are plainly, are the same.
CREATE FUNCTION differences() RETURNS TABLE (view text, rows bigint) LANGUAGE sql AS $$
    SELECT aggregate::text, (SELECT count(*) FROM mill.verify(aggregate::regclass)) FROM mill.aggregates
    WHERE aggregate::text IN ('per_minute', 'per_hour', 'per_day', 'by_minute', 'by_page', 'hourly', 'total') ORDER BY 1 $$;
SELECT * FROM differences();
INSERT INTO clicks VALUES (1001, NULL, 'p1', 1, 1), (1002, 'infinity', 'p1', 1, 1), (1003, '2026-03-29 23:59:59+00', 'p1', NULL, NULL);
UPDATE clicks SET at = at + '3 hours', ms = ms + 1 WHERE id % 5 = 0;
UPDATE clicks SET page = 'p9' WHERE ms = 7;
DELETE FROM clicks WHERE id % 3 = 0;
SELECT * FROM differences();
SELECT * FROM per_day ORDER BY 1, 3;
SELECT * FROM total;
SELECT count(*), max(mill.window_start(at, '1 minute')) FROM clicks WHERE isfinite(at);
BEGIN;
TRUNCATE clicks;
SELECT * FROM total;
ROLLBACK;
SELECT mill.fold(v) IS NOT NULL FROM unnest('{per_minute,per_hour,per_day,by_minute,by_page,hourly,total}'::regclass[]) v;
SELECT * FROM differences();
-- the event time of the outer window is the row's own where their bounds agree
SELECT v, pg_get_viewdef(v) LIKE '%mill.window_start(%' AS computed FROM unnest('{per_day,hourly}'::regclass[]) v;

-- keys that are one and the same expression
CREATE VIEW twice AS SELECT ms + 1 AS x, ms + 1 AS y, count(*) AS n FROM clicks GROUP BY 1, 2;
SELECT mill.materialize('twice', backfill => false);
INSERT INTO clicks VALUES (3001, '2026-03-28 22:00:01+00', 'p1', 1, 1), (3002, '2026-03-28 22:00:01+00', 'p1', 1, 1);
SELECT count(*) FROM mill.verify('twice');
SELECT mill.fold('twice') IS NOT NULL AS folded;
SELECT count(*) FROM mill.verify('twice');
DELETE FROM clicks WHERE id IN (3001, 3002);
DROP VIEW twice;

-- What the inner view is may not change below the outer one.
SELECT mill.dematerialize('per_minute');
CREATE VIEW other_minute AS TABLE per_minute;
CREATE OR REPLACE VIEW other_minute AS SELECT w.window_start AS minute, page, count(*) AS n, count(ms) AS nms, sum(ms) AS ms, sum(price) AS price, min(ms) AS least,
    max(price) AS most, bool_and(ms > 1) AS all_slow, count(*) AS slow, sum(ms) AS slow_ms FROM clicks, mill.tumble(at, '1 minute') w GROUP BY 1, 2;
SELECT mill.materialize('other_minute');
SELECT mill.replace_aggregate('per_minute', 'other_minute');
SELECT mill.replace_aggregate('other_minute', 'per_minute');
CREATE OR REPLACE VIEW per_minute AS TABLE other_minute;
\set VERBOSITY terse
DROP VIEW per_minute;
\set VERBOSITY default
DROP VIEW other_minute;
-- but its names may
ALTER TABLE clicks RENAME page TO path;
ALTER VIEW per_minute RENAME TO minutely;
ALTER VIEW minutely RENAME n TO hits;
INSERT INTO clicks VALUES (2001, '2026-03-28 22:00:01+00', 'p1', 1, 1);
SELECT count(*) FROM mill.verify('per_hour');
SELECT mill.definition('by_page') LIKE '%FROM minutely%' AS over_the_view;

-- Each rests for what keeps one of those below from being live.
ALTER TABLE pages ENABLE ROW LEVEL SECURITY;
SELECT aggregate, state, reason FROM mill.aggregates WHERE state <> 'live' ORDER BY aggregate::text;
ALTER TABLE pages DISABLE ROW LEVEL SECURITY;
RESET SESSION AUTHORIZATION;
ALTER VIEW levels.minutely OWNER TO over_other;
SET search_path = levels;
SELECT aggregate, state, reason FROM mill.aggregates WHERE state = 'resting' ORDER BY aggregate::text;
INSERT INTO clicks VALUES (2002, '2026-03-28 22:00:01+00', 'p1', 1, 1);
SELECT mill.refresh('total');
CREATE VIEW theirs AS SELECT sum(n) FROM by_page;
ALTER VIEW theirs OWNER TO over_other;
SELECT mill.materialize('theirs');
DROP VIEW theirs;
ALTER VIEW minutely OWNER TO over_owner;
SELECT mill.refresh(v) > 0 FROM unnest('{minutely,per_hour,per_day,by_minute,by_page,hourly,total}'::regclass[]) v;
SELECT * FROM total;
SELECT * FROM differences();

-- From the top they go one by one, from the bottom all at once.
SELECT mill.dematerialize('per_day');
SELECT mill.dematerialize('per_hour');
SELECT count(*) FROM per_day;
DROP VIEW minutely CASCADE;
SELECT aggregate FROM mill.aggregates;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'clicks'::regclass AND tgisinternal;
DROP SCHEMA levels CASCADE;
SELECT relname FROM pg_class WHERE relnamespace = 'mill_data'::regnamespace;
DROP ROLE over_owner, over_other;
