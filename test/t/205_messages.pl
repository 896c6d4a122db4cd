# Room: decode, ingest.
#
# Messages that are no rows: exactly the bad ones become dead letters, null and
# empty keys and values are four things, the last change of a key counts.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

$MillTest::deadline = 30;
my $broker = MillTest::MockBroker->start;
my $node = new_cluster('messages', conf => "mill.workers_max = 40\nmax_worker_processes = 60\n");
create_server($node, $broker);

sub sql { return $node->safe_psql('postgres', join('', @_)); }

# Waits until the first n messages of the only partition are behind the pipeline.
sub read_all
{
	my ($pipeline, $n) = @_;

	wait_for_sql($node, "SELECT coalesce(max(stored_offset), 0) = $n FROM mill.lag WHERE pipeline = '$pipeline'")
	  or diag(state_of($node, $pipeline));
}

sub dead { return sql("SELECT string_agg(kafka_offset::text, ' ' ORDER BY kafka_offset) FROM mill.dead_letters WHERE pipeline = '$_[0]'"); }
sub alive { return sql("SELECT string_agg(kafka_offset::text, ' ' ORDER BY kafka_offset) FROM $_[0]"); }

# ---- CASES 13: exactly the bad ones ----

# Where the bad ones are among 40, and what is wrong with them: found by the
# decoder, by the type, by the target.
my %places = (
	first => [0], last => [39], 'first and last' => [ 0, 39 ], adjacent => [ 17, 18, 19 ], 'around the middle' => [ 19, 20 ],
	'all but one' => [ grep { $_ != 23 } 0 .. 39 ], 'a whole batch' => [ 0 .. 39 ], none => [], 'every other' => [ map { 2 * $_ } 0 .. 19 ]);
my %faults = (decoder => '{"v":1', type => '{"v":"x"}', constraint => '{"v":-1}', trigger => '{"v":13}');
my $random = random_seed();
$places{"at random (seed $random)"} = [ grep { rand() < 0.3 } 0 .. 39 ];

sql(q[CREATE FUNCTION no_13() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF new.v = 13 THEN RAISE 'thirteen'; END IF; RETURN NULL; END$$]);
my $n = 0;
my @runs;
foreach my $place (sort keys %places)
{
	my %bad = map { $_ => 1 } @{ $places{$place} };
	my @kinds = $place eq 'a whole batch' || $place eq 'adjacent' ? sort keys %faults : 'mixed';

	foreach my $kind (@kinds)
	{
		my @messages = map {
			my $fault = $kind eq 'mixed' ? (sort keys %faults)[ $_ % 4 ] : $kind;
			$bad{$_} ? $faults{$fault} : qq({"v":100$_})
		} 0 .. 39;
		my $name = 'bad' . $n++;

		$broker->create_topic($name, 1);
		$broker->produce($name, lines => \@messages);
		sql(qq[CREATE FOREIGN TABLE ${name}_stream (v int, kafka_offset bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic '$name');
			CREATE TABLE $name (v int CHECK (v > 0), kafka_offset bigint);
			CREATE TRIGGER t AFTER INSERT ON $name FOR EACH ROW EXECUTE FUNCTION no_13();]);
		create_pipeline($node, $name, "${name}_stream");
		push @runs, [ $name, "$place, $kind", \%bad ];
	}
}
foreach my $run (@runs)
{
	my ($name, $what, $bad) = @$run;

	read_all($name, 40);
	is(dead($name), join(' ', grep { $bad->{$_} } 0 .. 39), "CASES 13: $what: exactly the bad ones are dead letters");
	is(alive($name), join(' ', grep { !$bad->{$_} } 0 .. 39), "CASES 13: $what: all the others arrive");
	is(sql("SELECT rows_read || ' ' || rows_written || ' ' || dead_letters FROM mill.pipelines WHERE pipeline = '$name'"),
		'40 ' . (40 - keys %$bad) . ' ' . keys %$bad, "CASES 13: $what: and the counters say so");
}
# what is kept of them: all there was
my $name = 'kept';
$broker->create_topic($name, 1);
$broker->produce($name, fields => [ [ 0, 'the\x00key', 'h=1,empty=,null', 'not\tjson\xff' ], [ 0, undef, '', '' ], [ 0, '', '', '[1]' ] ]);
sql(qq[CREATE FOREIGN TABLE ${name}_stream (v int) SERVER kafka OPTIONS (topic '$name'); CREATE TABLE $name (v int);]);
create_pipeline($node, $name, "${name}_stream");
read_all($name, 3);
is(sql(qq[SELECT topic, partition, kafka_offset, key, value, sqlstate, produced_at > now() - interval '1 hour' FROM mill.dead_letters WHERE pipeline = '$name' ORDER BY id]),
	"kept|0|0|\\x746865006b6579|\\x6e6f74096a736f6eff|22P02|t\nkept|0|1||\\x|22P02|t\nkept|0|2|\\x|\\x5b315d|22P02|t",
	'CASES 13: a dead letter is the message as it came');
