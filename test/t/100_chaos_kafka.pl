# Room: ingest.
#
# Exactly once under kill -9. Two pipelines read a topic of a three-broker Kafka
# while the test, by the seed that it prints (SEED), kills gateways, workers and
# the postmaster, stops the server in immediate mode, terminates backends, kills
# and restarts brokers and adds a partition; producers commit and abort
# transactions all the while. At the end what is in the tables must be what the
# producers' accounts say. KILLS says how many times (30); after each the test
# waits until both pipelines have written again.

use strict;
use warnings;

use MillPipeline;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $kills = $ENV{KILLS} || 30;
my $seed = random_seed();
my $began = Time::HiRes::time();

my $kafka = MillTest::Kafka->start(brokers => 3);
$kafka->create_topic('clicks', 4, 3, 'min.insync.replicas=2');

my $node = new_cluster('main', conf => <<'EOC');
restart_after_crash = on
max_wal_size = 1GB
EOC
create_server($node, $kafka);
create_clicks($node, 'clicks');
create_clicks($node, 'clicks', target => 'latest', upsert => 1);

# small batches, so that kills hit every step of them
create_pipeline($node, 'clicks', 'clicks_stream', max_errors => 1_000_000, workers => 2, batch_rows => 700,
	max_wait => "'200 ms'");
create_pipeline($node, 'latest', 'clicks_stream', max_errors => 1_000_000, mode => "'upsert'", durability => "'sync'",
	batch_rows => 500);

# 100,000 at once, then more as long as there are kills
my @accounts = $kafka->produce('clicks', count => 100_000, seed => $seed, bad => 0.3);
my @producers = (
	$kafka->start_producer('clicks', seed => $seed + 1, first => 1_000_000, rate => $kills > 100 ? 100 : 500, bad => 0.5),
	$kafka->start_producer('clicks', seed => $seed + 2, first => 100_000_000, rate => $kills > 100 ? 100 : 500, bad => 0.5,
		transaction => 'chaos', commit_every => 150, abort_every => 4));

# ---------------------------------------------------------------------------
# What is done to them.

my %gateways;		# every gateway that was ever seen
my $broker_down;	# the broker that is down, if one is
my $restart;		# its restart, which takes long, while other things die
my %done;
my $partitions = 4;

sub pick
{
	my @from = @_;

	return @from ? $from[ int(rand(@from)) ] : undef;
}

sub gateways
{
	my @pids = gateway_pids(worker_pids($node));

	$gateways{$_} = 1 foreach @pids;
	return @pids;
}

sub kill_postmaster
{
	my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;

	$node->kill9;
	wait_for(sub { !kill 0, $pid }) or die "postmaster $pid does not go away";
}

# A postmaster that was killed can be followed only when the last of its
# children has noticed.
sub start_again
{
	wait_for(sub { $node->start(fail_ok => 1) }) or die "the server does not start again";
}

# Of three brokers two must always be there.
sub broker_is_back
{
	# pump_nb dies when the process has just ended, which is what we wait for
	eval { $restart->pump_nb; };
	return if $restart->pumpable;
	$restart->finish or die "broker $broker_down does not start again";
	$restart = $broker_down = undef;
	return 1;
}

my %actions = (
	gateway => sub { my $pid = pick(gateways()) // return; kill 'KILL', $pid; },
	worker => sub { my $pid = pick(worker_pids($node)) // return; gateways(); kill_process('KILL', $pid); },
	backend => sub { my $pid = pick(worker_pids($node)) // return; gateways(); kill_process('TERM', $pid); },
	server => sub { gateways(); $node->stop('immediate'); start_again(); return 1; },
	postmaster => sub { gateways(); kill_postmaster(); start_again(); return 1; },
	broker => sub {
		return if $restart && !broker_is_back();
		if ($broker_down)
		{
			$restart = $kafka->start_restart($broker_down);
		}
		else
		{
			$broker_down = 1 + int(rand(3));
			$kafka->kill($broker_down);
		}
		return 1;
	});
my @dice = (('gateway') x 7, ('worker') x 4, ('backend') x 2, ('server') x 2, 'postmaster', ('broker') x 4);

# Everything that a pipeline has read so far; nothing while the server is down.
sub rows_read
{
	return map { split /\|/ } split /\n/, ask($node, 'SELECT pipeline, rows_read FROM mill.pipelines ORDER BY 1') // '';
}

# What was committed before the kill may not count: asked anew after it.
sub wait_for_progress
{
	my %before;
	wait_for(sub { %before = rows_read(); return keys %before == 2; }) or return;
	return wait_for(sub {
		my %now = rows_read();
		return keys %now == 2 && !grep { $now{$_} <= $before{$_} } keys %before;
	});
}

my $stuck = 0;
for (my $kill = 1; $kill <= $kills && !$stuck; $kill++)
{
	my $what;

	if ($kill == int($kills / 2))
	{
		$kafka->add_partitions('clicks', ++$partitions);
		$done{partition}++;
	}
	do { $what = pick(@dice) } until $actions{$what}->();
	$done{$what}++;
	note(sprintf("%.1f s: %d %s", Time::HiRes::time() - $began, $kill, $what));
	unless (wait_for_progress())
	{
		diag("no progress after kill $kill, of $what");
		diag($_ . ': ' . (eval { state_of($node, $_) } // '?')) foreach 'clicks', 'latest';
		$stuck = 1;
	}
	# the next one at any moment of a batch
	Time::HiRes::sleep(rand(0.5));
}
ok(!$stuck, "CASES 1: both pipelines go on after each of $kills kills");
note(join(', ', map { "$_: $done{$_}" } sort keys %done));

# ---------------------------------------------------------------------------
# The end: everything arrives, and the books are compared.

if ($broker_down)
{
	$restart //= $kafka->start_restart($broker_down);
	$restart->finish or die "broker $broker_down does not start again";
}
push @accounts, map { $_->finish } @producers;
load_account($node, $_, 'account') foreach @accounts;
note($node->safe_psql('postgres', "SELECT flag, count(*) FROM account GROUP BY 1 ORDER BY 1"));
is($node->safe_psql('postgres', "SELECT count(*) FROM account WHERE flag = 'unknown'"), 0, 'the fate of every message is known');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM account WHERE flag IN ('ok', 'bad')"), '>=', 100_000,
	'the accounts are there');
is($node->safe_psql('postgres', "SELECT count(DISTINCT partition) FROM account WHERE flag = 'ok'"), 5,
	'CASES 7: the added partition was written to');

foreach my $pipeline ('clicks', 'latest')
{
	ok(wait_for_arrival($node, $pipeline, 'account'), "CASES 1: $pipeline reads everything to its end");
	is(compare_with_account($node, $pipeline, 'account', upsert => $pipeline eq 'latest'), '',
		"CASES 1: $pipeline is the account, nothing lost, nothing twice");
}
ok(wait_for_sql($node, 'SELECT bool_and(lag = 0) FROM mill.lag'), 'CASES 3: the lag comes to 0');

gateways();
$node->stop;
ok(wait_for(sub { !grep { is_alive($_) } keys %gateways }), 'no gateway outlives its worker');
note(sprintf('%d gateways, %.0f s', scalar(keys %gateways), Time::HiRes::time() - $began));

done_testing();
