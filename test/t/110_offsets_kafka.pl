# Room: ingest.
#
# Offsets on a real Kafka: gaps, ends, positions, what was removed, what came
# back shorter, large messages, and the ways in which a pipeline stops and goes
# on. Each part has a topic and a pipeline of its own. CASES n is the line of
# the table in test/README.md.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $kafka = MillTest::Kafka->start(conf => <<'EOC');
log.cleaner.backoff.ms=200
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
message.max.bytes=20000000
EOC
my $node = new_cluster('main', conf => "mill.workers_max = 20\nmax_worker_processes = 40\n");
create_server($node, $kafka);

sub sql { my ($sql) = @_; return $node->safe_psql('postgres', $sql); }

# topic, stream, table and pipeline of one name
sub start_pipeline
{
	my ($topic, %arguments) = @_;

	create_clicks($node, $topic);
	create_pipeline($node, $topic, "${topic}_stream", max_errors => 1_000_000, %arguments);
}

# Idle, and nothing is left to read.
sub wait_for_end
{
	my ($pipeline) = @_;

	return wait_for_sql($node, qq(SELECT count(*) > 0 AND bool_and(l.lag = 0) AND
		(SELECT state = 'idle' FROM mill.pipelines WHERE pipeline = '$pipeline')
		FROM mill.lag l WHERE pipeline = '$pipeline'));
}

sub produce_to_account
{
	my ($topic, %options) = @_;
	my $file = $kafka->produce($topic, %options);

	load_account($node, $file, "${topic}_account");
	return $file;
}

# Everything that the topic's account says is there, once.
sub arrives
{
	my ($topic, $name) = @_;

	ok(wait_for_arrival($node, $topic, "${topic}_account"), "$name: it arrives");
	is(compare_with_account($node, $topic, "${topic}_account"), '', "$name: nothing lost, nothing twice");
}

sub wait_for_count
{
	my ($table, $count) = @_;

	return wait_for_sql($node, "SELECT count(*) FROM $table", expected => $count);
}

# ---------------------------------------------------------------------------
# CASES 2: two workers with the same messages.

# A session does what a second worker would: it moves the offset and, when the
# first one waits for it, writes fifty messages and commits.
{
	$kafka->create_topic('two', 1);
	start_pipeline('two');
	produce_to_account('two', count => 100, partition => 0);
	arrives('two', 'CASES 2: before');
	wait_for_end('two');

	my ($worker) = worker_pids($node);
	my ($out, $err) = ('', '');
	my $second = IPC::Run::start([ $node->installed_command('psql'), '-XqAt', '-d', $node->connstr('postgres'), '-c', q(
		DO $$
		BEGIN
			UPDATE mill_catalog.pipeline_offset SET next_offset = 150, last_message_ms = NULL;
			PERFORM pg_advisory_xact_lock(2);
			LOOP
				PERFORM pg_stat_clear_snapshot();
				EXIT WHEN EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_mill worker' AND wait_event_type = 'Lock');
				PERFORM pg_sleep(0.02);
			END LOOP;
			INSERT INTO two (partition, kafka_offset, seq, page) SELECT 0, i, i, 'second' FROM generate_series(100, 149) i;
		END
		$$) ], '<', \undef, '>', \$out, '2>', \$err);
	wait_for_sql($node, "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory'");
	produce_to_account('two', count => 900, partition => 0, first => 100);
	ok($second->finish, 'CASES 2: the second worker commits while the first one waits') or diag($err);
	arrives('two', 'CASES 2: two workers with the same messages');
	is(sql("SELECT count(*), min(kafka_offset), max(kafka_offset) FROM two WHERE page = 'second'"), '50|100|149',
		'CASES 2: what the second one wrote is there');
	ok(!grep({ $_ == $worker } worker_pids($node)), 'CASES 2: the first one has ended with its batch');
}

# The other way round: who moves an offset while a batch is written waits for
# its commit.
{
	$kafka->create_topic('slow', 1);
	create_clicks($node, 'slow');
	sql(q(
		CREATE TABLE gate ();
		INSERT INTO gate DEFAULT VALUES;
		CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			WHILE NEW.seq = 500 AND EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.02); END LOOP;
			RETURN NEW;
		END $$;
		CREATE TRIGGER wait_at_gate BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION wait_at_gate();));
	create_pipeline($node, 'slow', 'slow_stream');
	produce_to_account('slow', count => 1000, partition => 0);
	ok(wait_for_sql($node, q(SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'pg_mill worker' AND wait_event = 'PgSleep')), 'CASES 2: a batch is under way');
	my ($err) = ('');
	$node->psql('postgres', q(SET lock_timeout = '100ms'; UPDATE mill_catalog.pipeline_offset SET next_offset = 7
		WHERE pipeline_id = (SELECT id FROM mill_catalog.pipeline WHERE name = 'slow')), stderr => \$err);
	like($err, qr/lock timeout/, 'CASES 2: its offset cannot be moved meanwhile');
	is(sql('SELECT count(*) FROM slow'), 0, 'CASES 2: nothing of a batch is visible before all of it');
	sql('DELETE FROM gate');
	arrives('slow', 'CASES 2: a slow batch');
}

