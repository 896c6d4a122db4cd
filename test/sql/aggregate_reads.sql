-- Continuous aggregates: conditions of readers reach the state and the deltas, and use the indexes of the state.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
CREATE SCHEMA reads;
SET search_path = reads;
SET datestyle = ISO;
CREATE TABLE events (k int, n int, at timestamp);
INSERT INTO events SELECT i % 100, i, '2026-01-01'::timestamp + i * interval '1 minute' FROM generate_series(1, 20000) i;
CREATE VIEW v AS SELECT window_start, k, count(*) AS c, sum(n) AS s FROM events, mill.tumble(at, '1 hour') GROUP BY window_start, k;
SELECT mill.materialize('v', fold_interval => '1 hour');
ANALYZE mill_data."v$state";
SET enable_seqscan = off;
SET enable_bitmapscan = off;
-- Each relation in the plan: is an index used, and does the condition stand at a scan of it?
CREATE FUNCTION scans(query text) RETURNS TABLE (relation text, indexed boolean, conditions bigint) LANGUAGE plpgsql AS $$
DECLARE plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json, COSTS off) ' || query INTO plan;
    RETURN QUERY SELECT p ->> 'Relation Name', bool_or(p ? 'Index Cond'), count(*) FILTER (WHERE concat(p ->> 'Index Cond', p ->> 'Filter') LIKE '%2026-01-05%' OR concat(p ->> 'Index Cond', p ->> 'Filter') LIKE '%42%')
        FROM jsonb_path_query(plan, 'strict $.**') p WHERE jsonb_typeof(p) = 'object' AND p ? 'Relation Name' GROUP BY 1 ORDER BY 1;
END $$;
-- a window, a key, both
SELECT relation, indexed, conditions > 0 AS pushed FROM scans('SELECT * FROM v WHERE window_start = ''2026-01-05 10:00''');
SELECT relation, indexed, conditions > 0 AS pushed FROM scans('SELECT * FROM v WHERE k = 42');
SELECT relation, indexed, conditions > 0 AS pushed FROM scans('SELECT * FROM v WHERE k = 42 AND window_start >= ''2026-01-05 10:00''');
INSERT INTO events VALUES (42, 1, '2026-01-05 10:30'), (43, 1, '2026-01-05 10:30');
SELECT * FROM v WHERE k = 42 AND window_start = '2026-01-05 10:00';
SELECT count(*) FROM v WHERE window_start = '2026-01-05 10:00';
SELECT * FROM mill.verify('v');
-- F7: however many deltas wait, and whatever the planner thinks of its memory, a read compares hashes and not each group with each delta
RESET enable_seqscan;
RESET enable_bitmapscan;
CREATE TABLE many (k int, v int);
CREATE VIEW m AS SELECT k, count(*) AS c, sum(v) AS s FROM many GROUP BY k;
SELECT mill.materialize('m', fold_interval => '1 hour');
-- not committed: nobody folds it
BEGIN;
INSERT INTO many SELECT i, i FROM generate_series(1, 300000) i;
ANALYZE mill_data."m$delta";
SET work_mem = '64kB';
CREATE FUNCTION subplans(query text) RETURNS TABLE (hashed boolean, repeated boolean) LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
    hashed := false;
    repeated := false;
    FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP
        hashed := hashed OR line ~ 'NOT .*hashed SubPlan';
        repeated := repeated OR line ~ 'NOT \(SubPlan';
    END LOOP;
    RETURN NEXT;
