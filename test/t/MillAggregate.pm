# MillAggregate.pm: what the tests of continuous aggregates share: sessions that
# are interleaved by the test, the comparison of a view with the query that the
# test itself has kept, and the player of a case (a list of steps for sessions).
#
# The player is deterministic: one session acts at a time; one that waits for a
# lock of an idle session's transaction stays behind, its steps are left out, and it
# goes on when the other's transaction ends. A case is plain data, made before it is
# played, so that it can be played again with parts left out (reduce).

package MillAggregate;

use strict;
use warnings;

use Exporter 'import';
use MillTest;
use Test::More;
use Time::HiRes;

our @EXPORT = qw(comparison view_query);

# The view's query from its parts.
sub view_query
{
	my ($view) = @_;
	my $sql = 'SELECT ' . join(', ', map { "$_->{sql} AS $_->{name}" } @{ $view->{select} }) . " FROM $view->{from}";

	$sql .= " WHERE $view->{where}" if $view->{where};
	$sql .= ' GROUP BY ' . join(', ', @{ $view->{group} }) if @{ $view->{group} || [] };
	$sql .= " HAVING $view->{having}" if $view->{having};
	return $sql;
}

# A view over another view has plain_from: its FROM with that one's query in its place.
# A query that returns the rows that only the view has ("too much") and those that
# only the query has ("missing"): none if they are equal. Columns with approx are
# floating point results that depend on the order of input: two rows are the same
# when these are within 1e-9 and the others equal. condition: on the output columns.
sub comparison
{
	my ($view, $condition) = @_;
	my $where = $condition ? " WHERE $condition" : '';
	my $query = view_query({ %$view, from => $view->{plain_from} // $view->{from} });
	my @approx = grep { $_->{approx} } @{ $view->{select} };
	my ($only_missing, $only_extra) = ('', '');

	if (@approx)
	{
		my $same = join(' AND ', map { $_->{approx} ? "public.near(m.$_->{name}::float8, e.$_->{name}::float8)"
			: "m.$_->{name} IS NOT DISTINCT FROM e.$_->{name}" } @{ $view->{select} });
		my $uneven = '(SELECT count(*) FROM missing) <> (SELECT count(*) FROM extra)';

		$only_missing = " WHERE $uneven OR NOT EXISTS (SELECT FROM extra e WHERE $same)";
		$only_extra = " WHERE $uneven OR NOT EXISTS (SELECT FROM missing m WHERE $same)";
	}
	# equal is not the same: of sums and what is made of them also scale and digits
	my $texts = join('', map { ", $_->{name}::text AS $_->{name}_text" } grep { !$_->{approx} && $_->{sql} =~ /^(?:coalesce\()?(?:sum|avg|variance|var_\w+|stddev\w*)\((?:i2|i4|i8|n|iv|v\.\w+)\)/ } @{ $view->{select} });

	return "WITH plain AS MATERIALIZED (SELECT *$texts FROM ($query) q$where), live AS MATERIALIZED (SELECT *$texts FROM $view->{name}$where), "
	  . 'missing AS MATERIALIZED (SELECT * FROM plain EXCEPT ALL SELECT * FROM live), '
	  . 'extra AS MATERIALIZED (SELECT * FROM live EXCEPT ALL SELECT * FROM plain) '
	  . "SELECT '$view->{label}: missing', m.* FROM missing m$only_missing UNION ALL SELECT '$view->{label}: too much', e.* FROM extra e$only_extra";
}

# ---------------------------------------------------------------------------
# A psql that stays, driven through two pipes: a statement costs little more than
# the server's own time.
package MillAggregate::Session;

use strict;
use warnings;
use IO::Select;
use IPC::Open3;
use Time::HiRes;

# name: for the script; node, db.
sub new
{
	my ($class, $node, $db, $name) = @_;
	my $self = bless { name => $name, node => $node, db => $db, buffer => '', mark => 0 }, $class;

	$self->{process} = open3($self->{in}, $self->{out}, undef, $node->installed_command('psql'), '-XqAt', '-F', "\x1f",
		'-P', 'null=\\N', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($db));
	$self->{select} = IO::Select->new($self->{out});
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	return $self;
}

# Starts a statement (or some); the answer comes with take.
sub start
{
	my ($self, $sql) = @_;

	local $SIG{PIPE} = 'IGNORE';
	$self->{mark}++;
	$self->{sent} = $sql;
	# a backend that died shows at the read
	my $end = $sql =~ /\\\.\z/ ? '' : ';';
	# a COPY that failed early leaves its last lines in psql's buffer
	print { $self->{in} } "\\r\n$sql$end\n\\echo \x02$self->{mark}\x03\n";
	$self->{in}->flush;
}

# The answer once it is there, within this time: rows and errors as
# { rows => [[...]], state => SQLSTATE of the first error, error => its text }.
sub take
{
	my ($self, $seconds) = @_;
	my $end = Time::HiRes::time() + $seconds;

	while (index($self->{buffer}, "\x02$self->{mark}\x03\n") < 0)
	{
		my $left = $end - Time::HiRes::time();
		return if $left < 0 || !$self->{select}->can_read($left);
		if (!sysread($self->{out}, $self->{buffer}, 65536, length $self->{buffer}))
		{
			$self->{dead} = 1;
			return { rows => [], state => 'gone', error => "connection lost: $self->{buffer}" };
		}
	}
	my ($text, $rest) = split /\x02$self->{mark}\x03\n/, $self->{buffer}, 2;
	$self->{buffer} = $rest;
	return parse($text);
}

sub parse
{
	my ($text) = @_;
	my $answer = { rows => [] };

	if ($text =~ /^(?:psql:.*?)?(?:ERROR|FATAL|PANIC):  (\w{5}): /m)
	{
		$answer->{state} = $1;
		$answer->{error} = $text;
	}
	# the other form: a fault of psql's own, as an unknown command
	elsif ($text =~ /^(?:psql:|error:|invalid command|ERROR)/m)
	{
		$answer->{state} = 'psql';
		$answer->{error} = $text;
	}
	$answer->{rows} = [ map { [ split /\x1f/, $_, -1 ] } grep { !/^(?:WARNING|NOTICE|INFO|LOCATION|DETAIL|HINT|CONTEXT):/ } split /\n/, $text ]
	  unless $answer->{state};
	return $answer;
}

# For the test's own questions: waits, dies of an error, returns the first value.
sub query
{
	my ($self, $sql, $seconds) = @_;

	$self->start($sql);
	my $answer = $self->take($seconds // 60) or die "no answer in time: $sql\n";
	die "$sql\n$answer->{error}\n" if $answer->{state};
	return wantarray ? @{ $answer->{rows} } : @{ $answer->{rows} } ? $answer->{rows}[0][0] : undef;
}

sub close
{
	my ($self) = @_;

	return unless $self->{process};
	close $self->{in};
	kill 'TERM', $self->{process};
	waitpid $self->{process}, 0;
	delete $self->{process};
}

# ---------------------------------------------------------------------------
# Plays cases in one database.
#
# A case is { seed, setup => [sql], views => [...], steps => [...], finish => [...] }.
# A view: { name (as SQL writes it), label, select => [{ sql, name, approx }], from, where,
# group => [], having, conditions => [sql on output columns] }.
# A step: { s => number of the session, kind, sql, name (savepoint, prepared, view), also =>
# another session that compares after it, condition => number, may => [SQLSTATEs] }.
package MillAggregate::Player;

use strict;
use warnings;
use MillTest;
use Test::More;
use Time::HiRes;

# What an ordinary table's writers may meet, too: no partition or check, unique,
# foreign key, serialization, deadlock, lock timeout, transaction aborted, MERGE or
# ON CONFLICT that meets a row twice, row changed by a trigger of the same statement.
my %ordinary = map { $_ => 1 } qw(23514 23505 23503 40001 40P01 55P03 25P02 21000 27000);

# mode: "live" (mill.materialize), "plain" (the views stay as they are: the
# harness must find nothing), "wrong" (the view becomes a table that hears of
# inserts alone: it must find something).
sub new
{
	my ($class, $node, $db, %options) = @_;
	my $self = bless { node => $node, db => $db, mode => 'live', refused => {}, done => {}, differing => 0, %options }, $class;

	$self->connect;
	$self->{observer}->query(q[CREATE OR REPLACE FUNCTION public.near(a float8, b float8) RETURNS boolean LANGUAGE sql IMMUTABLE AS
		$$SELECT a IS NOT DISTINCT FROM b OR coalesce(a NOT IN ('NaN', 'Infinity', '-Infinity') AND b NOT IN ('NaN', 'Infinity', '-Infinity')
			AND abs(a - b) <= 1e-9 * greatest(1, abs(a), abs(b)), false)$$]);
	return $self;
}

sub connect
{
	my ($self) = @_;

	foreach my $session (grep { $_ } $self->{observer}, @{ $self->{sessions} || [] })
	{
		$session->close;
	}
	# a server that has just crashed takes its time; one that has ended does not come back
	wait_for(sub { eval { $self->{observer} = MillAggregate::Session->new($self->{node}, $self->{db}, 'observer'); 1; } || !-e $self->{node}->data_dir . '/postmaster.pid' })
	  or die "cannot connect: $@";
	BAIL_OUT("the server has ended: $@") if !-e $self->{node}->data_dir . '/postmaster.pid';
	$self->{sessions} = [];
}

sub session
{
	my ($self, $number) = @_;

	return $self->{sessions}[$number] //= MillAggregate::Session->new($self->{node}, $self->{db}, "s$number");
}

# Plays it; returns nothing if all is well, otherwise { what, detail, step }.
# Leaves nothing behind.
sub play
{
	my ($self, $case) = @_;
	my $failure;

	$self->{case} = $case;
	$self->{log} = [];
	$self->{live} = {};
	$self->{prepared} = {};
	$self->{step} = -1;
	eval {
		$self->set_up;
		foreach my $step (@{ $case->{steps} })
		{
			$self->{step}++;
			$self->act($step);
		}
		$self->finish;
		1;
	} or $failure = ref $@ ? $@ : { what => 'the test itself failed', detail => "$@" };
	$failure->{step} = $self->{step} if $failure;
	eval { $self->tear_down($failure); 1; } or $failure //= ref $@ ? $@ : { what => 'the end failed', detail => "$@" };
	return $failure;
}

sub fail_case
{
	my ($self, $what, $detail) = @_;

	die { what => $what, detail => $detail };
}

sub note_step
{
	my ($self, $who, $sql, $result) = @_;

	push @{ $self->{log} }, sprintf("/* %s */ %s%s", $who, $sql =~ /;\s*$|\\\.\s*$/ ? $sql : "$sql;", $result ? "\t-- $result" : '');
}

sub set_up
{
	my ($self) = @_;
	my $case = $self->{case};

	foreach my $number (1 .. $case->{sessions})
	{
		my $session = $self->session($number);

		$session->{$_} = undef foreach qw(in_transaction aborted pending blocked moved);
		$session->{savepoints} = {};
		# half of the sessions write deltas the one way, half the other
		$session->query('SET mill.capture_path = ' . ($number % 2 ? "'any'" : 'statement'));
	}
	foreach my $sql (@{ $case->{setup} })
	{
		my $session = $self->session(1);

		$session->start($sql);
		my $answer = $session->take(60) // { state => 'time', error => 'no answer' };

		$self->note_step('s1', $sql, $answer->{state} ? "ERROR $answer->{state}" : undef);
		$self->fail_case("setup: $sql", $answer->{error}) if $answer->{state} && !$ordinary{ $answer->{state} };
	}
	foreach my $number (1 .. $case->{sessions})
	{
		$self->session($number)->query("$_") foreach @{ $case->{session_setup}[$number] || [] };
		$self->note_step("s$number", $_) foreach @{ $case->{session_setup}[$number] || [] };
	}
}

# ---- one step ----

# What changes which partitions a table has.
my $moves_partitions = qr/ATTACH|DETACH|DROP TABLE|PARTITION OF/;

sub act
{
	my ($self, $step) = @_;
	my $session = $self->session($step->{s});

	return if $session->{pending} || !$self->applies($session, $step);
	my $sql = $self->sql_of($step);
	return unless defined $sql;
	$self->{done}{ $step->{kind} }++;
	$self->begin_statement($session, $sql, sub { $self->after($session, $step, $sql, @_); });
	$self->settle;
	$self->compare($session, $step->{condition}) unless $session->{pending};
	if ($step->{also} && $step->{also} != $step->{s})
	{
		my $other = $self->session($step->{also});
		$self->compare($other, $step->{condition}) unless $other->{pending};
	}
}

# Does the step make sense in the state the session is in? (Steps before it may
# have failed, or have been left out.)
sub applies
{
	my ($self, $session, $step) = @_;
	my $kind = $step->{kind};

	return !$session->{in_transaction} if $kind =~ /^(?:begin|commit_prepared|rollback_prepared|outside)$/
	  && ($kind !~ /_prepared$/ || $self->{prepared}{ $step->{name} });
	return 0 if $kind =~ /_prepared$/;
	return $session->{in_transaction} if $kind =~ /^(?:commit|rollback|savepoint|prepare)$/;
	return $session->{in_transaction} && $session->{savepoints}{ $step->{name} } if $kind =~ /^(?:rollback_to|release)$/;
	return 0 if $session->{aborted};
	# over: the view that must be live before
	return !$self->{live}{ $step->{name} } && (!$step->{over} || $self->is_live($session, $step->{over})) if $kind eq 'materialize';
	return $self->{mode} eq 'live' && $self->is_live($session, $step->{name}) if $kind =~ /^(?:fold|refresh|dematerialize)$/;
	return 1;
}

# For this session: made live by a transaction that has ended, or by its own.
sub is_live
{
	my ($self, $session, $view) = @_;

	return ($self->{live}{$view} // '') =~ /^(?:all|$session->{name})$/;
}

sub sql_of
{
	my ($self, $step) = @_;

	return $step->{sql} if $step->{kind} ne 'materialize' || $self->{mode} eq 'live';
	return if $self->{mode} eq 'plain';
	my ($view) = grep { $_->{name} eq $step->{name} } @{ $self->{case}{views} };
	my $table = $self->{case}{table};
	my $query = view_query_of($view);
	return join("\n", 'BEGIN;', "CREATE TABLE wrong_$view->{label} AS $query;",
		"CREATE OR REPLACE VIEW $view->{name} AS TABLE wrong_$view->{label};",
		"CREATE FUNCTION wrong_$view->{label}() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN"
		  . " DELETE FROM wrong_$view->{label}; INSERT INTO wrong_$view->{label} $query; RETURN NULL; END \$\$;",
		"CREATE TRIGGER wrong_$view->{label} AFTER INSERT ON $table EXECUTE FUNCTION wrong_$view->{label}();", 'COMMIT');
}

sub view_query_of { return MillAggregate::view_query($_[0]); }

sub begin_statement
{
	my ($self, $session, $sql, $then) = @_;

	$session->start($sql);
	$session->{pending} = $then;
	$session->{since} = Time::HiRes::time();
}

# Until every session that has something to do has done it, or waits for a lock of
# one that has nothing to do (or of a prepared transaction).
sub settle
{
	my ($self) = @_;
	my $waited = 0;

	while (my @busy = grep { $_ && $_->{pending} } @{ $self->{sessions} })
	{
		my $progress = 0;

		foreach my $session (@busy)
		{
			my $answer = $session->take($waited ? 0.002 : 0.01) or next;
			my $then = delete $session->{pending};

			$session->{blocked} = undef;
			$progress = 1;
			$then->($answer);
		}
		$waited++ unless $progress;
		next if $progress;
		return if !$self->anyone_moves(@busy);
		foreach my $session (@busy)
		{
			$self->fail_case("no answer within 60 s: $session->{sent}", $self->who_waits)
			  if Time::HiRes::time() - $session->{since} > 60 && !$session->{blocked};
		}
	}
}

sub anyone_moves
{
	my ($self, @busy) = @_;
	my %number = map { $_->{pid} => $_ } @busy;
	my %idle = map { $_->{pid} => 1 } grep { $_ && !$_->{pending} } @{ $self->{sessions} };
	my $pids = join(',', keys %number);
	my %blockers = map { $_->[0] => [ split /,/, $_->[1] ] }
	  $self->{observer}->query("SELECT p, array_to_string(pg_blocking_pids(p), ',') FROM unnest('{$pids}'::int[]) p");
	# mill.materialize tries for half a second at a time: two of them need not be seen waiting at once
	my %between = map { $_->[0] => 1 }
	  $self->{observer}->query("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND pid = ANY ('{$pids}'::int[])");
	my %stuck = map { $_ => 1 } grep { $between{$_} && time - ($number{$_}{stuck_at} // 0) <= 3 } keys %number;
	my $changed = 1;

	while ($changed)
	{
		$changed = 0;
		foreach my $pid (grep { !$stuck{$_} } keys %number)
		{
			# 0: a prepared transaction
			next unless grep { $_ eq '0' || $idle{$_} || $stuck{$_} } @{ $blockers{$pid} };
			$stuck{$pid} = $changed = 1;
			$number{$pid}{stuck_at} = time;
		}
	}
	$number{$_}{blocked} = $stuck{$_} foreach keys %number;
	return keys %stuck < keys %number;
}

sub who_waits
{
	my ($self) = @_;

	return join("\n", map { join(' | ', @$_) } $self->{observer}->query(
		"SELECT pid, backend_type, state, wait_event_type, wait_event, pg_blocking_pids(pid), left(replace(query, E'\\n', ' '), 200)
		FROM pg_stat_activity WHERE datname = current_database()"));
}

# What a statement's end means for the session's state.
sub after
{
	my ($self, $session, $step, $sql, $answer) = @_;
	my $kind = $step->{kind};
	my $state = $answer->{state};

	$self->note_step($session->{name}, $sql, $state ? "ERROR $state" : undef);
	$self->check_error($step, $sql, $answer) if $state;
	$self->{done}{"error $state"}++ if $state;
	if ($kind eq 'begin' && !$state)
	{
		$session->{in_transaction} = 1;
	}
	elsif ($kind =~ /^(?:commit|rollback|prepare)$/)
	{
		$self->{prepared}{ $step->{name} } = 1 if $kind eq 'prepare' && !$state && !$session->{aborted};
		$self->{moved_prepared} = 1 if $kind eq 'prepare' && $session->{moved};
		$self->{moves_ended}++ if $session->{moved};
		$session->{in_transaction} = $session->{aborted} = $session->{moved} = undef;
		$session->{savepoints} = {};
	}
	elsif ($kind =~ /_prepared$/)
	{
		delete $self->{prepared}{ $step->{name} } unless $state;
		$self->{moves_ended}++;
	}
	elsif ($kind eq 'savepoint' && !$state)
	{
		$session->{savepoints}{ $step->{name} } = { %{ $self->{live} } };
	}
	elsif ($kind eq 'rollback_to')
	{
		$session->{aborted} = undef;
		# what this session has made live, or plain, since
		foreach my $view (map { $_->{name} } @{ $self->{case}{views} })
		{
			my $then = $session->{savepoints}{ $step->{name} }{$view};

			next unless ($self->{live}{$view} // $session->{name}) eq $session->{name};
			$then ? ($self->{live}{$view} = $then) : delete $self->{live}{$view};
		}
	}
	elsif ($kind eq 'release' && !$state)
	{
		delete $session->{savepoints}{ $step->{name} };
	}
	$session->{aborted} = 1 if $state && $session->{in_transaction};
	$session->{moved} = 1 if !$state && $session->{in_transaction} && $sql =~ /$moves_partitions/;
	# a view that a transaction made live may go back when it ends: asked then
	$self->{live}{ $step->{name} } = $session->{in_transaction} ? $session->{name} : 'all' if $kind eq 'materialize' && !$state;
	delete $self->{live}{ $step->{name} } if $kind eq 'dematerialize' && !$state;
	$self->ask_what_is_live if $self->{mode} eq 'live' && $kind =~ /^(?:rollback|commit|prepare|commit_prepared|rollback_prepared)$/;
}

sub ask_what_is_live
{
	my ($self) = @_;
	my %live = map { $_->[0] => 1 } $self->{observer}->query(
		"SELECT c.relname FROM mill.aggregates a JOIN pg_class c ON c.oid = a.aggregate::regclass WHERE c.relnamespace = to_regnamespace('$self->{case}{schema}')");

	foreach my $view (@{ $self->{case}{views} })
	{
		my $name = $view->{name} =~ s/^"(.*)"$/$1/r;
		my ($maker) = grep { $_ && $_->{in_transaction} && !$_->{aborted} && $_->{name} eq ($self->{live}{ $view->{name} } // '') } @{ $self->{sessions} };

		next if $maker;
		$live{$name} ? ($self->{live}{ $view->{name} } = 'all') : delete $self->{live}{ $view->{name} };
	}
}

sub check_error
{
	my ($self, $step, $sql, $answer) = @_;
	my $state = $answer->{state};

	$self->fail_case('connection lost', "$sql\n$answer->{error}") if $state eq 'gone';
	# it rests, or its triggers are switched off
	return if $self->{case}{disturbed} && $state =~ /^(?:55000|55006|0A000)$/ && $step->{kind} =~ /^(?:materialize|refresh)$/;
	if ($step->{kind} eq 'materialize' && $state eq '0A000')
	{
		my ($text) = $answer->{error} =~ /0A000: (.*)/;
		push @{ $self->{refused}{$text} }, "$self->{case}{seed}: " . view_query_of((grep { $_->{name} eq $step->{name} } @{ $self->{case}{views} })[0]);
		return;
	}
	return if grep { $_ eq $state } @{ $step->{may} || [] };
	return if $state eq '0A000' && $answer->{error} =~ /moving row to another partition during a BEFORE/;
	# a deferred foreign key's checks are still to come
	return if $state eq '55006' && $step->{kind} eq 'materialize' && $answer->{error} =~ /pending trigger events/;
	# these want the newest rows, which REPEATABLE READ does not see
	return if $state eq '25001' && $step->{kind} =~ /^(?:materialize|fold|refresh)$/;
	# that one has read the aggregate's row, and another changed it, is what SERIALIZABLE is about
	return if $state eq '40001' && $answer->{error} =~ /read\/write dependencies/;
	# of ours only what waits for a lock, or goes on from an old snapshot
	my $ours = $answer->{error} =~ /mill/i && $step->{kind} !~ /^(?:materialize|dematerialize|fold|refresh|verify)$/;
	$self->fail_case("unexpected error $state", "$sql\n$answer->{error}") if $ours || !$ordinary{$state};
}

# ---- comparing ----

# In this session, in its transaction if it has one: each view with its query, and
# mill.verify. What waits for a lock meanwhile answers later.
sub compare
{
	my ($self, $session, $number) = @_;
	my @views = @{ $self->{case}{views} };

	return if $session->{aborted};
	# a query that is planned before ATTACH commits, and has its snapshot after, reads a table
	# without the partition, as any does, and the view with it
	return if grep { $_ && $_->{pending} && ($_->{sent} // '') =~ $moves_partitions } @{ $self->{sessions} };
	# so does one that waits for such a transaction while it is planned
	my @movers = grep { $_ && $_ != $session && $_->{moved} } @{ $self->{sessions} };
	my $ended = $self->{moves_ended} // 0;
	my @sql = map { MillAggregate::comparison($_) } @views;
	push @sql, map { MillAggregate::comparison($_, $_->{conditions}[ $number % @{ $_->{conditions} } ]) } grep { @{ $_->{conditions} || [] } } @views
	  if defined $number;
	if ($self->{mode} eq 'live')
	{
		# what is only approximately equal may well differ for verify
		push @sql, map { my $v = $_; my $exact = !grep { $_->{approx} } @{ $v->{select} };
			$exact ? "SELECT '$v->{label}: verify', v::text FROM mill.verify('$v->{name}') v" : "SELECT FROM mill.verify('$v->{name}') v LIMIT 0" }
		  grep { $self->is_live($session, $_->{name}) } @views;
	}
	my $sql = join(";\n", @sql);
	$self->begin_statement($session, $sql, sub {
		my ($answer) = @_;

		$session->{aborted} = 1 if $answer->{state} && $session->{in_transaction};
		$self->check_error({ kind => 'verify' }, $sql, $answer) if $answer->{state};
		$self->{compared} += @views;
		return if (@movers || $self->{moved_prepared}) && (($self->{moves_ended} // 0) != $ended || grep { $_->{moved} && $_->{pending} } @movers);
		my @rows = map { join(' | ', @$_) } grep { @$_ && $_->[0] ne '' } @{ $answer->{rows} };
		if (@rows)
		{
			$self->note_step($session->{name}, $sql, 'DIFFERS');
			$self->fail_case(join(', ', sort keys %{ { map { (split / \| /)[0] => 1 } @rows } }),
				"in $session->{name}" . ($session->{in_transaction} ? ' (in its transaction)' : '') . ":\n" . join("\n", splice(@rows, 0, 40)));
		}
	});
	$self->settle;
}

# ---- the end ----

# Ends all transactions, in turn, then compares, folds, and compares again.
sub finish
{
	my ($self) = @_;
	my @how = @{ $self->{case}{finish} };
	my $round = 0;

	while (1)
	{
		my @open = grep { $_ && $_->{in_transaction} && !$_->{pending} } @{ $self->{sessions} };
		my @prepared = sort keys %{ $self->{prepared} };
		my @idle = grep { $_ && !$_->{in_transaction} && !$_->{pending} } @{ $self->{sessions} };

		last unless @open || @prepared || grep { $_ && $_->{pending} } @{ $self->{sessions} };
		$self->fail_case('sessions that wait for nobody', $self->who_waits) if ++$round > 100;
		my $word = $how[ $round % @how ];
		if (@open)
		{
			my $session = $open[0];
			my $step = { kind => lc $word, s => 0 };
			$self->begin_statement($session, $word, sub { $self->after($session, $step, $word, @_); });
		}
		elsif (@prepared)
		{
			my $session = $idle[0] // $self->session(0);
			my $step = { kind => lc($word) . '_prepared', name => $prepared[0] };
			my $sql = "$word PREPARED '$prepared[0]'";
			$self->begin_statement($session, $sql, sub { $self->after($session, $step, $sql, @_); });
		}
		$self->settle;
	}
	my $session = $self->session(1);
	foreach my $view (@{ $self->{case}{views} })
	{
		# what was blocked or refused in its time
		$self->act({ s => 1, kind => 'materialize', name => $view->{name}, over => $view->{over}, sql => "SELECT mill.materialize('$view->{name}')" })
		  unless $self->{live}{ $view->{name} } || $self->{case}{late};
	}
	$self->compare($session);
	return unless $self->{mode} eq 'live';
	foreach my $view (grep { $self->{live}{ $_->{name} } } @{ $self->{case}{views} })
	{
		$self->act({ s => 1, kind => 'fold', name => $view->{name}, sql => "SELECT mill.fold('$view->{name}')" });
		# one that rests, and is filled anew just now, has its deltas until then
		my $left = $self->{observer}->query(
			"SELECT delta_rows FROM mill.aggregates WHERE aggregate::regclass = '$self->{case}{schema}.$view->{name}'::regclass AND state = 'live'");
		$self->fail_case('fold leaves deltas behind', "$view->{name}: $left") if $left;
	}
	foreach my $view (grep { $self->{live}{ $_->{name} } } @{ $self->{case}{views} })
	{
		$self->act({ s => 1, kind => 'refresh', name => $view->{name}, sql => "SELECT mill.refresh('$view->{name}')" });
	}
	if ($self->{case}{dematerialize})
	{
		$self->act({ s => 1, kind => 'dematerialize', name => $_->{name}, sql => "SELECT mill.dematerialize('$_->{name}')" })
		  foreach reverse @{ $self->{case}{views} };
	}
}

sub tear_down
{
	my ($self, $failure) = @_;
	my $schema = $self->{case}{schema};

	if ($failure)
	{
		# new sessions; the old ones may wait, or be gone
		eval { $self->{observer}->query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"); };
		$self->connect;
		$self->{observer}->query("ROLLBACK PREPARED '$_->[0]'")
		  foreach $self->{observer}->query('SELECT gid FROM pg_prepared_xacts WHERE database = current_database()');
	}
	my $session = $failure ? $self->{observer} : $self->session(1);
	if (!$failure)
	{
		$self->{sessions}[$_]->query('RESET SESSION AUTHORIZATION; RESET ALL') foreach 1 .. $self->{case}{sessions};
	}
	# what users have; a worker that is in its way gives up before
	$session->query("SET deadlock_timeout = '1s'; SET client_min_messages = warning; DROP SCHEMA IF EXISTS $schema CASCADE; RESET client_min_messages; RESET deadlock_timeout");
	return if $self->{mode} ne 'live';
	my @left = map { $_->[0] } $session->query("SELECT oid::regclass::text FROM pg_class WHERE relnamespace = to_regnamespace('mill_data')
		UNION ALL SELECT 'aggregate ' || aggregate FROM mill.aggregates");
	$self->fail_case('left behind when everything was dropped', join(', ', @left)) if @left;
}

sub end
{
	my ($self) = @_;

	$_->close foreach grep { $_ } $self->{observer}, @{ $self->{sessions} };
}

# ---- a smaller case that fails in the same way ----

sub reduce
{
	my ($self, $case, $failure) = @_;
	my $again = sub {
		my ($smaller) = @_;
		my $found = $self->play($smaller) or return;
		return if $found->{what} =~ /^setup/;
		return ($found->{what} =~ /missing|too much|verify/) == ($failure->{what} =~ /missing|too much|verify/)
		  && ($found->{what} !~ /^unexpected/ || $found->{what} eq $failure->{what}) ? $found : undef;
	};
	my $try = sub {
		my ($smaller) = @_;
		my $found = $again->($smaller) or return 0;
		($case, $failure) = ($smaller, $found);
		$failure->{log} = [ @{ $self->{log} } ];
		return 1;
	};

	$try->({ %$case, steps => [ @{ $case->{steps} }[ 0 .. $failure->{step} ] ] }) if $failure->{step} >= 0 && $failure->{step} < @{ $case->{steps} };
	foreach my $round (1 .. 2)
	{
		foreach my $i (reverse 0 .. $#{ $case->{views} })
		{
			my @views = @{ $case->{views} };
			next if @views == 1;
			my ($gone) = splice(@views, $i, 1);
			$try->({ %$case, views => \@views, setup => [ grep { ($_ !~ /CREATE VIEW \Q$gone->{name}\E /) } @{ $case->{setup} } ],
				steps => [ grep { ($_->{name} // '') ne $gone->{name} } @{ $case->{steps} } ] });
		}
		for (my $size = int(@{ $case->{steps} } / 2) || 1; $size >= 1; $size = int($size / 2))
		{
			for (my $from = $#{ $case->{steps} } - $size + 1; $from >= 0; $from -= $size)
			{
				my @steps = @{ $case->{steps} };
				splice(@steps, $from, $size);
				$try->({ %$case, steps => \@steps });
			}
		}
		foreach my $i (0 .. $#{ $case->{steps} })
		{
			fewer_rows($case->{steps}[$i]{sql}, sub {
				my @steps = @{ $case->{steps} };
				$steps[$i] = { %{ $steps[$i] }, sql => $_[0] };
				return $try->({ %$case, steps => \@steps });
			});
		}
		foreach my $i (0 .. $#{ $case->{setup} })
		{
			fewer_rows($case->{setup}[$i], sub {
				my @setup = @{ $case->{setup} };
				$setup[$i] = $_[0];
				return $try->({ %$case, setup => \@setup });
			});
		}
		$try->({ %$case, session_setup => [ map { $_ ? [ $_->[0] ] : undef } @{ $case->{session_setup} } ] });
		foreach my $i (reverse 0 .. $#{ $case->{views}[0]{select} })
		{
			my $view = $case->{views}[0];
			next if @{ $case->{views} } > 1 || @{ $view->{select} } < 2;
			my @select = @{ $view->{select} };
			splice(@select, $i, 1);
			$try->(replace_view($case, { %$view, select => \@select, conditions => [] }));
		}
		foreach my $part (qw(having where))
		{
			my $view = $case->{views}[0];
			$try->(replace_view($case, { %$view, $part => '' })) if @{ $case->{views} } == 1 && $view->{$part};
		}
		foreach my $i (reverse 0 .. $#{ $case->{setup} })
		{
			my @setup = @{ $case->{setup} };
			next if $setup[$i] =~ /^CREATE (?:SCHEMA|VIEW|TABLE)|^SET search_path/;
			splice(@setup, $i, 1);
			$try->({ %$case, setup => \@setup });
		}
	}
	return ($case, $failure);
}

# An INSERT or COPY of several rows, with some left out as long as $try says that
# it still fails.
sub fewer_rows
{
	my ($sql, $try) = @_;
	my ($head, $rows, $tail, $between);

	if ($sql =~ /^(COPY .* FROM STDIN;\n)(.*)(\n\\\.)$/s)
	{
		($head, $rows, $tail, $between) = ($1, $2, $3, "\n");
	}
	elsif ($sql =~ /^(INSERT INTO .* VALUES \()(.*)(\)(?: ON CONFLICT.*)?)$/s)
	{
		($head, $rows, $tail, $between) = ($1, $2, $3, '), (');
	}
	else
	{
		return;
	}
	my @rows = split /\Q$between\E/, $rows, -1;
	for (my $size = int(@rows / 2); $size >= 1; $size = int($size / 2))
	{
		for (my $from = @rows - $size; $from >= 0 && @rows > 1; $from -= $size)
		{
			my @fewer = @rows;
			splice(@fewer, $from, $size);
			@rows = @fewer if @fewer && $try->($head . join($between, @fewer) . $tail);
		}
	}
}

sub replace_view
{
	my ($case, $view) = @_;
	my $sql = "CREATE VIEW $view->{name} AS " . MillAggregate::view_query($view);

	return { %$case, views => [$view], setup => [ map { /^CREATE VIEW \Q$view->{name}\E / ? $sql : $_ } @{ $case->{setup} } ] };
}

1;
