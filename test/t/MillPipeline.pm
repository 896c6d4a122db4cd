# MillPipeline.pm: what the tests of pipelines share: their tables, and the
# questions that are asked again and again.

package MillPipeline;

use strict;
use warnings;

use Exporter 'import';
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(create_server create_clicks create_pipeline state_of wait_for_state wait_for_arrival
  compare_with_account worker_pids gateway_pids is_alive);

# The broker as a server named "kafka", with a mapping where it is asked for.
sub create_server
{
	my ($node, $broker, %options) = @_;
	my $name = $options{name} // 'kafka';
	my %properties = ('bootstrap.servers' => $broker->bootstrap, %{ $options{properties} || {} });
	my $list = join(', ', map { qq("$_" ) . quoted($properties{$_}) } sort keys %properties);

	$node->safe_psql('postgres', qq(CREATE EXTENSION IF NOT EXISTS pg_mill;
		CREATE SERVER $name FOREIGN DATA WRAPPER kafka OPTIONS ($list);));
}

sub quoted
{
	my ($text) = @_;

	$text =~ s/'/''/g;
	return "'$text'";
}

# A stream of the generator's clicks with the place of each message, and a table
# without any key for it, so that what comes twice is there twice. upsert => 1:
# the last click of each user in each partition. fields => "...": other columns.
sub create_clicks
{
	my ($node, $topic, %options) = @_;
	my $stream = $options{stream} // "${topic}_stream";
	my $target = $options{target} // $topic;
	my $server = $options{server} // 'kafka';
	my $more = $options{options} ? ", $options{options}" : '';
	my $key = $options{upsert} ? ', PRIMARY KEY (partition, user_id)' : '';

	$node->safe_psql('postgres', qq(
		CREATE FOREIGN TABLE IF NOT EXISTS $stream (user_id bigint, page text, "timestamp" timestamptz, seq bigint,
			partition int OPTIONS (metadata 'partition'), kafka_offset bigint OPTIONS (metadata 'offset'))
			SERVER $server OPTIONS (topic '$topic'$more);
		CREATE TABLE IF NOT EXISTS $target (user_id bigint, page text, "timestamp" timestamptz, seq bigint,
			partition int, kafka_offset bigint$key);));
}

# A pipeline named like its target; more arguments as name => SQL.
sub create_pipeline
{
	my ($node, $name, $stream, %arguments) = @_;
	my $target = delete $arguments{target} // $name;
	my $list = join('', map { ", $_ => $arguments{$_}" } sort keys %arguments);

	$node->safe_psql('postgres', "SELECT mill.create_pipeline('$name', '$stream', '$target'$list)");
}

# state and reason, as "state: reason"
sub state_of
{
	my ($node, $pipeline) = @_;

	return $node->safe_psql('postgres',
		"SELECT state || ': ' || coalesce(reason, '') FROM mill.pipelines WHERE pipeline = '$pipeline'");
}

# Waits until "state: reason" matches.
sub wait_for_state
{
	my ($node, $pipeline, $pattern) = @_;
	my $last = '';
	my $ok = wait_for(sub { $last = eval { state_of($node, $pipeline) } // ''; return $last =~ $pattern; });

	diag("pipeline $pipeline never was $pattern\nlast state: $last") unless $ok;
	return $ok ? 1 : 0;
}

# Waits until a pipeline has read as far as the account says, whatever it has
# made of it.
sub wait_for_arrival
{
	my ($node, $pipeline, $account) = @_;

	return wait_for_sql($node, qq(
		SELECT count(*) = 0 FROM (SELECT partition, max(kafka_offset) AS last FROM $account
			WHERE flag IN ('ok', 'bad') GROUP BY partition) a
		LEFT JOIN mill.lag l ON l.pipeline = '$pipeline' AND l.partition = a.partition
		WHERE coalesce(l.stored_offset, 0) <= a.last));
}

# What is too much and what is missing, both ways, as "kind partition:offset"
# lines, of which there should be none. The account's good messages must be in the target,
# the bad ones must be dead letters, each exactly once.
sub compare_with_account
{
	my ($node, $pipeline, $account, %options) = @_;
	my $target = $options{target} // $pipeline;
	my $good = "SELECT partition, kafka_offset, seq FROM $account WHERE flag = 'ok'";
	my $there = "SELECT partition, kafka_offset, seq FROM $target";
	my $bad = "SELECT partition, kafka_offset FROM $account WHERE flag = 'bad'";
	my $dead = "SELECT partition, kafka_offset FROM mill.dead_letters WHERE pipeline = '$pipeline'";

	$good = "SELECT DISTINCT ON (partition, key) partition, kafka_offset, seq FROM $account WHERE flag = 'ok'"
	  . " ORDER BY partition, key, kafka_offset DESC"
	  if $options{upsert};
	return $node->safe_psql('postgres', qq(
		(SELECT 'lost', partition || ':' || kafka_offset FROM (($good) EXCEPT ALL ($there)) a
		UNION ALL SELECT 'too much', partition || ':' || kafka_offset FROM (($there) EXCEPT ALL ($good)) b
		UNION ALL SELECT 'no dead letter', partition || ':' || kafka_offset FROM (($bad) EXCEPT ALL ($dead)) c
		UNION ALL SELECT 'wrong dead letter', partition || ':' || kafka_offset FROM (($dead) EXCEPT ALL ($bad)) d)
		LIMIT 20));
}

# The ingest workers that run, and their gateways.
sub worker_pids
{
	my ($node) = @_;

	return split /\n/, ask($node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_mill worker' ORDER BY pid") // '';
}

sub gateway_pids
{
	my @parents = @_;
	my %wanted = map { $_ => 1 } @parents;
	my @found;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		open(my $in, '<', $file) or next;
		my $line = <$in> // '';
		push @found, $1 if $line =~ /^(\d+) \(mill_gateway\) (\S) (\d+)/ && $2 ne 'Z' && $wanted{$3};
	}
	return @found;
}

# Does this process run?
sub is_alive
{
	my ($pid) = @_;

	open(my $in, '<', "/proc/$pid/stat") or return 0;
	return (<$in> // '') =~ /^\d+ \(.*\) [^ZX]/ ? 1 : 0;
}

1;
