-- Windows: what is refused, and what the planner makes of them. Their arithmetic
-- is tested in test/pgtap/windows.sql.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
RESET client_min_messages;
CREATE SCHEMA windows;
SET search_path = windows;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET IntervalStyle = 'postgres';
CREATE TABLE clicks (user_id bigint, at timestamptz NOT NULL, local_at timestamp, n bigint, day date);
INSERT INTO clicks
SELECT g % 7, t, t, g, t::date FROM generate_series(1, 1000) g, LATERAL (SELECT timestamptz '2024-05-01 00:00+00' + g * interval '1 minute') x (t);
ANALYZE clicks;

SELECT window_start, window_end, count(*) FROM clicks, mill.tumble(at, '6 hours') GROUP BY window_start, window_end ORDER BY window_start;
SELECT window_start, window_end, count(*) FROM clicks, mill.hop(at, '6 hours', '12 hours') GROUP BY window_start, window_end ORDER BY window_start;
SELECT user_id, session_start, mill.session_end(at, '1 hour'), count(*)
FROM (SELECT user_id, at, mill.session_start(at, '1 hour') OVER (PARTITION BY user_id ORDER BY at) FROM clicks) s
GROUP BY user_id, session_start ORDER BY user_id LIMIT 2;

---- CASES 21: widths that are refused ----

SELECT * FROM mill.tumble(timestamptz '2024-05-01', '1 day 1 hour');
SELECT * FROM mill.tumble(timestamptz '2024-05-01', '1 month 1 day');
SELECT * FROM mill.tumble(timestamp '2024-05-01', '0');
SELECT * FROM mill.tumble(timestamp '2024-05-01', '-5 minutes');
SELECT * FROM mill.tumble(date '2024-05-01', '24 hours');
SELECT * FROM mill.tumble(date '2024-05-01', '1 month -1 day');
SELECT * FROM mill.tumble(5, 0);
SELECT * FROM mill.tumble(timestamptz '2024-05-01', NULL);
SELECT * FROM mill.hop(timestamptz '2024-05-01', '1 hour', '1 day');
SELECT * FROM mill.hop(timestamptz '2024-05-01', '7 days', '1 month');
SELECT * FROM mill.hop(timestamptz '2024-05-01', '0', '1 day');
SELECT * FROM mill.hop(timestamptz '2024-05-01', '-1 hour', '1 hour');
SELECT * FROM mill.hop(timestamptz '2024-05-01', NULL, '1 hour');
SELECT * FROM mill.hop(5, -1, 10);
-- also without a row in a window
SELECT mill.window_start(timestamptz '2024-05-01', '1 day 1 hour');
SELECT mill.window_end(date '2024-05-01', '1 hour');

---- origins and zones ----

SELECT * FROM mill.tumble(timestamp '2024-05-01', '1 month', '2000-01-29');
SELECT * FROM mill.tumble(date '2024-05-01', '1 year', '2000-01-31');
SELECT * FROM mill.tumble(timestamptz '2024-05-01', '1 hour', 'infinity');
SELECT * FROM mill.tumble(timestamptz '2024-05-01', '1 day', time_zone => 'Europe/Berln');
-- it would not matter to hours, but is wrong all the same
SELECT * FROM mill.tumble(timestamptz '2024-05-01', '1 hour', time_zone => 'Europe/Berln');

---- the ends of the world ----

SELECT * FROM mill.tumble(timestamptz '294276-12-31 23:59+00', '1 hour');
SELECT * FROM mill.tumble(timestamp '294276-12-31 23:59', '1 month');
SELECT * FROM mill.tumble(timestamptz '4714-11-24 00:00+00 BC', '7 hours');
SELECT * FROM mill.tumble(timestamptz '294276-12-31 23:59+00', '1 day', time_zone => 'America/New_York');
SELECT * FROM mill.tumble(date '5874897-12-31', '1 day');
SELECT * FROM mill.tumble(date '4714-11-24 BC', '1 year');
SELECT * FROM mill.tumble(timestamp '2024-05-01', '178000000 years');
SELECT * FROM mill.tumble(timestamp '2024-05-01', '2000000000 days');
SELECT * FROM mill.tumble(9223372036854775807, 10);
SELECT * FROM mill.hop(9223372036854775807, 1, 2);
SELECT mill.session_end(x, 10) FROM unnest('{9223372036854775800}'::bigint[]) x;
SELECT mill.session_end(x, '1 hour') FROM unnest('{294276-12-31 23:59}'::timestamp[]) x;

---- sessions ----

