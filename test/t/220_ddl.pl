# Room: ingest, core.
#
# DDL on what a pipeline uses while it runs, DDL on its database, and the loss
# of the processes that look after it.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

$MillTest::deadline = 30;
my $broker = MillTest::MockBroker->start(topics => { clicks => 2 });
my $node = new_cluster('ddl', conf => "mill.workers_max = 16\nmax_worker_processes = 40\n");
create_server($node, $broker);

sub sql { return $node->safe_psql('postgres', join('', @_)); }

# Seconds that a statement takes; it must succeed.
sub seconds
{
	my ($sql, $db) = @_;
	my $begin = time();

	$node->safe_psql($db // 'postgres', $sql);
	return time() - $begin;
}

sub arrived { my ($table, $n) = @_; return wait_for_sql($node, "SELECT count(DISTINCT (partition, kafka_offset)) >= $n FROM $table"); }

# Nothing skipped, nothing doubled: the offsets of each partition are 0 .. n - 1.
my $gaps = 'SELECT count(*) FROM (SELECT partition, count(*) AS n, count(DISTINCT kafka_offset) AS d,'
  . ' max(kafka_offset) + 1 AS m FROM %s GROUP BY 1) x WHERE n <> d OR n <> m';

# ---- the target, while messages keep coming ----

create_clicks($node, 'clicks');
create_pipeline($node, 'clicks', 'clicks_stream');
my $producer = $broker->start_producer('clicks', rate => 2000, seed => 5);
arrived('clicks', 500);

my @changes = (
	'column added' => 'ALTER TABLE clicks ADD more text DEFAULT \'m\'',
	'column of the target alone dropped' => 'ALTER TABLE clicks DROP more',
	'type widened' => 'ALTER TABLE clicks ALTER partition TYPE bigint',
	'type changed by assignment' => 'ALTER TABLE clicks ALTER seq TYPE numeric',
	'VACUUM FULL' => 'VACUUM FULL clicks',
	'index created' => 'CREATE INDEX clicks_seq ON clicks (seq)',
	'index created concurrently' => 'CREATE INDEX CONCURRENTLY clicks_user ON clicks (user_id)',
	'CLUSTER' => 'CLUSTER clicks USING clicks_seq',
	'constraint added' => 'ALTER TABLE clicks ADD CHECK (kafka_offset >= 0)',
	'renamed' => 'ALTER TABLE clicks RENAME TO clicks_2',
	'renamed back' => 'ALTER TABLE clicks_2 RENAME TO clicks',
	'moved to another schema and back' => 'CREATE SCHEMA s; ALTER TABLE clicks SET SCHEMA s; ALTER TABLE s.clicks SET SCHEMA public',
	'stream altered' => "ALTER FOREIGN TABLE clicks_stream OPTIONS (ADD tombstone 'nulls')",
	'trigger added' => q[CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
		CREATE TRIGGER t BEFORE INSERT ON clicks FOR EACH ROW EXECUTE FUNCTION nothing()],
	'trigger dropped' => 'DROP TRIGGER t ON clicks',
	'LOCK' => 'BEGIN; LOCK clicks; COMMIT');
my $table = 'clicks';
while (my ($what, $change) = splice(@changes, 0, 2))
{
	my $before = sql("SELECT max(kafka_offset) FROM $table");
	my $took = seconds($change);

	cmp_ok($took, '<', 5, "CASES 14: $what: the DDL is not starved");
	$table = $what eq 'renamed' ? 'clicks_2' : 'clicks';
	ok(wait_for_sql($node, "SELECT max(kafka_offset) > $before FROM $table"), "CASES 14: $what: goes on")
	  or diag(state_of($node, 'clicks'));
}
is(sql(sprintf($gaps, 'clicks')), 0, 'CASES 14: nothing skipped, nothing doubled');

# a lock that is held on: nothing is lost, and none of it is a dead letter
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK clicks IN EXCLUSIVE MODE');
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
ok(wait_for_state($node, 'clicks', qr/^running: waiting: process $pid holds a lock on relation "clicks"/),
	'A10: locked by somebody: who is waited for is said at once');
ok(wait_for_state($node, 'clicks', qr/^degraded: canceling statement due to lock timeout \(process $pid holds a lock on relation "clicks"/),
	'A10: CASES 14: locked by somebody: degraded, with the reason and whose lock it is');
is(sql('SELECT count(*) FROM mill.dead_letters'), 0, 'CASES 13: a lock timeout makes no dead letter');
my $stuck = $holder->query_safe('SELECT max(kafka_offset) FROM clicks');
$holder->query_safe('COMMIT');
$holder->quit;
ok(wait_for_sql($node, "SELECT max(kafka_offset) > $stuck FROM clicks"), 'CASES 14: goes on when the lock is gone');

# TRUNCATE: what came before is gone, what comes after is there
my $took = seconds('TRUNCATE clicks');
cmp_ok($took, '<', 5, 'CASES 14: TRUNCATE is not starved');
ok(wait_for_sql($node, 'SELECT count(*) > 100 FROM clicks'), 'CASES 14: truncated: goes on');
is(sql('SELECT count(*) FROM (SELECT partition, kafka_offset - lag(kafka_offset) OVER (PARTITION BY partition ORDER BY kafka_offset) AS d FROM clicks) x WHERE d <> 1'),
	0, 'CASES 14: truncated: no gap after it');

# what does not fit any more: a clear state, and on from where it stood
sql('ALTER TABLE clicks DROP page');
ok(wait_for_state($node, 'clicks', qr/^failed: the columns of "clicks_stream" do not fit into "clicks" \(Column "page" does not exist in the target/),
	'CASES 14: a column dropped that the source has: a clear state');
sql('ALTER TABLE clicks ADD page text');
sql("SELECT mill.resume('clicks')");
my $here = sql('SELECT coalesce(max(kafka_offset), 0) FROM clicks');
ok(wait_for_sql($node, "SELECT max(kafka_offset) > $here FROM clicks"), 'CASES 14: and goes on when it is back');
is(sql('SELECT count(*) FROM (SELECT partition, kafka_offset - lag(kafka_offset) OVER (PARTITION BY partition ORDER BY kafka_offset) AS d FROM clicks) x WHERE d <> 1'),
	0, 'CASES 14: nothing was skipped meanwhile');
sql('ALTER TABLE clicks ALTER partition TYPE text USING partition::text, ALTER "timestamp" TYPE bytea USING NULL');
ok(wait_for_state($node, 'clicks', qr/^failed: .* do not fit .*"timestamp" is of type timestamp with time zone in the source and bytea/),
	'CASES 14: a type changed so that nothing fits: a clear state');
sql('DROP TABLE clicks');
sql("SELECT mill.resume('clicks')");
ok(wait_for_state($node, 'clicks', qr/^failed: the target of pipeline "clicks" no longer exists/), 'CASES 14: target dropped: a clear state');
is(sql('SELECT count(*) FROM mill.dead_letters'), 0, 'CASES 13: no DDL made a dead letter');
sql("SELECT mill.drop_pipeline('clicks')");
create_clicks($node, 'clicks');
create_pipeline($node, 'clicks', 'clicks_stream');
my $account = $producer->finish;
load_account($node, $account, 'account');
ok(wait_for_arrival($node, 'clicks', 'account'), 'CASES 15: dropped and created anew: reads all');
is(compare_with_account($node, 'clicks', 'account'), '', 'CASES 15: and each message once');

# ---- the processes that look after it ----

foreach my $kind ('launcher', 'manager', 'worker')
{
	my $pid = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_mill $kind' AND (datname = 'postgres' OR datname IS NULL) LIMIT 1");
	ok($pid, "CASES 1: there is a $kind");
	sql("SELECT pg_terminate_backend($pid)");
	ok(wait_for_sql($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_mill $kind' AND (datname = 'postgres' OR datname IS NULL) AND pid <> $pid"),
		"CASES 1: the $kind is terminated, and there again");
	my $more = $broker->produce('clicks', count => 200, seed => 9);
	load_account($node, $more, 'account');
	ok(wait_for_arrival($node, 'clicks', 'account'), "CASES 1: without the old $kind all is read");
}
is(compare_with_account($node, 'clicks', 'account'), '', 'CASES 1: each message once');

# ---- databases ----

# A database with its own pipeline that runs.
sub running_database
{
	my ($db) = @_;
	my $bootstrap = $broker->bootstrap;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, qq[CREATE EXTENSION pg_mill;
		CREATE SERVER kafka FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" '$bootstrap');
		CREATE FOREIGN TABLE s (seq bigint) SERVER kafka OPTIONS (topic 'clicks');
		CREATE TABLE t (seq bigint);
		SELECT mill.create_pipeline('p', 's', 't', workers => 2);]);
	wait_for_sql($node, "SELECT count(*) > 0 FROM t", db => $db) or BAIL_OUT("no pipeline in $db");
}

sub none_left
{
	my ($db, $what) = @_;
	my @left;

	ok(wait_for_sql($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = '$db'"), "CASES 17: $what: no session is left");
	my @own = worker_pids($node);
	ok(wait_for(sub { gateway_count() <= scalar(@own) }), "CASES 17: $what: no gateway is left");
}

# Gateways whose parents are children of this server.
sub gateway_count
{
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my %parent;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		open(my $in, '<', $file) or next;
		my $line = <$in> // '';
		$parent{$1} = [ $2, $4 ] if $line =~ /^(\d+) \((.*)\) (\S) (\d+)/ && $3 ne 'Z';
	}
	return scalar grep { $parent{$_}[0] eq 'mill_gateway' && $parent{ $parent{$_}[1] }
		  && $parent{ $parent{$_}[1] }[1] == $postmaster } keys %parent;
}

running_database('d1');
my $backlog = 0;
$backlog += $_->[2] - $_->[1] foreach $broker->offsets('clicks');
ok(wait_for_sql($node, "SELECT count(*) = $backlog FROM t", db => 'd1'), 'CASES 17: all that was there has arrived');
cmp_ok(seconds('ALTER DATABASE d1 RENAME TO d2'), '<', 5, 'CASES 17: ALTER DATABASE RENAME with workers running');
my $n = $node->safe_psql('d2', 'SELECT count(*) FROM t');
my $more = $broker->produce('clicks', count => 100, seed => 10);
load_account($node, $more, 'account');
ok(wait_for_sql($node, "SELECT count(*) = $n + 100 FROM t", db => 'd2'), 'CASES 17: renamed: goes on');

cmp_ok(seconds('CREATE DATABASE d3 TEMPLATE d2'), '<', 5, 'CASES 17: CREATE DATABASE TEMPLATE with workers running');
is($node->safe_psql('d3', "SELECT state || ': ' || reason FROM mill.pipelines"),
	'paused: this database is a copy; a superuser may call mill.arm()', 'CASES 16: the copy is not armed');
$more = $broker->produce('clicks', count => 100, seed => 11);
load_account($node, $more, 'account');
ok(wait_for_sql($node, "SELECT count(*) = $n + 200 FROM t", db => 'd2'), 'CASES 17: the template goes on');
is($node->safe_psql('d3', 'SELECT count(*) FROM t'), $n + 100, 'CASES 16: the copy does not');
$node->safe_psql('d3', 'SELECT mill.arm()');
ok(wait_for_sql($node, "SELECT count(*) = $n + 200 FROM t", db => 'd3'), 'CASES 16: mill.arm lets it go on from its own offsets');

cmp_ok(seconds('DROP DATABASE d3'), '<', 5, 'CASES 17: DROP DATABASE with workers running');
none_left('d3', 'DROP DATABASE');
cmp_ok(seconds('DROP EXTENSION pg_mill CASCADE', 'd2'), '<', 5, 'CASES 17: DROP EXTENSION with workers running');
none_left('d2', 'DROP EXTENSION');
is($node->safe_psql('d2', q[SELECT count(*) FROM pg_proc WHERE proname LIKE 'mill%' OR probin LIKE '%pg_mill%']), 0,
	'CASES 17: DROP EXTENSION leaves no function');
is($node->safe_psql('d2', q[SELECT string_agg(nspname, ' ') FROM pg_namespace WHERE nspname LIKE 'mill%']), '',
	'CASES 17: DROP EXTENSION leaves no schema');
$node->safe_psql('d2', 'CREATE EXTENSION pg_mill');
ok(wait_for_sql($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'd2' AND backend_type = 'pg_mill manager'"),
	'CASES 17: the extension comes back, and its manager');
cmp_ok(seconds('DROP DATABASE d2'), '<', 5, 'CASES 17: DROP DATABASE with a manager alone');
ok(wait_for_arrival($node, 'clicks', 'account'), 'CASES 17: the neighbour reads all');
is(compare_with_account($node, 'clicks', 'account'), '', 'CASES 17: each message once');

# a role that owns a pipeline
sql('CREATE ROLE owner LOGIN; GRANT mill_user, pg_write_all_data, pg_read_all_data TO owner; GRANT USAGE ON FOREIGN SERVER kafka TO owner');
create_clicks($node, 'clicks', target => 'owned', stream => 'owned_stream');
sql("SET ROLE owner; SELECT mill.create_pipeline('owned', 'owned_stream', 'owned')");
ok(wait_for_sql($node, 'SELECT count(*) > 100 FROM owned'), 'CASES 36: an ordinary role\'s pipeline runs');
sql('REVOKE pg_write_all_data FROM owner');
$more = $broker->produce('clicks', count => 100, seed => 12);
load_account($node, $more, 'account');
ok(wait_for_state($node, 'owned', qr/^failed: permission denied for table owned/), 'CASES 36: a role that lost its rights: a clear state');
ok(wait_for_arrival($node, 'clicks', 'account'), 'CASES 36: its neighbour goes on');

# ---- without preload ----

my $bare = new_cluster('bare', preload => 0);
create_server($bare, $broker);
create_clicks($bare, 'clicks');
my ($out, $err);
$bare->psql('postgres', "SELECT mill.create_pipeline('clicks', 'clicks_stream', 'clicks')", stdout => \$out, stderr => \$err);
like($err, qr/ERROR: .*shared_preload_libraries/s, 'not preloaded: mill.create_pipeline says so');
like($err, qr/HINT: .*Add pg_mill to shared_preload_libraries .* and restart/s, 'not preloaded: and what to do');
is($bare->safe_psql('postgres', 'SELECT count(DISTINCT (partition, kafka_offset)) FROM clicks_stream'),
	sql('SELECT count(*) FROM clicks'), 'not preloaded: SELECT on a stream works');
is($bare->safe_psql('postgres', 'SELECT count(*) FROM mill.pipelines'), 0, 'not preloaded: the views work');

done_testing();