is(sql(qq[SELECT jsonb_path_query_array(headers, '\$[*].name') FROM mill.dead_letters WHERE pipeline = '$name' AND kafka_offset = 0]),
	'["h", "empty", "null"]', 'CASES 13: with its headers');

# ---- stop, skip, max_errors, again after a fix ----

my @ten = map { qq({"v":$_}) } 1 .. 4, -5, 6 .. 10;
foreach my $policy ('stop', 'skip', 'dead_letter')
{
	my $name = "policy_$policy";

	$broker->create_topic($name, 1);
	$broker->produce($name, lines => \@ten);
	sql(qq[CREATE FOREIGN TABLE ${name}_stream (v int, kafka_offset bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic '$name', on_error '$policy');
		CREATE TABLE $name (v int CONSTRAINT positive CHECK (v > 0), kafka_offset bigint);]);
	create_pipeline($node, $name, "${name}_stream");
}
ok(wait_for_state($node, 'policy_stop', qr/^failed: bad message in topic "policy_stop", partition 0, offset 4: .*violates check constraint "positive"/),
	'CASES 13: stop: a clear state');
is(alive('policy_stop'), '0 1 2 3', 'CASES 13: stop: what came before is there');
is(dead('policy_stop'), '', 'CASES 13: stop: no dead letter');
sql(q[ALTER TABLE policy_stop DROP CONSTRAINT positive; SELECT mill.resume('policy_stop')]);
read_all('policy_stop', 10);
is(alive('policy_stop'), '0 1 2 3 4 5 6 7 8 9', 'CASES 13: stop: after a fix all is there, once');
read_all('policy_skip', 10);
is(alive('policy_skip'), '0 1 2 3 5 6 7 8 9', 'CASES 13: skip: all but the bad one');
is(dead('policy_skip') . sql("SELECT rows_skipped FROM mill.pipelines WHERE pipeline = 'policy_skip'"), '1', 'CASES 13: skip: counted, not kept');

read_all('policy_dead_letter', 10);
is(sql(q[SELECT mill.retry_dead_letters('policy_dead_letter')]), 0, 'CASES 13: tried again before a fix: none');
is(sql(q[SELECT kafka_offset, sqlstate, retried_at IS NOT NULL FROM mill.dead_letters WHERE pipeline = 'policy_dead_letter']), '4|23514|t',
	'CASES 13: and it is still there');
sql('ALTER TABLE policy_dead_letter DROP CONSTRAINT positive');
is(sql(q[BEGIN; SELECT mill.retry_dead_letters('policy_dead_letter'); ROLLBACK;]), 1, 'CASES 13: tried again in a transaction that is rolled back');
is(dead('policy_dead_letter') . ' ' . alive('policy_dead_letter'), '4 0 1 2 3 5 6 7 8 9', 'CASES 13: changes nothing');
is(sql(q[SELECT mill.retry_dead_letters('policy_dead_letter')]), 1, 'CASES 13: tried again after the fix: one');
is(dead('policy_dead_letter') . alive('policy_dead_letter'), '0 1 2 3 4 5 6 7 8 9', 'CASES 13: it is a row, and no dead letter any more');

$broker->create_topic('many', 1);
$broker->produce('many', lines => [ ('bad') x 20 ]);
sql(q[CREATE FOREIGN TABLE many_stream (v int, kafka_offset bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic 'many');
	CREATE TABLE many (v int, kafka_offset bigint);]);
create_pipeline($node, 'many', 'many_stream', max_errors => 5);
ok(wait_for_state($node, 'many', qr/^paused: more than 5 bad messages in a minute; see mill.dead_letters, then call mill.resume/),
	'CASES 13: more than max_errors: paused, with the reason');
