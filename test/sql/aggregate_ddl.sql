-- Continuous aggregates: what is done to their tables, columns and views, and what follows from it.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
CREATE ROLE regress_mill_owner;
CREATE SCHEMA ddl;
CREATE SCHEMA "other place";
GRANT ALL ON SCHEMA ddl, "other place" TO regress_mill_owner;
SET search_path = ddl;
CREATE TABLE events (id bigint PRIMARY KEY, kind text, n int, unused int, at timestamp);
INSERT INTO events SELECT i, 'k' || i % 3, i, i, '2026-01-01'::timestamp + i * interval '1 minute' FROM generate_series(1, 20) i;
CREATE VIEW v AS SELECT window_start, kind, count(*) AS c, sum(n) AS s FROM events, mill.tumble(at, '10 minutes') GROUP BY window_start, kind;
CREATE VIEW w AS SELECT kind, max(n) AS m FROM events GROUP BY kind;
SELECT mill.materialize('v', fold_interval => '1 hour');
SELECT mill.materialize('w', fold_interval => '1 hour');

-- What there is of ours: rows of the catalog, relations, triggers.
CREATE FUNCTION ours(OUT aggregates bigint, OUT relations bigint, OUT triggers text) LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM mill_catalog.aggregate),
           (SELECT count(*) FROM pg_class WHERE relnamespace = 'mill_data'::regnamespace AND relkind <> 'i'),
           (SELECT string_agg(tgrelid::regclass || '.' || regexp_replace(tgname, '_\d+$', ''), ' ' ORDER BY tgrelid::regclass::text, tgname)
            FROM pg_trigger WHERE tgname LIKE 'mill%')
$$;
-- Rows in which the live views differ from their queries.
CREATE FUNCTION wrong() RETURNS bigint LANGUAGE sql AS $$
    SELECT sum((SELECT count(*) FROM mill.verify(aggregate)))::bigint FROM mill.aggregates
$$;
-- Folds all; how many deltas is between us and the worker.
CREATE FUNCTION fold_all() RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN sum(mill.fold(aggregate)) >= 0 THEN 'folded' END FROM mill.aggregates
$$;
SELECT * FROM ours();

---- CASES 28: columns of the base table ----

ALTER TABLE events RENAME COLUMN n TO amount;
ALTER TABLE events RENAME COLUMN at TO happened_at;
INSERT INTO events VALUES (21, 'k1', 100, 1, '2026-01-01 00:12');
UPDATE events SET amount = amount + 1, happened_at = happened_at + interval '15 minutes' WHERE id IN (3, 4);
DELETE FROM events WHERE id = 5;
SELECT wrong();
SELECT fold_all(), wrong();
SELECT mill.refresh('v'), mill.refresh('w'), wrong();
ALTER TABLE events DROP COLUMN amount;
ALTER TABLE events DROP COLUMN happened_at;
ALTER TABLE events ALTER COLUMN amount TYPE bigint;
ALTER TABLE events ALTER COLUMN kind TYPE varchar(10);
ALTER TABLE events DROP COLUMN unused;
ALTER TABLE events ADD COLUMN added text DEFAULT 'x';
ALTER TABLE events ALTER COLUMN added TYPE varchar(5);
INSERT INTO events VALUES (22, 'k1', 7, '2026-01-01 00:12', 'y');
UPDATE events SET added = 'z' WHERE id < 3;
UPDATE events SET amount = 8 WHERE id = 22;
SELECT wrong();
SELECT fold_all(), wrong();
ALTER TABLE events DROP COLUMN amount CASCADE;
SELECT * FROM ours();
SELECT count(*) FROM pg_views WHERE schemaname = 'ddl';
ALTER TABLE events ADD COLUMN amount int DEFAULT 1;
CREATE VIEW v AS SELECT window_start, kind, count(*) AS c, sum(amount) AS s FROM events, mill.tumble(happened_at, '10 minutes') GROUP BY window_start, kind;
CREATE VIEW w AS SELECT kind, max(amount) AS m FROM events GROUP BY kind;
SELECT mill.materialize('v', fold_interval => '1 hour');
SELECT mill.materialize('w', fold_interval => '1 hour');

