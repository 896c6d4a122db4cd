# Room: broker, gateway.
#
# What Kafka refuses, what does not go together with it, and a broker that hangs.
# The findings' mark begins each test's name.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $kafka = MillTest::Kafka->start(tls => 1, conf => <<'EOC');
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:alice
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="se=cr,et" user_etl="etl";
EOC
my $node = new_cluster('main');
my %tls = $kafka->tls('PLAIN');
my ($plain, $safe) = ($kafka->bootstrap, $tls{'bootstrap.servers'});
my ($port) = $safe =~ /:(\d+)/;

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

sub produce_to_account
{
	my ($topic, %options) = @_;

	load_account($node, $kafka->produce($topic, %options), "${topic}_account");
}

# What a query on a stream of this server is refused with.
my $servers = 0;

sub refusal
{
	my ($properties, $user, $password) = @_;
	my $name = 'wrong' . ++$servers;
	my $err = '';

	create_server($node, $kafka, name => $name, properties => $properties);
	sql(qq(CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS ("sasl.username" '$user', "sasl.password" '$password')))
	  if defined $user;
	create_clicks($node, 'clicks', server => $name, stream => "${name}_stream");
	$node->psql('postgres', "\\set VERBOSITY verbose\nSELECT count(*) FROM ${name}_stream", stderr => \$err);
	$err =~ s/^LOCATION.*\n//mg;
	note($err);
	return $err;
}

# ---------------------------------------------------------------------------
# A9: mistakes of set-up, each told from the others, with the option to change.

$kafka->create_topic('clicks', 2);
produce_to_account('clicks', count => 100);

my %sasl = ('bootstrap.servers' => $safe, 'security.protocol' => 'sasl_ssl', 'sasl.mechanism' => 'PLAIN',
	'ssl.ca.pem' => slurp_file($tls{'ssl.ca.location'}));
my $other = $MillTest::test_dir . '/other';
MillTest::run_tool([ 'openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30',
		'-subj', '/CN=other', '-keyout', "$other.key", '-out', "$other.pem" ]);

like(refusal({ 'bootstrap.servers' => $safe }), qr/ERROR:  08P01: .*wants TLS.*DETAIL: .*HINT: .*security\.protocol/s,
	'A9: plaintext to a TLS listener');
like(refusal({ 'bootstrap.servers' => $plain, 'security.protocol' => 'ssl' }),
	qr/ERROR:  08P01: .*does not speak TLS.*HINT: .*security\.protocol/s, 'A9: TLS to a plaintext listener');
like(refusal({ %sasl, 'security.protocol' => 'ssl' }), qr/ERROR:  08P01: .*SASL.*HINT: .*security\.protocol.*sasl_ssl/s,
	'A9: no SASL to a listener that wants it');
like(refusal({ 'bootstrap.servers' => $plain, 'security.protocol' => 'sasl_plaintext', 'sasl.mechanism' => 'PLAIN' }, 'etl', 'etl'),
	qr/ERROR:  08P01: .*takes no authentication by SASL.*HINT: .*security\.protocol/s, 'A9: SASL to a listener without');
like(refusal({ %sasl, 'ssl.ca.pem' => slurp_file("$other.pem") }, 'etl', 'etl'),
	qr/ERROR:  08004: .*certificate could not be verified.*HINT: .*ssl\.ca\.pem/s, 'A9: another authority');
like(refusal({ %sasl, 'bootstrap.servers' => "127.1:$port" }, 'etl', 'etl'),
	qr/ERROR:  08004: .*certificate is for another name.*DETAIL: .*mismatch.*HINT: .*bootstrap\.servers/s, 'A9: another name');
like(refusal({%sasl}, 'etl', 'wrong'), qr/ERROR:  28000: .*authenticate.*HINT: .*sasl\.password/s, 'A9: a wrong password');
unlike(refusal({%sasl}, 'etl', 'etl'), qr/28000|sasl\.password|credentials/, 'A9: the right password is not blamed');

