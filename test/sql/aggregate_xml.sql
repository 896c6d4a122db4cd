-- A server without libxml refuses this by itself: aggregate_xml_1.out.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_mill;
CREATE TABLE pages (id bigint PRIMARY KEY);
CREATE VIEW pages_by_name AS SELECT name, count(*) FROM pages, XMLTABLE('/a' PASSING '<a/>' COLUMNS name text) x GROUP BY name;
SELECT mill.materialize('pages_by_name');
DROP TABLE pages CASCADE;
