# Room: job.
#
# Files of the server into tables, each once, and results into files: what is
# loaded, what is rejected with which line, what a crash or a second loader does,
# names that want to get out of their directory, and who may.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

$MillTest::deadline = 60;
my $node = new_cluster('files', conf => "mill.workers_max = 4\n");
my $dir = "$test_dir/files";
mkdir $dir or die;

sub sql { return $node->safe_psql('postgres', join('', @_)); }
sub said { my ($statement) = @_; my ($out, $err) = ('', ''); $node->psql('postgres', $statement, stdout => \$out, stderr => \$err); return "$out$err"; }
sub write_to { my ($name, @lines) = @_; open(my $out, '>:raw', "$dir/$name") or die $!; print $out @lines; close($out); return; }
sub content { my ($name) = @_; return -e "$dir/$name" ? slurp_file("$dir/$name") : 'none'; }

sql(q[CREATE EXTENSION pg_mill;
	CREATE TABLE orders (id int PRIMARY KEY, name text DEFAULT 'none', amount numeric CHECK (amount < 100), at timestamptz DEFAULT '2026-01-01', twice int GENERATED ALWAYS AS (id * 2) STORED)]);

# ---- csv ----

write_to('o1.csv', "id,name,amount\n1,a,1.5\n2,\"b,c\",2\n3,,\n");
write_to('o2.csv', "id,name,amount\n4,x,oops\n5,y,3\n6,z\n7,w,4\n8,v,5,6\n9,\"open\nline\",9\n1,twice,1\n10,big,100\n");
write_to('o3.csv', "id,name,amount\n11,\xff\xfe,1\n");
write_to('o4.csv', "id,name,amount\n12,last,1\n");
my $load = "CALL mill.load_files('orders', '$dir/o*.csv', columns => '{id,name,amount}', options => 'HEADER true')";
like(said($load), qr/WARNING:  file ".*o3.csv" was not loaded: invalid byte sequence/, 'a file that is no text is told of');
is(sql(q[SELECT string_agg(concat_ws(' ', id, replace(name, E'\n', '~'), amount, extract(year FROM at), twice), ',' ORDER BY id) FROM orders]),
	'1 a 1.5 2026 2,2 b,c 2 2026 4,3 2026 6,5 y 3 2026 10,7 w 4 2026 14,9 open~line 9 2026 18,12 last 1 2026 24', 'the good rows of all others are loaded');
is(sql(qq[SELECT string_agg(concat_ws(' ', substr(path, length('$dir') + 2), state, rows, rejected), ',' ORDER BY path) FROM mill.files]),
	'o1.csv loaded 3 0,o2.csv loaded 3 5,o3.csv failed 0 0,o4.csv loaded 1 0', 'the ledger; a bad file does not hold back others');
is(sql(q[SELECT string_agg(concat_ws(' ', line, sqlstate, row_text), ';' ORDER BY line) FROM mill.rejected_rows]),
	'2 22P02 4,x,oops;4 22P04 6,z;6 22P04 8,v,5,6;9 23505 1,twice,1;10 23514 10,big,100', 'the bad ones are kept, with their lines');