create_pipeline($node, 'clicks', 'wrong1_stream');
ok(wait_for_state($node, 'clicks', qr/^degraded: .*wants TLS.*security\.protocol.*\)$/), 'A9: the reason says so, and is not cut');
sql("SELECT mill.drop_pipeline('clicks')");

# ---------------------------------------------------------------------------
# A2: rights to the topic, given, taken away while it runs, and given again.

sub acl
{
	my ($what, $operation, $topic) = @_;

	$kafka->control('tool', 'org.apache.kafka.tools.AclCommand', '--bootstrap-server', $plain, "--$what",
		$what eq 'remove' ? '--force' : (), '--allow-principal', 'User:etl', '--operation', $operation, '--topic', $topic);
}

create_server($node, $kafka, name => 'etl', properties => \%sasl);
sql(q(CREATE USER MAPPING FOR CURRENT_USER SERVER etl OPTIONS ("sasl.username" 'etl', "sasl.password" 'etl')));
$kafka->create_topic('guarded', 2);
create_clicks($node, 'guarded', server => 'etl');
produce_to_account('guarded', count => 100);
acl('add', 'Describe', 'guarded');

# to see it is not to read it
my ($out, $err) = ('', '');
$node->psql('postgres', "\\set VERBOSITY verbose\nSELECT count(*) FROM guarded_stream", stderr => \$err);
like($err, qr/ERROR:  42501: permission denied for topic "guarded".*HINT: .*access lists/s, 'A2: a query without READ: 42501');
unlike($err, qr/28000|credential|password/, 'A2: and no word of credentials');

acl('add', 'Read', 'guarded');
create_pipeline($node, 'guarded', 'guarded_stream');
ok(wait_for_arrival($node, 'guarded', 'guarded_account'), 'A2: with READ it arrives');
ok(wait_for_state($node, 'guarded', qr/^idle: /), 'A2: everything is read');
acl('remove', 'Read', 'guarded');
ok(wait_for_state($node, 'guarded', qr/^failed: permission denied for topic "guarded"/), 'A2: READ was taken away: the state says so');
ok(wait_for_sql($node, q(SELECT count(*) > 0 FROM mill.errors WHERE object_name = 'guarded' AND sqlstate = '42501'
	AND hint ~ 'access lists' AND retry_at > at)), 'A2: so does mill.errors, and when it is tried again');
produce_to_account('guarded', count => 100, first => 100);
my %states;
my $until = Time::HiRes::time() + 6;
while (Time::HiRes::time() < $until)
{
	$states{ state_of($node, 'guarded') }++;
	Time::HiRes::sleep(0.1);
}
note("$_: $states{$_}") foreach keys %states;
is_deeply([ grep { !/permission denied/ } keys %states ], [], 'A2: for as long as it is so, also while it is tried again');
acl('add', 'Read', 'guarded');
sql("SELECT mill.pause('guarded'); SELECT mill.resume('guarded')");
ok(wait_for_arrival($node, 'guarded', 'guarded_account'), 'A2: READ was given again: it goes on');
is(compare_with_account($node, 'guarded', 'guarded_account'), '', 'A2: nothing lost, nothing twice');
ok(wait_for_state($node, 'guarded', qr/^idle: /), 'A2: everything is read');
sql("SELECT mill.drop_pipeline('guarded')");

# ---------------------------------------------------------------------------
# S20: a broker that hangs with its connections open.

create_server($node, $kafka);
create_clicks($node, 'clicks', stream => 'plain_stream', target => 'plain');
create_pipeline($node, 'plain', 'plain_stream');
ok(wait_for_state($node, 'plain', qr/^idle: /), 'S20: everything is read');
my $broker = slurp_file("$kafka->{home}/1.pid") + 0;
kill 'STOP', $broker;
my $since = Time::HiRes::time();
ok(wait_for_state($node, 'plain', qr/^degraded: /), 'S20: a broker that hangs is noticed');
note(state_of($node, 'plain'));
cmp_ok(Time::HiRes::time() - $since, '<', 30, 'S20: within 30 s');
kill 'CONT', $broker;
ok(wait_for_state($node, 'plain', qr/^(running|idle): /), 'S20: it answers again');

$node->stop;
done_testing();
