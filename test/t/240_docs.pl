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

# ---- docs/reference.md ----
$node->command_ok([ 'perl', "$top/test/check_reference", '-d', $node->connstr('readme') ],
	'docs/reference.md is what the catalog has');

done_testing();
