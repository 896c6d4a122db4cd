# Room: core.
#
# Managers and workers: when they wake up, whom they show, what time
# it is for them, and what they are told of changes.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use MillTest;
use MillPipeline;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $broker = MillTest::MockBroker->start;
my $node = new_cluster('core');
sub sql { return $node->safe_psql('postgres', @_); }

# ---- an idle database ----

sql('CREATE EXTENSION pg_mill');
ok(wait_for_sql($node, q(SELECT state = 'running' AND object = 'postgres' FROM mill.workers WHERE kind = 'manager')), 'the manager is shown');
my ($manager) = sql(q(SELECT pid FROM mill.workers WHERE kind = 'manager'));

# Its wake-ups are its voluntary context switches; and it is not busy all the time.
sub switches { return slurp_file("/proc/$manager/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : die; }
sub ticks { return (split ' ', slurp_file("/proc/$manager/stat") =~ s/.*\) //sr)[11] + (split ' ', slurp_file("/proc/$manager/stat") =~ s/.*\) //sr)[12]; }
sub is_idle
{
	my ($what) = @_;

	sleep 2;
	my ($switches, $ticks) = (switches(), ticks());
	sleep 15;
	cmp_ok(switches() - $switches, '<=', 6, "in 15 s an idle manager wakes up once or twice: $what");
	cmp_ok(ticks() - $ticks, '<=', 5, "and uses next to no time: $what");
}
is_idle('of an empty database');

# ---- something to do ----

create_server($node, $broker);
$broker->create_topic('clicks');
create_clicks($node, 'clicks');
my $began = time;
create_pipeline($node, 'clicks', 'clicks_stream');
ok(wait_for_sql($node, q(SELECT count(*) = 1 FROM mill.workers WHERE kind = 'pipeline' AND object = 'clicks' AND pid IS NOT NULL)), 'a pipeline gets its worker');
cmp_ok(time - $began, '<', 3, 'at once');
$broker->produce('clicks', count => 100);
ok(wait_for_sql($node, 'SELECT count(*) = 100 FROM clicks'), 'and is read');

sql(q(SELECT mill.pause('clicks')));
is_idle('with a pipeline that is paused');
sql(q(SELECT mill.resume('clicks')));

# ---- who sees whom ----

sql(q(CREATE ROLE nob LOGIN; CREATE ROLE monitor LOGIN; GRANT pg_read_all_stats TO monitor));
is(sql(q(SET ROLE nob; SELECT string_agg(kind, ' ') FROM mill.workers)), 'manager', 'others see the manager alone');
is(sql(q(SET ROLE monitor; SELECT string_agg(kind || ' ' || object, ', ' ORDER BY kind) FROM mill.workers)), 'manager postgres, pipeline clicks', 'who may read statistics sees all');

# ---- the clock ----

# A failed worker is tried again after some seconds at first, a minute later on.
sub set_clock
{
	my ($offset) = @_;

	$node->append_conf('postgresql.conf', "mill.clock_offset = '$offset'");
	$node->reload;
}
sql('ALTER TABLE clicks RENAME COLUMN page TO side');
ok(wait_for_sql($node, q(SELECT failures >= 4 FROM mill.workers WHERE kind = 'pipeline')), 'a worker that fails again and again');
sql('ALTER TABLE clicks RENAME COLUMN side TO page');
$began = time;
set_clock('1d');
ok(wait_for_state($node, 'clicks', qr/^idle/), 'tomorrow it is due');
cmp_ok(time - $began, '<', 4, 'which is now, by its clock');
sql('ALTER TABLE clicks RENAME COLUMN page TO side');
ok(wait_for_sql($node, q(SELECT failures >= 3 FROM mill.workers WHERE kind = 'pipeline')), 'it fails again');
sql('ALTER TABLE clicks RENAME COLUMN side TO page');
set_clock('-8h');
ok(wait_for_state($node, 'clicks', qr/^idle/), 'the clock is set back by a day and more: nothing waits for the day to come again');
set_clock('0');

# ---- locks ----

my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK clicks IN ACCESS EXCLUSIVE MODE');
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
sql(q(SELECT mill.alter_pipeline('clicks', batch_rows => 100)));
ok(wait_for_state($node, 'clicks', qr/^running: waiting: process $pid holds a lock on relation "clicks"/), 'A10: a worker that starts says whom it waits for');
ok(wait_for_state($node, 'clicks', qr/^failed: canceling statement due to lock timeout \(process $pid holds a lock on relation "clicks"\)/), 'A10: so does the error');
$holder->query_safe('COMMIT');
$holder->quit;
ok(wait_for_state($node, 'clicks', qr/^idle/), 'A10: and it goes on');

# ---- another cluster behind the server ----

my $other = MillTest::MockBroker->start;
$other->create_topic('clicks');
$other->produce('clicks', count => 7);
$node->safe_psql('postgres', sprintf(q(ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '%s')), $other->bootstrap));
ok(wait_for_state($node, 'clicks', qr/^failed: .*clicks/), 'A3: the server names another cluster: the worker that runs notices');
is(sql('SELECT count(*) FROM clicks'), 100, 'A3: and takes nothing from there');
sql(q(SELECT mill.seek('clicks', 'earliest')));
ok(wait_for_sql($node, 'SELECT count(*) = 107 FROM clicks'), 'A3: mill.seek begins there');

# ---- commands that need a database for themselves ----

$began = time;
$node->safe_psql('template1', 'CREATE DATABASE copy TEMPLATE postgres');
cmp_ok(time - $began, '<', 4, 'CASES 17: a copy does not wait for an idle manager');
ok(wait_for_sql($node, q(SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'copy' AND backend_type = 'pg_mill manager')), 'CASES 17: the copy has a manager');
$began = time;
$node->safe_psql('postgres', 'ALTER DATABASE copy RENAME TO renamed');
$node->safe_psql('postgres', 'DROP DATABASE renamed');
cmp_ok(time - $began, '<', 4, 'CASES 17: nor do RENAME and DROP');

$node->stop('fast');
done_testing();
