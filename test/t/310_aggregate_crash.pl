# Room: aggregate.
#
# Continuous aggregates under violence. Writers (pgbench) change two tables with
# aggregates of every kind while the test, by the seed that it prints (SEED), kills
# with -9 fold workers, writers and the postmaster, and stops the server in immediate
# mode; then the same while a large table is being backfilled. After each the views
# must be what their queries give, both ways, under load; and again when the
# writers have ended and everything is folded. KILLS says how many times (20).

use strict;
use warnings;

use IPC::Run;
use MillAggregate;
use MillTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

my $kills = $ENV{KILLS} || 20;
my $seed = random_seed();
my $began = Time::HiRes::time();

my $node = new_cluster('crash', conf => <<'EOC');
restart_after_crash = on
max_prepared_transactions = 20
max_wal_size = 1GB
max_connections = 60
jit = off
EOC
my $pgbench = $node->installed_command('pgbench');

sub sql { return $node->safe_psql('postgres', join('', @_)); }
sub pick { return @_ ? $_[ int(rand(@_)) ] : undef; }

# The answer, as soon as the server is there.
sub answer
{
	my ($query) = @_;
	my $answer;

	wait_for(sub { return defined($answer = ask($node, $query)); }) or die "no answer: $query";
	return $answer;
}

# ---------------------------------------------------------------------------
# Tables and views.

sub view
{
	my ($name, $from, $group, @select) = @_;

	return { name => $name, label => $name, from => $from, group => [ split /, /, $group ],
		select => [ map { my ($s, $n) = /^(.*) AS (\w+)$/ ? ($1, $2) : ($_, $_); { sql => $s, name => $n } } @select ] };
}

sub session_view
{
	my ($name, $table) = @_;

	return view($name, "(SELECT user_id, at, amount, mill.session_start(at, '2 minutes') OVER (PARTITION BY user_id ORDER BY at) AS session_start FROM $table) s",
		'user_id, session_start', 'user_id', 'session_start', "mill.session_end(at, '2 minutes') AS session_end", 'count(*) AS n', 'sum(amount) AS total', 'max(amount) AS high');
}

my @window = qw(window_start window_end);
my %views = (
	tumbling => view('tumbling', "clicks, mill.tumble(at, '5 minutes')", 'window_start, window_end, product', @window, 'product', 'count(*) AS n', 'sum(amount) AS total',
		'min(amount) AS low', 'max(price) AS high', 'avg(amount) AS mean'),
	hopping => view('hopping', "clicks, mill.hop(at, '5 minutes', '15 minutes')", 'window_start, window_end', @window, 'count(*) AS n', 'sum(amount) AS total', 'bool_or(amount > 90) AS big'),
	users => session_view('users', 'clicks'),
	uniques => view('uniques', 'clicks', 'product', 'product', 'count(DISTINCT user_id) AS people', 'count(*) AS n'),
	parts => view('parts', "logs, mill.tumble(at, '10 minutes')", 'window_start, window_end', @window, 'count(*) AS n', 'min(amount) AS low', 'stddev(amount) AS spread'));
# over another one, which is made before it
my $wider = ", mill.tumble(t.window_start, '30 minutes') w";
$views{wider} = { %{ view('wider', "tumbling t$wider", 'w.window_start, t.product', 'w.window_start AS start', 't.product AS product', 'sum(t.n) AS n', 'sum(t.total) AS total',
		'min(t.low) AS low', 'max(t.high) AS high') }, plain_from => '(' . view_query($views{tumbling}) . ") t$wider" };

my $columns = 'id bigint, user_id int, product int, at timestamptz, amount numeric, price float8';
# 0 to 2 hours after midnight
my $moment = "timestamptz '2026-03-29 00:00+00' + interval '30 seconds'";

sql(qq(
	CREATE EXTENSION pg_mill;
	CREATE TABLE clicks ($columns, PRIMARY KEY (id));
	CREATE TABLE logs ($columns) PARTITION BY RANGE (at);
	CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM (MINVALUE) TO ('2026-03-29 01:00+00');
	CREATE TABLE logs_2 PARTITION OF logs FOR VALUES FROM ('2026-03-29 01:00+00') TO (MAXVALUE);
	CREATE INDEX ON logs (id);
	INSERT INTO clicks SELECT i, i % 50, i % 7, $moment * (i % 240), i % 100, i / 2.0 FROM generate_series(1, 2000) i;
	INSERT INTO logs SELECT * FROM clicks;));
