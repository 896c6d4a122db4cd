# Room: all.
#
# Nobody gains: what a role wrote is run as that role or not at all, whoever calls
# which function of ours, gives a command that our event triggers follow, or writes to
# a table with an aggregate. Everything hostile reports in the server's log as whom it ran.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

$MillTest::deadline = 45;
my $broker = MillTest::MockBroker->start;
my $node = new_cluster('hostile', conf => "mill.workers_max = 20\nmax_worker_processes = 40\nlog_line_prefix = ''\n");
create_server($node, $broker);
my $super = $node->safe_psql('postgres', 'SELECT current_user');

sub sql { return $node->safe_psql('postgres', join('', @_)); }

# Runs a statement as a role, whatever comes of it; returns what it said.
sub run_as
{
	my ($role, $sql) = @_;
	my ($out, $err) = ('', '');
	my $set = $role eq $super ? '' : "SET ROLE $role;";

	$node->psql('postgres', "SET statement_timeout = '20s'; $set $sql", stdout => \$out, stderr => \$err);
	return "$out$err";
}

# Reports since the last call: those that ran as somebody else than their author.
my $seen = 0;
my %ran;

sub leaks
{
	my $log = slurp_file($node->logfile, $seen);
	my %leaks;

	$seen = -s $node->logfile;
	while ($log =~ /LOG:  SPY (\S+) as (\S+)/g)
	{
		$ran{$1}++;
		$leaks{"$1 as $2"}++ if $2 ne 'att';
	}
	return join(', ', sort keys %leaks);
}

# ---- the attacker: every place where code of his may hide ----

$broker->create_topic('hostile', 1);
$broker->produce('hostile', lines => [ '{"k":1}', '{"k":2}', '{"k":"bad"}', '{"k":3,"d":4}' ]);
sql(qq[
	CREATE ROLE att LOGIN IN ROLE mill_user; CREATE ROLE nob LOGIN; CREATE ROLE vic LOGIN IN ROLE mill_user;
	CREATE SCHEMA at AUTHORIZATION att; CREATE SCHEMA su; CREATE SCHEMA vi AUTHORIZATION vic;
	GRANT USAGE ON FOREIGN SERVER kafka TO att, vic;
	CREATE TABLE su.t (ts timestamptz, k int); INSERT INTO su.t SELECT '2026-01-01', 1 FROM generate_series(1, 100);
	CREATE VIEW su.v AS SELECT window_start, k, count(*) AS n FROM su.t, mill.tumble(ts, '1 hour') GROUP BY 1, 2;
	SELECT mill.materialize('su.v');]);
