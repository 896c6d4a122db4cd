# Room: core.
#
# Few background workers, much to do: who waits gets its turn, whatever database
# and kind it is of, and says what it waits for.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

$MillTest::deadline = 60;
my $broker = MillTest::MockBroker->start;

# ---- A5: idle pipelines of one database, a pipeline of another, default settings ----

my $node = new_cluster('databases', conf => "max_worker_processes = 8\n");
sub create_database
{
	my ($db) = @_;
	my $properties = "\"bootstrap.servers\" '" . $broker->bootstrap . "'";

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE EXTENSION pg_mill; CREATE SERVER kafka FOREIGN DATA WRAPPER kafka OPTIONS ($properties)");
}
create_database('a');
foreach my $i (1 .. 6)
{
	$broker->create_topic("a$i", 1);
	$node->safe_psql('a', "CREATE FOREIGN TABLE s$i (v int) SERVER kafka OPTIONS (topic 'a$i'); CREATE TABLE t$i (v int); SELECT mill.create_pipeline('p$i', 's$i', 't$i')");
}
ok(wait_for_sql($node, "SELECT count(*) >= 4 FROM mill.pipelines WHERE state = 'idle'", db => 'a'), 'A5: the pipelines of one database idle');
$broker->create_topic('b', 1);
create_database('b');
$broker->produce('b', lines => ['{"v":1}']);
$node->safe_psql('b', "CREATE FOREIGN TABLE s (v int) SERVER kafka OPTIONS (topic 'b'); CREATE TABLE t (v int); SELECT mill.create_pipeline('p', 's', 't')");
ok(wait_for_sql($node, 'SELECT count(*) = 1 FROM t', db => 'b'), 'A5: CASES 46: those of another database have their turn');
foreach my $i (1 .. 6)
{
	$broker->produce("a$i", lines => ['{"v":1}']);
}
ok(wait_for_sql($node, 'SELECT (SELECT count(*) FROM t1) + (SELECT count(*) FROM t2) + (SELECT count(*) FROM t3) + (SELECT count(*) FROM t4) + (SELECT count(*) FROM t5) + (SELECT count(*) FROM t6) = 6', db => 'a'),
	'A5: CASES 46: and the first ones have theirs again');
like($node->safe_psql('a', q[SELECT string_agg(DISTINCT reason, ' ') FROM mill.pipelines WHERE state = 'waiting for a slot']) . $node->safe_psql('b', 'SELECT string_agg(reason, \' \') FROM mill.pipelines'),
	qr/^(?!.*waiting for the manager)/, 'A5: nobody waits for a manager without saying what it waits for');
my $log = slurp_file($node->logfile);
my $said = () = $log =~ /could not start its manager/g;
cmp_ok($said, '<=', 6, "A5: the log says it once each time, not each second ($said)");
$node->stop('fast');

# ---- S28: fold workers of three roles, six pipelines, five background workers ----

$node = new_cluster('kinds', conf => "max_worker_processes = 5\nmill.workers_max = 8\n");
create_server($node, $broker);
foreach my $i (1 .. 3)
{
	$node->safe_psql('postgres', "CREATE ROLE r$i LOGIN; CREATE SCHEMA r$i AUTHORIZATION r$i; SET ROLE r$i; CREATE TABLE r$i.t (v int);"
		  . " CREATE VIEW r$i.v AS SELECT v, count(*) FROM r$i.t GROUP BY v; SELECT mill.materialize('r$i.v'); INSERT INTO r$i.t VALUES (1)");
}
foreach my $i (1 .. 6)
{
	$broker->create_topic("k$i", 1);
	$broker->produce("k$i", lines => ['{"v":1}']);
	$node->safe_psql('postgres', "CREATE FOREIGN TABLE s$i (v int) SERVER kafka OPTIONS (topic 'k$i'); CREATE TABLE t$i (v int); SELECT mill.create_pipeline('p$i', 's$i', 't$i')");
}
ok(wait_for_sql($node, 'SELECT (SELECT count(*) FROM t1) + (SELECT count(*) FROM t2) + (SELECT count(*) FROM t3) + (SELECT count(*) FROM t4) + (SELECT count(*) FROM t5) + (SELECT count(*) FROM t6) = 6'),
	'S28: pipelines have their turn beside fold workers');
ok(wait_for_sql($node, 'SELECT sum(delta_rows) = 0 FROM mill.aggregates'), 'S28: and the deltas are folded');
$node->safe_psql('postgres', 'INSERT INTO r1.t VALUES (1); INSERT INTO r2.t VALUES (1)');
ok(wait_for_sql($node, 'SELECT sum(delta_rows) = 0 FROM mill.aggregates'), 'S28: a commit brings a fold worker back');
ok(wait_for_sql($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'pg_mill fold%'"), 'S28: CASES 46: a fold worker with nothing to do leaves');
$node->stop('fast');

# ---- as many managers as there are places ----

$node = new_cluster('managers', conf => "max_worker_processes = 5\n");
my @databases = map { "m$_" } 1 .. 4;
create_database($_) foreach @databases;
foreach my $db (@databases)
{
	$broker->create_topic($db, 1);
	$broker->produce($db, lines => ['{"v":1}']);
	$node->safe_psql($db, "CREATE FOREIGN TABLE s (v int) SERVER kafka OPTIONS (topic '$db'); CREATE TABLE t (v int); SELECT mill.create_pipeline('p', 's', 't')");
}
$MillTest::deadline = 150;
foreach my $db (@databases)
{
	ok(wait_for_sql($node, 'SELECT count(*) = 1 FROM t', db => $db), "CASES 46: $db has its turn, though managers take all places")
	  or diag($node->safe_psql($db, 'SELECT state, reason FROM mill.pipelines'));
}
$node->stop('fast');
done_testing();
