# Room: aggregate.
#
# What fails: an expression for one row, a key that fits into no index, a group that
# cannot be computed anew, and folds that nobody does. What fails is that row, that
# group or that aggregate, with its name; the others go on, and mill.aggregates tells.
# CASES 66, 69.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster('failures', conf => "log_min_messages = error\n");

sub sql { return $node->safe_psql('postgres', join('', @_)); }
sub error { my ($out, $err) = (undef, ''); $node->psql('postgres', "\\set VERBOSITY verbose\n" . join('', @_), stdout => \$out, stderr => \$err); return $err; }
sub warning { return sql("SELECT warning FROM mill.aggregates WHERE aggregate = '$_[0]'::regclass"); }
sub becomes_live { return wait_for_sql($node, "SELECT state = 'live' FROM mill.aggregates WHERE aggregate = '$_[0]'::regclass"); }
sub left { return sql(qq[SELECT count(*) FROM mill_data."$_[0]\$delta"]); }

# The rows in which a view and its query differ, both ways, in one snapshot.
sub differences
{
	my ($view, $query) = @_;

	return sql("SELECT 'missing ' || d::text FROM ($query EXCEPT ALL TABLE $view) d UNION ALL SELECT 'too much ' || d::text FROM (TABLE $view EXCEPT ALL $query) d");
}

# A view of a query, live, folded when the test says so.
sub live
{
	my ($view, $query) = @_;

	sql("SET ROLE analyst; CREATE VIEW a.$view AS $query; SELECT mill.materialize('a.$view', fold_interval => '1 hour')");
	return becomes_live("a.$view");
}

sql(q[CREATE EXTENSION pg_mill; CREATE ROLE analyst LOGIN; GRANT mill_user TO analyst; CREATE SCHEMA a AUTHORIZATION analyst; CREATE SCHEMA t AUTHORIZATION analyst]);

# ---- CASES 66: an expression that fails for a row ----

