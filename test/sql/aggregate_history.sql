-- mill.retain: an aggregate over partitions that come and go shows the rows that are there
-- and those of the partitions that are gone. The oracle is a table of all rows there ever were.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
CREATE ROLE history_owner;
CREATE ROLE history_dropper;
CREATE SCHEMA history AUTHORIZATION history_owner;
GRANT USAGE ON SCHEMA history TO history_dropper;
SET SESSION AUTHORIZATION history_owner;
SET search_path = history;
SET timezone = 'UTC';

CREATE TABLE ev (ts timestamptz NOT NULL, k text, v numeric) PARTITION BY RANGE (ts);
CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
CREATE TABLE ev_2 PARTITION OF ev FOR VALUES FROM ('2026-01-02') TO ('2026-01-03');
CREATE TABLE ev_3 PARTITION OF ev FOR VALUES FROM ('2026-01-03') TO ('2026-01-04') PARTITION BY LIST (k);
CREATE TABLE ev_3a PARTITION OF ev_3 FOR VALUES IN ('a');
CREATE TABLE ev_3b PARTITION OF ev_3 DEFAULT;
CREATE TABLE ev_4 PARTITION OF ev FOR VALUES FROM ('2026-01-04') TO ('2026-01-05');
CREATE INDEX ON ev (ts);
CREATE TABLE every AS TABLE ev;
CREATE VIEW hourly AS SELECT window_start, k, count(*) AS n, sum(v) AS s, avg(v) AS a, max(v) AS m FROM ev, mill.tumble(ts, '1 hour') GROUP BY 1, 2;
CREATE VIEW hops AS SELECT window_start, count(*) AS n, stddev(v) AS d FROM ev, mill.hop(ts, '6 hours', '24 hours') GROUP BY 1;
CREATE VIEW total AS SELECT count(*) AS n, sum(v) AS s, min(k) AS least FROM ev;
CREATE VIEW per_hour AS SELECT window_start, k, count(*) AS n FROM ev, mill.tumble(ts, '1 hour') GROUP BY 1, 2;
CREATE VIEW daily AS SELECT w.window_start, sum(n) AS n FROM per_hour h, mill.tumble(h.window_start, '1 day', time_zone => 'Europe/Berlin') w GROUP BY 1;
CREATE VIEW plain_hourly AS SELECT window_start, k, count(*) AS n, sum(v) AS s, avg(v) AS a, max(v) AS m FROM every, mill.tumble(ts, '1 hour') GROUP BY 1, 2;
CREATE VIEW plain_hops AS SELECT window_start, count(*) AS n, stddev(v) AS d FROM every, mill.hop(ts, '6 hours', '24 hours') GROUP BY 1;
CREATE VIEW plain_total AS SELECT count(*) AS n, sum(v) AS s, min(k) AS least FROM every;
CREATE VIEW plain_daily AS SELECT window_start, count(*)::numeric AS n FROM every, mill.tumble(ts, '1 day', time_zone => 'Europe/Berlin') GROUP BY 1;
SELECT mill.materialize(v, backfill => false) FROM unnest('{hourly,hops,total,per_hour,daily}'::regclass[]) v;

---- arguments ----

SELECT mill.retain(NULL);
SELECT mill.retain('plain_hourly');
SELECT mill.retain('hourly', '-1 day');
CREATE VIEW of_every AS SELECT count(*) FROM every;
SELECT mill.materialize('of_every', backfill => false);
SELECT mill.retain('of_every');
DROP VIEW of_every;
SELECT mill.retain('total', '1 day');
SELECT mill.retain('per_hour');
SELECT mill.drop_history('hourly');
CREATE VIEW sessions AS SELECT s, count(*) FROM (SELECT mill.session_start(ts, '1 hour') OVER (ORDER BY ts) AS s FROM ev) e GROUP BY 1;
CREATE VIEW kinds AS SELECT count(DISTINCT k) FROM ev;
SELECT mill.materialize(v, backfill => false) FROM unnest('{sessions,kinds}'::regclass[]) v;
SELECT mill.retain('sessions');
SELECT mill.retain('kinds');
DROP VIEW sessions, kinds;
SELECT mill.retain('hops', '2 years');
SELECT mill.retain('hourly', '1 month -30 days');
SELECT mill.retain('hourly', '1001 years');
SELECT mill.retain(v, '2 years') FROM unnest('{hourly,daily}'::regclass[]) v;
SELECT mill.retain('total'), mill.retain('hops');
CREATE VIEW over AS SELECT sum(n) FROM hourly;
SELECT mill.materialize('over');
DROP VIEW over;
SELECT aggregate, keep, history_table FROM mill.aggregates ORDER BY aggregate::text;

