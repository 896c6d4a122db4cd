# Room: the rig.
#
# The rig itself on a real Kafka: the producer's account is exactly what is in the
# topic, also with aborted transactions and a broker killed under it. Every other
# test of exactly-once holds the product against this account.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = MillTest::Kafka->start;

# partition and offset of what kcat, which is not ours, reads in committed mode
sub kcat
{
	my ($topic) = @_;

	return sort split /\n/, run_tool([ 'kcat', '-C', '-b', $kafka->bootstrap, '-t', $topic, '-o', 'beginning',
			'-e', '-q', '-X', 'isolation.level=read_committed', '-f', '%p %o\n' ]);
}

sub account
{
	return sort map { "$_->[0] $_->[1]" } read_account(@_);
}

$kafka->create_topic('clicks', 4);
is(scalar($kafka->offsets('clicks')), 4, 'a topic with 4 partitions');

my $file = $kafka->produce('clicks', count => 10_000, seed => 1, bad => 2, late => 3,
	transaction => 'rig', commit_every => 500, abort_every => 4);
my @all = read_account($file);
my @aborted = read_account($file, 'aborted');
is(scalar(@all), 10_000, 'the account has a line for every message');
is(scalar(@aborted), 2_500, 'every fourth transaction was aborted');
cmp_ok(scalar(read_account($file, 'bad')), '>', 50, 'some messages are bad');
is_deeply([ kcat('clicks') ], [ account($file, 'ok', 'bad') ], 'kcat reads what the account says');
is(scalar($kafka->consume('clicks', '-u')), 10_000, 'the aborted messages are in the log all the same');

# a broker killed and restarted while the producer sends
$kafka->create_topic('killed', 4);
my $producer = $kafka->start_producer('killed', rate => 2000, seed => 2);
wait_for(sub { -s $producer->{log} }) or die "nothing was acknowledged";
$kafka->kill(1);
$kafka->restart(1);
my $size = -s $producer->{log};
ok(wait_for(sub { -s $producer->{log} > $size + 10_000 }), 'the producer goes on after the restart');
$file = $producer->finish;
is_deeply([ kcat('killed') ], [ account($file, 'ok', 'bad') ], 'the account is right after a kill');
is(scalar(grep { $_->[1] < 0 } read_account($file)), 0, 'every offset is known');

# four different things: null and empty, key and value
$kafka->create_topic('nulls', 1);
$kafka->produce('nulls', fields => [ [ 0, undef, '', undef ], [ 0, '', '', '' ], [ 0, 'k', 'a=1,b', 'v' ] ]);
is_deeply([ map { "$_->[3]|$_->[4]" } $kafka->consume('nulls') ], [ '\N|\N', '|', 'k|v' ],
	'null and empty are told apart');

# the administration that tests rely on
$kafka->add_partitions('nulls', 3);
$kafka->delete_records('nulls', 0, 2);
is_deeply([ map { "$_->[0]:$_->[1]-$_->[2]" } $kafka->offsets('nulls') ], [ '0:2-3', '1:0-0', '2:0-0' ],
	'partitions added, records deleted');
$kafka->delete_topic('nulls');
ok(!eval { $kafka->offsets('nulls'); 1 }, 'topic deleted');

# a transaction that hangs holds back what comes after it, until it times out
$kafka->create_topic('hung', 1);
$kafka->produce('hung', count => 5, transaction => 'hang', commit_every => 100, hang => 1,
	properties => [ 'transaction.timeout.ms=5000' ]);
$file = $kafka->produce('hung', count => 7);
ok(wait_for(sub { scalar($kafka->consume('hung')) == 7 }), 'a hung transaction ends by its timeout');

done_testing();
