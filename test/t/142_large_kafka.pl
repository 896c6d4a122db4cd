# Room: gateway, ingest.
#
# Messages that are larger than they look, and fetches that unpack to more than a
# gateway may have. The findings' mark begins each test's name.

use strict;
use warnings;

use Digest::SHA;
use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = MillTest::Kafka->start;
my $node = new_cluster('main');

create_server($node, $kafka);

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

# ---------------------------------------------------------------------------
# S13: a key that unpacks to 250 MB, and headers of 3 MB, cost nobody's memory.

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
my ($out, $err) = ('', '');
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

# messages above the limit, of which a fetch brings many
create_raw('fat');
$kafka->produce('fat', dense('zstd'), fields => [ map { [ 0, undef, '', $_ % 41 ? '\*18000000;' : 'thin' ] } 1 .. 41 ]);
create_pipeline($node, 'fat', 'fat_stream');
ok(wait_for_sql($node, 'SELECT count(*) = 1 FROM fat'), 'A4: 40 messages of 18 MB do not hold up what comes behind');
is(sql(q(SELECT count(*), min(length(value)), max(length(value)) FROM mill.dead_letters WHERE pipeline = 'fat')), '40|1048576|1048576',
	'A4: they are dead letters, cut');

$node->stop;
done_testing();