SELECT mill.session_start(at, '1 month') OVER (ORDER BY at) FROM clicks;
SELECT mill.session_start(at, '0') OVER (ORDER BY at) FROM clicks;
SELECT mill.session_start(at, NULL) OVER (ORDER BY at) FROM clicks;
SELECT mill.session_start(at, '-1 hour') OVER (ORDER BY at DESC) FROM clicks;
SELECT mill.session_start(at, '1 hour') OVER (ORDER BY at DESC) FROM clicks;
SELECT mill.session_start(n, 1) OVER (PARTITION BY user_id ORDER BY n DESC) FROM clicks;
SELECT mill.session_start(n, 0) OVER (ORDER BY n) FROM clicks;
SELECT mill.session_start(day, '36 hours') OVER (ORDER BY day) FROM clicks;
SELECT mill.session_end(at, '1 month') FROM clicks;
SELECT mill.session_end(at, NULL) FROM clicks;
SELECT mill.session_start(at, '1 hour') FROM clicks;

---- the planner ----

-- inlined: no function scan, and hours take a cheaper form. Versions differ in what else the plan has.
CREATE FUNCTION calls(query text) RETURNS TABLE (function_scans bigint, functions text) LANGUAGE plpgsql AS $$
DECLARE
    line text;
    plan text := '';
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (verbose, costs off) ' || query LOOP
        plan := plan || line || E'\n';
    END LOOP;
    RETURN QUERY SELECT (SELECT count(*) FROM regexp_matches(plan, 'Function Scan', 'g')),
                        (SELECT string_agg(DISTINCT m[1], ', ' ORDER BY m[1]) FROM regexp_matches(plan, '(mill\w*\.\w+)', 'g') m);
END
$$;
SELECT q, c.* FROM unnest(ARRAY[
    $$mill.tumble(at, '5 minutes')$$, $$mill.tumble(at, '5 minutes', '2024-01-01 00:01+00', 'UTC')$$,
    $$mill.tumble(local_at, '1 hour', '2024-01-01 00:10')$$, $$mill.tumble(n, 100)$$, $$mill.tumble(n, user_id + 1)$$,
    $$mill.tumble(at, '1 day', time_zone => 'Europe/Berlin')$$, $$mill.tumble(local_at, '1 day')$$, $$mill.tumble(day, '1 month')$$,
    $$mill.hop(at, '5 minutes', '10 minutes')$$]) q, calls('SELECT window_start, window_end, count(*) FROM clicks, ' || q || ' GROUP BY 1, 2') c;
