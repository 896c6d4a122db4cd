-- Pipelines: what mill.create_pipeline accepts, every refusal, who may do and
-- see what. Nothing runs here: there is no broker, and all are created paused.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
RESET client_min_messages;
CREATE ROLE regress_mill_ann LOGIN;
CREATE ROLE regress_mill_bob LOGIN;
CREATE ROLE regress_mill_team;
CREATE ROLE regress_mill_stranger;
CREATE ROLE regress_mill_stats;
GRANT pg_read_all_stats TO regress_mill_stats;
CREATE SCHEMA pipes;
GRANT ALL ON SCHEMA pipes TO regress_mill_ann, regress_mill_bob, regress_mill_team;
SET search_path = pipes;

CREATE SERVER nowhere FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE USER MAPPING FOR PUBLIC SERVER nowhere;
CREATE FOREIGN TABLE clicks (id int, page text, at timestamptz, off bigint OPTIONS (metadata 'offset'))
    SERVER nowhere OPTIONS (topic 'clicks');
CREATE FOREIGN TABLE others (id int, page text) SERVER nowhere OPTIONS (topic 'others');
CREATE TABLE target (id int, page text, at timestamptz, off bigint);
CREATE TABLE page (id int PRIMARY KEY, title text);
CREATE VIEW all_clicks AS SELECT * FROM clicks;

---- accepted ----

SELECT mill.create_pipeline('plain', 'clicks', 'target', enabled => false) > 0 AS created;
CREATE VIEW joined AS SELECT c.id, p.title AS page FROM all_clicks c LEFT JOIN page p ON p.id = c.id WHERE c.id > 0;
SELECT mill.create_pipeline('Joined; "quoted"', 'joined', 'target', enabled => false, start => 'LATEST', on_error => 'skip',
    max_errors => 5, durability => 'sync', workers => 64, batch_rows => 1, batch_bytes => 104857600, max_wait => '1 minute') > 0 AS created;
CREATE VIEW lateral_join AS SELECT c.id, x.page FROM clicks c, LATERAL (SELECT upper(c.page) AS page LIMIT 1) x;
SELECT mill.create_pipeline('lateral', 'lateral_join', 'target', enabled => false, start => '2024-03-01 00:00+01') > 0 AS created;
CREATE VIEW sublink AS SELECT id, (SELECT max(title) FROM page p WHERE p.id = c.id) AS page FROM clicks c WHERE EXISTS (SELECT FROM page);
SELECT mill.create_pipeline('sublink of a table', 'sublink', 'target', enabled => false, start => '{"0": 1500, "1": 1620}') > 0 AS created;
SELECT pipeline, source, target, mode, state, reason, enabled, stream, on_error, max_errors, durability, workers,
    batch_rows, batch_bytes, max_wait FROM mill.pipelines ORDER BY pipeline;
SELECT pipeline, replace(start, to_char(current_timestamp, 'TZH:TZM'), '') AS start FROM mill.pipelines
    WHERE pipeline <> 'lateral' ORDER BY pipeline;
SELECT start::timestamptz = '2024-03-01 00:00+01' AS same FROM mill.pipelines WHERE pipeline = 'lateral';
SELECT count(*) FROM mill.lag;

---- arguments ----

