# Room: aggregate.
#
# Stored states of aggregates are bytes that anybody may hand to the functions of
# schema mill: whatever they are, the server refuses them or computes something.
# For FUZZ_SECONDS (5), states of all aggregates that have any are changed, by the
# seed that is printed (SEED), and given a right checksum again. When the server
# crashes, the statement that does it is looked for and shown.

use strict;
use warnings;

use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{FUZZ_SECONDS} || 5;
my $batch_size = 500;
my $node = new_cluster('state_fuzz', conf => 'restart_after_crash = on');
my $major = int($node->safe_psql('postgres', 'SHOW server_version_num') / 10000);
random_seed();

sub sql { return $node->safe_psql('postgres', join('', @_)); }
sub quoted { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }
sub quoted_array { return 'ARRAY[' . join(', ', map { quoted($_) } @_) . ']'; }

# ---- the format: state_format.c ----

my ($INTERNAL, $NULL, $NAMES) = (1, 2, 4 | 8);
my @crc_table = map {
	my $crc = $_;
	$crc = $crc & 1 ? ($crc >> 1) ^ 0x82F63B78 : $crc >> 1 foreach 1 .. 8;
	$crc;
} 0 .. 255;

sub crc32c
{
	my $crc = 0xFFFFFFFF;

	$crc = ($crc >> 8) ^ $crc_table[ ($crc ^ $_) & 255 ] foreach unpack('C*', $_[0]);
	return $crc ^ 0xFFFFFFFF;
}

# A state of { flags, names, payload }, with what its header needs.
sub assemble
{
	my ($state) = @_;
	my $flags = $state->{flags};
	my $head = pack('CCCC', 1, $flags, $flags & $INTERNAL ? $major : 0, 0);
	my $rest = ($flags & $NAMES ? pack('n/a*', $state->{names}) : '') . $state->{payload};

	return $head . pack('N', crc32c($head . $rest)) . $rest;
}

sub take_apart
{
	my ($bytes) = @_;
	my (undef, $flags) = unpack('CC', $bytes);
	my $rest = substr($bytes, 8);
	my $names = $flags & $NAMES ? unpack('n/a', $rest) : '';

	return { flags => $flags, names => $names, payload => substr($rest, $flags & $NAMES ? 2 + length $names : 0) };
}

# ---- mutations ----

sub pick { return $_[ int(rand(scalar @_)) ]; }

# how an integer of so many bytes may be odd
my @numbers = (0 .. 5, -1, -2, -10, 255, 256, 9999, 10000, 0x4000, 0x8000, 0xC000, 0xF000, 16383, 16384, 32766, 32767,
	32772, 32773, -4096, -4097, -32768, 65535, 65540, 65541, 65536, -65536, 131072, 1 << 20, -(1 << 20), 0x7FFFFFFF,
	-0x7FFFFFFF - 1, 0x80000000, 0xFFFFFFFF, 1 << 40, 1 << 59, 1 << 60, ~(1 << 63), 1 << 63);

sub odd_number
{
	my ($bytes, @likely) = @_;
	my $number = @likely && rand() < 0.95 ? pick(@likely) : rand() < 0.8 ? pick(@numbers) : int(rand(2**31)) - 2**30;

	return substr(pack('q>', $number), 8 - $bytes);
}

# A number as numericvar_serialize writes it: how many digits, weight, sign, scale, digits.
sub odd_sum
{
	my ($weight, $scale) = (pick((0, 1, 5, 9, 10, -1, 32767, 32772, 65535) x 5, @numbers), pick((0, 0, 0, 4, 17, 16383, 32766) x 6, @numbers));
	my $fits = $weight + 1 + int(($scale + 3) / 4);
	my $count = rand() < 0.8 && $fits >= 0 && $fits < 40 ? int(rand($fits + 2)) : int(rand(40));

	$weight = 0 if $count == 0 && rand() < 0.8;
	return odd_number(4, ($count) x 8, $count + 1, $count - 1) . odd_number(4, ($weight) x 8) . odd_number(4, (0, 0x4000) x 8, 0xC000) .
	  odd_number(4, ($scale) x 8) . join('', map { rand() < 0.01 ? odd_number(2) : odd_number(2, 0, 1, 9999, 9999, int(rand(10000))) } 1 .. $count);
}

# What the internal types of numbers are made of, put together at random.
sub odd_numeric_state
{
	my $count = pick(0, 1, 2, 3, 1000, (1 << 59) - 1);

	return odd_number(8, $count) . join('', map { odd_sum() } 1 .. pick(1, 2)) .
	  pick('', odd_number(4, 0 .. 9, 16383) . odd_number(8, 0, pick(0, $count)) . join('', map { odd_number(8, (0) x 8, 1) } 1 .. 3));
}