---- CASES 28: the base table ----

ALTER TABLE events RENAME TO "My Events";
INSERT INTO "My Events" VALUES (30, 'new', '2026-01-01 00:12');
ALTER TABLE "My Events" SET SCHEMA "other place";
INSERT INTO "other place"."My Events" VALUES (31, 'newer', '2026-01-01 00:12');
ALTER TABLE "other place"."My Events" OWNER TO regress_mill_owner;
INSERT INTO "other place"."My Events" VALUES (32, 'newest', '2026-01-01 00:12');
SELECT wrong();
SELECT fold_all(), wrong();
SELECT aggregate, base_table, state FROM mill.aggregates ORDER BY 1;
ALTER TABLE "other place"."My Events" OWNER TO CURRENT_USER;
ALTER TABLE "other place"."My Events" SET SCHEMA ddl;
ALTER TABLE "My Events" RENAME TO events;
VACUUM FULL events;
CLUSTER events USING events_pkey;
INSERT INTO events VALUES (33, 'after', '2026-01-01 00:12');
SELECT wrong();
DROP TABLE events;
DROP SCHEMA ddl;

---- CASES 28: our triggers ----

DO $$
DECLARE t record; what text; hint text;
BEGIN
    FOR t IN SELECT tgname, regexp_replace(tgname, '_\d+$', '') AS kind FROM pg_trigger WHERE tgrelid = 'events'::regclass ORDER BY tgname LOOP
        BEGIN
            EXECUTE format('DROP TRIGGER %I ON events', t.tgname);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            GET STACKED DIAGNOSTICS what = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
            RAISE WARNING '%: % (%)', t.kind, what, hint;
        END;
    END LOOP;
END$$;
DROP FUNCTION mill.maintain_aggregates();
DROP TABLE mill_data."v$state";
DROP TABLE mill_data."v$delta";
SELECT * FROM ours();
BEGIN;
DROP TABLE mill_data."v$state" CASCADE;
SELECT * FROM ours();
ROLLBACK;

---- CASES 61: triggers switched off and on, replica sessions ----

CREATE TABLE switched (k int, v int);
CREATE VIEW off AS SELECT k, count(*) AS n, max(v) AS v FROM switched GROUP BY k;
SELECT mill.materialize('off', fold_interval => '1 hour');
CREATE FUNCTION state_of_off() RETURNS text LANGUAGE sql AS $$SELECT concat_ws(': ', state, reason) FROM mill.aggregates WHERE aggregate = 'off'::regclass$$;
-- a trigger of that name, a user's own
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER mill_insert AFTER INSERT ON switched EXECUTE FUNCTION nothing();
ALTER TRIGGER mill_insert ON switched RENAME TO mill_row;
ALTER TABLE switched DISABLE TRIGGER USER;
INSERT INTO switched VALUES (1, 1);
ALTER TABLE switched ENABLE TRIGGER USER;
INSERT INTO switched VALUES (1, 2), (2, 2);
DROP TRIGGER mill_row ON switched;
TABLE off ORDER BY k;
-- all of them on, also the one for replication: nothing is counted twice
ALTER TABLE switched ENABLE TRIGGER ALL;
INSERT INTO switched VALUES (1, 3);
SELECT state_of_off();
SET session_replication_role = replica;
INSERT INTO switched VALUES (3, 1), (3, 2);
UPDATE switched SET k = 4, v = 9 WHERE k = 3 AND v = 2;
DELETE FROM switched WHERE k = 2;
RESET session_replication_role;
TABLE off ORDER BY k;
SELECT wrong();
DO $$DECLARE t name; f text; BEGIN
    FOREACH f IN ARRAY '{ENABLE ALWAYS,ENABLE REPLICA,ENABLE}'::text[] LOOP
        FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'switched'::regclass LOOP
            EXECUTE format('ALTER TABLE switched %s TRIGGER %I', f, t);
            INSERT INTO switched VALUES (5, 5);
            SET LOCAL session_replication_role = replica;
            UPDATE switched SET v = v + 1 WHERE k = 5;
            SET LOCAL session_replication_role = origin;
            IF wrong() > 0 THEN RAISE '% %', f, t; END IF;
        END LOOP;
    END LOOP;