foreach my $name (sort keys %views)
{
	sql("CREATE VIEW $name AS " . view_query($views{$name}));
	sql("SELECT mill.materialize('$name', fold_interval => '50 milliseconds')");
}

# ---------------------------------------------------------------------------
# Writers.

my %scripts = (
	insert => [ 5, qq(INSERT INTO clicks SELECT :id + i, :user, :product, $moment * ((:id + i) % 240), :amount, i / 2.0 FROM generate_series(1, 8) i ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, at = excluded.at;) ],
	update => [ 3, "UPDATE clicks SET at = at + interval '4 minutes', amount = :amount, product = :product WHERE id = :id;" ],
	delete => [ 3, 'DELETE FROM clicks WHERE id BETWEEN :id AND :id + 4 AND user_id <> :user;' ],
	logs => [ 3, qq(BEGIN ISOLATION LEVEL REPEATABLE READ;\nINSERT INTO logs VALUES (:id, :user, :product, $moment * (:id % 240), :amount, 0.5);\nSAVEPOINT s;\nINSERT INTO logs_2 VALUES (:id, 1, 1, '2026-03-29 01:30+00', 5, 1);\nROLLBACK TO s;\nCOMMIT;) ],
	move => [ 2, "UPDATE logs SET at = timestamptz '2026-03-29 02:00+00' - (at - timestamptz '2026-03-29 00:00+00') WHERE id = :id;" ],
	forget => [ 1, 'DELETE FROM logs WHERE id = :id;' ]);

foreach my $name (keys %scripts)
{
	append_to_file("$test_dir/$name.sql", join("\n", '\set id random(1, 4000)', '\set user random(1, 50)', '\set product random(1, 7)', '\set amount random(0, 99)', $scripts{$name}[1], ''));
}

my $writers;
my $started = 0;
my $rate = 300;

# Those that were disconnected by a crash are replaced.
sub keep_writing
{
	my ($clients) = @_;

	if ($writers)
	{
		eval { $writers->pump_nb; };
		return if $writers->pumpable;
		eval { $writers->finish; };
	}
	my @files = map { ('-f', "$test_dir/$_.sql\@$scripts{$_}[0]") } sort keys %scripts;
	$started++;
	$writers = IPC::Run::start([ $pgbench, '-n', '-c', $clients // 3, '-j', 1, '-T', 600, '-R', $rate, '--max-tries=20', '--random-seed=' . ($seed + $started),
			@files, $node->connstr('postgres') ], '<', \undef, '>', '/dev/null', '2>', "$test_dir/writers.log");
}

