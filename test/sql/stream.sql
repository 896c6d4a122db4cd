-- Streams: secrets, the policy on client properties, privileges, and what other
-- commands make of a stream. The broker of these servers does not exist.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
RESET client_min_messages;
CREATE ROLE regress_mill_user;
CREATE ROLE regress_mill_files;
GRANT pg_read_server_files TO regress_mill_files;
GRANT USAGE ON FOREIGN DATA WRAPPER kafka TO regress_mill_user, regress_mill_files;
CREATE SCHEMA streams;
GRANT ALL ON SCHEMA streams TO regress_mill_user, regress_mill_files;
SET search_path = streams;

---- properties: the library's own names, and nothing that runs or loads code ----

CREATE SERVER shop FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "socket.timeout.ms" '1000');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.server" '127.0.0.1:1');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', topic 'x');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "socket.timeout.ms" 'soon');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "security.protocol" 'tls');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', " client.id" 'x');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "plugin.library.paths" '/tmp/x.so');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "ssl.engine.location" '/tmp/x.so');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "ssl.providers" 'x');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "sasl.kerberos.kinit.cmd" 'id');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "interceptors" 'x');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "opaque" 'x');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "log_cb" '0x1');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "test.mock.num.brokers" '3');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "enable.auto.commit" 'true');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "auto.offset.reset" 'latest');
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "allow.auto.create.topics" 'true');
-- secrets belong into a mapping, where not everybody reads them
CREATE SERVER bad FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "sasl.password" 'VerySecret');
ALTER SERVER shop OPTIONS (ADD "sasl.password" 'VerySecret');
ALTER SERVER shop OPTIONS (ADD "no.such.property" '1');
ALTER SERVER shop OPTIONS (SET "socket.timeout.ms" '1s');
ALTER SERVER shop OPTIONS (SET "socket.timeout.ms" '2000');
SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'shop';

---- user mappings ----

CREATE USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS ("sasl.username" 'E=t,l''"', "sasl.pasword" 'VerySecret');
CREATE USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS ("sasl.username" 'etl', "plugin.library.paths" 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS (
    "sasl.username" 'E=t,l''"', "sasl.password" 'VerySecret=with,all "signs" and ''quotes'' and more than 63 bytes of them, ÄÖÜ');
ALTER USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS (SET "sasl.password" E'VerySecret\nline');
CREATE FOREIGN TABLE clicks (id int NOT NULL, page text DEFAULT 'none', at timestamptz OPTIONS (field 'timestamp'),
    kafka_key bytea OPTIONS (metadata 'key'), headers jsonb OPTIONS (metadata 'headers')) SERVER shop
    OPTIONS (topic 'clicks', format 'json');
-- a mapping's options are shown to its user and the server's owner alone
CREATE USER MAPPING FOR regress_mill_user SERVER shop OPTIONS ("sasl.username" 'user', "sasl.password" 'VerySecret');
GRANT USAGE ON FOREIGN SERVER shop TO regress_mill_files;
SET ROLE regress_mill_files;
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'shop' AND usename LIKE 'regress_mill%';
RESET ROLE;
DROP USER MAPPING FOR regress_mill_user SERVER shop;

---- files and switches that not everybody may name ----

SET ROLE regress_mill_user;
CREATE SERVER own FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "ssl.ca.location" '/etc/passwd');
CREATE SERVER own FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "enable.ssl.certificate.verification" 'false');
CREATE SERVER own FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "ssl.endpoint.identification.algorithm" 'none');
CREATE SERVER own FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "sasl.mechanisms" 'GSSAPI');
CREATE SERVER own FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "sasl.kerberos.service.name" 'kafka');
CREATE SERVER own FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "client.id" 'mine');
CREATE USER MAPPING FOR CURRENT_USER SERVER own OPTIONS ("ssl.key.location" '/etc/ssl/private/key.pem');
CREATE USER MAPPING FOR CURRENT_USER SERVER own OPTIONS ("sasl.username" 'x', "sasl.password" 'VerySecret');
RESET ROLE;
SET ROLE regress_mill_files;
CREATE SERVER files FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "enable.ssl.certificate.verification" 'false');
CREATE SERVER files FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1', "security.protocol" 'ssl',
    "ssl.ca.location" '/etc/hostname_that_is_not_there');
