-- Room: window.
--
-- Windows and sessions: arithmetic against tables of known answers, local time
-- against what AT TIME ZONE shows every 15 minutes, sessions against plain SQL.
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SET IntervalStyle = 'postgres';
SELECT plan(274);
-- another one: PGOPTIONS='-c mill_test.seed=0.5'
SELECT coalesce(nullif(current_setting('mill_test.seed', true), '')::float8, 0.19) AS seed \gset
SELECT diag('seed ' || :'seed');
SELECT setseed(:seed) \gset

---- known answers ----

-- what: the arguments, as SQL; windows: all of them, by start
CREATE FUNCTION windows(what text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE 'SELECT string_agg(format(''[%s, %s)'', window_start, window_end), '' '') FROM mill.' || what INTO answer;
    RETURN coalesce(answer, 'none');
END
$$;

SELECT is(windows(what), expected, name || ': ' || what) FROM (VALUES
    ('CASES 19', $$tumble(timestamptz '2024-05-01 12:05+00', '5 minutes')$$, '[2024-05-01 12:05:00+00, 2024-05-01 12:10:00+00)'),
    ('CASES 19', $$tumble(timestamptz '2024-05-01 12:04:59.999999+00', '5 minutes')$$, '[2024-05-01 12:00:00+00, 2024-05-01 12:05:00+00)'),
    ('CASES 19', $$tumble(timestamp '2024-05-01 00:00', '1 day')$$, '[2024-05-01 00:00:00, 2024-05-02 00:00:00)'),
    ('CASES 19', $$tumble(timestamp '2024-04-30 23:59:59.999999', '1 day')$$, '[2024-04-30 00:00:00, 2024-05-01 00:00:00)'),
    ('CASES 19', $$tumble(timestamptz '2024-05-01 00:00+00', '1 month')$$, '[2024-05-01 00:00:00+00, 2024-06-01 00:00:00+00)'),
    ('CASES 19', $$tumble(date '2024-05-01', '1 month')$$, '[2024-05-01, 2024-06-01)'),
    ('CASES 19', $$tumble(date '2024-05-06', '7 days')$$, '[2024-05-06, 2024-05-13)'),
    ('CASES 19', $$tumble(date '2024-05-05', '1 week')$$, '[2024-04-29, 2024-05-06)'),
    ('CASES 19', $$tumble(10, 10)$$, '[10, 20)'),
    ('CASES 19', $$tumble(9, 10)$$, '[0, 10)'),
    ('CASES 19', $$hop(timestamptz '2024-05-01 12:05+00', '5 minutes', '10 minutes')$$,
     '[2024-05-01 12:00:00+00, 2024-05-01 12:10:00+00) [2024-05-01 12:05:00+00, 2024-05-01 12:15:00+00)'),
    -- origins
    ('origin', $$tumble(timestamptz '2024-05-01 12:05+00', '1 hour', '2030-01-01 00:15+00')$$, '[2024-05-01 11:15:00+00, 2024-05-01 12:15:00+00)'),
    ('origin', $$tumble(timestamp '2024-05-01 05:00', '1 day', '2000-01-01 06:00')$$, '[2024-04-30 06:00:00, 2024-05-01 06:00:00)'),
    ('origin', $$tumble(timestamp '2024-05-05 05:00', '7 days', '2000-01-02')$$, '[2024-05-05 00:00:00, 2024-05-12 00:00:00)'),
    ('origin', $$tumble(timestamp '2024-05-15 05:59', '1 month', '2000-01-15 06:00')$$, '[2024-04-15 06:00:00, 2024-05-15 06:00:00)'),
    ('origin', $$tumble(date '2024-05-14', '1 year', '2000-05-15')$$, '[2023-05-15, 2024-05-15)'),
    ('origin', $$tumble(timestamptz '2024-07-01 03:00+00', '1 day', '2024-01-01 05:00+00', 'Europe/Berlin')$$, '[2024-06-30 04:00:00+00, 2024-07-01 04:00:00+00)'),
    ('origin', $$tumble(7, 10, 8)$$, '[-2, 8)'),
    ('origin', $$tumble(timestamptz '2024-05-05 05:00+00', '7 days', NULL, NULL)$$, '[2024-04-29 00:00:00+00, 2024-05-06 00:00:00+00)'),
    -- a size that is no multiple of the slide; gaps
    ('CASES 20', $$hop(timestamp '2024-05-01 12:05', '5 minutes', '12 minutes')$$,
     '[2024-05-01 11:55:00, 2024-05-01 12:07:00) [2024-05-01 12:00:00, 2024-05-01 12:12:00) [2024-05-01 12:05:00, 2024-05-01 12:17:00)'),
    ('CASES 20', $$hop(timestamp '2024-05-01 12:07', '5 minutes', '12 minutes')$$,
     '[2024-05-01 12:00:00, 2024-05-01 12:12:00) [2024-05-01 12:05:00, 2024-05-01 12:17:00)'),
    ('CASES 20', $$hop(25, 10, 3)$$, 'none'),
    ('CASES 20', $$hop(22, 10, 3)$$, '[20, 23)'),
    ('CASES 20', $$hop(23, 10, 3)$$, 'none'),
    ('CASES 20', $$hop(date '2024-03-01', '1 month', '3 months')$$, '[2024-01-01, 2024-04-01) [2024-02-01, 2024-05-01) [2024-03-01, 2024-06-01)'),
    ('CASES 20', $$hop(timestamptz '2024-03-31 12:00+00', '1 day', '2 days', time_zone => 'Europe/Berlin')$$,
     '[2024-03-29 23:00:00+00, 2024-03-31 22:00:00+00) [2024-03-30 23:00:00+00, 2024-04-01 22:00:00+00)'),
    -- before the origin, 1970, year 1, year 9999, BC
    ('CASES 20', $$tumble(timestamptz '1999-12-31 23:59:59.999999+00', '1 hour')$$, '[1999-12-31 23:00:00+00, 2000-01-01 00:00:00+00)'),
    ('CASES 20', $$tumble(timestamptz '1969-12-31 23:59:59.999999+00', '7 hours', '1970-01-01 00:00+00')$$, '[1969-12-31 17:00:00+00, 1970-01-01 00:00:00+00)'),
    ('CASES 20', $$tumble(timestamp '1969-12-31 12:00', '7 days')$$, '[1969-12-29 00:00:00, 1970-01-05 00:00:00)'),
    ('CASES 20', $$tumble(timestamp '1969-12-31 12:00', '5 months')$$, '[1969-08-01 00:00:00, 1970-01-01 00:00:00)'),
    ('CASES 20', $$tumble(date '1999-12-31', '1 year')$$, '[1999-01-01, 2000-01-01)'),
    ('CASES 20', $$tumble(date '1970-01-01', '2 days', '1970-01-02')$$, '[1969-12-31, 1970-01-02)'),
    ('CASES 20', $$tumble(-1, 10)$$, '[-10, 0)'),
    ('CASES 20', $$tumble(-10, 10)$$, '[-10, 0)'),
    ('CASES 20', $$hop(-1, 4, 6)$$, '[-4, 2)'),
    ('CASES 20', $$hop(-3, 4, 6)$$, '[-8, -2) [-4, 2)'),
    ('CASES 20', $$tumble(timestamptz '0001-01-01 00:00+00', '1 minute')$$, '[0001-01-01 00:00:00+00, 0001-01-01 00:01:00+00)'),
    ('CASES 20', $$tumble(timestamp '0001-01-01 00:00', '1 day')$$, '[0001-01-01 00:00:00, 0001-01-02 00:00:00)'),
    ('CASES 20', $$tumble(timestamp '0001-12-31 00:00', '1 year')$$, '[0001-01-01 00:00:00, 0002-01-01 00:00:00)'),
    ('CASES 20', $$tumble(date '0001-01-31', '1 month')$$, '[0001-01-01, 0001-02-01)'),
    ('CASES 20', $$tumble(timestamptz '9999-12-31 23:59:59.999999+00', '1 hour')$$, '[9999-12-31 23:00:00+00, 10000-01-01 00:00:00+00)'),
    ('CASES 20', $$tumble(timestamptz '9999-12-31 23:59:59.999999+00', '1 year')$$, '[9999-01-01 00:00:00+00, 10000-01-01 00:00:00+00)'),
    ('CASES 20', $$tumble(timestamptz '9999-07-31 12:00+00', '1 day', time_zone => 'America/New_York')$$, '[9999-07-31 04:00:00+00, 9999-08-01 04:00:00+00)'),
    ('CASES 20', $$tumble(date '9999-12-31', '1 day')$$, '[9999-12-31, 10000-01-01)'),
    ('CASES 20', $$tumble(timestamp '0044-03-15 12:00 BC', '1 month')$$, '[0044-03-01 00:00:00 BC, 0044-04-01 00:00:00 BC)'),
    ('CASES 20', $$tumble(date '4713-01-01 BC', '1 month')$$, '[4713-01-01 BC, 4713-02-01 BC)'),
    ('CASES 20', $$tumble(timestamp '294276-12-31 22:59', '1 hour')$$, '[294276-12-31 22:00:00, 294276-12-31 23:00:00)'),
    -- no event time, no window
    ('CASES 20', $$tumble(NULL::timestamptz, '1 hour')$$, 'none'),
    ('CASES 20', $$tumble(timestamptz 'infinity', '1 hour')$$, 'none'),
    ('CASES 20', $$tumble(timestamptz '-infinity', '1 day')$$, 'none'),
    ('CASES 20', $$tumble(timestamp 'infinity', '1 month')$$, 'none'),
    ('CASES 20', $$tumble(date '-infinity', '1 day')$$, 'none'),
    ('CASES 20', $$tumble(NULL::bigint, 1)$$, 'none'),
    ('CASES 20', $$hop(timestamptz 'infinity', '1 hour', '2 hours')$$, 'none'),
    ('CASES 20', $$hop(NULL::date, '1 day', '2 days')$$, 'none'),
    -- a midnight that does not exist, one that exists twice, a date that does not exist
    ('CASES 21', $$tumble(timestamptz '2024-03-10 12:00+00', '1 day', time_zone => 'America/Havana')$$, '[2024-03-10 05:00:00+00, 2024-03-11 04:00:00+00)'),
    ('CASES 21', $$tumble(timestamptz '2024-11-03 05:30+00', '1 day', time_zone => 'America/Havana')$$, '[2024-11-03 04:00:00+00, 2024-11-04 05:00:00+00)'),
    ('CASES 21', $$tumble(timestamptz '2006-10-29 02:45+00', '1 day', time_zone => 'America/St_Johns')$$, '[2006-10-29 02:30:00+00, 2006-10-30 03:30:00+00)'),
    ('CASES 21', $$tumble(timestamptz '2011-12-30 09:59+00', '1 day', time_zone => 'Pacific/Apia')$$, '[2011-12-29 10:00:00+00, 2011-12-30 10:00:00+00)'),
    ('CASES 21', $$tumble(timestamptz '2011-12-30 10:00+00', '1 day', time_zone => 'Pacific/Apia')$$, '[2011-12-30 10:00:00+00, 2011-12-31 10:00:00+00)'),
    ('CASES 21', $$tumble(timestamptz '2024-04-07 00:00+11', '1 day', time_zone => 'Australia/Lord_Howe')$$, '[2024-04-06 13:00:00+00, 2024-04-07 13:30:00+00)'),
    ('CASES 21', $$tumble(timestamptz '2024-02-29 12:00+00', '3 months', time_zone => 'Asia/Kathmandu')$$, '[2023-12-31 18:15:00+00, 2024-03-31 18:15:00+00)')
) AS t (name, what, expected);

---- the functions agree with each other ----

CREATE TABLE moments AS
SELECT timestamptz '1950-01-01' + random() * interval '100 years' AS at FROM generate_series(1, 3000);

SELECT is_empty(format($$
    (SELECT at, w.* FROM moments, mill.hop(at%1$s, %2$s, %2$s) w
     EXCEPT ALL SELECT at, w.* FROM moments, mill.tumble(at%1$s, %2$s) w)
    UNION ALL
    (SELECT at, w.* FROM moments, mill.tumble(at%1$s, %2$s) w
     EXCEPT ALL SELECT at, w.* FROM moments, mill.hop(at%1$s, %2$s, %2$s) w)$$, cast_to, size),
    format('CASES 19: hop with slide = size equals tumble, at%s, %s', cast_to, size))
FROM (VALUES ('', '''17 minutes'''), ('', '''3 days'''), ('::timestamp', '''5 months'''), ('::date', '''11 days''')) AS t (cast_to, size);

-- all starts k * slide are tried
SELECT is_empty($$
    WITH n AS (SELECT (random() * 2000 - 1000)::bigint AS at, (random() * 20)::int + 1 AS slide, (random() * 50)::int + 1 AS size,
                      (random() * 30)::int - 15 AS origin FROM generate_series(1, 300)),
    oracle AS (SELECT at, slide, size, origin, origin + k * slide::bigint, origin + k * slide::bigint + size
               FROM n, generate_series(-1100, 1100) k WHERE at >= origin + k * slide AND at < origin + k * slide + size),
    ours AS (SELECT at, slide, size, origin, w.* FROM n, mill.hop(at, slide, size, origin) w)
    (SELECT * FROM oracle EXCEPT ALL SELECT * FROM ours) UNION ALL (SELECT * FROM ours EXCEPT ALL SELECT * FROM oracle)$$,
    'CASES 20: hop of numbers is every window that holds them');
SELECT is_empty($$
    WITH oracle AS (SELECT at, s, s + interval '23 minutes' FROM moments, generate_series(
                        date_bin('7 minutes', at, '2000-01-03') - interval '28 minutes', at, '7 minutes') s
                    WHERE s + interval '23 minutes' > at),
    ours AS (SELECT at, w.* FROM moments, mill.hop(at, '7 minutes', '23 minutes') w)
    (SELECT * FROM oracle EXCEPT ALL SELECT * FROM ours) UNION ALL (SELECT * FROM ours EXCEPT ALL SELECT * FROM oracle)$$,
    'CASES 20: hop of times is every window that holds them');

SELECT is_empty($$SELECT at FROM moments, unnest('{5 minutes,1 day,7 days,1 month}'::interval[]) size,
                  unnest('{Europe/Berlin,America/Havana}'::text[]) zone, mill.tumble(at, size, time_zone => zone) w
                  WHERE w.window_start <> mill.window_start(at, size, NULL, zone)
                     OR w.window_end <> mill.window_end(w.window_start, size, time_zone => zone)
                     OR w.window_start <> mill.window_start(w.window_start, size, NULL, zone)$$,
                'tumble, window_start and window_end agree');
-- the constant form is the one that the planner makes cheaper
SELECT is_empty($$SELECT at FROM moments, (VALUES (interval '7 minutes')) AS v (size)
                  WHERE mill.window_start(at, '7 minutes', '1999-01-01 00:03') <> mill.window_start(at, size, '1999-01-01 00:03')
                     OR mill.window_start(at, '7 minutes') <> date_bin('7 minutes', at, '2000-01-03')
                     OR mill.window_start(at::timestamp, '7 minutes') <> mill.window_start(at::timestamp, size)$$,
                'constant and other widths give the same');
SELECT is(mill.window_end(timestamptz '2024-03-10 05:00+00', '1 day', time_zone => 'America/Havana'), '2024-03-11 04:00+00',
    'CASES 21: a window that begins at one o''clock ends at midnight');

-- arguments that change from row to row, and variables of PL/pgSQL, whose expressions live on
CREATE FUNCTION starts(sizes interval[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    size interval;
    answer text := '';
BEGIN
    FOREACH size IN ARRAY sizes LOOP
        answer := answer || mill.window_start(timestamp '2024-05-15 12:34', size) || ' ';
    END LOOP;
    RETURN answer;
END
$$;
SELECT is(starts('{1 hour,1 day,1 month,10 minutes}'),
    '2024-05-15 12:00:00 2024-05-15 00:00:00 2024-05-01 00:00:00 2024-05-15 12:30:00 ', 'a width may be a variable');
SELECT is((SELECT array_agg(mill.window_start(timestamptz '2024-05-15 12:34+00', '1 day', NULL, zone) ORDER BY n)
           FROM unnest('{Europe/Berlin,NULL,America/New_York,Asia/Kathmandu,Europe/Berlin}'::text[]) WITH ORDINALITY AS z (zone, n)),
    '{2024-05-14 22:00+00,2024-05-15 00:00+00,2024-05-15 04:00+00,2024-05-14 18:15+00,2024-05-14 22:00+00}'::timestamptz[],
    'a zone may be a column');

---- local time, against what a clock on the wall shows every 15 minutes ----

CREATE TABLE zone AS SELECT unnest('{Europe/Berlin,America/New_York,Australia/Lord_Howe,America/Havana,Asia/Kathmandu}'::text[]) AS name;
-- in no order: a call keeps the window it last found
CREATE TABLE clock AS SELECT name AS zone, at, (at AT TIME ZONE name)::date AS day
FROM zone, generate_series(timestamptz '2023-11-20', '2025-02-10', '15 minutes') at ORDER BY random();
CREATE TABLE first_instant AS SELECT zone, day, min(at) AS at FROM clock GROUP BY zone, day;
CREATE UNIQUE INDEX ON first_instant (zone, day);
ANALYZE clock, first_instant;

-- local: the date on which the period of a day begins, and the next one
CREATE FUNCTION wrong_windows(of_zone text, size interval, begins text, next_begins text)
RETURNS TABLE (at timestamptz, start_found timestamptz, start_expected timestamptz, end_found timestamptz, end_expected timestamptz)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT c.at, w.window_start, s.at, w.window_end, e.at FROM clock c
        JOIN first_instant s ON s.zone = c.zone AND s.day = %s JOIN first_instant e ON e.zone = c.zone AND e.day = %s
        LEFT JOIN mill.tumble(c.at, $2, time_zone => c.zone) w ON true
        WHERE c.zone = $1 AND c.at >= ''2024-01-01'' AND c.at < ''2025-01-01''
          AND (w.window_start, w.window_end) IS DISTINCT FROM (s.at, e.at)', begins, next_begins) USING of_zone, size;
END
$$;
SELECT is_empty(format('SELECT * FROM wrong_windows(%L, %L, %L, %L)', zone.name, size, begins, next_begins),
    format('CASES 21: %s in %s', size, zone.name))
FROM zone, (VALUES ('1 day'::interval, 'c.day', 'c.day + 1'),
    ('7 days', 'c.day - (c.day - date ''2000-01-03'') % 7', 'c.day - (c.day - date ''2000-01-03'') % 7 + 7'),
    ('1 month', 'date_trunc(''month'', c.day)::date', '(date_trunc(''month'', c.day) + interval ''1 month'')::date')) AS t (size, begins, next_begins);
SELECT set_eq($$SELECT w.window_end - w.window_start FROM clock c, mill.tumble(c.at, '1 day', time_zone => c.zone) w
                WHERE c.zone IN ('Europe/Berlin', 'America/Havana')$$,
    '{23:00:00,24:00:00,25:00:00}'::interval[], 'CASES 21: days of 23, 24 and 25 hours');
SELECT set_eq($$SELECT w.window_end - w.window_start FROM clock c, mill.tumble(c.at, '1 day', time_zone => c.zone) w
                WHERE c.zone = 'Australia/Lord_Howe'$$,
    '{23:30:00,24:00:00,24:30:00}'::interval[], 'CASES 21: days with a change of half an hour');

SET TimeZone = 'America/Havana';
SELECT is_empty($$SELECT c.at FROM clock c, mill.tumble(at, '1 day') s, mill.tumble(at, '1 day', time_zone => 'America/Havana') n
                  WHERE c.zone = 'America/Havana' AND (s.window_start <> n.window_start OR s.window_end <> n.window_end)$$,
    'CASES 21: without a zone, the session''s');
SET TimeZone = 'UTC';

-- every instant is in its window, and each window ends where the next one begins
CREATE FUNCTION holes(of_zone text, starting timestamptz, ending timestamptz, size interval)
RETURNS TABLE (window_start timestamptz, window_end timestamptz, next_start timestamptz) LANGUAGE sql AS $$
    WITH t AS MATERIALIZED (SELECT at FROM generate_series(starting, ending, '30 minutes') at ORDER BY random()),
    f AS MATERIALIZED (SELECT t.at, w.* FROM t LEFT JOIN mill.tumble(t.at, size, time_zone => of_zone) w ON true),
    n AS (SELECT w.*, lead(w.window_start) OVER (ORDER BY w.window_start) AS next_start
          FROM (SELECT DISTINCT f.window_start, f.window_end FROM f) w)
    SELECT n.* FROM n WHERE n.window_end <> n.next_start OR n.window_end <= n.window_start
    UNION ALL
    SELECT f.* FROM f WHERE (f.at >= f.window_start AND f.at < f.window_end) IS NOT TRUE
$$;
SELECT is_empty(format('SELECT * FROM holes(%L, %L, %L, %L)', name, starting, ending, size),
    format('CASES 21: no hole and no overlap in %s, %s', name, size))
FROM (SELECT name, '2022-01-01' AS starting, '2024-12-31' AS ending FROM zone
      UNION ALL SELECT 'America/St_Johns', '2000-01-01', '2010-12-31'
      UNION ALL SELECT 'Pacific/Apia', '2011-01-01', '2012-12-31') z,
     unnest('{1 day,7 days,1 month}'::interval[]) size;

---- sessions ----

-- NULLs and infinities are in no session
CREATE TABLE events AS
SELECT (random() * 20)::int AS user_id,
       CASE WHEN random() < 0.01 THEN NULL WHEN random() < 0.01 THEN 'infinity'
            ELSE date_trunc('minute', timestamptz '2024-03-01' + random() * interval '40 days') END AS at
FROM generate_series(1, 20000);

CREATE FUNCTION wrong_sessions(type text, gap text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format($q$
        WITH e AS (SELECT user_id, %1$s AS at FROM events WHERE isfinite(at)),
        flagged AS (SELECT user_id, at, (at - lag(at) OVER u < %2$s) IS NOT TRUE AS first FROM e WINDOW u AS (PARTITION BY user_id ORDER BY at)),
        numbered AS (SELECT user_id, at, count(*) FILTER (WHERE first) OVER (PARTITION BY user_id ORDER BY at) AS n FROM flagged),
        oracle AS (SELECT user_id, min(at), max(at) + %2$s, count(*) FROM numbered GROUP BY user_id, n),
        ours AS (SELECT user_id, session_start, mill.session_end(at, %2$s), count(*)
                 FROM (SELECT user_id, at, mill.session_start(at, %2$s) OVER (PARTITION BY user_id ORDER BY at) FROM e) s
                 GROUP BY user_id, session_start)
        SELECT o::text FROM (SELECT * FROM oracle EXCEPT ALL SELECT * FROM ours) o
        UNION ALL SELECT o::text FROM (SELECT * FROM ours EXCEPT ALL SELECT * FROM oracle) o$q$, type, gap);
END
$$;
SELECT is_empty(format('SELECT wrong_sessions(%L, %L)', type, gap), format('CASES 23: sessions of %s, gap %s', type, gap))
FROM (VALUES ('at', 'interval ''30 minutes'''), ('at', 'interval ''1 day 2 hours'''), ('at::timestamp', 'interval ''45 minutes'''),
    ('extract(epoch from at)::bigint', '1800::bigint')) AS t (type, gap);
SELECT is_empty($$SELECT user_id, day, s FROM (SELECT user_id, at::date AS day, mill.session_start(at::date, interval '2 days')
                      OVER (PARTITION BY user_id ORDER BY at::date) AS s FROM events WHERE user_id < 3 AND extract(day FROM at)::int % 3 = 0) x
                  WHERE s <> day AND NOT EXISTS (SELECT FROM events e WHERE e.user_id = x.user_id AND e.at::date = day - 1
                                                   AND extract(day FROM e.at)::int % 3 = 0)$$, 'CASES 23: sessions of dates');
SELECT results_eq($$SELECT at, mill.session_start(at, 10) OVER (ORDER BY at) FROM unnest('{1,10,20,29,39}'::bigint[]) at$$,
    $$VALUES (1::bigint, 1::bigint), (10, 1), (20, 20), (29, 20), (39, 39)$$, 'CASES 23: less than the gap merges, the gap separates');
SELECT results_eq($$SELECT at, mill.session_start(at, '1 hour') OVER (ORDER BY at)
                    FROM unnest('{-infinity,2024-01-01 00:00,2024-01-01 00:30,infinity,NULL}'::timestamp[]) at$$,
    $$VALUES ('-infinity'::timestamp, NULL::timestamp), ('2024-01-01 00:00', '2024-01-01 00:00'), ('2024-01-01 00:30', '2024-01-01 00:00'),
             ('infinity', NULL), (NULL, NULL)$$, 'CASES 20: neither NULL nor an infinity is in a session');
SELECT is((SELECT mill.session_end(at, '1 hour') FROM unnest('{NULL,infinity}'::timestamptz[]) at), NULL, 'a session of none has no end');
SELECT is((SELECT mill.session_end(at, '1 day 1 hour') FROM unnest('{NULL,2024-03-31,2024-03-30,infinity}'::timestamptz[]) at),
    '2024-04-01 01:00', 'a day of a gap has 24 hours');

---- in FROM, in place ----

-- The planner puts the windows of mill.tumble where they are used. plain.tumble gives the same by a function that is called.
CREATE SCHEMA plain;
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN SELECT replace(pg_get_functiondef(oid), 'mill.tumble', 'plain.tumble') AS definition, proargnames[1:pronargs] AS names, pronargs
             FROM pg_proc WHERE oid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'mill'::regnamespace AND proname = 'tumble') LOOP
        EXECUTE regexp_replace(regexp_replace(f.definition, 'LANGUAGE sql', 'LANGUAGE plpgsql'), 'BEGIN ATOMIC.*',
            'AS $q$ BEGIN RETURN QUERY SELECT t.* FROM mill.tumble(' || (SELECT string_agg('$' || i, ', ') FROM generate_series(1, f.pronargs) i) || ') t; END $q$');
    END LOOP;
END
$$;
CREATE TABLE e (id int, at timestamptz, n bigint, grp int);
INSERT INTO e SELECT i, timestamptz '2024-03-30 20:00+00' + i * interval '7 minutes', i - 50, i % 3 FROM generate_series(1, 300) i;
INSERT INTO e VALUES (1001, NULL, NULL, 1), (1002, 'infinity', 7, NULL), (1003, '-infinity', -7, 2);
CREATE TABLE f AS SELECT id, at + interval '3 minutes' AS at FROM e WHERE id % 4 = 0;
ANALYZE e, f;
CREATE VIEW ev AS SELECT e.id, e.grp, w.* FROM e, mill.tumble(e.at, '1 hour') w;
CREATE VIEW plain.ev AS SELECT e.id, e.grp, w.* FROM e, plain.tumble(e.at, '1 hour') w;

-- place: whether they are put in place, or left to core
CREATE TEMP TABLE in_place (what text, place boolean, query text);
INSERT INTO in_place VALUES
    ('a join', true, $$SELECT id, window_start, window_end FROM e, mill.tumble(at, '1 hour')$$),
    ('grouped by both', true, $$SELECT window_start, window_end, count(*), min(window_end - at) FROM e, mill.tumble(at, '30 minutes') GROUP BY 1, 2$$),
    ('HAVING', true, $$SELECT window_start, count(*) FROM e, mill.tumble(at, '1 hour') GROUP BY window_start, window_end HAVING window_end > '2024-03-31' AND count(*) > 3$$),
    ('grouping sets', false, $$SELECT window_start, window_end, grp, count(*), grouping(window_end) FROM e, mill.tumble(at, '3 hours') GROUP BY GROUPING SETS ((1, 2), (3), ())$$),
    ('ROLLUP of expressions', false, $$SELECT window_start::date AS d, window_end, count(*) FROM e, mill.tumble(at, '6 hours') GROUP BY ROLLUP (1, 2)$$),
    ('ROLLUP and a sublink', false, $$SELECT w.window_start, (SELECT w.window_start), (SELECT count(*) FROM f WHERE f.at >= w.window_start), count(*) FROM e, mill.tumble(at, '6 hours') w GROUP BY ROLLUP (1)$$),
    ('ROLLUP of the whole row', false, $$SELECT w, w IS NULL, count(*) FROM e, mill.tumble(n, 10) w GROUP BY ROLLUP (w)$$),
    ('grouping sets of equal windows', false, $$SELECT w.window_start, x.window_start, coalesce(x.window_start, -1), count(*) FROM e, mill.tumble(n, 10) w, mill.tumble(n, 10) x WHERE id < 5 GROUP BY GROUPING SETS ((w.window_start), (x.window_start))$$),
    ('grouping sets and a call of the user''s', false, $$SELECT w.window_start, n, mill.window_start(e.n, 10) FROM e, mill.tumble(n, 10) w GROUP BY GROUPING SETS ((w.window_start), (e.n))$$),
    ('grouping sets of a constant', false, $$SELECT coalesce(w.window_start, -1), grp, count(*) FROM e, mill.tumble(5::bigint, 10::bigint) w GROUP BY GROUPING SETS ((w.window_start), (grp)) HAVING w.window_start IS NULL OR grp IS NULL$$),
    ('below a query with grouping sets', true, $$SELECT window_start, grp, count(*), (SELECT count(*) FROM f, mill.tumble(f.at, '6 hours') x WHERE x.window_start = s.window_start) FROM (SELECT grp, w.* FROM e, mill.tumble(at, '6 hours') w) s GROUP BY CUBE (1, 2)$$),
    ('conditions of joins first', true, $$SELECT count(*) FROM e JOIN mill.tumble(n, 10) w ON n + 0 <> 0 WHERE 10 / n > -1000$$),
    ('DISTINCT and ORDER BY', true, $$SELECT DISTINCT window_end FROM e, mill.tumble(at, '2 hours') ORDER BY window_end DESC LIMIT 3$$),
    ('DISTINCT ON', true, $$SELECT DISTINCT ON (window_start) window_start, id FROM e, mill.tumble(at, '2 hours') ORDER BY window_start, id$$),
    ('window functions', true, $$SELECT id, rank() OVER (PARTITION BY window_start ORDER BY id), window_end FROM e, mill.tumble(at, '1 hour')$$),
    ('the whole row', true, $$SELECT id, w, (w).window_end, w IS NULL FROM e, mill.tumble(at, '1 hour') w$$),
    ('the whole row, grouped', true, $$SELECT w, count(*), to_jsonb(w) FROM e, mill.tumble(at, '1 hour') w GROUP BY w$$),
    ('a day in a zone', true, $$SELECT id, w.* FROM e, mill.tumble(at, '1 day', time_zone => 'Europe/Berlin') w$$),
    ('arguments by name', true, $$SELECT id, w.* FROM e, mill.tumble(size => '1 hour', origin => '2024-01-01 00:10+00', ts => at) w$$),
    ('a month of timestamps', true, $$SELECT id, w.* FROM e, mill.tumble(at AT TIME ZONE 'UTC', '1 month') w$$),
    ('dates', true, $$SELECT id, w.* FROM e, mill.tumble(at::date, '1 week') w$$),
    ('numbers', true, $$SELECT id, w.* FROM e, mill.tumble(n, 10, 3) w$$),
    ('a size for each row', true, $$SELECT id, w.* FROM e, mill.tumble(at, id % 5 * interval '1 hour' + '1 hour') w$$),
    ('of an expression that may be null', true, $$SELECT id, w.* FROM e, mill.tumble(nullif(n, 3), 10) w WHERE window_start < 100$$),
    ('windows of windows', true, $$SELECT id, w.*, x.* FROM e, mill.tumble(at, '1 hour') w, mill.tumble(w.window_start, '1 day') x$$),
    ('two tables', true, $$SELECT e.id, f.id, w.window_start FROM e, f, mill.tumble(e.at, '1 hour') w, mill.tumble(f.at, '1 hour') x WHERE w.window_start = x.window_start$$),
    ('beside an outer join', true, $$SELECT e.id, f.id, w.* FROM e LEFT JOIN f USING (id), mill.tumble(coalesce(f.at, e.at), '1 hour') w$$),
    ('of the optional side', true, $$SELECT e.id, w.* FROM e LEFT JOIN f USING (id), mill.tumble(f.at, '1 hour') w$$),
    ('used in a sublink', true, $$SELECT id, (SELECT count(*) FROM f WHERE f.at >= window_start AND f.at < window_end) FROM e, mill.tumble(at, '1 hour')$$),
    ('used two levels down', true, $$SELECT id FROM e, mill.tumble(at, '1 hour') w WHERE EXISTS (SELECT FROM f WHERE f.at > w.window_start AND f.id IN (SELECT e.id FROM e WHERE at < w.window_end))$$),
    ('used laterally', true, $$SELECT e.id, l.* FROM e, mill.tumble(at, '1 hour') w, LATERAL (SELECT count(*), w.window_end FROM f WHERE f.at BETWEEN w.window_start AND w.window_end) l$$),
    ('used by another function', true, $$SELECT id, g FROM e, mill.tumble(at, '1 hour') w, generate_series(w.window_start, w.window_end, '20 minutes') g$$),
    ('in a CTE', true, $$WITH c AS MATERIALIZED (SELECT id, w.* FROM e, mill.tumble(at, '1 hour') w) SELECT * FROM c WHERE id % 2 = 0$$),
    ('used in a CTE of a sublink', true, $$SELECT id, (WITH c AS MATERIALIZED (SELECT window_start AS s) SELECT s FROM c) FROM e, mill.tumble(at, '1 hour')$$),
    ('in UNION ALL', true, $$SELECT window_start FROM e, mill.tumble(at, '1 hour') UNION ALL SELECT window_end FROM f, mill.tumble(at, '1 hour')$$),
    ('in EXCEPT', true, $$SELECT window_start FROM e, mill.tumble(at, '1 hour') EXCEPT SELECT window_end FROM f, mill.tumble(at, '20 minutes')$$),
    ('in a view', true, $$SELECT window_end, count(*) FROM mill.ev GROUP BY 1$$),
    ('in a view that is joined', true, $$SELECT f.id, v.* FROM f LEFT JOIN mill.ev v USING (id)$$),
    ('of an outer query''s column', true, $$SELECT id, (SELECT count(*) FROM f, mill.tumble(e.at, '1 hour') w WHERE f.at >= window_start AND f.at < window_end) FROM e$$),
    ('CROSS JOIN LATERAL', true, $$SELECT id, w.* FROM e CROSS JOIN LATERAL mill.tumble(at, '1 hour') w$$),
    ('a named join', true, $$SELECT j, j.id, j.window_end FROM (e CROSS JOIN mill.tumble(at, '1 hour')) j$$),
    ('inner joins above it', true, $$SELECT e.id, f.id FROM f, (e AS g JOIN mill.tumble(f.at, '1 hour') w ON g.at > w.window_end) JOIN e ON e.at BETWEEN w.window_start AND g.at WHERE g.id < 50$$),
    ('the first of a join', true, $$SELECT e.id, f.id FROM e, mill.tumble(e.at, '1 hour') w JOIN f ON f.at BETWEEN w.window_start AND w.window_end$$),
    ('below an outer join', false, $$SELECT e.id, f.id, w.* FROM e CROSS JOIN LATERAL mill.tumble(at, '1 hour') w LEFT JOIN f ON f.at BETWEEN w.window_start AND w.window_end$$),
    ('optional, in a join', false, $$SELECT f.id, w.* FROM f LEFT JOIN (e CROSS JOIN mill.tumble(e.at, '1 hour') w) ON f.id = e.id$$),
    ('JOIN USING', true, $$SELECT e.id, w.window_end FROM e JOIN f USING (id) JOIN mill.tumble(f.at, '1 hour') w ON e.at < window_end$$),
    ('JOIN ... ON', true, $$SELECT id, w.* FROM e JOIN mill.tumble(at, '1 hour') w ON window_start > '2024-03-31'$$),
    ('LEFT JOIN', false, $$SELECT id, w.* FROM e LEFT JOIN mill.tumble(at, '1 hour') w ON true$$),
    ('whose windows are optional', false, $$SELECT e.id, w.*, f.id FROM e, f RIGHT JOIN mill.tumble(timestamptz '2024-03-31 00:00+00', '1 hour') w ON f.at > w.window_start AND f.at < w.window_end$$),
    ('alone', false, $$SELECT * FROM mill.tumble(timestamptz '2024-03-31 00:00+00', '1 hour')$$),
    ('with ordinality', false, $$SELECT id, w.* FROM e, mill.tumble(at, '1 hour') WITH ORDINALITY w (s, e, o)$$),
    ('in ROWS FROM', false, $$SELECT id, w.* FROM e, ROWS FROM (mill.tumble(at, '1 hour'), generate_series(1, 2)) w (s, e, g)$$),
    ('of a sublink', false, $$SELECT id, w.* FROM e, mill.tumble((SELECT max(f.at) FROM f WHERE f.id <= e.id), '1 hour') w$$),
    ('volatile', false, $$SELECT count(*), count(DISTINCT window_end - window_start) FROM e, mill.tumble(at + random() * interval '0', '1 hour') w$$);
UPDATE in_place SET query = replace(query, 'mill.ev', 'public.ev');

CREATE FUNCTION plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (costs off, verbose) ' || query;
END
$$;
CREATE FUNCTION rows_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT x::text FROM (%s) x', query);
END
$$;
SELECT bag_eq(format('SELECT rows_of(%L)', query),
              format('SELECT rows_of(%L)', replace(replace(query, 'mill.tumble', 'plain.tumble'), 'public.ev', 'plain.ev')), 'windows in place: ' || what)
FROM in_place;
SELECT isnt((SELECT count(*) FROM rows_of(query)), 0::bigint, 'windows in place, rows: ' || what) FROM in_place;
-- neither a call nor the empty row that core leaves (up to 16)
SELECT is((SELECT count(*) FROM plan_of(query) p WHERE p ~ '(^|->)\s+Result|^Result|Function Scan on (mill.tumble|"?w"?$|pg_catalog.generate_series.*w)'), 0::bigint,
    'windows in place, plan: ' || what) FROM in_place WHERE place AND what NOT IN ('used in a CTE of a sublink', 'used laterally', 'of an outer query''s column');
-- what the user may not do, and what the owner has changed, stays
PREPARE in_plan AS SELECT count(*) FROM e, mill.tumble(at, '1 hour');
SET plan_cache_mode = force_generic_plan;
EXECUTE in_plan \gset
BEGIN;
REVOKE EXECUTE ON FUNCTION mill.tumble(timestamptz, interval, timestamptz, text) FROM PUBLIC;
CREATE ROLE nobody_special;
GRANT USAGE ON SCHEMA mill TO nobody_special;
GRANT SELECT ON e TO nobody_special;
SET LOCAL ROLE nobody_special;
SAVEPOINT s;
SELECT throws_ok($$SELECT count(*) FROM e, mill.tumble(at, '1 hour')$$, '42501', NULL, 'without EXECUTE on mill.tumble');
SELECT throws_ok('EXECUTE in_plan', '42501', NULL, 'nor by a plan that is kept');
ROLLBACK;
BEGIN;
ALTER FUNCTION mill.tumble(timestamptz, interval, timestamptz, text) SET timezone = 'Asia/Tokyo';
SELECT isnt_empty($$SELECT FROM plan_of('SELECT count(*) FROM e, mill.tumble(at, ''1 hour'')') p WHERE p ~ 'Function Scan on mill.tumble'$$,
    'with settings of its own it is called');
SELECT isnt_empty($$SELECT FROM plan_of('EXECUTE in_plan') p WHERE p ~ 'Function Scan on mill.tumble'$$, 'and a plan that is kept is made anew');
ROLLBACK;
BEGIN;
CREATE OR REPLACE FUNCTION mill.tumble(ts bigint, size bigint, origin bigint DEFAULT 0) RETURNS TABLE (window_start bigint, window_end bigint)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 1 BEGIN ATOMIC SELECT g, g + size FROM generate_series(ts, ts + 1) g; END;
SELECT results_eq('SELECT count(*), sum(window_start - n) FROM e, mill.tumble(n, 10) WHERE id <= 300', 'VALUES (600::bigint, 300::numeric)', 'with another body it is called');
ROLLBACK;
RESET plan_cache_mode;
DEALLOCATE in_plan;

SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
ALTER TABLE events SET (parallel_workers = 2);
SELECT is((SELECT mill.session_end(at, '1 hour') FROM events), (SELECT max(at) + interval '1 hour' FROM events WHERE at < 'infinity'),
    'session_end in parallel');
SELECT isnt_empty($$SELECT FROM plan_of('SELECT mill.session_end(at, ''1 hour'') FROM events') p WHERE p LIKE '%Partial Aggregate%'$$,
    'session_end is combined from partial results');
SELECT isnt_empty($$SELECT FROM plan_of('SELECT window_start, count(*) FROM events, mill.tumble(at, ''1 day'') GROUP BY 1') p WHERE p LIKE '%Parallel Seq Scan%'$$,
    'windows do not hinder parallel plans');

---- what is promised of every function ----

SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'mill'::regnamespace
                  AND proname IN ('tumble', 'hop', 'window_start', 'window_end', 'session_start', 'session_end')
                  AND (proparallel <> 's' OR obj_description(oid, 'pg_proc') IS NULL OR provolatile <>
                       CASE WHEN proname NOT LIKE 'session%' AND proargtypes[0] = 'timestamptz'::regtype THEN 's' ELSE 'i' END)$$,
    'volatility, parallel safety and comments');
SELECT is((SELECT count(*) FROM pg_proc WHERE pronamespace = 'mill'::regnamespace
           AND proname IN ('tumble', 'hop', 'window_start', 'window_end', 'session_start', 'session_end')), 24::bigint, 'six functions for four types');

SELECT * FROM finish();