# ---------------------------------------------------------------------------
# CASES 3: gaps in the offsets.
{
	$kafka->create_topic('gaps', 2);
	start_pipeline('gaps');
	produce_to_account('gaps', count => 5000, transaction => 'gaps', commit_every => 100, abort_every => 2);
	arrives('gaps', 'CASES 3: transaction markers and aborted messages');
	ok(wait_for_end('gaps'), 'CASES 3: the lag comes to 0 behind a marker');

	my $rows = sql('SELECT count(*) FROM gaps');
	produce_to_account('gaps', count => 30_000, first => 5000, transaction => 'gaps', commit_every => 5000, abort_every => 1);
	my $ends = join("\n", map { "$_->[0]|$_->[2]" } $kafka->offsets('gaps'));
	ok(wait_for_sql($node, "SELECT partition, stored_offset FROM mill.lag WHERE pipeline = 'gaps' ORDER BY 1",
			expected => $ends), 'CASES 3: a long run of aborted messages only is passed');
	ok(wait_for_end('gaps'), 'CASES 3: the lag comes to 0 behind them');
	is(sql('SELECT count(*) FROM gaps'), $rows, 'CASES 3: and none of them is read');

	# an open transaction holds back what comes after it
	$kafka->create_topic('open', 1);
	start_pipeline('open');
	produce_to_account('open', count => 20);
	arrives('open', 'CASES 3: before the open transaction');
	$kafka->produce('open', count => 10, first => 20, transaction => 'open', commit_every => 1000, hang => 1,
		properties => ['transaction.timeout.ms=15000']);
	produce_to_account('open', count => 30, first => 30);
	ok(wait_for_state($node, 'open', qr/^idle: .*open transaction/), 'CASES 3: the reason names the open transaction');
	is(sql("SELECT lag FROM mill.lag WHERE pipeline = 'open'"), 0, 'CASES 3: the lag counts to the last stable offset');
	is(sql('SELECT count(*) FROM open'), 20, 'CASES 3: what comes after it waits');
	arrives('open', 'CASES 3: after its timeout it goes on');
	ok(wait_for_state($node, 'open', qr/^idle: (?!.*transaction)/), 'CASES 3: the reason is gone with it');
}

# a topic that is compacted while it is not read
{
	$kafka->create_topic('compact', 1, 1, 'cleanup.policy=compact', 'segment.ms=100', 'min.cleanable.dirty.ratio=0.01',
		'max.compaction.lag.ms=100');
	start_pipeline('compact', enabled => 'false');
	my $round = 0;
	ok(wait_for(sub {
		$kafka->produce('compact', count => 300, users => 5, first => 300 * $round++);
		return scalar($kafka->consume('compact')) < 300 * $round - 200;
	}), 'CASES 3: the topic was compacted');
	sql("SELECT mill.resume('compact')");
	ok(wait_for_sql($node, "SELECT max(kafka_offset) FROM compact", expected => 300 * $round - 1),
		'CASES 3: compaction leaves gaps, and the last message arrives');
	ok(wait_for_end('compact'), 'CASES 3: the lag comes to 0 in a compacted topic');
	my @left = map { $_->[1] } $kafka->consume('compact');
	my %there = map { $_ => 1 } split /\n/, sql('SELECT kafka_offset FROM compact');
	is(join(' ', grep { !$there{$_} } @left), '', 'CASES 3: everything that compaction has left is there');
	is(sql('SELECT count(*) - count(DISTINCT kafka_offset) FROM compact'), 0, 'CASES 3: nothing twice');
}

