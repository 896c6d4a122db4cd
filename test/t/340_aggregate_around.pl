# Room: aggregate.
#
# What happens around continuous aggregates: rights, row security, partitions of
# other owners, detached and truncated ones, everybody against everybody. The views
# are always what their queries give; where that takes the plain query, mill.aggregates
# says why, and they are live again by themselves. CASES 62, 64, 68.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $node = new_cluster('around', conf => "log_min_messages = error\n");
my $pgbench = $node->installed_command('pgbench');

sub sql { return $node->safe_psql('postgres', join('', @_)); }
sub state_of { return sql("SELECT concat_ws(': ', state, reason) FROM mill.aggregates WHERE aggregate = '$_[0]'::regclass"); }
sub becomes_live { return wait_for_sql($node, "SELECT state = 'live' FROM mill.aggregates WHERE aggregate = '$_[0]'::regclass"); }

# The rows in which a view and its query differ, both ways, in one snapshot.
sub differences
{
	my ($view, $query) = @_;

	return sql("SELECT 'missing ' || d::text FROM ($query EXCEPT ALL TABLE $view) d UNION ALL SELECT 'too much ' || d::text FROM (TABLE $view EXCEPT ALL $query) d");
}

sql(q[CREATE EXTENSION pg_mill; CREATE ROLE owner_of_table; CREATE ROLE analyst LOGIN; GRANT mill_user TO analyst;
	CREATE SCHEMA a AUTHORIZATION analyst; CREATE SCHEMA t AUTHORIZATION owner_of_table; GRANT USAGE ON SCHEMA t TO analyst, PUBLIC]);

# ---- CASES 62: partitions of somebody else ----

