# What Kafka refuses, what does not go together with it, and messages that are
# larger than they look. The findings' mark begins each test's name.

use strict;
use warnings;

use Digest::SHA;
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
# S13: a key that unpacks to 250 MB, and headers of 3 MB, cost nobody's memory.

create_server($node, $kafka);
sub create_raw
{
	my ($topic, %options) = @_;

	$kafka->create_topic($topic, 1);
	sql(qq(CREATE FOREIGN TABLE ${topic}_stream (value text, kafka_offset bigint OPTIONS (metadata 'offset'))
		SERVER kafka OPTIONS (topic '$topic', format 'raw'); CREATE TABLE $topic (value text, kafka_offset bigint)));
}

# The most memory that a process ever had, in MB.
sub peak { my ($pid) = @_; return slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+)/m ? int($1 / 1024) : undef; }

# A producer that compresses so, and may have such messages.
sub dense { return (properties => [ "compression.type=$_[0]", 'message.max.bytes=400000000', 'queue.buffering.max.kbytes=600000' ]); }

create_raw('large');
$kafka->produce('large', fields => [ [ 0, 'k', '', 'first' ] ]);
create_pipeline($node, 'large', 'large_stream');
ok(wait_for_sql($node, 'SELECT count(*) = 1 FROM large'), 'S13: a pipeline reads');
my ($worker) = worker_pids($node);
my $before = peak($worker);
$kafka->produce('large', dense('gzip'), fields => [ [ 0, '\*250000000;', '', 'x' ], [ 0, 'k', 'a=1,b=*3000000,c=2', 'y' ], [ 0, 'k', '', 'last' ] ]);
ok(wait_for_sql($node, "SELECT count(*) = 2 FROM large"), 'S13: what comes behind it arrives');
my $after = peak($worker);
note("peak of the worker: $before MB, then $after MB");
cmp_ok($after - $before, '<', 64, 'S13: a key of 250 MB takes less than 64 MB of the worker');
is(join(' ', worker_pids($node)), $worker, 'S13: which is the same');
my $sha = Digest::SHA->new(256);
$sha->add('a' x 1_000_000) foreach 1 .. 250;
my $digest = $sha->hexdigest;
is(sql(qq(SELECT kafka_offset, length(key), value = 'x', sqlstate, message,
	detail ~ 'max_message_bytes' AND detail ~ 'key had 250000000 bytes, the first 1048576 are kept; the SHA-256 is $digest'
	FROM mill.dead_letters WHERE kafka_offset = 1)),
	'1|1048576|t|54000|message key of 250000000 bytes is larger than the limit of 1048576 bytes|t', 'S13: the letter has what there is room for');
is(sql(q(SELECT headers, message ~ 'headers of 3000' FROM mill.dead_letters WHERE kafka_offset = 2)),
	'[{"name": "a", "value": "1"}]|t', 'S13: headers are cut between two');
$node->psql('postgres', "SELECT mill.retry_dead_letters('large')", stdout => \$out, stderr => \$err);
is($out, 0, 'S13: they cannot be tried again');
like($err, qr/NOTICE:  2 dead letters are cut and cannot be retried.*HINT: .*max_message_bytes/s, 'S13: which is said');
sql("ALTER FOREIGN TABLE large_stream OPTIONS (ADD on_error 'skip')");
$node->psql('postgres', 'SELECT count(*) FROM large_stream', stdout => \$out, stderr => \$err);
is($out, 2, "S13: a query follows the stream's on_error");
like($err, qr/skipped 2 bad messages/, 'S13: and counts them');

# headers that nobody can read hide no other letter
sql(q(INSERT INTO mill_catalog.dead_letter (pipeline_id, topic, partition, kafka_offset, headers, timestamp_type, truncated, sqlstate, message)
	SELECT id, 'large', 0, n, h, 0, true, 'XX000', 'made' FROM mill_catalog.pipeline,
	(VALUES (100, '\xffffffff0000'::bytea), (101, '\x0100000061005a6202'::bytea || decode(repeat('61', 40000000), 'hex')),
		(102, '\x0100000061ffffff7f6162')) v (n, h)));
is(sql('SELECT count(headers) FROM mill.dead_letters'), 5, 'S23: headers that cannot be decoded, or are huge, hide no letter');
sql("SELECT mill.drop_pipeline('large')");

# ---------------------------------------------------------------------------
# A4: what is fetched at once unpacks to more than a gateway may have.

create_raw('dense');
$kafka->produce('dense', dense('zstd'), fields => [ map { [ 0, undef, '', "$_ " . '\*900000;' ] } 1 .. 1250 ]);
sql('ALTER FOREIGN TABLE dense_stream RENAME TO dense_all; CREATE VIEW dense_stream AS SELECT split_part(value, \' \', 1) AS value, kafka_offset FROM dense_all');
$node->psql('postgres', "\\set VERBOSITY verbose\nSELECT count(*) FROM dense_all", stderr => \$err);
like($err, qr/ERROR:  53200: kafka gateway came to its memory limit.*HINT: .*fetch\.message\.max\.bytes/s, 'A4: a query fails, and says what to set');
create_pipeline($node, 'dense', 'dense_stream');
ok(wait_for_sql($node, 'SELECT count(*) = 1250 FROM dense'), 'A4: all of it arrives');
is(sql('SELECT count(DISTINCT value::int) FROM dense'), 1250, 'A4: each once');
note(sql("SELECT string_agg(format('%s %s %s %s', sqlstate, message, detail, occurrences), E'\n') FROM mill.errors WHERE object_name = 'dense'"));
cmp_ok(sql("SELECT fetch_bytes FROM mill_catalog.pipeline WHERE name = 'dense'"), '<', 1048577, 'A4: what it fetches at once is remembered');
is(sql("SELECT count(*) FROM mill.errors WHERE object_name = 'dense' AND (sqlstate <> '53200' OR hint !~ 'fetch.message.max.bytes')"), 0,
	'A4: the errors name the option');
sql("SELECT mill.drop_pipeline('dense')");

# ---------------------------------------------------------------------------
# S20: a broker that hangs with its connections open.

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
