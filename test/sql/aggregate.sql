-- Continuous aggregates: the life of a view, from materialize to dematerialize, and who may do what.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
CREATE ROLE regress_mill_ann LOGIN;
CREATE ROLE regress_mill_bob;
CREATE ROLE regress_mill_feeder;
CREATE ROLE regress_mill_reader;
CREATE SCHEMA life;
GRANT USAGE ON SCHEMA life TO regress_mill_ann, regress_mill_bob, regress_mill_feeder, regress_mill_reader;
GRANT CREATE ON SCHEMA life TO regress_mill_ann, regress_mill_bob;
SET search_path = life;
SET timezone = 'UTC';
SET ROLE regress_mill_ann;
CREATE TABLE sales (product int, price numeric(8,2), n int, sold_at timestamptz);
GRANT INSERT ON sales TO regress_mill_feeder;
INSERT INTO sales VALUES (1, 9.50, 1, '2026-01-01 12:01+00'), (1, 9.50, 2, '2026-01-01 12:05+00'), (2, 3, 3, NULL);
CREATE VIEW v AS SELECT window_start, window_end, product, count(*) AS c, sum(price) AS revenue, max(n) AS highest, array_agg(n ORDER BY n) AS list
    FROM sales, mill.tumble(sold_at, '5 minutes') GROUP BY window_start, window_end, product;
COMMENT ON VIEW v IS 'what was sold';
COMMENT ON COLUMN v.revenue IS 'in all';
ALTER VIEW v ALTER COLUMN c SET DEFAULT 5;
GRANT SELECT ON v TO regress_mill_reader;
CREATE VIEW above AS SELECT product, sum(c) AS c FROM v GROUP BY product;
CREATE FUNCTION shape() RETURNS TABLE (name name, type text, comment text, has_default boolean, acl text) LANGUAGE sql AS $$
    SELECT attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum), atthasdef, NULL::text FROM pg_attribute
    WHERE attrelid = 'life.v'::regclass AND attnum > 0
    UNION ALL SELECT relname, relkind::text || ' of ' || relowner::regrole, obj_description(oid), NULL,
        replace(relacl::text, 'arwdDxtm', 'arwdDxt') FROM pg_class WHERE oid = 'life.v'::regclass   -- 17 adds MAINTAIN
$$;
SELECT * FROM shape();
CREATE TABLE before AS SELECT * FROM shape();
SELECT * FROM mill.explain_aggregate('v');

SELECT mill.materialize('v', fold_interval => '1 hour');
SELECT * FROM shape() EXCEPT ALL TABLE before;
TABLE before EXCEPT ALL SELECT * FROM shape();
SELECT aggregate, base_table, owner, state, warning, fold_interval, definition, state_table, delta_table FROM mill.aggregates;
SELECT * FROM mill.explain_aggregate('v');
TABLE v ORDER BY window_start;
TABLE above;
SELECT * FROM mill.verify('v');
INSERT INTO sales VALUES (2, 4, 4, '2026-01-01 12:06+00'), (1, 1, 5, '2026-01-01 12:04+00');
UPDATE sales SET price = price + 1 WHERE product = 2;
DELETE FROM sales WHERE n = 1;
TABLE v ORDER BY window_start, product;
TABLE above ORDER BY product;
SELECT mill.fold('v') >= 0 AS folded;
SELECT mill.fold('v');
SELECT delta_rows, oldest_delta, stale_groups FROM mill.aggregates;
TABLE v ORDER BY window_start, product;
SELECT mill.refresh('v');
SELECT mill.refresh('v', '2026-01-01 12:05+00'::timestamptz, '2026-01-01 12:10+00'::timestamptz);
SELECT mill.refresh('v', '2026-01-01 12:05+00'::timestamptz, NULL);
SELECT * FROM mill.verify('v');

---- who may ----

