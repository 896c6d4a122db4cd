# Room: aggregate.
#
# Continuous aggregates on whole servers: dump and restore, CREATE DATABASE ...
# TEMPLATE, standby and promotion, logical replication, DROP DATABASE, DROP EXTENSION,
# prepared transactions over a restart, a crash with deltas that wait. Wherever the
# views arrive they must be what their queries give, go on being so when rows are
# written there, and be folded there.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $streams = { allows_streaming => 'logical' };
my $node = new_cluster('origin', init => $streams, conf => "max_prepared_transactions = 10\nmax_wal_senders = 10\n");

# ---------------------------------------------------------------------------
# Tables, views of each kind, and the queries they must be equal to.

my %views = (
	tumbling => q[SELECT window_start, window_end, product, count(*) AS n, sum(amount) AS total, min(amount) AS low
		FROM clicks, mill.tumble(at, '5 minutes') GROUP BY window_start, window_end, product],
	hopping => q[SELECT window_start, window_end, count(*) AS n, max(amount) AS high
		FROM clicks, mill.hop(at, '5 minutes', '15 minutes') GROUP BY window_start, window_end],
	"Visits of users" => q[SELECT user_id, session_start, mill.session_end(at, '2 minutes') AS session_end, count(*) AS n
		FROM (SELECT user_id, at, mill.session_start(at, '2 minutes') OVER (PARTITION BY user_id ORDER BY at) AS session_start FROM clicks) s
		GROUP BY user_id, session_start],
	uniques => q[SELECT product, count(DISTINCT user_id) AS people FROM clicks GROUP BY product],
	parts => q[SELECT window_start, window_end, count(*) AS n, sum(amount) AS total, min(amount) AS low
		FROM logs, mill.tumble(at, '10 minutes') GROUP BY window_start, window_end],
	# over another one, which is made before it
	wider => q[SELECT w.window_start, product, sum(n) AS n, sum(total) AS total, min(low) AS low
		FROM tumbling t, mill.tumble(t.window_start, '1 hour') w GROUP BY w.window_start, product]);

my $columns = 'id bigint, user_id int, product int, at timestamptz, amount numeric';

sub create_tables
{
	my ($server, $db) = @_;

	$server->safe_psql($db, qq(
		CREATE EXTENSION pg_mill;
		CREATE TABLE products (id int PRIMARY KEY, name text CHECK (name <> ''));
		INSERT INTO products SELECT i, 'p' || i FROM generate_series(0, 9) i;
		CREATE TABLE clicks ($columns, PRIMARY KEY (id), FOREIGN KEY (product) REFERENCES products);
		CREATE TABLE logs ($columns, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
		CREATE TABLE logs_early PARTITION OF logs FOR VALUES FROM (MINVALUE) TO ('2026-03-29 01:00+00');
		CREATE TABLE logs_late PARTITION OF logs FOR VALUES FROM ('2026-03-29 01:00+00') TO (MAXVALUE);
		CREATE INDEX ON logs (at);));
}

sub materialize
{
	my ($server, $db) = @_;

	$server->safe_psql($db, qq(CREATE VIEW "$_" AS $views{$_}; SELECT mill.materialize('"$_"', fold_interval => '100 milliseconds'))) foreach sort keys %views;
	# one that keeps the rows of a partition that is gone, in every copy too
	$server->safe_psql($db, q(DROP TABLE IF EXISTS passing CASCADE; CREATE TABLE passing (k int) PARTITION BY LIST (k); CREATE TABLE passing_1 PARTITION OF passing FOR VALUES IN (1);
		CREATE TABLE passing_2 PARTITION OF passing DEFAULT; CREATE VIEW kept AS SELECT k, count(*) AS n FROM passing GROUP BY k;
		SELECT mill.materialize('kept', fold_interval => '100 milliseconds'); SELECT mill.retain('kept');
		INSERT INTO passing SELECT i % 3 FROM generate_series(0, 29) i; DROP TABLE passing_1;));
}

# Rows from id on, over two hours
sub rows_from
{
	my ($id, $count) = @_;

	return "SELECT i, i % 17, i % 5, timestamptz '2026-03-29 00:00+00' + interval '41 seconds' * (i * 7 % 170), i % 100 FROM generate_series($id, $id + $count - 1) i";
}

# Every kind of change
sub change
{
	my ($server, $db, $id) = @_;

	$server->safe_psql($db, join(';', map { my $table = $_; (
		"INSERT INTO $table " . rows_from($id, 300),
		"UPDATE $table SET at = at + interval '50 minutes', amount = amount + 1 WHERE id % 11 = 3",
		"DELETE FROM $table WHERE id % 13 = 5") } qw(clicks logs)));
}

# The rows in which a view and its query differ, in one snapshot; none.
sub differences
{
	my ($server, $db) = @_;
	my @each = map { my $label = $_ =~ s/ .*//r; (
		qq(SELECT '$label, missing: ' || d::text FROM ($views{$_} EXCEPT ALL TABLE "$_") d),
		qq(SELECT '$label, too much: ' || d::text FROM (TABLE "$_" EXCEPT ALL ($views{$_})) d)) } sort keys %views;

	return $server->safe_psql($db, join(' UNION ALL ', map { "($_ LIMIT 3)" } @each));
}

