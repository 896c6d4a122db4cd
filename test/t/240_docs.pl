# Room: all.
#
# The documents tell the truth: README's quick start and examples/clicks.sql run
# as they stand, and the reference is what the catalog has.

use strict;
use warnings;

use FindBin;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::Bin/../..";
my $broker = MillTest::MockBroker->start(topics => { user_clicks => 4 });
my $bootstrap = $broker->bootstrap;
my $account = $broker->produce('user_clicks', count => 2_000, seed => 7);
my $node = new_cluster('docs');

sub applied
{
	my ($database) = @_;
	return wait_for_sql($node, 'SELECT sum(rows_read) = 2000 FROM mill.pipelines', db => $database);
}

# ---- README.md ----
my $readme = slurp_file("$top/README.md");
my @blocks = $readme =~ /^```sql\n(.*?)^```/msg;
cmp_ok(scalar(@blocks), '>=', 4, 'README.md shows SQL');
$node->safe_psql('postgres', 'CREATE DATABASE readme');
my $all = join "\n", @blocks;
is($all =~ s/localhost:9092/$bootstrap/g, 1, 'README.md names its broker once');
my ($status, $out, $error) = $node->psql('readme', $all, on_error_stop => 1);
is($status, 0, 'the quick start of README.md runs') or diag($error);
ok(applied('readme'), 'and its pipeline moves the topic');
is($node->safe_psql('readme', 'SELECT count(*), count(DISTINCT (kafka_partition, kafka_offset)) FROM clicks'),
	'2000|2000', 'into the table');

# ---- examples/clicks.sql ----
$node->safe_psql('postgres', 'CREATE DATABASE example');
$node->command_ok(
	[ 'psql', '-X', '-q', '-v', "bootstrap=$bootstrap", '-d', $node->connstr('example'), '-f', "$top/examples/clicks.sql" ],
	'examples/clicks.sql runs');
ok(applied('example'), 'and its pipeline moves the topic');

# ---- continuous aggregates: docs/aggregates.md and their examples ----
$node->safe_psql('readme', "SELECT mill.fold('clicks_5m')");
is($node->safe_psql('readme', "SELECT count(*) FROM mill.verify('clicks_5m')"), '0',
	'the aggregate of the quick start equals its plain query');
$node->safe_psql('postgres', 'CREATE DATABASE aggregates');
$node->safe_psql('aggregates', 'CREATE EXTENSION pg_mill');
$all = join "\n", slurp_file("$top/docs/aggregates.md") =~ /^```sql\n(.*?)^```/msg;
($status, $out, $error) = $node->psql('aggregates', $all, on_error_stop => 1);
is($status, 0, 'the SQL of docs/aggregates.md runs') or diag($error);
for my $view ('sales_5m', 'visit_sessions')
{
	is($node->safe_psql('aggregates', "SELECT count(*) FROM mill.verify('$view')"), '0', "$view equals its plain query");
}
for my $example (qw(top_hashtags batch_and_live))
{
	$node->safe_psql('postgres', "CREATE DATABASE $example");
	$node->command_ok([ 'psql', '-X', '-q', '-d', $node->connstr($example), '-f', "$top/examples/$example.sql" ],
		"examples/$example.sql runs");
}
is($node->safe_psql('top_hashtags', "SELECT count(*), max(place) FROM top_hashtags"), '21|10', 'ten hashtags at most in each window');
is($node->safe_psql('top_hashtags', "SELECT count(*) FROM mill.verify('hashtags_5m')"), '0', 'hashtags_5m equals its plain query');
is($node->safe_psql('batch_and_live', "SELECT sum(events), sum(amount) FROM events_1h"), '4|10', 'history and live events in one aggregate');
is($node->safe_psql('batch_and_live', "SELECT count(*) FROM mill.verify('events_1h')"), '0', 'events_1h equals its plain query');

# ---- jobs: docs/jobs.md ----
$node->safe_psql('postgres', 'CREATE DATABASE jobs');
$node->safe_psql('jobs', 'CREATE EXTENSION pg_mill');
my $manual = slurp_file("$top/docs/jobs.md");
$all = join "\n", $manual =~ /^```sql\n(.*?)^```/msg;
($status, $out, $error) = $node->psql('jobs', $all, on_error_stop => 1);
is($status, 0, 'the SQL of docs/jobs.md runs') or diag($error);
unlike($error, qr/was not checked/, 'and finds all that its commands name');
ok(wait_for_sql($node, q[SELECT count(*) = 0 FROM mill.job_runs WHERE state IN ('queued', 'running')], db => 'jobs'), 'its jobs run');
is($node->safe_psql('jobs', q[SELECT job, state, reason FROM mill.job_runs WHERE state NOT IN ('success', 'skipped')]), '', 'and succeed');
is($node->safe_psql('jobs', q[SELECT string_agg(state || ' ' || done || ' of ' || total, ', ' ORDER BY backfill_id) FROM mill.backfills]),
	'success 7 of 7, success 0 of 0, success 3 of 3', 'with its backfills');
my $days = q[SELECT date_trunc('day', ordered_at, 'UTC'), count(*), sum(amount) FROM orders
	WHERE date_trunc('day', ordered_at, 'UTC') IN (SELECT day FROM daily_sales) GROUP BY 1];
cmp_ok($node->safe_psql('jobs', 'SELECT count(*) FROM daily_sales'), '>=', 10, 'the intervals that were asked for are loaded');
is($node->safe_psql('jobs', "(TABLE daily_sales EXCEPT ALL $days) UNION ALL ($days EXCEPT ALL TABLE daily_sales)"), '', 'as the plain query has them');
is($node->safe_psql('jobs', q[SELECT r.revenue = d.revenue FROM daily_sales d JOIN reports r USING (day) WHERE day = '2026-03-06+00']),
	't', 'the job after it has run, too');
is($node->safe_psql('jobs', q[SELECT revenue = (SELECT sum(amount) FROM orders WHERE ordered_at >= '2026-03-03+00' AND ordered_at < '2026-03-04+00') FROM revenue]),
	't', 'and that of the DAG');
like($node->safe_psql('jobs', q[SELECT notices FROM mill.attempts WHERE job = 'count_orders']), qr/^NOTICE:  24 orders in run \d+$/, 'settings tell the interval');
my @nights = $manual =~ /^\| `([^`|]+)` \| (\w+\/\w+) \| ([^|]+) \| ([^|]+) \|/mg;
cmp_ok(scalar(@nights), '>=', 4 * 6, 'docs/jobs.md tells what happens when clocks are set');
while (my ($schedule, $zone, $after, $fires) = splice @nights, 0, 4)
{
	is($node->safe_psql('jobs', sprintf(q[SET TimeZone = 'UTC'; SELECT string_agg(to_char(t, 'YYYY-MM-DD HH24:MI'), ', ') FROM mill.next_runs('%s', '%s', '%s+00', %d) t],
		$schedule, $zone, $after, scalar(split /, /, $fires))), $fires, "$schedule in $zone after $after");
}

# ---- docs/reference.md ----
$node->command_ok([ 'perl', "$top/test/check_reference", '-d', $node->connstr('readme') ],
	'docs/reference.md is what the catalog has');

done_testing();
