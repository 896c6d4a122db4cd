# Room: aggregate.
#
# A table with a history is materialized while four writers insert, update and delete:
# the view is what its query gives at every moment, before, while and after it is
# filled; mill.aggregates tells how far it is; the worker or the whole server may die in
# the middle and the fill goes on; mill.refresh may run while rows arrive.

use strict;
use warnings;

use IPC::Run;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $seed = random_seed();

my $node = new_cluster('backfill', conf => "restart_after_crash = on\nmax_wal_size = 1GB\njit = off\n");
my $pgbench = $node->installed_command('pgbench');

my %views = (
	tumbling => q[SELECT window_start, window_end, product, count(*) AS n, sum(amount) AS total, min(amount) AS low
		FROM history, mill.tumble(at, '1 hour') GROUP BY window_start, window_end, product],
	hopping => q[SELECT window_start, window_end, count(*) AS n, sum(amount) AS total
		FROM history, mill.hop(at, '1 hour', '3 hours') GROUP BY window_start, window_end],
	uniques => q[SELECT window_start, window_end, count(DISTINCT user_id) AS people
		FROM history, mill.tumble(at, '24 hours') GROUP BY window_start, window_end]);

sub sql { return $node->safe_psql('postgres', join('', @_)); }

# '' while the server is restarting
sub state_of { my ($view) = @_; return ask($node, "SELECT state FROM mill.aggregates WHERE aggregate::text = '$view'") // ''; }

# Rows in which a view and its query differ, in one snapshot of a REPEATABLE READ
# transaction. One that is older than the view's going live is to be tried again.
sub differences
{
	my @names = @_;
	my $found = '';

	foreach my $name (@names)
	{
		my ($code, $out, $err);
		wait_for(sub {
			($code, $out, $err) = try_psql($node, qq(BEGIN ISOLATION LEVEL REPEATABLE READ;
				(SELECT '$name, missing: ' || d::text FROM ($views{$name} EXCEPT ALL TABLE $name) d LIMIT 3)
				UNION ALL (SELECT '$name, too much: ' || d::text FROM (TABLE $name EXCEPT ALL ($views{$name})) d LIMIT 3);
				COMMIT;), extra_params => [ '-v', 'VERBOSITY=verbose' ]);
			return $code == 0 || $err !~ /40001|connect|terminat|starting up|shutting down|recovery/;
		});
		$found .= ($out // '') . ($code ? $err || 'no answer' : '');
	}
	return $found;
}

# ---------------------------------------------------------------------------
# 300,000 rows over 21 days, and writers all over them.

sql(q(
	CREATE EXTENSION pg_mill;
	CREATE TABLE history (id bigint, user_id int, product int, at timestamptz, amount numeric, filler text);
	INSERT INTO history SELECT i, i % 3000, i % 4, timestamptz '2026-01-01 00:00+00' + interval '6 seconds' * i, i % 1000, repeat('x', 400) FROM generate_series(1, 300000) i;
	CREATE INDEX ON history (at);
	CREATE INDEX ON history (id);
	ANALYZE history;));
append_to_file("$test_dir/write.sql", <<'EOS');
\set id random(1, 300000)
\set amount random(0, 999)
INSERT INTO history SELECT :id + i, :amount, i % 4, timestamptz '2026-01-01 00:00+00' + interval '6 seconds' * (:id + i), :amount FROM generate_series(1, 3) i;
UPDATE history SET amount = :amount, at = at + interval '5 hours' WHERE id BETWEEN :id AND :id + 1;
DELETE FROM history WHERE id = :id + 2;
EOS

my $writers;
my $started = 0;

sub start_writing
{
	$started++;
	$writers = IPC::Run::start([ $pgbench, '-n', '-c', 4, '-j', 1, '-T', 600, '-R', 120, '--random-seed=' . ($seed + $started), '-f', "$test_dir/write.sql", $node->connstr('postgres') . ' application_name=writer' ],
		'<', \undef, '>', '/dev/null', '2>', "$test_dir/writers.log");
	wait_for_sql($node, q[SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'writer']);
}

sub end_writing
{
	$writers->signal('TERM');
	eval { $writers->finish; };
	wait_for_sql($node, q[SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'writer']);
}

sub materialize
{
	my ($name) = @_;

	sql("CREATE VIEW $name AS $views{$name}");
	sql("SELECT mill.materialize('$name', fold_interval => '100 milliseconds')");
}

# Waits until the fill has come some way but not to its end.
sub wait_for_middle
{
	my ($name) = @_;

	return wait_for_sql($node, "SELECT state = 'filling' AND backfill_until IS NOT NULL FROM mill.aggregates WHERE aggregate::text = '$name'");
}

# ---------------------------------------------------------------------------
# Right at every moment; the progress is shown.

start_writing();
foreach my $name (sort keys %views)
{
	my ($different, $looks, @until, $state) = ('', 0);

	materialize($name);
	do
	{
		my $until = sql("SELECT backfill_until::timestamptz AT TIME ZONE 'UTC' FROM mill.aggregates WHERE aggregate::text = '$name'");
		push @until, $until if $until && (!@until || $until[-1] ne $until);
		$looks++;
		$different ||= differences($name);
		$state = state_of($name);
	} while ($state ne 'live' && !$different && $looks < 1000);
	note("$name: $looks looks, " . @until . ' steps seen');
	is($different, '', "CASES 26: $name is what its query gives while it is filled and rows arrive");
	is($state, 'live', "CASES 26: $name goes live under load");
	is(join(' ', @until), join(' ', reverse sort @until), "CASES 26: $name is filled from the newest window to the oldest");
	cmp_ok(sql("SELECT groups_filled FROM mill.aggregates WHERE aggregate::text = '$name'"), '>', 0, "mill.aggregates counts the groups of $name");
	is(differences($name), '', "CASES 26: $name is what its query gives when it is live");
}

# ---------------------------------------------------------------------------
# Refreshed by hand while rows arrive.

my $refreshes = 0;
my $different = '';

foreach my $name (sort keys %views)
{
	foreach my $day (3, 20)
	{
		my ($from, $until) = map { "2026-01-$_ 00:00+00" } $day, $day + 1;
		my ($out, $err) = ('', '');
		my $refresh = IPC::Run::start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', "SELECT mill.refresh('$name', '$from'::timestamptz, '$until'::timestamptz)" ],
			'<', \undef, '>', \$out, '2>', \$err);
		$different ||= differences($name);
		$refreshes++ if $refresh->finish;
		$different ||= $err . differences($name);
	}
	sql("SELECT mill.refresh('$name')");
	$different ||= differences($name);
}
is($refreshes, 6, 'CASES 26: a range is refreshed while rows arrive');
is($different, '', 'CASES 26: and the views are what their queries give, meanwhile and after');

# history by COPY, with live rows in between
run_tool([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'),
		'-c', q(\copy history (id, user_id, product, at, amount) from pstdin) ],
	join('', map { sprintf("%d\t%d\t%d\t2025-12-%02d 10:%02d:00+00\t%d\n", 1_000_000 + $_, $_ % 50, $_ % 4, 1 + $_ % 28, $_ % 60, $_ % 10) } 1 .. 20_000));
is(differences(sort keys %views), '', 'CASES 26: a batch of history by COPY, with live rows in between');
end_writing();
is(differences(sort keys %views), '', 'CASES 26: no gap, no double count when the writers have ended');
ok(wait_for_sql($node, q[SELECT count(*) = 3 AND bool_and(state = 'live') AND sum(delta_rows) = 0 FROM mill.aggregates]), 'all is folded');
is(sql(join(' UNION ALL ', map { "SELECT '$_: ' || v::text FROM mill.verify('$_') v" } sort keys %views)), '', 'CASES 26: mill.verify agrees');

# ---------------------------------------------------------------------------
# The worker dies, and the server, in the middle.

sql("DROP VIEW $_") foreach sort keys %views;
my $victim = 'tumbling';

foreach my $how ('worker', 'server stopped', 'server killed')
{
	start_writing();
	materialize($victim);
	ok(wait_for_middle($victim), "$how: in the middle of the fill");
	if ($how eq 'worker')
	{
		kill_process('KILL', split(/\n/, sql(q[SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_mill worker'])));
	}
	elsif ($how eq 'server stopped')
	{
		$node->stop('fast');
		$node->start;
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	wait_for_sql($node, 'SELECT true');
	is(differences($victim), '', "CASES 26: $how: right after it");
	end_writing();
	start_writing();
	ok(wait_for_sql($node, qq[SELECT state = 'live' FROM mill.aggregates WHERE aggregate::text = '$victim']), "CASES 26: $how: the fill goes on and ends");
	is(differences($victim), '', "CASES 26: $how: no gap, no double count");
	end_writing();
	ok(wait_for_sql($node, 'SELECT sum(delta_rows) = 0 FROM mill.aggregates'), "CASES 26: $how: all is folded");
	is(differences($victim), '', "CASES 26: $how: nor at the end");
	sql("DROP VIEW $victim");
}

done_testing();
