# Room: the rig.
#
# The rig itself on the embedded broker: what is produced is what is there, and
# the faults that quick tests need can be made.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $broker = MillTest::MockBroker->start(brokers => 3, topics => { clicks => 4 });
my $file = $broker->produce('clicks', count => 5_000, seed => 3, bad => 1);

is_deeply(
	[ sort map { "$_->[0] $_->[1]" } $broker->consume('clicks') ],
	[ sort map { "$_->[0] $_->[1]" } read_account($file) ],
	'the account is what is in the topic');

# the same seed, the same stream
my $again = MillTest::MockBroker->start(topics => { clicks => 4 });
$again->produce('clicks', count => 5_000, seed => 3, bad => 1);
is_deeply(
	[ sort map { "$_->[0] $_->[3] $_->[4]" } $again->consume('clicks') ],
	[ sort map { "$_->[0] $_->[3] $_->[4]" } $broker->consume('clicks') ],
	'a seed always makes the same messages');
$again->end;

$broker->create_topic('later', 7);
is(scalar($broker->offsets('later')), 7, 'a topic made while it runs');

# every broker away, and back, while the producer sends
my $producer = $broker->start_producer('clicks', rate => 1000, seed => 4);
wait_for(sub { -s $producer->{log} }) or die "nothing was acknowledged";
$broker->command("down $_") foreach 1 .. 3;
$broker->command("up $_") foreach 1 .. 3;
my $size = -s $producer->{log};
ok(wait_for(sub { -s $producer->{log} > $size + 1_000 }), 'the producer goes on when the brokers are back');
my $second = $producer->finish;

# The mock cluster does not recognize what is sent again after a lost answer, so
# there may be more than the account knows; see test/lib/mock_broker.c.
my %there = map { ("$_->[0] $_->[1]" => 1) } $broker->consume('clicks');
is_deeply([ grep { !$there{"$_->[0] $_->[1]"} } (read_account($file), read_account($second)) ], [],
	'every acknowledged message is there');

done_testing();
