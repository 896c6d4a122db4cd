# Room: broker, gateway.
#
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

# ---------------------------------------------------------------------------
# A4: each gateway that hits its memory limit is followed by one that fetches
# less; SIGABRT is how the client library ends then.

sub fetch_bytes { return $node->safe_psql('postgres', "SELECT fetch_bytes FROM mill_catalog.pipeline WHERE name = 'clicks'"); }

foreach my $expected (1048576, 131072, 16384, 1000)
{
	ok(wait_for_state($node, 'clicks', qr/^idle: /), 'A4: everything is read');
	my ($gateway) = gateway_pids(worker_pids($node));
	kill 'ABRT', $gateway;
	ok(wait_for(sub { return fetch_bytes() eq $expected; }), "A4: the next gateway fetches at most $expected bytes at once");
	ok(wait_for(sub { my ($new) = gateway_pids(worker_pids($node)); return $new && $new != $gateway; }), 'A4: and runs');
}
load_account($node, $broker->produce('clicks', count => 500, first => 1010), 'account');
ok(wait_for_arrival($node, 'clicks', 'account'), 'A4: it reads with the least size, too');
is(compare_with_account($node, 'clicks', 'account'), '', 'A4: nothing lost, nothing twice');

# where less is not possible, the error says where it was reading
ok(wait_for_state($node, 'clicks', qr/^idle: /), 'A4: everything is read');
my ($least) = gateway_pids(worker_pids($node));
kill 'ABRT', $least;
ok(wait_for_sql($node, q(SELECT count(*) > 0 FROM mill.errors WHERE sqlstate = '53200' AND message ~ 'memory limit of 1024 MB'
	AND detail ~ 'A single batch.*partition 0 from offset [0-9]+, partition 1 from offset [0-9]+' AND hint ~ 'mill\.seek')), 'A4: with the least size the error says where a single batch is too much');
note($node->safe_psql('postgres', q(SELECT string_agg(concat_ws(' ', sqlstate, message, detail, hint), E'\n') FROM mill.errors WHERE sqlstate = '53200')));

# ---------------------------------------------------------------------------
# A4, A9: options that do not go together are refused when they are written.

sub refused
{
	my ($options, $pattern, $name) = @_;
	my $err = '';

	$node->psql('postgres', "CREATE SERVER odd FOREIGN DATA WRAPPER kafka OPTIONS ($options)", stderr => \$err);
	like($err, $pattern, $name);
}

refused(q("bootstrap.servers" 'a:9092', "fetch.max.bytes" '20000'), qr/fetch\.max\.bytes` must be >= `message\.max\.bytes/,
	'A4: fetch.max.bytes below message.max.bytes');
refused(q("bootstrap.servers" 'a:9092', "ssl.ca.pem" 'junk'), qr/failed to read certificate #0 from ssl\.ca\.pem/,
	'A9: a certificate that is none');
refused(q("bootstrap.servers" 'http://a:9092'), qr/ERROR: .*bootstrap\.servers.*HINT: .*'kafka1:9092,kafka2:9092'/s,
	'A9: an address with a scheme');
refused(q("bootstrap.servers" 'a:9092', "security.protocol" 'sasl_ssl', "sasl.mechanism" 'SCRAM-MD17'), qr/ERROR: .*Kafka client/s,
	'A9: a mechanism that there is not');
$node->safe_psql('postgres', q(CREATE SERVER odd FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'a:9092',
	"security.protocol" 'sasl_ssl', "sasl.mechanism" 'PLAIN', "ssl.ca.location" '/is/not/there')));
my $err = '';
$node->psql('postgres', q(ALTER SERVER odd OPTIONS (ADD "fetch.max.bytes" '20000')), stderr => \$err);
like($err, qr/must be >=/, 'A4: ALTER SERVER is checked, too; credentials and files may come later');

$node->stop;
done_testing();
