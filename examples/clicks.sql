-- The quick start of README.md as a script.
--
--   psql -v bootstrap=localhost:9092 -f examples/clicks.sql
--
-- Topic user_clicks has messages such as
--   {"user_id": 17, "page": "/product/42", "timestamp": "2026-01-01T12:00:00Z"}
\set ON_ERROR_STOP on
\if :{?bootstrap}
\else
\set bootstrap localhost:9092
\endif

CREATE EXTENSION IF NOT EXISTS pg_mill;

-- where the brokers are; names and passwords would go into a user mapping
CREATE SERVER shop FOREIGN DATA WRAPPER kafka
    OPTIONS ("bootstrap.servers" :'bootstrap');

-- a stream: a topic, with types
CREATE FOREIGN TABLE user_clicks (
    user_id         bigint,
    page            text,
    clicked_at      timestamptz OPTIONS (field 'timestamp'),
    kafka_partition integer     OPTIONS (metadata 'partition'),
    kafka_offset    bigint      OPTIONS (metadata 'offset')
) SERVER shop OPTIONS (topic 'user_clicks', format 'json');

-- look at the topic; nothing is consumed
SELECT * FROM user_clicks LIMIT 5;

-- the transformation is a view
CREATE VIEW clicks_in AS
SELECT user_id,
       page,
       CASE WHEN page LIKE '/product/%' THEN split_part(page, '/', 3)::integer END AS product_id,
       clicked_at,
       kafka_partition,
       kafka_offset
FROM user_clicks;

CREATE TABLE clicks (
    user_id         bigint,
    page            text,
    product_id      integer,
    clicked_at      timestamptz,
    kafka_partition integer,
    kafka_offset    bigint
);

-- from now on a background worker keeps moving rows
SELECT mill.create_pipeline('clicks', source => 'clicks_in', target => 'clicks');

-- To look around:
--   SELECT pipeline, state, reason, rows_written, dead_letters FROM mill.pipelines;
--   SELECT partition, stored_offset, high_offset, lag, rows_per_second FROM mill.lag;
--   SELECT kafka_offset, message, encode(value, 'escape') FROM mill.dead_letters;
-- To remove it:
--   SELECT mill.drop_pipeline('clicks');
--   DROP TABLE clicks; DROP SERVER shop CASCADE;