sub change_payload
{
	my ($payload, $internal, @others) = @_;
	my $length = length $payload;
	my $at = int(rand($length + 1));
	my $size = pick(1, 2, 4, 8);
	my $kind = int(rand(20));

	return odd_numeric_state() if $kind <= 7 && $internal;
	return join('', map { chr(pick(0, 1, 127, 128, 255, int(rand(256)))) } 1 .. int(rand(120))) if $kind == 8;
	return substr($payload, 0, $at) if $kind == 9;
	return substr($payload, 0, $at) . substr($payload, int(rand($length + 1))) if $kind == 10;
	return substr($payload, 0, $at) . substr(pick(map { $_ . "\0" x $length } @others), $at) if $kind == 11;
	$payload .= "\0" x 8 if $length < 8;
	$at = int(rand(length($payload) - $size + 1));
	$at -= $at % 4 if rand() < 0.5;
	substr($payload, $at, $size) = $kind % 2 ? odd_number($size) : substr($payload, $at, $size) ^ substr(pack('q>', 1 << int(rand(8 * $size))), 8 - $size);
	return $payload;
}

my @type_names = map { "$_\0" } ('integer', 'integer[]', 'text', 'bytea', 'record', 'anyarray', 'cstring', 'internal', '"any"', 'unknown',
	'"char"', 'name', 'oidvector', 'int2vector', 'pg_node_tree', 'jsonb', 'xml', 'tsvector', 'tsquery', 'path', 'point', 'int4range',
	'int4multirange', 'refcursor', 'pg_class', 'pg_type[]', 'txid_snapshot', 'void', 'trigger', '', '-', '"', 'a.b.c.d', 'setof int',
	'numeric(3)', 'interval second(3)', 'int[][]', '"Odd Mood"');

sub mutate
{
	my ($base, @others) = @_;
	my $state = take_apart($base->{bytes});

	if (rand() < 0.1)
	{
		$state->{flags} ^= 1 << int(rand(6));
		$state->{names} = pick(@type_names, "pg_catalog\0C\0", $state->{names}) if $state->{flags} & $NAMES;
	}
	elsif ($state->{flags} & $NAMES && rand() < 0.1)
	{
		$state->{names} = pick(@type_names) . pick('', "pg_catalog\0C\0", "pg_catalog\0nope\0");
	}
	if (!($state->{flags} & $NULL) || rand() < 0.3)
	{
		$state->{payload} = change_payload($state->{payload}, $state->{flags} & $INTERNAL, map { take_apart($_->{bytes})->{payload} } @others) foreach 1 .. pick(1, 1, 1, 2, 3);
	}
	return { %$base, bytes => assemble($state) };
}

# ---- the states to start from: every aggregate that has any ----

# with the samples of the test that every aggregate's states are right
my ($samples) = slurp_file("$top/test/pgtap/aggregate_state.sql") =~ /^(CREATE TABLE sample .*?)^CREATE TABLE skipped/ms;

sql('CREATE EXTENSION pg_mill; ', $samples, q[
	CREATE TYPE pair AS (low numeric, high text);
	CREATE FUNCTION pair_add(pair, numeric) RETURNS pair LANGUAGE sql AS 'SELECT ROW(least(($1).low, $2), $2::text)::pair';
	CREATE FUNCTION pair_join(pair, pair) RETURNS pair LANGUAGE sql AS 'SELECT ROW(least(($1).low, ($2).low), ($1).high)::pair';
	CREATE AGGREGATE paired(numeric) (SFUNC = pair_add, STYPE = pair, COMBINEFUNC = pair_join);
	-- gaps of sessions are positive, those of dates whole days
	UPDATE sample SET expression = $$floor(random() * 1e4 + 1) * interval '1 day'$$ WHERE type = 'interval'::regtype;
	UPDATE sample SET expression = '(random() * 1e15 + 1)::int8' WHERE type = 'int8'::regtype;

	INSERT INTO sample VALUES ('anynonarray', 'md5(random()::text)');

	CREATE TABLE base (aggregate regprocedure, result regtype, bytes bytea);
	CREATE TABLE refused (aggregate regprocedure);
	-- a state of n rows, or of one special value
	CREATE FUNCTION make_base(aggregate regprocedure, special boolean, n int) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		arguments text;
		call text;
		result regtype;
	BEGIN
		SELECT string_agg(CASE WHEN special AND x.type IS NOT NULL
			THEN format('(%s)::%s', x.expressions[1 + n % cardinality(x.expressions)], x.type) ELSE s.expression END, ', ' ORDER BY o),
			format('%I.%I', pronamespace::regnamespace, proname)
		INTO STRICT arguments, call
		FROM pg_proc p, unnest(p.proargtypes::oid[]) WITH ORDINALITY t (type, o)
			JOIN sample s ON s.type = t.type LEFT JOIN special x ON x.type = t.type
		WHERE p.oid = aggregate GROUP BY p.oid;
		EXECUTE format('SELECT pg_typeof(%s(%s))', call, arguments) INTO result;
		EXECUTE format('INSERT INTO base SELECT %L, %L, mill.partial_state(%L, %s) FROM generate_series(1, %s)',
			aggregate, result, aggregate, arguments, CASE WHEN special THEN 1 ELSE n END);
	EXCEPTION WHEN feature_not_supported OR undefined_function THEN
		INSERT INTO refused VALUES (aggregate);
	END $$;
	-- no table has a column of type record
	CREATE VIEW combinable AS SELECT a.aggfnoid::regprocedure AS aggregate FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid
		WHERE a.aggcombinefn <> 0 AND p.pronargs > 0 AND NOT 'record'::regtype = ANY (p.proargtypes);]);
