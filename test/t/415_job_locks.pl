# Room: job.
#
# Locks of jobs. Users cancel, retry, skip, run, backfill, alter and drop steps of
# several runs in one transaction, while the runs begin and end and others follow them
# (in a diamond). Nobody but users who lock several jobs can wait for each other in a
# circle: there is no deadlock, no attempt is lost for one, and the manager waits for
# nobody who has a job locked.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

$MillTest::deadline = 60;
my $seed = random_seed();
my $node = new_cluster('locks', conf => "mill.workers_max = 8\nmax_worker_processes = 40\nlog_min_messages = error\ndeadlock_timeout = 200ms\n");
my $pgbench = $node->installed_command('pgbench');

sub sql { return $node->safe_psql('postgres', join('', @_)); }

sql(<<'EOS');
CREATE EXTENSION pg_mill;
CREATE SCHEMA s;
-- a function of mill for some runs of one job, in no order that anybody else has
CREATE FUNCTION s.act(what text, the_job text, states text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE run bigint;
BEGIN
	FOR run IN SELECT r.run_id FROM mill.job_runs r WHERE r.job = the_job AND r.state = ANY (states) ORDER BY random() LIMIT 4 LOOP
		BEGIN
			EXECUTE format('SELECT mill.%s(%s)', what, run);
		EXCEPTION WHEN object_not_in_prerequisite_state OR undefined_object THEN NULL;
		END;
	END LOOP;
END$$;
-- up is followed by left and right, these by down
SELECT mill.create_job(j, CASE j WHEN 'up' THEN '@every 1 day' END, start_at => '2026-01-01', catchup => 'none', max_active => 3, retry_delay => '0',
	time_zone => 'UTC', keep_runs => 100000) FROM unnest('{up,left,right,down}'::text[]) j;
SELECT mill.add_step(j, 'a', 'SELECT pg_sleep(0.003)'), mill.add_step(j, 'b', 'SELECT 1'), mill.add_step(j, 'c', 'SELECT 1', after => '{a,b}')
	FROM unnest('{up,left,right,down}'::text[]) j;
SELECT mill.run_after('left', 'up'), mill.run_after('right', 'up');
SELECT mill.run_after('down', 'left'); SELECT mill.run_after('down', 'right');
EOS

my %scripts = (
	cancel => "SELECT s.act('cancel', :job, '{queued,running}');",
	retry => "SELECT s.act('retry', :job, '{failed,canceled,skipped}');",
	skip => "SELECT s.act('skip', :job, '{queued,running,canceled}');",
	backfill => "SELECT mill.backfill('up', timestamptz '2026-01-05 00:00+00' + make_interval(days => :day), timestamptz '2026-01-05 00:00+00' + make_interval(days => :day + 10), 'all', 3);",
	step => "BEGIN; SELECT s.act('cancel', :job, '{running}'); SELECT mill.alter_step(:job, 'b', command => 'SELECT 2'); SELECT mill.alter_job(:job, max_active => 2); END;");
my @files;
foreach my $name (sort keys %scripts)
{
	append_to_file("$test_dir/$name.sql", "\\set n random(0, 3)\n\\set day random(0, 40)\n"
		. "SELECT quote_literal((array['up','left','right','down'])[:n + 1]) AS job \\gset\n$scripts{$name}\n");
	push @files, '-f', "$test_dir/$name.sql\@" . ($name eq 'backfill' ? 4 : 1);
}

my $before = sql('SELECT count(*) FROM mill_catalog.attempt');
my ($out, $err) = ('', '');
IPC::Run::run([ $pgbench, '-n', '-c', 3, '-T', 8, '-R', 30, "--random-seed=$seed", @files, $node->connstr('postgres') ], '<', \undef, '>', \$out, '2>', \$err);
my ($done) = $out =~ /actually processed: (\d+)/;
cmp_ok($done // 0, '>', 20, 'users changed something');
unlike($err, qr/ERROR/, 'and had no error');

ok(wait_for_sql($node, q[SELECT NOT EXISTS (SELECT FROM mill_catalog.job_run WHERE state IN ('queued', 'running') OR NOT followed)]), 'all of it comes to rest')
  or diag(sql(q[SELECT j.name, j.enabled, r.state, r.followed, r.stop, s.name, s.state, count(*) FROM mill_catalog.job_run r JOIN mill_catalog.job j ON j.id = r.job_id
	LEFT JOIN mill_catalog.step_run s ON s.run_id = r.id GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 3, 6]));
cmp_ok(sql('SELECT count(*) FROM mill_catalog.attempt') - $before, '>', 100, 'steps ran meanwhile');
is(sql(q[SELECT string_agg(DISTINCT outcome || ': ' || message, ', ') FROM mill_catalog.attempt WHERE outcome NOT IN ('success', 'canceled')]), '', 'every attempt succeeded or was canceled');
is(join("\n", grep { /deadlock/ } split /\n/, slurp_file($node->logfile)), '', 'there was no deadlock');
is(sql(q{SELECT string_agg(format('%s [%s, %s)', d.name, r.interval_start, r.interval_end), ', ') FROM mill_catalog.job d JOIN mill_catalog.job_run r ON r.job_id = d.run_after[1]
	WHERE r.covers AND r.state = 'success' AND NOT EXISTS (SELECT FROM unnest(d.run_after) u JOIN mill_catalog.job_progress p ON p.job_id = u WHERE NOT p.done @> tstzrange(r.interval_start, r.interval_end))
	AND NOT EXISTS (SELECT FROM mill_catalog.job_run o WHERE o.job_id = d.id AND o.covers AND (o.interval_start, o.interval_end) = (r.interval_start, r.interval_end))}),
	'', 'what succeeded was followed');
is(sql(q[SELECT string_agg(b::text, ', ') FROM mill_catalog.backfill b WHERE b.success + b.failed <> b.total AND finished_at IS NULL
	AND NOT EXISTS (SELECT FROM mill_catalog.job_run r WHERE r.backfill_id = b.id AND r.state IN ('queued', 'running'))]), '', 'backfills have ended');

# ---- the manager waits for nobody ----

my $user = $node->background_psql('postgres');
$user->query_safe(q[BEGIN; SELECT mill.run_now('up', '2025-01-01', '2025-01-02')]);
sql(q[SELECT mill.create_job('free', '@every 1 second', 'SELECT 1')]);
ok(wait_for_sql($node, q[SELECT count(*) >= 2 FROM mill.job_runs WHERE job = 'free' AND state = 'success']), 'a job runs while another one is locked');
$user->query_safe('COMMIT');
$user->quit;
$node->stop;
done_testing();