my $stored = sql(q[SELECT stored_offset FROM mill.lag WHERE pipeline = 'many']);
is(dead('many'), join(' ', 0 .. $stored - 1), 'CASES 13: what was read is a dead letter, no more');
$broker->produce('many', lines => ['{"v":1}']);
sql(q[SELECT mill.alter_pipeline('many', max_errors => 100); SELECT mill.resume('many')]);
read_all('many', 21);
is(dead('many') . ': ' . alive('many'), join(' ', 0 .. 19) . ': 20', 'CASES 13: and goes on after mill.resume');

# ---- CASES 4: null and empty, key and value ----

my @kinds = ([ 0, 'k', '', '{"v":1}' ], [ 0, undef, '', '{"v":2}' ], [ 0, '', '', '{"v":3}' ], [ 0, 'k', '', undef ], [ 0, 'k', '', '' ],
	[ 0, undef, '', undef ], [ 0, '', '', '{"v":null}' ]);
$broker->create_topic('kinds', 1);
$broker->produce('kinds', fields => \@kinds);
sql("CREATE FOREIGN TABLE kinds_$_ (k text OPTIONS (metadata 'key'), v int, kafka_offset bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic 'kinds', tombstone '$_');
	CREATE TABLE kinds_t_$_ (k text, v int, kafka_offset bigint);") foreach 'skip', 'nulls', 'dead_letter';
create_pipeline($node, "kinds_t_$_", "kinds_$_") foreach 'skip', 'nulls', 'dead_letter';
my %rows = (skip => "k|1|0\n-|2|1\n|3|2\n|-|6", nulls => "k|1|0\n-|2|1\n|3|2\nk|-|3\n-|-|5\n|-|6", dead_letter => "k|1|0\n-|2|1\n|3|2\n|-|6");
my %letters = (skip => '4', nulls => '4', dead_letter => '3 4 5');
foreach my $kind (sort keys %rows)
{
	read_all("kinds_t_$kind", 7);
	is(sql("SELECT coalesce(k, '-'), coalesce(v::text, '-'), kafka_offset FROM kinds_t_$kind ORDER BY 3"), $rows{$kind},
		"CASES 4: append, tombstone '$kind': null and empty keys and values");
	is(dead("kinds_t_$kind"), $letters{$kind}, "CASES 4: append, tombstone '$kind': an empty value is a bad message");
}
is(sql("SELECT coalesce(k, '-'), coalesce(v::text, '-'), kafka_offset FROM kinds_skip WHERE kafka_offset < 4"), "k|1|0\n-|2|1\n|3|2",
	'CASES 4: SELECT on the stream says the same');

# upsert by the message's key
sql(q[CREATE TABLE kinds_upsert (k text PRIMARY KEY, v int, kafka_offset bigint)]);
create_pipeline($node, 'kinds_upsert', 'kinds_skip', mode => "'upsert'");
read_all('kinds_upsert', 7);
is(sql('SELECT k, v, kafka_offset FROM kinds_upsert ORDER BY k'), '||6', 'CASES 4: upsert: a tombstone deletes');
is(dead('kinds_upsert'), '1 4 5', 'CASES 4: upsert: a null key is a bad message');

# ---- CASES 5: the last change of a key counts ----

my @changes = (
	[ 'a', '{"v":1}' ], [ 'a', '{"v":2}' ], [ 'b', '{"v":1}' ], [ 'b', undef ], [ 'c', undef ], [ 'c', '{"v":3}' ], [ 'd', undef ],
	[ 'e', '{"v":1}' ], [ 'e', undef ], [ 'e', '{"v":5}' ], [ 'f', '{"v":1}' ], [ 'f', '{"v":"x"}' ], [ 'f', '{"v":6}' ], [ 'g', '{"v":7}' ], [ 'g', '{"v":"x"}' ],
	[ 'h', '{"v":1}' ], [ 'h', '{"v":null}' ], [ 'A', '{"v":9}' ]);
my $expected = "A|9\na|2\nc|3\ne|5\nf|6\ng|7\nh|";
foreach my $rows (1, 2, 3, 50)
{
	my $name = "changes_$rows";
	my @rest = @changes;
	my $sent = 0;

	$broker->create_topic($name, 1);
	sql(qq[CREATE FOREIGN TABLE ${name}_stream (k text OPTIONS (metadata 'key'), v int) SERVER kafka OPTIONS (topic '$name');
		CREATE TABLE $name (k text COLLATE "C" PRIMARY KEY, v int, other int DEFAULT 7);
		INSERT INTO $name VALUES ('d', 0, 1), ('e', 0, 2), ('z', 0, 3)]);
	create_pipeline($node, $name, "${name}_stream", mode => "'upsert'");
	while (my @some = splice(@rest, 0, $rows))
	{
		# what is read before the next is sent is a batch
		$broker->produce($name, fields => [ map { [ 0, $_->[0], '', $_->[1] ] } @some ]);
		read_all($name, $sent += @some);
	}
	is(sql("SELECT k, v FROM $name WHERE k <> 'z' ORDER BY k"), $expected, "CASES 5: batches of $rows: the last change of each key");
	is(sql("SELECT v, other FROM $name WHERE k = 'z'"), '0|3', "CASES 5: batches of $rows: no other key is touched");
	is(dead($name), '11 14', "CASES 5: batches of $rows: bad messages change nothing");
}

# many changes at random, in batches of any size, against the last of each key
my (%last, @random);
foreach my $i (0 .. 1999)
{
	my $key = int(rand(60));
	my $value = rand() < 0.3 ? undef : qq({"v":$i});
	push @random, [ 0, $key, '', $value ];
	$last{$key} = defined $value ? $i : undef;
}
$broker->create_topic('random', 1);
sql(q[CREATE FOREIGN TABLE random_stream (k int OPTIONS (metadata 'key'), v int) SERVER kafka OPTIONS (topic 'random');
	CREATE TABLE random_1 (k int PRIMARY KEY, v int); CREATE TABLE random_2 (k int, v int, UNIQUE (k)) PARTITION BY HASH (k);
	CREATE TABLE random_2a PARTITION OF random_2 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
	CREATE TABLE random_2b PARTITION OF random_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1);]);