# and one with a type of an extension, where there is contrib
sql(q[CREATE EXTENSION hstore;
	CREATE AGGREGATE merged(hstore) (SFUNC = hs_concat, STYPE = hstore, COMBINEFUNC = hs_concat);
	INSERT INTO sample VALUES ('hstore', $$hstore('k' || (random() * 3)::int, random()::text)$$);])
  if sql(q[SELECT count(*) FROM pg_available_extensions WHERE name = 'hstore']) > 0;
sql('SELECT make_base(aggregate, s, n) FROM combinable, unnest(ARRAY[false, true]) s, unnest(ARRAY[1, 2, 3, 4, 30]) n');
note(sql(q[SELECT count(*) || ' states of ' || count(DISTINCT aggregate) || ' aggregates; refused: ' ||
	(SELECT coalesce(string_agg(DISTINCT aggregate::text, ' '), 'none') FROM refused) FROM base]));
cmp_ok(sql('SELECT count(DISTINCT aggregate) FROM base WHERE bytes IS NOT NULL'), '>=', 120, 'S2: there are that many aggregates with states');
is(sql(q[SELECT string_agg(aggregate::text, ' ') FROM combinable WHERE aggregate NOT IN (SELECT aggregate FROM base UNION SELECT aggregate FROM refused)]),
	'', 'S2: every aggregate has one, or is refused');

my @bases = map { my ($aggregate, $result, $hex) = split /\|/; { aggregate => $aggregate, result => $result, bytes => pack('H*', $hex) } }
  split /\n/, sql(q[SELECT aggregate, result, encode(bytes, 'hex') FROM base WHERE bytes IS NOT NULL AND length(bytes) < 2000 ORDER BY 1, 3]);

# ---- what takes states: every function of schema mill that has a bytea ----

