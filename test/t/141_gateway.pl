# Gateways that die, hang, or meet odd messages, on the embedded broker. The
# findings' mark begins each test's name.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $broker = MillTest::MockBroker->start(topics => { clicks => 2 });
my $node = new_cluster('main');

create_server($node, $broker);
create_clicks($node, 'clicks');
load_account($node, $broker->produce('clicks', count => 500), 'account');

# The embedded broker does not answer any more, or answers again.
sub freeze { kill 'STOP', $broker->{harness}{KIDS}[0]{PID}; }
sub thaw { kill 'CONT', $broker->{harness}{KIDS}[0]{PID}; }

# A session that runs these statements; finish_session returns what it printed.
sub start_session
{
	my $session = { out => '' };

	$session->{harness} = IPC::Run::start(
		[ $node->installed_command('psql'), '-XqAt', '-d', $node->connstr('postgres'), map { ('-c', $_) } @_ ],
		'<', \undef, '>', \$session->{out}, '2>', \$session->{out});
	return $session;
}

sub finish_session
{
	my ($session) = @_;

	$session->{harness}->finish;
	return $session->{out};
}

# The gateway of a session, once there is one that is not among these.
sub gateway_of_session
{
	my (%seen) = @_;

	return wait_for(sub {
		my ($backend) = $node->safe_psql('postgres',
			"SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND query LIKE '%clicks_stream%' AND pid <> pg_backend_pid()");
		my ($gateway) = grep { !$seen{$_} } gateway_pids($backend || 0);
		return $gateway;
	});
}

# ---------------------------------------------------------------------------
# S12: a session that saw gateways die lives, and ends as others do.

freeze();
my $session = start_session(('SELECT count(*) FROM clicks_stream') x 5, "SELECT 'alive as ' || pg_backend_pid()");
my %killed;
foreach (1 .. 5)
{
	my $gateway = gateway_of_session(%killed) or last;

	$killed{$gateway} = 1;
	kill 'KILL', $gateway;
}
thaw();
my $out = finish_session($session);
is(scalar(() = $out =~ /kafka gateway ended unexpectedly/g), 5, 'S12: five gateways were killed under five queries');
my ($backend) = $out =~ /^alive as (\d+)$/m;
ok($backend, 'S12: the session lives');
{
	local $MillTest::deadline = 20;
	ok($backend && wait_for(sub { return !is_alive($backend); }), 'S12: and ends');
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM clicks_stream'), 500, 'S12: its end harms nobody');
unlike(slurp_file($node->logfile), qr/terminated by signal 11/, 'S12: no server process crashed');

$node->stop;
done_testing();
