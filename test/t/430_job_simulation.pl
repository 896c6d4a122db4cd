# Room: job.
#
# Some weeks of jobs on a virtual clock, by the seed that it prints (SEED): random
# schedules in zones whose clocks are set just then, graphs, faults, retries; the
# clock jumps forwards and backwards, the server is stopped, and users pause, resume,
# cancel, retry, backfill and run by hand. Whenever the system has come to rest,
# what the steps wrote, in their own transactions, is compared with what is recorded
# and with the schedules' intervals, computed apart. CASES 32, 33, 37.

use strict;
use warnings;

use List::Util qw(min max shuffle);
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

$MillTest::deadline = 60;
my $seed = random_seed();
my $node = new_cluster('simulation', conf => "mill.workers_max = 6\nmax_worker_processes = 40\nlog_min_messages = error\n");

sub sql { return $node->safe_psql('postgres', join('', @_)); }
sub one_of { return $_[ int rand @_ ]; }
sub between { my ($a, $b) = @_; return $a + int rand($b - $a + 1); }
sub chance { return rand() < $_[0]; }

# ---- the clock ----

my $base = one_of('2026-03-06 07:00+00', '2026-03-26 20:00+00', '2026-10-01 12:00+00', '2026-10-22 05:00+00');
my ($offset, $latest) = (0, 0);

# What managers and workers take for the time.
sub now_sql { return "(clock_timestamp() + make_interval(secs => $offset))"; }

sub set_offset
{
	my ($seconds) = @_;

	$offset = int $seconds;
	$latest = max($latest, $offset);
	$node->append_conf('postgresql.conf', "mill.clock_offset = $offset");
	return;
}

sql(<<'EOS');
CREATE EXTENSION pg_mill;
CREATE SCHEMA sim;
CREATE TABLE sim.setting (seed int, base timestamptz);
CREATE TABLE sim.job (job text PRIMARY KEY, zone text, every interval, minutes int[], hours int[], days int[], wildcard bool);
-- the intervals of each schedule
CREATE TABLE sim.fire (job text, a timestamptz, b timestamptz);
CREATE TABLE sim.effect (id bigint GENERATED ALWAYS AS IDENTITY, job text, step text, a timestamptz, b timestamptz, run bigint);
-- runs that were made by hand, and runs that were retried
CREATE TABLE sim.made (run bigint);
CREATE TABLE sim.retried (run bigint);
CREATE TABLE sim.violation (what text);
CREATE TABLE sim.grid (zone text, m timestamptz, l timestamp, PRIMARY KEY (zone, m));

-- of a thing, the same for a seed, 0 .. n - 1
CREATE FUNCTION sim.dice(n int, VARIADIC things text[]) RETURNS int LANGUAGE sql STABLE AS
	$$SELECT (hashtextextended(array_to_string(things, '|'), seed) & 1048575)::int % n FROM sim.setting$$;
-- how often a step fails for an interval, and how often it is in conflict
CREATE FUNCTION sim.faults(job text, step text, a timestamptz, b timestamptz) RETURNS int LANGUAGE sql STABLE AS
	$$SELECT CASE WHEN sim.dice(7, 'fault', job, step, extract(epoch FROM a)::text, extract(epoch FROM b)::text) = 0
		THEN 1 + sim.dice(3, 'faults', job, step, extract(epoch FROM a)::text) ELSE 0 END$$;
CREATE FUNCTION sim.conflicts(job text, step text, a timestamptz, b timestamptz) RETURNS int LANGUAGE sql STABLE AS
	$$SELECT CASE WHEN sim.dice(15, 'conflict', job, step, extract(epoch FROM a)::text) = 0
		THEN 1 + sim.dice(3, 'conflicts', job, step, extract(epoch FROM a)::text) ELSE 0 END$$;

CREATE FUNCTION sim.violate(what text) RETURNS void LANGUAGE plpgsql AS
	$$BEGIN RAISE LOG 'VIOLATION: %', what; INSERT INTO sim.violation VALUES (what); END$$;

