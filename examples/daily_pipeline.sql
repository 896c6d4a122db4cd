-- A daily pipeline: orders (CSV) and a click log (JSON) are cleaned, joined with users, and
-- summed up by day and product, with the share of those who clicked that bought.
--
--   psql -f examples/daily_pipeline.sql
--
-- It runs each night at 1:00 in Berlin for the calendar day before, and can be run again for
-- any day: each step replaces what it wrote for that day.
\set ON_ERROR_STOP on
CREATE EXTENSION IF NOT EXISTS pg_mill;

-- ---- raw data, as it comes: text that may be anything ----

CREATE TABLE users (user_id bigint PRIMARY KEY, country text NOT NULL, is_test boolean NOT NULL);
CREATE TABLE orders_raw (order_id text, user_id text, product_id text, amount text, ordered_at timestamptz NOT NULL);
CREATE TABLE clicks_raw (line jsonb NOT NULL);
CREATE INDEX ON orders_raw (ordered_at);

INSERT INTO users VALUES (1, 'DE', false), (2, 'DE', false), (3, 'FR', false), (4, 'PL', false), (5, 'DE', true);

-- a week's files; from a file it is: \copy orders_raw FROM 'orders.csv' (FORMAT csv)
COPY orders_raw FROM stdin (FORMAT csv);
1001,6,42,19.90,2026-03-23 08:05:34+01
1002,4,7,5.00,2026-03-23 12:55:35+01
1003,1,42,19.90,2026-03-23 16:04:00+01
1004,6,19,120.00,2026-03-23 23:32:30+01
1005,5,42,19.90,2026-03-24 08:56:15+01
1006,1,7,n/a,2026-03-24 18:49:00+01
1007,2,19,120.00,2026-03-24 21:16:20+01
1008,2,7,5.00,2026-03-24 23:12:33+01
1009,4,42,19.90,2026-03-25 00:54:18+01
1010,1,42,19.90,2026-03-25 00:54:43+01
1010,1,42,19.90,2026-03-25 00:54:43+01
1011,1,42,19.90,2026-03-25 07:45:00+01
1012,3,42,19.90,2026-03-25 09:05:19+01
1013,4,19,120.00,2026-03-26 00:13:11+01
1014,2,7,5.00,2026-03-26 01:09:00+01
1015,,7,5.00,2026-03-26 21:24:07+01
1016,4,19,120.00,2026-03-26 21:35:12+01
1017,3,19,120.00,2026-03-27 00:38:23+01
1018,2,42,19.90,2026-03-27 08:55:24+01
1019,4,19,120.00,2026-03-27 12:08:37+01
1020,2,42,19.90,2026-03-27 23:12:00+01
1021,1,42,19.90,2026-03-28 00:26:03+01
1022,2,42,19.90,2026-03-28 06:58:00+01
1023,5,19,120.00,2026-03-28 08:14:30+01
1024,6,42,19.90,2026-03-28 09:33:11+01
1025,3,7,5.00,2026-03-29 00:02:11+01
1026,1,7,-5.00,2026-03-29 15:30:00+02
1027,1,42,19.90,2026-03-29 18:08:37+02
1028,1,7,5.00,2026-03-29 18:36:08+02
\.

