# Room: stream.
#
# Streams as queries read them: what an error leaves behind, and as whom a column's
# default runs.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use Test::More;

my $broker = MillTest::MockBroker->start(topics => { messages => 1 });
my $node = new_cluster('contained');
create_server($node, $broker);
$broker->produce('messages', lines => [ '{"n": 1, "q": "a"}', '{"n": 2, "q": "a & "}', '{"n": 3, "q": "b"}' ]);

# ---- a stream with on_error 'skip' decodes each message in a subtransaction; however it ends,
# the session's own transaction is what it would be after any other error ----

$node->safe_psql('postgres', q[
	CREATE FUNCTION check_it(n int) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		IF n = 2 AND current_setting('test.sleeps', true) = 'on' THEN
			PERFORM pg_sleep(180);
		ELSIF n = 2 THEN
			RAISE SQLSTATE 'XY123' USING MESSAGE = 'not this one';
		END IF;
		RETURN true;
	END$$;
	CREATE DOMAIN checked AS int CHECK (check_it(value));
	CREATE FOREIGN TABLE queries (n int, q tsquery) SERVER kafka OPTIONS (topic 'messages', on_error 'skip');
	CREATE FOREIGN TABLE checks (n checked) SERVER kafka OPTIONS (topic 'messages', on_error 'skip');
	CREATE TABLE kept (n int);]);

# What a session answers to these, and its errors; it goes on after each.
sub session
{
	my ($out, $err) = ('', '');

	$node->psql('postgres', join(";\n", @_) . ';', stdout => \$out, stderr => \$err, on_error_stop => 0);
	return ($out, $err);
}

foreach my $case (
	[ 'an error of an input function', 'SELECT n, q FROM queries', qr/skipped 1 bad message/ ],
	[ 'an error of a domain\'s check', 'SELECT n FROM checks', qr/skipped 1 bad message/ ],
	[ 'a cancel', "SET LOCAL statement_timeout = '1s'; SET LOCAL test.sleeps = on; SELECT n FROM checks", qr/statement timeout/ ])
{
	my ($what, $sql, $expected) = @$case;
	my ($out, $err) = session("BEGIN; $sql; COMMIT", "SELECT 'alive'", 'BEGIN', "INSERT INTO kept VALUES (1); SAVEPOINT s; $sql",
		"ROLLBACK TO s; RESET statement_timeout; INSERT INTO kept VALUES (2); COMMIT", "SELECT 'kept ' || count(*) FROM kept", 'TRUNCATE kept');

	like($err, $expected, "S12: $what: is told");
	like($out, qr/^alive$/m, "S12: $what: the session goes on");
	like($out, qr/^kept 2$/m, "S12: $what: a transaction goes on from its savepoint");
	unlike($err, qr/FATAL|connection|WARNING/, "S12: $what: nothing else is told");
	# without BEGIN; the statement is the whole transaction
	($out, $err) = session("SET test.sleeps = on; SET statement_timeout = '1s'", $sql =~ s/.*; //r, "SELECT 'next'") if $what eq 'a cancel';
	($out, $err) = session($sql, "SELECT 'next'") if $what ne 'a cancel';
	like($out, qr/^next$/m, "CASES 53: $what: the next statement runs");
	unlike($err, qr/current transaction is aborted/, "CASES 53: $what: no transaction is left");
}

# ---- defaults: when they are planned, and when they run ----

$node->safe_psql('postgres', q[
	CREATE ROLE keeper;
	CREATE ROLE reader;
	GRANT USAGE ON FOREIGN SERVER kafka TO keeper, reader;
	GRANT CREATE ON SCHEMA public TO keeper;
	SET ROLE keeper;
	CREATE FUNCTION planned() RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN current_user; END';
	CREATE FUNCTION run() RETURNS text LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN current_user; END';
	CREATE FOREIGN TABLE defaults (n int, planned text DEFAULT planned(), run text DEFAULT run()) SERVER kafka OPTIONS (topic 'messages');
	GRANT SELECT ON defaults TO reader;]);
foreach my $role ('superuser', 'reader', 'keeper')
{
	my $become = $role eq 'superuser' ? '' : "SET ROLE $role; ";

	is($node->safe_psql('postgres', "${become}SELECT DISTINCT planned, run, current_user = 'keeper' FROM defaults"),
		'keeper|keeper|' . ($role eq 'keeper' ? 't' : 'f'), "S19: a default runs as the stream's owner when $role reads it");
}

done_testing();