# ---------------------------------------------------------------------------
# CASES 6: what is stored, and what the topic has, do not fit together.
{
	$kafka->create_topic('retention', 1);
	start_pipeline('retention');
	produce_to_account('retention', count => 1000);
	arrives('retention', 'CASES 6: before');
	sql("SELECT mill.pause('retention')");
	$kafka->produce('retention', count => 1000, first => 1000);
	$kafka->delete_records('retention', 0, 1500);
	sql("SELECT mill.resume('retention')");
	ok(wait_for_state($node, 'retention', qr/^failed: .*offsets 1000 to 1499 \(500 messages or fewer\) were removed by retention/),
		'CASES 6: retention passed the offset: failed, naming the gap');
	is(sql("SELECT stored_offset FROM mill.lag WHERE pipeline = 'retention'"), 1000, 'CASES 6: no jump');
	sql("SELECT mill.resume('retention')");
	ok(wait_for_state($node, 'retention', qr/^failed: .*offsets 1000 to 1499/), 'CASES 6: resume alone does not jump either');
	sql("SELECT mill.seek('retention', 'earliest')");
	ok(wait_for_count('retention', 1500), 'CASES 6: seek goes on');
	is(sql("SELECT stored_offset, offsets_skipped FROM mill.lag WHERE pipeline = 'retention'"), '2000|500',
		'CASES 6: mill.lag says how many were skipped');
	is(sql('SELECT count(DISTINCT kafka_offset), max(kafka_offset) FROM retention'), '1500|1999', 'CASES 6: the rest is there once');

	# records removed while it runs, behind and at its position: no trouble
	$kafka->delete_records('retention', 0, 2000);
	$kafka->produce('retention', count => 10, first => 2000);
	ok(wait_for_count('retention', 1510), 'CASES 6: records removed behind the offset are nothing to it');
	sql("SELECT mill.pause('retention')");
	$kafka->delete_records('retention', 0, 2010);
	sql("SELECT mill.resume('retention')");
	ok(wait_for_state($node, 'retention', qr/^idle: /), 'CASES 6: nor all of them, when it starts');
	$kafka->produce('retention', count => 10, first => 2010);
	ok(wait_for_count('retention', 1520), 'CASES 6: and it goes on');

	# deleted while it runs
	$kafka->create_topic('deleted', 1);
	start_pipeline('deleted');
	$kafka->produce('deleted', count => 100);
	ok(wait_for_count('deleted', 100), 'CASES 6: before the topic is deleted');
	$kafka->delete_topic('deleted');
	ok(wait_for_state($node, 'deleted', qr/^failed: .*"deleted" was deleted/), 'CASES 6: topic deleted: failed, with the reason');
	is(sql("SELECT stored_offset FROM mill.lag WHERE pipeline = 'deleted'"), 100, 'CASES 6: the offset is kept');
	$kafka->create_topic('deleted', 1);
	$kafka->produce('deleted', count => 30, first => 100);
	sql("SELECT mill.seek('deleted', 'earliest')");
	ok(wait_for_count('deleted', 130), 'CASES 6: created again, seek goes on');

	# deleted and created again while nobody looked
	$kafka->create_topic('shorter', 1);
	start_pipeline('shorter');
	$kafka->produce('shorter', count => 100);
	ok(wait_for_count('shorter', 100), 'CASES 6: before the topic is created again');
	sql("SELECT mill.pause('shorter')");
	$kafka->delete_topic('shorter');
	$kafka->create_topic('shorter', 1);
	$kafka->produce('shorter', count => 10, first => 100);
	sql("SELECT mill.resume('shorter')");
	ok(wait_for_state($node, 'shorter', qr/^failed: .*ends at offset 10, before the stored offset 100.*created again/),
		'CASES 6: created again shorter: failed, with the reason');
	sql("SELECT mill.seek('shorter', 'earliest')");
	ok(wait_for_count('shorter', 110), 'CASES 6: seek goes on');

	# and is longer than what was read: its offsets are another topic's
	$kafka->create_topic('longer', 1);
	start_pipeline('longer');
	$kafka->produce('longer', count => 100);
	ok(wait_for_count('longer', 100), 'CASES 6: before the topic is created again, longer');
	sql("SELECT mill.pause('longer')");
	$kafka->delete_topic('longer');
	$kafka->create_topic('longer', 1);
	$kafka->produce('longer', count => 300, first => 1000);
	sql("SELECT mill.resume('longer')");
	ok(wait_for_state($node, 'longer', qr/^failed: .*created again/), 'CASES 6: created again longer: failed, with the reason');
	is(sql('SELECT count(*) FROM longer'), 100, 'CASES 6: nothing of it was read');
	sql("SELECT mill.seek('longer', 'earliest')");
	ok(wait_for_count('longer', 400), 'CASES 6: seek goes on');

	# not there yet
	start_pipeline('unborn');
	ok(wait_for_state($node, 'unborn', qr/^(degraded|failed): .*unborn/), 'CASES 6: unknown topic: it waits, visibly');
	is(sql("SELECT count(*) > 0 FROM mill.errors WHERE object_name = 'unborn' AND retry_at IS NOT NULL"), 't',
		'CASES 6: mill.errors says when it tries again');
	$kafka->create_topic('unborn', 2);
	produce_to_account('unborn', count => 50);
	arrives('unborn', 'CASES 6: it starts when the topic is there');
}