-- What each step does.
CREATE FUNCTION sim.work(the_job text, the_step text, a timestamptz, b timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	run mill_catalog.job_run;
	job mill_catalog.job;
	step mill_catalog.step_run;
	most int;
	found int;
	bad int;
BEGIN
	INSERT INTO sim.effect (job, step, a, b, run) VALUES (the_job, the_step, a, b, current_setting('mill.run_id')::bigint);
	SELECT * INTO STRICT run FROM mill_catalog.job_run r WHERE r.id = current_setting('mill.run_id')::bigint;
	SELECT * INTO STRICT job FROM mill_catalog.job j WHERE j.id = run.job_id;
	SELECT * INTO STRICT step FROM mill_catalog.step_run s WHERE s.run_id = run.id AND s.name = the_step;
	IF (run.interval_start, run.interval_end, job.name) IS DISTINCT FROM (a, b, the_job) THEN
		PERFORM sim.violate(format('%s of run %s has another interval', the_step, run.id));
	END IF;
	-- parents
	SELECT count(*) FILTER (WHERE p.state IN ('waiting', 'ready', 'running', 'retry_wait')),
		count(*) FILTER (WHERE p.state IN ('failed', 'upstream_failed', 'canceled')) INTO found, bad
	FROM mill_catalog.step_run p WHERE p.run_id = run.id AND p.step_id = ANY (step.parents);
	IF found > 0 OR step.run_when = 'all_success' AND bad > 0 OR step.run_when = 'any_failed' AND bad = 0 THEN
		PERFORM sim.violate(format('%s of run %s: %s parents have not ended, %s are bad, run_when %s', the_step, run.id, found, bad, step.run_when));
	END IF;
	-- runs at one time: those that are recorded, and those of which a step is in its transaction
	most := CASE WHEN run.backfill_id IS NOT NULL THEN (SELECT f.parallel FROM mill_catalog.backfill f WHERE f.id = run.backfill_id)
		WHEN job.overlap = 'allow' THEN 1000 ELSE job.max_active END;
	SELECT count(*) INTO found FROM mill_catalog.job_run r WHERE r.job_id = job.id AND r.state = 'running' AND r.backfill_id IS NOT DISTINCT FROM run.backfill_id;
	IF found > most THEN
		PERFORM sim.violate(format('%s runs of %s are running, of at most %s', found, the_job, most));
	END IF;
	PERFORM pg_advisory_xact_lock_shared((job.id * 1000 + coalesce(run.backfill_id, 0))::int, run.id::int);
	-- locks of a transaction that is just ending have no xid any more
	SELECT count(DISTINCT l.objid) INTO found FROM pg_locks l JOIN pg_stat_get_activity(NULL) s ON s.pid = l.pid
	WHERE l.locktype = 'advisory' AND l.classid::bigint = job.id * 1000 + coalesce(run.backfill_id, 0) AND s.backend_xid IS NOT NULL;
	IF found > most THEN
		PERFORM sim.violate(format('steps of %s runs of %s at one time, of at most %s', found, the_job, most));
	END IF;
	IF sim.dice(12, 'sleep', the_job, the_step, a::text) = 0 THEN
		PERFORM pg_sleep(0.02 + sim.dice(80, 'sleeps', the_step, a::text) / 1000.0);
	END IF;
	IF (SELECT count(*) FROM mill_catalog.attempt t WHERE t.step_run_id = step.id AND t.outcome = 'conflict') < sim.conflicts(the_job, the_step, a, b) THEN
		RAISE serialization_failure;
	END IF;
	IF (SELECT count(*) FROM mill_catalog.attempt t WHERE t.step_run_id = step.id AND t.outcome = 'error') < sim.faults(the_job, the_step, a, b) THEN
		RAISE 'fault';
	END IF;
END$$;

-- A schedule's instants, apart from the code that is tested: on a grid of five minutes.
CREATE FUNCTION sim.plan(the_job text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	j sim.job;
	start timestamptz;
BEGIN
	SELECT * INTO STRICT j FROM sim.job WHERE job = the_job;
	SELECT base INTO STRICT start FROM sim.setting;
	INSERT INTO sim.grid SELECT j.zone, m, m AT TIME ZONE j.zone FROM generate_series(start - interval '12 days', start + interval '60 days', interval '5 minutes') m ON CONFLICT DO NOTHING;
	CREATE TEMP TABLE instant (at timestamptz) ON COMMIT DROP;
	IF j.every IS NOT NULL THEN
		INSERT INTO instant SELECT start + n * j.every FROM generate_series(0, (extract(epoch FROM interval '60 days') / extract(epoch FROM j.every))::int) n;
	ELSIF j.wildcard THEN
		-- each local minute that there is
		INSERT INTO instant SELECT m FROM sim.grid WHERE zone = j.zone AND extract(minute FROM l) = ANY (j.minutes)
			AND extract(hour FROM l) = ANY (j.hours) AND extract(dow FROM l) = ANY (j.days);
	ELSE
		-- each local time once: the first instant that shows it or a later one
		INSERT INTO instant SELECT DISTINCT (SELECT min(g.m) FROM sim.grid g WHERE g.zone = j.zone AND g.l >= d.l
			AND g.m BETWEEN (d.l AT TIME ZONE 'UTC') - interval '16 hours' AND (d.l AT TIME ZONE 'UTC') + interval '16 hours')
		FROM (SELECT date_trunc('day', start AT TIME ZONE 'UTC') + make_interval(days => day, hours => h, mins => m) AS l
			FROM generate_series(-10, 58) day, unnest(j.hours) h, unnest(j.minutes) m) d WHERE extract(dow FROM d.l) = ANY (j.days);
	END IF;
	INSERT INTO sim.fire SELECT the_job, a, b FROM (SELECT lag(at) OVER (ORDER BY at) AS a, at AS b FROM instant) i WHERE a IS NOT NULL AND b > start;
END$$;

-- What does not hold, at any time; completeness at a time at which the system is at rest.
CREATE FUNCTION sim.check(at_rest timestamptz, clock_is_latest bool) RETURNS SETOF text LANGUAGE sql STABLE AS $$
	SELECT what FROM sim.violation
	UNION ALL -- effects and records
	SELECT format('step %s of run %s of %s: %s effects, %s successes', coalesce(e.step, s.name), r.id, j.name, coalesce(e.n, 0), coalesce(s.n, 0))
	FROM (SELECT run, step, count(*) AS n FROM sim.effect GROUP BY 1, 2) e
	FULL JOIN (SELECT s.run_id, s.name, count(*) AS n FROM mill_catalog.step_run s JOIN mill_catalog.attempt t ON t.step_run_id = s.id
		WHERE t.outcome = 'success' GROUP BY 1, 2) s ON s.run_id = e.run AND s.name = e.step
	JOIN mill_catalog.job_run r ON r.id = coalesce(e.run, s.run_id) JOIN mill_catalog.job j ON j.id = r.job_id
	WHERE coalesce(e.n, 0) <> coalesce(s.n, 0)
	UNION ALL
	SELECT format('step %s of run %s is %s with %s effects', s.name, s.run_id, s.state, (SELECT count(*) FROM sim.effect e WHERE e.run = s.run_id AND e.step = s.name))
	FROM mill_catalog.step_run s WHERE s.state = 'success' AND NOT EXISTS (SELECT FROM sim.effect e WHERE e.run = s.run_id AND e.step = s.name)
	UNION ALL -- twice; a run after others is also made again where they are
	SELECT format('step %s of run %s: %s effects, %s retries', e.step, e.run, count(*), (SELECT count(*) FROM sim.retried t WHERE t.run = e.run))
	FROM sim.effect e JOIN mill_catalog.job j ON j.name = e.job GROUP BY e.step, e.run, e.a, e.b, j.run_after
	HAVING count(*) > 1 + (SELECT count(*) FROM sim.retried t WHERE t.run = e.run)
		+ greatest(0, (SELECT count(DISTINCT x.run) FROM sim.effect x JOIN mill_catalog.job o ON o.name = x.job WHERE o.id = ANY (j.run_after) AND (x.a, x.b) = (e.a, e.b))
		- cardinality(j.run_after))
	UNION ALL
	SELECT format('%s for [%s, %s) by the runs %s of its schedule', e.job, e.a, e.b, array_agg(DISTINCT e.run))
	FROM sim.effect e JOIN mill_catalog.job j ON j.name = e.job AND j.run_after = '{}'
	WHERE NOT EXISTS (SELECT FROM sim.made m WHERE m.run = e.run)
	GROUP BY e.job, e.a, e.b HAVING count(DISTINCT e.run) > 1
	UNION ALL
	SELECT format('%s for [%s, %s) by %s runs, after %s of others', e.job, e.a, e.b, count(DISTINCT e.run), max(u.n))
	FROM sim.effect e JOIN mill_catalog.job j ON j.name = e.job AND j.run_after <> '{}'
	CROSS JOIN LATERAL (SELECT count(DISTINCT x.run) AS n FROM sim.effect x JOIN mill_catalog.job o ON o.name = x.job WHERE o.id = ANY (j.run_after) AND x.a = e.a AND x.b = e.b) u
	WHERE NOT EXISTS (SELECT FROM sim.made m WHERE m.run = e.run)
	GROUP BY e.job, e.a, e.b HAVING count(DISTINCT e.run) > max(u.n)
	UNION ALL -- intervals
	SELECT format('run %s of %s is for [%s, %s), no interval of the schedule', r.id, j.name, r.interval_start, r.interval_end)
	FROM mill_catalog.job_run r JOIN mill_catalog.job j ON j.id = r.job_id
	WHERE r.cause = 'schedule' AND NOT EXISTS (SELECT FROM sim.fire f WHERE f.job = j.name AND f.a = r.interval_start AND f.b = r.interval_end)
	UNION ALL
	SELECT format('%s: two runs stand for the same time, %s and %s', j.name, r.id, o.id)
	FROM mill_catalog.job_run r JOIN mill_catalog.job_run o ON o.job_id = r.job_id AND o.id > r.id AND o.covers AND r.covers
		AND o.interval_start < r.interval_end AND r.interval_start < o.interval_end JOIN mill_catalog.job j ON j.id = r.job_id
	UNION ALL
	SELECT format('%s: done is %s, but the runs are %s', j.name, p.done, r.done)
	FROM mill_catalog.job j JOIN mill_catalog.job_progress p ON p.job_id = j.id
	CROSS JOIN LATERAL (SELECT coalesce(range_agg(tstzrange(r.interval_start, r.interval_end)), '{}') AS done
		FROM mill_catalog.job_run r WHERE r.job_id = j.id AND r.covers AND r.state = 'success') r WHERE p.done <> r.done
	UNION ALL
	SELECT format('%s: [%s, %s) is lost', j.name, f.a, f.b)
	FROM mill_catalog.job j JOIN sim.fire f ON f.job = j.name
	WHERE at_rest IS NOT NULL AND j.enabled AND f.b <= at_rest
		AND (j.catchup = 'all' OR j.catchup = 'latest' AND clock_is_latest AND NOT EXISTS (SELECT FROM sim.fire g WHERE g.job = j.name AND g.b > f.b AND g.b <= at_rest))
		AND NOT EXISTS (SELECT FROM mill_catalog.job_run r WHERE r.job_id = j.id AND r.covers AND r.interval_start = f.a AND r.interval_end = f.b)
	UNION ALL
	SELECT format('%s did not run after others for [%s, %s)', j.name, r.interval_start, r.interval_end)
	FROM mill_catalog.job j JOIN mill_catalog.job_run r ON r.job_id = j.run_after[1] AND r.covers AND r.state = 'success'
	WHERE NOT EXISTS (SELECT FROM unnest(j.run_after) u WHERE NOT EXISTS (SELECT FROM mill_catalog.job_run o
			WHERE o.job_id = u AND o.covers AND o.state = 'success' AND o.interval_start = r.interval_start AND o.interval_end = r.interval_end))
		AND NOT EXISTS (SELECT FROM mill_catalog.job_run d WHERE d.job_id = j.id AND d.covers AND d.interval_start = r.interval_start AND d.interval_end = r.interval_end)
	UNION ALL -- steps
	SELECT format('step %s of run %s succeeded after %s errors, not %s', s.name, s.run_id, n.errors, sim.faults(j.name, s.name, r.interval_start, r.interval_end))
	FROM mill_catalog.step_run s JOIN mill_catalog.job_run r ON r.id = s.run_id JOIN mill_catalog.job j ON j.id = r.job_id
	CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE t.outcome = 'error') AS errors FROM mill_catalog.attempt t WHERE t.step_run_id = s.id) n
	WHERE s.state = 'success' AND n.errors <> sim.faults(j.name, s.name, r.interval_start, r.interval_end)
	UNION ALL
	SELECT format('step %s of run %s failed after %s of %s tries', s.name, s.run_id, s.failures, 1 + coalesce(d.retries, j.retries))
	FROM mill_catalog.step_run s JOIN mill_catalog.job j ON j.id = s.job_id JOIN mill_catalog.step d ON d.id = s.step_id
	WHERE s.state = 'failed' AND s.failures <> 1 + coalesce(d.retries, j.retries)
	UNION ALL
	SELECT format('step %s of run %s: an attempt was %s: %s', s.name, s.run_id, t.outcome, t.message)
	FROM mill_catalog.attempt t JOIN mill_catalog.step_run s ON s.id = t.step_run_id
	WHERE t.outcome NOT IN ('success', 'running', 'canceled', 'interrupted') AND (t.outcome <> 'error' OR t.message <> 'fault') AND (t.outcome <> 'conflict' OR t.message <> 'serialization_failure')
	UNION ALL
	SELECT format('step %s of run %s is %s, run_when %s, of its parents %s are open, %s bad', s.name, s.run_id, s.state, s.run_when, p.open, p.bad)
	FROM mill_catalog.step_run s JOIN mill_catalog.job_run r ON r.id = s.run_id
	CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE p.state IN ('waiting', 'ready', 'running', 'retry_wait')) AS open,
		count(*) FILTER (WHERE p.state IN ('failed', 'upstream_failed', 'canceled')) AS bad
		FROM mill_catalog.step_run p WHERE p.run_id = s.run_id AND p.step_id = ANY (s.parents)) p
	WHERE r.state IN ('running', 'success', 'failed') AND r.stop IS NULL AND s.state <> CASE WHEN s.state IN ('ready', 'running', 'retry_wait', 'success', 'failed')
			AND (s.run_when = 'all_done' OR (s.run_when = 'all_success') = (p.bad = 0)) AND p.open = 0 THEN s.state
		WHEN s.run_when = 'all_success' AND p.bad > 0 THEN 'upstream_failed' WHEN p.open > 0 THEN 'waiting'
		WHEN s.run_when = 'any_failed' AND p.bad = 0 THEN 'skipped' ELSE '?' END
	UNION ALL
	SELECT format('run %s is %s', r.id, r.state) FROM mill_catalog.job_run r
	WHERE r.state IN ('success', 'failed') AND r.stop IS NULL AND (r.state = 'failed') <> EXISTS (SELECT FROM mill_catalog.step_run s WHERE s.run_id = r.id AND s.state IN ('failed', 'upstream_failed'))
	UNION ALL -- backfills
	SELECT format('backfill %s: %s', b.id, b) FROM mill_catalog.backfill b
	CROSS JOIN LATERAL (SELECT count(*) AS n FROM mill_catalog.job_run r WHERE r.backfill_id = b.id AND r.state IN ('queued', 'running')) o
	WHERE b.success + b.failed + o.n <> b.total OR (b.finished_at IS NULL) <> (o.n > 0)
