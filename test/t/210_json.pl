# Room: decode.
#
# JSON: the stream accepts and rejects exactly what jsonb does, apart from its
# limits, and gives the same values.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

$MillTest::deadline = 60;
my $broker = MillTest::MockBroker->start(topics => { corpus => 1, fields => 1, values => 1 });
my $node = new_cluster('json', conf => "mill.workers_max = 60\nmax_worker_processes = 80\n");
create_server($node, $broker);

sub sql { return $node->safe_psql('postgres', join('', @_)); }

sub hex_of { return unpack('H*', $_[0]); }

# What jsonb says of bytes: NULL, or the value.
sql(q[CREATE FUNCTION judge(message bytea) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN RETURN convert_from(message, 'UTF8')::jsonb; EXCEPTION WHEN OTHERS THEN RETURN NULL; END$$;]);

# ---- the corpus, as values of a field and as whole messages ----

my %texts = map { my $name = $_; $name =~ s{.*/}{}; ($name => slurp_file($_)) } glob("$top/test/fuzz/corpus/*.json");
cmp_ok(scalar(keys %texts), '>', 50, 'CASES 11: there is a corpus');

# more of our own: what CASES names
my %more = (
	'duplicate keys' => '{"a":1,"a":2}', 'NUL escaped' => '"\\u0000"', 'lone high surrogate' => '"\\ud800"',
	'lone low surrogate' => '"\\udc00x"', 'surrogates' => '"\\ud83d\\ude00"', 'swapped surrogates' => '"\\ude00\\ud83d"',
	'invalid UTF-8' => "\"\xff\xfe\"", 'overlong UTF-8' => "\"\xc0\x80\"", 'surrogate in UTF-8' => "\"\xed\xa0\x80\"",
	'beyond Unicode' => "\"\xf4\x90\x80\x80\"", 'BOM' => "\xef\xbb\xbf1", 'junk after' => '1 2', 'minus zero' => '-0',
	'leading zero' => '01', 'exponent' => '1E+2', 'plus' => '+1', 'point first' => '.5', 'point last' => '5.', 'hex' => '0x10', 'NaN' => 'NaN',
	'control character' => "\"a\x01b\"", 'tab in a string' => "\"a\tb\"", 'DEL' => "\"\x7f\"", 'escape in a key' => '{"\\u0061":1}',
	'bad escape' => '"\\x41"', 'single quotes' => "{'a':1}", 'trailing comma' => '[1,]', 'comment' => '/**/1', 'nothing' => '', 'blank' => ' ');
$texts{$_} = $more{$_} foreach keys %more;
my @names = sort keys %texts;

# COPY-like escapes of the producer: a backslash of the text itself comes as \\
sub escape
{
	my ($text) = @_;

	$text =~ s/\\/\\\\/g;
	$text =~ s/([^ -~])/sprintf('\\x%02x', ord($1))/ges;
	return $text;
}

my @messages = ((map { "{\"v\":$texts{$_}}" } @names), map { $texts{$_} } @names);
$broker->produce('corpus', fields => [ map { [ 0, undef, '', escape($_) ] } @messages ]);
sql(q[CREATE FOREIGN TABLE corpus_stream (v jsonb, kafka_offset bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic 'corpus');
	CREATE TABLE corpus (v jsonb, kafka_offset bigint);
	CREATE TABLE sent (no int, message bytea, name text);]);
