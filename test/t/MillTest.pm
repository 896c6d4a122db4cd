# MillTest.pm: what the TAP tests share, so that they read as what they test.
#
#	use MillTest;
#	my $kafka = MillTest::Kafka->start(brokers => 3);	# or MillTest::MockBroker->start
#	$kafka->create_topic('clicks', 4);
#	my $account = $kafka->produce('clicks', count => 1000, seed => 7, bad => 2);
#	my $node = new_cluster('main');
#	wait_for_sql($node, 'SELECT count(*) = 1000 FROM clicks');
#
# Everything started here ends with the test. Nothing waits for a fixed time:
# wait_for and wait_for_sql have a deadline of 180 s.

package MillTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

our @EXPORT = qw(new_cluster ask try_psql wait_for wait_for_sql load_account read_account
  kill_process run_tool random_seed $top $test_dir);

our $top = abs_path(dirname(__FILE__) . '/../..');
our $test_dir = $ENV{TESTDIR} || $PostgreSQL::Test::Utils::tmp_check;
our $deadline = 180;

# A running server with pg_mill preloaded (preload => 0: without). More
# settings as conf => "...". init_options go to PostgreSQL::Test's init.
sub new_cluster
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--encoding=UTF8' ], %{ $options{init} || {} });
	$node->append_conf('postgresql.conf', <<'EOF');
max_worker_processes = 24
fsync = off
log_min_messages = log
EOF
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'pg_mill'")
	  if $options{preload} // 1;
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	$node->start unless $options{stopped};
	return $node;
}

# Calls the function until it returns something true, which it returns; nothing
# when 180 s have passed.
sub wait_for
{
	my ($condition) = @_;
	my $end = Time::HiRes::time() + $deadline;

	while (1)
	{
		my $result = $condition->();

		return $result if $result;
		return if Time::HiRes::time() > $end;
		Time::HiRes::sleep(0.05);
	}
}

# Asks until the answer is "t", or the one that is given; shows the last answer
# if it never was. A server that is down or restarting is asked again.
sub wait_for_sql
{
	my ($node, $sql, %options) = @_;
	my $expected = $options{expected} // 't';
	my ($code, $out, $err);
	my $ok = wait_for(sub {
		($code, $out, $err) = try_psql($node, $sql, db => $options{db});
		return $code == 0 && $out eq $expected;
	});

	diag("never came true: $sql\nlast answer: $out\n$err") unless $ok;
	return $ok ? 1 : 0;
}

# Sends a signal to processes of a server, and notes it: the runner accepts that
# these are "terminated by signal" in this test's server logs, and no others.
# Returns how many there were.
sub kill_process
{
	my ($signal, @pids) = @_;
	my %number = (QUIT => 3, KILL => 9, TERM => 15);

	append_to_file("$test_dir/kills", join('', map { "$_ $number{$signal}\n" } @pids));
	return kill $signal, @pids;
}

