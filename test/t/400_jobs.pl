# Room: job.
#
# What jobs do while nothing is killed: steps in their order, retries, checks, what
# ends a step without success, overlap, catching up, backfills, runs by hand, and
# who may see and do what. CASES 32, 33, 35-39. The clock is set by
# mill.clock_offset, never waited for.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

$MillTest::deadline = 60;
my $node = new_cluster('jobs', conf => "mill.workers_max = 6\nmax_worker_processes = 40\nlog_line_prefix = ''\n");

sub sql { return $node->safe_psql('postgres', join('', @_)); }

sub fails
{
	my ($statement, $pattern, $name) = @_;
	my $err = '';

	$node->psql('postgres', $statement, stderr => \$err);
	return like($err, $pattern, $name);
}

# Runs a job now, and waits for the run to end; returns its id.
sub run
{
	my ($job, $state, @bounds) = @_;
	my $run = sql("SELECT mill.run_now('$job'" . join('', map { ", '$_'" } @bounds) . ')');

	ended($run, $state);
	return $run;
}

sub ended
{
	my ($run, $state) = @_;

	return wait_for_sql($node, "SELECT state FROM mill.job_runs WHERE run_id = $run", expected => $state)
	  || diag(sql("SELECT * FROM mill.step_runs WHERE run_id = $run"), "\n", sql("SELECT * FROM mill.attempts WHERE run_id = $run"));
}

sub steps
{
	my ($run) = @_;
	return sql("SELECT string_agg(step || ' ' || state, ', ' ORDER BY step) FROM mill.step_runs WHERE run_id = $run");
}

sub set_clock
{
	my ($seconds) = @_;

	$node->append_conf('postgresql.conf', "mill.clock_offset = $seconds");
	$node->reload;
	return wait_for_sql($node, "SELECT current_setting('mill.clock_offset', true)::interval = make_interval(secs => $seconds)");
}

sql('CREATE EXTENSION pg_mill; CREATE TABLE fx (what text, run text, a timestamptz, b timestamptz)');
sql(q[CREATE FUNCTION note(what text, a timestamptz, b timestamptz) RETURNS void LANGUAGE sql AS
	'INSERT INTO public.fx VALUES (what, current_setting(''mill.run_id''), a, b)']);

# ---- parameters, settings, rows, notices, order ----

sql(q[SELECT mill.create_job('diamond')]);
sql(q[SELECT mill.add_step('diamond', 'a', $$SELECT note('a', $1, $2); DO 'BEGIN RAISE NOTICE ''from a''; RAISE WARNING ''and more''; END'$$)]);
sql(q[SELECT mill.add_step('diamond', 'b', $$SELECT note('b', $1, $2), pg_sleep(0.3)$$, after => '{a}')]);
sql(q[SELECT mill.add_step('diamond', 'c', $$SELECT note('c', current_setting('mill.interval_start')::timestamptz, current_setting('mill.interval_end')::timestamptz)$$, after => '{a}')]);
sql(q[SELECT mill.add_step('diamond', 'd', $$INSERT INTO fx SELECT 'd', current_setting('mill.run_id'), $1, $2 FROM generate_series(1, 3)$$, after => '{b,c}')]);
my $run = run('diamond', 'success', '2026-01-01', '2026-01-02');
is(sql("SELECT string_agg(what, '' ORDER BY what) FROM fx WHERE run = '$run' AND a = '2026-01-01' AND b = '2026-01-02'"), 'abcddd',
	'CASES 37: a diamond: each step once, with its interval as parameters and as settings');
is(sql("SELECT bool_and(d.started_at >= s.finished_at) FROM mill.step_runs s, mill.step_runs d WHERE s.run_id = $run AND d.run_id = $run AND s.step IN ('b', 'c') AND d.step = 'd'"),
	't', 'CASES 37: the last step begins after both before it');
is(sql("SELECT rows FROM mill.step_runs WHERE run_id = $run AND step = 'd'"), 3, 'rows are counted');
is(sql("SELECT notices FROM mill.attempts WHERE run_id = $run AND step = 'a'"), "NOTICE:  from a\nWARNING:  and more", 'notices are kept');
is(sql("SELECT intervals_done = '{[2026-01-01,2026-01-02)}'::tstzmultirange FROM mill.jobs WHERE job = 'diamond'"), 't', 'the interval is done');
fails(q[SELECT mill.add_step('diamond', 'a', 'SELECT 1')], qr/already has a step "a"/, 'a step twice');
fails(q[SELECT mill.add_step('diamond', 'e', 'SELECT 1', after => '{x}')], qr/job "diamond" has no step "x"/, 'CASES 37: unknown parent');
fails(q[SELECT mill.add_step('diamond', 'e', 'SELECT 1', after => '{e}')], qr/step "e" cannot run after itself/, 'CASES 37: its own parent');
fails(q[SELECT mill.alter_step('diamond', 'a', after => '{d}')], qr/step "a" cannot run after "d", which runs after it/, 'CASES 37: a cycle');
fails(q[SELECT mill.drop_step('diamond', 'a')], qr/step "b" runs after step "a"/, 'a step that others come after is not dropped');