COPY clicks_raw FROM stdin;
{"user_id": 6, "product_id": 42, "at": 1774249534}
{"user_id": 4, "product_id": 7, "at": 1774266935}
{"user_id": 6, "product_id": 19, "at": 1774286728}
{"user_id": 2, "product_id": 42, "at": 1774288477}
{"user_id": 4, "product_id": 7, "at": 1774303866}
{"user_id": 6, "product_id": 19, "at": 1774305150}
{"user_id": 5, "product_id": 42, "at": 1774338975}
{"user_id": 1, "product_id": 7, "at": 1774350042}
{"user_id": 2, "product_id": 19, "at": 1774383380}
{"user_id": 3, "page": "/help"}
{"user_id": 2, "product_id": 7, "at": 1774390353}
{"user_id": 4, "product_id": 19, "at": 1774391360}
{"user_id": 4, "product_id": 42, "at": 1774396458}
{"user_id": 1, "product_id": 42, "at": 1774396483}
{"user_id": 1, "product_id": 7, "at": 1774425598}
{"user_id": 3, "product_id": 42, "at": 1774425919}
{"user_id": 4, "product_id": 42, "at": 1774439125}
{"user_id": 6, "product_id": 7, "at": 1774460412}
{"user_id": 4, "product_id": 19, "at": 1774480391}
{"user_id": 4, "product_id": 42, "at": 1774481391}
{"user_id": "n/a", "product_id": 7, "at": "the day before"}
{"user_id": 2, "product_id": 7, "at": 1774511209}
{"user_id": 4, "product_id": 7, "at": 1774556647}
{"user_id": 4, "product_id": 19, "at": 1774557312}
{"user_id": 6, "product_id": 42, "at": 1774566817}
{"user_id": 3, "product_id": 19, "at": 1774568303}
{"user_id": 2, "product_id": 42, "at": 1774598124}
{"user_id": 5, "product_id": 7, "at": 1774598449}
{"user_id": 4, "product_id": 19, "at": 1774609717}
{"user_id": 1, "product_id": 42, "at": 1774649904}
{"user_id": 1, "product_id": 42, "at": 1774653963}
{"user_id": 2, "product_id": 7, "at": 1774654336}
{"user_id": 5, "product_id": 19, "at": 1774682070}
{"user_id": 5, "product_id": 7, "at": 1774686412}
{"user_id": 6, "product_id": 42, "at": 1774686791}
{"user_id": 4, "product_id": 19, "at": 1774729496}
{"user_id": 3, "product_id": 7, "at": 1774738931}
{"user_id": 4, "product_id": 42, "at": 1774739846}
{"user_id": 3, "product_id": 19, "at": 1774767448}
{"user_id": 6, "product_id": 7, "at": 1774781902}
{"user_id": 1, "product_id": 42, "at": 1774800517}
{"user_id": 1, "product_id": 7, "at": 1774802168}
\.

-- ---- what is valid: a problem's name, or NULL ----

CREATE VIEW orders_checked AS
SELECT *, CASE WHEN (order_id ~ '^[0-9]{1,18}$') IS NOT TRUE THEN 'order_id'
               WHEN (user_id ~ '^[0-9]{1,18}$') IS NOT TRUE THEN 'user_id'
               WHEN (product_id ~ '^[0-9]{1,9}$') IS NOT TRUE THEN 'product_id'
               WHEN (amount ~ '^[0-9]{1,9}([.][0-9]{1,2})?$') IS NOT TRUE THEN 'amount' END AS problem
FROM orders_raw;

-- at: seconds since 1970
CREATE VIEW clicks_checked AS
SELECT CASE WHEN line->>'user_id' ~ '^[0-9]{1,18}$' THEN (line->>'user_id')::bigint END AS user_id,
       CASE WHEN line->>'product_id' ~ '^[0-9]{1,9}$' THEN (line->>'product_id')::integer END AS product_id,
       CASE WHEN line->>'at' ~ '^[0-9]{1,10}$' THEN to_timestamp((line->>'at')::bigint) END AS clicked_at
FROM clicks_raw;

-- ---- what the steps write ----

CREATE TABLE orders (order_id bigint PRIMARY KEY, user_id bigint NOT NULL, product_id integer NOT NULL,
    amount numeric NOT NULL, ordered_at timestamptz NOT NULL);
CREATE TABLE clicks (user_id bigint NOT NULL, product_id integer NOT NULL, clicked_at timestamptz NOT NULL);
CREATE TABLE daily_products (day timestamptz, product_id integer, clicks bigint, clickers bigint, orders bigint,
    buyers bigint, revenue numeric, conversion numeric, PRIMARY KEY (day, product_id));
CREATE INDEX ON orders (ordered_at);
CREATE INDEX ON clicks (clicked_at);