# ---------------------------------------------------------------------------
# CASES 7: a partition that is added.
{
	$kafka->create_topic('grow', 1);
	start_pipeline('grow', start => "'latest'");
	ok(wait_for_end('grow'), 'CASES 7: before');
	$kafka->add_partitions('grow', 3);
	my $since = Time::HiRes::time();
	produce_to_account('grow', count => 300);
	arrives('grow', 'CASES 7: partitions added while it runs');
	cmp_ok(Time::HiRes::time() - $since, '<', 60, 'CASES 7: they are found within a minute');
	is(sql('SELECT count(*) FROM (SELECT partition FROM grow GROUP BY 1 HAVING min(kafka_offset) = 0) p'), 3,
		'CASES 7: and read from their beginning, also with start => latest');
}

# ---------------------------------------------------------------------------
# CASES 9: start positions.
{
	my ($out, $err) = ('', '');

	$kafka->create_topic('begun', 1);
	start_pipeline('begun');
	produce_to_account('begun', count => 100);
	arrives('begun', 'CASES 9: before');
	sql("SELECT mill.pause('begun')");
	produce_to_account('begun', count => 100, first => 100);
	$node->psql('postgres', "SELECT mill.alter_pipeline('begun', start => 'latest')", stderr => \$err);
	like($err, qr/NOTICE: .*goes on from its stored offsets/, 'CASES 9: a start position given later: a notice');
	sql("SELECT mill.resume('begun')");
	arrives('begun', 'CASES 9: stored offsets win over it');

	# after the last record
	$kafka->create_topic('future', 2);
	$kafka->produce('future', count => 100);
	start_pipeline('future', start => q(to_char(now() + '1 hour', 'YYYY-MM-DD HH24:MI:SS.US OF')));
	ok(wait_for_end('future'), 'CASES 9: a start after the last record is the end');
	produce_to_account('future', count => 60, first => 100);
	arrives('future', 'CASES 9: messages older than the start, but after the end it was');
	sql("SELECT mill.pause('future')");
	produce_to_account('future', count => 60, first => 160);
	sql("SELECT mill.resume('future')");
	arrives('future', 'CASES 9: the end was fixed once');

	# between two records
	$kafka->create_topic('between', 1);
	$kafka->produce('between', count => 10);
	my $between = sql('SELECT clock_timestamp()');
	ok(wait_for(sub { sql("SELECT clock_timestamp() > '$between'::timestamptz + interval '10 ms'") eq 't' }), 'CASES 9: time passes');
	produce_to_account('between', count => 10, first => 10);
	start_pipeline('between', start => "'$between'");
	arrives('between', 'CASES 9: start at a timestamp');

	foreach my $case ([ 'latest', 0 ], [ '{"0": 15}', 5 ], [ 'earliest', 20 ])
	{
		my ($start, $count) = @$case;

		sql('TRUNCATE between');
		sql("SELECT mill.seek('between', '$start')");
		ok(wait_for_sql($node, "SELECT stored_offset = 20 AND (SELECT count(*) = $count FROM between) FROM mill.lag
			WHERE pipeline = 'between'"), "CASES 9: seek to $start");
	}
}

# ---------------------------------------------------------------------------
# CASES 10: large messages.
{
	my $large = '{"user_id":1,"page":"' . ('x' x 3_000_000) . '","seq":%d}';
	my @lines = map { sprintf($large, $_) } 0 .. 2;

	create_server($node, $kafka, name => 'small', properties => { 'fetch.message.max.bytes' => 10_000 });
	$kafka->create_topic('large', 1, 1, 'max.message.bytes=20000000');
	create_clicks($node, 'large', server => 'small', options => "max_message_bytes '4MB'");
	create_pipeline($node, 'large', 'large_stream');
	produce_to_account('large', lines => \@lines, properties => ['message.max.bytes=20000000'], partition => 0);
	arrives('large', 'CASES 10: messages larger than the fetch size');
	is(sql('SELECT min(length(page)), max(length(page)) FROM large'), '3000000|3000000', 'CASES 10: they are whole');

	my $huge = '{"user_id":1,"page":"' . ('y' x 5_000_000) . '","seq":4}';
	$kafka->produce('large', lines => [ $huge, '{"user_id":5,"seq":5}' ], properties => ['message.max.bytes=20000000'], partition => 0);
	ok(wait_for_count('large', 4), 'CASES 10: one larger than the cap does not stop the stream');
	is(sql("SELECT kafka_offset, length(value) FROM mill.dead_letters WHERE pipeline = 'large'"), '3|1048576',
		'CASES 10: it becomes a dead letter, truncated');
	like(sql("SELECT detail FROM mill.dead_letters WHERE pipeline = 'large'"), qr/@{[ length $huge ]} bytes.*@{[ sha256_hex($huge) ]}/s,
		'CASES 10: with its length and its hash');
}

# ---------------------------------------------------------------------------
# CASES 15: stop and go.
{
	$kafka->create_topic('pauses', 2);
	start_pipeline('pauses', max_wait => "'50 ms'", batch_rows => 300);
	my $producer = $kafka->start_producer('pauses', rate => 2000);
	foreach my $round (1 .. 8)
	{
		ok(wait_for_sql($node, "SELECT count(*) > $round * 500 FROM pauses"), "CASES 15: running, round $round") or last;
		sql("SELECT mill.pause('pauses')");
		wait_for_state($node, 'pauses', qr/^paused: /) if $round % 2;
		sql("SELECT mill.resume('pauses')");
	}
	sql("SELECT mill.alter_pipeline('pauses', new_name => 'breaks')");
	load_account($node, $producer->finish, 'pauses_account');
	ok(wait_for_arrival($node, 'breaks', 'pauses_account'), 'CASES 15: renamed, it goes on');
	is(compare_with_account($node, 'breaks', 'pauses_account', target => 'pauses'), '',
		'CASES 15: pause and rename skip nothing and repeat nothing');

	my $workers = q(SELECT count(pid) FROM mill_catalog.worker_slots() s JOIN mill_catalog.pipeline p ON p.id = s.pipeline_id
		WHERE p.name = 'breaks');
	ok(wait_for_sql($node, $workers, expected => 1), 'CASES 15: renamed, it has a worker');
	sql("SELECT mill.pause('breaks')");
	ok(wait_for_sql($node, $workers, expected => 0), 'CASES 15: paused, it has no worker');
	sql("SELECT mill.drop_pipeline('breaks'); TRUNCATE pauses");
	create_pipeline($node, 'pauses', 'pauses_stream');
	arrives('pauses', 'CASES 15: dropped and created anew, it reads everything again');
	sql("SELECT mill.drop_pipeline('pauses'); TRUNCATE pauses; SELECT mill.create_pipeline('pauses', 'pauses_stream', 'pauses')");
	arrives('pauses', 'CASES 15: also in one transaction');
}

# more pipelines than slots
{
	my @names = map { "turn$_" } 1 .. 5;

	sql($_) foreach split /\n/, sql("SELECT format('SELECT mill.drop_pipeline(%L)', pipeline) FROM mill.pipelines");
	$kafka->create_topic('turns', 1);
	create_clicks($node, 'turns', target => $_, stream => 'turns_stream') foreach @names;
	my $producer = $kafka->start_producer('turns', rate => 300);
	$node->append_conf('postgresql.conf', 'mill.workers_max = 2');
	$node->reload;
	create_pipeline($node, $_, 'turns_stream') foreach @names;
	ok(wait_for_sql($node, q(SELECT count(*) = 3 FROM mill.pipelines WHERE state = 'waiting for a slot' AND reason <> '')),
		'CASES 15: three of five wait for a slot, visibly');
	is(scalar(worker_pids($node)) <= 2, 1, 'CASES 15: no more workers than mill.workers_max');

	# each of them, and again
	foreach my $round (1, 2)
	{
		my %before = map { $_ => sql("SELECT count(*) FROM $_") } @names;
		my @waiting = grep { my $name = $_; !wait_for_sql($node, "SELECT count(*) > $before{$name} FROM $name") } @names;
		is("@waiting", '', "CASES 15: all of them have their turn, round $round");
	}
	load_account($node, $producer->finish, 'turns_account');
	$node->append_conf('postgresql.conf', 'mill.workers_max = 5');
	$node->reload;
	foreach my $name (@names)
	{
		wait_for_arrival($node, $name, 'turns_account');
		is(compare_with_account($node, $name, 'turns_account'), '', "CASES 15: $name is complete in the end");
	}
}

$node->stop;
done_testing();
