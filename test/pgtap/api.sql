-- Room: all.
--
-- What others build on: functions, views and columns by these names. Dashboards
-- and scripts of users break when one of them goes.
SELECT plan(37);

SELECT has_schema('mill');
SELECT has_role('mill_user');
SELECT has_function('mill', f, format('mill.%s exists', f))
FROM unnest('{create_pipeline,alter_pipeline,drop_pipeline,pause,resume,seek,wait_for,retry_dead_letters,delete_dead_letters,arm,materialize,dematerialize,replace_aggregate,fold,refresh,verify,explain_aggregate,tumble,hop,session_start,session_end,next_runs}'::name[]) f;

SELECT columns_are('mill', 'errors',
    '{object_kind,object_name,sqlstate,message,detail,hint,context,at,retry_at,occurrences}'::name[]);
SELECT columns_are('mill', 'workers', '{kind,object,worker_no,state,reason,since,pid,failures,retry_at}'::name[]);
SELECT columns_are('mill', 'dead_letters',
    '{id,pipeline,topic,partition,kafka_offset,key,value,headers,produced_at,sqlstate,message,detail,hint,column_name,created_at,retried_at}'::name[]);
SELECT columns_are('mill', 'lag',
    '{pipeline,topic,partition,low_offset,high_offset,stored_offset,lag,last_event_at,rows_per_second,offsets_skipped}'::name[]);
SELECT is((SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute
           WHERE attrelid = 'mill.pipelines'::regclass AND attnum BETWEEN 1 AND 8),
          '{pipeline,source,target,mode,owner,state,reason,since}'::name[], 'the first columns of mill.pipelines');
SELECT has_column('mill', 'pipelines', c, format('mill.pipelines has %s', c))
FROM unnest('{rows_read,rows_written,dead_letters,last_commit_at}'::name[]) c;

SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'mill'::regnamespace
                  AND obj_description(p.oid, 'pg_proc') IS NULL$$, 'every function has a comment');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'mill'::regnamespace
                  AND proname ~ '^(create|alter|drop|pause|resume|seek|retry|delete|arm|wait|materialize|dematerialize|replace|fold|refresh)'
                  AND (provolatile <> 'v' OR proparallel <> 'u')$$,
                'what changes something is volatile and parallel unsafe');
SELECT is_empty($$SELECT relname FROM pg_class c, aclexplode(c.relacl) a
                  WHERE relnamespace = 'mill_catalog'::regnamespace AND a.grantee = 0$$,
                'nobody has rights on the tables of mill_catalog');

SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p
                  WHERE pronamespace = 'mill'::regnamespace AND prorettype = 'trigger'::regtype
                  AND has_function_privilege('public', p.oid, 'EXECUTE')$$,
                'CASES 55: nobody makes a trigger with a function of ours');

SELECT * FROM finish();
