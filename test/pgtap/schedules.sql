-- Room: job.
--
-- Schedules: what cron's fields accept and refuse, and when they fire. Expected is what
-- plain SQL says of the same sets of values, over every minute of the days around each
-- change of the clock in ten zones.
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT coalesce(nullif(current_setting('mill_test.seed', true), '')::float8, 0.23) AS seed \gset
SELECT diag('seed ' || :'seed');
SELECT setseed(:seed) \gset
SELECT * FROM no_plan();

---- what is refused, and where ----

CREATE FUNCTION refusal(schedule text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    PERFORM mill.next_runs(schedule);
    RETURN 'accepted';
EXCEPTION WHEN data_exception THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN substring(detail FROM 'character (\d+)') || coalesce(' ' || substring(detail FROM 'field "([^"]*)"'), '');
END
$$;

SELECT is(refusal(s), expected, 'CASES 30: refused: ' || quote_literal(s)) FROM (VALUES
    ('0 0 * *', '8 day of the week'), ('0 0 * * * *', '11'), ('', '1 minute'), ('   ', '4 minute'), ('*', '2 hour'),
    ('60 * * * *', '1 minute'), ('* 24 * * *', '3 hour'), ('* * 0 * *', '5 day of the month'), ('* * 32 * *', '5 day of the month'),
    ('* * * 0 *', '7 month'), ('* * * 13 *', '7 month'), ('* * * * 8', '9 day of the week'), ('*/0 * * * *', '3 minute'),
    ('*/60 * * * *', '3 minute'), ('*/ * * * *', '3 minute'), ('1,,2 * * * *', '3 minute'), ('1, * * * *', '3 minute'), (',1 * * * *', '1 minute'),
    ('-5 * * * *', '1 minute'), ('5- * * * *', '3 minute'), ('5--6 * * * *', '3 minute'), ('1-2-3 * * * *', '4 minute'), ('1; * * * *', '2 minute'),
    ('1. * * * *', '2 minute'), ('1.5 * * * *', '2 minute'), ('0 0 15W * *', '7 day of the month'), ('0 0 LW * *', '5 day of the month'),
    ('0 0 L-3 * *', '6 day of the month'), ('0 0 * * sunday', '9 day of the week'), ('0 0 * january *', '7 month'), ('0 0 * * mo', '9 day of the week'),
    ('0 0 * foo *', '7 month'), ('jan * * * *', '1 minute'), ('0 mon * * *', '3 hour'), ('99999999999999999999 * * * *', '1 minute'),
    ('0 0 * * 5#0', '11 day of the week'), ('0 0 * * 5#6', '11 day of the week'), ('0 0 * * 5#', '11 day of the week'), ('0 0 5#1 * *', '6 day of the month'),
    ('0 0 * * fri#1-2', '14 day of the week'), ('* * * * *x', '10 day of the week'), ('** * * * *', '2 minute'), ('*-5 * * * *', '2 minute'), ('?  * * * *', '1 minute'),
    ('+5 * * * *', '1 minute'), ('0x5 * * * *', '2 minute'), ('５ * * * *', '1 minute'), ('0 0 30 2 *', '5 day of the month'), ('0 0 31 2,4,6,9,11 *', '5 day of the month'),
    ('@never', '1'), ('@reboot', '1'), ('@', '1'), ('@dailyy', '1'), ('@daily x', '1'), ('@every', '1'), (E'0 0 * * *\n', '10 day of the week'), (E'0\n0 * * *', '2 minute')) v (s, expected);
SELECT throws_ok(format('SELECT mill.next_runs(%L)', s), c, NULL, 'CASES 30: refused: ' || s) FROM (VALUES
    ('@every 0 seconds', '22023'), ('@every -1 hour', '22023'), ('@every 1 month', '22023'), ('@every half an hour', '22007'), ('@every 0.5 seconds', '22023'),
    ('@every 1 year', '22023'), ('@every 99999999999 days', '22015'), ('@every ', '22007')) v (s, c);
SELECT throws_ok($$SELECT mill.next_runs('@daily', 'Europe/Atlantis')$$, '22023', 'time zone "Europe/Atlantis" not recognized', 'an unknown zone');
SELECT throws_ok($$SELECT mill.next_runs(NULL)$$, '22004', 'argument "schedule" must not be null', 'no schedule');
SELECT throws_ok($$SELECT mill.next_runs('@daily', 'UTC', 'infinity')$$, '22023', NULL, 'no last time');
SELECT throws_ok($$SELECT mill.next_runs('@daily', 'UTC', now(), -1)$$, '22023', NULL, 'fewer than none');

---- what is accepted ----

SELECT is((SELECT string_agg(to_char(t, 'MM-DD HH24:MI'), ' ') FROM mill.next_runs(s, 'UTC', '2024-01-31 23:59+00', n) t), expected, 'CASES 29: ' || quote_literal(s)) FROM (VALUES
    ('0 0 * * *', 2, '02-01 00:00 02-02 00:00'), (E'\t5\t4 *  * * ', 2, '02-01 04:05 02-02 04:05'), ('0 0 * MAR Mon', 2, '03-04 00:00 03-11 00:00'),
    ('0 0 * * 7', 2, '02-04 00:00 02-11 00:00'), ('0 0 * * 0', 2, '02-04 00:00 02-11 00:00'), ('0 0 * * sun', 2, '02-04 00:00 02-11 00:00'),
    ('0 10-20/5 * * *', 4, '02-01 10:00 02-01 15:00 02-01 20:00 02-02 10:00'), ('40/5 0 * * *', 5, '02-01 00:40 02-01 00:45 02-01 00:50 02-01 00:55 02-02 00:40'),
    ('0 22-4 * * *', 8, '02-01 00:00 02-01 01:00 02-01 02:00 02-01 03:00 02-01 04:00 02-01 22:00 02-01 23:00 02-02 00:00'), ('0 22-4/3 * * *', 4, '02-01 01:00 02-01 04:00 02-01 22:00 02-02 01:00'),
    ('0 0 * * fri-mon', 5, '02-02 00:00 02-03 00:00 02-04 00:00 02-05 00:00 02-09 00:00'), ('0 0 * * 5-7', 4, '02-02 00:00 02-03 00:00 02-04 00:00 02-09 00:00'),
    ('0 0 * * 6-1', 4, '02-03 00:00 02-04 00:00 02-05 00:00 02-10 00:00'), ('0 0 * * 0-7', 3, '02-01 00:00 02-02 00:00 02-03 00:00'), ('0 0 28-2 * *', 4, '02-01 00:00 02-02 00:00 02-28 00:00 02-29 00:00'),
    ('0 0 1 nov-feb *', 4, '02-01 00:00 11-01 00:00 12-01 00:00 01-01 00:00'), ('1,2,5-6 0 * * *', 4, '02-01 00:01 02-01 00:02 02-01 00:05 02-01 00:06'),
    ('0 0 L * *', 3, '02-29 00:00 03-31 00:00 04-30 00:00'), ('0 0 l,15 * *', 3, '02-15 00:00 02-29 00:00 03-15 00:00'), ('0 0 * * fri#3', 3, '02-16 00:00 03-15 00:00 04-19 00:00'), ('0 0 * * 5#1,5#3', 3, '02-02 00:00 02-16 00:00 03-01 00:00'),
    ('0 0 * * 1#5', 2, '04-29 00:00 07-29 00:00'), ('0 0 13 * 5', 4, '02-02 00:00 02-09 00:00 02-13 00:00 02-16 00:00'), ('0 0 */2 * 1', 3, '02-05 00:00 02-19 00:00 03-11 00:00'), ('0 0 13 * *', 2, '02-13 00:00 03-13 00:00'),
    ('0 0 13 * */2', 2, '02-13 00:00 04-13 00:00'), ('0 0 29 2 *', 2, '02-29 00:00 02-29 00:00'), ('@hourly', 2, '02-01 00:00 02-01 01:00'), ('@daily', 2, '02-01 00:00 02-02 00:00'), ('@midnight', 1, '02-01 00:00'),
    ('@Weekly', 2, '02-04 00:00 02-11 00:00'), ('@monthly', 2, '02-01 00:00 03-01 00:00'), ('@yearly', 2, '01-01 00:00 01-01 00:00'), ('@annually', 1, '01-01 00:00'),
    ('@every 90 seconds', 3, '02-01 00:00 02-01 00:02 02-01 00:03'), ('  @every 1 day 12:00', 2, '02-02 11:59 02-03 23:59')) v (s, n, expected);
SELECT is(ARRAY(SELECT mill.next_runs('@every 90 seconds', 'UTC', '2024-01-31 23:59:30.5+00', 2)), '{2024-02-01 00:01:00.5+00,2024-02-01 00:02:30.5+00}', 'every so often, from then on');
SELECT is(ARRAY(SELECT mill.next_runs('* * * * *', 'UTC', '2024-01-31 23:59+00', 2)), '{2024-02-01 00:00+00,2024-02-01 00:01+00}', 'strictly after');
SELECT is(ARRAY(SELECT mill.next_runs('0 0 29 2 *', 'UTC', '2096-03-01+00', 1)), '{2104-02-29 00:00+00}', 'CASES 31: the leap day over 2100');
SELECT is(ARRAY(SELECT mill.next_runs('0 0 29 2 1', 'UTC', '2096-03-01+00', 2)), '{2097-02-04 00:00+00,2097-02-11 00:00+00}', 'a leap day or Mondays in February');
SELECT is_empty($$SELECT mill.next_runs('@daily', 'UTC', '294276-12-31 23:59+00', 2)$$, 'the end of time');
SELECT is(count(*), 3::bigint, 'the beginning of time') FROM mill.next_runs('* * * * *', 'Europe/Berlin', '4713-01-03 00:00+00 BC', 3);
SELECT is((SELECT array_agg(t) FROM mill.next_runs('0 12 * * *', NULL, '2024-07-01+00', 1) t), '{2024-07-01 12:00+00}', 'without a zone: the session''s');

---- CASES 31: the nights in which clocks are set ----

SELECT is(ARRAY(SELECT mill.next_runs(s, zone, at, n)), expected, 'CASES 31: ' || s || ' in ' || zone) FROM (VALUES
    ('30 2 * * *', 'America/New_York', timestamptz '2024-03-10 00:00-05', 2, '{2024-03-10 07:00+00,2024-03-11 06:30+00}'::timestamptz[]),
    ('30 1 * * *', 'America/New_York', '2024-11-03 00:00-04', 2, '{2024-11-03 05:30+00,2024-11-04 06:30+00}'),
    ('*/30 * * * *', 'America/New_York', '2024-11-03 04:59+00', 5, '{2024-11-03 05:00+00,2024-11-03 05:30+00,2024-11-03 06:00+00,2024-11-03 06:30+00,2024-11-03 07:00+00}'),
    ('0 0 * * *', 'America/Havana', '2024-03-09 12:00+00', 2, '{2024-03-10 05:00+00,2024-03-11 04:00+00}'),
    ('15,45 2 * * *', 'Europe/Berlin', '2024-03-31 00:00+00', 3, '{2024-03-31 01:00+00,2024-04-01 00:15+00,2024-04-01 00:45+00}')) v (s, zone, at, n, expected);

-- every minute around each change: what the clock shows, and the latest that it showed
CREATE TABLE clock (zone text, episode int, t timestamptz, local timestamp, reached timestamp,
    hour int GENERATED ALWAYS AS (EXTRACT(hour FROM local)) STORED, minute int GENERATED ALWAYS AS (EXTRACT(minute FROM local)) STORED);
INSERT INTO clock
WITH zones AS (SELECT z FROM unnest('{America/New_York,America/Havana,Europe/Berlin,Europe/London,Australia/Lord_Howe,America/St_Johns,Africa/Casablanca,Pacific/Chatham,America/Santiago,Asia/Kolkata}'::text[]) z),
     hours AS (SELECT z, h, (h AT TIME ZONE z) - (h AT TIME ZONE 'UTC') AS shift
               FROM zones, generate_series(timestamptz '2024-01-01+00', '2026-12-31+00', '1 hour') h),
     changes AS (SELECT z, h, row_number() OVER (PARTITION BY z ORDER BY h) AS n
                 FROM (SELECT z, h, shift, lag(shift) OVER (PARTITION BY z ORDER BY h) AS before FROM hours) s WHERE shift <> before
                 UNION ALL SELECT 'Asia/Kolkata', '2024-06-01+00', 1),
     minutes AS (SELECT z, n, t, t AT TIME ZONE z AS local FROM changes, generate_series(h - interval '60 hours', h + interval '36 hours', '1 minute') t)
SELECT z, n, t, local, max(local) OVER (PARTITION BY z, n ORDER BY t) FROM minutes;
CREATE INDEX ON clock (zone, episode, reached, t);
ANALYZE clock;
SELECT cmp_ok(count(DISTINCT (zone, episode)), '>=', 50::bigint, 'changes of clocks: ' || count(DISTINCT (zone, episode))) FROM clock;

-- schedules by their sets, all of each day
CREATE TABLE spec (schedule text, minutes int[], hours int[], wildcard bool);
INSERT INTO spec VALUES
    ('30 2 * * *', '{30}', '{2}', false), ('0 0 * * *', '{0}', '{0}', false), ('15,45 1-3 * * *', '{15,45}', '{1,2,3}', false), ('59 23 * * *', '{59}', '{23}', false),
    ('0 3 * * *', '{0}', '{3}', false), ('1 0,2,12 * * *', '{1}', '{0,2,12}', false), ('5/25 22-2/2 * * *', '{5,30,55}', '{22,0,2}', false),
    ('*/30 * * * *', '{0,30}', NULL, true), ('0 * * * *', '{0}', NULL, true), ('*/7 2 * * *', '{0,7,14,21,28,35,42,49,56}', '{2}', true), ('5 */2 * * *', '{5}', '{0,2,4,6,8,10,12,14,16,18,20,22}', true),
    ('*/20 0-3 * * *', '{0,20,40}', '{0,1,2,3}', true);

CREATE FUNCTION expected(spec, z text, e int, low timestamptz, high timestamptz) RETURNS timestamptz[] LANGUAGE sql STABLE AS $$
    SELECT array_agg(t ORDER BY t) FROM (
        SELECT t FROM clock c
        WHERE $1.wildcard AND c.zone = z AND c.episode = e AND c.minute = ANY ($1.minutes) AND ($1.hours IS NULL OR c.hour = ANY ($1.hours))
        UNION
        SELECT (SELECT c.t FROM clock c WHERE c.zone = z AND c.episode = e AND c.reached >= wanted ORDER BY c.reached, c.t LIMIT 1)
        FROM (SELECT day + make_interval(hours => h, mins => m) AS wanted
              FROM (SELECT generate_series(date_trunc('day', low AT TIME ZONE z) - interval '1 day', date_trunc('day', high AT TIME ZONE z) + interval '1 day', '1 day') AS day) d,
                   unnest($1.hours) h, unnest($1.minutes) m) w
        WHERE NOT $1.wildcard) x (t)
    WHERE t > low AND t <= high
$$;
SELECT is(ARRAY(SELECT t FROM mill.next_runs(s.schedule, c.zone, c.low, 3000) t WHERE t <= c.high), expected(s, c.zone, c.episode, c.low, c.high),
          format('CASES 31: %s in %s around %s', s.schedule, c.zone, c.low + interval '48 hours'))
FROM spec s, (SELECT zone, episode, min(t) + interval '12 hours' AS low, max(t) AS high FROM clock GROUP BY 1, 2) c
ORDER BY c.zone, c.episode, s.schedule;

---- days, months and weekdays, at random ----

-- one field: its text and the values that it means
CREATE TYPE some_field AS (field text, members int[], stars boolean);
CREATE FUNCTION random_field(low int, high int, names text[]) RETURNS some_field LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    field text; members int[]; stars boolean;
    item text;
    items text[] := '{}';
    a int; b int; step int; span int := high - low + 1; kind int;
BEGIN
    members := '{}'; stars := false;
    IF random() < 0.35 THEN
        step := CASE WHEN random() < 0.6 THEN 1 ELSE 2 + (random() * 4)::int END;
        field := '*' || CASE WHEN step > 1 THEN '/' || step ELSE '' END;
        RETURN (field, ARRAY(SELECT generate_series(low, high, step)), true)::some_field;
    END IF;
    FOR i IN 1 .. 1 + (random() * 2)::int LOOP
        a := low + floor(random() * span)::int; b := low + floor(random() * span)::int; kind := floor(random() * 4)::int;
        step := 1 + floor(random() * 3)::int;
        item := CASE WHEN names IS NOT NULL AND random() < 0.5 THEN names[a - low + 1] ELSE a::text END;
        IF kind = 0 THEN
            members := members || a;
        ELSIF kind = 1 THEN
            item := item || '-' || b;
            members := members || ARRAY(SELECT low + (v - low) % span FROM generate_series(a, CASE WHEN b < a THEN b + span ELSE b END) v);
        ELSIF kind = 2 THEN
            item := item || '-' || b || '/' || step;
            members := members || ARRAY(SELECT low + (v - low) % span FROM generate_series(a, CASE WHEN b < a THEN b + span ELSE b END, step) v);
        ELSE
            item := item || '/' || step;
            members := members || ARRAY(SELECT generate_series(a, high, step));
        END IF;
        items := items || item;
    END LOOP;
    RETURN (array_to_string(items, ','), members, stars)::some_field;
END
$$;

CREATE TABLE random_spec AS
SELECT i, random_field(i - i, 59, NULL) AS minute, random_field(i - i, 23, NULL) AS hour, random_field(i - i + 1, 31, NULL) AS dom,
     random_field(i - i + 1, 12, '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}') AS month, random_field(i - i, 6, '{sun,mon,tue,wed,thu,fri,sat}') AS dow, timestamptz '2024-01-01+00' + random() * interval '700 days' AS start
FROM generate_series(1, 120) i;
-- such as 30 February
DELETE FROM random_spec r WHERE (r.dow).stars AND NOT EXISTS (
    SELECT FROM unnest((r.dom).members) d, unnest((r.month).members) m WHERE d <= EXTRACT(day FROM make_date(2024, m, 1) + interval '1 month - 1 day'));

SELECT is(ARRAY(SELECT mill.next_runs(concat_ws(' ', (r.minute).field, (r.hour).field, (r.dom).field, (r.month).field, (r.dow).field), 'UTC', r.start, 40)),
          ARRAY(SELECT t FROM (SELECT day FROM generate_series(date_trunc('day', r.start), r.start + interval '12 years', '1 day') day
                               WHERE EXTRACT(month FROM day) = ANY ((r.month).members)
                                 AND CASE WHEN (r.dom).stars OR (r.dow).stars
                                          THEN EXTRACT(day FROM day) = ANY ((r.dom).members) AND EXTRACT(dow FROM day) = ANY ((r.dow).members)
                                          ELSE EXTRACT(day FROM day) = ANY ((r.dom).members) OR EXTRACT(dow FROM day) = ANY ((r.dow).members) END
                               ORDER BY day LIMIT 42) d,
                     LATERAL (SELECT DISTINCT day + make_interval(hours => h, mins => m) AS t FROM unnest((r.hour).members) h, unnest((r.minute).members) m) x
                WHERE t > r.start ORDER BY t LIMIT 40),
          concat_ws(' ', (r.minute).field, (r.hour).field, (r.dom).field, (r.month).field, (r.dow).field) || ' after ' || r.start)
FROM random_spec r;

SELECT * FROM finish();
