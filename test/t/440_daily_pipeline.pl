# Room: job.
#
# The daily pipeline of examples/daily_pipeline.sql, as it stands, against one plain
# query over the raw data: a week by backfill, the same week once more, and a day
# whose data is broken, rolled back, mended, and of which only what failed is run again.

use strict;
use warnings;

use MillTest;
use Test::More;

$MillTest::deadline = 60;
my $node = new_cluster('daily', conf => "mill.workers_max = 4\n");

sub sql { return $node->safe_psql('postgres', join('', @_)); }

# The summary of some days, from the raw data alone.
sub plain
{
	my ($from, $to) = @_;
	my $bounds = "BETWEEN '$from' AND '$to'";

	return qq[
		WITH o AS MATERIALIZED (
			SELECT DISTINCT r.* FROM orders_raw r WHERE order_id ~ '^\\d+\$' AND user_id ~ '^\\d+\$'
				AND product_id ~ '^\\d+\$' AND amount ~ '^\\d+(\\.\\d\\d?)?\$'
		), c AS MATERIALIZED (
			SELECT line FROM clicks_raw WHERE jsonb_typeof(line->'user_id') = 'number'
				AND jsonb_typeof(line->'product_id') = 'number' AND jsonb_typeof(line->'at') = 'number'
		), both_kinds AS MATERIALIZED (
			SELECT ordered_at AT TIME ZONE 'Europe/Berlin' AS at, user_id::bigint, product_id::integer, amount::numeric FROM o
			UNION ALL
			SELECT to_timestamp((line->>'at')::bigint) AT TIME ZONE 'Europe/Berlin', (line->>'user_id')::bigint,
				(line->>'product_id')::integer, NULL FROM c
		)
		SELECT at::date::timestamp AT TIME ZONE 'Europe/Berlin' AS day, product_id,
			count(*) - count(amount) AS clicks,
			count(DISTINCT user_id) FILTER (WHERE amount IS NULL) AS clickers,
			count(amount) AS orders,
			count(DISTINCT user_id) FILTER (WHERE amount IS NOT NULL) AS buyers,
			coalesce(sum(amount), 0) AS revenue,
			round(count(DISTINCT user_id) FILTER (WHERE amount IS NOT NULL)::numeric
				/ nullif(count(DISTINCT user_id) FILTER (WHERE amount IS NULL), 0), 4) AS conversion
		FROM both_kinds
		WHERE user_id IN (SELECT user_id FROM users WHERE NOT is_test) AND at::date $bounds
		GROUP BY 1, 2];
}

# Rows that are in one of the two alone, of all days up to this one.
sub is_plain
{
	my ($to, $name) = @_;
	my $plain = plain('2026-03-23', $to);

	return is(sql("CREATE TEMP VIEW plain AS $plain; (TABLE daily_products EXCEPT ALL TABLE plain) UNION ALL (TABLE plain EXCEPT ALL TABLE daily_products)"),
		'', $name);
}

sub backfill
{
	my ($from, $to, $only, $state) = @_;
	my $id = sql("SELECT mill.backfill('daily_pipeline', '$from 01:00 Europe/Berlin', '$to 01:00 Europe/Berlin', '$only', parallel => 2)");

	return wait_for_sql($node, "SELECT state || ' ' || done FROM mill.backfills WHERE backfill_id = $id AND finished_at IS NOT NULL",
		expected => $state)
	  || diag(sql("SELECT * FROM mill.attempts WHERE outcome <> 'success'"));
}

# ---- the file, as it stands ----