-- A run's interval is from 1:00 to 1:00; the day that it is for begins at midnight.
CREATE FUNCTION day_of(at timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE RETURN date_trunc('day', at, 'Europe/Berlin');

-- ---- the job ----

SELECT mill.create_job('daily_pipeline', '0 1 * * *', time_zone => 'Europe/Berlin', catchup => 'all',
    retries => 3, retry_delay => '5 minutes', on_failure => 'ops');

-- A file delivered twice is loaded once. Orders that are not valid stay behind, with a warning;
-- if they are more than a quarter, the load is rolled back, and "ops" is told after the retries.
SELECT mill.add_step('daily_pipeline', 'orders', $$
    SELECT mill.replace_interval('orders', 'ordered_at', $q$
        SELECT DISTINCT ON (1) order_id::bigint AS order_id, user_id::bigint AS user_id,
               product_id::integer AS product_id, amount::numeric AS amount, ordered_at
        FROM orders_checked
        WHERE problem IS NULL AND ordered_at >= $1 AND ordered_at < $2
        ORDER BY 1, ordered_at
    $q$, day_of($1), day_of($2))
$$, checks => jsonb_build_object('few orders are not valid', $$
    SELECT count(problem) AS "not valid", count(*) AS "of"
    FROM orders_checked WHERE ordered_at >= day_of($1) AND ordered_at < day_of($2)
    HAVING count(problem) > 0.25 * count(*)
$$), warnings => jsonb_build_object('orders that are not valid', $$
    SELECT * FROM orders_checked WHERE problem IS NOT NULL AND ordered_at >= day_of($1) AND ordered_at < day_of($2)
$$));

SELECT mill.add_step('daily_pipeline', 'clicks', $$
    SELECT mill.replace_interval('clicks', 'clicked_at', $q$
        SELECT user_id, product_id, clicked_at FROM clicks_checked
        WHERE user_id IS NOT NULL AND product_id IS NOT NULL AND clicked_at >= $1 AND clicked_at < $2
    $q$, day_of($1), day_of($2))
$$);

-- who is no user, or a test's, does not count
SELECT mill.add_step('daily_pipeline', 'summary', $$
    SELECT mill.replace_interval('daily_products', 'day', $q$
        WITH clicked AS (
            SELECT day_of(clicked_at) AS day, product_id, count(*) AS clicks, count(DISTINCT user_id) AS clickers
            FROM clicks JOIN users USING (user_id)
            WHERE NOT is_test AND clicked_at >= $1 AND clicked_at < $2
            GROUP BY 1, 2
        ), bought AS (
            SELECT day_of(ordered_at) AS day, product_id, count(*) AS orders, count(DISTINCT user_id) AS buyers,
                   sum(amount) AS revenue
            FROM orders JOIN users USING (user_id)
            WHERE NOT is_test AND ordered_at >= $1 AND ordered_at < $2
            GROUP BY 1, 2
        )
        SELECT day, product_id, coalesce(clicks, 0) AS clicks, coalesce(clickers, 0) AS clickers,
               coalesce(orders, 0) AS orders, coalesce(buyers, 0) AS buyers, coalesce(revenue, 0) AS revenue,
               round(coalesce(buyers, 0)::numeric / clickers, 4) AS conversion
        FROM clicked FULL JOIN bought USING (day, product_id)
    $q$, day_of($1), day_of($2))
$$, after => '{orders,clicks}');

-- ---- the week that is there already; the one in which clocks are set, so a day of it has 23 hours ----

SELECT mill.backfill('daily_pipeline', '2026-03-23 01:00 Europe/Berlin',
    '2026-03-30 01:00 Europe/Berlin', parallel => 2);

-- until it has ended, a minute at most
DO $$
BEGIN
    FOR i IN 1..600 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM mill.backfills WHERE finished_at IS NULL);
        PERFORM pg_sleep(0.1);
    END LOOP;
END
$$;

SELECT state, done, failed, running, "left", total FROM mill.backfills;

SELECT (interval_start AT TIME ZONE 'Europe/Berlin')::date AS day,
       max(state) FILTER (WHERE step = 'orders')  AS orders,
       max(state) FILTER (WHERE step = 'clicks')  AS clicks,
       max(state) FILTER (WHERE step = 'summary') AS summary
FROM mill.step_runs WHERE job = 'daily_pipeline'
GROUP BY run_id, interval_start
ORDER BY interval_start;

SELECT (day AT TIME ZONE 'Europe/Berlin')::date AS day, product_id, clicks, clickers, orders, buyers, revenue, conversion
FROM daily_products ORDER BY day, product_id;

-- After a failure, when the data has been mended, what failed and what comes after it is run again:
--   SELECT mill.retry(run_id) FROM mill.job_runs WHERE job = 'daily_pipeline' AND state = 'failed';
-- The whole week once more, with the same result:
--   SELECT mill.backfill('daily_pipeline', '2026-03-23 01:00 Europe/Berlin', '2026-03-30 01:00 Europe/Berlin', 'all');
-- To remove it:
--   SELECT mill.drop_job('daily_pipeline');
--   DROP TABLE users, orders_raw, clicks_raw, orders, clicks, daily_products CASCADE; DROP FUNCTION day_of;