# ---- commands: what is refused when, and what needs its own transaction ----

fails(q[SELECT mill.create_job('x', command => 'SELEC 1')], qr/syntax error at or near "SELEC".*the command/s, 'a syntax error, where');
fails(q[SELECT mill.create_job('x', command => 'SELECT $3')], qr/there is no parameter \$3/, 'a third parameter');
fails(q[SELECT mill.create_job('x', command => 'SELECT date_trunc($1, $2) || 7')], qr/was not checked: function date_trunc\(timestamp with time zone, timestamp with time zone\)/, 'parameters are typed');
sql(q[SELECT mill.drop_job('x')]);
fails(q[SELECT mill.create_job('x', command => 'INSERT INTO not_there VALUES (1)')], qr/NOTICE:  the command was not checked: relation "not_there" does not exist/, 'what is missing is told');
fails(q[SELECT mill.create_job('y', command => 'COMMIT')], qr/cannot begin or end a transaction/, 'no COMMIT');
fails(q[SELECT mill.create_job('y', command => 'VACUUM fx')], qr/VACUUM, cannot run inside a transaction block.*transaction => 'own'/s, 'VACUUM needs its own');
fails(q[SELECT mill.create_job('y', command => 'COPY fx FROM STDIN')], qr/cannot copy from or to a client/, 'no client');
fails(q[SELECT mill.create_job('y', command => ' ')], qr/the command is empty/, 'nothing at all');
fails(q[SELECT mill.create_job('y', command => 'SELECT 1', checks => '{"c": "DELETE FROM fx"}')], qr/check "c" is not one query/, 'a check that is no query');
fails(q[SELECT mill.create_job('y', command => 'SELECT 1', checks => '[1]')], qr/argument "checks" is no JSON object/, 'checks that are none');
fails(q[SELECT mill.create_job('y', '0 0 30 2 *')], qr/schedule/, 'CASES 30: a schedule that never fires');
fails(q[SELECT mill.create_job('y', time_zone => 'Mars/Base')], qr/time zone "Mars\/Base" not recognized/, 'a zone that is none');
fails(q[SELECT mill.create_job('y', retries => -1)], qr/argument "retries" is -1/, 'a range');
fails(q[SELECT mill.create_job('y', backoff => 0.5)], qr/argument "backoff" is 0.5/, 'a factor');
fails(q[SELECT mill.create_job('y', overlap => 'maybe')], qr/Valid values are: queue, skip, allow/, 'a word');
fails(q[SELECT mill.create_job('y', timeout => '-1 s')], qr/argument "timeout" must be/, 'an interval');
fails(q[SELECT mill.create_job('diamond')], qr/job "diamond" already exists/, 'a name twice');
fails(q[SELECT mill.run_now('nothing')], qr/job "nothing" does not exist/, 'no such job');
sql(q[SELECT mill.create_job('empty')]);
fails(q[SELECT mill.run_now('empty')], qr/job "empty" has no steps/, 'a job without steps is not run');
sql(q[CREATE PROCEDURE batches(a timestamptz) LANGUAGE plpgsql AS $$BEGIN FOR i IN 1..3 LOOP INSERT INTO fx VALUES ('batch ' || i, current_setting('mill.run_id'), a); COMMIT; END LOOP; END$$;
	SELECT mill.create_job('own', command => 'CALL batches($1); VACUUM fx; CREATE INDEX CONCURRENTLY own_index ON fx (what)', transaction => 'own');
	SELECT mill.create_job('atomic', command => 'CALL batches($1)')]);
$run = run('own', 'success');
is(sql("SELECT count(*), count(DISTINCT xmin::text) FROM fx WHERE run = '$run' AND what LIKE 'batch%'"), '3|3', 'a procedure that commits, VACUUM, CREATE INDEX CONCURRENTLY');
run('atomic', 'failed');
like(sql("SELECT message FROM mill.attempts WHERE job = 'atomic'"), qr/invalid transaction termination/, 'a step of one transaction cannot commit');
is(sql("SELECT count(*) FROM fx WHERE what = 'batch 1'"), 1, 'and leaves nothing');