# psql's exit status, output and errors, of a server that may go away meanwhile: then
# psql may be gone before it has read its input, of which IPC::Run would die.
sub try_psql
{
	my ($node, $sql, %options) = @_;
	my ($out, $err, $code) = ('', '');
	my $done = eval {
		$code = $node->psql($options{db} // 'postgres', $sql, stdout => \$out, stderr => \$err,
			extra_params => $options{extra_params} // []);
		1;
	};

	return ($code, $out // '', $err // '') if $done;
	die $@ unless $@ =~ /Broken pipe/;
	return (2, '', 'connection to server was not made');
}

# The answer of a server that may be down or restarting: nothing if it is. SQL that
# fails ends the test, as what it was to show is not known.
sub ask
{
	my ($node, $sql, %options) = @_;
	my ($code, $out, $err) = try_psql($node, $sql, %options);

	return $out if $code == 0;
	# psql has 2 for a connection that could not be made, and often for one that was lost
	die "$sql\n$err" if $code != 2 && $err !~ /FATAL:|server closed the connection|connection to server/;
	return;
}

# The seed of a random test: SEED of the environment, or a new one; printed.
sub random_seed
{
	my $seed = $ENV{SEED} || int(rand(2**31));

	note("SEED=$seed");
	srand($seed);
	return $seed;
}

# Runs a program and returns what it printed; dies with its stderr otherwise.
sub run_tool
{
	my ($command, $stdin) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run($command, '<', \($stdin // ''), '>', \$out, '2>', \$err);

	die "@$command: exit " . ($? >> 8) . "\n$out$err" unless $ok;
	chomp $out;
	return $out;
}

# The producer's account: a list of [partition, offset, seq, flag, key], only of
# the flags that are given.
sub read_account
{
	my ($file, @flags) = @_;
	my %wanted = map { $_ => 1 } @flags;
	my @lines = map { chomp; [ split /\t/, $_, -1 ] } split /^/, slurp_file($file);

	return grep { !@flags || $wanted{ $_->[3] } } @lines;
}

# The same as a table (partition, kafka_offset, seq, flag, key).
sub load_account
{
	my ($node, $file, $table, %options) = @_;
	my $db = $options{db} // 'postgres';

	$node->safe_psql($db,
		"CREATE TABLE IF NOT EXISTS $table (partition int, kafka_offset bigint, seq bigint, flag text, key text)");
	run_tool([ $node->installed_command('psql'), '-XqA', '-d', $node->connstr($db),
			'-v', 'ON_ERROR_STOP=1', '-c', "\\copy $table from '$file'" ]);
}

# ---------------------------------------------------------------------------
# What both kinds of broker do for a test.
package MillTest::Broker;

use strict;
use warnings;
use MillTest;
use PostgreSQL::Test::Utils;

our $accounts = 0;
my %running;

# kafka_tool with this cluster; -X properties of the object come along.
sub tool
{
	my ($self, $command, @arguments) = @_;

	return MillTest::run_tool([ $self->tool_command($command), @arguments ]);
}

sub tool_command
{
	my ($self, $command) = @_;

	return ("$top/build/kafka_tool", $command, '-b', $self->bootstrap,
		map { ('-X', $_) } @{ $self->{properties} || [] });
}

sub create_topic { my ($self, @arguments) = @_; $self->tool('create-topic', @arguments); }
sub delete_topic { my ($self, $topic) = @_; $self->tool('delete-topic', $topic); }
sub add_partitions { my ($self, $topic, $total) = @_; $self->tool('add-partitions', $topic, $total); }
sub delete_records { my ($self, @arguments) = @_; $self->tool('delete-records', @arguments); }

# One [partition, low, high, leader] for each partition.
sub offsets
{
	my ($self, $topic) = @_;

	return map { [ split /\t/ ] } split /\n/, $self->tool('offsets', $topic);
}

# The committed messages: [partition, offset, timestamp, key, value], escaped
# as in COPY's text format.
sub consume
{
	my ($self, $topic, @options) = @_;

	return map { [ split /\t/, $_, -1 ] } split /\n/, $self->tool('consume', '-t', $topic, @options);
}

my %option = (
	count => '-n', kind => '-g', seed => '-s', first => '-S', users => '-u', bad => '-B', late => '-L',
	start => '-c', step => '-i', partition => '-p', rate => '-r', timestamp => '-T', transaction => '-x',
	commit_every => '-C', abort_every => '-A', log => '-l');

sub produce_command
{
	my ($self, $topic, %wanted) = @_;
	my @command = ($self->tool_command('produce'), '-t', $topic);

	push @command, map { ('-X', $_) } @{ delete $wanted{properties} || [] };
	push @command, '-H' if delete $wanted{hang};
	foreach my $name (sort keys %wanted)
	{
		die "produce: unknown option $name" unless $option{$name};
		push @command, $option{$name}, $wanted{$name};
	}
	return @command;
}

# Produces and returns the account's file. lines => [...] sends these values,
# fields => [[partition, key, headers, value], ...] these messages (undef: null).
sub produce
{
	my ($self, $topic, %wanted) = @_;
	my $lines = delete $wanted{lines};
	my $fields = delete $wanted{fields};

	$wanted{log} //= "$test_dir/account" . ++$accounts;
	$wanted{kind} = $fields ? 'fields' : 'lines' if $fields || $lines;
	$lines = [ map { my ($p, @rest) = @$_; join("\t", $p // '', map { $_ // '\N' } @rest) } @$fields ] if $fields;
	MillTest::run_tool([ $self->produce_command($topic, %wanted) ],
		$lines ? join('', map { "$_\n" } @$lines) : undef);
	return $wanted{log};
}

# The same in the background, until finish; without a count until then, too.
sub start_producer
{
	my ($self, $topic, %wanted) = @_;
	my $producer = { log => $wanted{log} // "$test_dir/account" . ++$accounts, out => '' };

	$wanted{log} = $producer->{log};
	$producer->{endless} = !$wanted{count};
	$wanted{count} //= 0;
	$producer->{harness} = IPC::Run::start([ $self->produce_command($topic, %wanted) ],
		'<', \undef, '>', \$producer->{out}, '2>', \$producer->{err});
	return bless $producer, 'MillTest::Producer';
}

sub MillTest::Producer::finish
{
	my ($producer) = @_;

	$producer->{harness}->signal('TERM') if $producer->{endless};
	$producer->{harness}->finish or die "producer failed:\n$producer->{out}$producer->{err}";
	return $producer->{log};
}

# Everything that is still running when the test ends, ends with it.
sub remember { my ($self) = @_; $running{"$self"} = $self; return $self; }
sub forget { my ($self) = @_; delete $running{"$self"}; }

END
{
	my $status = $?;

	$_->end foreach values %running;
	$? = $status;
}

# ---------------------------------------------------------------------------
# A real Kafka. start(brokers => 1, tls => 0, version => '4.3.1', conf => "...")
package MillTest::Kafka;

use strict;
use warnings;
use MillTest;
our @ISA = ('MillTest::Broker');

my $homes = 0;

sub start
{
	my ($class, %wanted) = @_;
	my $self = bless { brokers => $wanted{brokers} // 1, home => "$test_dir/kafka" . ++$homes, %wanted }, $class;

	$self->remember;
	$self->control('start', $self->{brokers});
	return $self;
}

# Calls test/kafka/kafka. Its brokers outlive it: they must not hold our pipe.
sub control
{
	my ($self, @arguments) = @_;

	return MillTest::run_tool([ $self->control_command(@arguments) ]);
}

sub control_command
{
	my ($self, @arguments) = @_;

	return ('env', "MILL_KAFKA_HOME=$self->{home}", 'MILL_KAFKA_TLS=' . ($self->{tls} ? 1 : ''),
		'MILL_KAFKA_CONF=' . ($self->{conf} // ''), $self->{version} ? "KAFKA_VERSION=$self->{version}" : (),
		"$top/test/kafka/kafka", @arguments);
}

sub bootstrap { my ($self) = @_; return $self->{bootstrap} //= $self->control('bootstrap'); }
sub kill { my ($self, $broker) = @_; $self->control('kill', $broker // 1); }
sub restart { my ($self, $broker) = @_; $self->control('restart', $broker // 1); }

# The same without waiting for it: the caller finishes the harness that he gets.
sub start_restart
{
	my ($self, $broker) = @_;

	return IPC::Run::start([ $self->control_command('restart', $broker // 1) ], '<', \undef, '>', '/dev/null', '2>', '/dev/null');
}

sub stop { my ($self, @broker) = @_; $self->control('stop', @broker); }

# Client properties of the TLS listener as a hash; mechanism PLAIN or SCRAM-SHA-...
sub tls
{
	my ($self, @mechanism) = @_;

	return map { split /=/, $_, 2 } split /\n/, $self->control('tls', @mechanism);
}

# No clean shutdown: nobody needs the data any more.
sub end
{
	my ($self) = @_;

	$self->forget;
	foreach my $broker (1 .. $self->{brokers})
	{
		eval { $self->control('kill', $broker); };
	}
	eval { $self->control('wipe'); };
}

# ---------------------------------------------------------------------------
# The embedded broker. start(brokers => 1, topics => { clicks => 4 })
package MillTest::MockBroker;

use strict;
use warnings;
use MillTest;
our @ISA = ('MillTest::Broker');

sub start
{
	my ($class, %wanted) = @_;
	my $self = bless { in => '', out => '', err => '' }, $class;
	my %topics = %{ $wanted{topics} || {} };

	$self->{harness} = IPC::Run::start(
		[ "$top/build/mock_broker", '-b', $wanted{brokers} // 1, map { "$_=$topics{$_}" } sort keys %topics ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err});
	$self->remember;
	$self->{bootstrap} = $self->next_line;
	return $self;
}

sub bootstrap { my ($self) = @_; return $self->{bootstrap}; }

sub next_line
{
	my ($self) = @_;

	$self->{harness}->pump until $self->{out} =~ /\n/ || !$self->{harness}->pumpable;
	$self->{out} =~ s/^(.*)\n// or die "mock_broker died: $self->{err}";
	return $1;
}

# A line of its own language, see test/lib/mock_broker.c; dies unless it is "ok".
sub command
{
	my ($self, $command) = @_;

	$self->{in} .= "$command\n";
	my $answer = $self->next_line;
	die "mock_broker: $command: $answer" unless $answer eq 'ok';
}

# It has no Admin API; its topics are made by command.
sub create_topic { my ($self, $topic, $partitions) = @_; $self->command("topic $topic " . ($partitions // 1)); }

sub end
{
	my ($self) = @_;

	$self->forget;
	$self->{harness}->kill_kill;
}

1;