---- partitions that go and come ----

CREATE FUNCTION add(a int, b int) RETURNS void LANGUAGE sql AS $$
    WITH r AS (SELECT timestamptz '2026-01-01' + i * interval '7 minutes' AS ts, (ARRAY['a', 'b', NULL])[1 + i % 3] AS k, (i % 50) / 10.0 AS v FROM generate_series(a, b) i),
    x AS (INSERT INTO every SELECT * FROM r) INSERT INTO ev SELECT * FROM r $$;
-- how many rows differ, by text where equal is not the same; how many mill.verify finds
CREATE FUNCTION diff() RETURNS TABLE (view text, differ bigint, verified bigint) LANGUAGE plpgsql SET client_min_messages = warning AS $$
BEGIN
    FOREACH view IN ARRAY '{daily,hops,hourly,total}'::text[] LOOP
        EXECUTE format('SELECT count(*) FROM ((SELECT v::text FROM %1$I v EXCEPT ALL SELECT v::text FROM plain_%1$I v) UNION ALL (SELECT v::text FROM plain_%1$I v EXCEPT ALL SELECT v::text FROM %1$I v)) x', view) INTO differ;
        EXECUTE format('SELECT count(*) FROM mill.verify(%L)', view) INTO verified;
        RETURN NEXT;
    END LOOP;
END $$;
SELECT add(0, 800);
SELECT * FROM diff();
DROP TABLE ev_1;
SELECT * FROM diff();
SELECT count(*) > 0 AS kept, sum(row_count) FROM mill_data."hourly$history";
BEGIN;
DROP TABLE ev_2;
SELECT * FROM diff();
ROLLBACK;
SELECT * FROM diff();
ALTER TABLE ev DETACH PARTITION ev_2;
SELECT * FROM diff();
ALTER TABLE ev ATTACH PARTITION ev_2 FOR VALUES FROM ('2026-01-02') TO ('2026-01-03');
SELECT * FROM diff();
ALTER TABLE ev DETACH PARTITION ev_2 CONCURRENTLY;
SELECT * FROM diff();
DROP TABLE ev_2;
SELECT * FROM diff();
-- a part of a part; then the rest of it, in one command with a table that is none
CREATE TABLE other ();
DROP TABLE ev_3a;
SELECT * FROM diff();
DO $$ BEGIN EXECUTE 'DROP TABLE IF EXISTS other, ev_3, none_such'; END $$;
SELECT * FROM diff();
-- rows that come late count with those that are gone
CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
SELECT add(3, 60);
SELECT * FROM diff();
DELETE FROM ev WHERE v = 1;
DELETE FROM every WHERE v = 1 AND ts >= '2026-01-04';
DELETE FROM every e USING (SELECT ctid, row_number() OVER (PARTITION BY ts) AS r FROM every WHERE v = 1) d WHERE d.ctid = e.ctid AND d.r = 2;
SELECT * FROM diff();
-- one whose owner is another than the view's, and who may not read it
RESET SESSION AUTHORIZATION;
ALTER TABLE history.ev_1 OWNER TO history_dropper;
SET SESSION AUTHORIZATION history_dropper;
SET search_path = history;
DROP TABLE ev_1;
DROP TABLE ev_4;
SET SESSION AUTHORIZATION history_owner;
SET search_path = history;
SELECT * FROM diff();

