# Room: gateway.
#
# SCRAM: with Kafka 3.9.2 it works with any librdkafka; Kafka 4 refuses what
# librdkafka before 2.6.1 sends (its issue 4895), and the error says so.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_cluster('main');

# A server, the user mapping and a stream for a topic of a Kafka with TLS.
sub connect_to
{
	my ($name, $kafka) = @_;
	my %tls = $kafka->tls('SCRAM-SHA-512');
	my %options = map { $_ => $tls{$_} } grep { !/^sasl\.(username|password)$/ } keys %tls;

	$options{'ssl.endpoint.identification.algorithm'} = 'none';
	create_server($node, $kafka, name => $name, properties => \%options);
	$node->safe_psql('postgres', qq(CREATE USER MAPPING FOR CURRENT_USER SERVER $name
		OPTIONS ("sasl.username" '$tls{"sasl.username"}', "sasl.password" '$tls{"sasl.password"}')));
	$kafka->create_topic($name, 1);
	create_clicks($node, $name, server => $name);
}

my $old = MillTest::Kafka->start(tls => 1, version => '3.9.2');
connect_to('old', $old);
load_account($node, $old->produce('old', count => 1_000), 'account');
create_pipeline($node, 'old', 'old_stream');
ok(wait_for_arrival($node, 'old', 'account'), 'SCRAM-SHA-512 with Kafka 3.9.2: it arrives');
is(compare_with_account($node, 'old', 'account'), '', 'nothing lost, nothing twice');
$old->stop;

my ($version) = slurp_file('/usr/include/librdkafka/rdkafka.h') =~ /RD_KAFKA_VERSION\s+0x(\w{6})/;
my $new_enough = $ENV{LIBRDKAFKA_PREFIX} || hex($version) >= 0x020601;
my $kafka = MillTest::Kafka->start(tls => 1);
connect_to('new', $kafka);
$kafka->produce('new', count => 10);
my ($out, $error) = ('', '');
my $status = $node->psql('postgres', 'SELECT count(*) FROM new_stream', stdout => \$out, stderr => \$error);
if ($new_enough)
{
	is($out, 10, 'SCRAM-SHA-512 with Kafka 4');
}
else
{
	isnt($status, 0, 'SCRAM-SHA-512 with Kafka 4 and an old librdkafka is refused');
	like($error, qr/2\.6\.1/, 'and the error says which librdkafka it takes');
}

done_testing();