my $all_live = q[SELECT count(*) = 7 AND bool_and(a.state = 'live') AND bool_and(pg_get_viewdef(a.aggregate) LIKE '%$state%') FROM mill.aggregates a];
my $all_folded = q[SELECT count(*) = 7 AND bool_and(state = 'live') AND sum(delta_rows) = 0 FROM mill.aggregates];
my $verified = join(' UNION ALL ', map { qq(SELECT v::text FROM mill.verify('"$_"') v) } sort keys %views);
my $triggers = q[SELECT format('%s %s %s', tgrelid::regclass, regexp_replace(tgname, '_\d+$', ''), tgenabled) FROM pg_trigger WHERE tgname LIKE 'mill%' ORDER BY 1];

my $there;

# All of it at a place where the views have arrived; as a copy they are plain until
# mill.arm().
sub check_arrived
{
	my ($server, $db, $what, %options) = @_;

	if ($options{copy})
	{
		is($server->safe_psql($db, q[SELECT count(*) = 7 AND bool_and(state = 'disarmed' AND reason LIKE '%mill.arm()%') FROM mill.aggregates]), 't', "$what: no view is live in a copy");
		is(differences($server, $db), '', "$what: each is what its query gives at once");
		is($server->safe_psql($db, 'SELECT sum(n) FROM kept'), 30, "$what: with what is kept of rows that are gone");
		change($server, $db, 50_000);
		is(differences($server, $db), '', "$what: and when rows are written there");
		is($server->safe_psql($db, q[SELECT count(*) FROM mill_data."tumbling$delta"]), $options{deltas} // 0, "$what: nothing is captured");
		is($server->safe_psql($db, q[SELECT mill.arm()]), '', "$what: mill.arm()");
		ok(wait_for_sql($server, $all_live, db => $db), "$what: it fills them");
		is($server->safe_psql($db, 'SELECT sum(n) FROM kept'), 30, "$what: that is kept");
		is($server->safe_psql($db, $triggers), $there, "$what: it makes the original's triggers");
	}
	is($server->safe_psql($db, $all_live), 't', "$what: every view is live");
	is(differences($server, $db), '', "$what: each is what its query gives");
	change($server, $db, $options{from} // 100_000);
	is(differences($server, $db), '', "$what: also when rows are written there");
	ok(wait_for_sql($server, $all_folded, db => $db), "$what: a worker folds there");
	is(differences($server, $db), '', "$what: no row is lost or counted twice");
	is($server->safe_psql($db, $verified), '', "$what: mill.verify agrees");
}

create_tables($node, 'postgres');
$node->safe_psql('postgres', "INSERT INTO $_ " . rows_from(1, 1000)) foreach qw(clicks logs);
materialize($node, 'postgres');
ok(wait_for_sql($node, $all_live), 'the original is live');
ok(wait_for_sql($node, $all_folded), 'and folded');
# deltas that wait go along
change($node, 'postgres', 2000);
is(differences($node, 'postgres'), '', 'the original is right');

# ---------------------------------------------------------------------------
# Dump and restore.

my $other = new_cluster('other', conf => "max_prepared_transactions = 10\n");
my @psql = ('psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-o', "$test_dir/restore.log");
$there = $node->safe_psql('postgres', $triggers);

$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', "$test_dir/dump.sql" ], 'CASES 16: pg_dump');
$other->safe_psql('postgres', 'CREATE DATABASE plain');
$other->command_ok([ @psql, '-d', $other->connstr('plain'), '-f', "$test_dir/dump.sql" ], 'CASES 16: restored with psql');
is($other->safe_psql('plain', $triggers), '', 'CASES 16: restored with psql: triggers are not dumped');
check_arrived($other, 'plain', 'CASES 16: restored with psql', copy => 1);

$node->command_ok([ 'pg_dump', '-Fc', '-d', $node->connstr('postgres'), '-f', "$test_dir/dump.custom" ], 'CASES 16: pg_dump -Fc');
$other->safe_psql('postgres', 'CREATE DATABASE custom');
$other->command_ok([ 'pg_restore', '-e', '-j', '2', '-d', $other->connstr('custom'), "$test_dir/dump.custom" ], 'CASES 16: pg_restore -j 2');
is($other->safe_psql('custom', $triggers), '', 'CASES 16: pg_restore -j 2: triggers are not dumped');
check_arrived($other, 'custom', 'CASES 16: pg_restore -j 2', copy => 1);

# the other forms
$other->safe_psql('postgres', 'CREATE DATABASE once');
$other->command_ok([ 'pg_restore', '-e', '-1', '-d', $other->connstr('once'), "$test_dir/dump.custom" ], 'CASES 60: pg_restore in one transaction');
check_arrived($other, 'once', 'CASES 60: in one transaction', copy => 1);
# over what is there and live
my ($said, $complaints);
IPC::Run::run([ 'pg_restore', '--clean', '--if-exists', '-d', $other->connstr('once'), "$test_dir/dump.custom" ], '>', \$said, '2>', \$complaints);
# pg_dump's own: a partition's indexes and primary key go with the table's
is(join('', grep { !/cannot drop (?:inherited constraint "logs_|index public\.logs_)|errors ignored/ } $complaints =~ /^.*(?:ERROR|error).*\n/gm), '', 'CASES 60: pg_restore --clean over live aggregates');
check_arrived($other, 'once', 'CASES 60: --clean', copy => 1);
$other->safe_psql('postgres', 'DROP DATABASE once WITH (FORCE)');

$node->command_ok([ 'pg_dump', '-s', '-d', $node->connstr('postgres'), '-f', "$test_dir/schema.sql" ], 'CASES 60: pg_dump of the schema alone');
$node->command_ok([ 'pg_dump', '-a', '--disable-triggers', '-d', $node->connstr('postgres'), '-f', "$test_dir/data.sql" ], 'CASES 60: and of the data alone');
$other->safe_psql('postgres', 'CREATE DATABASE empty');
$other->command_ok([ @psql, '-d', $other->connstr('empty'), '-f', "$test_dir/schema.sql" ], 'CASES 60: the schema is restored');
is(differences($other, 'empty') . $other->safe_psql('empty', 'TABLE tumbling'), '', 'CASES 60: schema alone: views over empty tables');
$other->safe_psql('empty', q[INSERT INTO products SELECT i, 'p' || i FROM generate_series(0, 9) i]);
change($other, 'empty', 1);
isnt($other->safe_psql('empty', 'SELECT count(*) FROM tumbling'), 0, 'CASES 60: schema alone: rows that come are seen');
is(differences($other, 'empty'), '', 'CASES 60: schema alone: rightly');
$other->safe_psql('empty', qq(SELECT mill.materialize('"$_"', fold_interval => '100 milliseconds'))) foreach sort keys %views;
$other->safe_psql('empty', q[SELECT mill.materialize('kept')]);
ok(wait_for_sql($other, $all_live, db => 'empty'), 'CASES 60: schema alone: the views are adopted and filled');
check_arrived($other, 'empty', 'CASES 60: schema alone');
$other->safe_psql('postgres', 'DROP DATABASE empty WITH (FORCE)');

$other->safe_psql('postgres', 'CREATE DATABASE halves');
$other->command_ok([ @psql, '-d', $other->connstr('halves'), '-f', "$test_dir/$_.sql" ], "CASES 60: the $_, one after the other") foreach qw(schema data);
check_arrived($other, 'halves', 'CASES 60: schema, then data', copy => 1);
$other->safe_psql('postgres', 'DROP DATABASE halves WITH (FORCE)');

# rows through triggers that are there already
$other->safe_psql('postgres', 'CREATE DATABASE lacking');
$node->command_ok([ 'pg_dump', '-Fc', '-T', 'logs_early', '-d', $node->connstr('postgres'), '-f', "$test_dir/dump.lacking" ], 'CASES 60: pg_dump without one partition');
$other->command_ok([ 'pg_restore', '-e', '-d', $other->connstr('lacking'), "$test_dir/dump.lacking" ], 'CASES 60: it is restored');
is($other->safe_psql('lacking', 'SELECT count(*) FROM mill.aggregates'), 1 + keys %views, 'CASES 60: with all aggregates');
is(differences($other, 'lacking'), '', 'CASES 60: which are right');
$other->safe_psql('lacking', 'SELECT mill.arm()');
ok(wait_for_sql($other, $all_live, db => 'lacking'), 'CASES 60: and live');
is(differences($other, 'lacking'), '', 'CASES 60: and right then');
$other->safe_psql('postgres', 'DROP DATABASE lacking WITH (FORCE)');

$node->command_ok([ 'pg_dump', '-a', '-t', 'clicks', '-t', 'logs*', '-d', $node->connstr('postgres'), '-f', "$test_dir/rows.sql" ], 'CASES 16: pg_dump of the rows alone');
$other->safe_psql('postgres', 'CREATE DATABASE filled');
create_tables($other, 'filled');
materialize($other, 'filled');
ok(wait_for_sql($other, $all_live, db => 'filled'), 'empty tables are live');
$other->command_ok([ @psql, '-d', $other->connstr('filled'), '-f', "$test_dir/rows.sql" ], 'CASES 16: rows restored below live views');
check_arrived($other, 'filled', 'CASES 16: rows restored below live views');

my $whole = new_cluster('whole');
$node->command_ok([ 'pg_dumpall', '-d', $node->connstr('postgres'), '-f', "$test_dir/all.sql" ], 'CASES 16: pg_dumpall');
$whole->command_ok([ 'psql', '-XqAt', '-o', "$test_dir/restore.log", '-d', $whole->connstr('postgres'), '-f', "$test_dir/all.sql" ], 'CASES 16: restored from pg_dumpall');
is($whole->safe_psql('postgres', $triggers), '', 'CASES 16: pg_dumpall: triggers are not dumped');
check_arrived($whole, 'postgres', 'CASES 16: pg_dumpall', copy => 1);
$whole->stop('fast');

# ---------------------------------------------------------------------------
# A copy in the same server.

wait_for_sql($node, $all_folded);
ok(wait_for(sub { my ($out, $err); return $node->psql('template1', 'CREATE DATABASE copied TEMPLATE postgres', stdout => \$out, stderr => \$err) == 0 }), 'CASES 17: CREATE DATABASE ... TEMPLATE');
my $left = $node->safe_psql('postgres', q[SELECT sum(n) FROM tumbling]);
check_arrived($node, 'copied', 'CASES 17: a copy by TEMPLATE', copy => 1);
is($node->safe_psql('postgres', q[SELECT sum(n) FROM tumbling]), $left, 'CASES 17: the template has none of the copy\'s rows');
change($node, 'postgres', 5000);
is(differences($node, 'postgres') . differences($node, 'copied'), '', 'CASES 17: nor the copy of the template\'s');
ok(wait_for(sub { my ($out, $err); return $node->psql('postgres', 'ALTER DATABASE copied RENAME TO renamed', stdout => \$out, stderr => \$err) == 0 }), 'CASES 17: ALTER DATABASE ... RENAME');
check_arrived($node, 'renamed', 'CASES 17: a renamed database', from => 200_000);

# dropped while its worker folds
$node->safe_psql('renamed', q[INSERT INTO clicks ] . rows_from(500_000, 20_000));
my $began = time;
is($node->psql('postgres', 'DROP DATABASE renamed WITH (FORCE)'), 0, 'CASES 17: DROP DATABASE with fold workers running');
cmp_ok(time - $began, '<=', 15, 'CASES 17: promptly');
is($node->safe_psql('postgres', q[SELECT count(*) FROM pg_stat_activity WHERE datname = 'renamed']), 0, 'CASES 17: no worker is left behind');

# ---------------------------------------------------------------------------
# Prepared transactions over a restart, crash with deltas that wait.

$node->safe_psql('postgres', qq(BEGIN; INSERT INTO clicks ) . rows_from(600_000, 500) . q(; DELETE FROM clicks WHERE id % 17 = 2 AND id % 11 <> 3 AND id % 13 <> 5;
	INSERT INTO logs SELECT * FROM clicks WHERE id >= 600000; PREPARE TRANSACTION 'late';));
is(differences($node, 'postgres'), '', 'CASES 24: a prepared transaction is not seen');
$node->restart;
change($node, 'postgres', 700_000);
ok(wait_for_sql($node, q[SELECT sum(delta_rows) = 0 FROM mill.aggregates]), 'CASES 24: others are folded past it');
is(differences($node, 'postgres'), '', 'CASES 24: nor after a restart');
$node->safe_psql('postgres', q[COMMIT PREPARED 'late']);
is(differences($node, 'postgres'), '', 'CASES 24: COMMIT PREPARED after a restart');
is($node->safe_psql('postgres', q[SELECT count(*) >= 470 FROM clicks WHERE id BETWEEN 600000 AND 600499]), 't', 'its rows are there');
$node->safe_psql('postgres', q[SELECT mill.fold('tumbling'), mill.fold('parts')]);
is(differences($node, 'postgres'), '', 'CASES 24: and folded');
is($node->safe_psql('postgres', $verified), '', 'CASES 24: mill.verify agrees');

foreach my $round (1 .. 3)
{
	change($node, 'postgres', 700_000 + $round * 1000);
	$node->stop('immediate');
	$node->start;
	is(differences($node, 'postgres'), '', "CASES 26: a crash with deltas that wait, $round");
}
ok(wait_for_sql($node, $all_folded), 'CASES 26: they are folded after it');
is(differences($node, 'postgres'), '', 'CASES 26: nothing is lost or counted twice');

# ---------------------------------------------------------------------------
# Logical replication.

my $subscriber = new_cluster('subscriber', init => $streams);
create_tables($subscriber, 'postgres');
materialize($subscriber, 'postgres');
ok(wait_for_sql($subscriber, $all_live), 'the subscriber\'s views are live');
$node->safe_psql('postgres', q[CREATE DATABASE source]);
$node->safe_psql('source', qq(CREATE TABLE clicks ($columns, PRIMARY KEY (id)); CREATE TABLE logs ($columns, PRIMARY KEY (id, at));
	INSERT INTO clicks ) . rows_from(1, 800) . '; INSERT INTO logs ' . rows_from(1, 800) . '; CREATE PUBLICATION p FOR TABLE clicks, logs;');
$subscriber->safe_psql('postgres', q[CREATE SUBSCRIPTION s CONNECTION $$] . $node->connstr('source') . q[$$ PUBLICATION p]);
ok(wait_for_sql($subscriber, q[SELECT count(*) = 2 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel]), 'the initial rows are copied');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM clicks'), 800, 'the rows are there');
is(differences($subscriber, 'postgres'), '', 'CASES 24: logical replication: the initial rows');
change($node, 'source', 3000);
my $same = sub {
	my $wanted = $node->safe_psql('source', q[SELECT (SELECT sum(hashtext(c::text)::bigint) FROM clicks c), (SELECT sum(hashtext(l::text)::bigint) FROM logs l)]);
	return wait_for_sql($subscriber, q[SELECT (SELECT sum(hashtext(c::text)::bigint) FROM clicks c), (SELECT sum(hashtext(l::text)::bigint) FROM logs l)], expected => $wanted);
};
ok($same->(), 'INSERT, UPDATE and DELETE arrive');
is(differences($subscriber, 'postgres'), '', 'CASES 24: logical replication: INSERT, UPDATE, DELETE');
ok(wait_for_sql($subscriber, $all_folded), 'CASES 24: logical replication: folded');
is($subscriber->safe_psql('postgres', $verified), '', 'CASES 24: logical replication: mill.verify agrees');
$node->safe_psql('source', 'TRUNCATE clicks, logs; INSERT INTO clicks ' . rows_from(9000, 10) . '; INSERT INTO logs ' . rows_from(9000, 10));
ok($same->(), 'TRUNCATE arrives');
is(differences($subscriber, 'postgres'), '', 'CASES 24: logical replication: TRUNCATE');
is($subscriber->safe_psql('postgres', 'SELECT sum(n) FROM tumbling'), 10, 'CASES 24: logical replication: ten rows are left');
check_arrived($subscriber, 'postgres', 'CASES 24: rows of its own at the subscriber');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');

# a table with aggregates is published
$node->safe_psql('postgres', 'CREATE PUBLICATION p FOR TABLE clicks, logs WITH (publish_via_partition_root)');
$subscriber->safe_psql('postgres', 'CREATE DATABASE second');
create_tables($subscriber, 'second');
materialize($subscriber, 'second');
$subscriber->safe_psql('second', q[CREATE SUBSCRIPTION t CONNECTION $$] . $node->connstr('postgres') . q[$$ PUBLICATION p]);
ok(wait_for_sql($subscriber, q[SELECT count(*) = 2 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel], db => 'second'), 'a table with aggregates is published');
change($node, 'postgres', 800_000);
ok(wait_for_sql($subscriber, 'SELECT sum(hashtext(c::text)::bigint) FROM clicks c', db => 'second', expected => $node->safe_psql('postgres', 'SELECT sum(hashtext(c::text)::bigint) FROM clicks c')), 'its rows arrive');
ok(wait_for_sql($subscriber, 'SELECT sum(hashtext(c::text)::bigint) FROM logs c', db => 'second', expected => $node->safe_psql('postgres', 'SELECT sum(hashtext(c::text)::bigint) FROM logs c')), 'and those of the partitions');
is(differences($subscriber, 'second') . differences($node, 'postgres'), '', 'CASES 24: logical replication from views to views');
$subscriber->safe_psql('second', 'DROP SUBSCRIPTION t');
$subscriber->stop('fast');

# ---------------------------------------------------------------------------
# Standby and promotion.

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
change($node, 'postgres', 900_000);
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is(differences($standby, 'postgres'), '', 'CASES 16: views are right on a standby');
ok(wait_for_sql($node, $all_folded), 'the primary folds');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is(differences($standby, 'postgres'), '', 'CASES 16: and what the primary has folded');
is($standby->safe_psql('postgres', $verified), '', 'CASES 16: mill.verify works on a standby');
is($standby->safe_psql('postgres', q[SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_mill worker']), 0, 'CASES 16: no worker runs there');
is($standby->safe_psql('postgres', 'SELECT sum(n) FROM tumbling'), $node->safe_psql('postgres', 'SELECT sum(n) FROM tumbling'), 'CASES 16: standby and primary agree');
$node->safe_psql('postgres', q[INSERT INTO clicks ] . rows_from(950_000, 100));
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
$node->stop('immediate');
$began = time;
$standby->promote;
ok(wait_for_sql($standby, $all_folded), 'CASES 16: promoted: a worker folds what was left');
cmp_ok(time - $began, '<=', 30, 'CASES 16: promoted: within seconds');
check_arrived($standby, 'postgres', 'CASES 16: promoted', from => 960_000);

# ---------------------------------------------------------------------------
# Without the extension.

my ($out, $err);
isnt($standby->psql('postgres', 'DROP EXTENSION pg_mill', stdout => \$out, stderr => \$err), 0, 'CASES 17: DROP EXTENSION is refused while views need it');
like($err, qr/other objects depend on it/, 'CASES 17: and says so');
is(differences($standby, 'postgres'), '', 'CASES 17: nothing has changed');
$began = time;
is($standby->psql('postgres', 'DROP EXTENSION pg_mill CASCADE', stdout => \$out, stderr => \$err), 0, 'CASES 17: DROP EXTENSION ... CASCADE with fold workers running') or diag($err);
cmp_ok(time - $began, '<=', 15, 'CASES 17: promptly');
ok(wait_for_sql($standby, q[SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_mill worker' AND datname = 'postgres']), 'CASES 17: no worker is left behind');
is($standby->safe_psql('postgres', $triggers), '', 'CASES 17: no trigger is left');
is($standby->safe_psql('postgres', q[SELECT string_agg(oid::regclass::text, ', ' ORDER BY 1) FROM pg_class WHERE relnamespace::regnamespace::text LIKE 'mill%' OR relname IN ('tumbling', 'parts')]), '', 'CASES 17: nor a view or a table');
is($standby->safe_psql('postgres', 'INSERT INTO clicks SELECT 1000000, 1, 1, now(), 1 RETURNING id'), '1000000', 'CASES 17: the table is an ordinary one');
$standby->safe_psql('postgres', 'CREATE EXTENSION pg_mill');
materialize($standby, 'postgres');
ok(wait_for_sql($standby, $all_live), 'CASES 17: and may have aggregates again');
check_arrived($standby, 'postgres', 'CASES 17: after CREATE EXTENSION', from => 970_000);

done_testing();