END $$;
SELECT * FROM subplans('SELECT * FROM m');
SET statement_timeout = '60s';
SELECT count(*), sum(s) FROM m;
RESET work_mem;
-- so much waits that the plain query is faster: it is what is read, but not by mill.verify
SELECT mill.is_live('mill_data."m$state"');
UPDATE mill_data."m$delta" SET row_count = row_count - 2 WHERE k = 5;
SELECT * FROM m WHERE k = 5;
SELECT * FROM mill.verify('m');
UPDATE mill_data."m$delta" SET row_count = row_count + 2 WHERE k = 5;
SELECT * FROM mill.verify('m');
COMMIT;
SELECT mill.fold('m') >= 0 AS folded;
VACUUM mill_data."m$delta";
SELECT mill.is_live('mill_data."m$state"');
SELECT count(*), sum(s) FROM m;
---- what verify finds besides, and the user's own query ----
ALTER TABLE many DISABLE TRIGGER ALL;
SELECT * FROM mill.verify('m');
ALTER TABLE many ENABLE TRIGGER ALL;
CREATE VIEW same AS SELECT k, count(*) AS c, sum(v) AS s FROM many GROUP BY k;
SELECT mill.definition('m') = pg_get_viewdef('same'::regclass, true) AS same;
SELECT mill.definition('pg_user') = pg_get_viewdef('pg_user'::regclass, true) AS same;
SELECT mill.definition('many');
---- a fold takes 20,000 deltas at a time, in the order in which they lie: removed rows may come before those that were added ----
CREATE TABLE split (k int, v int);
CREATE VIEW s1 AS SELECT k, count(*) AS c, sum(v) AS s FROM split GROUP BY k;
CREATE VIEW s2 AS SELECT k, count(*) AS c, max(v) AS m FROM split GROUP BY k;
SELECT mill.materialize(v::regclass, fold_interval => '1 hour') FROM unnest('{s1,s2}'::text[]) v;
INSERT INTO split VALUES (1, 10);
SELECT mill.fold('s1') >= 0 AS one, mill.fold('s2') >= 0 AS other;
-- in one transaction, or the worker would fill them anew
BEGIN;
ALTER TABLE split DISABLE TRIGGER ALL;
INSERT INTO split SELECT 2, 1 FROM generate_series(1, 20000);
ALTER TABLE split ENABLE TRIGGER ALL;
UPDATE mill_catalog.aggregate SET resting = NULL, live = true WHERE view IN ('s1'::regclass, 's2'::regclass);
COMMIT;
INSERT INTO mill_data."s1$delta" (k, row_count, sum_1, count_2) SELECT CASE WHEN i IN (0, 20001) THEN 1 ELSE 2 END, CASE i WHEN 0 THEN -1 ELSE 1 END, CASE i WHEN 0 THEN -5 WHEN 20001 THEN 5 ELSE 1 END, CASE i WHEN 0 THEN -1 ELSE 1 END FROM generate_series(0, 20001) i ORDER BY i;
INSERT INTO mill_data."s2$delta" (k, row_count, max_1, removed) SELECT CASE WHEN i IN (0, 20001) THEN 1 ELSE 2 END, CASE i WHEN 0 THEN -1 ELSE 1 END, CASE WHEN i IN (0, 20001) THEN 5 ELSE 1 END, i = 0 FROM generate_series(0, 20001) i ORDER BY i;
SELECT mill.verify(v::regclass) FROM unnest('{s1,s2}'::text[]) v;
SELECT mill.fold('s1') >= 0 AS one, mill.fold('s2') >= 0 AS other;
SELECT * FROM s1 ORDER BY k;
SELECT * FROM s2 ORDER BY k;
SELECT mill.verify(v::regclass) FROM unnest('{s1,s2}'::text[]) v;
-- and one that nobody folds says so
BEGIN;
INSERT INTO split VALUES (1, 1);
UPDATE mill_data."s1$delta" SET written_at = now() - interval '11 hours';
SELECT regexp_replace(warning, 'since .*:', 'since ...:') AS warning FROM mill.aggregates WHERE aggregate = 's1'::regclass;
ROLLBACK;
---- the index that a view wants ----
SET client_min_messages = notice;
CREATE TABLE bare (k int, "Odd name" int, v int, at timestamptz);
CREATE VIEW b1 AS SELECT k, max(v) AS m FROM bare GROUP BY k;
CREATE VIEW b2 AS SELECT window_start, "Odd name", array_agg(v ORDER BY v) AS a FROM bare, mill.tumble(at, '1 hour') GROUP BY window_start, "Odd name";
CREATE VIEW b3 AS SELECT who, s, count(*) AS c FROM (SELECT k AS who, mill.session_start(at, '1 hour') OVER (PARTITION BY k ORDER BY at) AS s FROM bare) x GROUP BY who, s;
CREATE VIEW b4 AS SELECT k % 3 AS k3, max(v) AS m FROM bare GROUP BY k % 3;
CREATE VIEW b5 AS SELECT k, sum(v) AS s FROM bare GROUP BY k;
SELECT mill.materialize(v::regclass) FROM unnest('{b1,b2,b3,b4,b5}'::text[]) v;
CREATE INDEX ON bare (k);
CREATE VIEW b6 AS SELECT k, max(v) AS m FROM bare GROUP BY k;
SELECT mill.materialize('b6');
SET client_min_messages = warning;
DROP SCHEMA reads CASCADE;
