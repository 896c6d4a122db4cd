-- Continuous aggregates: every query, table and argument that is refused, and the hint.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
CREATE SCHEMA refused;
SET search_path = refused;
SET timezone = 'UTC';

CREATE TABLE events (id bigint PRIMARY KEY, at timestamptz, until timestamptz, local timestamp, tick bigint, day date,
    kind text, n int, x numeric, doc jsonb);
CREATE TABLE kinds (kind text PRIMARY KEY, label text, since timestamptz);
CREATE TABLE parts (id bigint, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parent (id bigint, at timestamptz);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE secret (id bigint, at timestamptz);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE UNLOGGED TABLE quick (id bigint, at timestamptz);
CREATE TEMPORARY TABLE passing (id bigint, at timestamptz);
CREATE VIEW over_events AS SELECT * FROM events;
CREATE VIEW over_that AS SELECT id FROM over_events;
CREATE MATERIALIZED VIEW frozen AS SELECT * FROM events;
CREATE SEQUENCE numbers;
CREATE SERVER refused_nowhere FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE USER MAPPING FOR PUBLIC SERVER refused_nowhere;
CREATE FOREIGN TABLE stream (id bigint, at timestamptz) SERVER refused_nowhere OPTIONS (topic 'x');
CREATE FUNCTION moody(int) RETURNS int LANGUAGE sql VOLATILE AS 'SELECT $1';
CREATE FUNCTION steady(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION settled(timestamptz) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1::text';

-- Makes a view of the query and materializes it, and undoes both.
CREATE FUNCTION try(query text, kind text DEFAULT 'VIEW') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    m text; h text; s text; d text;
BEGIN
    EXECUTE format('CREATE %s v AS %s', kind, query);
    PERFORM mill.materialize('v');
    RAISE EXCEPTION USING ERRCODE = 'P0999';
EXCEPTION
    WHEN SQLSTATE 'P0999' THEN RETURN 'accepted';
    WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, h = PG_EXCEPTION_HINT, d = PG_EXCEPTION_DETAIL, s = RETURNED_SQLSTATE;
        RETURN concat_ws(E'\n', s || ': ' || m, 'DETAIL: ' || nullif(d, ''), 'HINT: ' || nullif(h, ''));
END $$;
\pset format unaligned
\pset tuples_only on
\pset null '(null)'

---- CASES 27: what is accepted, as a measure of the rest ----

SELECT try('SELECT window_start, kind, count(*) FROM events, mill.tumble(at, ''5 minutes'') GROUP BY 1, 2');
SELECT try('SELECT count(*) FROM events');
SELECT try('SELECT kind FROM events GROUP BY kind');
SELECT try('SELECT kind, current_date AS today, count(*) FROM events GROUP BY kind');
SELECT try('SELECT l.label, count(*) FROM events e JOIN kinds l ON l.kind = e.kind GROUP BY l.label');
SELECT try('SELECT count(*) FROM parts');
SELECT try('SELECT kind, sum(steady(n)) FROM events GROUP BY kind');
SELECT try('SELECT s, count(*) FROM (SELECT at, mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM events) e GROUP BY s');

---- CASES 27: what the relation is ----

SELECT try('SELECT 1 AS n', 'TABLE');
SELECT try('SELECT kind, count(*) FROM events GROUP BY kind', 'MATERIALIZED VIEW');
SELECT try('SELECT kind, count(*) FROM events GROUP BY kind', 'TEMPORARY VIEW');
SELECT try('SELECT count(*) FROM passing');
SELECT mill.materialize('numbers');
SELECT mill.materialize('events_pkey');
SELECT mill.materialize('stream');
SELECT mill.materialize('no_such_view');

---- CASES 27: base tables ----

SELECT try('SELECT count(*) FROM stream');
SELECT try('SELECT count(*) FROM over_events');
SELECT try('SELECT count(*) FROM frozen');
SELECT try('SELECT count(*) FROM numbers');
SELECT try('SELECT count(*) FROM pg_class');
SELECT try('SELECT count(*) FROM quick');
SELECT try('SELECT count(*) FROM parts_1');
SELECT try('SELECT count(*) FROM parent');
SELECT try('SELECT count(*) FROM secret');
SELECT try('SELECT e.kind, count(*) FROM events e JOIN secret s USING (id) GROUP BY 1');
SELECT try('SELECT 1 AS n, count(*)');
SELECT try('SELECT count(*) FROM generate_series(1, 3)');
SELECT try('SELECT count(*) FROM (VALUES (1)) v(x)');
SELECT try('SELECT window_start, count(*) FROM mill.tumble(timestamptz ''2026-01-01 00:00+00'', ''5 minutes'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM generate_series(1::bigint, 3) g, mill.tumble(g, 5) GROUP BY 1');
SELECT try('SELECT count(*) FROM ONLY parent');

---- CASES 27: clauses ----

SELECT try('SELECT kind FROM events UNION SELECT kind FROM kinds');
SELECT try('SELECT kind, count(*) FROM events GROUP BY 1 UNION ALL SELECT kind, count(*) FROM kinds GROUP BY 1');
SELECT try('WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT count(*) FROM events, r');
SELECT try('WITH e AS (SELECT * FROM events) SELECT count(*) FROM e');
SELECT try('WITH unused AS (SELECT 1) SELECT count(*) FROM events');
SELECT try('SELECT kind, count(*) FROM events WHERE kind IN (SELECT kind FROM kinds) GROUP BY 1');
SELECT try('SELECT kind, count(*), (SELECT max(label) FROM kinds) FROM events GROUP BY 1');
SELECT try('SELECT kind, count(*) FROM events GROUP BY 1 HAVING count(*) > (SELECT 1)');
SELECT try('SELECT count(*) FROM (SELECT * FROM events) e');
SELECT try('SELECT e.kind, count(*) FROM events e, LATERAL (SELECT e.n + 1) l(m) GROUP BY 1');
SELECT try('SELECT DISTINCT kind, count(*) FROM events GROUP BY 1');
SELECT try('SELECT DISTINCT ON (kind) kind, count(*) FROM events GROUP BY 1');
SELECT try('SELECT kind, count(*) FROM events GROUP BY 1 LIMIT 3');
SELECT try('SELECT kind, count(*) FROM events GROUP BY 1 OFFSET 3');
SELECT try('SELECT kind, count(*) FROM events GROUP BY 1 ORDER BY 1');
SELECT try('SELECT id FROM events FOR UPDATE');
SELECT try('SELECT kind, generate_series(1, 2), count(*) FROM events GROUP BY 1');
SELECT try('SELECT kind, count(*) FROM events GROUP BY GROUPING SETS ((kind), ())');
SELECT try('SELECT kind, count(*) FROM events GROUP BY ROLLUP (kind)');
SELECT try('SELECT kind, n, count(*) FROM events GROUP BY CUBE (kind, n)');
SELECT try('SELECT count(*) FROM events TABLESAMPLE SYSTEM (10)');
SELECT try('SELECT kind, count(*), rank() OVER (ORDER BY kind) FROM events GROUP BY kind');
SELECT try('SELECT kind, mill.session_start(max(at), ''5 minutes'') OVER (ORDER BY max(at)) FROM events GROUP BY kind');
SELECT try('SELECT kind, n FROM events');
SELECT try('SELECT window_start, kind FROM events, mill.tumble(at, ''5 minutes'')');
SELECT try('SELECT e.id, e.kind, count(*) FROM events e GROUP BY e.id');

---- CASES 27: functions that may give another result ----

SELECT try('SELECT count(*) FROM events WHERE random() < 0.5');
SELECT try('SELECT count(*) FROM events WHERE at > now()');
SELECT try('SELECT count(*) FROM events WHERE at > current_timestamp');
SELECT try('SELECT count(*) FROM events WHERE kind = current_user');
SELECT try('SELECT current_date AS today, count(*) FROM events GROUP BY 1');
SELECT try('SELECT count(*) FILTER (WHERE at < current_timestamp) FROM events');
SELECT try('SELECT count(*) FROM events WHERE at > ''2026-01-01''::text::timestamptz');
SELECT try('SELECT count(*) FROM events WHERE local < at');
SELECT try('SELECT moody(n) AS m, count(*) FROM events GROUP BY 1');
SELECT try('SELECT date_trunc(''hour'', at) AS hour, count(*) FROM events GROUP BY 1');
SELECT try('SELECT at::date AS day, count(*) FROM events GROUP BY 1');
SELECT try('SELECT w, count(*) FROM events, mill.tumble(at, ''1 hour'') w GROUP BY w');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM events) e GROUP BY e, s');
SELECT try('SELECT s, count(e) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM events) e GROUP BY s');
SELECT try('SELECT count(*) FROM ONLY parts');
SELECT mill.fold('4294967295'::regclass);
SELECT mill.refresh(NULL::regclass, '1'::text, '2'::text);
SELECT try('SELECT date_trunc(''week'', e."at" + ''1 hour'') AS week, count(*) FROM events AS e GROUP BY 1');
SELECT try('SELECT date_trunc(kind, at) AS hour, count(*) FROM events GROUP BY 1');
SELECT try('SELECT to_char(at, ''HH24'') AS hour, count(*) FROM events GROUP BY 1');
SELECT try('SELECT max(at::date) AS last FROM events');
SELECT try('SELECT sum(moody(n)) FROM events');
SELECT try('SELECT count(*) FILTER (WHERE moody(n) > 1) FROM events');
SELECT try('SELECT string_agg(settled(at), '','') FROM events');
SELECT try('SELECT percentile_cont(random()) WITHIN GROUP (ORDER BY n) FROM events');
SELECT try('SELECT kind, percentile_disc(CASE kind WHEN ''a'' THEN 0.1 ELSE 0.9 END) WITHIN GROUP (ORDER BY n) FROM events GROUP BY kind');
SELECT try('SELECT kind, random(), count(*) FROM events GROUP BY kind');
SELECT try('SELECT kind, moody(count(*)::int) FROM events GROUP BY kind');
SELECT try('SELECT kind, count(*) FROM events GROUP BY kind HAVING random() < 1');
SELECT try('SELECT kind, nextval(''numbers''), count(*) FROM events GROUP BY kind');
SELECT try('SELECT e.kind, count(*) FROM events e JOIN (VALUES (random())) v(r) ON e.n > v.r GROUP BY 1');
SELECT try('SELECT kind, count(*) FROM events, moody(n) m GROUP BY kind');
SELECT try('SELECT kind, count(*) FROM events, ROWS FROM (moody(n), generate_series(1, 2)) m GROUP BY kind');
SELECT try('SELECT e.kind, count(*) FROM events e LEFT JOIN kinds k ON k.kind = e.kind AND k.since < now() GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(mill.window_start(at, ''1 day''), ''1 hour'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(local::timestamptz, ''1 hour'') GROUP BY 1');

---- CASES 27: windows ----

SELECT try('SELECT a.window_start, count(*) FROM events e, mill.tumble(e.at, ''1 hour'') a, mill.tumble(e.until, ''1 hour'') b GROUP BY 1');
SELECT try('SELECT e.window_start, count(*) FROM events, mill.tumble(at, ''1 hour'') e, kinds k, mill.hop(k.since, ''1 hour'', ''2 hours'') h GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events e JOIN kinds k USING (kind), mill.tumble(greatest(e.at, k.since), ''1 hour'') GROUP BY 1');
SELECT try('SELECT count(*) FROM events, mill.tumble(at, ''1 hour'')');
SELECT try('SELECT kind, count(*) FROM events, mill.tumble(at, ''1 hour'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(tick, n) GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(tick, 5, origin => n) GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(at, ''1 hour'', time_zone => kind) GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.hop(tick, n, 10) GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(at, NULL) GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.hop(at, NULL, ''1 hour'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(at, ''1 day'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(at, ''1 day'', time_zone => ''Europe/Berlin'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(local, ''1 day'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(at, ''-1 hour'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.hop(tick, 0, 5) GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.hop(at, ''1 hour'', ''1 day'', time_zone => ''UTC'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.hop(at, ''1 hour'', ''2 hours'') WHERE window_start > ''2026-01-01 00:00+00'' GROUP BY 1');
SELECT try('SELECT window_start, window_end - window_start AS width, count(*) FROM events, mill.hop(at, ''1 hour'', ''2 hours'') GROUP BY 1, 2');
SELECT try('SELECT window_start, max(window_end) FROM events, mill.hop(at, ''1 hour'', ''2 hours'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM kinds k LEFT JOIN events e USING (kind), mill.tumble(e.at, ''1 hour'') GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events LEFT JOIN LATERAL mill.tumble(at, ''1 hour'') ON true GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events LEFT JOIN LATERAL mill.hop(at, ''1 hour'', ''2 hours'') ON true GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.tumble(at, ''1 hour'') WITH ORDINALITY w(window_start, window_end, o) GROUP BY 1');
SELECT try('SELECT window_start, count(*) FROM events, mill.hop(at, ''1 hour'', ''2 hours'') WITH ORDINALITY w(window_start, window_end, o) GROUP BY 1');

---- CASES 27: sessions ----

SELECT try('SELECT kind, count(*) FROM (SELECT kind, at, mill.session_start(at, ''5 minutes'') OVER (PARTITION BY kind ORDER BY at) AS s FROM events) e GROUP BY kind');
SELECT try('SELECT s, count(*) FROM (SELECT kind, mill.session_start(at, ''5 minutes'') OVER (PARTITION BY kind ORDER BY at) AS s FROM events) e GROUP BY s');
SELECT try('SELECT kind, n, s, count(*) FROM (SELECT kind, n, mill.session_start(at, ''5 minutes'') OVER (PARTITION BY kind ORDER BY at) AS s FROM events) e GROUP BY 1, 2, 3');
SELECT try('SELECT s, count(*) FROM (SELECT n, mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM events) e WHERE n > 1 GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY until) AS s FROM events) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY at, n) AS s FROM events) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER () AS s FROM events) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s, rank() OVER (ORDER BY n) AS r FROM events) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s, mill.session_start(at, ''9 minutes'') OVER (ORDER BY at) AS r FROM events) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER w AS s, mill.session_start(at, ''5 minutes'') OVER w + ''1 hour'' AS r FROM events WINDOW w AS (ORDER BY at)) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT tick, mill.session_start(tick, 5) OVER w AS s, mill.session_start(tick, 5) OVER w + 1 AS r FROM events WINDOW w AS (ORDER BY tick)) e GROUP BY s');
SELECT try('SELECT r, count(*) FROM (SELECT rank() OVER (ORDER BY at) AS r FROM events) e GROUP BY r');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(max(at), ''5 minutes'') OVER (ORDER BY max(at)) AS s FROM events GROUP BY kind) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s, random() AS r FROM events) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s, current_date AS r FROM events) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM events LIMIT 3) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(tick, NULL) OVER (ORDER BY tick) AS s FROM events) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(tick, n) OVER (ORDER BY tick) AS s FROM events) e GROUP BY s');
SELECT try('SELECT s, mill.session_end(at, ''6 minutes'') FROM (SELECT at, mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM events) e GROUP BY s');
SELECT try('SELECT s, mill.session_end(until, ''5 minutes'') FROM (SELECT at, until, mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM events) e GROUP BY s');
SELECT try('SELECT s, mill.session_end(at, ''5 minutes'') FILTER (WHERE n > 1) FROM (SELECT at, n, mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM events) e GROUP BY s');
SELECT try('SELECT kind, mill.session_end(at, ''5 minutes'') FROM events GROUP BY kind');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(g, 5) OVER (ORDER BY g) AS s FROM generate_series(1::bigint, 9) g) e GROUP BY s');
SELECT try('SELECT s, count(*) FROM (SELECT mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM (SELECT * FROM events) f) e GROUP BY s');
SELECT try('SELECT s, k.label, count(*) FROM kinds k, (SELECT kind, mill.session_start(at, ''5 minutes'') OVER (ORDER BY at) AS s FROM events) e GROUP BY 1, 2');

---- CASES 27: joins and columns ----

SELECT try('SELECT k.label, count(*) FROM kinds k RIGHT JOIN events e ON true GROUP BY 1');
SELECT try('SELECT k.label, count(*) FROM events e RIGHT JOIN kinds k USING (kind) GROUP BY 1');
SELECT try('SELECT k.label, count(*) FROM events e FULL JOIN kinds k USING (kind) GROUP BY 1');
SELECT try('SELECT count(*) FROM events a JOIN events b ON a.id = b.n');
SELECT try('SELECT count(*) FROM events JOIN over_events USING (id)');
SELECT try('SELECT count(*) FROM events JOIN over_that USING (id)');
SELECT try('SELECT count(*) FROM parts JOIN parts_1 USING (id)');
SELECT try('SELECT count(e) FROM events e');
SELECT try('SELECT max(ctid::text) FROM events');
SELECT try('SELECT tableoid, count(*) FROM events GROUP BY 1');
SELECT try('SELECT doc, count(*) FROM events WHERE xmin IS NOT NULL GROUP BY doc');

---- an aggregate over another one ----

SELECT try('SELECT window_start, mill.window_start(at, ''7 minutes'') AS sevens, count(*) FROM events, mill.tumble(at, ''5 minutes'') GROUP BY 1, 2');
SELECT try('SELECT mill.window_start(at, ''1 day'', time_zone => ''Europe/Berlin'') AS day, count(*) FROM events GROUP BY 1');
SELECT try('SELECT mill.window_start(at, ''1 day'') AS day, count(*) FROM events GROUP BY 1');
SELECT try('SELECT mill.window_start(at, n * ''1 hour''::interval) AS hour, count(*) FROM events GROUP BY 1');
CREATE VIEW inner_view AS SELECT w.window_start AS minute, kind, count(*) AS n, count(x) AS nx, sum(n) AS total, avg(x) AS mean, sum(x::float8) AS f,
    sum(n) + 1 AS more, string_agg(kind, ',') AS list, count(DISTINCT n) AS different FROM events, mill.tumble(at, '1 minute') w GROUP BY 1, 2;
CREATE VIEW hopping AS SELECT window_start, count(*) AS n FROM events, mill.hop(at, '1 minute', '5 minutes') GROUP BY 1;
CREATE VIEW sessions AS SELECT s, count(*) AS n FROM (SELECT mill.session_start(at, '5 minutes') OVER (ORDER BY at) AS s FROM events) e GROUP BY s;
CREATE VIEW with_having AS SELECT kind, count(*) AS n FROM events GROUP BY kind HAVING count(*) > 1;
CREATE VIEW single AS SELECT count(*) AS n FROM events;
SELECT try('SELECT sum(n) FROM inner_view');
SELECT mill.materialize(v) FROM unnest('{inner_view,hopping,sessions,with_having,single}'::regclass[]) v;
SELECT try('SELECT kind, sum(n) AS n, sum(nx) AS x, sum(total) AS t FROM inner_view GROUP BY 1');
SELECT try('SELECT count(*) FROM inner_view');
SELECT try('SELECT avg(n) FROM inner_view');
SELECT try('SELECT avg(mean) FROM inner_view');
SELECT try('SELECT sum(mean) FROM inner_view');
SELECT try('SELECT sum(f) FROM inner_view');
SELECT try('SELECT sum(more) FROM inner_view');
SELECT try('SELECT sum(n + 1) FROM inner_view');
SELECT try('SELECT sum(different) FROM inner_view');
SELECT try('SELECT sum(DISTINCT n) FROM inner_view');
SELECT try('SELECT string_agg(list, '','') FROM inner_view');
SELECT try('SELECT string_agg(kind, '','') FROM inner_view');
SELECT try('SELECT n, count(DISTINCT kind) FROM inner_view GROUP BY 1');
SELECT try('SELECT sum(n) FROM inner_view WHERE n > 1');
SELECT try('SELECT sum(n) FILTER (WHERE total > 1) FROM inner_view');
SELECT try('SELECT count(i) FROM inner_view i');
SELECT try('SELECT sum(i.n) FROM kinds k LEFT JOIN inner_view i USING (kind)');
SELECT try('SELECT sum(n) FROM (SELECT * FROM inner_view) i');
SELECT try('SELECT sum(i.n) FROM inner_view i JOIN events e USING (kind)');
SELECT try('SELECT sum(a.n) FROM inner_view a JOIN inner_view b USING (kind, minute)');
SELECT try('SELECT window_start, sum(n) FROM inner_view, mill.tumble(minute, ''1 day'') GROUP BY 1');
SELECT try('SELECT date_trunc(''hour'', minute) AS hour, sum(n) FROM inner_view GROUP BY 1');
SELECT try('SELECT upper(k.label) AS label, sum(i.n) AS n FROM inner_view i JOIN kinds k USING (kind) GROUP BY 1');
SELECT try('SELECT sum(i.n) AS n FROM inner_view i LEFT JOIN kinds k USING (kind)');
SELECT try('SELECT sum(q.n) FROM (inner_view i JOIN kinds k ON k.kind = i.kind) AS q(a, b, n) ');
SELECT try('SELECT q.label, count(*) FROM (events e JOIN kinds k ON k.kind = e.kind) AS q(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, label) GROUP BY 1');
CREATE VIEW by_x AS SELECT x, kind, count(*) AS n FROM events GROUP BY 1, 2;
CREATE VIEW lookup AS SELECT window_start, k.label, count(*) AS n FROM (events e CROSS JOIN mill.tumble(e.at, '1 hour')) LEFT JOIN kinds k ON k.kind = e.kind GROUP BY 1, 2;
SELECT mill.materialize('by_x'), mill.materialize('lookup');
SELECT try('SELECT x, kind, max(x), sum(n) FILTER (WHERE x > 0 AND x IS NOT NULL) AS n FROM by_x WHERE x <> 7 GROUP BY 1, 2');
SELECT try('SELECT x::text AS t, sum(n) AS n FROM by_x GROUP BY 1');
SELECT try('SELECT sum(n) AS n FROM by_x WHERE scale(x) = 2');
SELECT try('SELECT upper(kind) AS k, sum(n) AS n FROM by_x GROUP BY 1');
SELECT try('SELECT label, sum(n) AS n FROM lookup GROUP BY 1');
SELECT try('SELECT window_start, sum(n) AS n FROM lookup GROUP BY 1');
DROP VIEW by_x, lookup;
SELECT try('SELECT sum(n) FROM hopping');
SELECT try('SELECT sum(n) FROM sessions');
SELECT try('SELECT sum(n) FROM with_having');
SELECT try('SELECT sum(n) FROM single');
DROP VIEW inner_view, hopping, sessions, with_having, single;

---- CASES 27: arguments ----

CREATE VIEW v AS SELECT kind, count(*) FROM events GROUP BY kind;
SELECT mill.materialize(NULL);
SELECT mill.materialize('v', backfill => NULL);
SELECT mill.materialize('v', with_indexes => NULL);
SELECT mill.materialize('v', fold_interval => NULL);
SELECT mill.materialize('v', fold_interval => '-1 second');
SELECT mill.materialize('v', fold_interval => '1 hour 1 microsecond');
SELECT mill.materialize('v', fold_interval => '1 month');
SELECT mill.materialize('v', unknown => true);
SELECT mill.dematerialize('v');
SELECT mill.fold('v');
SELECT mill.refresh('v');
SELECT * FROM mill.verify('v');
SELECT mill.replace_aggregate('v', 'v');
SELECT mill.fold('events');
SELECT mill.verify('events');
SELECT mill.materialize('v', fold_interval => '0');
SELECT mill.materialize('v');
SELECT mill.refresh('v', '2026-01-01 00:00+00'::timestamptz, '2026-01-02 00:00+00'::timestamptz);
SELECT mill.refresh('v', 1, 2);
ALTER VIEW v SET (security_invoker = on);
SELECT mill.dematerialize('v');
ALTER VIEW v SET (security_invoker = on);
SELECT mill.materialize('v');
ALTER VIEW v RESET (security_invoker);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT mill.materialize('v');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT mill.materialize('v');
ROLLBACK;

---- CASES 27: a live view's table is made unfit afterwards ----

SELECT mill.materialize('v', fold_interval => '1 hour');
ALTER TABLE events SET UNLOGGED;
CREATE TABLE heir () INHERITS (events);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT mill.fold('v');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT mill.refresh('v');
ROLLBACK;
CREATE TABLE whole (LIKE events) PARTITION BY LIST (kind);
-- by us, or by PostgreSQL's older minor versions
DO $$BEGIN ALTER TABLE whole ATTACH PARTITION events DEFAULT; EXCEPTION WHEN feature_not_supported OR object_not_in_prerequisite_state THEN RAISE WARNING 'refused'; END$$;
SELECT count(*) FROM mill.aggregates;

---- CASES 27: a view that reads the tables of another one's aggregate ----

CREATE ROLE refused_owner;
CREATE ROLE refused_group;
DO $$ BEGIN EXECUTE 'CREATE VIEW copy AS ' || pg_get_viewdef('v'); END $$;
ALTER VIEW copy OWNER TO refused_owner;
SELECT mill.materialize('copy');
CREATE VIEW of_state AS SELECT * FROM mill_data."v$state" WHERE mill.is_live('mill_data."v$state"');
SELECT mill.materialize('of_state');

---- CASES 27: an aggregate that cannot be live, or not now ----

CREATE VIEW w AS SELECT window_start, count(*) FROM parts, mill.tumble(at, '1 hour') GROUP BY 1;
SELECT mill.materialize('w', fold_interval => '1 hour');
ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
SELECT state, reason FROM mill.aggregates WHERE aggregate = 'w'::regclass;
SELECT mill.refresh('w', '2026-01-01 00:00+00'::timestamptz, '2026-01-02 00:00+00'::timestamptz);
SELECT mill.refresh('w');
SELECT mill.replace_aggregate('v', 'w');
-- its owner reads the table as a member of a role: no event trigger tells us of a REVOKE
CREATE TABLE theirs (k text);
GRANT USAGE ON SCHEMA refused TO refused_group;
GRANT SELECT, TRIGGER ON theirs TO refused_group;
GRANT refused_group TO refused_owner;
CREATE VIEW o AS SELECT k, count(*) FROM theirs GROUP BY k;
ALTER VIEW o OWNER TO refused_owner;
SELECT mill.materialize('o', fold_interval => '1 hour');
SELECT mill.replace_aggregate('v', 'o');
SELECT mill.replace_aggregate('v', 'v');
REVOKE refused_group FROM refused_owner;
SELECT mill.refresh('o');
INSERT INTO theirs VALUES ('a');
SELECT state, reason FROM mill.aggregates WHERE aggregate = 'o'::regclass;
SELECT mill.refresh('o');
ALTER TABLE theirs DISABLE TRIGGER ALL;
GRANT refused_group TO refused_owner;
SELECT mill.refresh('o');

DROP SERVER refused_nowhere CASCADE;
DROP SCHEMA refused CASCADE;
DROP ROLE refused_owner, refused_group;
SELECT count(*) FROM mill.aggregates;