-- a start determines its end, which need not be grouped by; the same rows as where the planner does not see it
CREATE FUNCTION groups_by_ends(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (verbose, costs off) ' || query LOOP
        IF line ~ '(Group|Hash) Key:' AND line ~ '(_end|user_id \+ 1)' THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;
CREATE FUNCTION differences(query text, other text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM ((SELECT x::text FROM (%1$s) x EXCEPT ALL SELECT x::text FROM (%2$s) x) UNION ALL'
        ' (SELECT x::text FROM (%2$s) x EXCEPT ALL SELECT x::text FROM (%1$s) x)) d', query, other) INTO found;
    RETURN found;
END
$$;
SELECT what, groups_by_ends(query) AS ends, differences(query, hidden) AS differ
FROM (VALUES
    ('hours', 'clicks, mill.tumble(at, ''1 hour'')', 'SELECT window_start, window_end, count(*) FROM % GROUP BY 1, 2'),
    ('a key, ends first', 'clicks, mill.tumble(at, ''1 hour'')', 'SELECT user_id, window_end, window_start, sum(n) FROM % GROUP BY 2, 1, 3'),
    ('days in a zone', 'clicks, mill.tumble(at, ''1 day'', time_zone => ''Europe/Berlin'')', 'SELECT window_start, window_end, count(*) FROM % GROUP BY 1, 2'),
    ('dates', 'clicks, mill.tumble(day, ''1 month'')', 'SELECT window_start, window_end, count(*) FROM % GROUP BY 1, 2'),
    ('numbers', 'clicks, mill.tumble(n, 10)', 'SELECT window_start, window_end, count(*) FROM % GROUP BY 1, 2'),
    ('in other places', 'clicks, mill.tumble(at, ''1 hour'')', 'SELECT max(n) + 1, window_end - window_start, rank() OVER (ORDER BY window_end) FROM % GROUP BY window_start, window_end HAVING count(*) > 0 AND window_end > ''2000-01-01'' ORDER BY window_end DESC'),
    ('distinct', 'clicks, mill.tumble(at, ''1 hour'')', 'SELECT DISTINCT window_end FROM % GROUP BY window_start, window_end'),
    ('without aggregates', 'clicks, mill.tumble(at, ''1 hour'')', 'SELECT window_start, window_end FROM % GROUP BY 1, 2'),
    ('in a query inside', 'clicks, mill.tumble(at, ''1 hour'')', 'WITH g AS MATERIALIZED (SELECT window_start, window_end, count(*) AS c FROM % GROUP BY 1, 2) SELECT count(*), (SELECT max(c) FROM (SELECT window_start, window_end, count(*) AS c FROM % GROUP BY 1, 2) h), (SELECT sum(c) FROM g) FROM g'),
    ('rows without a window', 'clicks LEFT JOIN mill.tumble(at, ''1 hour'') ON user_id = 1', 'SELECT window_start, window_end, count(*) FROM % GROUP BY 1, 2'),
    ('two tumbles', 'clicks, mill.tumble(at, ''1 hour'') a, mill.tumble(at, ''1 day'', time_zone => ''UTC'') b', 'SELECT a.window_start, a.window_end, b.window_end, count(*) FROM % GROUP BY 1, 2, 3'),
    ('named arguments', 'clicks, mill.tumble(size => ''1 hour'', ts => at)', 'SELECT window_start, window_end, count(*) FROM % GROUP BY 1, 2'),
    ('widths of rows', 'clicks, mill.tumble(n, user_id + 1)', 'SELECT window_start, window_end, count(*) FROM % GROUP BY 1, 2'),
    ('widths of rows, named', 'clicks, mill.tumble(size => user_id + 1, ts => 7)', 'SELECT window_start, window_end, count(*) FROM % GROUP BY 1, 2'),
    ('the end alone', 'clicks, mill.tumble(at, ''1 hour'')', 'SELECT window_end, count(*) FROM % GROUP BY 1'),
    ('grouping sets', 'clicks, mill.tumble(at, ''1 hour'')', 'SELECT window_start, window_end, count(*) FROM % GROUP BY ROLLUP (1, 2)'),
    ('hops', 'clicks, mill.hop(at, ''1 hour'', ''2 hours'')', 'SELECT window_start, window_end, count(*) FROM % GROUP BY 1, 2')) c(what, source, template),
    LATERAL (SELECT replace(template, '%', source) AS query,
        CASE what WHEN 'two tumbles'
            THEN 'SELECT s, e, f, count(*) FROM (SELECT a.window_start AS s, a.window_end AS e, b.window_end AS f FROM ' || source || ' OFFSET 0) r GROUP BY 1, 2, 3'
            ELSE replace(template, '%', '(SELECT * FROM ' || source || ' OFFSET 0) r') END AS hidden) q;
-- for everybody
CREATE ROLE regress_mill_nobody;
GRANT USAGE ON SCHEMA windows TO regress_mill_nobody;
SET ROLE regress_mill_nobody;
SELECT w.* FROM mill.tumble(timestamp '2024-05-01 12:34', '1 hour') w;
SELECT c.functions FROM windows.calls('SELECT * FROM unnest(''{2024-05-01}''::timestamp[]) at, mill.tumble(at, ''1 hour'')') c;
RESET ROLE;
DROP OWNED BY regress_mill_nobody;
DROP ROLE regress_mill_nobody;
-- not inlined: the time is volatile
SELECT window_start <= clock_timestamp() AS started, window_end > statement_timestamp() AS not_ended FROM mill.tumble(clock_timestamp(), '1 hour');
-- hours do not depend on the session's zone, days do
CREATE INDEX ON clicks (mill.window_start(at, '1 hour'));
CREATE INDEX ON clicks (mill.window_start(at, '1 day'));
-- rows: as many as slides begin in a size
CREATE FUNCTION estimate(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN ' || query LOOP
        RETURN substring(line, 'rows=[0-9]+');
    END LOOP;
END
$$;
SELECT q, estimate('SELECT * FROM ' || q) FROM unnest(ARRAY[
    $$mill.hop(now(), '5 minutes', '12 minutes')$$, $$mill.hop(now(), '1 day', '7 days')$$,
    $$mill.hop(date '2024-05-01', '3 months', '1 year')$$, $$mill.hop(5, 10, 95)$$, $$mill.hop(5, 10, 5)$$,
    $$mill.hop(now(), '1 day', '48 hours')$$, $$clicks, mill.hop(at, make_interval(mins => n::int), '1 hour')$$,
    $$clicks, mill.hop(at, '5 minutes', '1 hour')$$, $$clicks, mill.tumble(at, '5 minutes')$$,
    $$clicks, mill.tumble(n, 10)$$]) q;

SET client_min_messages = warning;
DROP SCHEMA windows CASCADE;