SELECT mill.create_pipeline('plain', 'clicks', 'target', enabled => false);
SELECT mill.create_pipeline('', 'clicks', 'target', enabled => false);
SELECT mill.create_pipeline(repeat('x', 64), 'clicks', 'target', enabled => false);
SELECT mill.create_pipeline(repeat('x', 63), 'clicks', 'target', enabled => false) > 0 AS created;
SELECT mill.drop_pipeline(repeat('x', 63));
SELECT mill.create_pipeline(NULL, 'clicks', 'target');
SELECT mill.create_pipeline('new', NULL, 'target');
SELECT mill.create_pipeline('new', 'clicks', NULL);
SELECT mill.create_pipeline('new', 'clicks', 'target', mode => NULL);
SELECT mill.create_pipeline('new', 'clicks', 'target', start => NULL);
SELECT mill.create_pipeline('new', 'clicks', 'target', durability => NULL);
SELECT mill.create_pipeline('new', 'clicks', 'target', workers => NULL);
SELECT mill.create_pipeline('new', 'clicks', 'target', max_wait => NULL);
SELECT mill.create_pipeline('new', 'clicks', 'target', enabled => NULL);
SELECT mill.create_pipeline('new', 'clicks', 'target', mode => 'replace');
SELECT mill.create_pipeline('new', 'clicks', 'target', on_error => 'ignore');
SELECT mill.create_pipeline('new', 'clicks', 'target', durability => 'fsync');
SELECT mill.create_pipeline('new', 'clicks', 'target', workers => 0);
SELECT mill.create_pipeline('new', 'clicks', 'target', workers => 65);
SELECT mill.create_pipeline('new', 'clicks', 'target', max_errors => 0);
SELECT mill.create_pipeline('new', 'clicks', 'target', batch_rows => 0);
SELECT mill.create_pipeline('new', 'clicks', 'target', batch_rows => 1000001);
SELECT mill.create_pipeline('new', 'clicks', 'target', batch_bytes => 0);
SELECT mill.create_pipeline('new', 'clicks', 'target', batch_bytes => 104857601);
SELECT mill.create_pipeline('new', 'clicks', 'target', max_wait => '-1 second');
SELECT mill.create_pipeline('new', 'clicks', 'target', max_wait => '1 minute 1 microsecond');
SELECT mill.create_pipeline('new', 'clicks', 'target', max_wait => '1 month');
SELECT mill.create_pipeline('new', 'clicks', 'target', wrokers => 1);
-- positions
SELECT mill.create_pipeline('new', 'clicks', 'target', start => 'begin');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => 'infinity');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '2024-02-30');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"0": -1}');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"0": "1"}');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"-1": 5}');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"a": 5}');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"0": 5');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"0": {"1": 2}}');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"0": 1.5}');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"0": 1e30}');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"00000000000000000000": 1}');
SELECT mill.create_pipeline('new', 'clicks', 'target', start => '{"2147483648": 1}');
SELECT mill.create_pipeline('none given', 'clicks', 'target', start => '{}', enabled => false) > 0 AS created;
SELECT mill.drop_pipeline('none given');

---- source: row-wise over one stream ----

