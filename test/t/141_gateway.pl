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

# ---------------------------------------------------------------------------
# S20: a gateway that hangs is noticed, under a query and under a pipeline.

# A query that reads more than a pipe holds, and takes its time.
create_clicks($node, 'many_clicks');
$broker->produce('many_clicks', count => 60_000);
my $query = start_session("SELECT count(pg_sleep(0.0002)) FROM many_clicks_stream");
my $hanging = gateway_of_session(%killed);
wait_for(sub { slurp_file("/proc/$hanging/io") =~ /^wchar: (\d+)/m && $1 > 100_000 });
kill 'STOP', $hanging;
$out = finish_session($query);
like($out, qr/kafka gateway does not respond\nDETAIL:  It gave no sign of life for 1\d seconds/, 'S20: a query whose gateway hangs ends');
ok(!is_alive($hanging), 'S20: and the gateway with it');

create_pipeline($node, 'clicks', 'clicks_stream');
ok(wait_for_arrival($node, 'clicks', 'account'), 'S20: a pipeline reads');
ok(wait_for_state($node, 'clicks', qr/^idle: /), 'S20: it is idle');
($hanging) = gateway_pids(worker_pids($node));
kill 'STOP', $hanging;
load_account($node, $broker->produce('clicks', count => 500, first => 500), 'account');
ok(wait_for_state($node, 'clicks', qr/^degraded: .*no sign of life/), 'S20: its gateway hangs: "everything is read" goes away');
ok(wait_for_sql($node, q(SELECT count(*) > 0 FROM mill.errors WHERE object_name = 'clicks' AND sqlstate = '08006'
	AND message = 'kafka gateway does not respond' AND detail ~ '1[0-9] seconds')), 'S20: after some 10 s an error says so');
ok(!is_alive($hanging), 'S20: the gateway was ended');
ok(wait_for_arrival($node, 'clicks', 'account'), 'S20: the next one reads on');
is(compare_with_account($node, 'clicks', 'account'), '', 'S20: nothing lost, nothing twice');

# A worker that is busy for longer than a gateway may be silent.
$node->safe_psql('postgres', q(
	CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(13); RETURN NULL; END$$;
	CREATE TRIGGER slow AFTER INSERT ON clicks FOR EACH STATEMENT EXECUTE FUNCTION slow();));
my ($worker) = worker_pids($node);
load_account($node, $broker->produce('clicks', count => 10, first => 1000), 'account');
ok(wait_for_arrival($node, 'clicks', 'account'), 'S20: a batch takes 13 s');
ok(wait_for_state($node, 'clicks', qr/^idle: /), 'S20: then everything is read');
is(join(' ', worker_pids($node)), $worker, 'S20: by the same worker: a reader that is busy does not count as silence');
$node->safe_psql('postgres', 'DROP TRIGGER slow ON clicks');

$node->stop;
done_testing();
