-- Streams: options, and what can be said of a scan without a broker.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
DROP SERVER IF EXISTS stream_options CASCADE;
RESET client_min_messages;
-- without options, the client library has nothing to check
CREATE SERVER stream_options FOREIGN DATA WRAPPER kafka;
CREATE USER MAPPING FOR CURRENT_USER SERVER stream_options;

-- table options
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topik 'x');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', max_mesage_bytes '1');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', zzzzzzzzzzzz '1');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options;
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic '');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'user clicks');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic '..');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', format 'JSON');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', on_error 'ignore');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', tombstone 'delete');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', max_message_bytes '0');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', max_message_bytes '101MB');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', max_message_bytes 'many');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', delimiter ';');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', format 'raw', "null" '');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', format 'csv', delimiter ';;');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', format 'csv', delimiter '"');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', format 'text', delimiter 'n');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', format 'csv', delimiter ';', "null" 'a;');
CREATE FOREIGN TABLE bad (a int) SERVER stream_options OPTIONS (topic 'x', format 'csv', "null" E'a\n');

-- column options
CREATE FOREIGN TABLE bad (a int OPTIONS (fild 'x')) SERVER stream_options OPTIONS (topic 'x');
CREATE FOREIGN TABLE bad (a int OPTIONS (metadata 'offsets')) SERVER stream_options OPTIONS (topic 'x');
CREATE FOREIGN TABLE bad (a int OPTIONS (metadata 'offset', field 'a')) SERVER stream_options OPTIONS (topic 'x');
CREATE FOREIGN TABLE bad (a int OPTIONS (field '')) SERVER stream_options OPTIONS (topic 'x');
CREATE FOREIGN TABLE bad (a int OPTIONS (field 'a..b')) SERVER stream_options OPTIONS (topic 'x');
CREATE FOREIGN TABLE bad (a int OPTIONS (field 'a[x]')) SERVER stream_options OPTIONS (topic 'x');
CREATE FOREIGN TABLE bad (a int OPTIONS (field 'a[0')) SERVER stream_options OPTIONS (topic 'x');
CREATE FOREIGN TABLE bad (a int OPTIONS (field 'a.b[1]c')) SERVER stream_options OPTIONS (topic 'x');

-- accepted
CREATE FOREIGN TABLE clicks (
    user_id bigint,
    price numeric OPTIONS (field 'orders[0][1].price'),
    "When" timestamptz OPTIONS (field '@timestamp'),
    at timestamptz OPTIONS (metadata 'timestamp'),
    part int OPTIONS (metadata 'partition'),
    off bigint OPTIONS (metadata 'offset')
) SERVER stream_options OPTIONS (topic 'user_clicks', max_message_bytes '2MB', on_error 'skip', tombstone 'nulls');
ALTER FOREIGN TABLE clicks OPTIONS (DROP topic);
ALTER FOREIGN TABLE clicks OPTIONS (SET format 'xml');
ALTER FOREIGN TABLE clicks OPTIONS (ADD format 'csv', ADD delimiter E'\t', ADD "null" 'NULL');
ALTER FOREIGN TABLE clicks OPTIONS (DROP format, DROP delimiter, DROP "null");

-- what goes to the broker
EXPLAIN (COSTS OFF) SELECT * FROM clicks;
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE part = 1 AND off >= 100 AND off < 200;
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE part IN (0, 2) AND 7::smallint < off;
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE at >= now() - interval '1 hour';
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE at > current_date AND off <= 10;
-- and what does not: times may come out of order, functions may change, disjunctions
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE at < now();
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE at > clock_timestamp();
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE part = 1 OR off = 2;
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE off = user_id;
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE part NOT IN (1, 2) AND off <> 3 AND off > 3.5;
PREPARE read(int[], bigint) AS SELECT user_id FROM clicks WHERE part = ANY ($1) AND off > $2;
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE read('{1,2}', 7);
-- 18 adds a property "Disabled"
CREATE FUNCTION pg_temp.plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
    EXECUTE 'EXPLAIN (COSTS OFF, FORMAT JSON) ' || query INTO plan;
    RETURN jsonb_pretty(plan::jsonb #- '{0,Plan,Disabled}');
END $$;
SELECT pg_temp.plan($$EXECUTE read('{1,2}', 7)$$);
RESET plan_cache_mode;
DEALLOCATE read;
-- a change of the options is seen by the next plan
ALTER FOREIGN TABLE clicks ALTER COLUMN off OPTIONS (DROP metadata);
EXPLAIN (COSTS OFF) SELECT user_id FROM clicks WHERE off = 2;

-- nothing to read: no gateway, no broker
SELECT user_id FROM clicks WHERE part < 0;
SELECT user_id FROM clicks WHERE part = NULL::int;

-- raw: one column is the value
CREATE FOREIGN TABLE raw (a text, b text) SERVER stream_options OPTIONS (topic 'x', format 'raw');
EXPLAIN (COSTS OFF) SELECT * FROM raw;

-- a stream is read only, and has no statistics
INSERT INTO clicks (user_id) VALUES (1);
UPDATE clicks SET user_id = 1;
DELETE FROM clicks;
TRUNCATE clicks;
ANALYZE clicks;

IMPORT FOREIGN SCHEMA topics FROM SERVER stream_options INTO public;
IMPORT FOREIGN SCHEMA kafka FROM SERVER stream_options INTO public OPTIONS (format 'json');

SET client_min_messages = warning;
DROP SERVER stream_options CASCADE;
