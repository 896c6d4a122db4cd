-- What CREATE EXTENSION makes, and that nobody can get in between.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_mill CASCADE;
DROP ROLE IF EXISTS regress_mill_nobody;
RESET client_min_messages;
CREATE ROLE regress_mill_nobody;

-- a search_path full of traps: operators and functions that fit better
CREATE SCHEMA trap;
GRANT CREATE, USAGE ON SCHEMA trap TO regress_mill_nobody;
SET ROLE regress_mill_nobody;
CREATE FUNCTION trap.name_equals(name, unknown) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE FUNCTION trap.name_equals(name, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = text, FUNCTION = trap.name_equals);
CREATE FUNCTION trap.text_equals(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.text_equals);
CREATE FUNCTION trap.bigint_equals(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE OPERATOR trap.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = trap.bigint_equals);
CREATE OPERATOR trap.<> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = trap.bigint_equals);
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE FUNCTION trap.current_database() RETURNS name LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE FUNCTION trap.pg_is_in_recovery() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE FUNCTION trap.pg_has_role(oid, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE FUNCTION trap.pg_extension_config_dump(regclass, text) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE FUNCTION trap.kafka_handler() RETURNS int LANGUAGE plpgsql AS $$BEGIN RAISE 'trapped'; END$$;
CREATE TABLE trap.pg_roles (rolname name);
CREATE TABLE trap.pg_database (oid oid, datname name);
CREATE TABLE trap.pg_foreign_table (ftrelid oid, ftoptions text[]);
CREATE DOMAIN trap.bigint AS pg_catalog.text;
CREATE DOMAIN trap.regclass AS pg_catalog.text;
CREATE DOMAIN trap.interval AS pg_catalog.text;
RESET ROLE;
SET search_path = trap, pg_catalog;
CREATE EXTENSION pg_mill;
-- and later, in front of everything
SELECT pipeline, state FROM mill.pipelines;
SELECT pipeline FROM mill.lag;
SELECT id FROM mill.dead_letters;
SELECT object_name FROM mill.errors;
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) 0 AS nothing_of_the_traps_is_used FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_extension e ON d.refclassid OPERATOR(pg_catalog.=) 'pg_extension'::pg_catalog.regclass
        AND d.refobjid OPERATOR(pg_catalog.=) e.oid AND e.extname OPERATOR(pg_catalog.=) 'pg_mill'
    JOIN pg_catalog.pg_depend x ON x.classid OPERATOR(pg_catalog.=) d.classid AND x.objid OPERATOR(pg_catalog.=) d.objid
    WHERE x.refobjid OPERATOR(pg_catalog.=) ANY (SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) 'trap'::pg_catalog.regnamespace
        UNION ALL SELECT oid FROM pg_catalog.pg_operator WHERE oprnamespace OPERATOR(pg_catalog.=) 'trap'::pg_catalog.regnamespace
        UNION ALL SELECT oid FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) 'trap'::pg_catalog.regnamespace
        UNION ALL SELECT oid FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) 'trap'::pg_catalog.regnamespace);
RESET search_path;

-- who already has one of our schemas is told
BEGIN;
DROP EXTENSION pg_mill;
CREATE SCHEMA mill;
-- 18 adds where in the script it was
\set VERBOSITY terse
CREATE EXTENSION pg_mill;
\set VERBOSITY default
ROLLBACK;

CREATE TEMP VIEW member AS
    SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS object
    FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
    WHERE e.extname = 'pg_mill' AND d.deptype = 'e';

-- all that there is, for a look at each change
SELECT object FROM member WHERE object !~ '^type ' ORDER BY object COLLATE "C";
-- every one of them is explained
SELECT object FROM member WHERE object !~ '^(type|sequence|index) ' AND NOT (object ~ '^table|^view' AND classid <> 'pg_class'::regclass)
    AND coalesce(obj_description(objid, classid::regclass::name), '') = '' ORDER BY 1;
-- the functions' volatility, strictness and parallel safety: none by default where it matters
SELECT p.oid::regprocedure AS function, provolatile AS v, proisstrict AS s, proparallel AS p, prosecdef AS d, proconfig
    FROM pg_proc p JOIN member m ON m.objid = p.oid AND m.classid = 'pg_proc'::regclass
    ORDER BY p.oid::regprocedure::text COLLATE "C";

-- what PUBLIC may
SELECT object, a.privilege_type FROM member m
    JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid, aclexplode(c.relacl) a WHERE a.grantee = 0 ORDER BY 1;
SELECT nspname, a.privilege_type FROM pg_namespace, aclexplode(nspacl) a WHERE nspname IN ('mill', 'mill_catalog') AND a.grantee = 0 ORDER BY 1;
SELECT object FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
    WHERE NOT has_function_privilege('regress_mill_nobody', p.oid, 'EXECUTE') ORDER BY 1;
SELECT has_foreign_data_wrapper_privilege('regress_mill_nobody', 'kafka', 'USAGE') AS may_use_kafka;
SET ROLE regress_mill_nobody;
CREATE SERVER own FOREIGN DATA WRAPPER kafka;
SELECT FROM mill_catalog.pipeline;
CREATE TABLE mill.x ();
CREATE TABLE mill_catalog.x ();
SELECT mill.arm();
RESET ROLE;

-- what pg_dump takes along: configuration and offsets, no history
SELECT c.oid::regclass AS dumped FROM pg_extension e, unnest(extconfig) AS c (oid) WHERE extname = 'pg_mill' ORDER BY c.oid::regclass::text COLLATE "C";

-- the settings, each explained, and no others of that name
SELECT name, setting, context, short_desc FROM pg_settings WHERE name LIKE 'mill.%' ORDER BY name;
SET mill.worker_max = 1;

-- it goes without a trace, but for the role, which belongs to the server
CREATE SERVER goes FOREIGN DATA WRAPPER kafka;
DROP EXTENSION pg_mill;
DROP SERVER goes;
DROP EXTENSION pg_mill;
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'mill%';
SELECT count(*) FROM pg_proc WHERE probin LIKE '%pg_mill%';
SELECT count(*) FROM pg_foreign_data_wrapper;
SELECT count(*) FROM pg_roles WHERE rolname = 'mill_user';
CREATE EXTENSION pg_mill;
ALTER EXTENSION pg_mill SET SCHEMA public;

SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
DROP ROLE regress_mill_nobody;