---- whatever state it is in ----

SELECT mill.fold(v) IS NOT NULL AS folded FROM unnest('{hourly,hops,daily,total}'::regclass[]) v;
SELECT * FROM diff();
RESET SESSION AUTHORIZATION;
SET search_path = history;
ALTER TABLE ev_4 DISABLE TRIGGER ALL;
SELECT aggregate, state FROM mill.aggregates ORDER BY aggregate::text;
SELECT * FROM diff();
CREATE TABLE ev_5 PARTITION OF ev FOR VALUES FROM ('2026-01-05') TO ('2026-01-06');
SELECT add(801, 900);
SELECT * FROM diff();
DROP TABLE ev_5;
SELECT * FROM diff();
ALTER TABLE ev_4 ENABLE TRIGGER ALL;
SELECT mill.refresh(v) > 0 FROM unnest('{hourly,hops,daily,total}'::regclass[]) v;
SELECT * FROM diff();
TRUNCATE ev;
DELETE FROM every WHERE ts >= '2026-01-04' AND ts < '2026-01-05';
SELECT * FROM diff();

---- an expression that fails for a row of it, after a change of a function ----

CREATE TABLE fine (k int) PARTITION BY LIST (k);
CREATE TABLE fine_1 PARTITION OF fine FOR VALUES IN (1);
CREATE FUNCTION moody(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END';
CREATE VIEW of_fine AS SELECT sum(history.moody(k)) FROM fine;
SELECT mill.materialize('of_fine', backfill => false);
SELECT mill.retain('of_fine');
INSERT INTO fine VALUES (1);
CREATE OR REPLACE FUNCTION moody(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE EXCEPTION ''no''; END';
\set VERBOSITY terse
DROP TABLE fine_1;
\set VERBOSITY default
SELECT mill.drop_history('of_fine');
DROP TABLE fine_1;

---- what would lose it, and what does ----

SET SESSION AUTHORIZATION history_owner;
SET search_path = history;
SELECT mill.dematerialize('hourly');
CREATE VIEW hourly_2 AS SELECT window_start, k, count(*) AS n, sum(v) AS s, avg(v) AS a, max(v) AS m FROM ev, mill.tumble(ts, '1 hour') GROUP BY 1, 2;
SELECT mill.materialize('hourly_2', backfill => false);
SELECT mill.replace_aggregate('hourly', 'hourly_2');
SELECT mill.replace_aggregate('hourly_2', 'hourly');
DROP VIEW hourly_2;
RESET SESSION AUTHORIZATION;
SET search_path = history;
CREATE SCHEMA passing;
CREATE TABLE passing.ev_6 PARTITION OF ev FOR VALUES FROM ('2026-01-06') TO ('2026-01-07');
DROP SCHEMA passing CASCADE;
-- age: from the newest window, which is long ago
SELECT count(*), min(window_start), max(window_start) FROM hourly;
SELECT mill.retain('hourly', '1 day');
SELECT mill.refresh('hourly'), mill.fold('hourly');
SELECT count(*) > 0 AS left, min(window_start), max(window_start) FROM hourly;
SELECT count(*) FROM hops;
SELECT mill.drop_history('hops');
SELECT count(*) FROM hops;
SELECT mill.dematerialize('hops');
DROP VIEW hourly;
SELECT relname FROM pg_class WHERE relnamespace = 'mill_data'::regnamespace AND relkind = 'r' ORDER BY 1;
ALTER VIEW daily OWNER TO history_dropper;
SELECT relname, relowner::regrole FROM pg_class WHERE relnamespace = 'mill_data'::regnamespace AND relname LIKE 'daily$%' AND relkind IN ('r', 'v') ORDER BY 1;
DROP SCHEMA history CASCADE;
SELECT relname FROM pg_class WHERE relnamespace = 'mill_data'::regnamespace;
DROP ROLE history_owner, history_dropper;
