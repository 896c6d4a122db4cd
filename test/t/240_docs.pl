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

# ---- docs/reference.md ----
$node->command_ok([ 'perl', "$top/test/check_reference", '-d', $node->connstr('readme') ],
	'docs/reference.md is what the catalog has');

done_testing();
