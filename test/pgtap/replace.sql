-- Room: job.
--
-- Writing that may be done again: mill.replace_interval and mill.upsert, against
-- what plain statements give.
SELECT plan(26);
CREATE TABLE src (at timestamptz, k int, v text);
INSERT INTO src SELECT '2026-01-01'::timestamptz + i * interval '1 hour', i % 5, 'v' || i FROM generate_series(0, 71) i;
CREATE TABLE day_sum (day timestamptz, k int, n bigint DEFAULT -1, note text DEFAULT 'new');

SELECT is(mill.replace_interval('day_sum', 'day', $$SELECT date_trunc('day', at) AS day, k, count(*) AS n FROM src WHERE at >= $1 AND at < $2 GROUP BY 1, 2$$, d, d + interval '1 day'),
    5::bigint, 'a day') FROM generate_series('2026-01-01'::timestamptz, '2026-01-03', '1 day') d;
SELECT results_eq('SELECT day, k, n, note FROM day_sum ORDER BY 1, 2',
    $$SELECT date_trunc('day', at), k, count(*), 'new'::text FROM src GROUP BY 1, 2 ORDER BY 1, 2$$, 'is what the plain query gives; columns that are not given have their default');
UPDATE day_sum SET note = 'old';
SELECT is(mill.replace_interval('day_sum', 'day', $$SELECT date_trunc('day', at) AS day, k, count(*) AS n FROM src WHERE at >= $1 AND at < $2 GROUP BY 1, 2$$, '2026-01-02', '2026-01-03'), 5::bigint, 'once more');
SELECT results_eq($$SELECT note, count(*) FROM day_sum GROUP BY 1 ORDER BY 1$$, $$VALUES ('new', 5::bigint), ('old', 10)$$, 'replaces that day alone');
SELECT is(mill.replace_interval('day_sum', 'day', 'SELECT $1 AS day, 0 AS k WHERE false -- a comment', '2026-01-02', '2026-01-03'), 0::bigint, 'nothing instead');
SELECT is((SELECT count(*) FROM day_sum), 10::bigint, 'is nothing');
SELECT throws_ok($$SELECT mill.replace_interval('day_sum', 'day', 'SELECT $2 AS day, 1 AS k', '2026-01-02', '2026-01-03')$$, '23514', '1 of 1 rows have a value of day outside of the interval', 'a row outside');
SELECT throws_ok($$SELECT mill.replace_interval('day_sum', 'day', 'SELECT NULL::timestamptz AS day', '2026-01-02', '2026-01-03')$$, '23514', NULL, 'a row nowhere');
SELECT throws_ok($$SELECT mill.replace_interval('day_sum', 'day', 'SELECT 1 AS k', '2026-01-02', '2026-01-03')$$, '42703', 'the query has no column day, by which the interval is replaced', 'no such column in the query');
SELECT throws_ok($$SELECT mill.replace_interval('day_sum', 'k"; DROP TABLE src; --', 'SELECT 1 AS k', '2026-01-02', '2026-01-03')$$, '42703', NULL, 'a name is a name');
SELECT throws_ok($$SELECT mill.replace_interval('day_sum', 'day', 'SELECT $1 AS day, 1 AS nope', '2026-01-02', '2026-01-03')$$, '42703', NULL, 'no such column in the table');
SELECT throws_ok($$SELECT mill.replace_interval('day_sum', 'day', 'DELETE FROM src', '2026-01-02', '2026-01-03')$$, '42601', NULL, 'no query');
SELECT throws_ok($$SELECT mill.replace_interval('day_sum', 'day', 'SELECT 1', '2026-01-02', '2026-01-02')$$, '22023', '"from" must be before "to"', 'an empty interval');
SELECT throws_ok($$SELECT mill.replace_interval('day_sum', 'day', NULL, '2026-01-02', '2026-01-03')$$, '22004', NULL, 'null');
SELECT is((SELECT count(*) FROM src), 72::bigint, 'nothing else happened');

CREATE TABLE last_v ("Key" int PRIMARY KEY, v text, seen int DEFAULT 7, UNIQUE (v));
SELECT is(mill.upsert('last_v', 'SELECT k AS "Key", v FROM src ORDER BY at'), 5::bigint, 'upsert');
SELECT results_eq('SELECT * FROM last_v ORDER BY 1', $$SELECT DISTINCT ON (k) k, v, 7 FROM src ORDER BY k, at DESC$$, 'of several rows the last');
SELECT is(mill.upsert('last_v', 'SELECT k AS "Key", v FROM src ORDER BY at'), 0::bigint, 'what would not change is left alone');
SELECT is(mill.upsert('last_v', $$SELECT * FROM (VALUES (0, 'x'), (9, 'y')) x ("Key", v)$$), 2::bigint, 'one changed, one new');
SELECT is((SELECT string_agg(concat_ws(' ', "Key", v, seen), ',' ORDER BY "Key") FROM last_v WHERE "Key" IN (0, 9)), '0 x 7,9 y 7', 'both');
SELECT is(mill.upsert('last_v', $$SELECT 12 AS "Key", 'y' AS v$$, '{v}'), 1::bigint, 'another key');
SELECT is(mill.upsert('last_v', 'SELECT k AS "Key", v FROM src WHERE at >= $1 AND at < $2', NULL, '2026-01-01', '2026-01-01 01:00'), 1::bigint, 'with an interval');
SELECT throws_ok($$SELECT mill.upsert('src', 'SELECT 1 AS k')$$, '22023', 'table "src" has no primary key', 'no key');
SELECT throws_ok($$SELECT mill.upsert('last_v', 'SELECT 1 AS v')$$, '42703', 'the query has no column "Key", which is a key', 'no such column');
SELECT * FROM finish();