SELECT mill.create_pipeline('new', 'no_such_stream', 'target');
SELECT mill.create_pipeline('new', 'page', 'target');
SELECT mill.create_pipeline('new', 'page_pkey', 'target');
CREATE VIEW of_table AS SELECT id, title AS page FROM page;
SELECT mill.create_pipeline('new', 'of_table', 'target');
CREATE VIEW bad_aggregate AS SELECT count(*) AS id FROM clicks;
CREATE VIEW bad_group AS SELECT id FROM clicks GROUP BY id;
CREATE VIEW bad_sets AS SELECT id FROM clicks GROUP BY GROUPING SETS ((id), ());
CREATE VIEW bad_having AS SELECT 1 AS id FROM clicks HAVING true;
CREATE VIEW bad_distinct AS SELECT DISTINCT id FROM clicks;
CREATE VIEW bad_distinct_on AS SELECT DISTINCT ON (id) id, page FROM clicks ORDER BY id, at;
CREATE VIEW bad_limit AS SELECT id FROM clicks LIMIT 5;
CREATE VIEW bad_offset AS SELECT id FROM clicks OFFSET 5;
CREATE VIEW bad_window AS SELECT row_number() OVER () AS id FROM clicks;
CREATE VIEW bad_union AS SELECT id FROM clicks UNION ALL SELECT id FROM page;
CREATE VIEW bad_two AS SELECT c.id FROM clicks c JOIN others o USING (id);
CREATE VIEW bad_twice AS SELECT a.id FROM clicks a JOIN clicks b USING (id);
CREATE VIEW bad_nullable AS SELECT p.id FROM page p LEFT JOIN clicks c USING (id);
CREATE VIEW bad_right AS SELECT p.id FROM clicks c RIGHT JOIN page p USING (id);
CREATE VIEW bad_full AS SELECT c.id FROM clicks c FULL JOIN page p USING (id);
CREATE VIEW bad_sublink AS SELECT id FROM page WHERE id IN (SELECT id FROM clicks);
CREATE VIEW bad_scalar AS SELECT (SELECT id FROM clicks WHERE id = 1) AS id;
CREATE VIEW bad_cte AS WITH c AS MATERIALIZED (SELECT id FROM clicks) SELECT id FROM c;
CREATE VIEW bad_for_update AS SELECT c.id FROM clicks c, page p FOR UPDATE OF p;
CREATE VIEW bad_below AS SELECT id FROM (SELECT id FROM all_clicks LIMIT 1) x;
CREATE VIEW bad_above AS SELECT max(id) AS id FROM all_clicks;
SELECT mill.create_pipeline('new', 'bad_aggregate', 'target');
SELECT mill.create_pipeline('new', 'bad_group', 'target');
SELECT mill.create_pipeline('new', 'bad_sets', 'target');
SELECT mill.create_pipeline('new', 'bad_having', 'target');
SELECT mill.create_pipeline('new', 'bad_distinct', 'target');
SELECT mill.create_pipeline('new', 'bad_distinct_on', 'target');
SELECT mill.create_pipeline('new', 'bad_limit', 'target');
SELECT mill.create_pipeline('new', 'bad_offset', 'target');
SELECT mill.create_pipeline('new', 'bad_window', 'target');
SELECT mill.create_pipeline('new', 'bad_union', 'target');
SELECT mill.create_pipeline('new', 'bad_two', 'target');
SELECT mill.create_pipeline('new', 'bad_twice', 'target');
SELECT mill.create_pipeline('new', 'bad_nullable', 'target');
SELECT mill.create_pipeline('new', 'bad_right', 'target');
SELECT mill.create_pipeline('new', 'bad_full', 'target');
SELECT mill.create_pipeline('new', 'bad_sublink', 'target');
SELECT mill.create_pipeline('new', 'bad_scalar', 'target');
SELECT mill.create_pipeline('new', 'bad_cte', 'target');
SELECT mill.create_pipeline('new', 'bad_for_update', 'target');
SELECT mill.create_pipeline('new', 'bad_below', 'target');
SELECT mill.create_pipeline('new', 'bad_above', 'target');

---- columns ----

CREATE TABLE narrow (id bytea, page text GENERATED ALWAYS AS ('x') STORED, "at" int);
SELECT mill.create_pipeline('new', 'clicks', 'narrow');
CREATE TABLE wider (id bigint, page varchar(3), at timestamptz, off numeric, more text DEFAULT 'x');
SELECT mill.create_pipeline('wider', 'clicks', 'wider', enabled => false) > 0 AS created;
SELECT mill.drop_pipeline('wider');

---- upsert ----

CREATE TABLE keyed (id int, page text, at timestamptz, off bigint, part int, UNIQUE (id, part));
CREATE UNIQUE INDEX keyed_page ON keyed (page);
CREATE UNIQUE INDEX keyed_expression ON keyed (lower(page));
CREATE UNIQUE INDEX keyed_partial ON keyed (page) WHERE id > 0;
CREATE INDEX keyed_at ON keyed (at);
ALTER TABLE keyed ADD CONSTRAINT keyed_deferred UNIQUE (at) DEFERRABLE INITIALLY DEFERRED;
SELECT mill.create_pipeline('new', 'clicks', 'keyed', mode => 'upsert');
SELECT mill.create_pipeline('new', 'clicks', 'keyed', mode => 'upsert', key_index => 'keyed_id_part_key');
SELECT mill.create_pipeline('new', 'clicks', 'keyed', mode => 'upsert', key_index => 'keyed_expression');
SELECT mill.create_pipeline('new', 'clicks', 'keyed', mode => 'upsert', key_index => 'keyed_partial');
SELECT mill.create_pipeline('new', 'clicks', 'keyed', mode => 'upsert', key_index => 'keyed_at');
SELECT mill.create_pipeline('new', 'clicks', 'keyed', mode => 'upsert', key_index => 'keyed_deferred');
SELECT mill.create_pipeline('new', 'clicks', 'keyed', mode => 'upsert', key_index => 'page_pkey');
SELECT mill.create_pipeline('new', 'clicks', 'keyed', mode => 'upsert', key_index => 'keyed');
SELECT mill.create_pipeline('new', 'clicks', 'keyed', mode => 'upsert', key_index => 'no_such_index');
SELECT mill.create_pipeline('upsert', 'clicks', 'keyed', mode => 'upsert', key_index => 'keyed_page', enabled => false) > 0 AS created;
SELECT mill.drop_pipeline('upsert');
-- a key index without upsert
SELECT mill.create_pipeline('new', 'clicks', 'keyed', key_index => 'keyed_page', enabled => false);
CREATE VIEW keyed_view AS SELECT * FROM keyed;
SELECT mill.create_pipeline('new', 'clicks', 'keyed_view', mode => 'upsert');