my %argument = (regprocedure => '%1$L', bytea => '$1', anyelement => 'NULL::%2$s');
my @calls;
foreach (split /\n/, sql(q[SELECT prokind, proname, (SELECT string_agg(t::regtype::text, ',' ORDER BY o) FROM unnest(proargtypes) WITH ORDINALITY u (t, o))
	FROM pg_proc WHERE pronamespace = 'mill'::regnamespace AND 'bytea'::regtype = ANY (proargtypes) ORDER BY 1, 2]))
{
	my ($kind, $name, $types) = split /\|/;
	my @arguments = map { $argument{$_} // die "mill.$name takes a $_: say here what it is called with" } split /,/, $types;
	my $call = "mill.$name(" . join(', ', @arguments) . ')';

	$call =~ s/\$1(?!\$)/state/ and $call = "(SELECT $call FROM unnest(ARRAY[\$1, \$2, \$1]) state)" if $kind eq 'a';
	push @calls, $call;
}
is(scalar(@calls), 2, 'S2: functions that take states: ' . join(' ', @calls));
# and what comes of them
push @calls, 'mill.final_state(%1$L, (SELECT mill.combine_state(%1$L, state) FROM unnest(ARRAY[$2, $1]) state), NULL::%2$s)';

sql(q[
	CREATE TABLE changed (id int PRIMARY KEY, aggregate text, result text, state bytea, other bytea);
	CREATE FUNCTION try(first int, last int, OUT outcome text, OUT times bigint) RETURNS SETOF record LANGUAGE plpgsql AS $$
	DECLARE
		c changed;
		call text;
		outcomes text[] := '{}';
	BEGIN
		FOR c IN SELECT * FROM changed WHERE id BETWEEN first AND last ORDER BY id LOOP
			FOREACH call IN ARRAY ], quoted_array(@calls), q[ LOOP
				BEGIN
					EXECUTE 'SELECT ' || format(call, c.aggregate, c.result) USING c.state, c.other;
					outcomes := outcomes || 'taken'::text;
				EXCEPTION WHEN OTHERS THEN
					outcomes := outcomes || SQLSTATE;
				END;
			END LOOP;
		END LOOP;
		RETURN QUERY SELECT o, count(*) FROM unnest(outcomes) o GROUP BY 1;
	END $$;]);

# ---- run ----

my (%outcomes, $error);

# Calls everything with these; the outcomes by name, or nothing when the server crashed.
sub try
{
	my ($first, $last) = @_;
	my ($out, $err) = ('', '');
	my %result;

	if ($node->psql('postgres', "SET statement_timeout = '60s'; SELECT * FROM try($first, $last)", stdout => \$out, stderr => \$err) != 0)
	{
		$error = $err;
		wait_for_sql($node, 'SELECT true');
		return;
	}
	$result{$1} += $2 while $out =~ /^(\w+)\|(\d+)$/mg;
	return \%result;
}

sub load
{
	my (@states) = @_;
	my $id = 0;

	$node->safe_psql('postgres', join("\n", 'TRUNCATE changed; COPY changed FROM stdin;',
			map({ join("\t", ++$id, @$_{qw(aggregate result)}, map { '\\\\x' . unpack('H*', $_) } @$_{qw(bytes other)}) } @states), '\.', ''));
}

# The one that is to blame, by halves, as SQL.
sub culprit
{
	my ($first, $last) = @_;

	while ($first < $last)
	{
		my $middle = int(($first + $last) / 2);

		if (try($first, $middle)) { $first = $middle + 1; } else { $last = $middle; }
	}
	return sql("SELECT format('SELECT mill.final_state(%L, %L, NULL::%s); -- combined with %L', aggregate, state, result, other)
		FROM changed WHERE id = $first");
}

# what everybody may call, everybody may crash the server with
sql('CREATE ROLE nobody LOGIN; GRANT ALL ON changed TO nobody; ALTER FUNCTION try SECURITY DEFINER; GRANT CREATE ON SCHEMA public TO nobody; ALTER FUNCTION try OWNER TO nobody');

my $finding = { aggregate => 'avg(numeric)', result => 'numeric', bytes => assemble({ flags => $INTERNAL, names => '', payload =>
	pack('q>l>l>l>l>n', 2, 1, -0x7FFFFFFF - 1, 0, 0, 4) . "\0" x 36 }) };
$finding->{other} = $finding->{bytes};
load($finding);
is_deeply(scalar(try(1, 1)), { '22P03' => 3 }, 'S2: a number with a weight of -2^31 is refused') or diag($error);

load(map { { %$_, other => $_->{bytes} } } @bases);
is_deeply([ keys %{ try(1, scalar @bases) || {} } ], ['taken'], 'S2: states as they are made are taken');

# half of them of internal types, which have no input function of their own to stop them
my @internal = grep { take_apart($_->{bytes})->{flags} & $INTERNAL } @bases;
my %states_of;
push $states_of{ $_->{aggregate} }->@*, $_ foreach @bases;
my ($mutations, $crashed) = (0, '');
my $end = time() + $seconds;
while (time() < $end && !$crashed)
{
	my @changed;

	foreach (1 .. $batch_size)
	{
		my $base = pick(pick(\@bases, \@internal)->@*);
		my $other = pick($states_of{ $base->{aggregate} }->@*);

		push @changed, { mutate($base, $other, pick(@bases))->%*, other => $other->{bytes} };
	}

	load(@changed);
	if (my $result = try(1, $batch_size))
	{
		$mutations += $batch_size;
		$outcomes{$_} += $result->{$_} foreach keys %$result;
		next;
	}
	$crashed = $error;
	diag(culprit(1, $batch_size));
}
is($crashed, '', "S2: whatever bytes a state has, the server goes on: $mutations states");
note(join(', ', map { "$_: $outcomes{$_}" } sort keys %outcomes));
cmp_ok($outcomes{taken} // 0, '>', $mutations / 50, 'S2: some of them could be computed with');
is(join(' ', grep { /^(53|58|57|XX002)/ } sort keys %outcomes), '', 'S2: nothing ran out of memory or time');

done_testing();
