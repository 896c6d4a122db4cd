-- Room: aggregate.
--
-- Direct capture writes the same deltas, to the letter, as the statements that it
-- stands for; and where it cannot, the statements do it.
SELECT plan(167);
SET client_min_messages = warning;
SELECT random() AS seed \gset
SELECT setseed(:seed);
SELECT diag('seed ' || :seed);
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE DOMAIN small AS int CHECK (VALUE < 1000);
CREATE FUNCTION doubled(int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1 * 2';
CREATE FUNCTION checked(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END';
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, COMBINEFUNC = int4pl, INITCOND = 0);
CREATE TABLE lookup (k int, label text);
INSERT INTO lookup SELECT i, 'l' || i % 2 FROM generate_series(0, 9) i;

-- Two tables that get the same rows, one for each way.
CREATE TABLE e1 (gone int, id int, at timestamptz, k int, t text, x numeric, f float8, b boolean, m mood, s small, iv interval) PARTITION BY LIST (k);
ALTER TABLE e1 DROP COLUMN gone;
CREATE TABLE e1_a PARTITION OF e1 FOR VALUES IN (0, 1, 2, NULL);
CREATE TABLE e1_b (iv interval, id int, at timestamptz, k int, t text, x numeric, f float8, b boolean, m mood, s small);
ALTER TABLE e1 ATTACH PARTITION e1_b DEFAULT;
CREATE TABLE e2 (LIKE e1) PARTITION BY LIST (k);
CREATE TABLE e2_a PARTITION OF e2 FOR VALUES IN (0, 1, 2, NULL);
CREATE TABLE e2_b PARTITION OF e2 DEFAULT;

CREATE TABLE queries (name text, query text, direct boolean);
INSERT INTO queries VALUES
('counts', 'SELECT k, t, count(*) AS c, count(x), sum(k) AS sk, avg(k) AS ak FROM %s GROUP BY k, t', true),
('numerics', 'SELECT k, sum(x) AS s, avg(x) AS a, stddev(x) AS sd FROM %s GROUP BY k', true),
('filters', 'SELECT b, count(*) FILTER (WHERE k > 2) AS c, sum(iv) FILTER (WHERE b) AS s FROM %s WHERE k <> 5 GROUP BY b', true),
-- of equal numerics max takes any, 1.0 or 1.000, by the order of rows: this one has none
('extremes', 'SELECT k, min(t) AS a, max(f) AS b, bool_and(b) AS c, max(m) AS d FROM %s GROUP BY k', true),
('booleans', 'SELECT k, bool_and(b) AS a, bool_or(b) AS o, every(b) FILTER (WHERE k > 2) AS e FROM %s GROUP BY k', true),
('floats', 'SELECT t, sum(f) AS s, avg(f) AS a, corr(f, k) AS c FROM %s GROUP BY t', true),
('again', 'SELECT k, count(DISTINCT t) AS c, string_agg(t, '','' ORDER BY id) AS l FROM %s GROUP BY k', true),
('enums', 'SELECT m, count(*) FROM %s GROUP BY m', true),
('none', 'SELECT count(*), max(id) FROM %s', true),
('tumbled', 'SELECT window_start, t, count(*), sum(x) AS s FROM %s, mill.tumble(at, ''1 hour'') GROUP BY window_start, t', true),
('days', 'SELECT window_start, count(*) FROM %s, mill.tumble(at, ''1 month'', time_zone => ''Europe/Berlin'') GROUP BY window_start', true),
('hopped', 'SELECT window_start, k, count(*), avg(x) AS a FROM %s, mill.hop(at, ''5 minutes'', ''1 hour'') GROUP BY window_start, k', true),
('sessions', 'SELECT k, session_start, count(*), sum(x) AS s FROM (SELECT k, x, mill.session_start(at, ''1 hour'') OVER (PARTITION BY k ORDER BY at) FROM %s) e GROUP BY k, session_start', true),
('numeric keys', 'SELECT x, count(*) FROM %s GROUP BY x', true),
('joined', 'SELECT label, count(*) FROM %s e JOIN lookup l ON l.k = e.k GROUP BY label', false),
('inlined', 'SELECT doubled(k) AS d, count(*) FROM %s GROUP BY doubled(k)', false),
('called', 'SELECT checked(k) AS d, count(*) FROM %s GROUP BY checked(k)', false),
('own aggregate', 'SELECT t, total(k) AS s FROM %s GROUP BY t', false),
('domains', 'SELECT s, count(*) FROM %s GROUP BY s', false);

DO $$
DECLARE q record;
BEGIN
    FOR q IN SELECT * FROM queries, unnest('{e1,e2}'::text[]) t LOOP
        EXECUTE format('CREATE VIEW %I AS ' || q.query, q.t || ' ' || q.name, q.t);
        PERFORM mill.materialize(quote_ident(q.t || ' ' || q.name)::regclass, fold_interval => '1 hour');
    END LOOP;
END $$;
SELECT is((SELECT count(*) FROM mill.aggregates WHERE state = 'live'), (SELECT 2 * count(*) FROM queries), 'all are live');

-- The statements; %s is the table.
CREATE TABLE writes (n serial, sql text);
INSERT INTO writes (sql) VALUES
('INSERT INTO %s SELECT * FROM fresh WHERE id = 1'),
('INSERT INTO %s SELECT * FROM fresh WHERE id > 1'),
('UPDATE %s SET x = x + 0.125, t = upper(t), k = (k + 1) %% 7 WHERE id %% 3 = 0'),
('UPDATE %s SET t = t'),
('UPDATE %s SET x = 1.000, iv = ''30 days'' WHERE x = 1.0'),
('DELETE FROM %s WHERE id %% 5 = 0'),
('DELETE FROM %s WHERE false');
CREATE TABLE fresh AS
SELECT i AS id, '2026-03-28'::timestamptz + random() * interval '3 days' AS at, nullif((random() * 6)::int, 6) AS k, chr(97 + (random() * 5)::int) AS t,
       CASE WHEN i % 50 = 0 THEN 'NaN' WHEN i % 51 = 0 THEN 'Infinity' WHEN i % 52 = 0 THEN '-Infinity' WHEN i % 7 = 0 THEN 1.0 ELSE round((random() * 100)::numeric, i % 4) END AS x,
       random() AS f, random() < 0.5 AS b, (CASE WHEN random() < 0.5 THEN 'sad' ELSE 'glad' END)::mood AS m, (random() * 5)::int::small AS s,
       CASE WHEN i % 3 = 0 THEN interval '1 month' WHEN i % 3 = 1 THEN '3 hours' END AS iv
FROM generate_series(1, 500) i;

-- All deltas of a view without the moment when they were written.
CREATE FUNCTION deltas(view text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT (to_jsonb(whole) - ''written_at'')::text FROM %s whole', (SELECT delta_table FROM mill.aggregates WHERE aggregate = quote_ident(view)::regclass));
END $$;
CREATE TABLE seen (n int, name text, deltas bigint, more bigint, less bigint);
DO $$
DECLARE w record;
BEGIN
    FOR w IN SELECT * FROM writes ORDER BY n LOOP
        PERFORM set_config('mill.capture_path', 'any', true);
        EXECUTE format(w.sql, 'e1');
        PERFORM set_config('mill.capture_path', 'statement', true);
        EXECUTE format(w.sql, 'e2');
        INSERT INTO seen SELECT w.n, q.name, x.* FROM queries q,
            LATERAL (SELECT count(*) AS deltas, (SELECT count(*) FROM (SELECT deltas('e1 ' || q.name) EXCEPT ALL SELECT deltas('e2 ' || q.name)) y) AS more,
                     (SELECT count(*) FROM (SELECT deltas('e2 ' || q.name) EXCEPT ALL SELECT deltas('e1 ' || q.name)) y) AS less FROM deltas('e1 ' || q.name)) x;
    END LOOP;
END $$;
SELECT is((SELECT ARRAY[more, less] FROM seen s WHERE s.name = q.name AND s.n = w.n), ARRAY[0::bigint, 0], q.name || ': ' || w.sql) FROM queries q, writes w ORDER BY w.n, q.name;
SELECT ok((SELECT min(deltas) > 1 AND max(deltas) > 100 FROM seen WHERE n = 7), 'and there was something to compare');

-- Which of them go which way: on a table with one view.
CREATE FUNCTION goes_directly(q text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE IF EXISTS e3 CASCADE;
    CREATE TABLE e3 (LIKE e1);
    EXECUTE format('CREATE VIEW v3 AS ' || q, 'e3');
    PERFORM mill.materialize('v3', fold_interval => '1 hour');
    PERFORM set_config('mill.capture_path', 'direct', true);
    INSERT INTO e3 SELECT * FROM fresh;
    UPDATE e3 SET t = upper(t), k = 3, x = 1;
    DELETE FROM e3;
    RETURN true;
EXCEPTION WHEN internal_error THEN
    RETURN false;
END $$;
SELECT is(goes_directly(query), direct, name || CASE WHEN direct THEN ' goes directly' ELSE ' does not go directly' END) FROM queries ORDER BY name;

-- What its owner may do to the delta table.
RESET mill.capture_path;
CREATE TABLE e4 (k int);
CREATE VIEW v4 AS SELECT k, count(*) AS c FROM e4 GROUP BY k;
SELECT mill.materialize('v4', fold_interval => '1 hour');
INSERT INTO e4 VALUES (1);
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''told of %'', new.k; END';
CREATE TRIGGER tell BEFORE INSERT ON mill_data."v4$delta" FOR EACH ROW EXECUTE FUNCTION told();
SELECT throws_ok('INSERT INTO e4 VALUES (2)', 'P0001', 'told of 2', 'a trigger of the delta table fires');
DROP TRIGGER tell ON mill_data."v4$delta";
ALTER TABLE mill_data."v4$delta" ADD CHECK (k < 5);
SELECT throws_ok('INSERT INTO e4 VALUES (7)', '23514', NULL, 'a condition holds');
ALTER TABLE mill_data."v4$delta" ADD note text DEFAULT 'mine';
-- in one transaction: a worker that has just started folds at once
BEGIN;
SELECT lives_ok('INSERT INTO e4 VALUES (3)', 'a new column');
SELECT is((SELECT note FROM mill_data."v4$delta" WHERE k = 3), 'mine', 'has its default');
COMMIT;
CREATE INDEX ON mill_data."v4$delta" (k);
BEGIN;
INSERT INTO e4 VALUES (4);
SET LOCAL enable_seqscan = off;
SELECT is((SELECT count(*) FROM mill_data."v4$delta" WHERE k = 4), 1::bigint, 'an index is kept');
COMMIT;
ALTER TABLE e4 ADD x int DEFAULT 3;
INSERT INTO e4 VALUES (3, 3), (4, 3);
SELECT set_eq('TABLE v4', 'SELECT k, count(*) FROM e4 GROUP BY k', 'and all is right');

-- An error in the middle leaves nothing behind, and the next statement works.
CREATE TABLE e5 (k int, x int);
CREATE VIEW v5 AS SELECT k, sum(100 / x) AS s FROM e5 GROUP BY k;
SELECT mill.materialize('v5', fold_interval => '1 hour');
SET mill.capture_path = 'direct';
SELECT lives_ok('INSERT INTO e5 SELECT i % 3, i FROM generate_series(1, 300) i', 'rows');
SELECT throws_ok('INSERT INTO e5 SELECT i % 300, 200 - i FROM generate_series(1, 300) i', '22012', NULL, 'rows of which one fails');
SELECT lives_ok('INSERT INTO e5 SELECT i % 3, i FROM generate_series(1, 300) i', 'rows again');
SELECT set_eq('TABLE v5', 'SELECT k, sum(100 / x) FROM e5 GROUP BY k', 'nothing of it is left');
-- groups for which memory does not suffice
SET work_mem = '64kB';
SELECT lives_ok('INSERT INTO e5 SELECT i, i FROM generate_series(1, 50000) i', 'many groups');
SELECT lives_ok('INSERT INTO e5 SELECT i, i FROM generate_series(1, 50000) i', 'and once more');
SELECT set_eq('TABLE v5', 'SELECT k, sum(100 / x) FROM e5 GROUP BY k', 'are all there');
SELECT * FROM finish();