# ---- nothing of a step is seen by the next ----

sql(q[SELECT mill.create_job('leave'); SELECT mill.add_step('leave', 'a', $$CREATE TEMP TABLE left_over (a int); SET search_path = nowhere; SET work_mem = '1GB'; SELECT pg_advisory_lock(7); PREPARE p AS SELECT 1$$);
	SELECT mill.add_step('leave', 'b', $$INSERT INTO fx SELECT 'left: ' || concat_ws(' ', to_regclass('pg_temp.left_over'), current_setting('search_path'), current_setting('work_mem'),
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), (SELECT count(*) FROM pg_prepared_statements))$$, after => '{a}')]);
run('leave', 'success');
is(sql("SELECT what FROM fx WHERE what LIKE 'left%'"), 'left: "$user", public 4MB 0 0', 'temporary tables, settings, locks and statements end with the step');

# ---- CASES 35: what must not be success ----

sql(q[CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
	SELECT mill.create_job('deferred', command => 'INSERT INTO child VALUES (1)');
	SELECT mill.create_job('slow', command => 'INSERT INTO fx VALUES (''slow''); SELECT pg_sleep(60)', timeout => '1 hour');
	SELECT mill.alter_step('slow', 'main', timeout => '300 ms');
	SELECT mill.create_job('late', command => 'INSERT INTO fx VALUES (''slow''); SELECT pg_sleep(60)', timeout => '300 ms');
	SELECT mill.create_job('stubborn', command => $$DO 'BEGIN FOR i IN 1..3 LOOP BEGIN PERFORM pg_sleep(20); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END'$$);
	SELECT mill.alter_step('stubborn', 'main', timeout => '100 ms');
	SELECT mill.create_job('cancelled', command => 'INSERT INTO fx VALUES (''slow''); SELECT pg_sleep(60)')]);
$run = run('deferred', 'failed');
is(sql("SELECT outcome, sqlstate FROM mill.attempts WHERE run_id = $run"), 'error|23503', 'CASES 35: a deferred constraint at the end');
$run = run('slow', 'failed');
is(sql("SELECT outcome, sqlstate, message FROM mill.attempts WHERE run_id = $run"), 'timeout|57014|the step took longer than its timeout of 300 ms', 'CASES 35: the timeout of a step');
$run = run('late', 'failed');
like(sql("SELECT state, reason FROM mill.job_runs WHERE run_id = $run"), qr/^failed\|it took longer than its timeout of 00:00:00.3$/, 'CASES 35: the timeout of a run');
$run = run('stubborn', 'failed');
is(sql("SELECT outcome FROM mill.attempts WHERE run_id = $run"), 'timeout', 'CASES 35: a command that catches its cancel');
$run = sql(q[SELECT mill.run_now('cancelled')]);
wait_for_sql($node, "SELECT state = 'running' FROM mill.step_runs WHERE run_id = $run");
sql("SELECT mill.cancel($run)");
ended($run, 'canceled');
is(sql("SELECT outcome FROM mill.attempts WHERE run_id = $run"), 'canceled', 'CASES 35: canceled');
like(sql("SELECT reason FROM mill.job_runs WHERE run_id = $run"), qr/^canceled by /, 'by whom');
is(sql("SELECT count(*) FROM fx WHERE what = 'slow'"), 0, 'CASES 35: nothing of these is left');
fails("SELECT mill.cancel($run)", qr/cannot be canceled, as its state is canceled/, 'a run that has ended is not canceled');

# a conflict is tried again at once and costs nothing
sql(q[CREATE SEQUENCE tries; SELECT mill.create_job('conflict', command => $$DO 'BEGIN IF nextval(''tries'') < 4 THEN RAISE serialization_failure; END IF; END'$$)]);
$run = run('conflict', 'success');
is(sql("SELECT string_agg(outcome, ',' ORDER BY attempt) FROM mill.attempts WHERE run_id = $run"), 'conflict,conflict,conflict,success', 'CASES 35: serialization failures cost no retry');
sql(q[SELECT mill.create_job('conflicts', command => $$DO 'BEGIN RAISE deadlock_detected; END'$$)]);
$run = run('conflicts', 'failed');
is(sql("SELECT count(*) FROM mill.attempts WHERE run_id = $run"), 6, 'CASES 35: but not without end');

# ---- retries, their delay, run_when, retry(run) ----

