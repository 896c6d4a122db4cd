# Room: write.
#
# What becomes of a batch in the target: the same as of its rows in so many
# INSERTs. Each case goes through both writers. The oracle is Postgres: a
# PL/pgSQL loop inserts message after message into a twin of the target and notes
# what it refuses, with the SQLSTATE.

use strict;
use warnings;

use Digest::MD5 qw(md5_hex);
use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

$MillTest::deadline = 30;
my $broker = MillTest::MockBroker->start;
my $node = new_cluster('writer', conf => "mill.workers_max = 40\nmax_worker_processes = 60\n");
create_server($node, $broker);

sub sql { return $node->safe_psql('postgres', join('', @_)); }

# Loops over messages (no, body jsonb): INSERT what is asked for each, keep what
# is refused in a table of (no, sqlstate).
sql(q[
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE point2 AS (x int, "Y y" text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN filled AS text NOT NULL DEFAULT 'empty';
CREATE TABLE parent (id int PRIMARY KEY);
INSERT INTO parent SELECT generate_series(1, 50);
CREATE FUNCTION oracle(messages text, target text, columns text, types text, bad text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE m record; state text;
BEGIN
	FOR m IN EXECUTE format('SELECT no, body FROM %s ORDER BY no', messages) LOOP
		BEGIN
			EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM jsonb_to_record($1) AS r (%s)', target, columns, columns, types) USING m.body;
			SET CONSTRAINTS ALL IMMEDIATE;
		EXCEPTION WHEN OTHERS OR assert_failure THEN
			GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE;
			EXECUTE format('INSERT INTO %s VALUES ($1, $2)', bad) USING m.no, state;
		END;
	END LOOP;
END$$;
]);

# Each case: the stream's columns, the target's DDL with %s for its name, and the
# messages; bulk => 0 where the bulk writer leaves the target to the executor;
# compare: an expression over the target to compare by, instead of the whole row.
my @cases = (
	{
		name => 'NOT NULL', columns => 'id int, v text', ddl => 'CREATE TABLE %s (id int NOT NULL, v text NOT NULL)',
		messages => [ '{"id":1,"v":"a"}', '{"id":null,"v":"b"}', '{"v":"c"}', '{"id":4,"v":null}', '{"id":5,"v":""}' ],
		bad => 3
	},
	{
		name => 'CHECK', columns => 'a int, b int',
		ddl => 'CREATE TABLE %s (a int CHECK (a > 0), b int, CONSTRAINT "less than" CHECK (a < b))',
		messages => [ map { my $a = $_ % 7 - 1; my $b = $_ % 5; qq({"a":$a,"b":$b}) } 1 .. 40 ],
		bad => 31
	},
	{
		name => 'unique', columns => 'id int, "Key" text',
		ddl => 'CREATE TABLE %s (id int PRIMARY KEY, "Key" text UNIQUE)',
		messages => [ map { my $k = $_ % 11; qq({"id":) . ($_ % 13) . qq(,"Key":"$k"}) } 1 .. 60 ],
		bad => 49
	},
	{
		name => 'deferred unique', columns => 'id int',
		ddl => 'CREATE TABLE %s (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)',
		messages => [ map { qq({"id":$_}) } 1 .. 10, 3, 4, 11, 10 ],
		bad => 3
	},
	{
		name => 'exclusion', columns => 'during int4range',
		ddl => 'CREATE TABLE %s (during int4range, EXCLUDE USING gist (during WITH &&))',
		messages => [ map { qq|{"during":"[$_)"}| } '1,3', '3,5', '4,6', '2,3', '7,9' ],
		bad => 2
	},
	{
		name => 'foreign key', columns => 'parent int, v int',
		ddl => 'CREATE TABLE %s (parent int REFERENCES parent, v int)',
		messages => [ map { my $p = $_ % 60; qq({"parent":$p,"v":$_}) } 1 .. 120, ],
		bad => 20
	},
	{
		name => 'deferred foreign key', columns => 'parent int',
		ddl => 'CREATE TABLE %s (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)',
		messages => [ map { qq({"parent":$_}) } 1, 51, 'null', 50, 0, 2 ],
		bad => 2
	},
	{
		name => 'trigger exception', columns => 'v int', ddl => q[
			CREATE TABLE %1$s (v int);
			CREATE FUNCTION %1$s_check() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF new.v %% 10 = 0 THEN RAISE 'no tens' USING DETAIL = new.v; END IF;
				IF new.v %% 10 = 1 THEN RAISE 'not ones' USING ERRCODE = '23514'; END IF;
				ASSERT new.v %% 10 <> 2, 'no twos';
				RETURN NULL;
			END$$;
			CREATE TRIGGER t AFTER INSERT ON %1$s FOR EACH ROW EXECUTE FUNCTION %1$s_check()],
		messages => [ map { qq({"v":$_}) } 1 .. 40 ],
		bad => 12
	},
	{
		name => 'BEFORE trigger that changes and drops rows', bulk => 0, columns => 'v int', ddl => q[
			CREATE TABLE %1$s (v int, w text DEFAULT 'd');
			CREATE FUNCTION %1$s_before() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF new.v < 0 THEN RETURN NULL; END IF;
				new.v := new.v / (new.v - 7);
				RETURN new;
			END$$;
			CREATE TRIGGER t BEFORE INSERT ON %1$s FOR EACH ROW EXECUTE FUNCTION %1$s_before()],
		messages => [ map { qq({"v":$_}) } -1, 7, 8, 14, -7, 21 ],
		bad => 1
	},
	{
		name => 'statement trigger with transition table', columns => 'v int', rows => 's.v', ddl => q[
			CREATE TABLE %1$s (v int);
			CREATE TABLE %1$s_sum (total bigint);
			INSERT INTO %1$s_sum VALUES (0);
			CREATE FUNCTION %1$s_after() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				UPDATE public.%1$s_sum SET total = total + (SELECT coalesce(sum(v), 0) FROM news);
				RETURN NULL;
			END$$;
			CREATE TRIGGER t AFTER INSERT ON %1$s REFERENCING NEW TABLE AS news FOR EACH STATEMENT EXECUTE FUNCTION %1$s_after()],
		compare => '(t.v, (SELECT total FROM %1$s_sum))',
		messages => [ map { qq({"v":$_}) } 1 .. 100, 'null', 7 ],
		bad => 0
	},
	{
		name => 'generated column', columns => 'a int, b int',
		ddl => 'CREATE TABLE %s (g int GENERATED ALWAYS AS (a / b) STORED CHECK (g < 5), a int, b int)',
		messages => [ '{"a":4,"b":2}', '{"a":1,"b":0}', '{"a":9,"b":1}', '{"a":null,"b":1}', '{"a":3,"b":1}' ],
		bad => 2
	},
	{
		name => 'domain', columns => 'p positive, f filled',
		types => 'p positive, f filled',
		ddl => 'CREATE TABLE %s (p positive, f filled)',
		messages => [ '{"p":1,"f":"x"}', '{"p":0,"f":"x"}', '{"p":null,"f":"y"}', '{"p":5,"f":null}', '{"p":-2,"f":"z"}' ],
		bad => 3
	},
	{
		name => 'domain of the target alone', columns => 'p int',
		ddl => 'CREATE TABLE %s (p positive, f filled)',
		messages => [ map { qq({"p":$_}) } 3, 0, 'null', -1, 2 ],
		bad => 2
	},
	{
		name => 'identity', columns => 'v int',
		ddl => 'CREATE TABLE %s (id int GENERATED ALWAYS AS IDENTITY, v int CHECK (v <> 3), s serial)',
		compare => '(t.v, t.id IS NOT NULL, t.s IS NOT NULL, (SELECT count(DISTINCT id) = count(*) FROM %1$s))',
		messages => [ map { qq({"v":$_}) } 1 .. 20 ],
		bad => 1
	},
	{
		name => 'defaults', columns => 'v int',
		ddl => q[CREATE TABLE %s (c text DEFAULT 'constant', e int DEFAULT length(current_setting('server_encoding')),
			a int[] DEFAULT '{1,2}', v int, n int)],
		messages => [ map { qq({"v":$_}) } 1 .. 5 ],
		bad => 0
	},
	{
		name => 'partition routing', columns => 'id int, v text', ddl => q[
			CREATE TABLE %1$s (id int, v text, w int DEFAULT 3) PARTITION BY RANGE (id);
			CREATE TABLE %1$s_1 PARTITION OF %1$s FOR VALUES FROM (0) TO (10);
			CREATE TABLE %1$s_2 (gone int, w int DEFAULT 9, v text CHECK (v <> 'no'), id int);
			ALTER TABLE %1$s_2 DROP gone;
			ALTER TABLE %1$s ATTACH PARTITION %1$s_2 FOR VALUES FROM (10) TO (20);
			CREATE TABLE %1$s_3 PARTITION OF %1$s FOR VALUES FROM (20) TO (30) PARTITION BY LIST (v);
			CREATE TABLE %1$s_3x PARTITION OF %1$s_3 FOR VALUES IN ('x', 'y')],
		compare => q[(t.*, regexp_replace(t.tableoid::regclass::text, '^%1$s', ''))],
		messages => [ map { my $v = ('x', 'no', 'y', 'z')[ $_ % 4 ]; qq({"id":) . ($_ % 37 - 3) . qq(,"v":"$v"}) } 1 .. 74 ],
	},
	{
		name => 'partition with a BEFORE ROW trigger', columns => 'id int', ddl => q[
			CREATE TABLE %1$s (id int UNIQUE) PARTITION BY RANGE (id);
			CREATE TABLE %1$s_1 PARTITION OF %1$s FOR VALUES FROM (0) TO (10);
			CREATE TABLE %1$s_2 PARTITION OF %1$s FOR VALUES FROM (10) TO (20);
			CREATE FUNCTION %1$s_before() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF new.id = 15 THEN RAISE 'fifteen'; END IF;
				IF new.id = 16 THEN RETURN NULL; END IF;
				RETURN new;
			END$$;
			CREATE TRIGGER t BEFORE INSERT ON %1$s_2 FOR EACH ROW EXECUTE FUNCTION %1$s_before()],
		messages => [ map { qq({"id":$_}) } 1 .. 22, 3 ],
		bad => 5
	},
	{
		name => 'dropped columns', columns => 'a int, c text', ddl => q[
			CREATE TABLE %1$s (x int NOT NULL, a int, y text DEFAULT 'y', b int DEFAULT 6, c text NOT NULL);
			ALTER TABLE %1$s DROP x, DROP y;
			ALTER TABLE %1$s ADD d date DEFAULT '2020-02-02'],
		messages => [ '{"a":1,"c":"q"}', '{"a":2,"c":null}', '{"a":null,"c":"r"}' ],
		bad => 1
	},
	{
		name => 'quoted names', columns => '"Id" int, "a ""b"" .c" text, "sélect" int, "order" int',
		ddl => 'CREATE TABLE %s ("order" int, "sélect" int, "a ""b"" .c" text, "Id" int CHECK ("Id" > 1))',
		messages => [ '{"Id":2,"a \"b\" .c":"x","sélect":3,"order":4}', '{"Id":1,"a \"b\" .c":"x","sélect":3,"order":4}' ],
		bad => 1
	},
	{
		name => 'arrays', columns => 'i int[], t text[], two int[], d positive[]',
		ddl => 'CREATE TABLE %s (i int[], t text[], two int[] CHECK (array_length(two, 1) = 2), d positive[])',
		messages => [
			'{"i":[1,2,null],"t":["a","b,\"c\"","",null],"two":[1,2],"d":[1]}', '{"i":[],"t":[],"two":[1],"d":[]}',
			'{"i":[[1,2],[3,4]],"t":null,"two":[3,4],"d":null}', '{"i":[[1,2],[3]],"two":[1,2]}',
			'{"i":["x"],"two":[1,2]}', '{"d":[0],"two":[1,2]}', '{"i":["7"],"t":[1.50,true],"two":[1,2]}'
		],
	},
	{
		name => 'composites', columns => 'p point2, q point2[]',
		ddl => 'CREATE TABLE %s (p point2 CHECK ((p).x > 0), q point2[])',
		messages => [
			'{"p":{"x":1,"Y y":"a \"b\", c"},"q":[{"x":2},{"Y y":"z","other":1},null]}', '{"p":{"x":0}}', '{"p":null,"q":[]}',
			'{"p":{"x":"five"}}', '{"p":{"x":3,"Y y":null},"q":null}'
		],
		bad => 2
	},
	{
		name => 'enums', columns => 'm mood, ms mood[]', ddl => 'CREATE TABLE %s (m mood, ms mood[])',
		messages => [ '{"m":"ok"}', '{"m":"Ok"}', '{"m":"happy","ms":["sad","ok"]}', '{"ms":["none"]}', '{"m":""}', '{"m":null}' ],
		bad => 3
	},
	{
		name => 'row security', bulk => 0, owner => 1, columns => 'v int', ddl => q[
			CREATE TABLE %1$s (v int);
			ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY;
			ALTER TABLE %1$s FORCE ROW LEVEL SECURITY;
			CREATE POLICY odd ON %1$s USING (true) WITH CHECK (v %% 2 = 1);
			ALTER TABLE %1$s OWNER TO plain],
		messages => [ map { qq({"v":$_}) } 1 .. 9 ],
		bad => 4
	},
	{
		name => 'view with CHECK OPTION', bulk => 0, columns => 'v int', ddl => q[
			CREATE TABLE %1$s_t (v int);
			CREATE VIEW %1$s AS SELECT * FROM %1$s_t WHERE v > 3 WITH CHECK OPTION],
		messages => [ map { qq({"v":$_}) } 1 .. 9 ],
		bad => 3
	},
	{
		name => 'rule', bulk => 0, columns => 'v int', ddl => q[
			CREATE TABLE %1$s (v int);
			CREATE TABLE %1$s_log (v int);
			CREATE RULE r AS ON INSERT TO %1$s DO ALSO INSERT INTO %1$s_log VALUES (10 / new.v)],
		compare => '(t.v, (SELECT sum(v) FROM %1$s_log))',
		messages => [ map { qq({"v":$_}) } 1, 0, 5, 10 ],
		bad => 1
	},
	{
		name => 'types that need an assignment cast', columns => 'a numeric, b text, c bigint',
		ddl => 'CREATE TABLE %s (a int, b varchar(3), c smallint)',
		messages => [ '{"a":1.5,"b":"abc","c":1}', '{"a":2,"b":"abcd","c":1}', '{"a":2,"b":"abc  ","c":1}', '{"a":1e10,"b":"a","c":1}',
			'{"a":1,"b":"a","c":40000}' ],
		bad => 3
	},
	{
		name => 'row too big for its index', columns => 'v text', ddl => 'CREATE TABLE %s (v text UNIQUE)',
		messages => [ '{"v":"a"}', '{"v":"' . join('', map { md5_hex($_) } 1 .. 500) . '"}', '{"v":"b"}' ],
		bad => 1
	},
);

sql('CREATE ROLE plain LOGIN; GRANT mill_user TO plain; GRANT USAGE ON FOREIGN SERVER kafka TO plain; GRANT CREATE, USAGE ON SCHEMA public TO plain;');

# ---- the messages, and what Postgres makes of them ----

foreach my $n (0 .. $#cases)
{
	my $case = $cases[$n];
	my $messages = $case->{messages};
	my $names = join(', ', map { s/^\s*("(?:[^"]|"")*"|\S+)\s.*$/$1/sr } split /,\s*(?=["\w])/, $case->{columns});

	$case->{topic} = "case$n";
	$broker->create_topic($case->{topic}, 1);
	$broker->produce($case->{topic}, lines => $messages);
	sql(qq[CREATE FOREIGN TABLE s$n ($case->{columns}) SERVER kafka OPTIONS (topic '$case->{topic}');
		CREATE TABLE m$n (no int, body jsonb);
		CREATE TABLE bad$n (no int, sqlstate text);]);
	$node->safe_psql('postgres', sprintf($case->{ddl}, "oracle$n") . ';');
	if ($case->{owner})
	{
		sql("GRANT SELECT ON s$n TO plain");
	}
	my $values = join(', ', map { my $body = $messages->[$_] =~ s/'/''/gr; "($_, '$body')" } 0 .. $#$messages);
	sql("INSERT INTO m$n VALUES $values;");
	sql($case->{owner} ? "GRANT SELECT ON m$n TO plain; GRANT INSERT ON bad$n TO plain; SET ROLE plain;" : '',
		"SELECT oracle('m$n', 'oracle$n', \$n\$$names\$n\$, \$n\$$case->{columns}\$n\$, 'bad$n')");
	my $bad = sql("SELECT count(*) FROM bad$n");
	is($bad, $case->{bad}, "the oracle refuses $bad of $case->{name}") if defined $case->{bad} && $bad != $case->{bad};
}

# ---- the same through the pipeline ----

sub compare
{
	my ($n, $target) = @_;
	my $expression = $cases[$n]{compare} // 't';
	my $there = "SELECT (" . sprintf($expression, $target) . ")::text FROM $target t";
	my $good = "SELECT (" . sprintf($expression, "oracle$n") . ")::text FROM oracle$n t";
	my $dead = "SELECT kafka_offset::int, sqlstate FROM mill.dead_letters WHERE pipeline = '$target'";
	my $bad = "SELECT no, sqlstate FROM bad$n";

	return sql(qq[SELECT 'missing', * FROM ($good EXCEPT ALL $there) a UNION ALL SELECT 'too much', * FROM ($there EXCEPT ALL $good) b LIMIT 5;
		SELECT 'no dead letter', * FROM ($bad EXCEPT ALL $dead) a UNION ALL SELECT 'wrong dead letter', * FROM ($dead EXCEPT ALL $bad) b LIMIT 5;]);
}

foreach my $path ('bulk', 'executor')
{
	$node->append_conf('postgresql.conf', "mill.write_path = '$path'");
	$node->reload;
	wait_for_sql($node, "SELECT current_setting('mill.write_path') = '$path'") or die;

	my @these = grep { $path eq 'executor' || ($cases[$_]{bulk} // 1) } 0 .. $#cases;
	foreach my $n (@these)
	{
		sql(sprintf($cases[$n]{ddl}, "$path$n"));
		sql($cases[$n]{owner} ? 'SET ROLE plain; ' : '', "SELECT mill.create_pipeline('$path$n', 's$n', '$path$n');");
	}
	foreach my $n (@these)
	{
		my $case = $cases[$n];
		my $last = $#{ $case->{messages} };

		ok(wait_for_sql($node, "SELECT stored_offset > $last FROM mill.lag WHERE pipeline = '$path$n'"), "CASES 12: $case->{name}, $path: all is read")
		  or diag(state_of($node, "$path$n"));
		is(compare($n, "$path$n"), '', "CASES 12: $case->{name}, $path: as INSERT would");
	}
	sql("SELECT count(mill.drop_pipeline(pipeline)) FROM mill.pipelines");
}

# where the bulk writer is not possible it says so when it is demanded, and is not taken otherwise
$node->append_conf('postgresql.conf', "mill.write_path = 'any'");
$node->reload;
wait_for_sql($node, "SELECT current_setting('mill.write_path') = 'any'");
foreach my $n (grep { !($cases[$_]{bulk} // 1) } 0 .. $#cases)
{
	sql(sprintf($cases[$n]{ddl}, "any$n"));
	sql($cases[$n]{owner} ? 'SET ROLE plain; ' : '', "SELECT mill.create_pipeline('any$n', 's$n', 'any$n')");
}
foreach my $n (grep { !($cases[$_]{bulk} // 1) } 0 .. $#cases)
{
	wait_for_sql($node, "SELECT stored_offset > $#{ $cases[$n]{messages} } FROM mill.lag WHERE pipeline = 'any$n'");
	is(compare($n, "any$n"), '', "CASES 12: $cases[$n]{name}: the executor's path by itself");
}

done_testing();