sub end_writing
{
	return unless $writers;
	$writers->signal('TERM');
	eval { $writers->finish; };
	undef $writers;
	# a client's last statement
	wait_for_sql($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'");
}

# ---------------------------------------------------------------------------
# What is done to them.

sub pids { my ($where) = @_; return split /\n/, ask($node, "SELECT pid FROM pg_stat_activity WHERE $where") // ''; }

sub postmaster { my ($pid) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/; return $pid; }

# The last of its children must have noticed.
sub start_again { wait_for(sub { $node->start(fail_ok => 1) }) or die 'the server does not start again'; }

my %actions = (
	fold => sub { my $pid = pick(pids("backend_type = 'pg_mill worker'")) // return; kill_process('KILL', $pid); },
	terminate => sub { my $pid = pick(pids("backend_type = 'pg_mill worker'")) // return; kill_process('TERM', $pid); },
	writer => sub { my $pid = pick(pids("application_name = 'pgbench'")) // return; kill_process('KILL', $pid); },
	manager => sub { my $pid = pick(pids("backend_type = 'pg_mill manager'")) // return; kill_process('KILL', $pid); },
	server => sub { $node->stop('immediate'); start_again(); return 1; },
	postmaster => sub { my $pid = postmaster(); $node->kill9; wait_for(sub { !kill 0, $pid }); start_again(); return 1; });
my @dice = (('fold') x 7, ('terminate') x 3, ('writer') x 4, 'manager', ('server') x 4, 'postmaster');
my %done;

# One of them that could be done; returns its name.
sub strike
{
	my @from = @_;
	my $what;

	wait_for(sub { $what = pick(@from); keep_writing(); return $actions{$what}->(); }) or die 'nothing could be killed';
	$done{$what}++;
	return $what;
}

# A crash may be under way: connections are refused, or cut.
sub comes_back { return wait_for_sql($node, 'SELECT true'); }

# Differences between the views and their queries, each in one snapshot; asked
# again when the server went away meanwhile.
sub differences
{
	my @names = @_;
	my @found;

	foreach my $name (@names)
	{
		my ($out, $err, $code);
		my $ok = wait_for(sub { ($code, $out, $err) = try_psql($node, comparison($views{$name}));
			return $code == 0 || $err !~ /connect|terminat|starting up|shutting down|recovery/; });
		push @found, $out if $out;
		push @found, $err || 'no answer' if !$ok || $code != 0;
	}
	return join("\n", @found);
}

sub wait_until_folded
{
	my @names = @_;
	my $list = join(', ', map { "'$_'::regclass" } @names);

	return wait_for_sql($node, "SELECT count(*) = " . @names . " AND bool_and(state = 'live') AND sum(delta_rows) = 0 FROM mill.aggregates WHERE aggregate::regclass IN ($list)");
}

# Work of a transaction that is prepared before the crash and ends after it.
sub prepare
{
	my ($round) = @_;

	ask($node, qq(BEGIN; INSERT INTO clicks SELECT 100000 + $round * 10 + i, i, i, $moment * (i * 20), 1000 + $round, 7 FROM generate_series(1, 5) i;
		INSERT INTO logs SELECT * FROM clicks WHERE id > 100000; PREPARE TRANSACTION 'round$round'));
}

sub end_prepared
{
	foreach my $gid (split /\n/, answer('SELECT gid FROM pg_prepared_xacts'))
	{
		ask($node, pick('COMMIT', 'COMMIT', 'ROLLBACK') . " PREPARED '$gid'");
	}
}

# ---------------------------------------------------------------------------
# Kills under load.

my @names = sort keys %views;
my $different = '';

foreach my $round (1 .. $kills)
{
	keep_writing();
	prepare($round) if rand() < 0.3;
	# somewhere in the work of writers and fold workers
	Time::HiRes::sleep(0.05 + rand(0.4));
	my $what = strike(@dice);
	comes_back() or last;
	keep_writing();
	end_prepared() if rand() < 0.7;
	$different = differences(@names);
	note(sprintf('%.1f s: %d %s', Time::HiRes::time() - $began, $round, $what));
	last if $different;
}
is($different, '', "CASES 26: after each of $kills kills the views are what their queries give, while writers go on");
note('done: ' . join(', ', map { "$_ $done{$_}" } sort keys %done));

end_prepared();
is(sql('SELECT count(*) FROM pg_prepared_xacts'), 0, 'what was prepared is ended');
end_writing();
ok(wait_until_folded(@names), 'CASES 26: all deltas are folded in the end');
is(differences(@names), '', 'CASES 26: and nothing was lost or counted twice');
is(sql(join(' UNION ALL ', map { "SELECT '$_: ' || v::text FROM mill.verify('$_') v" } @names)), '', 'CASES 26: mill.verify agrees');
cmp_ok(sql('SELECT sum(n) FROM tumbling'), '>', 500, 'there was something to count');

# ---------------------------------------------------------------------------
# Kills during a backfill under load.

sql(qq(
	CREATE TABLE history ($columns);
	INSERT INTO history SELECT i, i % 3000, i % 20, timestamptz '2026-01-01' + interval '5 seconds' * i, i % 1000, i / 2.0 FROM generate_series(1, 400000) i;
	CREATE INDEX ON history (id);
	CREATE INDEX ON history (at);
	CREATE INDEX ON history (user_id);
	ANALYZE history;));
# most of these groups are computed anew whenever a row goes: more than this they could not follow
$rate = 60;
$scripts{history} = [ 20, '' ];
append_to_file("$test_dir/history.sql", <<'EOS');
\set id random(1, 400000)
\set amount random(0, 999)
UPDATE history SET amount = :amount, at = at + interval '3 hours' WHERE id BETWEEN :id AND :id + 5;
DELETE FROM history WHERE id = :id + 7;
INSERT INTO history VALUES (:id, :amount, 3, timestamptz '2026-01-01' + interval '5 seconds' * :id, :amount, 0.5), (:id + 1, 7, 3, '2026-01-02', :amount, 0.5);
EOS
%views = (%views,
	history_tumble => view('history_tumble', "history, mill.tumble(at, '1 hour')", 'window_start, window_end, product', @window, 'product', 'count(*) AS n', 'sum(amount) AS total', 'min(amount) AS low', 'max(amount) AS high'),
	history_hop => view('history_hop', "history, mill.hop(at, '1 hour', '6 hours')", 'window_start, window_end', @window, 'count(*) AS n', 'sum(amount) AS total'),
	history_users => session_view('history_users', 'history'),
	history_unique => view('history_unique', "history, mill.tumble(at, '24 hours')", 'window_start, window_end', @window, 'count(DISTINCT user_id) AS people'),
	history_all => view('history_all', 'history', 'product', 'product', 'count(*) AS n', 'avg(amount) AS mean', 'max(at) AS latest'));
my @history = grep { /^history/ } sort keys %views;
my $hit = 0;

foreach my $name (@history)
{
	sql("CREATE VIEW $name AS " . view_query($views{$name}));
	end_writing();
	keep_writing();
	answer("SELECT mill.materialize('$name', fold_interval => '50 milliseconds')");
	foreach my $round (1 .. 3)
	{
		# it may be done with it by now
		last if answer("SELECT state FROM mill.aggregates WHERE aggregate::regclass = '$name'::regclass") eq 'live';
		Time::HiRes::sleep(rand(0.06));
		$hit++ if answer("SELECT state FROM mill.aggregates WHERE aggregate::regclass = '$name'::regclass") ne 'live';
		my $what = strike(qw(fold fold server terminate));
		comes_back();
		keep_writing();
		note(sprintf('%.1f s: %s %s', Time::HiRes::time() - $began, $name, $what));
		$different = differences($name);
		is($different, '', "CASES 26: $name is what its query gives, killed in its backfill");
	}
}
cmp_ok($hit, '>=', 3, 'backfills were hit');
ok(wait_for_sql($node, "SELECT count(*) = 0 FROM mill.aggregates WHERE state <> 'live'"), 'CASES 26: every backfill comes to its end under load');
is(differences(@history), '', 'CASES 26: no gap, no double count, while writers go on');
end_writing();
ok(wait_until_folded(@names, @history), 'CASES 26: all is folded');
is(differences(@names, @history), '', 'CASES 26: no gap, no double count');

# ---------------------------------------------------------------------------
# Sixteen writers on one hot group.

foreach my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	append_to_file("$test_dir/hot_$level.sql", <<"EOS");
\\set id random(1, 1000000000)
BEGIN ISOLATION LEVEL $level;
INSERT INTO clicks SELECT 10000000 + :id * 10::bigint + i, 1, 1, timestamptz '2026-03-29 12:00+00', 2, 0.5 FROM generate_series(1, 5) i ON CONFLICT DO NOTHING;
INSERT INTO logs VALUES (:id, 1, 1, '2026-03-29 12:00+00', 3, 0.5);
COMMIT;
EOS
	my $out = run_tool([ $pgbench, '-n', '-c', 16, '-j', 2, '-t', 40, '--failures-detailed', '-f', "$test_dir/hot_$level.sql", $node->connstr('postgres') ]);
	like($out, qr/number of transactions actually processed: 640\/640/, "CASES 25: sixteen writers on one hot group at $level: all commit");
	like($out, qr/number of failed transactions: 0 /, "CASES 25: no deadlock and no serialization failure at $level");
}
is(differences(@names), '', 'CASES 25: and the views are what their queries give');
is(sql("SELECT string_agg(DISTINCT warning, '; ') FROM mill.aggregates"), '', 'no aggregate has an error to tell of');
note(sprintf('%.0f s', Time::HiRes::time() - $began));
done_testing();
