-- Room: aggregate.
--
-- Partial states of aggregates, and the hash of group keys. What is expected is
-- what PostgreSQL makes of the same rows with the aggregate itself. Rows are
-- random; PGOPTIONS='-c mill_test.seed=0.5' repeats a run with the seed it printed.
SELECT * FROM no_plan();
SET client_min_messages = warning;
SELECT coalesce(nullif(current_setting('mill_test.seed', true), ''), round(random()::numeric, 6)::text) AS seed \gset
SELECT diag('seed ' || :'seed') FROM setseed(:'seed');

---- every aggregate of the server that can be combined ----

-- a random value of each type that any of them takes
CREATE TABLE sample (type regtype PRIMARY KEY, expression text);
INSERT INTO sample VALUES
    ('bool', 'random() < 0.8'),
    ('int2', '(random() * 60000 - 30000)::int2'),
    ('int4', '(random() * 4e9 - 2e9)::int4'),
    ('int8', '(random() * 1.8e19 - 9e18)::int8'),
    ('float4', '(floor(random() * 4000) / 4 - 300)::float4'), -- sums are exact in any order
    ('float8', 'random() * 200 - 50'),
    ('numeric', 'round((random() * 1e9 - 4e8)::numeric, (random() * 8)::int)'),
    ('money', '(random() * 1000)::numeric::money'),
    ('text', 'md5(random()::text)'),
    ('bpchar', 'md5(random()::text)::char(40)'),
    ('bytea', 'decode(md5(random()::text), ''hex'')'),
    ('bit', '(random() * 60000)::int::bit(16)'),
    ('date', 'date ''2000-01-01'' + (random() * 20000 - 9000)::int'),
    ('time', 'time ''00:00'' + random() * interval ''1 day'''),
    ('timetz', '(time ''00:00'' + random() * interval ''1 day'')::timetz'),
    ('timestamp', 'timestamp ''2000-01-01'' + random() * interval ''20000 days'''),
    ('timestamptz', 'timestamptz ''2000-01-01 00:00+00'' + random() * interval ''20000 days'''),
    ('interval', 'floor(random() * 1e6) * interval ''1 second'''),
    ('inet', '(inet ''10.0.0.0'' + (random() * 1e7)::int8)'),
    ('oid', '(random() * 4e9)::int8::oid'),
    ('tid', 'format(''(%s,%s)'', (random() * 1e6)::int, 1 + (random() * 100)::int)::tid'),
    ('xid8', '(random() * 1e18)::int8::text::xid8'),
    ('pg_lsn', 'pg_lsn ''0/0'' + (random() * 1e9)::numeric::int8'),
    ('"any"', 'md5(random()::text)'),
    ('anyelement', 'md5(random()::text)'),
    ('anyarray', 'array[(random() * 100)::int, (random() * 100)::int]'),
    ('anyenum', '(enum_range(NULL::"Odd Mood"))[1 + (random() * 3)::int]'),
    ('anyrange', 'int4range((random() * 40)::int, 60 + (random() * 40)::int)'),
    ('anymultirange', 'multirange(int4range((random() * 40)::int, 60 + (random() * 40)::int))');
CREATE TYPE "Odd Mood" AS ENUM ('low "quoted"', 'so, so', 'high', 'higher');

