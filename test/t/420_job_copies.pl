# Room: job.
#
# A copy of a database is not the original: no job fires in it, until mill.arm().
# Template, dump in two forms, standby and promotion; CREATE DATABASE ... TEMPLATE, DROP
# EXTENSION and DROP DATABASE while steps run.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

$MillTest::deadline = 60;
my $node = new_cluster('primary', init => { allows_streaming => 1 });

sub sql { my ($statement, $db, $server) = @_; return ($server // $node)->safe_psql($db // 'postgres', $statement); }
sub until_true { my ($statement, $name, $db, $server) = @_; return ok(wait_for_sql($server // $node, $statement, db => $db // 'postgres'), $name); }

sql(q[CREATE EXTENSION pg_mill; CREATE ROLE ann LOGIN IN ROLE mill_user; GRANT ALL ON SCHEMA public TO ann;
	CREATE TABLE fx (db text DEFAULT current_database(), what text, a timestamptz, b timestamptz); GRANT ALL ON fx TO ann;
	SELECT mill.create_job('tick', '@every 1 second', $$INSERT INTO fx (what, a, b) VALUES ('tick', $1, $2)$$, catchup => 'all');
	SELECT mill.create_job('slow', command => $$INSERT INTO fx (what) VALUES ('slow'); SELECT pg_sleep(3)$$, retries => 0);
	SET ROLE ann; SELECT mill.create_job('anns', '0 1 * * *', time_zone => 'Europe/Berlin', retries => 3, on_failure => 'ops');
	SELECT mill.add_step('anns', 'x', 'SELECT 1', checks => '{"c": "SELECT 1 WHERE false"}'); SELECT mill.add_step('anns', 'y', 'SELECT 2', after => '{x}', timeout => '1 minute');
	SELECT mill.run_after('tick', NULL) WHERE false; SELECT mill.backfill('anns', '2026-01-01', '2026-01-05')]);
until_true(q[SELECT count(*) >= 2 FROM fx WHERE what = 'tick'], 'the original runs');
until_true(q[SELECT state = 'success' FROM mill.backfills], 'and has filled');

# ---- template, with a step that runs ----

sql(q[SELECT mill.run_now('slow')]);
until_true(q[SELECT state = 'running' FROM mill.job_runs WHERE job = 'slow'], 'a step runs');
sql('CREATE DATABASE copy TEMPLATE postgres', 'template1');
pass('CASES 17: the database is copied meanwhile');
until_true(q[SELECT state = 'success' FROM mill.job_runs WHERE job = 'slow'], 'the step is run again');
is(sql(q[SELECT string_agg(outcome, ',' ORDER BY attempt) FROM mill.attempts WHERE job = 'slow']), 'interrupted,success', 'which costs no retry');
my $in_copy = sql('SELECT count(*) FROM fx', 'copy');
is(sql(q[SELECT DISTINCT state || ': ' || reason FROM mill.jobs], 'copy'), 'paused: this database is a copy; a superuser may call mill.arm()', 'a copy says so');
my $here = sql(q[SELECT count(*) FROM fx WHERE what = 'tick']);
until_true("SELECT count(*) >= $here + 2 FROM fx WHERE what = 'tick'", 'the original goes on');
is(sql('SELECT count(*) FROM fx', 'copy'), $in_copy, 'no job fires in a copy');
is(sql(q[SELECT count(*) FROM pg_stat_activity WHERE datname = 'copy' AND backend_type = 'pg_mill worker'], 'copy'), 0, 'nor does a worker');
sql('SELECT mill.arm()', 'copy');
until_true("SELECT count(*) >= $in_copy + 2 FROM fx", 'until it is armed', 'copy');
until_true(q[SELECT state = 'success' FROM mill.job_runs WHERE job = 'slow'], 'what ran when it was copied is run there', 'copy');
is(sql(q[SELECT count(*) FROM (SELECT a FROM fx WHERE what = 'tick' GROUP BY a HAVING count(*) > 1) x], 'copy'), 0, 'no interval twice in it');
sql(q[SELECT mill.run_now('slow')], 'copy');
until_true(q[SELECT state = 'running' FROM mill.job_runs WHERE job = 'slow' ORDER BY run_id DESC LIMIT 1], 'a step runs', 'copy');
sql('DROP EXTENSION pg_mill CASCADE', 'copy');
until_true(q[SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'copy' AND backend_type LIKE 'pg_mill%'], 'CASES 17: DROP EXTENSION while a step runs', 'copy');
sql('DROP DATABASE copy', 'template1');

# ---- dumps ----

my $definitions = q[SELECT job, owner, schedule, time_zone, start_at, catchup, retries, on_failure, intervals_done, next_run IS NOT NULL FROM mill.jobs WHERE job <> 'tick' ORDER BY job];
my $steps = q[SELECT * FROM mill.job_steps ORDER BY job, step];
sql(q[SELECT mill.pause('tick')]);
until_true(q[SELECT runs_running + runs_queued = 0 FROM mill.jobs WHERE job = 'tick'], 'paused');
my $expected = sql($definitions) =~ s/\bt$/f/gmr;
foreach my $form ('plain', 'directory')
{
	my $dump = "$test_dir/dump_$form";
	my $db = "restored_$form";

	$node->command_ok([ 'pg_dump', '-F', $form, '-d', $node->connstr('postgres'), '-f', $dump ], "$form: pg_dump");
	sql("CREATE DATABASE $db");
	$node->command_ok($form eq 'plain' ? [ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($db), '-f', $dump ]
		: [ 'pg_restore', '-j', '4', '-d', $node->connstr($db), $dump ], "$form: restored");
	is(sql($steps, $db), sql($steps), "$form: steps");
	is(sql($definitions, $db), $expected, "$form: jobs, and what is done; paused");
	is(sql(q[SELECT string_agg(DISTINCT reason, ',') FROM mill.jobs], $db), 'by mill.pause,this database is a copy; a superuser may call mill.arm()', "$form: says why");
	my $rows = sql('SELECT count(*) FROM fx', $db);
	is(sql(q[SELECT mill.arm(), mill.resume('tick')], $db), '|', "$form: arm");
	until_true("SELECT count(*) > $rows + 1 FROM fx", "$form: goes on", $db);
	is(sql(q[SELECT count(*) FROM (SELECT a, lag(b) OVER (ORDER BY a) AS before FROM fx WHERE what = 'tick') x WHERE a <> before], $db), 0, "$form: where the original was");
	sql(q[SELECT mill.backfill('anns', '2026-01-01', '2026-01-05')], $db);
	is(sql(q[SELECT total FROM mill.backfills], $db), '0', "$form: what is done is known");
	my $err = '';
	$node->psql($db, 'DROP ROLE ann', stderr => \$err);
	like($err, qr/objects depend on it/, "$form: owners are known");
	sql('DROP OWNED BY ann', $db);
	is(sql(q[SELECT string_agg(job, ',' ORDER BY job) FROM mill.jobs], $db), 'slow,tick', "$form: DROP OWNED");
	sql("DROP DATABASE $db");
}
sql(q[SELECT mill.resume('tick')]);

# ---- standby, promotion ----

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
sql(q[SELECT mill.run_now('slow')]);
until_true(q[SELECT state = 'running' FROM mill.job_runs WHERE job = 'slow' ORDER BY run_id DESC LIMIT 1], 'a step runs');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', q[SELECT DISTINCT reason FROM mill.jobs]), 'this server is a standby', 'CASES 16: nothing runs on a standby');
is($standby->safe_psql('postgres', q[SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_mill worker']), 0, 'no worker does');
$node->stop('immediate');
$standby->promote;
until_true(q[SELECT state = 'success' FROM mill.job_runs WHERE job = 'slow' ORDER BY run_id DESC LIMIT 1], 'CASES 16: promoted: what ran is run again', 'postgres', $standby);
is($standby->safe_psql('postgres', q[SELECT string_agg(outcome, ',' ORDER BY attempt) FROM mill.attempts WHERE run_id = (SELECT max(run_id) FROM mill.job_runs WHERE job = 'slow')]),
	'interrupted,success', 'and that costs no retry');
my $ticks = $standby->safe_psql('postgres', q[SELECT count(*) FROM fx WHERE what = 'tick']);
until_true("SELECT count(*) > $ticks + 1 FROM fx WHERE what = 'tick'", 'CASES 16: and goes on', 'postgres', $standby);
is($standby->safe_psql('postgres', q[SELECT count(*) FROM (SELECT a, lag(b) OVER (ORDER BY a) AS before FROM fx WHERE what = 'tick') x WHERE a <> before]), 0, 'no interval twice, none left out');
$standby->stop;
done_testing();