create_pipeline($node, 'random_1', 'random_stream', mode => "'upsert'");
create_pipeline($node, 'random_2', 'random_stream', mode => "'upsert'", key_index => "'random_2_k_key'");
my $sent = 0;
while (my @some = splice(@random, 0, 1 + int(rand(400))))
{
	$broker->produce('random', fields => \@some);
	read_all('random_1', $sent += @some);
}
foreach my $table ('random_1', 'random_2')
{
	read_all($table, 2000);
	is(sql("SELECT k, v FROM $table ORDER BY k"), join("\n", map { "$_|$last{$_}" } grep { defined $last{$_} } sort { $a <=> $b } keys %last),
		"CASES 5: $table: 2,000 changes at random (seed $random)");
}

# ---- mill.wait_for ----

$broker->create_topic('waited', 1);
sql(q[CREATE FOREIGN TABLE waited_stream (v int) SERVER kafka OPTIONS (topic 'waited'); CREATE TABLE waited (v int)]);
create_pipeline($node, 'waited', 'waited_stream');
my ($out, $err, $in) = ('', '', '');
my $waiter = IPC::Run::start([ $node->installed_command('psql'), '-XqAt', '-d', $node->connstr('postgres'), '-v', 'ON_ERROR_STOP=1',
		'-c', q[BEGIN ISOLATION LEVEL REPEATABLE READ], '-c', q[SELECT count(*) FROM waited], '-c', q[SELECT mill.wait_for('waited', 0, 2, '30 s')],
		'-c', q[COMMIT], '-c', q[SELECT count(*) FROM waited] ], '<', \$in, '>', \$out, '2>', \$err);
wait_for_sql($node, q[SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT mill.wait_for%' AND state = 'active' AND pid <> pg_backend_pid()]);
$broker->produce('waited', lines => [ map { qq({"v":$_}) } 1 .. 3 ]);
$waiter->finish;
is($out . $err, "0\n\n3\n", 'CASES 15: mill.wait_for returns when the message is in the table, whatever the isolation level');

# a worker that starts where all is read, and has nothing to do for longer than max_wait
sql(q[SELECT mill.alter_pipeline('waited', max_wait => '0'); SELECT mill.pause('waited')]);
wait_for_state($node, 'waited', qr/^paused/);
sql(q[SELECT mill.resume('waited')]);
ok(wait_for_state($node, 'waited', qr/^idle/), 'CASES 15: resumed where all is read: idle');
$broker->produce('waited', lines => ['{"v":4}']);
ok(wait_for_sql($node, 'SELECT count(*) = 4 FROM waited'), 'CASES 15: and takes what comes then');

done_testing();