-- values at which arithmetic has special cases
CREATE TABLE special (type regtype PRIMARY KEY, expressions text[]);
INSERT INTO special VALUES
    ('float4', '{"''NaN''","''Infinity''","''-Infinity''","-0.0"}'),
    ('float8', '{"''NaN''","''Infinity''","''-Infinity''","-0.0",1e150}'),
    ('numeric', '{"''NaN''","''Infinity''","''-Infinity''",1e300,1e-300}'),
    ('int4', '{2147483647,-2147483648}'),
    ('int2', '{32767,-32768}'),
    ('date', '{"''infinity''","''-infinity''"}'),
    ('timestamp', '{"''infinity''","''-infinity''"}'),
    ('timestamptz', '{"''infinity''","''-infinity''"}'),
    ('text', '{"''''","repeat(''z'', 300000)"}');

CREATE TABLE skipped (name text PRIMARY KEY, reason text); -- by name, or with the arguments' types
INSERT INTO skipped VALUES
    ('array_agg', 'its result depends on the order of rows'),
    ('string_agg', 'its result depends on the order of rows'),
    ('any_value', 'any of its results is right'),
    ('min(record)', 'no table or view has a column of type record'),
    ('max(record)', 'no table or view has a column of type record');

-- A table of rows with the aggregate's arguments; group 0 has NULL alone.
CREATE FUNCTION make_rows(aggregate regprocedure, with_special boolean) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    columns text := '';
    types oid[] := (SELECT proargtypes::oid[] FROM pg_proc WHERE oid = aggregate);
    expression text;
    extra text[];
BEGIN
    FOR i IN 0 .. cardinality(types) - 1 LOOP
        SELECT s.expression, p.expressions INTO expression, extra
        FROM sample s LEFT JOIN special p ON p.type = s.type AND with_special WHERE s.type = types[i];
        IF NOT FOUND THEN
            RAISE 'no sample value of type % for %', types[i]::regtype, aggregate;
        END IF;
        IF extra IS NOT NULL THEN
            expression := format('CASE (random() * 80)::int %s ELSE %s END',
                (SELECT string_agg(format('WHEN %s THEN (%s)::%s', n, e, types[i]::regtype), ' ')
                 FROM unnest(extra) WITH ORDINALITY u (e, n)), expression);
        END IF;
        columns := columns || format(', CASE WHEN random() < 0.85 AND g > 0 THEN %s END AS a%s', expression, i + 1);
    END LOOP;
    DROP TABLE IF EXISTS r;
    EXECUTE 'CREATE TABLE r AS SELECT g, (random() * 9)::int AS part' || columns ||
            ' FROM generate_series(0, 5) g, generate_series(1, 60) WHERE random() < 0.9';
    RETURN cardinality(types);
END $$;

-- Text that is the same for results that count as equal.
CREATE FUNCTION same(a text, b text, type regtype) RETURNS boolean LANGUAGE sql AS $$
    SELECT CASE
        WHEN a IS NOT DISTINCT FROM b THEN true
        WHEN type = 'float8'::regtype THEN
            a::float8 NOT IN ('NaN', 'Infinity', '-Infinity') AND b::float8 NOT IN ('NaN', 'Infinity', '-Infinity') AND
            abs(a::numeric - b::numeric) <= 1e-9 * greatest(abs(a::numeric), abs(b::numeric), 1e-3)
        ELSE false
    END
$$;

-- '' when states in any split give what the aggregate gives.
CREATE FUNCTION difference(aggregate regprocedure, with_special boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    n int := make_rows(aggregate, with_special);
    arguments text := (SELECT string_agg('a' || i, ', ') FROM generate_series(1, n) i);
    direct text := (SELECT format('%I.%I', pronamespace::regnamespace, proname) FROM pg_proc WHERE oid = aggregate);
    type regtype;
    problem text;
BEGIN
    EXECUTE format('SELECT pg_typeof(%s(%s)) FROM r WHERE false', direct, arguments) INTO type;
    DROP TABLE IF EXISTS stored;
    EXECUTE format('CREATE TABLE stored AS SELECT g, part, mill.partial_state(%L, %s) AS state
                    FROM r GROUP BY g, part', aggregate, arguments);
    EXECUTE format($q$
        WITH twice AS (
            SELECT g, mill.combine_state(%1$L, state) AS state
            FROM (SELECT g, part %% 3, mill.combine_state(%1$L, state)
                  FROM stored GROUP BY g, part %% 3
                  UNION ALL SELECT DISTINCT g, 0, NULL::bytea FROM stored) s (g, part, state) GROUP BY g),
        expected AS (SELECT g, (%2$s(%3$s))::text AS value FROM r GROUP BY g),
        got AS (
            SELECT 'combined' AS kind, g, mill.final_state(%1$L, state, NULL::%4$s)::text AS value FROM twice
            UNION ALL
            SELECT 'one state', g, mill.final_state(%1$L, mill.partial_state(%1$L, %3$s), NULL::%4$s)::text
            FROM r GROUP BY g)
        SELECT string_agg(format('%%s, group %%s: %%s, expected %%s', kind, g, left(g.value, 60), left(e.value, 60)), E'\n')
        FROM got g FULL JOIN expected e USING (g)
        WHERE NOT same(g.value, e.value, %4$L)$q$, aggregate, direct, arguments, type) INTO problem;
    IF problem IS NOT NULL THEN
        RETURN problem;
    END IF;
    EXECUTE format($q$
        SELECT CASE WHEN state IS NOT NULL THEN 'there is a state without rows'
                    WHEN mill.final_state(%1$L, state, NULL::%4$s)::text IS DISTINCT FROM value THEN 'without rows' END
        FROM (SELECT mill.partial_state(%1$L, %3$s), (%2$s(%3$s))::text FROM r WHERE g < 0) z (state, value)$q$,
        aggregate, direct, arguments, type) INTO problem;
    RETURN coalesce(problem, '');
END $$;

-- an overflow is an error of the aggregate's in both ways
CREATE FUNCTION difference_or_overflow(aggregate regprocedure, with_special boolean) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN difference(aggregate, with_special);
EXCEPTION WHEN numeric_value_out_of_range THEN
    RETURN CASE WHEN with_special THEN '' ELSE SQLERRM END;
END $$;

CREATE VIEW combinable AS
    SELECT a.aggfnoid::regprocedure AS aggregate, p.proname, a.aggtransfn, p.proargtypes
    FROM pg_aggregate a JOIN pg_proc p ON p.oid = a.aggfnoid
    WHERE a.aggcombinefn <> 0 AND a.aggkind = 'n' AND p.pronamespace = 'pg_catalog'::regnamespace AND p.pronargs > 0;

SELECT cmp_ok(count(*), '>=', 120::bigint, 'there are that many aggregates to combine') FROM combinable;
SELECT is(difference(c.aggregate, false), '', format('%s: states give what the aggregate gives', c.aggregate))
FROM combinable c WHERE NOT EXISTS (SELECT FROM skipped s WHERE s.name IN (c.proname, c.aggregate::text)) ORDER BY c.aggregate::text;
SELECT is(difference_or_overflow(c.aggregate, true), '', format('%s: and with special values', c.aggregate))
FROM combinable c WHERE EXISTS (SELECT FROM special s WHERE s.type = ANY (c.proargtypes::oid[]))
    AND NOT EXISTS (SELECT FROM skipped s WHERE s.name IN (c.proname, c.aggregate::text)) ORDER BY c.aggregate::text;
SELECT skip(s.reason, 1) FROM combinable c JOIN skipped s ON s.name IN (c.proname, c.aggregate::text);

---- aggregates of users ----

CREATE TABLE rows AS
    SELECT i % 7 AS g, i % 4 AS part, CASE WHEN i % 3 <> 0 AND i % 7 <> 6 THEN i * 37 % 101 END AS v,
           CASE WHEN i % 5 <> 0 THEN md5(i::text) END AS t
    FROM generate_series(1, 500) i;

-- final_state of the combined states of table rows, and the aggregate itself
CREATE FUNCTION by_states(aggregate regprocedure, arguments text, type regtype, filter text DEFAULT 'true')
RETURNS TABLE (g int, value text) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format($q$
        SELECT g, mill.final_state(%1$L, mill.combine_state(%1$L, state), NULL::%3$s)::text
        FROM (SELECT g, part, mill.partial_state(%1$L, %2$s) FILTER (WHERE %4$s) FROM rows GROUP BY g, part) s (g, part, state)
        GROUP BY g$q$, aggregate, arguments, type, filter);
END $$;

-- strict, no initial value: the first input becomes the state
CREATE FUNCTION longer(text, text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT
    AS $$ BEGIN RETURN CASE WHEN (length($1), $1) >= (length($2), $2) THEN $1 ELSE $2 END; END $$;
CREATE AGGREGATE longest(text) (SFUNC = longer, STYPE = text, COMBINEFUNC = longer);
SELECT set_eq($$SELECT * FROM by_states('longest(text)', 't', 'text')$$,
              $$SELECT g, longest(t) FROM rows GROUP BY g$$, 'a strict transition function without an initial value');
SELECT set_eq($$SELECT * FROM by_states('longest(text)', 't', 'text', 'v > 50')$$,
              $$SELECT g, longest(t) FILTER (WHERE v > 50) FROM rows GROUP BY g$$, 'FILTER');
SELECT set_eq($$SELECT * FROM by_states('sum(int4)', 'v', 'int8', 'v > 1000')$$,
              $$SELECT g, NULL::text FROM rows GROUP BY g$$, 'a FILTER that lets no row pass');

-- arrays, which PL/pgSQL hands over as expanded objects
CREATE FUNCTION collect_add(int[], int) RETURNS int[] LANGUAGE plpgsql IMMUTABLE
    AS $$ BEGIN IF $2 IS NOT NULL THEN $1 := $1 || $2; END IF; RETURN $1; END $$;
CREATE FUNCTION collect_both(int[], int[]) RETURNS int[] LANGUAGE plpgsql IMMUTABLE STRICT
    AS $$ DECLARE c int[] := $1; BEGIN FOR i IN 1 .. cardinality($2) LOOP c[cardinality(c) + 1] := $2[i]; END LOOP; RETURN c; END $$;
CREATE FUNCTION collect_end(int[]) RETURNS int[] LANGUAGE sql IMMUTABLE
    AS $$ SELECT array_agg(x ORDER BY x) FROM unnest($1) x $$;
CREATE AGGREGATE collect(int) (SFUNC = collect_add, STYPE = int[], INITCOND = '{}', COMBINEFUNC = collect_both, FINALFUNC = collect_end);
SELECT set_eq($$SELECT * FROM by_states('collect(int)', 'v', 'int[]')$$,
              $$SELECT g, array_agg(v ORDER BY v) FILTER (WHERE v IS NOT NULL)::text FROM rows GROUP BY g$$,
              'a transition value that is an expanded array');

-- polymorphic transition type, and a final function that sees the arguments' types
CREATE FUNCTION gather_end(anycompatiblearray, anycompatible) RETURNS anycompatiblearray LANGUAGE sql IMMUTABLE
    AS $$ SELECT array_agg(x ORDER BY x) FROM unnest($1) x $$;
CREATE AGGREGATE gather(anycompatible) (SFUNC = array_append, STYPE = anycompatiblearray, INITCOND = '{}',
    COMBINEFUNC = array_cat, FINALFUNC = gather_end, FINALFUNC_EXTRA);
SELECT set_eq($$SELECT * FROM by_states('gather(anycompatible)', 't', 'text[]')$$,
              $$SELECT g, array_agg(t ORDER BY t)::text FROM rows GROUP BY g$$, 'a polymorphic transition type: text');
SELECT set_eq($$SELECT * FROM by_states('gather(anycompatible)', 'v::numeric', 'numeric[]')$$,
              $$SELECT g, array_agg(v ORDER BY v)::text FROM rows GROUP BY g$$, 'a polymorphic transition type: numeric');
SELECT is(mill.final_state('gather(anycompatible)', NULL, NULL::date[]), NULL, 'without rows, by the result''s type');
SELECT throws_ok($$SELECT mill.combine_state('gather(anycompatible)', s) FROM (
                     SELECT mill.partial_state('gather(anycompatible)', t) FROM rows UNION ALL
                     SELECT mill.partial_state('gather(anycompatible)', v) FROM rows) x (s)$$,
                 '22023', 'states of different aggregates, types or collations cannot be combined', 'states of other types do not mix');

-- a NULL as transition value is not the same as no rows
CREATE FUNCTION spoil(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT $1 + $2 $$;
CREATE AGGREGATE spoilt_sum(int) (SFUNC = spoil, STYPE = int, INITCOND = '0', COMBINEFUNC = spoil);
SELECT set_eq($$SELECT * FROM by_states('spoilt_sum(int)', 'v', 'int')$$,
              $$SELECT g, spoilt_sum(v)::text FROM rows GROUP BY g$$, 'a transition value that turned NULL stays NULL');
SELECT set_eq($$SELECT * FROM by_states('spoilt_sum(int)', 'v', 'int', 'v IS NOT NULL')$$,
              $$SELECT g, (spoilt_sum(v) FILTER (WHERE v IS NOT NULL))::text FROM rows GROUP BY g$$, 'no rows are the initial value');

CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
SELECT is((SELECT mill.final_state('sum(int4)', mill.partial_state('sum(int4)', v::percent), NULL::int8) FROM rows WHERE v <= 100),
          (SELECT sum(v) FROM rows WHERE v <= 100), 'an argument of a domain type');
SELECT is((SELECT mill.final_state('max(text)', mill.partial_state('max(text)', t::varchar), NULL::text) FROM rows),
          (SELECT max(t) FROM rows), 'a varchar argument for text');

---- where it runs ----

SELECT set_eq($$SELECT g, part, mill.final_state('avg(int4)', mill.partial_state('avg(int4)', v), NULL::numeric)
                FROM rows GROUP BY GROUPING SETS ((g), (part), (g, part), ())$$,
              $$SELECT g, part, avg(v) FROM rows GROUP BY GROUPING SETS ((g), (part), (g, part), ())$$, 'grouping sets');
SELECT set_eq($$SELECT t, mill.final_state('stddev(int4)', mill.partial_state('stddev(int4)', v) OVER w, NULL::numeric) FROM rows WINDOW w AS (PARTITION BY g ORDER BY t)$$,
              $$SELECT t, stddev(v) OVER w FROM rows WINDOW w AS (PARTITION BY g ORDER BY t)$$, 'as a window function');
SET enable_hashagg = off;
SELECT set_eq($$SELECT * FROM by_states('variance(int4)', 'v', 'numeric')$$, $$SELECT g, variance(v)::text FROM rows GROUP BY g$$, 'sorted groups');
RESET enable_hashagg;
SELECT set_eq($$SELECT a, mill.final_state(a, CASE a WHEN 'sum(int4)'::regprocedure THEN s WHEN 'max(int8)'::regprocedure THEN m END, NULL::int8)
                FROM (SELECT mill.partial_state('sum(int4)', v), mill.partial_state('max(int8)', v::int8) FROM rows) x (s, m),
                     unnest('{sum(int4),max(int8)}'::regprocedure[]) a$$,
              $$SELECT 'sum(int4)'::regprocedure, sum(v) FROM rows UNION ALL SELECT 'max(int8)', max(v) FROM rows$$,
              'another aggregate in each row');

---- collations ----

CREATE TABLE words AS SELECT w, w COLLATE "C" AS c FROM unnest('{b,B,a,A,ä,Z,z}'::text[]) w;
-- a server may be built without ICU
SELECT count(*) > 0 AS with_icu FROM pg_collation WHERE collname = 'und-x-icu' \gset
\if :with_icu
CREATE COLLATION "Odd ""Order" (provider = icu, locale = 'en-u-kf-upper');
\else
CREATE COLLATION "Odd ""Order" (provider = libc, locale = 'C');
\endif
SELECT is((SELECT mill.final_state('max(text)', mill.combine_state('max(text)', s), NULL::text)
           FROM (SELECT mill.partial_state('max(text)', c) FROM words GROUP BY w) x (s)),
          (SELECT max(c) FROM words), 'the argument''s collation C');
SELECT is((SELECT mill.final_state('min(text)', mill.combine_state('min(text)', s), NULL::text)
           FROM (SELECT mill.partial_state('min(text)', w COLLATE "Odd ""Order") FROM words GROUP BY w) x (s)),
          (SELECT min(w COLLATE "Odd ""Order") FROM words), 'a collation of a user''s');
SELECT throws_ok($$SELECT mill.combine_state('max(text)', s) FROM (
                     SELECT mill.partial_state('max(text)', w) FROM words UNION ALL
                     SELECT mill.partial_state('max(text)', c) FROM words) x (s)$$,
                 '22023', 'states of different aggregates, types or collations cannot be combined', 'collations do not mix');

---- what is refused ----

CREATE FUNCTION partial_sql(aggregate text, arguments text) RETURNS text LANGUAGE sql
    AS $$ SELECT format('SELECT mill.partial_state(%L, %s) FROM rows', aggregate, arguments) $$;
SELECT throws_ok(partial_sql('percentile_disc(double precision, anyelement)', 't'), '0A000',
                 'aggregate percentile_disc(double precision,anyelement) has no partial states that could be combined', 'an ordered-set aggregate');
SELECT throws_ok(partial_sql('json_agg(anyelement)', 't'), '0A000',
                 'aggregate json_agg(anyelement) has no partial states that could be combined', 'no combine function');
SELECT throws_ok(partial_sql('abs(int)', 'v'), '42809', 'function abs(integer) is not an aggregate', 'no aggregate');
SELECT throws_ok(partial_sql('sum(int)', 't'), '42804', 'argument 1 of aggregate sum(integer) must be of type integer, not text', 'a wrong type');
SELECT throws_ok(partial_sql('sum(int)', 'v, v'), '22023', 'wrong number of arguments for aggregate sum(integer): 2', 'too many arguments');
SELECT throws_ok(partial_sql('corr(float8, float8)', 'v::float8'), '22023',
                 'wrong number of arguments for aggregate corr(double precision,double precision): 1', 'too few arguments');
SELECT throws_ok(partial_sql('sum(int)', 'VARIADIC ARRAY[v]'), '0A000', 'partial_state does not take its arguments as a VARIADIC array', 'VARIADIC');
-- an internal type whose bytes cannot be checked: here core's functions under another name
CREATE FUNCTION other_deserialize(bytea, internal) RETURNS internal LANGUAGE internal STRICT PARALLEL SAFE AS 'numeric_avg_deserialize';
CREATE AGGREGATE other_avg(numeric) (SFUNC = numeric_avg_accum, STYPE = internal, FINALFUNC = numeric_avg, COMBINEFUNC = numeric_avg_combine,
    SERIALFUNC = numeric_avg_serialize, DESERIALFUNC = other_deserialize, PARALLEL = SAFE);
SELECT throws_ok(partial_sql('other_avg(numeric)', 'v::numeric'), '0A000', 'aggregate other_avg(numeric) has no partial states that could be combined',
                 'S2: an internal type that cannot be checked');
CREATE TABLE events (ts timestamptz, v numeric);
CREATE VIEW event_averages AS SELECT window_start, other_avg(v) AS v FROM events, mill.tumble(ts, '1 hour') GROUP BY 1;
SELECT is((SELECT string_agg(DISTINCT e.class, ',') FROM mill.explain_aggregate('event_averages') e WHERE e.class <> 'group'), 'recompute',
          'S2: and so its groups are computed anew');
SELECT throws_ok($$SELECT mill.partial_state(NULL, v) FROM rows$$, '22004', 'the aggregate must not be null', 'no aggregate named');
SELECT throws_ok($$SELECT mill.partial_state(1::oid, v) FROM rows$$, '42883', NULL, 'an unknown aggregate');
SELECT throws_ok($$SELECT mill.final_state('sum(int)', NULL, NULL::int)$$, '42804',
                 'aggregate sum(integer) returns type bigint, not integer', 'a wrong result type');
SELECT throws_ok($$SELECT mill.final_state('max(anyenum)', (SELECT mill.partial_state('max(anyarray)', ARRAY[v]) FROM rows), NULL::int[])$$,
                 '42804', NULL, 'a state of another polymorphic aggregate');

---- privileges ----

CREATE ROLE mill_test_state;
GRANT CREATE ON SCHEMA public TO mill_test_state;
GRANT SELECT ON rows TO mill_test_state;
CREATE VIEW states AS SELECT mill.partial_state('longest(text)', t) AS state FROM rows;
CREATE VIEW combined AS SELECT mill.combine_state('longest(text)', state) AS state FROM (SELECT mill.partial_state('longest(text)', t) FROM rows) s (state);
CREATE TABLE kept AS SELECT * FROM states;
CREATE VIEW final AS SELECT mill.final_state('longest(text)', state, NULL::text) AS value FROM kept;
CREATE VIEW combined_kept AS SELECT mill.combine_state('longest(text)', state) FROM kept;
GRANT SELECT ON states, combined, final, combined_kept TO mill_test_state;
SET ROLE mill_test_state;
SELECT lives_ok('SELECT * FROM states', 'PUBLIC may execute it');
SELECT lives_ok('SELECT * FROM combined', 'PUBLIC may execute it');
SELECT lives_ok('SELECT * FROM final', 'PUBLIC may execute it');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION longest(text) FROM PUBLIC;
SET ROLE mill_test_state;
SELECT throws_ok('SELECT * FROM ' || v, '42501', 'permission denied for aggregate longest', v || ' needs EXECUTE on the aggregate')
FROM unnest('{states,combined_kept,final}'::text[]) v;
RESET ROLE;
CREATE FUNCTION larger(int, int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS $$ SELECT greatest($1, $2) $$;
SET ROLE mill_test_state;
CREATE AGGREGATE largest(int) (SFUNC = larger, STYPE = int, COMBINEFUNC = int4larger);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION larger(int, int) FROM PUBLIC;
SELECT throws_ok(partial_sql('largest(int)', 'v'), '42501', 'permission denied for function larger',
                 'the aggregate''s owner needs EXECUTE on its functions');
DROP AGGREGATE largest(int);
DROP VIEW states, combined, final, combined_kept;
DROP OWNED BY mill_test_state;
DROP ROLE mill_test_state;

---- bytes that are no state ----

CREATE FUNCTION outcome(aggregate regprocedure, state bytea, result anyelement) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mill.final_state(aggregate, state, result);
    RETURN 'taken';
EXCEPTION
    WHEN data_corrupted OR feature_not_supported OR invalid_binary_representation OR protocol_violation OR
         datatype_mismatch OR invalid_text_representation OR undefined_object OR character_not_in_repertoire OR
         numeric_value_out_of_range THEN
        RETURN 'refused: ' || SQLERRM;
END $$;
CREATE TABLE state (aggregate regprocedure PRIMARY KEY, bytes bytea);
INSERT INTO state
    SELECT 'avg(int4)'::regprocedure, mill.partial_state('avg(int4)', v) FROM rows UNION ALL
    SELECT 'avg(numeric)', mill.partial_state('avg(numeric)', v::numeric) FROM rows;
SELECT is_empty($$SELECT aggregate, i, outcome(aggregate, set_byte(bytes, i, get_byte(bytes, i) # (1 << (i % 8))), NULL::numeric)
                  FROM state, generate_series(0, length(bytes) - 1) i
                  WHERE outcome(aggregate, set_byte(bytes, i, get_byte(bytes, i) # (1 << (i % 8))), NULL::numeric) NOT LIKE 'refused: %'$$,
                'a changed bit anywhere is found');
SELECT is_empty($$SELECT aggregate, i FROM state, generate_series(0, length(bytes) - 1) i
                  WHERE outcome(aggregate, substr(bytes, 1, i), NULL::numeric) NOT LIKE 'refused: %'$$, 'a state cut short is found');
SELECT throws_ok($$SELECT mill.combine_state('avg(int4)', '\x00112233445566778899')$$, '0A000', NULL, 'another format');
SELECT throws_ok($$SELECT mill.combine_state('avg(int4)', '\x01')$$, 'XX001', 'stored aggregate state is damaged', 'no header');

-- with a right checksum
CREATE FUNCTION checksum(bytes bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE crc int8 := 4294967295;
BEGIN
    FOR i IN 0 .. length(bytes) - 1 LOOP
        crc := crc # get_byte(bytes, i);
        FOR k IN 1 .. 8 LOOP
            crc := CASE WHEN crc & 1 = 1 THEN (crc >> 1) # 2197175160 ELSE crc >> 1 END;
        END LOOP;
    END LOOP;
    RETURN substr(int8send(crc # 4294967295), 5);
END $$;
CREATE FUNCTION forge(header bytea, body bytea) RETURNS bytea LANGUAGE sql
    AS $$ SELECT header || checksum(header || body) || body $$;
SELECT is(forge(substr(bytes, 1, 4), substr(bytes, 9)), bytes, 'this test knows the checksum') FROM state;
SELECT is_empty($$SELECT aggregate, i FROM state, generate_series(9, length(bytes)) i
                  WHERE outcome(aggregate, forge(substr(bytes, 1, 4), substr(bytes, 9, i - 9)), NULL::numeric) NOT LIKE 'refused: %'$$,
                'a value cut short is found');
SELECT is((SELECT outcome(aggregate, forge(substr(bytes, 1, 4), substr(bytes, 9) || '\x00'), NULL::numeric) FROM state WHERE aggregate = 'avg(int4)'::regprocedure),
          'refused: stored aggregate state is damaged', 'bytes behind the value');
SELECT throws_ok(format($$SELECT mill.final_state('avg(numeric)', %L, NULL::numeric)$$,
                        forge(set_byte(substr(bytes, 1, 4), 2, 14), substr(bytes, 9))),
                 '0A000', 'aggregate state was stored by another major version of PostgreSQL', 'another major version')
FROM state WHERE aggregate = 'avg(numeric)'::regprocedure;

-- internal types: N, then sums of numbers of digits, weight, sign, scale and digits
CREATE FUNCTION forged(aggregate regprocedure, payload text) RETURNS text LANGUAGE sql AS $$
    SELECT replace(outcome(forged.aggregate, forge(substr(s.bytes, 1, 4), decode(regexp_replace(payload, '[^0-9a-f]', '', 'g'), 'hex')), NULL::numeric),
                   'refused: stored aggregate state has an invalid value', 'refused')
    FROM state s WHERE s.aggregate = 'avg(numeric)'::regprocedure $$;
CREATE VIEW forgeries AS SELECT
    repeat('0', 72) AS rest, '0000000000000002' AS two, '00000001 00000000 00000000 00000000 0004' AS four, '00000000 00000000 00000000 00000000' AS zero;
SELECT is(forged('avg(numeric)', two || sum || rest || more), expected, 'S2: avg(numeric): ' || what)
FROM forgeries, LATERAL (VALUES
    (four, '', 'taken', 'as it is'),
    ('00000001 80000000 00000000 00000000 0004', '', 'refused', 'a weight of -2^31'),
    ('00000001 7fffffff 00000000 00000000 0004', '', 'refused', 'a weight of 2^31 - 1'),
    ('00000001 00008004 00000000 00000000 0004', '', 'refused: value overflows numeric format', 'the largest weight'),
    ('00000001 00008005 00000000 00000000 0004', '', 'refused', 'a weight too large'),
    ('00000001 ffffffff 00000000 00000004 0004', '', 'taken', 'a digit behind the point'),
    ('00000001 ffffffff 00000000 00000000 0004', '', 'refused', 'a digit behind the last place'),
    ('00000001 00000000 00000000 00003fff 0004', '', 'taken', 'the largest scale'),
    ('00000001 00000000 00000000 00004000 0004', '', 'refused', 'a scale too large'),
    ('00000001 00000000 00000000 ffffffff 0004', '', 'refused', 'a scale below 0'),
    ('00000001 00000000 00004000 00000000 0004', '', 'taken', 'negative'),
    ('00000001 00000000 0000c000 00000000 0004', '', 'refused', 'NaN for a sign'),
    ('00000001 00000000 00000000 00000000 270f', '', 'taken', 'the largest digit'),
    ('00000001 00000000 00000000 00000000 2710', '', 'refused', 'a digit too large'),
    ('00000001 00000000 00000000 00000000 ffff', '', 'refused', 'a negative digit'),
    ('ffffffff 00000000 00000000 00000000', '0000', 'refused', 'a number of digits below 0'),
    ('7fffffff 00000000 00000000 00000000', '0000', 'refused', 'digits without end'),
    ('00000000 00000001 00000000 00000000', '', 'refused', 'a zero with a weight'),
    (zero, '', 'taken', 'a zero'),
    (four, '00', 'refused', 'a byte too many')) f (sum, more, expected, what);
SELECT is(forged('avg(numeric)', payload), 'refused', 'S2: avg(numeric): ' || what)
FROM forgeries, LATERAL (VALUES
    ('ffffffffffffffff' || four || rest, 'a negative number of rows'),
    ('7fffffffffffffff' || four || rest, 'too many rows'),
    (two || four || 'ffffffff' || repeat('0', 64), 'a negative number of places'),
    (two || four || '00000000' || '0000000000000003' || repeat('0', 48), 'more rows of the largest scale than rows'),
    (two || four || '00000000' || repeat('0', 16) || 'ffffffffffffffff' || repeat('0', 32), 'a negative number of NaN'),
    (two || four || '00000000' || repeat('0', 48) || '8000000000000000', 'a negative number of infinities'),
    (two, 'no sum'), ('', 'nothing')) f (payload, what);
SELECT is(forged('var_pop(numeric)', two || four || sum || rest), expected, 'S2: var_pop(numeric): ' || what)
FROM forgeries, LATERAL (VALUES
    (four, 'taken', 'as it is'),
    ('00000001 00010004 00000000 00000000 0004', 'refused: value overflows numeric format', 'the largest weight of squares'),
    ('00000001 00010005 00000000 00000000 0004', 'refused', 'a weight too large'),
    ('00000001 00000000 00000000 00007ffe 0004', 'taken', 'the largest scale'),
    ('00000001 00000000 00000000 00007fff 0004', 'refused', 'a scale too large')) f (sum, expected, what);
SELECT is(forged(a::regprocedure, two || sum || CASE WHEN a ~ 'int4' THEN four ELSE '' END), expected, format('S2: %s: %s', a, what))
FROM forgeries, unnest('{avg(int8),sum(int8),var_pop(int4),stddev(int2)}'::text[]) a, LATERAL (VALUES
    (four, CASE WHEN a ~ 'int2' THEN 'refused' ELSE 'taken' END, 'one sum, or two'),
    ('00000001 00000000 00000000 00000001 0004', 'refused', 'places behind the point'),
    ('00000001 0000000a 00000000 00000000 0001', 'refused', 'a weight too large'),
    ('0000000a 00000009 00000000 00000000 00aa 0583 209a 01d5 090d 0c60 1c87 1bf6 20da 1660', 'refused', '2^127'),
    ('0000000a 00000009 00004000 00000000 00aa 0583 209a 01d5 090d 0c60 1c87 1bf6 20da 1660', 'refused', '-2^127'),
    ('00000001 00000009 00000000 00000000 00ab', 'refused', 'more than 2^127'),
    ('0000000a 00000009 00000000 00000000 00aa 0583 209a 01d5 090d 0c60 1c87 1bf6 20da 165f',
     CASE WHEN a ~ 'int2' THEN 'refused' ELSE 'taken' END, '2^127 - 1')) f (sum, expected, what);
SELECT is(outcome('max(anyarray)', forge('\x01140000', int2send(length(name)::int2) || name || array_send(ARRAY[1])), NULL::int[]), expected, what)
FROM (VALUES ('int4[]'::bytea || '\x00'::bytea, 'refused: stored state is not one of aggregate max(anyarray)', 'a type written in another way'),
             ('integer[]'::bytea || '\x00'::bytea, 'taken', 'the name as it is'),
             ('integer[]'::bytea, 'refused: stored aggregate state is damaged', 'a name without its end'),
             ('nothing[]'::bytea || '\x00'::bytea, 'refused: type "nothing[]" does not exist', 'a type that there is not'),
             ('anyarray'::bytea || '\x00'::bytea, 'refused: stored aggregate state is damaged', 'a polymorphic type'),
             ('-'::bytea || '\x00'::bytea, 'refused: stored aggregate state is damaged', 'no type'),
             ('\x'::bytea, 'refused: stored aggregate state is damaged', 'no name')) n (name, expected, what);
SELECT is(outcome('avg(int4)', bytes, NULL::numeric), 'refused: stored state is not one of aggregate avg(integer)', 'a state of an internal type')
FROM state WHERE aggregate = 'avg(numeric)'::regprocedure;

---- key_hash ----

SELECT is(mill.key_hash(1.0), mill.key_hash(1.000), 'numeric: 1.0 = 1.000');
SELECT is(mill.key_hash('NaN'::numeric), mill.key_hash('nan'::numeric), 'numeric: NaN = NaN');
SELECT is(mill.key_hash(0.0::float8), mill.key_hash(-0.0::float8), 'float8: 0 = -0');
SELECT is(mill.key_hash(0.0::float4), mill.key_hash('-0'::float4), 'float4: 0 = -0');
SELECT is(mill.key_hash('NaN'::float8), mill.key_hash(-'NaN'::float8), 'float8: NaN = -NaN');
SELECT is(mill.key_hash('a'::char(3)), mill.key_hash('a'::char(9)), 'char: trailing blanks');
SELECT is(mill.key_hash('24 hours'::interval), mill.key_hash('1 day'::interval), 'interval: 24 hours = 1 day');
SELECT is(mill.key_hash('12:00+00'::timetz), mill.key_hash('12:00+00'::timetz), 'timetz');
SELECT is(mill.key_hash('{"a":1,"b":2.0}'::jsonb), mill.key_hash('{"b":2.00,"a":1}'::jsonb), 'jsonb');
SELECT is(mill.key_hash('{1.0,NULL}'::numeric[]), mill.key_hash('{1.00,NULL}'::numeric[]), 'arrays by their elements');
SELECT is(mill.key_hash(row(1.0, 'x'::text)), mill.key_hash(row(1.00, 'x'::text)), 'rows by their fields');
SELECT is(mill.key_hash('[1,5)'::int4range), mill.key_hash('[1,4]'::int4range), 'ranges');
SELECT is(mill.key_hash(50::percent), mill.key_hash(50), 'a domain as its base type');
SELECT is(mill.key_hash('a'::varchar), mill.key_hash('a'::text), 'varchar as text');
\if :with_icu
CREATE COLLATION caseless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
SELECT is(mill.key_hash('Ab'::text COLLATE caseless), mill.key_hash('aB'::text COLLATE caseless), 'a collation without case');
SELECT isnt(mill.key_hash('Ab'::text COLLATE "C"), mill.key_hash('aB'::text COLLATE "C"), 'a collation with case');
CREATE TABLE pairs (a text COLLATE caseless, b text COLLATE "C", c percent, d float8,
                    h bigint GENERATED ALWAYS AS (mill.key_hash(a, b, c, d)) STORED);
INSERT INTO pairs (a, b, c, d) VALUES ('Ab', 'Ab', 1, -0.0), ('aB', 'Ab', 1, 0), ('Ab', 'aB', 1, 0), ('Ab', 'Ab', NULL, NULL), ('aB', 'Ab', NULL, NULL);
SELECT is(array_agg(DISTINCT n), '{1,2}', 'each argument by the collation of its own, in a generated column')
FROM (SELECT count(DISTINCT h) * 0 + count(*) AS n FROM pairs GROUP BY h) x;
SELECT is(count(DISTINCT h), 3::bigint, 'groups of pairs') FROM pairs;
\else
SELECT skip('a server without ICU has no collation without case', 4);
\endif
SELECT count(*) > 0 AS with_citext FROM pg_available_extensions WHERE name = 'citext' \gset
\if :with_citext
CREATE EXTENSION IF NOT EXISTS citext;
SELECT is(mill.key_hash('Ab'::citext), mill.key_hash('aB'::citext), 'citext');
\else
SELECT skip('a server without contrib has no citext', 1);
\endif

SELECT is(mill.key_hash(NULL::int), mill.key_hash(NULL::text), 'NULL is a constant');
SELECT isnt(mill.key_hash(NULL::int, 1), mill.key_hash(1, NULL::int), 'NULL has its place');
SELECT isnt(mill.key_hash(1, 2), mill.key_hash(2, 1), 'so have values');
SELECT isnt(mill.key_hash(1), mill.key_hash(1, NULL::int), 'one more NULL');
SELECT is(mill.key_hash('(1,2)'::point, 7), mill.key_hash('(3,4)'::point, 7), 'a type without a hash function tells nothing');
SELECT isnt(mill.key_hash('(1,2)'::point, 7), mill.key_hash('(1,2)'::point, 8), 'and the others still do');
SELECT is(mill.key_hash(repeat('x', 100000)), mill.key_hash(long), 'a value that is stored compressed')
FROM (SELECT repeat('x', 100000) AS long) s;
SELECT is(count(DISTINCT mill.key_hash(i, 'k' || i % 10)), 100000::bigint, 'different keys, different hashes')
FROM generate_series(1, 100000) i;
-- stored in tables: these must stay the same in every version
SELECT is(mill.key_hash(42::int8, 'key'::text, NULL::date), -7103781207137173656, 'the hash of a key never changes');
SELECT throws_ok($$SELECT mill.key_hash(VARIADIC ARRAY[1, 2])$$, '0A000', NULL, 'VARIADIC');
SELECT throws_ok($$SELECT mill.key_hash()$$, '42883', NULL, 'no arguments');

SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'mill_catalog'::regnamespace
                  AND proname ~ '_state|state_bytes|key_hash'
                  AND (obj_description(p.oid, 'pg_proc') IS NULL OR proparallel <> 's' OR NOT has_function_privilege('public', p.oid, 'EXECUTE'))$$,
                'each has a comment, is parallel safe, and for all');

SELECT * FROM finish();