my $hostile = q[
	GRANT USAGE ON SCHEMA at TO PUBLIC;
	CREATE FUNCTION at.spy(tag text) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE LOG 'SPY % as %', tag, current_user; END$$;
	CREATE FUNCTION at.imm_interval() RETURNS interval LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM at.spy('window'); RETURN '1 hour'; END$$;
	CREATE FUNCTION at.imm(tag text, i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM at.spy(tag); PERFORM set_config('search_path', 'at, pg_catalog', false); RETURN i; END$$;
	CREATE FUNCTION at.cmp(a int, b int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM at.spy('operator'); RETURN a = b; END$$;
	CREATE OPERATOR at.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = at.cmp);
	CREATE TYPE at.pair AS (a int);
	CREATE FUNCTION at.to_pair(i int) RETURNS at.pair LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM at.spy('cast'); RETURN ROW(i)::at.pair; END$$;
	CREATE CAST (int AS at.pair) WITH FUNCTION at.to_pair(int);
	CREATE FUNCTION at.default_value() RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM at.spy('default'); RETURN 7; END$$;
	CREATE FUNCTION at.default_imm() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM at.spy('default_imm'); RETURN 7; END$$;
	CREATE FUNCTION at.trig() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM at.spy('trigger'); RETURN new; END$$;
	CREATE FUNCTION at.step(s int, i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM at.spy('step'); RETURN coalesce(s, 0) + i; END$$;
	CREATE FUNCTION at.comb(s int, i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM at.spy('combine'); RETURN coalesce(s, 0) + i; END$$;
	CREATE FUNCTION at.final(s int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM at.spy('final'); RETURN s; END$$;
	CREATE AGGREGATE at.total(int) (SFUNC = at.step, STYPE = int, COMBINEFUNC = at.comb, FINALFUNC = at.final);

	CREATE TABLE at.c (ts timestamptz, k int) PARTITION BY LIST (k);
	CREATE TABLE at.c1 PARTITION OF at.c FOR VALUES IN (1); CREATE TABLE at.c2 PARTITION OF at.c FOR VALUES IN (2);
	INSERT INTO at.c VALUES ('2026-01-01', 1), ('2026-01-02', 2);
	CREATE VIEW at.v AS SELECT window_start, at.imm('key', k) AS key, count(*) AS n, at.total(at.imm('argument', k)) AS t, sum(((k)::at.pair).a) AS s
		FROM at.c, mill.tumble(ts, at.imm_interval()) WHERE k OPERATOR(at.===) k AND at.imm('where', 3) = 3 GROUP BY 1, 2;
	CREATE VIEW at.v2 AS SELECT window_start, at.imm('key', k) AS key, count(*) AS n, at.total(at.imm('argument', k)) AS t, max(k) AS m
		FROM at.c, mill.hop(ts, at.imm_interval(), '2 hours') GROUP BY 1, 2;

	CREATE FOREIGN TABLE at.s (k int, d int DEFAULT at.default_value(), e int DEFAULT at.default_imm()) SERVER kafka OPTIONS (topic 'hostile', on_error 'skip');
	CREATE VIEW at.sv AS SELECT at.imm('stream', k) AS k, d FROM at.s WHERE at.imm('stream_where', 3) = 3;
	CREATE TABLE at.t (k int CHECK (at.imm('check', k) = k), d int, x int DEFAULT at.default_value());
	CREATE TRIGGER t BEFORE INSERT ON at.t FOR EACH ROW EXECUTE FUNCTION at.trig();
	SELECT mill.create_pipeline('att', 'at.sv', 'at.t', on_error => 'dead_letter', max_errors => 100000);
	CREATE TABLE at.u (k int PRIMARY KEY, d int);
	CREATE TRIGGER t BEFORE INSERT ON at.u FOR EACH ROW EXECUTE FUNCTION at.trig();
	CREATE DOMAIN at.dom AS int CHECK (at.imm('domain', VALUE) = VALUE); GRANT USAGE ON TYPE at.dom TO PUBLIC;
	SELECT mill.create_job('att_job', '@daily', $$SELECT at.spy('job'), '{1}'::at.dom[]$$, checks => '{"c": "SELECT 1 WHERE at.imm(''job_check'', 1) = 2"}');
	GRANT ALL ON ALL TABLES IN SCHEMA at TO PUBLIC;];
is(run_as('att', $hostile), "1\n1", 'the attacker has set up what he wants');
# what the superuser owns, and other people's objects behind it
sql(q[CREATE TABLE su.p (k int, d int) PARTITION BY LIST (k); CREATE VIEW su.behind AS SELECT k, d FROM at.u; CREATE FOREIGN TABLE su.s (k int, d int) SERVER kafka OPTIONS (topic 'hostile');
	CREATE TABLE su.plain (k int, d int); ALTER TABLE su.plain OWNER TO vic; CREATE TABLE su.own (k int, d int)]);
run_as('att', 'CREATE TABLE at.part (k int, d int); CREATE TRIGGER t BEFORE INSERT ON at.part FOR EACH ROW EXECUTE FUNCTION at.trig()');
sql('ALTER TABLE su.p ATTACH PARTITION at.part DEFAULT');
ok(wait_for_sql($node, "SELECT count(*) = 1 FROM mill.dead_letters WHERE pipeline = 'att'"), 'his pipeline has a dead letter');
is(leaks(), '', 'S4: his pipeline and his views run as himself');

# ---- every function of mill, called by a superuser and by another role ----

# Each call may succeed or fail; each function of the catalog must be here.
my %calls = (
	'mill.materialize(regclass,boolean,boolean,interval)' => [ q[SELECT mill.materialize('at.v')], q[SELECT mill.materialize('at.v2')] ],
	'mill.definition(regclass)' => [q[SELECT mill.definition('at.v')]],
	'mill.explain_aggregate(regclass)' => [q[SELECT * FROM mill.explain_aggregate('at.v')]],
	'mill.verify(regclass)' => [q[SELECT * FROM mill.verify('at.v')]],
	'mill.fold(regclass)' => [ q[INSERT INTO at.c VALUES ('2026-01-03', 1); SELECT mill.fold('at.v')], q[UPDATE at.c SET ts = ts + interval '1 day'; SELECT mill.fold('at.v2')] ],
	'mill.refresh(regclass)' => [ q[SELECT mill.refresh('at.v')], q[SELECT mill.refresh('at.v2')] ],
	'mill.refresh(regclass,text,text)' => [q[SELECT mill.refresh('at.v', '2026-01-01'::text, NULL::text)]],
	'mill.refresh(regclass,timestamp with time zone,timestamp with time zone)' => [q[SELECT mill.refresh('at.v', '2026-01-01'::timestamptz, '2026-01-05')]],
	'mill.refresh(regclass,bigint,bigint)' => [q[SELECT mill.refresh('at.v', 1::bigint, 2)]],
	'mill.is_live(regclass)' => [q[SELECT mill.is_live((SELECT state_table FROM mill.aggregates LIMIT 1))]],
	'mill.maintain_aggregates()' => [q[SELECT mill.maintain_aggregates()]],
	'mill.replace_aggregate(regclass,regclass)' => [q[SELECT mill.replace_aggregate('at.v', 'at.v2')]],
	'mill.retain(regclass,interval)' => [q[SELECT mill.retain('at.v')]],
	'mill.drop_history(regclass)' => [q[SELECT mill.drop_history('at.v')]],
	'mill.dematerialize(regclass)' => [ q[SELECT mill.dematerialize('at.v')], q[SELECT mill.materialize('at.v')] ],
	'mill.partial_state(regprocedure,VARIADIC "any")' => [q[SELECT mill.partial_state('pg_catalog.sum(int4)', 1)]],
	'mill.create_pipeline(text,regclass,regclass,text,regclass,text,text,integer,text,integer,integer,integer,interval,boolean)' => [
		q[SELECT mill.create_pipeline('x1', 'at.sv', 'at.t')], q[SELECT mill.create_pipeline('x2', 'at.sv', 'su.own')],
		q[SELECT mill.create_pipeline('x3', 'su.s', 'su.behind')], q[SELECT mill.create_pipeline('x4', 'su.s', 'su.p')],
		q[SELECT mill.create_pipeline('x5', 'su.s', 'at.u', mode => 'upsert')] ],
	'mill.alter_pipeline(text,text,text,integer,text,integer,integer,integer,interval,text,regclass,regclass)' => [
		q[SELECT mill.alter_pipeline('att', source => 'at.sv', target => 'at.t')], q[SELECT mill.alter_pipeline('att', batch_rows => 100)] ],
	'mill.pause(text,text)' => [ q[SELECT mill.pause('att')], q[SELECT mill.pause('att_job')] ],
	'mill.resume(text,text)' => [ q[SELECT mill.resume('att')], q[SELECT mill.resume(job => 'att_job')] ],
	'mill.create_job(text,text,text,text,timestamp with time zone,text,text,integer,integer,interval,double precision,interval,interval,integer,text,text,text,integer,interval,text,jsonb,jsonb,boolean)' => [
		q[BEGIN; SELECT mill.create_job('x6', command => 'SELECT 1'); ROLLBACK]],
	'mill.alter_job(text,text,text,text,timestamp with time zone,text,text,integer,integer,interval,double precision,interval,interval,integer,text,text,text,integer,interval)' => [
		q[SELECT mill.alter_job('att_job', retries => 1)]],
	'mill.drop_job(text)' => [q[BEGIN; SELECT mill.drop_job('att_job'); ROLLBACK]],
	'mill.add_step(text,text,text,text[],text,text,jsonb,jsonb,interval,integer)' => [
		q[BEGIN; SELECT mill.add_step('att_job', 'more', $$SELECT '{1}'::at.dom[]$$, checks => '{"c": "SELECT ''{1}''::at.dom[]"}'); ROLLBACK]],
	'mill.alter_step(text,text,text,text,text[],text,text,jsonb,jsonb,interval,integer)' => [ q[SELECT mill.alter_step('att_job', 'main', retries => 2)] ],
	'mill.drop_step(text,text)' => [q[BEGIN; SELECT mill.drop_step('att_job', 'main'); ROLLBACK]],
	'mill.run_after(text,text)' => [q[SELECT mill.run_after('att_job', NULL)]],
	'mill.run_now(text,timestamp with time zone,timestamp with time zone)' => [ q[SELECT mill.run_now('att_job')], q[SELECT mill.run_now('att_job', '2026-01-01', '2026-01-02')] ],
	'mill.backfill(text,timestamp with time zone,timestamp with time zone,text,integer,boolean)' => [q[SELECT mill.backfill('att_job', '2026-01-01', '2026-01-03')]],
	'mill.replace_interval(regclass,name,text,timestamp with time zone,timestamp with time zone)' => [
		q[SELECT mill.replace_interval('at.t', 'k', 'SELECT 1 AS k', '2026-01-01', '2026-01-02')], q[SELECT mill.replace_interval('at.c', 'ts', 'SELECT $1 AS ts, 1 AS k', '2026-01-01', '2026-01-02')] ],
	'mill.upsert(regclass,text,text[],timestamp with time zone,timestamp with time zone)' => [ q[SELECT mill.upsert('at.u', 'SELECT 1 AS k, 2 AS d')] ],
	'mill.load_files(regclass,text,text,text[],text,text,integer)' => [q[CALL mill.load_files('at.t', '/etc/hostname', 'text', '{k}')]],
	'mill.export(text,text,text,name,text,timestamp with time zone,timestamp with time zone)' => [q[SELECT mill.export('SELECT 1', '/tmp/never')  WHERE false]],
	'mill.retry(bigint)' => [q[SELECT mill.retry(1)]],
	'mill.cancel(bigint)' => [q[SELECT mill.cancel(1)]],
	'mill.skip(bigint)' => [q[SELECT mill.skip(1)]],
	'mill.seek(text,text)' => [q[SELECT mill.seek('att', 'earliest')]],
	'mill.wait_for(text,integer,bigint,interval)' => [q[SELECT mill.wait_for('att', 0, 0, '1 second')]],
	'mill.retry_dead_letters(text,boolean)' => [ q[SELECT mill.retry_dead_letters('att')], q[SELECT mill.retry_dead_letters('att', force => true)] ],
	'mill.delete_dead_letters(text,bigint)' => [q[SELECT mill.delete_dead_letters('att', 0)]],
	'mill.drop_pipeline(text)' => [q[BEGIN; SELECT mill.drop_pipeline('att'); ROLLBACK]],
	'mill.arm(boolean)' => [q[SELECT mill.arm()]],
	'mill.kafka_handler()' => [q[SELECT mill.kafka_handler()]],
	'mill.kafka_validator(text[],oid)' => [q[SELECT mill.kafka_validator('{}', 0)]],
	'mill.key_hash("any")' => [q[SELECT mill.key_hash(ROW(1)::at.pair)]],
	'mill.key_hash(VARIADIC "any")' => [q[SELECT mill.key_hash(1, 'a'::text)]]);
# pure functions of time, and those that take stored states: nothing in them is anybody's
my $pure = qr/^mill\.(next_runs|tumble|hop|window_start|window_end|session_start|session_end|final_state|combine_state|finite_part|special_part|scale_part|sum_of_parts)\(/;

my @functions = split /\n/, sql("SET search_path = pg_catalog; SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'mill'::regnamespace AND prokind <> 'a' ORDER BY 1");
sql('SET search_path = pg_catalog');
foreach my $function (@functions)
{
	(my $name = $function) =~ s/^(?!mill\.)/mill./;

	next if $name =~ $pure;
	# regprocedure does not say VARIADIC
	my ($key) = grep { (my $k = $_) =~ s/VARIADIC //; $k eq $name } keys %calls;
	ok($key, "S4: CASES 54: the table of this test has $name") or next;
	foreach my $role ($super, 'nob', 'vic')
	{
		# who makes a pipeline of another one's view, or writes into his table, means to run it
		next if $role eq 'vic' && $name =~ /create_pipeline/ || $role ne $super && $name =~ /replace_interval|upsert/;
		my $answers = join('', map { run_as($role, "$_;") } @{ $calls{$key} });

		is(leaks(), '', "S4, S5: CASES 54: $name, called by " . ($role eq $super ? 'a superuser' : $role)) or diag($answers);
	}
}
foreach my $what ('window', 'key', 'argument', 'where', 'operator', 'cast', 'step', 'combine', 'final', 'stream', 'stream_where', 'default', 'trigger', 'check', 'domain', 'job', 'job_check')
{
	cmp_ok($ran{$what} // 0, '>', 0, "the attack by his $what was made");
}

# ---- reading a stream: his defaults (S19) ----

like(run_as($super, 'SELECT k, d, e FROM at.s ORDER BY 1'), qr/^1\|7\|7$/m, 'S19: a stream of his is read, with its defaults');
is(leaks(), '', 'S19: CASES 54: a stream\'s defaults, read by a superuser');
run_as('nob', 'SELECT * FROM at.s');
is(leaks(), '', 'S19: read by another role');

# ---- writers, event triggers ----

my @commands = (
	q[INSERT INTO at.c VALUES ('2026-02-01', 1), ('2026-02-01', 2)], q[INSERT INTO at.c1 VALUES ('2026-02-01', 1)],
	q[UPDATE at.c SET ts = ts + interval '1 hour'], q[UPDATE at.c SET k = 3 - k], q[DELETE FROM at.c WHERE k = 2],
	q[MERGE INTO at.c USING (VALUES (1)) x(i) ON c.k = x.i WHEN MATCHED THEN UPDATE SET ts = ts + interval '1 day'],
	q[COPY at.c FROM PROGRAM 'echo 2026-03-01,1' (FORMAT csv)], q[TRUNCATE at.c1], q[CREATE TABLE at.c3 PARTITION OF at.c FOR VALUES IN (3)],
	q[INSERT INTO at.c VALUES ('2026-02-01', 3)], q[ALTER TABLE at.c DETACH PARTITION at.c3], q[ALTER TABLE at.c ATTACH PARTITION at.c3 FOR VALUES IN (3)],
	q[DROP TABLE at.c3], q[ALTER TABLE at.c ADD COLUMN note text], q[CREATE TEMP TABLE x (a int)], q[CREATE TABLE su.other (a int)],
	q[ALTER TABLE su.t ADD COLUMN note text], q[ALTER VIEW at.v RENAME COLUMN n TO m], q[ALTER VIEW at.v RENAME COLUMN m TO n],
	q[SELECT * FROM mill.pipelines, mill.lag, mill.aggregates, mill.errors, mill.workers, mill.dead_letters], q[SELECT * FROM mill.jobs, mill.job_steps, mill.job_runs, mill.step_runs, mill.attempts, mill.backfills, mill.events, mill.files, mill.rejected_rows], q[TRUNCATE at.c]);
sql('GRANT CREATE ON SCHEMA su TO nob');
foreach my $command (@commands)
{
	foreach my $role ($super, 'nob')
	{
		my $answer = run_as($role, "$command;");

		is(leaks(), '', "S4: CASES 54: by $role: $command") or diag($answer);
	}
}
is(run_as($super, q[SET search_path = pg_catalog, pg_temp; INSERT INTO at.c VALUES ('2026-02-01', 1); SHOW search_path]), 'pg_catalog, pg_temp',
	'S18: what an aggregate\'s function sets does not outlive it');
is(sql(q[SELECT count(*) FROM mill.verify('su.v')]), 0, 'the superuser\'s aggregate is what its query gives');
is(sql(q[SELECT count(*) FROM mill.verify('at.v')]), 0, 'and so is the attacker\'s');
run_as($super, 'DROP VIEW at.v2 CASCADE');
is(leaks(), '', 'S4: DROP VIEW by a superuser');

# ---- S1: forged triggers ----

like(run_as('att', q[CREATE VIEW at.evil AS SELECT now() AS ts, at.imm('forged', 1) AS k;
	CREATE TRIGGER mill_insert AFTER INSERT ON at.evil FOR EACH STATEMENT EXECUTE FUNCTION mill.maintain_aggregates();]),
	qr/permission denied for function (mill\.)?maintain_aggregates/, 'S1: nobody makes a trigger of our function');
run_as('att', q[CREATE TABLE at.junk (ts timestamptz, k int); INSERT INTO at.junk VALUES ('2026-01-01', 1);
	CREATE TRIGGER mill_insert AFTER INSERT ON at.junk FOR EACH ROW EXECUTE FUNCTION at.trig(); GRANT SELECT ON at.junk, at.evil TO PUBLIC;]);
sql('ALTER TABLE su.t ADD COLUMN more text');
is(leaks(), '', 'S1: CASES 54: ALTER TABLE runs nobody\'s view');
is(sql(q[SELECT count(*) FROM mill.verify('su.v')]), 0, 'S1: CASES 56: nobody\'s trigger changes an aggregate');

# ---- S8, S9: other people's DDL ----

run_as('att', q[CREATE TABLE at.d (ts timestamptz, k int); CREATE VIEW at.dv AS SELECT k, count(*) FROM at.d GROUP BY 1; SELECT mill.materialize('at.dv');
	CREATE FOREIGN TABLE at.fd (ts timestamptz, k int) SERVER kafka OPTIONS (topic 'hostile');]);
like(run_as('att', 'ALTER FOREIGN TABLE at.fd INHERIT at.d'), qr/do not support the table "d" with children/, 'S8: what makes his own aggregate unfit is refused');
is(run_as('nob', 'CREATE TEMP TABLE x (a int)'), '', 'S8: CASES 56: others create tables');
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE at.d IN ACCESS EXCLUSIVE MODE');
is(run_as('nob', q[SET lock_timeout = '1s'; CREATE TEMP TABLE x (a int); CREATE TEMP VIEW y AS SELECT 1; ALTER TABLE x ADD b int; DROP TABLE x]), '',
	'S9: CASES 56: and wait for nobody\'s lock');
like(run_as($super, q[SET lock_timeout = '1s'; ALTER TABLE su.t ADD COLUMN still_more text; CREATE TABLE su.third (a int)]), qr/^$/, 'S9: nor does a superuser');
$holder->query_safe('COMMIT');
$holder->quit;

like(run_as('att', q[CREATE TABLE at.p (k int, v int) PARTITION BY LIST (k);
	CREATE TABLE at.q (k int, v int); CREATE VIEW at.qv AS SELECT k, count(*) FROM at.q GROUP BY 1; SELECT mill.materialize('at.qv'); ALTER TABLE at.p ATTACH PARTITION at.q FOR VALUES IN (1)]),
	qr/do not support the partition "q" as base table|trigger "mill_\w+" prevents table "q" from becoming a partition/, 'a table with aggregates of its own does not become a partition');

# ---- S10: a superuser's pipeline ----

foreach my $try ([ 'su.p', 'a partition of another role' ], [ 'su.behind', 'a table of another role behind a view' ], [ 'su.plain', 'a table of another role' ])
{
	my ($target, $what) = @$try;

	like(run_as($super, "SELECT mill.create_pipeline('s', 'su.s', '$target')"), qr/a superuser's pipeline cannot write into/, "S10: CASES 54: $what is refused");
}
# what a rule or a trigger on his own table leads to
run_as($super, q[CREATE TABLE su.ruled (k int, d int); CREATE RULE r AS ON INSERT TO su.ruled DO ALSO INSERT INTO at.u VALUES (new.k, new.d);
	CREATE VIEW su.instead AS SELECT k, d FROM su.ruled; CREATE RULE r AS ON INSERT TO su.instead DO INSTEAD INSERT INTO at.u VALUES (new.k, new.d);
	CREATE TABLE su.reading (k int, d int); CREATE RULE r AS ON INSERT TO su.reading DO ALSO INSERT INTO su.ruled SELECT k, d FROM at.sv;
	CREATE TABLE su.lent (k int, d int); GRANT TRIGGER ON su.lent TO att; GRANT USAGE ON SCHEMA su TO att]);
run_as('att', 'CREATE TRIGGER t BEFORE INSERT ON su.lent FOR EACH ROW EXECUTE FUNCTION at.trig()');
foreach my $try ([ 'su.ruled', 'write into "u"', 'a rule that inserts besides' ], [ 'su.instead', 'write into "u"', 'a rule that inserts instead' ],
	[ 'su.reading', 'write into "u"|read "sv"', 'a rule that reads' ], [ 'su.lent', 'write into "lent", whose trigger "t" calls another role\'s function', 'a trigger' ])
{
	my ($target, $told, $what) = @$try;

	like(run_as($super, "SELECT mill.create_pipeline('s', 'su.s', '$target')"), qr/a superuser's pipeline cannot (?:$told)/, "S10: CASES 54: $what of another role is refused");
}
like(run_as($super, q[SELECT mill.create_pipeline('s', 'at.sv', 'su.own')]), qr/a superuser's pipeline cannot read "sv", which belongs to another role/, 'S10: a view of another role is refused');
is(run_as($super, q[SELECT mill.create_pipeline('s', 'su.s', 'su.own') > 0]), 't', 'S10: his own table is not');
ok(wait_for_sql($node, 'SELECT count(*) = 3 FROM su.own'), 'S10: and is written to');
run_as($super, 'GRANT CREATE ON SCHEMA su TO att; ALTER TABLE su.own OWNER TO att');
run_as('att', 'CREATE TRIGGER t BEFORE INSERT ON su.own FOR EACH ROW EXECUTE FUNCTION at.trig()');
$broker->produce('hostile', lines => ['{"k":9}']);
ok(wait_for_state($node, 's', qr/^failed: a superuser's pipeline cannot write into "own"/), 'S10: given away while it runs: not one batch more');
is(leaks(), '', 'S10: CASES 54: no trigger of the new owner ran as superuser');

run_as($super, q[CREATE VIEW su.rv AS SELECT k, d FROM su.s; CREATE TABLE su.rt (k int, d int); SELECT mill.create_pipeline('r', 'su.rv', 'su.rt')]);
ok(wait_for_sql($node, "SELECT count(*) = 1 FROM mill.dead_letters WHERE pipeline = 'r'"), 'S5: a superuser\'s pipeline with a dead letter');
run_as($super, q[SELECT mill.pause('r'); GRANT USAGE ON SCHEMA su TO att; ALTER VIEW su.rv OWNER TO att]);
run_as('att', q[CREATE OR REPLACE VIEW su.rv AS SELECT at.imm('stream', k) AS k, d FROM su.s WHERE at.imm('stream_where', 3) = 3]);
like(run_as($super, q[SELECT mill.retry_dead_letters('r')]), qr/a superuser's pipeline cannot read "rv", which belongs to another role/, 'S5: its view was given away: letters are not tried again');
is(leaks(), '', 'S5: CASES 54: and nothing of the view is planned as superuser');

is(sql('SELECT string_agg(rolname, \' \') FROM pg_roles WHERE rolsuper'), $super, 'nobody became a superuser');
$node->stop('fast');
done_testing();