RESET ROLE;

---- privileges on streams ----

SET ROLE regress_mill_user;
CREATE FOREIGN TABLE of_shop (id int) SERVER shop OPTIONS (topic 'x');
SELECT * FROM clicks;
CREATE FOREIGN TABLE mine (id int) SERVER own OPTIONS (topic 'mine');
RESET ROLE;
GRANT SELECT (id) ON clicks TO regress_mill_user;
SET ROLE regress_mill_user;
SELECT page FROM clicks;
EXPLAIN (COSTS OFF) SELECT id FROM clicks;
RESET ROLE;
-- no broker: an error that says so, without the secrets
SET statement_timeout = 0;
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE message text; detail text; hint text; state text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, state = RETURNED_SQLSTATE;
    RETURN left(state, 2) || ' ' || (message || detail || hint LIKE '%VerySecret%')::text;
END$$;
SELECT try('SELECT count(*) FROM clicks');

---- what others make of a stream ----

\d clicks
\det clicks
INSERT INTO clicks VALUES (1);
COPY clicks FROM stdin;
\.
UPDATE clicks SET id = 2;
DELETE FROM clicks;
MERGE INTO clicks c USING (VALUES (1)) v (id) ON c.id = v.id WHEN MATCHED THEN DELETE;
EXPLAIN (COSTS OFF) SELECT id FROM clicks FOR UPDATE;
TRUNCATE clicks;
ANALYZE clicks;
VACUUM clicks;
CREATE INDEX ON clicks (id);
CREATE TRIGGER t AFTER INSERT ON clicks FOR EACH ROW EXECUTE FUNCTION no_such_function();
SELECT reltuples >= 0 AS has_statistics FROM pg_class WHERE oid = 'clicks'::regclass;
ALTER FOREIGN TABLE clicks ADD COLUMN bad int OPTIONS (metdata 'offset');
ALTER FOREIGN TABLE clicks ALTER COLUMN id OPTIONS (ADD field 'a..b');
ALTER FOREIGN TABLE clicks ADD COLUMN off text OPTIONS (metadata 'offset');
EXPLAIN (COSTS OFF) SELECT off FROM clicks WHERE off = '1';
EXPLAIN (COSTS OFF, VERBOSE) SELECT id FROM clicks c JOIN (VALUES (1)) v (x) ON v.x = c.id;
-- a partition that is a stream is read along
CREATE TABLE both_kinds (id int NOT NULL, page text) PARTITION BY LIST (id);
CREATE FOREIGN TABLE part PARTITION OF both_kinds FOR VALUES IN (1) SERVER shop OPTIONS (topic 'part');
EXPLAIN (COSTS OFF) SELECT page FROM both_kinds WHERE id = 1;
INSERT INTO both_kinds VALUES (1, 'x');
-- views carry their owner's rights
CREATE VIEW ids AS SELECT id FROM clicks;
GRANT SELECT ON ids TO regress_mill_user;
SET ROLE regress_mill_user;
EXPLAIN (COSTS OFF) SELECT * FROM ids WHERE id > 5;
RESET ROLE;
-- calls that are the server's business
SELECT mill.kafka_handler();
SELECT mill.kafka_validator('{topic=x}', 'pg_foreign_table'::regclass);
SELECT mill.kafka_validator('{x=1}', 'pg_foreign_data_wrapper'::regclass);
ALTER FOREIGN DATA WRAPPER kafka OPTIONS (ADD "x" '1');

SET client_min_messages = warning;
DROP SCHEMA streams CASCADE;
DROP SERVER shop CASCADE;
DROP SERVER IF EXISTS own CASCADE;
DROP SERVER IF EXISTS files CASCADE;
REVOKE ALL ON FOREIGN DATA WRAPPER kafka FROM regress_mill_user, regress_mill_files;
DROP ROLE regress_mill_user, regress_mill_files;