my $ratio = 'SELECT k, sum(100 / v) AS s FROM t.d GROUP BY k';
my $joined = 'SELECT name, sum(100 / v) AS s FROM t.d JOIN t.names USING (k) GROUP BY name';
sql(q[SET ROLE analyst; CREATE TABLE t.d (k int, v int); INSERT INTO t.d VALUES (1, 1), (2, 5); CREATE TABLE t.names AS VALUES (1, 'one'), (2, 'two'); ALTER TABLE t.names RENAME column1 TO k; ALTER TABLE t.names RENAME column2 TO name]);
foreach ([ 'd', $ratio, 'direct' ], [ 'dj', $joined, 'by SQL' ])
{
	my ($view, $query, $how) = @$_;

	ok(live($view, $query), "CASES 66: an aggregate whose writers capture $how");
	like(error('INSERT INTO t.d VALUES (1, 0)'), qr/ERROR:  22012: division by zero\nCONTEXT:  SQL statement ".*100 \/ .*maintaining continuous aggregate "$view"/s, 'CASES 66: the statement fails, and names the aggregate and the expression');
	is(error('INSERT INTO t.d VALUES (1, 10)'), '', 'CASES 66: the next one does not');
	sql("SELECT mill.fold('a.$view')");
	is(differences("a.$view", $query), '', 'CASES 66: the view is right');
	sql("DROP VIEW a.$view");
}

# ---- CASES 66: a group that cannot be computed anew ----

my $extreme = 'SELECT k, max(a.checked(v)) AS m FROM t.x GROUP BY k';
sql(q[SET ROLE analyst; CREATE FUNCTION a.checked(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN v; END';
	CREATE TABLE t.x AS SELECT k, v FROM generate_series(1, 20) k, generate_series(1, 5) v; CREATE INDEX ON t.x (k)]);
ok(live('x', $extreme), 'CASES 66: an aggregate whose function will fail');
sql(q[SET ROLE analyst; DELETE FROM t.x WHERE v = 3 AND k <> 7; SELECT mill.fold('a.x');
	CREATE OR REPLACE FUNCTION a.checked(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF v = 3 THEN RAISE ''not three''; END IF; RETURN v; END']);
sql('DELETE FROM t.x WHERE v = 5');
like(error('TABLE a.x'), qr/not three/, 'CASES 66: the view fails, as its query does');
is(sql('SELECT m FROM a.x WHERE k = 8'), 4, 'CASES 66: but not for other groups');
like(error(q[SELECT mill.fold('a.x')]), qr/WARNING:  P0001: group \(7\) could not be folded: not three/, 'CASES 66: a fold names the group');
is(sql(q[SELECT DISTINCT k FROM mill_data."x$delta"]), '7', 'CASES 66: and folds all others');
sql(q[INSERT INTO t.x VALUES (8, 9), (21, 1)]);
like(error(q[SELECT mill.fold('a.x')]), qr/group \(7\)/, 'CASES 66: also those that come later');
is(sql(q[SELECT DISTINCT k FROM mill_data."x$delta"]), '7', 'CASES 66: it alone stays');
sql(q[INSERT INTO t.x VALUES (30, 4), (30, 5), (31, 4), (31, 5)]);
sql(q[SET ROLE analyst; CREATE OR REPLACE FUNCTION a.checked(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF v IN (3, 4) THEN RAISE ''no %'', v; END IF; RETURN v; END']);
sql('DELETE FROM t.x WHERE k >= 30 AND v = 5');
like(error(q[SELECT mill.fold('a.x')]), qr/3 groups could not be folded, \(\d+\) among them: no [34]/, 'CASES 66: several');
sql(q[SET ROLE analyst; CREATE OR REPLACE FUNCTION a.checked(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN v; END']);
is(error(q[SELECT mill.fold('a.x')]), '', 'CASES 66: what was mended is folded');
is(differences('a.x', $extreme) . left('x'), '0', 'CASES 66: and right');

# sums that leave the type's range, by keys and by sessions
foreach ([ 'i', 'SELECT k, sum(v) AS s FROM t.i GROUP BY k' ],
	[ 'is', q[SELECT k, session_start, sum(v) AS s FROM (SELECT k, v, mill.session_start(at, '1 hour') OVER (PARTITION BY k ORDER BY at) FROM t.i) x GROUP BY k, session_start] ])
{
	my ($view, $query) = @$_;

	sql('SET ROLE analyst; CREATE TABLE t.i (k int, at timestamptz DEFAULT now(), v interval)');
	ok(live($view, $query), "CASES 66: an aggregate that will overflow ($view)");
	sql(qq[INSERT INTO t.i VALUES (1, now(), '170000000 years'), (2, now(), '1 day')]);
	sql(qq[INSERT INTO t.i VALUES (1, now(), '170000000 years'), (2, now(), '1 day')]);
	like(error("SELECT mill.fold('a.$view')"), qr/WARNING:  22008: group \(1.*\) could not be folded: interval out of range/, 'CASES 66: a fold names the group');
	is(sql(qq[SELECT count(*), min(k) FROM mill_data."$view\$delta"]), '2|1', 'CASES 66: and folds the other');
	is(sql("SELECT s FROM a.$view WHERE k = 2"), '2 days', 'CASES 66: which is right');
	sql("DROP VIEW a.$view; DROP TABLE t.i");
}

# ---- CASES 66: keys that are too long for an index ----

my $long = 'SELECT k, count(*) AS n FROM t.l GROUP BY k';
sql(q[SET ROLE analyst; CREATE TABLE t.l (k text); INSERT INTO t.l SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i]);
ok(live('l', $long), 'CASES 66: an aggregate with a long key, filled');
sql(q[INSERT INTO t.l SELECT string_agg(md5((i + s)::text), '') FROM generate_series(1, 300) i, generate_series(1000, 3000, 1000) s GROUP BY s; INSERT INTO t.l VALUES ('short'), ('short')]);
is(error(q[SELECT mill.fold('a.l')]), '', 'CASES 66: more of them are no error of a fold');
is(sql(q[SELECT count(*), count(*) FILTER (WHERE k = 'short') FROM mill_data."l$delta"]), '4|0', 'CASES 66: they stay, the others are folded');
is(differences('a.l', $long), '', 'CASES 66: the view is right');
sql(q[DELETE FROM t.l WHERE length(k) > 100 AND k IN (SELECT k FROM t.l ORDER BY length(k) DESC, k LIMIT 2)]);
is(differences('a.l', $long), '', 'CASES 66: also when they go');

# ---- CASES 69: nobody folds ----

my $plain = 'SELECT k, max(a.checked(v)) AS m FROM t.w GROUP BY k';
sql(q[SET ROLE analyst; CREATE TABLE t.w AS SELECT k, v FROM generate_series(1, 20) k, generate_series(1, 5) v; CREATE VIEW a.w AS ], $plain, q[; SELECT mill.materialize('a.w', fold_interval => '10 milliseconds')]);
ok(becomes_live('a.w'), 'CASES 69: an aggregate that the worker folds');
is(warning('a.w'), '', 'CASES 69: without a warning');
sql(q[SET ROLE analyst; DELETE FROM t.w WHERE v = 3 AND k <> 7]);
ok(wait_for_sql($node, q[SELECT delta_rows = 0 FROM mill.aggregates WHERE aggregate = 'a.w'::regclass]), 'CASES 69: all is folded');
# an own transaction each: a worker may be awake before it has heard of a new function
sql(q[CREATE OR REPLACE FUNCTION a.checked(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF v = 3 THEN RAISE ''not three''; END IF; RETURN v; END']);
sql('DELETE FROM t.w WHERE v = 5');
ok(wait_for_sql($node, q[SELECT warning = 'group (7) could not be folded: not three' FROM mill.aggregates WHERE aggregate = 'a.w'::regclass]), 'CASES 69: a fold that fails is a warning');
is(sql(q[SELECT DISTINCT k FROM mill_data."w$delta"]), '7', 'CASES 69: of that group');
is(sql(q[SELECT count(*) > 0, bool_and(message = 'group (7) could not be folded: not three' AND retry_at > at) FROM mill.errors WHERE object_kind = 'aggregate' AND object_name = 'a.w']), 't|t', 'CASES 69: and in mill.errors');
sql(q[SET ROLE analyst; INSERT INTO t.w VALUES (8, 6)]);
ok(wait_for_sql($node, q[SELECT bool_and(k = 7) FROM mill_data."w$delta"]), 'CASES 69: the others are folded all the time');
sql(q[CREATE OR REPLACE FUNCTION a.checked(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN v; END']);
ok(wait_for_sql($node, q[SELECT delta_rows = 0 AND warning IS NULL FROM mill.aggregates WHERE aggregate = 'a.w'::regclass]), 'CASES 69: the warning passes with its cause');
is(differences('a.w', $plain), '', 'CASES 69: the view is right');

foreach ([ 'may not log in', 'ALTER ROLE analyst NOLOGIN', 'ALTER ROLE analyst LOGIN' ],
	[ 'account has expired', q[ALTER ROLE analyst VALID UNTIL '2000-01-01'], q[ALTER ROLE analyst VALID UNTIL 'infinity'] ],
	[ 'may not connect', 'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC', 'GRANT CONNECT ON DATABASE postgres TO PUBLIC' ])
{
	my ($what, $take, $give) = @$_;

	sql("$take; SELECT pg_terminate_backend(pid) FROM mill.workers WHERE kind = 'fold'");
	like(warning('a.w'), qr/^nothing is folded or filled: the owner.*$what/, "CASES 69: an owner who $what");
	sql('UPDATE t.w SET v = v + 1');
	is(differences('a.w', $plain), '', 'CASES 69: the view is right');
	sql($give);
	ok(wait_for_sql($node, q[SELECT delta_rows = 0 AND warning IS NULL FROM mill.aggregates WHERE aggregate = 'a.w'::regclass]), 'CASES 69: it passes');
}

$node->stop;
done_testing();