sql(q[CREATE SEQUENCE flaky; SELECT mill.create_job('flaky', command => $$INSERT INTO fx VALUES ('flaky'); DO 'BEGIN IF nextval(''flaky'') < 3 THEN RAISE ''not yet''; END IF; END'$$,
	retries => 3, retry_delay => '100 ms', on_retry => 'ops', on_success => 'ops', on_failure => 'ops')]);
$run = run('flaky', 'success');
is(sql("SELECT string_agg(concat_ws(' ', outcome, message), ', ' ORDER BY attempt) FROM mill.attempts WHERE run_id = $run"), 'error not yet, error not yet, success', 'a step that fails twice');
is(sql("SELECT a.started_at - b.finished_at BETWEEN '170 ms' AND '5 s' FROM mill.attempts a, mill.attempts b WHERE a.run_id = $run AND b.run_id = $run AND a.attempt = 3 AND b.attempt = 2"),
	't', 'the second delay is twice as long');
is(sql("SELECT count(*) FROM fx WHERE what = 'flaky'"), 1, 'its effect is there once');
sql(q[CREATE TABLE gate (open bool); INSERT INTO gate VALUES (false); SELECT mill.create_job('graph');
	SELECT mill.add_step('graph', 'a', $$SELECT note('ga', $1, $2)$$); SELECT mill.add_step('graph', 'b', $$SELECT 1 / (SELECT open::int FROM gate)$$, after => '{a}');
	SELECT mill.add_step('graph', 'c', $$SELECT note('gc', $1, $2)$$, after => '{b}'); SELECT mill.add_step('graph', 'd', $$SELECT note('gd', $1, $2)$$, after => '{b}', run_when => 'all_done');
	SELECT mill.add_step('graph', 'e', $$SELECT note('ge', $1, $2)$$, after => '{b}', run_when => 'any_failed'); SELECT mill.add_step('graph', 'f', 'SELECT 1', after => '{c}')]);
$run = run('graph', 'failed');
is(steps($run), 'a success, b failed, c upstream_failed, d success, e success, f upstream_failed', 'CASES 37: all_done and any_failed after a failure');
sql("UPDATE gate SET open = true; SELECT mill.retry($run)");
ended($run, 'success');
is(steps($run), 'a success, b success, c success, d success, e skipped, f success', 'CASES 37: retry redoes what failed, and what comes after it');
is(sql("SELECT string_agg(what, ',' ORDER BY what) FROM fx WHERE run = '$run'"), 'ga,gc,gd,gd,ge', 'and nothing else');
fails("SELECT mill.retry($run)", qr/cannot be retried, as its state is success/, 'a success is not retried');

# ---- checks ----

sql(q[CREATE TABLE loaded (amount int); SELECT mill.create_job('checked', command => $$INSERT INTO loaded SELECT generate_series(-25, 1)$$,
	checks => '{"no negative": "SELECT amount, ''x'' FROM loaded WHERE amount < 0 ORDER BY 1"}', warnings => '{"ones": "SELECT * FROM loaded WHERE amount = 1"}')]);
$run = run('checked', 'failed');
is(sql("SELECT outcome, sqlstate, message FROM mill.attempts WHERE run_id = $run"), 'check_failed|23514|check "no negative" found 20 or more rows', 'a failed check');
like(sql("SELECT detail FROM mill.attempts WHERE run_id = $run"), qr/^\(-25, x\)\n\(-24, x\)\n(\(-\d+, x\)\n){18}\.\.\.$/, 'with the first rows that it found');
is(sql('SELECT count(*) FROM loaded'), 0, 'rolls the load back');
sql(q[SELECT mill.alter_step('checked', 'main', checks => '{}')]);
$run = run('checked', 'success');
like(sql("SELECT notices FROM mill.attempts WHERE run_id = $run"), qr/^WARNING:  check "ones" found 1 row/, 'a warning only tells');

# ---- CASES 33: overlap; a fire while a run is active ----