---- targets ----

CREATE TEMP TABLE temporary (id int, page text, at timestamptz, off bigint);
SELECT mill.create_pipeline('new', 'clicks', 'temporary');
CREATE MATERIALIZED VIEW materialized AS SELECT * FROM target;
SELECT mill.create_pipeline('new', 'clicks', 'materialized');
CREATE SEQUENCE numbers;
SELECT mill.create_pipeline('new', 'clicks', 'numbers');
SELECT mill.create_pipeline('new', 'clicks', 'page_pkey');
SELECT mill.create_pipeline('new', 'clicks', 'keyed_view', enabled => false) > 0 AS created;
SELECT mill.drop_pipeline('new');
CREATE TABLE parted (id int, page text, at timestamptz, off bigint) PARTITION BY RANGE (id);
SELECT mill.create_pipeline('parted', 'clicks', 'parted', enabled => false) > 0 AS created;
SELECT mill.drop_pipeline('parted');

---- rights ----

SET ROLE regress_mill_ann;
CREATE TABLE ann_target (id int, page text, at timestamptz, off bigint);
SELECT mill.create_pipeline('ann', 'clicks', 'ann_target', enabled => false);
RESET ROLE;
GRANT mill_user TO regress_mill_ann, regress_mill_bob, regress_mill_team;
SET ROLE regress_mill_ann;
SELECT mill.create_pipeline('ann', 'clicks', 'ann_target', enabled => false);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER nowhere TO regress_mill_ann, regress_mill_team;
SET ROLE regress_mill_ann;
SELECT mill.create_pipeline('ann', 'clicks', 'ann_target', enabled => false);
RESET ROLE;
GRANT SELECT ON clicks TO regress_mill_ann, regress_mill_team;
SET ROLE regress_mill_ann;
SELECT mill.create_pipeline('ann', 'clicks', 'target', enabled => false);
RESET ROLE;
-- columns are enough, if they are all that come
GRANT INSERT (id, page) ON target TO regress_mill_ann;
CREATE VIEW two_columns AS SELECT id, page FROM clicks;
GRANT SELECT ON two_columns TO regress_mill_ann;
SET ROLE regress_mill_ann;
SELECT mill.create_pipeline('ann', 'clicks', 'target', enabled => false);
SELECT mill.create_pipeline('ann', 'two_columns', 'target', enabled => false) > 0 AS created;
SELECT mill.create_pipeline('Ann''s own', 'clicks', 'ann_target', enabled => false) > 0 AS created;
RESET ROLE;
-- a superuser's pipeline would run that role's triggers
SELECT mill.create_pipeline('lent', 'clicks', 'ann_target', enabled => false);
SET mill.superuser_any_target = on;
SELECT mill.create_pipeline('lent', 'clicks', 'ann_target', enabled => false) > 0 AS created;
SELECT mill.drop_pipeline('lent');
RESET mill.superuser_any_target;
SET ROLE regress_mill_ann;
SET mill.superuser_any_target = on;
SET mill.write_path = executor;
RESET ROLE;

