# Room: ingest.
#
# Whose fault is an error? Bad messages are found by isolation, whatever the
# SQLSTATE, and their neighbours arrive; what is the pipeline's fault drops nothing.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

$MillTest::deadline = 120;
my $broker = MillTest::MockBroker->start;
my $node = new_cluster('isolation', conf => "mill.workers_max = 40\nmax_worker_processes = 60\n");
create_server($node, $broker);

sub sql { return $node->safe_psql('postgres', join('', @_)); }

sub read_all
{
	my ($pipeline, $n) = @_;

	return wait_for_sql($node, "SELECT coalesce(max(stored_offset), 0) = $n FROM mill.lag WHERE pipeline = '$pipeline'")
	  || diag(state_of($node, $pipeline));
}

sub dead { return sql("SELECT string_agg(kafka_offset::text, ' ' ORDER BY kafka_offset) FROM mill.dead_letters WHERE pipeline = '$_[0]'"); }
sub alive { return sql("SELECT string_agg(o::text, ' ' ORDER BY o) FROM $_[0]"); }

# A topic of these lines, a stream with a column v of the type, a table and a pipeline.
sub flow
{
	my ($name, $type, $lines, %options) = @_;
	my $before = $options{before} // '';
	my $source = $options{source} // "${name}_stream";

	$broker->create_topic($name, 1);
	$broker->produce($name, lines => $lines) if @$lines;
	sql(qq[CREATE FOREIGN TABLE ${name}_stream (v $type, o bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic '$name');
		CREATE TABLE $name (v $type, o bigint); $before]);
	create_pipeline($node, $name, $source, target => $options{target} // $name, %{ $options{arguments} || {} });
}

# ---- CASES 40: values that a type's input function refuses with any SQLSTATE ----

# of contrib, where it is there
my %contrib = map { $_ => 1 } split /\n/, sql(q(SELECT name FROM pg_available_extensions WHERE name IN ('hstore', 'seg')));
sql("CREATE EXTENSION $_") foreach sort keys %contrib;
my %bad = (
	tsquery => [ 'a & b', 'a &' ], tsvector => [ 'a b', "''unclosed" ], jsonpath => [ '$.a', '$.[' ], hstore => [ 'a=>1', 'a=>' ],
	seg => [ '1', 'x' ], regclass => [ 'pg_class', 'nope' ], regrole => [ 'mill_user', 'nope' ], regproc => [ 'now', 'nope' ],
	'int4' => [ '1', 'x' ], 'xml' => [ '<a/>', '<a' ]);
my $n = 0;
my @flows;
# a server may be built without libxml
$contrib{xml} = 1 if $node->psql('postgres', q(SELECT '<a/>'::xml)) == 0;
foreach my $type (grep { $contrib{$_} || !/hstore|seg|xml/ } sort keys %bad)
{
	my ($good, $bad) = map { my $v = $_; $v =~ s/''/'/g; $v =~ s/"/\\"/g; qq({"v":"$v"}) } @{ $bad{$type} };

	foreach my $place ([ 1 ], [ 0 ], [ 4 ], [ 1, 2 ], [ 0 .. 4 ])
	{
		my %is_bad = map { $_ => 1 } @$place;
		my $name = 'type' . $n++;

		flow($name, $type, [ map { $is_bad{$_} ? $bad : $good } 0 .. 4 ]);
		push @flows, [ $name, "$type at @$place", join(' ', @$place), join(' ', grep { !$is_bad{$_} } 0 .. 4) ];
	}
}
foreach my $flow (@flows)
{
	my ($name, $what, $dead, $alive) = @$flow;

	read_all($name, 5);
	is(dead($name) . ' / ' . alive($name), "$dead / $alive", "A1, S7: CASES 40: $what: exactly the bad ones are dead letters");
	sql("SELECT mill.drop_pipeline('$name')") if $what !~ /^tsquery at 1$/;
}
is(sql("SELECT column_name || ' ' || sqlstate FROM mill.dead_letters WHERE pipeline = (SELECT min(pipeline) FROM mill.dead_letters)"),
	'v 42601', 'CASES 41: a letter names the column, also when the type raised the error');

# ---- errors of the query, the target and its triggers ----

sql(q[CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$DECLARE x int; BEGIN
		IF new.v = -1 THEN RAISE EXCEPTION 'stock too low' USING ERRCODE = 'ST001'; END IF;
		IF new.v = -2 THEN SELECT 1 INTO STRICT x FROM pg_catalog.pg_class WHERE false; END IF;
		IF new.v = -3 THEN PERFORM pg_catalog.current_setting('no.such'); END IF;
		IF new.v = -4 THEN RAISE EXCEPTION 'late' USING ERRCODE = 'XX000', HINT = 'be early', COLUMN = 'v'; END IF;
		IF new.v = -5 THEN EXECUTE 'SELECT FROM no_such_table'; END IF;
		RETURN new; END$$]);
foreach my $when ('BEFORE', 'AFTER', 'CONSTRAINT')
{
	my $trigger = $when eq 'CONSTRAINT' ? 'CONSTRAINT TRIGGER t AFTER INSERT ON %s DEFERRABLE INITIALLY DEFERRED' : "TRIGGER t $when INSERT ON %s";
	my $name = lc "trigger_$when";

	flow($name, 'int', [ map { qq({"v":$_}) } 1, -1, 2, -2, -3, 3, -4, -5, 4 ],
		before => 'CREATE ' . sprintf($trigger, $name) . ' FOR EACH ROW EXECUTE FUNCTION judge()');
	read_all($name, 9);
	is(dead($name) . ' / ' . alive($name), '1 3 4 6 7 / 0 2 5 8', "A1: CASES 40: $when trigger, any SQLSTATE: exactly the bad ones");
	is(sql("SELECT string_agg(sqlstate, ' ' ORDER BY kafka_offset) FROM mill.dead_letters WHERE pipeline = '$name'"), 'ST001 P0002 42704 XX000 42P01',
		"A1: $when trigger: with their own SQLSTATE");
	is(sql("SELECT hint || ' ' || column_name FROM mill.dead_letters WHERE pipeline = '$name' AND sqlstate = 'XX000'"), 'be early v',
		"CASES 41: $when trigger: hint and column are kept");
}
foreach my $policy ('skip', 'stop')
{
	my $name = "policy_$policy";

	flow($name, 'int', [ map { qq({"v":$_}) } 1, -1, 2 ], arguments => { on_error => "'$policy'" },
		before => "CREATE TRIGGER t BEFORE INSERT ON $name FOR EACH ROW EXECUTE FUNCTION judge()");
	if ($policy eq 'skip')
	{
		read_all($name, 3);
		is(alive($name), '0 2', 'A1: on_error skip skips what a trigger refuses');
	}
	else
	{
		ok(wait_for_state($node, $name, qr/^failed: bad message in topic "policy_stop", partition 0, offset 1: stock too low/),
			'A1: on_error stop stops there');
		is(alive($name), '0', 'A1: what came before is there');
	}
}

# casts in the view
$broker->create_topic('cast', 1);
$broker->produce('cast', lines => [ '{"v":"a & b"}', '{"v":"a &"}', '{"v":"c"}' ]);
sql(q[CREATE FOREIGN TABLE cast_stream (v text, o bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic 'cast');
	CREATE VIEW cast_view AS SELECT v::tsquery, o FROM cast_stream; CREATE TABLE casted (v tsquery, o bigint)]);
create_pipeline($node, 'cast', 'cast_view', target => 'casted');
read_all('cast', 3);
is(dead('cast') . ' / ' . alive('casted'), '1 / 0 2', 'A1: CASES 40: a cast in the view');

# row security refuses one row
sql(q[CREATE ROLE guarded LOGIN IN ROLE mill_user; GRANT USAGE ON FOREIGN SERVER kafka TO guarded; CREATE SCHEMA g AUTHORIZATION guarded]);
$broker->create_topic('rls', 1);
$broker->produce('rls', lines => [ map { qq({"v":$_}) } 1, -1, 2 ]);
sql(q[SET ROLE guarded; CREATE FOREIGN TABLE g.s (v int, o bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic 'rls');
	CREATE TABLE g.t (v int, o bigint); ALTER TABLE g.t ENABLE ROW LEVEL SECURITY; ALTER TABLE g.t FORCE ROW LEVEL SECURITY;
	CREATE POLICY p ON g.t USING (true) WITH CHECK (v > 0); SELECT mill.create_pipeline('rls', 'g.s', 'g.t')]);
read_all('rls', 3);
is(dead('rls') . ' / ' . alive('g.t'), '1 / 0 2', 'A1: CASES 40: a row that row security refuses');

# ---- alone in its batch ----

flow('alone', 'int', [ '{"v":1}' ], before => 'CREATE TRIGGER t BEFORE INSERT ON alone FOR EACH ROW EXECUTE FUNCTION judge()');
read_all('alone', 1);
$broker->produce('alone', lines => ['{"v":-1}']);
read_all('alone', 2);
is(dead('alone') . ' / ' . alive('alone'), '1 / 0', 'A1: CASES 40: alone in its batch, after others passed: a dead letter');

# ---- the pipeline's fault: nothing is dropped ----

sql(q[CREATE TABLE log_table (v int);
	CREATE FUNCTION write_log() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.log_table VALUES (new.v); RETURN new; END$$;]);
flow('gone', 'int', [ map { qq({"v":$_}) } 1 .. 3 ], before => 'CREATE TRIGGER t BEFORE INSERT ON gone FOR EACH ROW EXECUTE FUNCTION write_log()');
read_all('gone', 3);
sql('DROP TABLE log_table');
$broker->produce('gone', lines => [ map { qq({"v":$_}) } 4 .. 9 ]);
ok(wait_for_state($node, 'gone', qr/^failed: relation "public.log_table" does not exist \(.*partition 0, offset \d/),
	'A1: CASES 40: a trigger whose table is gone: the pipeline failed, and says where');
is(dead('gone'), '', 'A1: CASES 40: no dead letter');
like(sql("SELECT hint FROM mill.errors WHERE object_name = 'gone' ORDER BY at DESC LIMIT 1"), qr/search_path/, 'A10: with the usual cause in the hint');
sql('CREATE TABLE log_table (v int)');
read_all('gone', 9);
is(alive('gone'), '0 1 2 3 4 5 6 7 8', 'A1: CASES 40: it goes on by itself when that is mended; nothing was dropped');

# nothing ever passed: also the pipeline's
flow('never', 'int', [ map { qq({"v":-1}) } 1 .. 3 ], before => 'CREATE TRIGGER t BEFORE INSERT ON never FOR EACH ROW EXECUTE FUNCTION judge()');
ok(wait_for_state($node, 'never', qr/^failed: stock too low/), 'A1: CASES 40: none ever passed: the pipeline failed');
is(dead('never'), '', 'A1: CASES 40: none ever passed: no dead letter');
$broker->produce('never', lines => ['{"v":1}']);
read_all('never', 4);
is(dead('never') . ' / ' . alive('never'), '0 1 2 / 3', 'A1: CASES 40: until one passes: then they are known to be bad');

# evidence from later messages of the batch, and from batches of one message
flow('many_first', 'int', [ (map { qq({"v":-2}) } 1 .. 40), map { qq({"v":$_}) } 1 .. 60 ], before => 'CREATE TRIGGER t BEFORE INSERT ON many_first FOR EACH ROW EXECUTE FUNCTION judge()');
read_all('many_first', 100);
is(dead('many_first') . ' / ' . sql('SELECT count(*) FROM many_first'), join(' ', 0 .. 39) . ' / 60', 'A1: many bad ones before the first good one');
# more of them than are looked at in one piece: what is gathered grows with each failure
flow('very_many', 'int', [ (map { qq({"v":-2}) } 1 .. 2500), map { qq({"v":$_}) } 1 .. 10 ], before => 'CREATE TRIGGER t BEFORE INSERT ON very_many FOR EACH ROW EXECUTE FUNCTION judge()',
	arguments => { max_errors => 100000 });
read_all('very_many', 2510);
is(sql('SELECT count(*) FROM very_many') . ' / ' . sql(q(SELECT count(*) FROM mill.dead_letters WHERE pipeline = 'very_many')), '10 / 2500', 'A1: thousands of bad ones before the first good one');
flow('by_one', 'int', [ map { qq({"v":$_}) } -2, 1 .. 20 ], before => 'CREATE TRIGGER t BEFORE INSERT ON by_one FOR EACH ROW EXECUTE FUNCTION judge()', arguments => { batch_rows => 1 });
read_all('by_one', 21);
is(dead('by_one') . ' / ' . sql('SELECT count(*) FROM by_one'), '0 / 20', 'A1: batches of one message, the first one bad');
sql(q[CREATE TABLE routed_to (v int); CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
	IF new.v = -1 THEN RAISE EXCEPTION 'no' USING ERRCODE = 'ST001'; END IF; INSERT INTO public.routed_to VALUES (new.v); RETURN NULL; END$$]);
flow('routed', 'int', [ map { qq({"v":$_}) } 1 .. 20, -1, 21 .. 40 ], before => 'CREATE TRIGGER t BEFORE INSERT ON routed FOR EACH ROW EXECUTE FUNCTION route()');
read_all('routed', 41);
is(dead('routed') . ' / ' . sql('SELECT count(*) FROM routed_to'), '20 / 40', 'A1: a trigger that routes rows elsewhere lets them pass');
sql('CREATE SEQUENCE few MAXVALUE 5');
flow('sequence', 'int', [ map { qq({"v":$_}) } 1 .. 20 ], before => "ALTER TABLE sequence ADD id bigint DEFAULT nextval('few')");
ok(wait_for_state($node, 'sequence', qr/^failed: nextval: reached maximum value of sequence "few"/), 'A1: a sequence that is exhausted is the pipeline\'s error');
is(dead('sequence'), '', 'A1: and makes no dead letter');
sql("ALTER SEQUENCE few MAXVALUE 1000; SELECT mill.resume('sequence')");
read_all('sequence', 20);

# ---- CASES 41: a limit that is raised while the pipeline runs ----

$broker->create_topic('longer', 1);
$broker->produce('longer', lines => ['short']);
sql(q[CREATE FOREIGN TABLE longer_stream (v text) SERVER kafka OPTIONS (topic 'longer', format 'text', max_message_bytes '1000'); CREATE TABLE longer (v text)]);
create_pipeline($node, 'longer', 'longer_stream');
read_all('longer', 1);
sql(q[ALTER FOREIGN TABLE longer_stream OPTIONS (SET max_message_bytes '10000000')]);
$broker->produce('longer', lines => [ 'x' x 900_000 ]);
read_all('longer', 2);
is(sql('SELECT string_agg(length(v)::text, \' \' ORDER BY length(v)) FROM longer'), '5 900000', 'CASES 41: a message is whole, or a dead letter');

# ---- S6: the far future beside bad JSON ----

$broker->create_topic('future', 1);
$broker->produce('future', lines => ['{"v":1}']);
$broker->produce('future', lines => [ 'bad json', '{"v":2}' ], timestamp => '9223372036854775000');
$broker->produce('future', lines => [ '{"v":3}', 'bad' ], timestamp => '9224318016000000');
sql(q[CREATE FOREIGN TABLE future_stream (v int, o bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic 'future'); CREATE TABLE future (v int, o bigint)]);
create_pipeline($node, 'future', 'future_stream');
read_all('future', 5);
is(dead('future') . ' / ' . alive('future'), '1 4 / 0 2 3', 'S6: CASES 40: timestamps past the end of time stop nothing');
is(sql("SELECT count(*) FROM mill.dead_letters WHERE pipeline = 'future'"), 2, 'S6: and their letters can be read');

# ---- CASES 47: batches are bounded by the time of applying them ----

sql(q[CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_catalog.pg_sleep(0.05); RETURN new; END$$]);
flow('slow', 'int', [ map { qq({"v":$_}) } 1 .. 300 ], before => 'CREATE TRIGGER t BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION slow()');
ok(wait_for_sql($node, 'SELECT count(*) > 20 FROM slow'), 'A6: rows arrive while others wait');
ok(wait_for_state($node, 'slow', qr/^running: applying \d+ messages since/), 'A6: CASES 47: the state says what is applied, and since when');
my $start = Time::HiRes::time();
sql('ALTER TABLE slow ADD more text');
cmp_ok(Time::HiRes::time() - $start, '<', 3, 'A6: CASES 47: DDL waits a second or two, not for the batch');
$start = Time::HiRes::time();
sql("SELECT mill.pause('slow')");
my $state = state_of($node, 'slow');
like($state, qr/^pausing: finishing its batch|^paused/, 'A6: CASES 47: pausing, until it has stopped');
ok(wait_for_state($node, 'slow', qr/^paused: by mill.pause/), 'A6: and then paused');
cmp_ok(Time::HiRes::time() - $start, '<', 3, 'A6: soon');
my $rows = sql('SELECT count(*) FROM slow');
Time::HiRes::sleep(0.5);
is(sql('SELECT count(*) FROM slow'), $rows, 'A6: paused: no more rows come');

# ---- S3: CASES 51: a quiet pipeline, restarted again and again ----

flow('quiet', 'int', [ map { qq({"v":$_}) } 1 .. 1000 ]);
read_all('quiet', 1000);
foreach my $i (1 .. 100)
{
	# one transaction; the worker may be there before we ask again
	my $before = sql("BEGIN; UPDATE mill_catalog.pipeline_offset SET last_commit_at = last_commit_at - interval '100 seconds';"
		  . "UPDATE mill_catalog.pipeline SET version = version + 1 WHERE name = 'quiet'; SELECT pg_current_xact_id(); COMMIT");

	wait_for_sql($node, "SELECT xmin::text <> '$before' FROM mill_catalog.pipeline_offset WHERE pipeline_id = (SELECT id FROM mill_catalog.pipeline WHERE name = 'quiet')")
	  or die "restart $i did not come";
}
is(sql("SELECT rows_per_second FROM mill_catalog.pipeline_offset WHERE pipeline_id = (SELECT id FROM mill_catalog.pipeline WHERE name = 'quiet')"), 0,
	'S3: CASES 51: after 100 restarts of 100 seconds each the rate has decayed to 0');
is(sql("SELECT count(*) FROM mill.errors WHERE object_name = 'quiet'"), 0, 'S3: CASES 51: without an error');
$broker->produce('quiet', lines => ['{"v":1001}']);
read_all('quiet', 1001);
is(sql('SELECT count(*) FROM quiet'), 1001, 'S3: CASES 51: and it still works');

# ---- A3: CASES 44: another topic under a running pipeline ----

$broker->create_topic("moved_$_", 1) foreach 'a', 'b';
$broker->produce('moved_a', lines => ['{"id":1}']);
$broker->produce('moved_b', lines => ['{"id":100}', '{"other":101}']);
sql(q[CREATE FOREIGN TABLE moved_a (id int) SERVER kafka OPTIONS (topic 'moved_a');
	CREATE FOREIGN TABLE moved_b (id int OPTIONS (field 'other')) SERVER kafka OPTIONS (topic 'moved_b');
	CREATE VIEW moved_view AS SELECT id FROM moved_a; CREATE TABLE moved (id int)]);
create_pipeline($node, 'moved', 'moved_view');
read_all('moved', 1);
sql('CREATE OR REPLACE VIEW moved_view AS SELECT id FROM moved_b');
$broker->produce('moved_a', lines => ['{"id":2,"other":77}']);
ok(wait_for_state($node, 'moved', qr/^failed: stream "moved_b" reads topic "moved_b" now, and the offsets of pipeline "moved" are of topic "moved_a"/),
	'A3: CASES 44: the view reads another stream: the pipeline failed, naming both topics');
is(sql('SELECT string_agg(id::text, \' \') FROM moved'), '1', 'A3: not one message of the old topic came with the new columns');
is(sql("SELECT topic FROM mill.lag WHERE pipeline = 'moved'"), 'moved_a', 'A3: mill.lag names the topic of the offsets');
like(sql("SELECT hint FROM mill.errors WHERE object_name = 'moved' ORDER BY at DESC LIMIT 1"), qr/mill\.seek/, 'A3: with the way out');
sql("SELECT mill.seek('moved', 'earliest')");
ok(wait_for_sql($node, "SELECT string_agg(id::text, ' ' ORDER BY id) = '1 101' FROM moved"), 'A3: after mill.seek it reads the other topic from its beginning');
sql("ALTER FOREIGN TABLE moved_b OPTIONS (SET topic 'moved_a')");
ok(wait_for_state($node, 'moved', qr/^failed: stream "moved_b" reads topic "moved_a" now.*of topic "moved_b"/), 'A3: CASES 44: the topic option was altered: at once');
sql("ALTER FOREIGN TABLE moved_b OPTIONS (SET topic 'moved_b'); SELECT mill.resume('moved')");
ok(wait_for_state($node, 'moved', qr/^idle/), 'A3: as it was: goes on');

# ---- CASES 48: fields that no message has ----

$broker->create_topic('folded', 1);
$broker->produce('folded', lines => [ map { qq({"userId":$_,"eventTime":"2026-01-01","page":"/"}) } 1 .. 7 ]);
sql(q[CREATE FOREIGN TABLE folded_stream (userId int, event_time date, page text, optional text) SERVER kafka OPTIONS (topic 'folded'); CREATE TABLE folded (userId int, event_time date, page text, optional text)]);
create_pipeline($node, 'folded', 'folded_stream');
ok(wait_for_state($node, 'folded', qr/^idle: everything is read; field "userid" was in none of 7 messages; "userId" was; field "event_time" was in none of 7 messages; "eventTime" was$/),
	'A7: CASES 48: fields that are spelt otherwise in all messages are said');
sql(q[ALTER FOREIGN TABLE folded_stream ALTER userId OPTIONS (field 'userId'), ALTER event_time OPTIONS (field 'eventTime')]);
$broker->produce('folded', lines => [ '{"userId":8,"eventTime":"2026-01-01"}' ]);
ok(wait_for_sql($node, 'SELECT count(*) = 1 FROM folded WHERE userid = 8 AND event_time IS NOT NULL'), 'A7: and mended');
ok(wait_for_state($node, 'folded', qr/^idle: everything is read$/), 'A7: it is no longer said');
foreach my $path ('$.a', '$[0]', '/a/b', 'a.*', '$')
{
	my ($code, $out, $err) = $node->psql('postgres', "CREATE FOREIGN TABLE wrong (a int OPTIONS (field '$path')) SERVER kafka OPTIONS (topic 'folded')");

	like($err, qr/invalid value for option "field": "\Q$path\E"\n.*HINT:  Paths begin with a name and have no \$, \/ or \*/s, "A7: CASES 48: the path $path is refused, with ours in the hint");
}

# ---- CASES 49, 50 ----

$broker->create_topic('two', 2);
sql(q[CREATE FOREIGN TABLE two_stream (v int) SERVER kafka OPTIONS (topic 'two'); CREATE TABLE two (v int)]);
create_pipeline($node, 'two', 'two_stream', start => q['{"7": 0}']);
ok(wait_for_state($node, 'two', qr/^failed: topic "two" has no partition 7, which the start position names/), 'A10: CASES 49: a partition that is not there is said');
sql(q[SELECT mill.seek('two', '{"0": 995}')]);
ok(wait_for_state($node, 'two', qr/^failed: topic "two", partition 0 ends at offset 0, before offset 995 of the start position/), 'A10: CASES 49: past the end is said');
is(sql("SELECT coalesce(sum(offsets_skipped), 0) FROM mill.lag WHERE pipeline = 'two'"), 0, 'A10: CASES 49: nothing is counted as skipped that was not there');

flow('target', 'int', ['{"v":1}']);
read_all('target', 1);
ok(wait_for_state($node, 'target', qr/^idle/), 'a pipeline that is idle');
sql('ALTER TABLE target DROP v');
ok(wait_for_state($node, 'target', qr/^failed: the columns of "target_stream" do not fit into "target"/), 'CASES 50: a column of the target dropped: at once');
sql('DROP TABLE target');
ok(wait_for_state($node, 'target', qr/^failed: the target of pipeline "target" no longer exists; name another one: mill.alter_pipeline\('target', target => \.\.\.\)/),
	'CASES 50: the target dropped: at once, with the way out');
my ($code, $out, $err) = $node->psql('postgres', "SELECT mill.retry_dead_letters('target')");
like($err, qr/the target of pipeline "target" no longer exists\n.*HINT: .*mill\.alter_pipeline/s, 'CASES 50: the same words elsewhere');
$broker->produce('target', lines => ['{"v":2}']);
sql(q[CREATE TABLE other (v int, o bigint); SELECT mill.alter_pipeline('target', target => 'other')]);
read_all('target', 2);
is(alive('other'), '1', 'CASES 50: alter_pipeline(target => ...) goes on from the offsets');

my %lost = (
	'ALTER ROLE guarded NOLOGIN' => [ 'ALTER ROLE guarded LOGIN', qr/^failed: the owner may not log in: ALTER ROLE guarded LOGIN/ ],
	"ALTER ROLE guarded VALID UNTIL '2020-01-01'" => [ "ALTER ROLE guarded VALID UNTIL 'infinity'", qr/^failed: the owner's account has expired/ ],
	'REVOKE mill_user FROM guarded' => [ 'GRANT mill_user TO guarded', qr/^failed: the owner is no member of mill_user any more: GRANT mill_user TO guarded/ ],
	'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC' => [ 'GRANT CONNECT ON DATABASE postgres TO PUBLIC', qr/^failed: the owner may not connect: GRANT CONNECT/ ]);
foreach my $loss (sort keys %lost)
{
	my ($cure, $reason) = @{ $lost{$loss} };

	sql($loss);
	ok(wait_for_state($node, 'rls', $reason), "S22: CASES 50: $loss: a reason in words");
	ok(wait_for_sql($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pg_mill pipeline rls'"), "S22: $loss: its worker is gone");
	sql($cure);
	ok(wait_for_state($node, 'rls', qr/^(idle|running)/), "S22: $cure: goes on");
}

ok(wait_for_sql($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'pg_mill pipeline rls' AND query ~ 'pipeline rls|looking for changes'"),
	'pg_stat_activity names kind and object');

# S21: PostgreSQL knows of the owner
($code, $out, $err) = $node->psql('postgres', 'DROP ROLE guarded');
like($err, qr/role "guarded" cannot be dropped because some objects depend on it.*owner of type mill_data\.pipeline_\d+/s, 'S21: DROP ROLE is refused while he owns a pipeline');
sql(q[CREATE ROLE heir LOGIN IN ROLE mill_user; GRANT USAGE ON FOREIGN SERVER kafka TO heir; REASSIGN OWNED BY guarded TO heir]);
ok(wait_for_sql($node, "SELECT owner = 'heir'::regrole FROM mill.pipelines WHERE pipeline = 'rls'"), 'S21: REASSIGN OWNED gives the pipeline to the heir');
$broker->produce('rls', lines => ['{"v":5}']);
read_all('rls', 4);
is(alive('g.t'), '0 2 3', 'S21: and it goes on');
sql('REVOKE USAGE ON FOREIGN SERVER kafka FROM guarded; DROP ROLE guarded; DROP OWNED BY heir CASCADE; DROP ROLE heir');
is(sql("SELECT count(*) FROM mill.pipelines WHERE pipeline = 'rls'"), 0, 'S21: DROP OWNED drops it');
ok(wait_for_sql($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pg_mill pipeline rls'"), 'S21: with its worker');

# ---- CASES 42: a late letter undoes nothing newer ----

$broker->create_topic('late', 1);
sql(q[CREATE FOREIGN TABLE late_stream (k int OPTIONS (metadata 'key'), v int, o bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic 'late');
	CREATE TABLE late (k int PRIMARY KEY, v int CHECK (v < 100), o bigint)]);
create_pipeline($node, 'late', 'late_stream', mode => "'upsert'");
sub keyed { $broker->produce('late', fields => [ map { [ 0, $_->[0], '', defined $_->[1] ? qq({"v":$_->[1]}) : undef ] } @_ ]); }
my $read = 0;
sub step { keyed(@_); $read += @_; read_all('late', $read); }
step([ 1, 1 ], [ 2, 2 ], [ 3, 3 ], [ 4, 4 ]);	# 0-3: rows
step([ 1, 101 ], [ 2, 102 ], [ 3, 103 ], [ 5, 105 ]);	# 4-7: letters, of 1, 2, 3, and a key that is not there
step([ 2, 22 ]);	# 8: newer than its letter
is(dead('late'), '4 5 6 7', 'CASES 42: letters of an upsert');
sql('ALTER TABLE late DROP CONSTRAINT late_v_check');
is(sql("SELECT mill.retry_dead_letters('late')"), 3, 'CASES 42: retried: those whose rows are older, or were never there');
is(sql("SELECT string_agg(k || '=' || v, ' ' ORDER BY k) FROM late"), '1=101 2=22 3=103 4=4 5=105', 'CASES 42: no older value over a newer one');
is(dead('late'), '5', 'CASES 42: the other stays');
like(sql("SELECT message || ' ' || hint FROM mill.dead_letters WHERE pipeline = 'late'"), qr/the message is late: a row with its key was written since.*force => true/,
	'CASES 42: and says why, and what to do');
sql('ALTER TABLE late ADD CHECK (v < 1000)');
step([ 3, 1003 ], [ 6, 1006 ], [ 4, 1004 ]);	# 9-11: letters
step([ 3, undef ], [ 7, 7 ]);	# 12: a delete since
sql('ALTER TABLE late DROP CONSTRAINT late_v_check');
is(sql("SELECT mill.retry_dead_letters('late')"), 1, 'CASES 42: keys that may have been deleted since are not brought back');
is(sql("SELECT string_agg(k || '=' || v, ' ' ORDER BY k) FROM late"), '1=101 2=22 4=1004 5=105 7=7', 'CASES 42: nor is one that was');
is(dead('late'), '5 9 10', 'CASES 42: their letters stay');
is(sql("SELECT mill.retry_dead_letters('late', force => true)"), 3, 'CASES 42: unless forced');
is(sql("SELECT string_agg(k || '=' || v, ' ' ORDER BY k) FROM late"), '1=101 2=102 3=1003 4=1004 5=105 6=1006 7=7', 'CASES 42: forced: as the letters say');

sql('ALTER TABLE late ADD CHECK (v < 2000)');
step([ 8, 8 ]);
step([ 8, 2008 ]);
sql('ALTER TABLE late DROP CONSTRAINT late_v_check');
is(sql("BEGIN; UPDATE late SET v = 88 WHERE k = 8; SELECT mill.retry_dead_letters('late'); COMMIT"), 0, 'CASES 42: what the caller wrote before is newer, too');
is(sql('SELECT v FROM late WHERE k = 8'), 88, 'CASES 42: and stays');

# tombstones as letters: the trap of a key that is taken from the value
$broker->create_topic('trap', 1);
sql(q[CREATE FOREIGN TABLE trap_stream (k int OPTIONS (field 'id'), v int) SERVER kafka OPTIONS (topic 'trap'); CREATE TABLE trap (k int PRIMARY KEY, v int)]);
create_pipeline($node, 'trap', 'trap_stream', mode => "'upsert'");
$broker->produce('trap', fields => [ [ 0, 1, '', '{"id":1,"v":1}' ], [ 0, 1, '', undef ], [ 0, 1, '', '{"id":1,"v":2}' ], [ 0, 2, '', '{"id":2,"v":1}' ], [ 0, 2, '', undef ] ]);
read_all('trap', 5);
$broker->produce('trap', fields => [ [ 0, 1, '', '{"id":1,"v":3}' ] ]);
read_all('trap', 6);
like(sql("SELECT DISTINCT hint FROM mill.dead_letters WHERE pipeline = 'trap'"), qr/^The message is a tombstone.*metadata 'key'/, 'CASES 42: the letters say where the key must come from');
sql(q[ALTER FOREIGN TABLE trap_stream ALTER k OPTIONS (DROP field, ADD metadata 'key')]);
is(sql("SELECT mill.retry_dead_letters('trap')"), 0, 'CASES 42: a late delete over a row of its own batch, or a newer one, is not made');
is(sql("SELECT string_agg(k || '=' || v, ' ' ORDER BY k) FROM trap"), '1=3 2=1', 'CASES 42: the newer rows are there');

is(sql("SELECT string_agg(DISTINCT object_name, ' ') FROM mill.errors WHERE sqlstate IN ('XX000', '22003')"), '', 'no internal error was met');
$node->stop('fast');
done_testing();