END$$;
SELECT state_of_off();
-- off: it is not live, and right all the same
BEGIN;
ALTER TABLE switched DISABLE TRIGGER ALL;
INSERT INTO switched VALUES (6, 6);
SELECT state_of_off();
SELECT n FROM off WHERE k = 6;
SELECT mill.refresh('off');
ROLLBACK;
BEGIN;
ALTER TABLE switched DISABLE TRIGGER ALL;
INSERT INTO switched VALUES (6, 6);
ALTER TABLE switched ENABLE TRIGGER ALL;
INSERT INTO switched VALUES (6, 7);
SELECT state_of_off();
TABLE off ORDER BY k;
SELECT mill.refresh('off') AS groups;
SELECT state_of_off();
INSERT INTO switched VALUES (6, 8);
SELECT * FROM off WHERE k = 6;
COMMIT;
SELECT wrong();
SELECT string_agg(regexp_replace(tgname, '_\d+$', '') || ' ' || tgenabled::text, ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'switched'::regclass;
DROP TABLE switched CASCADE;
DROP FUNCTION state_of_off(), nothing();

---- CASES 28: the view ----

CREATE OR REPLACE VIEW v AS SELECT window_start, kind, count(*) AS c, sum(id)::bigint AS s FROM events, mill.tumble(happened_at, '10 minutes') GROUP BY window_start, kind;
SELECT mill.dematerialize('w');
CREATE OR REPLACE VIEW w AS SELECT kind, min(amount) AS m FROM events GROUP BY kind;
SELECT mill.materialize('w', fold_interval => '1 hour');
CREATE VIEW above AS SELECT kind, sum(s) FROM v GROUP BY kind;
ALTER VIEW v RENAME TO "V of ""events""";
ALTER VIEW w RENAME COLUMN m TO least;
ALTER VIEW "V of ""events""" SET SCHEMA "other place";
INSERT INTO events VALUES (40, 'moved', '2026-01-01 00:22', 'y', 4);
SELECT wrong();
SELECT mill.fold('"other place"."V of ""events"""') >= 0 AS folded, mill.refresh('w') > 0 AS refreshed, wrong();
SELECT aggregate, base_table, state FROM mill.aggregates ORDER BY 1;
SELECT * FROM above WHERE kind = 'moved';
SELECT * FROM w WHERE kind = 'moved';
SELECT mill.dematerialize('w');
SELECT * FROM w WHERE kind = 'moved';
SELECT mill.materialize('w', fold_interval => '1 hour');
SELECT * FROM w WHERE kind = 'moved';
ALTER VIEW "other place"."V of ""events""" SET SCHEMA ddl;
ALTER VIEW "V of ""events""" RENAME TO v;

-- another owner: the tables go along, and that owner's rights count
GRANT SELECT ON events TO regress_mill_owner;
ALTER VIEW v OWNER TO regress_mill_owner;
SELECT relname, relkind, relowner = 'regress_mill_owner'::regrole AS given FROM pg_class WHERE relnamespace = 'mill_data'::regnamespace AND relkind <> 'i' ORDER BY 1;
INSERT INTO events VALUES (41, 'given', '2026-01-01 00:22', 'y', 4);
SELECT wrong();
SELECT fold_all(), wrong();
SELECT mill.dematerialize('v');
ALTER VIEW v OWNER TO CURRENT_USER;
SELECT mill.materialize('v', fold_interval => '1 hour');

-- a view gone: with its tables, its row, and after the last one the triggers
DROP VIEW v;
DROP VIEW v CASCADE;
SELECT * FROM ours();
INSERT INTO events VALUES (42, 'one left', '2026-01-01 00:22', 'y', 4);
SELECT wrong();
BEGIN;
DROP VIEW w;
SELECT * FROM ours();
ROLLBACK;
SELECT * FROM ours();
SELECT wrong();
DROP VIEW w;
SELECT * FROM ours();
INSERT INTO events VALUES (43, 'none left', '2026-01-01 00:22', 'y', 4);

---- CASES 28: CASCADE ----

CREATE VIEW v AS SELECT kind, count(*) AS c FROM events GROUP BY kind;
SELECT mill.materialize('v', fold_interval => '1 hour');
CREATE VIEW above AS SELECT * FROM v;
DROP TABLE events CASCADE;
SELECT * FROM ours();
SELECT count(*) FROM pg_views WHERE schemaname = 'ddl';

CREATE SCHEMA gone;
CREATE TABLE gone.t (a int);
CREATE VIEW gone.v AS SELECT a, count(*) FROM gone.t GROUP BY a;
SELECT mill.materialize('gone.v', fold_interval => '1 hour');
DROP SCHEMA gone;
DROP SCHEMA gone CASCADE;
SELECT * FROM ours();

-- table and view apart, each schema goes alone
CREATE SCHEMA gone;
CREATE TABLE t (a int);
CREATE VIEW gone.v AS SELECT a, count(*) FROM t GROUP BY a;
SELECT mill.materialize('gone.v', fold_interval => '1 hour');
DROP SCHEMA gone CASCADE;
SELECT * FROM ours();
INSERT INTO t VALUES (1);
CREATE SCHEMA gone;
CREATE TABLE gone.t (a int);
CREATE VIEW v AS SELECT a, count(*) FROM gone.t GROUP BY a;
SELECT mill.materialize('v', fold_interval => '1 hour');
DROP SCHEMA gone CASCADE;
SELECT * FROM ours();
SELECT to_regclass('v');

-- a role's belongings
CREATE TABLE owned (a int);
ALTER TABLE owned OWNER TO regress_mill_owner;
CREATE VIEW of_owned AS SELECT a, count(*) FROM owned GROUP BY a;
ALTER VIEW of_owned OWNER TO regress_mill_owner;
SELECT mill.materialize('of_owned', fold_interval => '1 hour');
INSERT INTO owned VALUES (1), (1);
TABLE of_owned;
DROP OWNED BY regress_mill_owner;
SELECT * FROM ours();
GRANT ALL ON SCHEMA ddl, "other place" TO regress_mill_owner;

-- a lookup table
CREATE TABLE names (a int PRIMARY KEY, name text);
CREATE VIEW by_name AS SELECT name, count(*) FROM t LEFT JOIN names USING (a) GROUP BY name;
SET client_min_messages = notice;
SELECT mill.materialize('by_name', fold_interval => '1 hour');
SET client_min_messages = warning;
INSERT INTO names VALUES (1, 'one');
INSERT INTO t VALUES (1);
SELECT mill.refresh('by_name');
SELECT * FROM mill.verify('by_name');
DROP TABLE names;
DROP TABLE names CASCADE;
SELECT * FROM ours();

---- CASES 28: the extension ----

CREATE VIEW v AS SELECT a, count(*) FROM t GROUP BY a;
SELECT mill.materialize('v', fold_interval => '1 hour');
\set VERBOSITY terse
DROP EXTENSION pg_mill;
\set VERBOSITY default
SELECT count(*) AS triggers FROM pg_trigger WHERE tgname LIKE 'mill%';
DROP EXTENSION IF EXISTS pg_mill CASCADE;
SELECT count(*) AS triggers FROM pg_trigger WHERE tgname LIKE 'mill%';
SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mill%';
INSERT INTO t VALUES (2);
CREATE EXTENSION pg_mill;
SELECT to_regclass('v');

DROP SCHEMA ddl CASCADE;
DROP SCHEMA "other place" CASCADE;
DROP ROLE regress_mill_owner;
