# Room: job.
#
# Jobs under violence. CASES 34: by the seed that it prints (SEED) workers are killed
# in the body of a step, between the claim and the body, and between steps; the
# manager, the launcher and the postmaster too; the server is stopped in immediate
# mode. KILLS says how many times (30). The table of effects must then have each interval
# of each step exactly once. And steps that crash the server each time.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

$MillTest::deadline = 90;
my $kills = $ENV{KILLS} || 30;
my $seed = random_seed();
my $node = new_cluster('job_crash', conf => "restart_after_crash = on\nmill.workers_max = 4\nmax_worker_processes = 20\n");

sub sql { return $node->safe_psql('postgres', join('', @_)); }

sub answer
{
	my ($query) = @_;
	my $answer;

	wait_for(sub { return defined($answer = ask($node, $query)); }) or die "no answer: $query";
	return $answer;
}

sub up
{
	wait_for(sub { my ($code) = try_psql($node, 'SELECT 1'); return $code == 0; }) or die 'the server did not come back';
	return;
}

sql('CREATE EXTENSION pg_mill; CREATE TABLE effect (step text, a timestamptz, b timestamptz, made timestamptz DEFAULT clock_timestamp())');

# ---- one terminated worker costs one retry; a restart none ----

sql(q[SELECT mill.create_job('once', command => $$INSERT INTO effect VALUES ('once', $1, $2); SELECT pg_sleep(1.5)$$, retries => 1, retry_delay => '0')]);
my $run = sql(q[SELECT mill.run_now('once')]);
my $pid_of = "SELECT pid FROM mill.step_runs WHERE run_id = $run AND state = 'running'";
ok(wait_for(sub { return sql($pid_of) =~ /\d/ }), 'a step runs');
sql("SELECT pg_terminate_backend(($pid_of))");
ok(wait_for_sql($node, "SELECT state = 'success' FROM mill.job_runs WHERE run_id = $run"), 'its worker is terminated, and it is tried again');
is(sql("SELECT string_agg(outcome, ',' ORDER BY attempt) FROM mill.attempts WHERE run_id = $run"), 'crashed,success', 'CASES 34: a terminated backend costs one retry');
$run = sql(q[SELECT mill.run_now('once')]);
foreach my $n (1 .. 2)
{
	# the next attempt, not what is left of the one before
	ok(wait_for(sub { return (ask($node, "SELECT count(*) = $n AND bool_or(outcome = 'running') FROM mill.attempts WHERE run_id = $run") // '') eq 't' }), 'a step runs');
	$node->restart;
}
ok(wait_for_sql($node, "SELECT state = 'success' FROM mill.job_runs WHERE run_id = $run"), 'after two restarts');
is(sql("SELECT string_agg(outcome, ',' ORDER BY attempt) FROM mill.attempts WHERE run_id = $run"), 'interrupted,interrupted,success', 'CASES 34: a restart costs no retry');

# In a shutdown a worker may end before the manager has been signalled: here in a smart
# one, which this session holds up.
$run = sql(q[SELECT mill.run_now('once')]);
$pid_of = "SELECT pid FROM mill.step_runs WHERE run_id = $run AND state = 'running'";
ok(wait_for(sub { return sql($pid_of) =~ /\d/ }), 'a step runs');
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
my ($code, $outcome) = try_psql($node, <<"SQL");
SET statement_timeout = '60 s';
\\! kill -TERM $postmaster
DO \$\$ BEGIN WHILE pg_read_file('postmaster.pid') NOT LIKE '%stopping%' LOOP PERFORM pg_sleep(0.01); END LOOP; END \$\$;
SELECT pg_terminate_backend(($pid_of)) \\g /dev/null
DO \$\$ BEGIN WHILE (SELECT count(*) FROM mill.attempts WHERE run_id = $run AND outcome <> 'running') = 0 LOOP PERFORM pg_sleep(0.01); END LOOP; END \$\$;
SELECT outcome FROM mill.attempts WHERE run_id = $run ORDER BY attempt LIMIT 1;
SQL
is($outcome, 'interrupted', 'CASES 34: nor does a shutdown that ends the worker first');
wait_for(sub { return !kill 0, $postmaster }) or die 'the server did not stop';
$node->restart;
ok(wait_for_sql($node, "SELECT state = 'success' FROM mill.job_runs WHERE run_id = $run"), 'after that');
is(sql("SELECT count(*) FROM effect WHERE step = 'once'"), 3, 'CASES 34: exactly one effect of each run');

# ---- violence ----

sql(q[
	SELECT mill.create_job('chain', '@every 1 second', catchup => 'all', retries => 1000, retry_delay => '20 ms', max_retry_delay => '20 ms');
	SELECT mill.add_step('chain', 'a', $$INSERT INTO effect VALUES ('a', $1, $2); SELECT pg_sleep(0.15)$$);
	SELECT mill.add_step('chain', 'b', $$INSERT INTO effect VALUES ('b', $1, $2); SELECT pg_sleep(0.1)$$, after => '{a}');
	SELECT mill.add_step('chain', 'c', $$INSERT INTO effect VALUES ('c', $1, $2)$$, after => '{a}');
	SELECT mill.add_step('chain', 'd', $$INSERT INTO effect VALUES ('d', $1, $2)$$, after => '{b,c}');
	SELECT mill.create_job('quick', '@every 1 second', $$INSERT INTO effect VALUES ('quick', $1, $2)$$, catchup => 'all', overlap => 'allow', retries => 1000, retry_delay => '0');
	SELECT mill.create_job('fill', '@every 1 hour', $$INSERT INTO effect VALUES ('fill', $1, $2); SELECT pg_sleep(0.05)$$, start_at => '2026-06-01', catchup => 'none', retries => 1000, retry_delay => '0', enabled => false)]);
sql(q[SELECT mill.resume('fill'); SELECT mill.backfill('fill', '2026-01-01', '2026-01-08', parallel => 2)]);

my %processes = (
	step => "backend_type = 'pg_mill worker'", manager => "backend_type = 'pg_mill manager'", launcher => "backend_type LIKE 'pg_mill%launcher%'");
my %done;
for my $round (1 .. $kills)
{
	my $what = (qw(step step step terminate terminate manager launcher immediate postmaster))[ int(rand(9)) ];

	Time::HiRes::sleep(rand(0.8));
	$done{$what}++;
	if ($what eq 'immediate')
	{
		$node->stop('immediate');
		wait_for(sub { return $node->start(fail_ok => 1) }) or die 'the server did not start';
	}
	elsif ($what eq 'postmaster')
	{
		my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

		$node->kill9;
		# the last of its children must have noticed
		wait_for(sub { return !kill 0, $pid });
		wait_for(sub { return $node->start(fail_ok => 1) }) or die 'the server did not start';
	}
	else
	{
		my $kind = $what eq 'terminate' ? 'step' : $what;
		my $pid = ask($node, "SELECT pid FROM pg_stat_activity WHERE $processes{$kind} ORDER BY random() LIMIT 1");

		kill_process($what eq 'terminate' || $what eq 'manager' ? 'TERM' : 'KILL', $pid) if $pid;
	}
	up();
}
note(join(', ', map { "$_ $done{$_}" } sort keys %done));
answer(q[SELECT mill.pause('chain'), mill.pause('quick')]);
answer(q[SELECT mill.resume('chain'), mill.resume('quick'), mill.alter_job('chain', schedule => ''), mill.alter_job('quick', schedule => '')]);
ok(wait_for_sql($node, q[SELECT count(*) = 0 FROM mill.job_runs WHERE state IN ('queued', 'running')]), 'everything that was due has run')
  or diag(answer(q[SELECT * FROM mill.step_runs WHERE state NOT IN ('success')]));
is(answer(q[SELECT count(*) FROM mill.job_runs WHERE state <> 'success']), 0, 'CASES 34: and succeeded');
is(answer(q[SELECT count(*) FROM (SELECT step, a, b FROM effect WHERE step <> 'once' GROUP BY 1, 2, 3 HAVING count(*) > 1) x]), 0, 'CASES 34: no interval twice');
is(answer(q[SELECT count(*) FROM mill.step_runs s WHERE job IN ('chain', 'quick', 'fill')
	AND NOT EXISTS (SELECT FROM effect e WHERE e.step = CASE s.job WHEN 'chain' THEN s.step ELSE s.job END AND e.a = s.interval_start AND e.b = s.interval_end)]), 0, 'CASES 34: none without its effect');
is(answer(q[SELECT count(*) FROM effect e WHERE step <> 'once' AND NOT EXISTS (SELECT FROM mill.step_runs s WHERE e.a = s.interval_start AND e.b = s.interval_end AND e.step = CASE s.job WHEN 'chain' THEN s.step ELSE s.job END)]),
	0, 'CASES 34: no effect without its run');
is(answer(q[SELECT count(*) FROM (SELECT a, lag(b) OVER (PARTITION BY step ORDER BY a) AS before FROM effect WHERE step IN ('a', 'quick')) x WHERE a <> before]), 0, 'none is left out');
is(answer(q[SELECT count(*) FROM effect WHERE step = 'fill' AND b <= '2026-01-08']), 168, 'the backfill is whole');
is(answer(q[SELECT count(*) FROM effect x JOIN effect y USING (a, b) WHERE (x.step, y.step) IN (('a', 'b'), ('a', 'c'), ('b', 'd'), ('c', 'd')) AND y.made < x.made]), 0, 'dependents never began early');
is(answer(q[SELECT string_agg(DISTINCT outcome, ',') FROM mill.attempts WHERE outcome IN ('error', 'running')]), '', 'every attempt has its outcome');

# ---- CASES 34: a body that crashes the server each time ----

answer(q[SELECT mill.drop_job('chain'), mill.drop_job('quick'), mill.drop_job('fill')]);
my $suicide = "echo \$PPID 9 >> $MillTest::test_dir/kills; kill -9 \$PPID";
sql("SELECT mill.create_job('killer', command => \$\$COPY effect FROM PROGRAM '$suicide'\$\$, retries => 1000, retry_delay => '0', max_retry_delay => '0')");
sql(q[SELECT mill.create_job('neighbour', command => $$INSERT INTO effect VALUES ('neighbour', $1, $2); SELECT pg_sleep(0.5)$$, retries => 0)]);
my ($killer, $neighbour) = split /\|/, sql(q[SELECT mill.run_now('killer'), mill.run_now('neighbour')]);
ok(wait_for_sql($node, "SELECT state = 'failed' FROM mill.job_runs WHERE run_id = $killer"), 'CASES 34: what crashes the server each time fails after a cap');
ok(wait_for_sql($node, "SELECT state = 'success' FROM mill.job_runs WHERE run_id = $neighbour"), 'CASES 34: its neighbour succeeds, without a retry');
is(answer("SELECT string_agg(outcome, ',' ORDER BY attempt) FROM mill.attempts WHERE run_id = $killer"), 'interrupted,crashed,crashed,crashed', 'CASES 34: three times by itself');
is(answer("SELECT count(*) FROM effect WHERE step = 'neighbour'"), 1, 'CASES 34: with one effect');

$node->stop;
done_testing();