$node->safe_psql('postgres', 'INSERT INTO sent VALUES '
	. join(', ', map { my $name = $names[ $_ % @names ] =~ s/'/''/gr; "($_, '\\x" . hex_of($messages[$_]) . "', '$name')" } 0 .. $#messages));
create_pipeline($node, 'corpus', 'corpus_stream', max_errors => 100000);
wait_for_sql($node, 'SELECT stored_offset = ' . @messages . q[ FROM mill.lag WHERE pipeline = 'corpus']) or diag(state_of($node, 'corpus'));

# A message that is no object has no field, and is a bad one. What is beyond the scanner's limits
# is named l_*, and what is just within them is beyond as a field's value.
my $verdicts = q[SELECT no, name, encode(substr(sent.message, 1, 60), 'escape') AS text, judge(sent.message) AS j, c.kafka_offset IS NOT NULL AS taken, c.v,
	d.kafka_offset IS NOT NULL AS dead, d.message AS why FROM sent LEFT JOIN corpus c ON c.kafka_offset = no
	LEFT JOIN mill.dead_letters d ON d.kafka_offset = no AND d.pipeline = 'corpus'];
is(sql(qq[SELECT no, name, text, why FROM ($verdicts) x WHERE taken IS NOT DISTINCT FROM dead]), '', 'CASES 11: each message is a row or a dead letter');
is(sql(qq[SELECT no, name, text, why FROM ($verdicts) x WHERE jsonb_typeof(j) = 'object' AND NOT taken AND name NOT LIKE 'l\\_%' AND NOT (no < ] . @names . q[ AND name LIKE 'y\\_depth\\_64%')]), '',
	'CASES 11: what jsonb accepts is accepted');
is(sql(qq[SELECT no, name, text FROM ($verdicts) x WHERE j IS NULL AND taken]), '', 'CASES 11: what jsonb rejects is rejected');
is(sql(qq[SELECT no, name, text FROM ($verdicts) x WHERE jsonb_typeof(j) <> 'object' AND taken]), '', 'CASES 11: a scalar or an array is no row');
is(sql(qq[SELECT no, name, text, v FROM ($verdicts) x WHERE taken AND v IS DISTINCT FROM nullif(j->'v', 'null')]), '', 'CASES 11: the values are those of jsonb');
cmp_ok(sql(qq[SELECT count(*) FROM ($verdicts) x WHERE name LIKE 'l\\_%' AND dead]), '>', 0, 'CASES 11: limits are kept');
cmp_ok(sql(qq[SELECT count(*) FROM ($verdicts) x WHERE taken]), '>', 30, 'CASES 11: many are accepted');
is(sql(q[SELECT count(*) FROM mill.dead_letters WHERE sqlstate !~ '^(22|54)']), 0, 'CASES 11: all are the message\'s fault');

# ---- absent, null, twice; a field's type ----

sql(q[CREATE TYPE pair AS (a int, b text);
	CREATE FOREIGN TABLE fields_stream (a int DEFAULT 7, b text DEFAULT 'none', "Q.q" int, deep int OPTIONS (field 'x.y[1].z') DEFAULT 3,
	whole jsonb OPTIONS (field 'x'), kafka_offset bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic 'fields');]);
$broker->produce('fields', lines => [ '{}', '{"a":null,"b":null,"x":null}', '{"a":1,"a":2,"b":"x","b":null}', '{"\u0061":5,"Q.q":6,"q.q":8}',
	'{"x":{"y":[0,{"z":9}]}}', '{"x":{"y":[0]}}', '{"x":{"y":{"1":{"z":4}}}}', '{"x":{"y":[0,{"z":1}],"y":[0,{"z":2}]}}', '{"x":1,"x":{"y":[0,{"z":null}]}}', '{"A":3}' ]);
is(sql(q[SELECT kafka_offset, coalesce(a::text, '-'), coalesce(b, '-'), coalesce("Q.q"::text, '-'), coalesce(deep::text, '-'), coalesce(whole::text, '-')
	FROM fields_stream ORDER BY 1]), join("\n", '0|7|none|-|3|-', '1|-|-|-|3|-', '2|2|-|-|3|-', '3|5|none|6|3|-', '4|7|none|-|9|{"y": [0, {"z": 9}]}',
	'5|7|none|-|3|{"y": [0]}', '6|7|none|-|3|{"y": {"1": {"z": 4}}}', '7|7|none|-|2|{"y": [0, {"z": 2}]}', '8|7|none|-|-|{"y": [0, {"z": null}]}', '9|7|none|-|3|-'),
	'CASES 11: absent: the default; null: NULL; twice: the last; paths and escaped keys');

# Each type takes from a JSON string what its input function takes, and gives the
# same value; from a number likewise.
my %inputs = (
	int2 => [qw(0 -0 1 -32768 32767 32768 -32769 1.5 1e3 +5 00 0x1 1_000), '', ' 5 ', 'x'],
	int4 => [qw(0 2147483647 -2147483648 2147483648 -2147483649 99999999999999999999 007 5.0 1e2 -), ' 7', "7\t"],
	int8 => [qw(9223372036854775807 -9223372036854775808 9223372036854775808 -9223372036854775809 12 1.0), ''],
	float4 => [qw(1.5 1e38 1e39 1e-45 1e-46 NaN Infinity -inf 0x1p3 .5 5. 3.4028236e38), ''],
	float8 => [qw(0.1 1e308 1e309 4.9e-324 1e-325 nan -Infinity 1e 2.2250738585072011e-308 123456789012345678901234567890), ' 1 '],
	numeric => [qw(1 1.50 -0.000 1e10 1E-5 NaN Infinity .5 5. 1e x 12345678901234567890.123456789), '', ' 1'],
	'numeric(5,2)' => [qw(1.234 999.994 999.995 1e3 -0.005 NaN)],
	bool => [qw(true false t f TRUE yes no on off 1 0 2 y n of o), ' true ', ''],
	text => ['', 'x', 'ü', "a\tb", '\\', '"', 'null', '日本'], 'varchar(3)' => [ 'abc', 'abcd', 'abc  ', 'äöü', 'äöüß' ], 'char(3)' => [ 'a', 'abc', 'abcd', 'abc ' ],
	date => [qw(2024-02-29 2023-02-29 20240229 2024-1-5 infinity epoch 0001-01-01 4713-01-01BC 99999-01-01 2024-02-30 01/02/2024 todayy), '2024-02-29 BC', 'Feb 29 2024', '2024-06-01 10:00'],
	timestamptz => [
		'2024-02-29T12:34:56Z', '2024-02-29T12:34:56.789Z', '2024-02-29 12:34:56.123456+05:30', '2024-02-29T12:34:56', '2024-02-29T24:00:00Z',
		'2024-02-29T23:59:60Z', '2024-02-29T12:34:56.1234567Z', '2024-02-29T12:34:56-00:00', '2024-02-30T00:00:00Z', '2024-02-29T25:00:00Z', '2024-02-29',
		'2024-02-29T12:34Z', 'infinity', '1969-12-31T23:59:59.999999Z', '0001-01-01T00:00:00Z', '9999-12-31T23:59:59Z', '294277-01-01T00:00:00Z',
		'2024-02-29T12:34:56+0530', '2024-02-29T12:34:56+15:59', '2024-02-29T12:34:56+16', '2024-02-29t12:34:56z', '2024-02-29 12:34:56 Europe/Berlin', '20240229T123456Z', '2024-03-31T02:30:00', ''
	],
	timestamp => [ '2024-02-29T12:34:56', '2024-02-29T12:34:56.5Z', '2024-02-29 12:34:56.0000005', '-infinity', 'noww', '2024-13-01T00:00:00' ],
	'timestamptz(0)' => [ '2024-02-29T12:34:56.5Z', '2024-02-29T12:34:56.499999Z' ],
	time => [qw(12:34:56 24:00 25:00 12:34 123456 12:34:56.7890129 04:05PM)], interval => [ '1 day', 'P1DT2H', '1:02:03', 'x' ],
	uuid => [qw(a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11 A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11 a0eebc999c0b4ef8bb6d6bb9bd380a11 {a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11} a0eebc99 g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11), ''],
	bytea => ['\\x00ff', '\\xabc', '\\xZZ', 'abc', '\\000', '\\\\', ''], inet => [qw(10.0.0.1 ::1 300.1.1.1)], 'int4[]' => ['{1,2}', '{1,x}', '{}'],
	pair => [ '(1,b)', '(x,b)', '(1)' ], int4range => [ '[1,5)', '[5,1)', 'empty' ], point => ['(1,2)', '1,2', 'x'], "\"char\"" => [ 'a', 'ab', '' ], name => ['x' x 70], money => [ '1.5' ]);
my @asked;
foreach my $type (sort keys %inputs)
{
	push @asked, [ $type, $_, 'string' ] foreach @{ $inputs{$type} };
	push @asked, [ $type, $_, 'number' ] foreach $type =~ /^(?:int\d|float|numeric)/ && $type !~ /\[|range/ ? grep { /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/ } @{ $inputs{$type} } : ();
}
my %number;
my @types = sort keys %inputs;
$number{ $types[$_] } = $_ foreach 0 .. $#types;
utf8::decode($_->[1]) foreach @asked;
my $encode = sub { my ($t) = @_; $t =~ s/([\\"])/\\$1/g; $t =~ s/\t/\\t/g; utf8::encode($t); return qq("$t"); };
$broker->produce('values', fields => [ map { [ 0, undef, '', escape(qq({"t$number{ $_->[0] }":) . ($_->[2] eq 'string' ? $encode->($_->[1]) : $_->[1]) . '}') ] } @asked ]);
sql(q[SET client_min_messages = error; CREATE TABLE asked (no int, type text, value text, form text); CREATE TABLE got (no int, value text)]);
sql('INSERT INTO asked VALUES ' . join(', ', map { my ($t, $v, $f) = @{ $asked[$_] }; my $bytes = $v; utf8::encode($bytes);
	"($_, '$t', convert_from('\\x" . hex_of($bytes) . "', 'UTF8'), '$f')" } 0 .. $#asked));
foreach my $type (@types)
{
	my $n = $number{$type};

	sql(qq[CREATE FOREIGN TABLE values_$n (t$n $type, kafka_offset bigint OPTIONS (metadata 'offset')) SERVER kafka OPTIONS (topic 'values');
		CREATE TABLE v$n (t$n $type, kafka_offset bigint);
		CREATE VIEW only_$n AS SELECT * FROM values_$n WHERE kafka_offset IN (] . join(', ', grep { $asked[$_][0] eq $type } 0 .. $#asked) . ')');
}
foreach my $type (@types)
{
	create_pipeline($node, "v$number{$type}", "only_$number{$type}", max_errors => 100000);
}
foreach my $type (@types)
{
	my $n = $number{$type};
	wait_for_sql($node, 'SELECT coalesce(max(stored_offset), 0) = ' . @asked . " FROM mill.lag WHERE pipeline = 'v$n'") or diag(state_of($node, "v$n"));
	sql("INSERT INTO got SELECT kafka_offset, t$n\::text FROM v$n; SELECT mill.pause('v$n')");
}
# The oracle: INSERT of the same text. A fraction or an exponent is no integer there.
sql(q[CREATE FUNCTION by_table(value text, type text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE r text;
BEGIN
	EXECUTE format('CREATE TEMP TABLE x (v %s)', type);
	EXECUTE format('INSERT INTO x VALUES (%L) RETURNING v::text', value) INTO r;
	DROP TABLE x;
	RETURN r;
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
	RETURN 'bad';
END$$]);
is(sql(q[SELECT a.no, a.form, a.type, quote_literal(a.value), by_table(a.value, a.type) AS expected, coalesce(g.value, 'bad') AS got, d.message
	FROM asked a LEFT JOIN got g USING (no) LEFT JOIN mill.dead_letters d ON d.kafka_offset = a.no AND d.pipeline = 'v' || (SELECT count(DISTINCT type) FROM asked b WHERE b.type COLLATE "C" < a.type COLLATE "C")
	WHERE by_table(a.value, a.type) IS DISTINCT FROM coalesce(g.value, 'bad') ORDER BY 1]), '',
	'CASES 11: a string or number is taken as the type takes its text');
done_testing();
