# Room: broker, gateway.
#
# Brokers that are away, and brokers that refuse us. A pipeline waits without a
# transaction, says why, and goes on by itself; what is secret is not told.
# CASES n is the line of the table in test/README.md.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

# Kafka knows this user besides alice: what SQL, JAAS and the properties' own
# language could trip over, more than 63 bytes long.
my $password = q(Pa=ss,wOrd'with;"quotes" \\ {and} ) . ('LongTail' x 10);
(my $jaas = $password) =~ s/([\\"])/\\$1/g;	# for JAAS
$jaas =~ s/\\/\\\\/g;						# for a file of properties
my $kafka = MillTest::Kafka->start(brokers => 2, tls => 1, conf => <<"EOC");
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="se=cr,et" user_Carol="$jaas";
EOC
my $node = new_cluster('main');

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

sub literal { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }

sub arrives
{
	my ($pipeline, $account, $name) = @_;

	ok(wait_for_arrival($node, $pipeline, $account), "$name: it arrives");
	is(compare_with_account($node, $pipeline, $account), '', "$name: nothing lost, nothing twice");
}

sub produce_to_account
{
	my ($topic, %options) = @_;

	load_account($node, $kafka->produce($topic, %options), "${topic}_account");
}

sub holds_no_transaction
{
	my ($name) = @_;

	is(sql(q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_mill worker'
		AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL))), 0, $name);
}

# ---------------------------------------------------------------------------
# CASES 8: no broker at all, then both, then one, then none, then both.

$kafka->create_topic('clicks', 4, 2);
$kafka->stop;
create_server($node, $kafka);
create_clicks($node, 'clicks');
create_pipeline($node, 'clicks', 'clicks_stream');
ok(wait_for_state($node, 'clicks', qr/^degraded: .{10}/), 'CASES 8: no broker at the start: degraded, with a reason');
note(state_of($node, 'clicks'));
holds_no_transaction('CASES 8: waiting for a broker it holds no transaction');
ok(wait_for_sql($node, "SELECT count(*) > 0 FROM mill.errors WHERE object_name = 'clicks' AND retry_at IS NOT NULL"),
	'CASES 8: mill.errors says when it tries again');
$kafka->control('start', 2);
produce_to_account('clicks', count => 1000);
arrives('clicks', 'clicks_account', 'CASES 8: the brokers are there');

# a broker restarts while messages flow
my $producer = $kafka->start_producer('clicks', rate => 500, first => 1000);
foreach my $broker (1, 2)
{
	my $rows = sql('SELECT count(*) FROM clicks');

	$kafka->restart($broker);
	ok(wait_for_sql($node, "SELECT count(*) > $rows + 1000 FROM clicks"), "CASES 8: broker $broker restarted while messages flow");
}

# none is left; the worker stays, and waits
my ($worker) = worker_pids($node);
$kafka->kill(1);
$kafka->kill(2);
ok(wait_for_state($node, 'clicks', qr/^degraded: .{10}/), 'CASES 8: all brokers down: degraded, with a reason');
note(state_of($node, 'clicks'));
ok(wait_for_sql($node, q(SELECT bool_and(xact_start IS NULL AND backend_xmin IS NULL) FROM pg_stat_activity
	WHERE backend_type = 'pg_mill worker')), 'CASES 8: without a broker no transaction is held');
is(sql(q(SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'pg_mill worker'
	AND l.relation IS NOT NULL)), 0, 'CASES 8: and no lock');
my $rows = sql('SELECT count(*) FROM clicks');
$kafka->control('start', 2);
my $since = Time::HiRes::time();
my $more = $kafka->produce('clicks', count => 10, first => 10_000_000);
ok(wait_for_sql($node, "SELECT count(*) > $rows FROM clicks"), 'CASES 8: the brokers are back: it goes on');
cmp_ok(Time::HiRes::time() - $since, '<', 10, 'CASES 8: within 10 s');
ok(wait_for_state($node, 'clicks', qr/^(running|idle): /), 'CASES 8: and says so');
load_account($node, $_, 'clicks_account') foreach $more, $producer->finish;
arrives('clicks', 'clicks_account', 'CASES 8: after all outages');

# dropping does not wait for a broker
$kafka->stop;
ok(wait_for_state($node, 'clicks', qr/^degraded: /), 'CASES 8: all brokers stopped');
sql("SELECT mill.pause('clicks')");
ok(wait_for_sql($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'pg_mill worker'"),
	'CASES 8: pause does not wait for a broker');
sql("SELECT mill.drop_pipeline('clicks')");
$kafka->control('start', 2);

# ---------------------------------------------------------------------------
# CASES 8: credentials that are wrong, and then right.

my %tls = $kafka->tls('PLAIN');
my %options = map { $_ => $tls{$_} } grep { !/^sasl\.(username|password)$/ } keys %tls;
$options{'ssl.endpoint.identification.algorithm'} = 'none';
create_server($node, $kafka, name => 'safe', properties => \%options);
$kafka->create_topic('guarded', 2);
create_clicks($node, 'guarded', server => 'safe');
produce_to_account('guarded', count => 100);

my $wrong = q(Wr0ng,Pass=wo'rd) . ('Z' x 70);
sql(q{CREATE USER MAPPING FOR CURRENT_USER SERVER safe OPTIONS ("sasl.username" 'alice', "sasl.password" } . literal($wrong) . ')');
create_pipeline($node, 'guarded', 'guarded_stream');
ok(wait_for_state($node, 'guarded', qr/^(degraded|failed): .*authenti/i), 'CASES 8: a wrong password: state and reason');
note(state_of($node, 'guarded'));
holds_no_transaction('CASES 8: it holds no transaction meanwhile');
ok(wait_for_sql($node, "SELECT count(*) > 0 FROM mill.errors WHERE object_name = 'guarded' AND retry_at > at"),
	'CASES 8: it is tried again');
sql(q(ALTER USER MAPPING FOR CURRENT_USER SERVER safe OPTIONS (SET "sasl.password" 'se=cr,et')));
arrives('guarded', 'guarded_account', 'CASES 8: put right by ALTER USER MAPPING');

# ---------------------------------------------------------------------------
# CASES 18: a secret full of what could be mistaken.

cmp_ok(length $password, '>', 63, 'CASES 18: the password has more than 63 bytes');
sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER safe OPTIONS (SET "sasl.username" 'Carol', SET "sasl.password" } . literal($password) . ')');
sql("SELECT mill.pause('guarded'); SELECT mill.resume('guarded')");
produce_to_account('guarded', count => 100, first => 100);
arrives('guarded', 'guarded_account', 'CASES 18: a password with =, comma, quotes, backslash and upper case');

# the same one with one letter changed is refused: it was this that was checked
(my $almost = $password) =~ s/l$/L/;
sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER safe OPTIONS (SET "sasl.password" } . literal($almost) . ')');
sql("SELECT mill.pause('guarded'); SELECT mill.resume('guarded')");
ok(wait_for_state($node, 'guarded', qr/^(degraded|failed): .*authenti/i), 'CASES 18: its last letter counts');

my ($out, $err) = ('', '');
$node->psql('postgres', q(CREATE SERVER odd FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'localhost:9', "fetch.wait.max.mss" '5')),
	stderr => \$err);
like($err, qr/ERROR: .*fetch\.wait\.max\.mss.*HINT: .*fetch\.wait\.max\.ms/s, 'CASES 18: an unknown property is refused by name, with a hint');
$node->psql('postgres', q(CREATE SERVER odd FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'localhost:9', "security.protocol" 'sasl_tls')),
	stderr => \$err);