-- CASES 38: everybody sees and changes only his own
SET ROLE regress_mill_ann;
SELECT pipeline, owner FROM mill.pipelines ORDER BY pipeline;
RESET ROLE;
SET ROLE regress_mill_bob;
SELECT pipeline, owner FROM mill.pipelines ORDER BY pipeline;
SELECT mill.pause('ann');
SELECT mill.resume('ann');
SELECT mill.seek('ann', 'earliest');
SELECT mill.alter_pipeline('ann', workers => 2);
SELECT mill.drop_pipeline('ann');
SELECT mill.wait_for('ann', 0, 1, '0');
SELECT mill.retry_dead_letters('ann');
SELECT mill.arm();
-- names are one's own to choose, but one for all
SELECT mill.create_pipeline('ann', 'clicks', 'target', enabled => false);
SELECT FROM mill_catalog.pipeline;
SELECT FROM mill_catalog.pipeline_offset;
SELECT FROM mill_catalog.dead_letter;
SELECT FROM mill_catalog.error;
SELECT FROM mill_catalog.worker_slots();
INSERT INTO mill.pipelines (pipeline) VALUES ('x');
DELETE FROM mill.dead_letters;
RESET ROLE;
SET ROLE regress_mill_stranger;
SELECT count(*) FROM mill.pipelines;
SELECT count(*) FROM mill.lag;
SELECT count(*) FROM mill.dead_letters;
SELECT count(*) FROM mill.errors;
RESET ROLE;
-- who reads statistics sees them all, but no message and no error text
INSERT INTO mill_catalog.pipeline_offset (pipeline_id, partition, next_offset, high_offset)
    SELECT id, 0, 7, 10 FROM mill_catalog.pipeline WHERE name IN ('ann', 'plain');
INSERT INTO mill_catalog.dead_letter (pipeline_id, topic, partition, kafka_offset, value, timestamp_type, truncated, sqlstate, message)
    SELECT id, 'clicks', 0, 1, 'secret', 0, false, '22P02', name FROM mill_catalog.pipeline WHERE name IN ('ann', 'plain');
INSERT INTO mill_catalog.error (object_kind, object_id, sqlstate, message)
    SELECT 'pipeline', id, '57P01', name FROM mill_catalog.pipeline WHERE name IN ('ann', 'plain');
SET ROLE regress_mill_stats;
SELECT pipeline, owner <> 'regress_mill_ann'::regrole AS not_anns FROM mill.pipelines ORDER BY pipeline;
SELECT pipeline, topic, partition, stored_offset, lag FROM mill.lag ORDER BY pipeline;
SELECT count(*) FROM mill.dead_letters;
SELECT count(*) FROM mill.errors;
SELECT mill.pause('ann');
RESET ROLE;
SET ROLE regress_mill_ann;
SELECT pipeline, topic, partition, stored_offset, lag FROM mill.lag ORDER BY pipeline;
SELECT pipeline, value, message FROM mill.dead_letters;
SELECT object_name, sqlstate, message FROM mill.errors;
-- a leaky function in a condition sees no others' rows
CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
    $$BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END$$;
SELECT count(*) FROM mill.dead_letters WHERE leak(message);
SELECT count(*) FROM mill.pipelines WHERE leak(pipeline);
RESET ROLE;
SELECT pipeline, message FROM mill.dead_letters ORDER BY pipeline;

-- a member of the owning role is an owner
SET ROLE regress_mill_team;
CREATE TABLE team_target (id int, page text, at timestamptz, off bigint);
SELECT mill.create_pipeline('team', 'clicks', 'team_target', enabled => false);
RESET ROLE;
ALTER ROLE regress_mill_team LOGIN;
SET ROLE regress_mill_team;
SELECT mill.create_pipeline('team', 'clicks', 'team_target', enabled => false) > 0 AS created;
RESET ROLE;
GRANT regress_mill_team TO regress_mill_bob;
SET ROLE regress_mill_bob;
SELECT pipeline, owner FROM mill.pipelines ORDER BY pipeline;
SELECT mill.alter_pipeline('team', workers => 2, batch_rows => 10);
SELECT workers, batch_rows FROM mill.pipelines;
SELECT mill.drop_pipeline('team');
RESET ROLE;

---- change ----

SELECT mill.alter_pipeline('none', workers => 1);
SELECT mill.alter_pipeline(NULL, workers => 1);
SELECT mill.alter_pipeline('plain', on_error => 'x');
SELECT mill.alter_pipeline('plain', durability => 'x');
SELECT mill.alter_pipeline('plain', workers => 65);
SELECT mill.alter_pipeline('plain', max_errors => -1);
SELECT mill.alter_pipeline('plain', batch_rows => 0);
SELECT mill.alter_pipeline('plain', batch_bytes => 0);
SELECT mill.alter_pipeline('plain', max_wait => '1 hour');
SELECT mill.alter_pipeline('plain', start => 'soon');
SELECT mill.alter_pipeline('plain', new_name => '');
SELECT mill.alter_pipeline('plain', new_name => 'ann');
SELECT mill.alter_pipeline('plain', new_name => 'simple', on_error => 'stop', max_errors => 3, durability => 'sync', workers => 2,
    batch_rows => 10, batch_bytes => 1000, max_wait => '0', start => 'latest');