SET ROLE regress_mill_feeder;
INSERT INTO sales VALUES (3, 10, 10, '2026-01-01 12:00+00');
SELECT * FROM sales;
SELECT * FROM v;
SELECT * FROM mill_data."v$state";
INSERT INTO mill_data."v$delta" DEFAULT VALUES;
SELECT count(*) FROM mill.aggregates;
SET ROLE regress_mill_reader;
SELECT product, c, revenue FROM v WHERE product = 3;
SELECT * FROM sales;
SELECT * FROM mill_data."v$state";
SELECT mill.fold('v');
SELECT mill.refresh('v');
SELECT mill.refresh('v', '2026-01-01 12:05+00'::timestamptz, '2026-01-01 12:10+00'::timestamptz);
SELECT * FROM mill.verify('v');
SELECT mill.dematerialize('v');
SELECT mill.replace_aggregate('v', 'v');
SELECT mill.materialize('above');
SELECT count(*) FROM mill.aggregates;
SET ROLE regress_mill_bob;
CREATE VIEW of_bob AS SELECT product, count(*) AS c FROM sales GROUP BY product;
SELECT mill.materialize('of_bob');
SET ROLE regress_mill_ann;
GRANT SELECT ON sales TO regress_mill_bob;
SET ROLE regress_mill_bob;
SELECT mill.materialize('of_bob');
SET ROLE regress_mill_ann;
GRANT TRIGGER ON sales TO regress_mill_bob;
SET ROLE regress_mill_bob;
SELECT mill.materialize('of_bob', fold_interval => '1 hour');
SELECT * FROM of_bob ORDER BY product;
SELECT aggregate, owner FROM mill.aggregates;
SET ROLE regress_mill_feeder;
INSERT INTO sales VALUES (3, 10, 11, '2026-01-01 12:00+00');
RESET ROLE;
GRANT pg_read_all_stats TO regress_mill_reader;
SET ROLE regress_mill_reader;
SELECT aggregate, owner FROM mill.aggregates ORDER BY aggregate::text;
SET ROLE regress_mill_bob;
SELECT * FROM mill.verify('of_bob');
SELECT mill.dematerialize('of_bob');
DROP VIEW of_bob;

---- replace ----

SET ROLE regress_mill_ann;
CREATE VIEW new AS SELECT window_start, window_end, product, count(*) AS c, sum(price) AS revenue, max(n) AS highest, array_agg(n ORDER BY n) AS list
    FROM sales, mill.tumble(sold_at, '5 minutes') WHERE n <> 10 GROUP BY window_start, window_end, product;
SELECT mill.replace_aggregate('v', 'new');
SELECT mill.materialize('new', fold_interval => '1 hour');
SELECT mill.replace_aggregate('v', 'v');
SELECT mill.replace_aggregate('v', NULL);
SELECT mill.replace_aggregate('above', 'v');
INSERT INTO sales VALUES (3, 10, 12, '2026-01-01 12:00+00');
SELECT mill.replace_aggregate('v', 'new');
SELECT to_regclass('new');
INSERT INTO sales VALUES (3, 10, 10, '2026-01-01 12:00+00'), (3, 10, 13, '2026-01-01 12:00+00');
SELECT product, c, list FROM v WHERE product = 3;
SELECT * FROM above WHERE product = 3;
SELECT * FROM shape() EXCEPT ALL TABLE before;
TABLE before EXCEPT ALL SELECT * FROM shape();
SELECT * FROM mill.verify('v');
SELECT mill.fold('v') >= 0 AS folded;
SELECT * FROM mill.verify('v');
SELECT count(*) AS relations FROM pg_class WHERE relnamespace = 'mill_data'::regnamespace AND relkind <> 'i';
SELECT aggregate, state FROM mill.aggregates;
-- over another table
CREATE TABLE other (LIKE sales);
INSERT INTO other VALUES (9, 9, 9, '2026-01-01 12:00+00');
CREATE VIEW new AS SELECT window_start, window_end, product, count(*) AS c, sum(price) AS revenue, max(n) AS highest, array_agg(n ORDER BY n) AS list
    FROM other, mill.tumble(sold_at, '5 minutes') GROUP BY window_start, window_end, product;
SELECT mill.materialize('new', fold_interval => '1 hour');
SELECT mill.replace_aggregate('v', 'new');
INSERT INTO other VALUES (9, 9, 10, '2026-01-01 12:00+00');
SELECT product, c FROM v;
SELECT tgrelid::regclass, regexp_replace(tgname, '_\d+$', '') AS tgname FROM pg_trigger WHERE tgname LIKE 'mill%' ORDER BY 1, 2;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT mill.replace_aggregate('v', 'v');
ROLLBACK;

---- and plain again ----

SELECT mill.dematerialize('v');
SELECT product, c FROM v;
SELECT * FROM shape() EXCEPT ALL TABLE before;
TABLE before EXCEPT ALL SELECT * FROM shape();
SELECT pg_get_viewdef('v');
SELECT mill.dematerialize('v');
SELECT count(*) AS relations FROM pg_class WHERE relnamespace = 'mill_data'::regnamespace;
SELECT count(*) AS triggers FROM pg_trigger WHERE tgname LIKE 'mill%';
RESET ROLE;
DROP SCHEMA life CASCADE;
DROP ROLE regress_mill_ann, regress_mill_bob, regress_mill_feeder, regress_mill_reader;