said($load);
is(sql('SELECT count(*) FROM orders'), 7, 'each file once');
is(sql(q[SELECT count(*) FROM mill.rejected_rows]), 5, 'also what it rejected');
write_to('o3.csv', "id,name,amount\n11,mended,1\n");
write_to('o4.csv', "id,name,amount\n13,other,1\n");
sql($load);
is(sql('SELECT string_agg(name, \',\' ORDER BY id) FROM orders WHERE id > 10'), 'mended,last,other', 'what was mended, and what has other contents, is loaded');
sql("SELECT 1; CREATE TABLE o5 (LIKE orders INCLUDING ALL)");
write_to('stop.csv', "1,a,1\n2,b,oops\n");
like(said("CALL mill.load_files('o5', '$dir/stop.csv', columns => '{id,name,amount}', on_error => 'stop')"), qr/was not loaded: invalid input syntax for type numeric: "oops"/, 'on_error stop');
like(said("CALL mill.load_files('o5', '$dir/o2.csv', columns => '{id,name,amount}', options => 'HEADER true', max_errors => 1)"), qr/More rows than max_errors are bad/, 'max_errors');
is(sql('SELECT count(*) FROM o5'), 0, 'nothing of those');
like(said("CALL mill.load_files('o5', '$dir/o1.csv', options => 'HEADER true); DROP TABLE orders; --')"), qr/argument "options" is no list of options of COPY|syntax error/, 'options are no way in');
like(said("CALL mill.load_files('o5', '$dir/o1.csv', 'xml')"), qr/Valid values are: csv, text, json/, 'an unknown format');
is(said("CALL mill.load_files('o5', '$dir/nothing*')"), '', 'no file');
# within a transaction, and from two sessions
sql("BEGIN; CALL mill.load_files('o5', '$dir/o1.csv', columns => '{id,name,amount}', options => 'HEADER true'); ROLLBACK");
is(sql('SELECT (SELECT count(*) FROM o5), (SELECT count(*) FROM mill.files WHERE target = \'o5\'::regclass AND state = \'loaded\')'), '0|0', 'rolled back, with its entry');
{
	my $first = $node->background_psql('postgres');

	$first->query_safe("BEGIN; CALL mill.load_files('o5', '$dir/o1.csv', columns => '{id,name,amount}', options => 'HEADER true')");
	my $second = $node->background_psql('postgres');
	$second->query_until(qr/go/, "\\echo go\nCALL mill.load_files('o5', '$dir/o1.csv', columns => '{id,name,amount}', options => 'HEADER true');\n");
	wait_for_sql($node, q[SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CALL%' AND wait_event_type = 'Lock']);
	$first->query_safe('COMMIT');
	$second->quit;
	$first->quit;
	is(sql('SELECT count(*) FROM o5'), 3, 'two who load one file: once');
}

# ---- JSON lines, text ----

sql(q[CREATE TABLE clicks (id int, page text DEFAULT 'none', amount numeric DEFAULT 3, tags text[], n serial, "Odd" jsonb)]);
write_to('c1.json', qq[{"id":1,"page":"p","tags":["a","b"],"Odd":{"x":1}}\n\n{"id":2,"amount":7.5,"more":1,"page":null}\r\n{"id":"x"}\n[1]\n{"id":4}\n{"id":3]);
sql("CALL mill.load_files('clicks', '$dir/*.json', 'json')");
is(sql(q[SELECT string_agg(concat_ws('|', id, coalesce(page, 'NULL'), amount, tags, n > 0, "Odd"), ';' ORDER BY id) FROM clicks]), '1|p|3|{a,b}|t|{"x": 1};2|NULL|7.5|t;4|none|3|t', 'JSON lines: absent fields are defaults, null is null');
is(sql(q[SELECT string_agg(concat_ws(' ', line, row_text), ';' ORDER BY line) FROM mill.rejected_rows WHERE path LIKE '%json']), '4 {"id":"x"};5 [1];7 {"id":3', 'bad lines');
write_to('t1.txt', "20\tx\\ty\t1\n");
sql("CALL mill.load_files('orders', '$dir/t1.txt', 'text', '{id,name,amount}')");
is(sql(q[SELECT name FROM orders WHERE id = 20]), "x\ty", 'text');

# ---- as a step: one transaction per file ----

write_to("many$_.csv", map { "$_,f\n" } 1000 * $_ .. 1000 * $_ + 9) for 1 .. 5;
sql(qq[CREATE TABLE many (id int, f text); SELECT mill.create_job('load', command => \$\$CALL mill.load_files('many', '$dir/many*.csv')\$\$, transaction => 'own')]);
my $run = sql(q[SELECT mill.run_now('load')]);
ok(wait_for_sql($node, "SELECT state = 'success' FROM mill.job_runs WHERE run_id = $run"), 'files are loaded by a step');
is(sql(q[SELECT count(*), count(DISTINCT id), count(DISTINCT xmin::text) FROM many]), '50|50|5', 'each in its transaction');
is(sql("SELECT count(*) FROM mill.files WHERE run_id = $run"), 5, 'with the run');

# ---- export ----

sql(q[CREATE TABLE sums (day date, country text, n int, note text); INSERT INTO sums VALUES ('2026-01-01', 'DE', 1, 'a,b'), ('2026-01-01', 'FR', 2, E'x\ny'), ('2026-01-01', '../../etc', 3, 'back\\slash'), ('2026-01-01', NULL, 4, '"q"'), ('2026-01-01', '', 5, '')]);
is(sql(qq[SELECT mill.export('SELECT * FROM sums ORDER BY n', '$dir/all_{interval_start}.csv', "from" => '2026-01-01', "to" => '2026-01-02', options => 'HEADER true')]), 5, 'export');
is(content('all_2026-01-01.csv'), "day,country,n,note\n2026-01-01,DE,1,\"a,b\"\n2026-01-01,FR,2,\"x\ny\"\n2026-01-01,../../etc,3,back\\slash\n2026-01-01,,4,\"\"\"q\"\"\"\n2026-01-01,\"\",5,\"\"\n", 'is what COPY writes');
is(sql(qq[SELECT mill.export('SELECT country, n FROM sums WHERE day >= \$1 AND day < \$2', '$dir/out/day={interval_start}/{country}.json', 'json', 'country', "from" => '2026-01-01', "to" => '2026-01-02')]), 5, 'export by a column');
is(join(',', map { s{.*/}{}r } sort glob("$dir/out/day=2026-01-01/*")), '%00.json,%2E.%2F..%2Fetc.json,DE.json,FR.json,null.json', 'a value does not leave its directory');
is(content('out/day=2026-01-01/FR.json'), "{\"n\": 2}\n", 'JSON lines, without the column of the name');
is(sql(qq[SELECT mill.export('SELECT note FROM sums WHERE n IN (2, 3) ORDER BY n', '$dir/notes.json', 'json')]) && content('notes.json'), qq[{"note": "x\\ny"}\n{"note": "back\\\\slash"}\n], 'JSON as it is');
sql("BEGIN; SELECT mill.export('SELECT 1', '$dir/never.csv'); ROLLBACK");
sql("BEGIN; SAVEPOINT s; SELECT mill.export('SELECT 1', '$dir/never.csv'); ROLLBACK TO s; SAVEPOINT t; SELECT mill.export('SELECT 2', '$dir/yes.csv'); RELEASE t; COMMIT");
is(content('never.csv'), 'none', 'nothing of what was rolled back');
is(content('yes.csv'), "2\n", 'but of what was not');
like(said("BEGIN; SELECT mill.export('SELECT 3', '$dir/yes.csv'); SELECT mill.export('SELECT 4', '$dir/yes.csv'); COMMIT"), qr/would be written twice in one transaction/, 'one name twice');
is(content('yes.csv'), "2\n", 'the old one stays');
is(join(',', glob("$dir/*.tmp $dir/out/*/*.tmp")), '', 'no temporary file is left');
like(said("SELECT mill.export('SELECT 1', '$dir/{nope}.csv')"), qr/unknown part "\{nope\}"/, 'an unknown part');
like(said("SELECT mill.export('SELECT 1', 'relative.csv')"), qr/relative path not allowed/, 'a relative path');
like(said("SELECT mill.export('SELECT 1', '$dir/{interval_start}.csv')"), qr/has an interval, and there is none/, 'no interval');
like(said("SELECT mill.export('SELECT 1 AS a', '$dir/{b}.csv', partition_by => 'b')"), qr/the query has no column "b"/, 'no such column');
sql(qq[SELECT mill.create_job('out', '\@daily', \$\$SELECT mill.export('SELECT \$1 AS a, \$2 AS b', '$dir/job_{interval_end}.csv', "from" => \$1, "to" => \$2)\$\$, time_zone => 'UTC')]);
my $backfill = sql(q[SELECT mill.backfill('out', '2026-02-01', '2026-02-04')]);
ok(wait_for_sql($node, "SELECT state = 'success' FROM mill.backfills WHERE backfill_id = $backfill"), 'a job that exports');
is(content('job_2026-02-03.csv'), "2026-02-02 00:00:00+00,2026-02-03 00:00:00+00\n", 'one file for each interval');

# ---- who may ----

sql(qq[CREATE ROLE ann LOGIN; GRANT mill_user TO ann; GRANT ALL ON SCHEMA public TO ann; CREATE ROLE reader; GRANT pg_read_server_files TO reader;
	SET ROLE ann; CREATE TABLE anns (id int, f text)]);
like(said("SET ROLE ann; CALL mill.load_files('anns', '$dir/many1.csv')"), qr/permission denied for procedure load_files/, 'who may not read files');
like(said("SET ROLE ann; SELECT mill.export('SELECT 1', '$dir/anns.csv')"), qr/permission denied for function export/, 'who may not write files');
like(said("SET ROLE reader; CALL mill.load_files('anns', '$dir/many1.csv')"), qr/permission denied for table anns/, 'who may not write the table');
like(said("CALL mill.load_files('anns', '$dir/many1.csv')"), qr/a superuser cannot write into "anns", which belongs to another role/, 'a superuser does not run what others wrote');
sql('GRANT pg_read_server_files TO ann');
sql("SET ROLE ann; CALL mill.load_files('anns', '$dir/many1.csv')");
is(sql('SELECT count(*) FROM anns'), 10, 'who may');
is(said('SET ROLE reader; SELECT count(*) FROM mill.files'), '0', 'and nobody sees what others loaded');

$node->stop;
done_testing();