$node->command_ok([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-f', "$MillTest::top/examples/daily_pipeline.sql" ],
	'examples/daily_pipeline.sql runs');
is(sql('SELECT state, done, total FROM mill.backfills'), 'success|7|7', 'its backfill of a week has ended by then');
is_plain('2026-03-29', 'the week is what one plain query over the raw data gives');
cmp_ok(sql('SELECT count(*) FROM daily_products WHERE conversion > 0 AND conversion < 1'), '>', 0, 'with rates between 0 and 1');
is(sql(q[SELECT count(DISTINCT day) FROM daily_products]), '7', 'for each day');
is(sql(q[SELECT retries, retry_delay, on_failure, schedule, (next_run AT TIME ZONE 'Europe/Berlin')::time FROM mill.jobs]),
	'3|00:05:00|ops|0 1 * * *|01:00:00', 'the job is due at 1:00 in Berlin, with retries and a channel');
is(sql(q[SELECT string_agg((EXTRACT(epoch FROM interval_end - interval_start) / 3600)::integer::text, ' ' ORDER BY interval_start) FROM mill.job_runs]),
	'24 24 24 24 24 24 23', 'the day in which clocks are set has 23 hours');
is(sql(q[SELECT count(*) FROM mill.attempts WHERE step = 'orders' AND notices LIKE '%orders that are not valid%']), '3',
	'orders that are not valid are warned of');
is(sql('SELECT count(*) FROM orders'), sql('SELECT count(DISTINCT order_id) FROM orders_checked WHERE problem IS NULL'),
	'what was delivered twice is there once');

# ---- more data, late; and the week again, twice ----

sql(q[
	INSERT INTO users SELECT i, 'NL', i % 10 = 0 FROM generate_series(100, 300) i;
	INSERT INTO orders_raw
	SELECT i, 95 + i * 7 % 210, i % 13, CASE WHEN i % 11 = 0 THEN '1,50' ELSE (i % 97)::text || '.' || i % 10 END,
		timestamptz '2026-03-23 00:00 Europe/Berlin' + (i - 100000) * interval '85.8 seconds'
	FROM generate_series(100000, 106999) i;
	INSERT INTO clicks_raw
	SELECT CASE WHEN i % 50 = 0 THEN '{"page": "/help"}' WHEN i % 51 = 0 THEN '[1, 2]'
		ELSE jsonb_build_object('user_id', 90 + i * 11 % 220, 'product_id', i % 14, 'at', 1774220400 + i * 30) END
	FROM generate_series(0, 20000) i;
]);
backfill('2026-03-23', '2026-03-30', 'all', 'success 7');
is_plain('2026-03-29', 'with 27,000 more lines the week is what the plain query gives');
my $before = sql('SELECT * FROM daily_products ORDER BY day, product_id');
my $rows = sql('SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM clicks)');
backfill('2026-03-23', '2026-03-30', 'all', 'success 7');
is_plain('2026-03-29', 'and once more');
is(sql('SELECT * FROM daily_products ORDER BY day, product_id'), $before, 'nothing has changed');
is(sql('SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM clicks)'), $rows, 'nor become more');

# ---- a day whose data is broken ----

sql(q[SELECT mill.alter_job('daily_pipeline', retry_delay => '200 milliseconds', backoff => 1)]);
sql(q[
	INSERT INTO orders_raw SELECT i, i % 4 + 1, 42, CASE WHEN i % 2 = 0 THEN '19,90' ELSE '19.90' END,
		timestamptz '2026-03-30 08:00 Europe/Berlin' + (i - 200000) * interval '1 second' FROM generate_series(200000, 200099) i;
	INSERT INTO clicks_raw SELECT jsonb_build_object('user_id', i % 5, 'product_id', 42, 'at', 1774860000 + i) FROM generate_series(1, 100) i;
]);
my $heard = sql(q[LISTEN ops;
SELECT mill.backfill('daily_pipeline', '2026-03-30 01:00 Europe/Berlin', '2026-03-31 01:00 Europe/Berlin');
DO 'BEGIN FOR i IN 1..600 LOOP EXIT WHEN EXISTS (SELECT FROM mill.job_runs WHERE state = ''failed''); PERFORM pg_sleep(0.05); COMMIT; END LOOP; END';
SELECT 1;]);
like($heard, qr/notification "ops" with payload "\{"job": "daily_pipeline", "run": \d+, "step": "orders", "event": "failure", "state": "failed"/,
	'a day with too many orders that are not valid: who listens is told');
my $run = sql(q[SELECT run_id FROM mill.job_runs WHERE state = 'failed']);
is(sql("SELECT string_agg(step || ' ' || state, ', ' ORDER BY step) FROM mill.step_runs WHERE run_id = $run"),
	'clicks success, orders failed, summary upstream_failed', 'its load failed, and what comes after it did not begin');
is(sql("SELECT string_agg(outcome, ' ') FROM mill.attempts WHERE run_id = $run AND step = 'orders'"),
	'check_failed check_failed check_failed check_failed', 'the check failed, at each of four tries');
like(sql("SELECT message || ' ' || detail FROM mill.attempts WHERE run_id = $run AND step = 'orders' AND attempt = 1"),
	qr/few orders are not valid.*50.*100/s, 'and says what it found');
is(sql(q[SELECT (SELECT count(*) FROM orders WHERE ordered_at >= '2026-03-30 00:00 Europe/Berlin'),
	(SELECT count(*) FROM daily_products WHERE day >= '2026-03-30 00:00 Europe/Berlin')]), '0|0', 'nothing of that day is loaded');
is_plain('2026-03-29', 'the days before it are as they were');

# ---- mended ----

sql(q[UPDATE orders_raw SET amount = replace(amount, ',', '.') WHERE order_id LIKE '2000%']);
is(sql(q[SELECT mill.retry(run_id) FROM mill.job_runs WHERE job = 'daily_pipeline' AND state = 'failed']), '', 'mended, and run again');
wait_for_sql($node, "SELECT state FROM mill.job_runs WHERE run_id = $run", expected => 'success');
is(sql("SELECT string_agg(step || ' ' || n, ', ' ORDER BY step) FROM (SELECT step, count(*) AS n FROM mill.attempts WHERE run_id = $run GROUP BY step) a"),
	'clicks 1, orders 5, summary 1', 'what failed, and what comes after it; what had succeeded is left alone');
is_plain('2026-03-30', 'all eight days are what the plain query gives');
is(sql(q[SELECT sum(orders) FROM daily_products WHERE day = '2026-03-30 00:00 Europe/Berlin']), '100', 'with all orders of that day');
is(sql(q[SELECT intervals_done = tstzmultirange(tstzrange('2026-03-23 01:00 Europe/Berlin', '2026-03-31 01:00 Europe/Berlin')) FROM mill.jobs]),
	't', 'which are done now');

done_testing();