like($err, qr/ERROR: .*security\.protocol/, 'CASES 18: a value that the library does not know, too');
$node->psql('postgres', q(CREATE SERVER odd FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" 'localhost:9', "sasl.password" 'OnTheWrongPlace')),
	stderr => \$err);
like($err, qr/ERROR: .*sasl\.password.*HINT: .*user mapping/s, 'CASES 18: a secret is refused where everybody could read it');
unlike($err, qr/(ERROR|DETAIL|HINT|CONTEXT): .*OnTheWrongPlace/, 'CASES 18: without repeating it');

# Statements are logged by this server as the user wrote them; nothing else may
# say a secret. Of each, a part that has no escapes in it is looked for.
my @secrets = ('wOrd', 'LongTail', 'Wr0ng', 'ZZZZZZZZ', 'se=cr');
my @told = grep { my $line = $_; $line !~ /LOG:  statement: |STATEMENT: / && grep { index($line, $_) >= 0 } @secrets }
  split /\n/, slurp_file($node->logfile);
is("@told", '', 'CASES 18: no secret in the server log');
foreach my $where ('mill.errors e', 'mill.pipelines e', 'mill.dead_letters e', 'mill.lag e', 'mill_catalog.worker_slots() e',
	"pg_stat_activity e WHERE backend_type ~ 'pg_mill' AND true", 'pg_foreign_server e')
{
	my $and = $where =~ /WHERE/ ? 'AND' : 'WHERE';
	my $all = sql("SELECT e::text FROM $where");

	is(join(' ', grep { index($all, $_) >= 0 } @secrets), '', "CASES 18: no secret in $where");
}
sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER safe OPTIONS (SET "sasl.password" } . literal($password) . ')');
ok(wait_for_state($node, 'guarded', qr/^idle: /), 'CASES 18: put right once more');
is(scalar(gateway_pids(worker_pids($node))), 1, 'CASES 18: a gateway has the secret');
my @seen;
foreach my $pid (worker_pids($node), gateway_pids(worker_pids($node)))
{
	foreach my $file ('cmdline', 'environ')
	{
		my $text = eval { slurp_file("/proc/$pid/$file") } // '';
		push @seen, "$pid $file" if grep { index($text, $_) >= 0 } @secrets;
	}
}
is("@seen", '', "CASES 18: no secret in a process's arguments or environment");

# everybody may read the options of a mapping that is his, and nobody else's
sql('CREATE ROLE stranger LOGIN');
is($node->safe_psql('postgres', 'SET ROLE stranger; SELECT count(*) FROM pg_user_mappings WHERE umoptions IS NOT NULL'), 0,
	"CASES 18: another's secret is not to be read");

$node->stop;
done_testing();