$$;
EOS
sql("INSERT INTO sim.setting VALUES ($seed, '$base')");
set_offset(sql("SELECT extract(epoch FROM timestamptz '$base' - clock_timestamp())::int"));
$latest = $offset;
$node->reload;

# ---- jobs ----

my @zones = ('UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'America/Havana', 'Asia/Kolkata', 'Pacific/Chatham');
my %steps;
my @jobs;

sub minute { return 5 * between(0, 11); }

# A schedule, and the same for sim.job: every, minutes, hours, days, wildcard.
sub schedule
{
	my ($often) = @_;
	my ($m, $h) = (minute(), between(0, 23));
	my $night = between(0, 3);
	my @all = (0 .. 23);
	my $week = [ 0 .. 6 ];
	my $every = sub { [ "\@every $_[0]", $_[0], [], [], [], 0 ] };

	return one_of([ "*/15 * * * *", undef, [ 0, 15, 30, 45 ], \@all, $week, 1 ], $every->('10 minutes'), $every->('25 minutes')) if $often == 2;
	return one_of([ "$m * * * *", undef, [$m], \@all, $week, 1 ], $every->('70 minutes')) if $often == 1;
	return one_of(
		[ "$m $h * * *", undef, [$m], [$h], $week, 0 ],
		[ "$m $night * * *", undef, [$m], [$night], $week, 0 ],
		[ "$m $night,3,$h * * *", undef, [$m], [ $night, 3, $h ], $week, 0 ],
		[ "5,35 2 * * *", undef, [ 5, 35 ], [2], $week, 0 ],
		[ "*/30 1-2 * * *", undef, [ 0, 30 ], [ 1, 2 ], $week, 1 ],
		[ "$m */6 * * *", undef, [$m], [ 0, 6, 12, 18 ], $week, 1 ],
		[ "$m $h * * mon-fri", undef, [$m], [$h], [ 1 .. 5 ], 0 ],
		[ "\@daily", undef, [0], [0], $week, 0 ],
		$every->('7 hours'), $every->('1 day 01:00'), $every->('5 hours 20 minutes'));
}

sub array { return "'{" . join(',', @{ $_[0] }) . "}'"; }

sub make_job
{
	my ($name, $schedule, $zone, %o) = @_;
	my $statement = '';

	if ($schedule)
	{
		my ($text, $every, $minutes, $hours, $days, $wildcard) = @$schedule;

		$statement = "BEGIN; INSERT INTO sim.job VALUES ('$name', '$zone', " . ($every ? "'$every'" : 'NULL') . ', '
		  . join(', ', array($minutes), array($hours), array($days), $wildcard ? 'true' : 'false') . "); SELECT sim.plan('$name'); COMMIT;";
		$o{schedule} = $text;
	}
	$statement .= "BEGIN; SELECT mill.create_job('$name', " . join('', map { "$_ => '$o{$_}', " } sort keys %o)
	  . "time_zone => '$zone', start_at => '$base', retry_delay => '0', keep_runs => 1000000, keep_for => '100 years');";
	foreach my $n (1 .. $steps{$name})
	{
		my @after = $n == 1 ? () : grep { chance(0.5) } 1 .. $n - 1;
		my $when = @after ? one_of('all_success', 'all_success', 'all_done', 'any_failed') : 'all_success';

		$statement .= "SELECT mill.add_step('$name', 's$n', 'SELECT sim.work(''$name'', ''s$n'', \$1, \$2)', after => '{"
		  . join(',', map { "s$_" } @after) . "}', run_when => '$when'" . (chance(0.2) ? ', retries => ' . between(0, 2) : '') . ');';
	}
	sql("$statement COMMIT");
	push @jobs, $name;
	return note("$name: " . ($schedule ? $schedule->[0] : 'after others') . " $zone " . join(' ', map { "$_ $o{$_}" } sort keys %o) . ", $steps{$name} steps");
}

foreach my $n (1 .. between(10, 17))
{
	my $often = $n <= 2 ? 2 : $n <= 4 ? 1 : 0;
	my %o = (catchup => $often == 2 ? one_of('none', 'latest') : $often == 1 ? 'all' : one_of('none', 'latest', 'all', 'all'),
		overlap => one_of('queue', 'queue', 'skip', 'allow'), retries => between(0, 2));

	$o{max_active} = between(1, 3) if $o{overlap} ne 'allow';
	$steps{"j$n"} = $often ? between(1, 2) : between(1, 5);
	make_job("j$n", schedule($often), one_of(@zones), %o);
}
# two that fire at the same times, one after both of them, and one after that
{
	my $zone = one_of(@zones);
	my $schedule = schedule(0);

	$steps{$_} = 1 foreach qw(up1 up2 down);
	$steps{last} = 2;
	make_job($_, $schedule, $zone, catchup => 'all', overlap => 'queue', max_active => 3, retries => 1) foreach qw(up1 up2);
	make_job('down', undef, $zone, max_active => 2);
	make_job('last', undef, $zone);
	sql(q[SELECT mill.run_after('down', 'up1'); SELECT mill.run_after('down', 'up2'); SELECT mill.run_after('last', 'down')]);
}

# ---- rest ----

# Nothing is due, ready or running, but what is paused.
sub come_to_rest
{
	my ($what) = @_;
	my $at;

	my $ok = wait_for(sub {
		$at = ask($node, 'SELECT n FROM (SELECT ' . now_sql() . q[ AS n OFFSET 0) t WHERE NOT EXISTS (SELECT FROM mill_catalog.job j JOIN mill_catalog.job_progress p ON p.job_id = j.id
			WHERE j.enabled AND (p.next_fire <= n OR p.scheduled_at > n AND p.next_fire IS NOT NULL
			OR EXISTS (SELECT FROM mill_catalog.job_run r WHERE r.job_id = j.id AND r.state IN ('queued', 'running'))))
			AND NOT EXISTS (SELECT FROM mill_catalog.job_run WHERE NOT followed)
			AND NOT EXISTS (SELECT FROM mill_catalog.step_run WHERE state = 'running')]);
		return $at;
	});
	return $at if $ok;
	diag(sql('SELECT ' . now_sql() . ', j.name, j.enabled, p.next_fire, p.scheduled_at, (SELECT string_agg(r.id || r.state, \',\') FROM mill_catalog.job_run r WHERE r.job_id = j.id AND r.state IN (\'queued\', \'running\'))
		FROM mill_catalog.job j JOIN mill_catalog.job_progress p ON p.job_id = j.id'));
	fail("SEED=$seed: $what: comes to rest");
	return;
}

sub check
{
	my ($what) = @_;
	my $at = come_to_rest($what) or return 0;
	my $violations = sql("SELECT * FROM sim.check('$at', " . ($offset >= $latest ? 'true' : 'false') . ') LIMIT 20');

	return is($violations, '', "SEED=$seed: $what, until $at");
}

# ---- what users do ----

# Not all of it is possible by the time that it is tried.
sub try
{
	my ($statement, $accepted) = @_;
	my ($code, $out, $err) = try_psql($node, $statement);

	fail("$statement: $err") if $err =~ /ERROR/ && $err !~ /$accepted/;
	return;
}

sub act
{
	my $job = one_of(@jobs);
	my $scheduled = one_of(grep { !/down|last/ } @jobs);
	my $kind = between(1, 9);
	my $some = sub { my ($states) = @_; "(SELECT id FROM mill_catalog.job_run WHERE state IN ($states) ORDER BY hashint8(id) LIMIT " . between(1, 3) . ')'; };

	try("SELECT mill.pause(job => '$job')", 'already') if $kind == 1;
	try("SELECT mill.resume(job => '$_')", 'not paused|already') foreach $kind == 2 || $kind == 3 ? @jobs : ();
	try("SELECT mill.cancel(id) FROM " . $some->("'queued', 'running'") . ' x', 'cannot be canceled|does not exist') if $kind == 4;
	try("SELECT mill.skip(id) FROM " . $some->("'queued', 'failed'") . ' x', 'cannot be skipped|does not exist') if $kind == 5;
	try("WITH r AS MATERIALIZED (SELECT id, mill.retry(id) FROM " . $some->("'failed', 'canceled', 'skipped'") . ' x) INSERT INTO sim.retried SELECT id FROM r', 'cannot be retried|does not exist') if $kind == 6;
	try("WITH r AS MATERIALIZED (SELECT mill.run_now('$job') AS id) INSERT INTO sim.made SELECT id FROM r", '^$') if $kind == 7;
	try("WITH r AS MATERIALIZED (SELECT mill.run_now(j.name, r.interval_start, r.interval_end) AS id FROM " . $some->("'success', 'failed', 'canceled', 'skipped'")
		. ' x JOIN mill_catalog.job_run r USING (id) JOIN mill_catalog.job j ON j.id = r.job_id WHERE r.covers) INSERT INTO sim.made SELECT id FROM r', 'has not ended|does not exist') if $kind == 8;
	if ($kind == 9)
	{
		my $only = one_of('missing', 'failed', 'all');
		my ($from, $length) = (between(0, 12 * 24), between(6, 72));

		try("BEGIN; SELECT mill.backfill('$scheduled', greatest(a, '$base'), least(b, '$base'::timestamptz + interval '50 days'), '$only', " . between(1, 3) . ', ' . one_of('true', 'false') . ") AS backfill
			FROM (SELECT '$base'::timestamptz + make_interval(hours => $from) AS a, '$base'::timestamptz + make_interval(hours => $from + $length) AS b) x \\gset\n"
			. 'INSERT INTO sim.made SELECT id FROM mill_catalog.job_run WHERE backfill_id = :backfill; COMMIT', '^$');
	}
	return $kind;
}

# ---- the simulation ----

my $began = Time::HiRes::time();
my $days = 0;

check('the beginning');
for my $tick (1 .. 40)
{
	my $kind = one_of(qw(minutes minutes hours hours day days back outage crash restart));
	my $jump = { minutes => between(60, 7200), hours => between(7200, 86400), day => between(86400, 2 * 86400), days => between(86400, 4 * 86400),
		back => -between(600, 12 * 3600), outage => between(60, 2 * 86400), crash => one_of(0, 0, between(60, 86400)), restart => 0 }->{$kind};
	my $to = $offset + $jump;

	last if Time::HiRes::time() - $began > 20 || $days > 25;
	# never before the beginning
	$to = max($to, $offset - ($days * 86400) / 2) if $kind eq 'back';
	$days += ($to - $offset) / 86400;
	my @actions = map { act() } 1 .. between(0, 3);
	if ($kind =~ /outage|crash|restart/)
	{
		$node->stop($kind eq 'crash' ? 'immediate' : 'fast');
		set_offset($to);
		$node->start;
	}
	else
	{
		set_offset($to);
		$node->reload;
	}
	foreach (1 .. between(0, 3))
	{
		Time::HiRes::sleep(rand(0.3));
		push @actions, act();
	}
	check(sprintf('tick %d, %s %+.1f hours, actions %s', $tick, $kind, $jump / 3600, join(',', @actions))) or last;
}

# ---- in the end: what failed is retried until nothing does ----

try("SELECT mill.resume(job => '$_')", 'not paused|already') foreach @jobs;
# a step fails three times at most, and of those that come after each other the next only then
for my $round (1 .. 20)
{
	come_to_rest("the end, round $round") or last;
	last unless sql(q[WITH r AS MATERIALIZED (SELECT id, mill.retry(id) FROM mill_catalog.job_run WHERE state IN ('failed', 'canceled', 'skipped')) INSERT INTO sim.retried SELECT id FROM r RETURNING 1]);
}
check('the end');
is(sql(q[SELECT count(*) FROM mill_catalog.job_run WHERE state <> 'success']), 0, 'everything has succeeded in the end');
is(sql(q[SELECT string_agg(j.name, ',') FROM mill_catalog.job j JOIN mill_catalog.job_progress p ON p.job_id = j.id
	WHERE j.catchup = 'all' AND j.schedule IS NOT NULL AND NOT p.done @> tstzrange((SELECT min(a) FROM sim.fire f WHERE f.job = j.name), (SELECT max(b) FROM sim.fire f WHERE f.job = j.name AND f.b <= ] . now_sql() . ' - interval \'1 minute\'))'),
	'', 'without a hole under catchup all');
is(join("\n", grep { /LOG:  VIOLATION|could not make runs|deadlock detected/ } split /\n/, slurp_file($node->logfile)), '', 'nothing of that was rolled back, nor a deadlock');
note(sql(q[SELECT count(*) || ' runs, ' || (SELECT count(*) FROM mill_catalog.attempt) || ' attempts, ' || (SELECT count(*) FROM sim.effect) || ' effects' FROM mill_catalog.job_run]),
	sprintf(', %.1f days, %.1f s', $days, Time::HiRes::time() - $began));
$node->stop;
done_testing();