SELECT pipeline, on_error, max_errors, durability, workers, batch_rows, batch_bytes, max_wait, start FROM mill.pipelines
    WHERE pipeline IN ('plain', 'simple');
SELECT mill.alter_pipeline('simple');
-- where it has started, a start position comes too late
UPDATE mill_catalog.pipeline SET start_resolved = true WHERE name = 'simple';
SELECT mill.alter_pipeline('simple', start => 'earliest');

SELECT mill.pause('none');
SELECT mill.pause(NULL);
SELECT mill.resume('none');
SELECT mill.resume(NULL);
SELECT mill.pause('simple');
SELECT reason FROM mill.pipelines WHERE pipeline = 'simple';
-- a failure ends by resume; nothing else of it does
UPDATE mill_catalog.pipeline SET enabled = true, failure = 'bad message', armed_database = armed_database WHERE name = 'simple';
SELECT state, reason FROM mill.pipelines WHERE pipeline = 'simple';
SELECT mill.pause('simple');
SELECT mill.pause('simple');
SELECT state, reason FROM mill.pipelines WHERE pipeline = 'simple';
BEGIN;
SELECT mill.resume('simple');
SELECT state <> 'failed' AND reason NOT LIKE '%bad%' AS sound, enabled FROM mill.pipelines WHERE pipeline = 'simple';
ROLLBACK;

SELECT mill.seek('none', 'earliest');
SELECT mill.seek(NULL, 'earliest');
SELECT mill.seek('simple', NULL);
SELECT mill.seek('simple', 'soon');
SELECT mill.seek('simple', '[1]');
SELECT mill.seek('simple', '{"0": 5}');
-- until a worker has asked the broker the old offset is kept, out of reach of a batch
SELECT next_offset, start_resolved, start_position FROM mill_catalog.pipeline_offset o JOIN mill_catalog.pipeline p
    ON p.id = o.pipeline_id WHERE name = 'simple';
SELECT mill.seek('simple', 'latest');
SELECT next_offset FROM mill_catalog.pipeline_offset o JOIN mill_catalog.pipeline p ON p.id = o.pipeline_id WHERE name = 'simple';

SELECT mill.wait_for('none', 0, 0);
SELECT mill.wait_for('simple', 0, NULL);
SELECT mill.wait_for('simple', 0, 0, '0');
SELECT mill.wait_for('ann', 0, 7, '10 ms');
SELECT mill.wait_for('ann', 0, 6, '0');
SELECT mill.retry_dead_letters('none');
SELECT mill.retry_dead_letters(NULL);

SELECT mill.drop_pipeline('none');
SELECT mill.drop_pipeline(NULL);
SELECT mill.drop_pipeline('simple');
SELECT count(*) FROM mill_catalog.pipeline_offset;
SELECT count(*) FROM mill_catalog.dead_letter;
SELECT object_name FROM mill.errors;
SELECT count(*) FROM mill_catalog.error;

---- what is not there any more ----

-- the target may go: the pipeline says so when it runs
SET ROLE regress_mill_ann;
DROP TABLE ann_target;
RESET ROLE;
SELECT pipeline, state FROM mill.pipelines WHERE pipeline LIKE 'Ann%';
SELECT mill.drop_pipeline('Ann''s own');

SET client_min_messages = warning;
SELECT count(mill.drop_pipeline(pipeline)) FROM mill.pipelines;
DROP SCHEMA pipes CASCADE;
DROP SERVER nowhere CASCADE;
REVOKE mill_user FROM regress_mill_ann, regress_mill_bob, regress_mill_team;
DROP ROLE regress_mill_ann, regress_mill_bob, regress_mill_team, regress_mill_stranger, regress_mill_stats;
