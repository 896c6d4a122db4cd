# Room: core, ingest.
#
# A copy is not the original: standby, dump and restore, template.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

$MillTest::deadline = 60;
my $broker = MillTest::MockBroker->start(topics => { clicks => 3 });
my $node = new_cluster('primary', init => { allows_streaming => 1 });
create_server($node, $broker);
create_clicks($node, 'clicks');
create_pipeline($node, 'clicks', 'clicks_stream', workers => 2);
my $account = $broker->produce('clicks', count => 3000, seed => 1, bad => 2);
load_account($node, $account, 'account');
ok(wait_for_arrival($node, 'clicks', 'account'), 'the original has read all');

# What a server does with the pipeline.
sub activity
{
	my ($server) = @_;

	return $server->safe_psql('postgres', q[SELECT string_agg(DISTINCT backend_type, ', ') FROM pg_stat_activity WHERE backend_type LIKE 'pg_mill%']);
}

# Another account's messages too; what node has must be what was produced.
sub produce_more
{
	my ($seed, @nodes) = @_;
	my $more = $broker->produce('clicks', count => 1000, seed => $seed, bad => 2);

	load_account($_, $more, 'account') foreach @nodes;
	return $more;
}

# ---- standby ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
produce_more(2, $node);
ok(wait_for_arrival($node, 'clicks', 'account'), 'CASES 16: the primary reads while a standby follows');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is(activity($standby), '', 'CASES 16: nothing runs on a standby');
is(state_of($standby, 'clicks'), 'paused: this server is a standby', 'CASES 16: the standby says why');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM clicks'), $node->safe_psql('postgres', 'SELECT count(*) FROM clicks'),
	'CASES 16: its rows are the primary\'s');
is($standby->safe_psql('postgres', 'SELECT sum(stored_offset) FROM mill.lag'), $node->safe_psql('postgres', 'SELECT sum(stored_offset) FROM mill.lag'),
	'CASES 16: and its offsets');

# the primary goes away in the middle of its work; what the standby has not received is read once more
my $producer = $broker->start_producer('clicks', rate => 3000, seed => 3);
wait_for_sql($node, 'SELECT count(*) > 4500 FROM clicks');
$node->stop('immediate');
my $began = time;
$standby->promote;
ok(wait_for_sql($standby, q[SELECT state IN ('running', 'idle') FROM mill.pipelines]), 'CASES 16: promoted: runs')
  or diag(state_of($standby, 'clicks'));
cmp_ok(time - $began, '<=', 15, 'CASES 16: promoted: within seconds');
my $rest = $producer->finish;
load_account($standby, $rest, 'account');
ok(wait_for_arrival($standby, 'clicks', 'account'), 'CASES 16: promoted: reads all');
is(compare_with_account($standby, 'clicks', 'account'), '', 'CASES 16: promoted: nothing lost, nothing twice');

# ---- dump and restore ----

my $pipeline = q[SELECT pipeline, source, target, mode, owner, enabled, max_errors, workers FROM mill.pipelines ORDER BY pipeline COLLATE "C"];
my $offsets = q[SELECT partition, stored_offset FROM mill.lag ORDER BY 1];
my $letters = q[SELECT partition, kafka_offset, value, sqlstate FROM mill.dead_letters ORDER BY 1, 2];
$standby->safe_psql('postgres', q[CREATE TABLE paused (user_id int); SELECT mill.create_pipeline('Paused', 'clicks_stream', 'clicks', enabled => false)]);
my $dump = "$test_dir/dump.sql";
$standby->command_ok([ 'pg_dump', '-d', $standby->connstr('postgres'), '-f', $dump ], 'CASES 16: pg_dump');
my $other = new_cluster('other');
$other->safe_psql('postgres', 'CREATE DATABASE restored');
$other->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-o', "$test_dir/restore.log", '-d', $other->connstr('restored'), '-f', $dump ], 'CASES 16: restored');
is($other->safe_psql('restored', q[SELECT state || ': ' || reason FROM mill.pipelines WHERE pipeline = 'clicks']),
	'paused: this database is a copy; a superuser may call mill.arm()', 'CASES 16: the restored pipeline is not armed');
is($other->safe_psql('restored', $_), $standby->safe_psql('postgres', $_), 'CASES 16: restored as it was') foreach $pipeline, $offsets, $letters;
is($other->safe_psql('restored', q[SELECT count(*) FROM mill_catalog.pipeline_offset o JOIN mill_catalog.pipeline p ON p.id = pipeline_id]), 3, 'CASES 16: offsets belong to their pipeline');

# both go on for themselves; the restored one only when it may
my $more = $broker->produce('clicks', count => 1000, seed => 4, bad => 2);
load_account($standby, $more, 'account');
load_account($other, $more, 'account', db => 'restored');
ok(wait_for_arrival($standby, 'clicks', 'account'), 'CASES 16: the original goes on');
ok(wait_for_sql($other, q[SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_mill manager' AND datname = 'restored']), 'CASES 16: the copy has a manager');
is($other->safe_psql('restored', $offsets) eq $standby->safe_psql('postgres', $offsets) ? 'same' : 'behind', 'behind', 'CASES 16: the copy stays where it was');
is(scalar(worker_pids($other)), 0, 'CASES 16: and has no worker');
$other->safe_psql('restored', 'SELECT mill.arm()');
ok(wait_for_sql($other, qq[SELECT sum(stored_offset) = ] . $standby->safe_psql('postgres', q[SELECT sum(stored_offset) FROM mill.lag]) . ' FROM mill.lag', db => 'restored'),
	'CASES 16: mill.arm lets it go on from its offsets');
my $rows = 'SELECT partition, kafka_offset, seq FROM clicks ORDER BY 1, 2';
is($other->safe_psql('restored', $rows), $standby->safe_psql('postgres', $rows), 'CASES 16: and each message is there once');
is($other->safe_psql('restored', q[SELECT state FROM mill.pipelines WHERE pipeline = 'Paused']), 'paused', 'CASES 16: arming resumes nothing that was paused');
$other->safe_psql('restored', q[SELECT mill.create_pipeline('new', 'clicks_stream', 'clicks', enabled => false)]);
is($other->safe_psql('restored', q[SELECT count(DISTINCT id) = count(*) FROM mill_catalog.pipeline]), 't', 'CASES 16: ids go on, too');

# ---- template: the neighbour in the same server ----

$standby->safe_psql('postgres', 'CREATE DATABASE copied TEMPLATE postgres');
is($standby->safe_psql('copied', q[SELECT state || ': ' || reason FROM mill.pipelines WHERE pipeline = 'clicks']),
	'paused: this database is a copy; a superuser may call mill.arm()', 'CASES 16: a copy by TEMPLATE is not armed');
is($standby->safe_psql('copied', $offsets), $standby->safe_psql('postgres', $offsets), 'CASES 16: and keeps the offsets');
produce_more(5, $standby);
ok(wait_for_arrival($standby, 'clicks', 'account'), 'CASES 16: its template goes on');
is(compare_with_account($standby, 'clicks', 'account'), '', 'CASES 16: nothing lost, nothing twice');

done_testing();