my $query = 'SELECT k, count(*) AS n, max(v) AS v FROM t.b GROUP BY k';
sql("SET ROLE owner_of_table; CREATE TABLE t.b (k int, v int) PARTITION BY LIST (k); GRANT SELECT, TRIGGER ON t.b TO analyst;
	SET ROLE analyst; CREATE VIEW a.v AS $query; SELECT mill.materialize('a.v', fold_interval => '100 milliseconds')");
my $check = sub { is(differences('a.v', $query), '', "CASES 62: $_[0]") };
my $do = sub { my ($what, $statement) = @_; sql("SET ROLE owner_of_table; $statement"); $check->($what) };

$do->('the table\'s owner adds a partition that the view\'s owner may not read', 'CREATE TABLE t.b2 PARTITION OF t.b FOR VALUES IN (2); INSERT INTO t.b VALUES (2, 1), (2, 2)');
$do->('attaches one with rows, and columns in another order', 'CREATE TABLE t.b3 (v int, x text, k int); ALTER TABLE t.b3 DROP COLUMN x; INSERT INTO t.b3 VALUES (7, 3), (8, 3); ALTER TABLE t.b ATTACH PARTITION t.b3 FOR VALUES IN (3)');
is(sql('SELECT n, v FROM a.v WHERE k = 3'), '2|8', 'CASES 62: its rows are counted');
$do->('writes to it directly', 'INSERT INTO t.b3 VALUES (9, 3); UPDATE t.b3 SET v = 1 WHERE v = 9');
$do->('truncates it', 'TRUNCATE t.b2');
$do->('detaches it', 'ALTER TABLE t.b DETACH PARTITION t.b3');
is(sql(q[SELECT count(*) FROM pg_trigger WHERE tgrelid = 't.b3'::regclass]), 0, 'CASES 62: which has none of our triggers then');
$do->('truncates the whole table', 'INSERT INTO t.b VALUES (2, 5); TRUNCATE t.b');
is(state_of('a.v'), 'live', 'CASES 62: and it stays live');
$do->('partitions of partitions', 'CREATE TABLE t.b4 PARTITION OF t.b FOR VALUES IN (4) PARTITION BY RANGE (v); CREATE TABLE t.b41 PARTITION OF t.b4 FOR VALUES FROM (0) TO (10);
	CREATE TABLE t.b42 PARTITION OF t.b4 FOR VALUES FROM (10) TO (20); INSERT INTO t.b SELECT 4, i FROM generate_series(0, 19) i');
$do->('TRUNCATE of the middle level', 'TRUNCATE t.b4');
$do->('and rows after it', 'INSERT INTO t.b VALUES (4, 1), (4, 1), (4, 11)');
is(sql('SELECT n FROM a.v WHERE k = 4'), 3, 'CASES 62: which are counted once');
$do->('TRUNCATE of the lowest level', 'TRUNCATE t.b42');
$do->('DETACH of the middle level', 'ALTER TABLE t.b DETACH PARTITION t.b4');
$do->('it comes back', 'ALTER TABLE t.b ATTACH PARTITION t.b4 FOR VALUES IN (4)');
$do->('a partition is dropped', 'INSERT INTO t.b VALUES (2, 3); DROP TABLE t.b41');
is(sql(q[SELECT detail->>'resting' FROM mill.events WHERE event = 'laid to rest' ORDER BY at DESC LIMIT 1]), 'a partition was dropped', 'CASES 62: then the view is the plain query');
ok(becomes_live('a.v'), 'CASES 62: until it is filled anew');
$do->('rows after that', 'INSERT INTO t.b VALUES (2, 9)');
$do->('an unlogged partition', 'ALTER TABLE t.b2 SET UNLOGGED; INSERT INTO t.b VALUES (2, 2)');
is(state_of('a.v'), 'resting: t.b2 is unlogged', 'CASES 62: is told');
$do->('logged again', 'ALTER TABLE t.b2 SET LOGGED');
ok(becomes_live('a.v'), 'CASES 62: it is filled anew');

# DETACH ... CONCURRENTLY that waits, is canceled, is finished
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM t.b');
my ($code, $out, $err) = try_psql($node, q[SET statement_timeout = '500ms'; ALTER TABLE t.b DETACH PARTITION t.b2 CONCURRENTLY]);
like($err, qr/canceling statement/, 'CASES 62: DETACH CONCURRENTLY is canceled while it waits');
$check->('while it is pending');
sql('INSERT INTO t.b2 VALUES (2, 77)');
$check->('written to directly meanwhile');
sql('CREATE TABLE public.other ()');
$reader->query_safe('COMMIT');
$reader->quit;
$do->('finished', 'ALTER TABLE t.b DETACH PARTITION t.b2 FINALIZE');
ok(becomes_live('a.v'), 'CASES 62: live in the end');
$check->('after it');
is(sql(q[SELECT count(*) FROM mill.verify('a.v')]), 0, 'CASES 62: mill.verify agrees');

# replica role, also for DDL
sql(q[SET session_replication_role = replica; CREATE TABLE t.b5 PARTITION OF t.b FOR VALUES IN (5); INSERT INTO t.b VALUES (5, 5); RESET session_replication_role; INSERT INTO t.b VALUES (5, 6)]);
$check->('CREATE and INSERT in replica role');
sql(q[CREATE TABLE t.gone (k int); CREATE VIEW a.gone AS SELECT k, count(*) FROM t.gone GROUP BY k; SELECT mill.materialize('a.gone');
	SET session_replication_role = replica; DROP TABLE t.gone CASCADE; RESET session_replication_role; CREATE TABLE t.next ()]);
is(sql(q[SELECT count(*) FROM mill_catalog.aggregate WHERE state_name = 'gone$state']), 0, 'CASES 62: DROP in replica role leaves nothing behind');

# ---- CASES 64: rights and row security ----

sql(q[ALTER TABLE t.b ENABLE ROW LEVEL SECURITY]);
is(state_of('a.v'), 'resting: row security of t.b is switched on', 'CASES 64: row security switched on');
sql('INSERT INTO t.b VALUES (5, 7)');
is(sql('SELECT count(*) FROM a.v'), 0, 'CASES 64: shows no rows that its owner may not see');
sql(q[ALTER TABLE t.b DISABLE ROW LEVEL SECURITY]);
ok(becomes_live('a.v'), 'CASES 64: off again: live again');
$check->('and right');
sql('REVOKE SELECT ON t.b FROM analyst; INSERT INTO t.b VALUES (5, 8)');
is(state_of('a.v'), 'resting: its owner may not read t.b', 'CASES 64: rights taken away: no INSERT fails');
sql('GRANT SELECT ON t.b TO analyst');
ok(becomes_live('a.v'), 'CASES 64: given back: live again');
$check->('and right');
# the schema's, which the fold finds out by itself
sql(q[CREATE SCHEMA r; CREATE TABLE r.s (k int, v int); GRANT USAGE ON SCHEMA r TO analyst; GRANT SELECT, TRIGGER ON r.s TO analyst; SET ROLE analyst;
	CREATE VIEW a.r AS SELECT k, max(v) AS v FROM r.s GROUP BY k; SELECT mill.materialize('a.r', fold_interval => '10 milliseconds')]);
ok(becomes_live('a.r'), 'CASES 64: a schema of another role');
sql('REVOKE USAGE ON SCHEMA r FROM analyst');
sql('INSERT INTO r.s VALUES (1, 2), (1, 3); DELETE FROM r.s WHERE v = 3');
ok($node->poll_query_until('postgres', q[SELECT reason = 'its owner may not use schema r' FROM mill.aggregates WHERE aggregate = 'a.r'::regclass]), 'CASES 64: that is closed');
sql('GRANT USAGE ON SCHEMA r TO analyst');
ok(becomes_live('a.r'), 'CASES 64: opened again: live again');
is(sql('TABLE a.r'), '1|2', 'CASES 64: and right');
# a table that is looked up
sql(q[SET ROLE owner_of_table; CREATE TABLE t.name (k int, name text); INSERT INTO t.name VALUES (5, 'five'); GRANT SELECT ON t.name TO analyst; SET ROLE analyst;
	CREATE VIEW a.j AS SELECT name, count(*) AS n FROM t.b JOIN t.name USING (k) GROUP BY name; SELECT mill.materialize('a.j')]);
sql('ALTER TABLE t.name ENABLE ROW LEVEL SECURITY; INSERT INTO t.b VALUES (5, 9)');
is(state_of('a.j'), 'resting: row security of t.name is switched on', 'CASES 64: of a joined table');
sql('ALTER TABLE t.name DISABLE ROW LEVEL SECURITY');
ok(becomes_live('a.j'), 'CASES 64: off again');
is(sql('SELECT n FROM a.j'), sql('SELECT count(*) FROM t.b WHERE k = 5'), 'CASES 64: nothing is missing');
sql('DROP VIEW a.j');

# What psql has on standard error.
sub says
{
	my ($what, $statement, $message) = @_;
	my ($code, $out, $err) = try_psql($node, $statement);

	return like($err, $message, $what);
}

sub refused
{
	my ($what, $view, $message) = @_;

	says("CASES 64: $what", "CREATE VIEW a.no AS $view; SELECT mill.materialize('a.no')", $message);
	return sql('DROP VIEW IF EXISTS a.no');
}

sql('CREATE VIEW t.of_b AS SELECT k, max(v) AS most FROM t.b GROUP BY k; CREATE VIEW t.over AS SELECT k FROM t.of_b UNION ALL SELECT k FROM t.name; CREATE TABLE t.times (at timestamptz)');
refused('a joined view over the base table', 'SELECT b.k, count(*) FROM t.b JOIN t.of_b USING (k) GROUP BY 1', qr/a join with "t\.of_b", which has rows of the base table/);
refused('a view over a view over it', 'SELECT b.k, count(*) FROM t.b JOIN t.over USING (k) GROUP BY 1', qr/rows of the base table/);
refused('a join with a partition of it', 'SELECT b.k, count(*) FROM t.b JOIN t.b5 USING (k) GROUP BY 1', qr/a join with "t\.b5"/);
refused('a window made optional', q[SELECT window_start, count(*) FROM t.times LEFT JOIN LATERAL mill.tumble(at, '1 hour') ON true GROUP BY 1], qr/an outer join whose optional side is the window/);
refused('a window with ordinality', q[SELECT window_start, ordinality, count(*) FROM t.times, mill.tumble(at, '1 hour') WITH ORDINALITY w(window_start, window_end, ordinality) GROUP BY 1, 2], qr/WITH ORDINALITY/);

# ---- CASES 65: a group that comes out negative ----

sql(q[CREATE TABLE t.n (k int); INSERT INTO t.n VALUES (1), (1), (2); CREATE VIEW a.n AS SELECT k, count(*) AS n FROM t.n GROUP BY k; SELECT mill.materialize('a.n', fold_interval => '1 hour')]);
# what nobody does: forge a delta
sql(q[INSERT INTO mill_data."n$delta" (k, row_count) VALUES (2, -5)]);
# by us or by the worker
sql(q[SELECT mill.fold('a.n')]);
is(sql(q[SELECT detail->>'resting' FROM mill.events WHERE event = 'laid to rest' ORDER BY at DESC LIMIT 1]), 'group (2) had fewer than no rows', 'CASES 65: is told by its name, and lays the aggregate to rest');
is(sql('SELECT n FROM a.n WHERE k = 2'), 1, 'CASES 65: the view is right');
ok(becomes_live('a.n'), 'CASES 65: it is filled anew');
is(differences('a.n', 'SELECT k, count(*) AS n FROM t.n GROUP BY k'), '', 'CASES 65: and right');

# ---- CASES 67: many stale groups without an index ----

sql(q[CREATE TABLE t.w AS SELECT i, i % 5000 AS k, i AS v FROM generate_series(1, 100000) i; ANALYZE t.w;
	CREATE VIEW a.w AS SELECT k, count(*) AS n, max(v) AS v FROM t.w GROUP BY k; SELECT mill.materialize('a.w', fold_interval => '1 hour')]);
ok(becomes_live('a.w'), 'CASES 67: a table without an index');
sql('DELETE FROM t.w WHERE i <= 2000');
my $began = Time::HiRes::time();
is(differences('a.w', 'SELECT k, count(*) AS n, max(v) AS v FROM t.w GROUP BY k'), '', 'CASES 67: 2,000 stale groups');
cmp_ok(Time::HiRes::time() - $began, '<', 10, 'CASES 67: are computed in one pass');
sql(q[SELECT mill.fold('a.w')]);
is(differences('a.w', 'SELECT k, count(*) AS n, max(v) AS v FROM t.w GROUP BY k') . sql(q[SELECT count(*) FROM mill_data."w$delta"]), '0', 'CASES 67: and folded');

# ---- CASES 67: a branch that is not run is no reason to compile a query ----

SKIP:
{
	skip('this server cannot compile queries', 4) if sql('SET jit = on; SELECT pg_jit_available()') ne 't';
	my $plan = sub { return sql("SET jit = on; SET jit_above_cost = $_[0]; SET max_parallel_workers_per_gather = 0; EXPLAIN (ANALYZE, TIMING OFF) SELECT sum(n) FROM $_[1] x"); };
	my $query = '(SELECT k, count(*) AS n, max(v) AS v FROM t.w GROUP BY k)';

	sql('VACUUM ANALYZE t.w; VACUUM ANALYZE mill_data."w$state"');
	like($plan->(1500, $query), qr/JIT:/, 'CASES 67: the plain query costs much and is compiled');
	unlike($plan->(1500, 'a.w'), qr/JIT:/, 'CASES 67: the view is not');
	like($plan->(50, 'a.w'), qr/JIT:/, 'CASES 67: but where the state table costs much');
	sql(q[UPDATE mill_catalog.aggregate SET live = false WHERE view = 'a.w'::regclass]);
	like($plan->(1500, 'a.w'), qr/JIT:/, 'CASES 67: and where it is the plain query');
	sql(q[UPDATE mill_catalog.aggregate SET live = true WHERE view = 'a.w'::regclass]);
}

# ---- CASES 61: triggers of ours by their names, and DROP VIEW in replica role ----

sql(q[CREATE TABLE t.q (k int, v int); INSERT INTO t.q SELECT i % 3, i FROM generate_series(1, 30) i; CREATE TABLE t.names (k int PRIMARY KEY, name text);
	INSERT INTO t.names VALUES (0, 'a'), (1, 'b'), (2, 'c'); CREATE VIEW a.q AS SELECT k, count(*) AS n, sum(v) AS s FROM t.q GROUP BY k; SELECT mill.materialize('a.q')]);
my $q = 'SELECT k, count(*) AS n, sum(v) AS s FROM t.q GROUP BY k';
my @ours = split /\n/, sql(q[SELECT tgname FROM pg_trigger WHERE tgrelid = 't.q'::regclass AND tgname LIKE 'mill%' ORDER BY 1]);
cmp_ok(scalar @ours, '>=', 3, 'CASES 61: a table has triggers of ours');
foreach my $name (@ours)
{
	try_psql($node, qq(ALTER TRIGGER "$name" ON t.q RENAME TO "renamed $name"));
	sql('INSERT INTO t.q VALUES (1, 100); UPDATE t.q SET v = v + 1 WHERE k = 2; DELETE FROM t.q WHERE v = 3');
	is(differences('a.q', $q), '', 'CASES 61: ALTER TRIGGER ... RENAME of one of ours: counted once');
	my $now = sql(qq(SELECT tgname FROM pg_trigger WHERE tgrelid = 't.q'::regclass AND tgname IN ('$name', 'renamed $name')));
	try_psql($node, qq(ALTER TABLE t.q DISABLE TRIGGER "$now"));
	sql('INSERT INTO t.q VALUES (1, 100); UPDATE t.q SET v = v + 1 WHERE k = 2; DELETE FROM t.q WHERE v = 5');
	is(differences('a.q', $q), '', 'CASES 61: DISABLE TRIGGER of one of ours: right');
	try_psql($node, qq(ALTER TABLE t.q ENABLE TRIGGER "$now"));
	sql('INSERT INTO t.q VALUES (0, 7)');
	is(differences('a.q', $q), '', 'CASES 61: and enabled: right');
	ok(becomes_live('a.q'), 'CASES 61: live in the end');
}
sql(q[CREATE VIEW a.q2 AS TABLE a.q; SET session_replication_role = replica; DROP VIEW a.q CASCADE; RESET session_replication_role; INSERT INTO t.q VALUES (1, 1); CREATE TABLE t.q3 ()]);
is(sql(q[SELECT count(*) FROM mill_catalog.aggregate WHERE state_name = 'q$state']) . sql(q[SELECT count(*) FROM pg_trigger WHERE tgrelid = 't.q'::regclass AND tgname LIKE '%mill%']), '00', 'CASES 68: DROP VIEW in replica role leaves nothing behind');

# ---- CASES 63: a case that changes below a collation that ignores it ----

SKIP:
{
	my (undef, undef, $why) = try_psql($node, q[CREATE COLLATION t.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)]);
	skip('this server has no ICU', 2) if $why =~ /ICU is not supported/;
	sql(q[CREATE TABLE t.ci (id int, k text COLLATE t.any_case, x text COLLATE t.any_case);
		INSERT INTO t.ci VALUES (1, 'a', 'one'), (2, 'B', 'two'); CREATE VIEW a.ci AS SELECT id, max(x) AS x, min(k) AS k FROM t.ci GROUP BY id; SELECT mill.materialize('a.ci')]);
	ok(becomes_live('a.ci'), 'CASES 63: a nondeterministic collation');
	sql(q[UPDATE t.ci SET x = 'ONE', k = 'A' WHERE id = 1]);
	is(sql('SELECT x, k FROM a.ci WHERE id = 1'), 'ONE|A', 'CASES 63: an UPDATE to an equal value of another case shows');
}

# ---- CASES 64: rows that are looked up vanish together with the rows of the base ----

sql(q[CREATE TABLE t.child (k int REFERENCES t.names, v int); INSERT INTO t.child SELECT i % 3, i FROM generate_series(1, 30) i;
	CREATE VIEW a.child AS SELECT name, count(*) AS n FROM t.child JOIN t.names USING (k) GROUP BY name; SELECT mill.materialize('a.child')]);
my $child = 'SELECT name, count(*) AS n FROM t.child JOIN t.names USING (k) GROUP BY name';
ok(becomes_live('a.child'), 'CASES 64: a joined table');
sql('BEGIN; DELETE FROM t.child WHERE k = 1; DELETE FROM t.names WHERE k = 1; COMMIT');
is(differences('a.child', $child), '', 'CASES 64: rows of the base first, then those that are looked up: right');
sql('TRUNCATE t.child, t.names');
is(differences('a.child', $child), '', 'CASES 64: both emptied at once');

# ---- what is refused for the moment ----

sql(q[CREATE TABLE t.u (k int, v int) PARTITION BY LIST (k); CREATE TABLE t.u1 PARTITION OF t.u FOR VALUES IN (1); CREATE UNLOGGED TABLE t.u2 PARTITION OF t.u FOR VALUES IN (2);
	INSERT INTO t.u VALUES (1, 1), (2, 2); CREATE VIEW a.u AS SELECT k, count(*) AS n FROM t.u GROUP BY k]);
says('CASES 62: an unlogged partition is told when the view is materialized', q[SELECT mill.materialize('a.u')], qr/t\.u2 is unlogged/);
sql(q[ALTER TABLE t.u2 SET LOGGED; SELECT mill.materialize('a.u')]);
ok(becomes_live('a.u'), 'CASES 62: logged it is taken');
$reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM t.u');
try_psql($node, q[SET statement_timeout = '500ms'; ALTER TABLE t.u DETACH PARTITION t.u2 CONCURRENTLY]);
like(sql(q[SELECT coalesce(reason, warning) FROM mill.aggregates WHERE aggregate = 'a.u'::regclass]), qr/DETACH .* of t\.u2 is not finished/, 'CASES 62: a pending DETACH is told');
is(differences('a.u', 'SELECT k, count(*) AS n FROM t.u GROUP BY k'), '', 'CASES 62: meanwhile it is right');
sql('INSERT INTO t.u VALUES (1, 2)');
like(state_of('a.u'), qr/resting: DETACH .*is not finished/, 'CASES 62: the next writer lays it to rest');
says('CASES 62: and by mill.refresh', q[SELECT mill.refresh('a.u')], qr/"u" cannot be (?:refreshed|live): DETACH .*is not finished/);
$reader->query_safe('COMMIT');
$reader->quit;
sql('ALTER TABLE t.u DETACH PARTITION t.u2 FINALIZE');
ok(becomes_live('a.u'), 'CASES 62: finished it is live');
is(differences('a.u', 'SELECT k, count(*) AS n FROM t.u GROUP BY k'), '', 'CASES 62: and right');

my $writer = $node->background_psql('postgres');
$writer->query_safe('BEGIN; INSERT INTO t.q VALUES (1, 1)');
says('a writer that does not end: lock_timeout is heeded', q[CREATE VIEW a.late AS SELECT k, count(*) AS n FROM t.q GROUP BY k; SET lock_timeout = '1s'; SELECT mill.materialize('a.late')], qr/canceling statement due to lock timeout/);
$writer->query_safe('COMMIT');
$writer->quit;

sql(q[CREATE VIEW a.more AS SELECT k, count(*) AS n, max(v) AS m FROM t.u GROUP BY k; SELECT mill.materialize('a.more')]);
ok(becomes_live('a.more'), 'a view with one column more');
says('it does not replace one with fewer', q[SELECT mill.replace_aggregate('a.u', 'a.more')], qr/"u" and "more" have different numbers of columns.*HINT:  A new column needs a new view/s);
sql('DROP VIEW a.more');

# what mill.verify does not compare it says
sql('ALTER TABLE t.u ENABLE ROW LEVEL SECURITY');
says('mill.verify of a view that rests', q[SELECT * FROM mill.verify('a.u')], qr/NOTICE:  "u" is not live: it is its definition/);
sql('ALTER TABLE t.u DISABLE ROW LEVEL SECURITY');
ok(becomes_live('a.u'), 'it is live again');
sql(q[SELECT mill.retain('a.u')]);
says('of one with history', q[SELECT * FROM mill.verify('a.u')], qr/NOTICE:  the history of "u" is not compared: its rows are gone/);
sql('ALTER TABLE t.u ENABLE ROW LEVEL SECURITY');
says('of one with history that rests', q[SELECT * FROM mill.verify('a.u')], qr/^(?!.*ERROR).*NOTICE:  "u" is not live/s);
says('a relation that there is not', qq(SELECT $_), qr/relation with OID 4294967295 does not exist/)
	foreach map { "mill.$_('4294967295'::regclass)" } qw(definition materialize dematerialize refresh fold verify explain_aggregate retain drop_history);
says('a gap of sessions out of range', q[SELECT mill.session_start(at, '2147483647 days') OVER (ORDER BY at) FROM (VALUES (now())) v (at)], qr/gap of sessions out of range/);

# ---- CASES 68: mill.aggregates waits for nobody ----

my $holder = $node->background_psql('postgres');
$holder->query_safe(q[BEGIN; LOCK TABLE t.u, t.w, a.w, mill_data."w$state", mill_data."w$delta", mill_data."w$def" IN ACCESS EXCLUSIVE MODE; TRUNCATE t.w]);
like(sql(q[SET statement_timeout = '2s'; SELECT count(*) > 3 FROM mill_catalog.aggregate]), qr/t/, 'CASES 68: everything is locked by somebody');
says('CASES 68: mill.aggregates waits for nobody', q[SET statement_timeout = '3s'; SELECT 'rows ' || count(*) FROM (SELECT * FROM mill.aggregates OFFSET 0) x], qr/^$/);
$holder->query_safe('ROLLBACK');
$holder->quit;

# ---- somebody else's functions of these names, in a database without the extension ----

$node->safe_psql('postgres', 'CREATE DATABASE without');
$node->safe_psql('without', q[CREATE SCHEMA mill;
	CREATE FUNCTION mill.tumble(i int, size int) RETURNS TABLE (window_start int, window_end int) LANGUAGE sql AS 'SELECT 1, i';
	CREATE FUNCTION mill.is_live(regclass) RETURNS boolean STABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END']);
is($node->safe_psql('without', 'SELECT count(*) FROM (SELECT window_start, window_end, count(*) FROM generate_series(1, 3) i, mill.tumble(i, 1) GROUP BY 1, 2) x'),
	3, 'a function mill.tumble of somebody else is not taken for ours');
is($node->safe_psql('without', q[SET jit_above_cost = 0; SELECT count(*) > 0 FROM pg_class WHERE mill.is_live('pg_class')]), 't', 'nor is mill.is_live');

# ---- CASES 68: everybody against everybody ----

my $many = 'SELECT k, count(*) AS n, max(v) AS v, sum(v) AS s FROM t.m GROUP BY k';
my $hours = q[SELECT window_start, count(*) AS n, min(v) AS v FROM t.m, mill.tumble(at, '1 hour') GROUP BY window_start];
sql("CREATE TABLE t.m (id bigserial, k int, v int, at timestamptz DEFAULT now()) PARTITION BY LIST (k);
	CREATE TABLE t.m1 PARTITION OF t.m FOR VALUES IN (1); CREATE TABLE t.m2 PARTITION OF t.m FOR VALUES IN (2); CREATE TABLE t.md PARTITION OF t.m DEFAULT; CREATE INDEX ON t.m (at);
	CREATE VIEW a.many AS $many; CREATE VIEW a.hours AS $hours; SELECT mill.materialize('a.many', fold_interval => '10 milliseconds'), mill.materialize('a.hours', fold_interval => '10 milliseconds')");
my %scripts = (
	insert => [ 8, 'INSERT INTO t.m (k, v) SELECT :k, i FROM generate_series(1, 5) i;' ],
	delete => [ 2, 'DELETE FROM t.m WHERE ctid IN (SELECT ctid FROM t.m WHERE k = :k LIMIT 3);' ],
	read => [ 6, 'SELECT count(*) FROM a.many; SELECT count(*) FROM a.hours; SELECT count(*) FROM mill.aggregates;' ],
	truncate => [ 1, 'TRUNCATE t.m;' ],
	truncate_one => [ 1, 'TRUNCATE t.m1;' ],
	refresh => [ 1, q[DO $$BEGIN PERFORM mill.refresh('a.many'); EXCEPTION WHEN object_in_use THEN NULL; END$$;] ],
	fold => [ 2, q[SELECT mill.fold('a.hours');] ]);
my @files;

foreach my $name (sort keys %scripts)
{
	append_to_file("$test_dir/$name.sql", "\\set k random(1, 4)\n$scripts{$name}[1]\n");
	push @files, '-f', "$test_dir/$name.sql\@$scripts{$name}[0]";
}
# one alone changes partitions
append_to_file("$test_dir/partitions.sql", "CREATE TABLE t.new (LIKE t.m); INSERT INTO t.new (id, k, v) SELECT i, 7, i FROM generate_series(1, 50) i;\nALTER TABLE t.m ATTACH PARTITION t.new FOR VALUES IN (7);\n"
	. "\\sleep 50 ms\nALTER TABLE t.m DETACH PARTITION t.new;\nDROP TABLE t.new;\nCREATE TABLE t.new PARTITION OF t.m FOR VALUES IN (7);\nDROP TABLE t.new;\n");
my ($errors, $errors2) = ('', '');
my $two = IPC::Run::start([ $pgbench, '-n', '-c', 1, '-T', 12, '-f', "$test_dir/partitions.sql", $node->connstr('postgres') ], '<', \undef, '>', '/dev/null', '2>', \$errors2);
IPC::Run::run([ $pgbench, '-n', '-c', 6, '-j', 2, '-T', 12, @files, $node->connstr('postgres') ], '<', \undef, '>', '/dev/null', '2>', \$errors);
$two->finish;
is(join("\n", grep { /ERROR/ } split /\n/, "$errors\n$errors2"), '', 'CASES 68: nobody gets an error');
is(join("\n", grep { /deadlock/ } split /\n/, slurp_file($node->logfile)), '', 'CASES 68: there is no deadlock');
ok(becomes_live($_), "CASES 68: $_ is live in the end") foreach qw(a.many a.hours);
is(differences('a.many', $many) . differences('a.hours', $hours), '', 'CASES 68: and right');

# ---- CASES 68: DROP TABLE ... CASCADE, against writers, readers and fold ----

my $make = q[CREATE TABLE t.brief (k int, v int); CREATE VIEW a.brief AS SELECT k, count(*) AS n FROM t.brief GROUP BY k; SELECT mill.materialize('a.brief', fold_interval => '10 milliseconds');];
my $tries = sub { return "DO \$\$BEGIN $_[0]; EXCEPTION WHEN undefined_table OR undefined_object OR invalid_schema_name OR object_in_use THEN NULL; END\$\$;\n" };
my %against = (
	drop => [ 1, "$make\nINSERT INTO t.brief SELECT i % 3, i FROM generate_series(1, 20) i;\n\\sleep 30 ms\n", 'DROP TABLE t.brief CASCADE;' ],
	write => [ 3, $tries->('INSERT INTO t.brief SELECT i % 3, i FROM generate_series(1, 5) i; DELETE FROM t.brief WHERE k = 1') ],
	# not of the view: who reads any view locks it before its table, and DROP ... CASCADE the other way round
	read => [ 2, $tries->('PERFORM count(*) FROM t.brief'), 'SELECT count(*) FROM mill.aggregates;' ],
	fold => [ 1, $tries->(q[PERFORM mill.fold('a.brief')]) ]);
my @running;
foreach my $name (sort keys %against)
{
	my ($clients, @lines) = @{ $against{$name} };

	append_to_file("$test_dir/against_$name.sql", join("\n", @lines) . "\n");
	push @running, [ IPC::Run::start([ $pgbench, '-n', '-c', $clients, '-T', 6, '-f', "$test_dir/against_$name.sql", $node->connstr('postgres') ], '<', \undef, '>', '/dev/null', '2>', "$test_dir/against_$name.err") ];
}
$_->[0]->finish foreach @running;
is(join("\n", grep { /ERROR/ } map { split /\n/, slurp_file("$test_dir/against_$_.err") } sort keys %against), '', 'CASES 68: DROP TABLE ... CASCADE against all: nobody gets an error');
is(join("\n", grep { /deadlock/ } split /\n/, slurp_file($node->logfile)), '', 'CASES 68: nor is there a deadlock');
sql('DROP TABLE IF EXISTS t.brief CASCADE');
is(sql(q[SELECT count(*) FROM pg_class WHERE relname LIKE 'brief%']) . sql(q[SELECT count(*) FROM mill.aggregates WHERE aggregate::text LIKE '%brief%']), '00', 'CASES 68: and nothing is left');

# ---- CASES 69: no worker slot ----

sql('ALTER SYSTEM SET mill.workers_max = 0');
$node->reload;
ok(wait_for_sql($node, q[SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_mill worker' AND application_name ~ 'fold']), 'CASES 69: no worker may run');
sql('INSERT INTO t.m (k, v) VALUES (1, 1)');
is(sql(q[SELECT warning FROM mill.aggregates WHERE aggregate = 'a.many'::regclass]), '', 'CASES 69: no warning at once');
sql(q[UPDATE mill_data."many$delta" SET written_at = written_at - interval '5 minutes']);
like(sql(q[SELECT warning FROM mill.aggregates WHERE aggregate = 'a.many'::regclass]), qr/deltas have waited since .*: no worker folds them/, 'CASES 69: but when deltas have waited for long, with their age');
is(differences('a.many', $many), '', 'CASES 69: the view is right meanwhile');
sql('ALTER SYSTEM RESET mill.workers_max');
$node->reload;
ok(wait_for_sql($node, q[SELECT coalesce(warning, '') = '' AND delta_rows = 0 FROM mill.aggregates WHERE aggregate = 'a.many'::regclass]), 'CASES 69: with a worker it is folded, and the warning is gone');

$node->stop;
done_testing();