sql(qq[SELECT mill.create_job('o_$_', '\@every 1 second', 'SELECT pg_sleep(2.5)', overlap => '$_') FROM (VALUES (1)) x]) foreach qw(queue skip allow);
ok(wait_for_sql($node, "SELECT count(*) >= 2 FROM mill.job_runs WHERE job = 'o_skip' AND state = 'skipped'"), 'CASES 33: skip is recorded');
ok(wait_for_sql($node, "SELECT runs_queued >= 2 AND runs_running = 1 FROM mill.jobs WHERE job = 'o_queue'"), 'CASES 33: queue');
ok(wait_for_sql($node, "SELECT runs_running >= 2 FROM mill.jobs WHERE job = 'o_allow'"), 'CASES 33: allow');
is(sql("SELECT count(*) FROM mill.job_runs WHERE job = 'o_skip' AND state = 'running'"), '1', 'CASES 33: skip runs one');
sql(qq[SELECT mill.drop_job('o_$_')]) foreach qw(queue skip allow);
ok(wait_for_sql($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE 'step main of job o_%' AND state = 'active'"), 'CASES 36: what runs of a dropped job is canceled');

# ---- run_after, pause, pause_after, skip ----

sql(q[SELECT mill.create_job('up', command => $$SELECT note('up', $1, $2)$$); SELECT mill.create_job('up2', command => 'SELECT 1');
	SELECT mill.create_job('down', command => $$SELECT note('down', $1, $2)$$); SELECT mill.run_after('down', 'up'); SELECT mill.run_after('down', 'up2')]);
fails(q[SELECT mill.run_after('up', 'down')], qr/cannot run after "down", which runs after it/, 'jobs in a circle');
fails(q[SELECT mill.drop_job('up')], qr/job "down" runs after job "up"/, 'a job that others come after');
run('up', 'success', '2026-02-01', '2026-02-02');
is(sql(q[SELECT count(*) FROM mill.job_runs WHERE job = 'down']), 0, 'a job after two others waits for both');
run('up2', 'success', '2026-02-01', '2026-02-02');
ok(wait_for_sql($node, q[SELECT count(*) = 1 FROM fx WHERE what = 'down' AND a = '2026-02-01' AND b = '2026-02-02']), 'and then runs for the interval');
run('up', 'success', '2026-02-01', '2026-02-02');
ok(wait_for_sql($node, q[SELECT count(*) = 2 FROM fx WHERE what = 'down' AND a = '2026-02-01']), 'and again when that is done again');
# ... also while it runs
sql(q[SELECT mill.alter_step('down', 'main', command => $$SELECT note('down', $1, $2), pg_sleep(1.5)$$)]);
run('up', 'success', '2026-02-01', '2026-02-02');
ok(wait_for_sql($node, q[SELECT state = 'running' FROM mill.job_runs WHERE job = 'down']), 'it runs again');
run('up', 'success', '2026-02-01', '2026-02-02');
ok(wait_for_sql($node, q[SELECT count(*) = 4 AND (SELECT state = 'success' FROM mill.job_runs WHERE job = 'down') FROM fx WHERE what = 'down' AND a = '2026-02-01']), 'and once more when it ends, as that was done meanwhile');
sql(q[SELECT mill.create_job('bad', command => 'SELECT 1/0', pause_after => 2)]);
run('bad', 'failed');
is(sql(q[SELECT enabled FROM mill.jobs WHERE job = 'bad']), 't', 'one failure');
run('bad', 'failed');
ok(wait_for_sql($node, q[SELECT state || ': ' || reason FROM mill.jobs WHERE job = 'bad'], expected => 'paused: 2 runs failed in a row (pause_after)'), 'pause_after');
$run = sql(q[SELECT mill.run_now('bad')]);
sql(q[SELECT pg_sleep(0.3)]);
is(sql("SELECT state FROM mill.job_runs WHERE run_id = $run"), 'queued', 'a paused job begins nothing');
sql("SELECT mill.skip($run)");
is(sql("SELECT state FROM mill.job_runs WHERE run_id = $run"), 'skipped', 'skip');
sql(q[SELECT mill.resume('bad')]);
is(sql(q[SELECT enabled, consecutive_failures FROM mill.jobs WHERE job = 'bad']), 't|0', 'resume');

# ---- NOTIFY ----

my $heard = $node->safe_psql('postgres', q[LISTEN ops; SELECT mill.run_now('flaky') \gset
DO 'BEGIN FOR i IN 1..100 LOOP EXIT WHEN (SELECT state = ''success'' FROM mill.job_runs ORDER BY run_id DESC LIMIT 1); PERFORM pg_sleep(0.05); COMMIT; END LOOP; END';
SELECT 1;]);
like($heard, qr/Asynchronous notification "ops" with payload "\{"job": "flaky", "run": \d+, "event": "success", "state": "success"/, 'on_success tells');

# ---- somebody's open transaction holds up his own job alone ----

{
	sql(q[SELECT mill.create_job('held', command => 'SELECT pg_sleep(60)', timeout => '1 s'); SELECT mill.create_job('free', command => 'SELECT 1')]);
	my $held = sql(q[SELECT mill.run_now('held')]);
	wait_for_sql($node, "SELECT state = 'running' FROM mill.step_runs WHERE run_id = $held");
	my $holder = $node->background_psql('postgres');
	$holder->query_safe(q[BEGIN; SELECT mill.alter_job('held', schedule => '@daily')]);
	wait_for_sql($node, "SELECT started_at < clock_timestamp() - interval '1.5 s' FROM mill.job_runs WHERE run_id = $held");
	my $managers = sql(q[SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_mill manager']);
	my $began = Time::HiRes::time();
	run('free', 'success');
	cmp_ok(Time::HiRes::time() - $began, '<', 4, 'CASES 56: an open alter_job holds up no other job');
	sql("SELECT pg_terminate_backend(pid) FROM mill.step_runs WHERE run_id = $held AND pid IS NOT NULL");
	$began = Time::HiRes::time();
	run('free', 'success');
	cmp_ok(Time::HiRes::time() - $began, '<', 4, 'CASES 56: nor when the worker of its step is gone');
	is(sql(q[SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_mill manager']), $managers, 'the manager lives');
	$holder->query_safe('COMMIT');
	$holder->quit;
	ok(wait_for_sql($node, "SELECT state NOT IN ('queued', 'running') FROM mill.job_runs WHERE run_id = $held"), 'and then it is found');
}

# ---- whoever has a job's progress locked, as a worker has, is not waited for ----

{
	my $holder = $node->background_psql('postgres');
	$holder->query_safe(q[BEGIN; SELECT FROM mill_catalog.job_progress p JOIN mill_catalog.job j ON j.id = p.job_id WHERE j.name = 'diamond' FOR UPDATE OF p]);
	my $held = sql(q[SELECT mill.run_now('diamond')]);
	my $began = Time::HiRes::time();
	run('free', 'success');
	cmp_ok(Time::HiRes::time() - $began, '<', 4, 'CASES 56: a locked progress holds up no other job');
	is(sql("SELECT state FROM mill.job_runs WHERE run_id = $held"), 'queued', 'the run of that job waits');
	$holder->query_safe('COMMIT');
	$holder->quit;
	ended($held, 'success');
}

# ---- CASES 39: a flood of notices; history ----

sql(q[SELECT mill.create_job('flood', command => $$DO 'BEGIN FOR i IN 1..20000 LOOP RAISE NOTICE ''% %'', i, repeat(''x'', 50); END LOOP; END'$$, keep_runs => 3)]);
$run = run('flood', 'success');
is(sql("SELECT length(notices) < 9000, notices LIKE 'NOTICE:  1 xx%more)' FROM mill.attempts WHERE run_id = $run"), 't|t', 'CASES 39: a flood of notices is bounded');
unlike(slurp_file($node->logfile), qr/NOTICE:  \d+ xxx/, 'and not in the log');

# ---- CASES 38: who sees and does what ----

sql('CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN; GRANT mill_user TO ann, bob; GRANT CREATE ON SCHEMA public TO ann, bob; CREATE ROLE nologin; GRANT mill_user TO nologin');
sub as { my ($role, $statement) = @_; my ($out, $err) = ('', ''); $node->psql('postgres', "SET ROLE $role; $statement", stdout => \$out, stderr => \$err); return "$out$err"; }
like(as('nologin', q[SELECT mill.create_job('n', command => 'SELECT 1')]), qr/cannot own a job, as it may not log in/, 'CASES 38: an owner that cannot log in');
like(as('pg_monitor', q[SELECT mill.create_job('n', command => 'SELECT 1')]), qr/must be a member of role "mill_user" to create a job/, 'CASES 38: who is no member');
as('ann', q[CREATE TABLE who (a text); SELECT mill.create_job('anns', command => $$RESET ROLE; SET SESSION AUTHORIZATION DEFAULT; INSERT INTO who VALUES (current_user || ' ' || session_user)$$)]);
like(as('bob', "$_"), qr/must be owner of job "anns"/, "CASES 38: another one's job: $_")
  foreach q[SELECT mill.run_now('anns')], q[SELECT mill.alter_job('anns', retries => 1)], q[SELECT mill.drop_job('anns')], q[SELECT mill.pause('anns')],
  q[SELECT mill.add_step('anns', 'x', 'SELECT 1')], q[SELECT mill.alter_step('anns', 'main', command => 'SELECT 1')], q[SELECT mill.drop_step('anns', 'main')],
  q[SELECT mill.backfill('anns', '2026-01-01', '2026-01-02')], q[SELECT mill.run_after('anns', NULL)];
is(as('bob', q[SELECT count(*) FROM mill.jobs, mill.job_runs, mill.step_runs, mill.attempts]), 0, 'CASES 38: and sees none');
$run = run('anns', 'success');
is(sql('SELECT a FROM who'), 'ann ann', 'CASES 38: RESET ROLE in a command gains nothing');
like(as('bob', "SELECT mill.cancel($run)"), qr/must be owner of job "anns"/, 'CASES 38: another one\'s run');
as('ann', q[SELECT mill.create_job('steals', command => 'SET ROLE bob')]);
run('steals', 'failed');
like(sql("SELECT message FROM mill.attempts WHERE job = 'steals'"), qr/permission denied to set role "bob"/, 'CASES 38: nobody runs as a role that he is no member of');

# ---- CASES 36: owners ----

fails('DROP ROLE ann', qr/cannot be dropped because some objects depend on it.*owner of the job|owner of type mill_data/s, 'CASES 36: an owner is not dropped');
sql('REVOKE mill_user FROM ann');
$run = sql(q[SELECT mill.run_now('anns')]);
ok(wait_for_sql($node, q[SELECT state || ': ' || reason FROM mill.jobs WHERE job = 'anns'], expected => 'failed: the owner is no member of mill_user any more: GRANT mill_user TO ann'), 'CASES 36: an owner that lost its rights');
ok(run('diamond', 'success'), 'CASES 36: others go on');
sql('REASSIGN OWNED BY ann TO bob');
ended($run, 'success');
is(sql(q[SELECT DISTINCT a FROM who WHERE a <> 'ann ann']), 'bob bob', 'CASES 36: REASSIGN OWNED is followed');
sql('DROP OWNED BY bob');
is(sql(q[SELECT count(*) FROM mill.jobs WHERE job IN ('anns', 'steals')]), 0, 'DROP OWNED takes jobs along');

# a step is dropped, added, altered while a run is open
sql(q[SELECT mill.create_job('open'); SELECT mill.add_step('open', 'a', 'SELECT pg_sleep(1)'); SELECT mill.add_step('open', 'b', 'SELECT 1/0', after => '{a}');
	SELECT mill.add_step('open', 'c', 'SELECT 2', after => '{a}')]);
$run = sql(q[SELECT mill.run_now('open')]);
wait_for_sql($node, "SELECT state = 'running' FROM mill.step_runs WHERE run_id = $run AND step = 'a'");
fails(q[SELECT mill.drop_step('open', 'a')], qr/runs after step "a"/, 'CASES 37: a step that runs');
sql(q[SELECT mill.drop_step('open', 'c'); SELECT mill.alter_step('open', 'b', command => 'SELECT 1'); SELECT mill.add_step('open', 'late', 'SELECT 1')]);
ended($run, 'success');
is(steps($run), 'a success, b success, c skipped', 'CASES 36, 37: what was changed, dropped and added while a run was open');

# ---- backfill ----

sql(q[SELECT mill.create_job('daily', '0 1 * * *', $$SELECT note('daily', $1, $2)$$, time_zone => 'Europe/Berlin')]);
my $backfill = sql(q[SELECT mill.backfill('daily', '2026-03-20', '2026-04-05', parallel => 3)]);
ok(wait_for_sql($node, "SELECT state = 'success' AND done = total AND \"left\" = 0 FROM mill.backfills WHERE backfill_id = $backfill"), 'a backfill, with its progress');
is(sql(q[SELECT count(*), min(a), max(b), count(*) FILTER (WHERE b - a = '23 hours') FROM fx WHERE what = 'daily']), "16|2026-03-20 00:00:00+00|2026-04-04 23:00:00+00|1", 'CASES 37: each interval, one of them of 23 hours');
is(sql(q(SELECT intervals_done = '{[2026-03-20 00:00+00,2026-04-04 23:00+00\)}' FROM mill.jobs WHERE job = 'daily')), 't', 'they are done');
$backfill = sql(q[SELECT mill.backfill('daily', '2026-03-20', '2026-04-05')]);
is(sql("SELECT total, state FROM mill.backfills WHERE backfill_id = $backfill"), '0|success', 'CASES 37: what is missing, twice: the second makes none');
$backfill = sql(q[SELECT mill.backfill('daily', '2026-03-20', '2026-03-23', 'all', newest_first => true)]);
ok(wait_for_sql($node, "SELECT state = 'success' AND done = 3 FROM mill.backfills WHERE backfill_id = $backfill"), 'all again');
is(sql(q[SELECT string_agg(extract(day FROM interval_start)::text, ',' ORDER BY started_at) FROM mill.job_runs WHERE job = 'daily' AND backfill_id = ] . $backfill), '22,21,20', 'newest first');
is(sql(q[SELECT count(*) FROM mill.job_runs WHERE job = 'daily']), 16, 'a run that is made again replaces the record of its interval');

# ---- CASES 32: what was missed ----

is(sql(q[SELECT string_agg(mill.create_job('c_' || c, '0 3 * * *', format('SELECT note(%L, $1, $2)', c), time_zone => 'UTC', catchup => c)::text, ',') IS NOT NULL FROM unnest('{none,latest,all}'::text[]) c]), 't', 'jobs');
my $fire = sql(q[SELECT extract(epoch FROM next_run - now())::int FROM mill.jobs WHERE job = 'c_all']);
$node->append_conf('postgresql.conf', 'mill.clock_offset = ' . ($fire + 2 * 86400 + 3600));
$node->restart;
ok(wait_for_sql($node, q[SELECT count(*) = 3 FROM fx WHERE what = 'all']), 'CASES 32: down for three daily slots: all makes up for each');
ok(wait_for_sql($node, q[SELECT count(*) = 1 FROM fx WHERE what = 'latest']), 'CASES 32: latest for one');
is(sql(q[SELECT count(*) FROM fx WHERE what = 'none']), 0, 'CASES 32: none for none');
is(sql(q[SELECT string_agg(d.b - d.a || '', ',') FROM fx d WHERE what IN ('all', 'latest')]), '1 day,1 day,1 day,1 day', 'CASES 32: each for one day');
is(sql(q[SELECT bool_and(coalesce(r.started_at >= p.started_at, true)) FROM (SELECT *, lag(run_id) OVER (ORDER BY interval_start) AS before FROM mill.job_runs WHERE job = 'c_all') r LEFT JOIN mill.job_runs p ON p.run_id = r.before]),
	't', 'CASES 32: in their order');
# the clock is set back, and goes on
set_clock($fire + 2 * 86400 + 3600 - 8 * 3600);
sql(q[SELECT mill.create_job('tick', '@every 1 second', $$SELECT note('tick', $1, $2)$$)]);
ok(wait_for_sql($node, q[SELECT count(*) >= 2 FROM fx WHERE what = 'tick']), 'CASES 32: after the clock was set back jobs run');
set_clock($fire + 2 * 86400 + 3600 + 3 * 86400);
ok(wait_for_sql($node, q[SELECT count(*) = 6 FROM fx WHERE what = 'all']), 'CASES 32: forward three days: each day once');
set_clock($fire + 2 * 86400 + 3600);
my $ticks = sql(q[SELECT count(*) FROM fx WHERE what = 'tick']);
ok(wait_for_sql($node, qq[SELECT count(*) >= $ticks + 2 FROM fx WHERE what = 'tick']), 'CASES 32: and back: nothing stalls');
is(sql(q[SELECT count(*) FROM (SELECT what, a, b FROM fx WHERE what IN ('all', 'latest', 'none', 'tick') GROUP BY what, a, b HAVING count(*) > 1) x]), 0, 'CASES 32: nothing ran twice');
is(sql(q[SELECT count(*) FROM (SELECT what, a, lag(b) OVER (PARTITION BY what ORDER BY b) AS before FROM fx WHERE what = 'all') x WHERE a < before]), 0, 'CASES 32: no intervals overlap');

# history is pruned by the number that the job keeps, at most once a minute
sql(q[SELECT mill.run_now('flood')]) for 1 .. 6;
ok(wait_for_sql($node, q[SELECT count(*) = 0 FROM mill.job_runs WHERE job = 'flood' AND state IN ('queued', 'running')]), 'more runs');
set_clock($fire + 2 * 86400 + 3600 + 120);
ok(wait_for_sql($node, q[SELECT count(*) = 3 FROM mill.job_runs WHERE job = 'flood']), 'CASES 39: history is pruned');
is(sql(q[SELECT count(*) FROM mill_catalog.step_run s WHERE NOT EXISTS (SELECT FROM mill_catalog.job_run r WHERE r.id = s.run_id)]), 0, 'with its steps');
is(sql(q[SELECT count(*) FROM mill_catalog.attempt a WHERE NOT EXISTS (SELECT FROM mill_catalog.step_run s WHERE s.id = a.step_run_id)]), 0, 'and attempts');

$node->stop;
done_testing();
