-- Room: all.
--
-- What others build on: functions, views and columns by these names. Dashboards
-- and scripts of users break when one of them goes.
SELECT plan(68);

SELECT has_schema('mill');
SELECT has_role('mill_user');
SELECT has_function('mill', f, format('mill.%s exists', f))
FROM unnest('{create_pipeline,alter_pipeline,drop_pipeline,pause,resume,seek,wait_for,retry_dead_letters,delete_dead_letters,arm,materialize,dematerialize,replace_aggregate,fold,refresh,verify,retain,drop_history,definition,explain_aggregate,tumble,hop,session_start,session_end,next_runs,create_job,alter_job,drop_job,add_step,alter_step,drop_step,run_after,run_now,backfill,retry,cancel,skip,replace_interval,upsert,load_files,export}'::name[]) f;

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
SELECT has_view('mill', v, format('mill.%s exists', v)) FROM unnest('{jobs,job_runs,step_runs,attempts,backfills,events,files,rejected_rows}'::name[]) v;
SELECT has_column('mill', 'pipelines', c, format('mill.pipelines has %s', c))
FROM unnest('{rows_read,rows_written,dead_letters,last_commit_at}'::name[]) c;

SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'mill'::regnamespace
                  AND obj_description(p.oid, 'pg_proc') IS NULL$$, 'every function has a comment');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'mill'::regnamespace
                  AND proname ~ '^(create|alter|drop|add|run|backfill|cancel|skip|pause|resume|seek|retry|delete|arm|wait|materialize|dematerialize|replace|fold|refresh)'
                  AND (provolatile <> 'v' OR proparallel <> 'u')$$,
                'what changes something is volatile and parallel unsafe');
SELECT is_empty($$SELECT relname FROM pg_class c, aclexplode(c.relacl) a
                  WHERE relnamespace = 'mill_catalog'::regnamespace AND a.grantee = 0$$,
                'nobody has rights on the tables of mill_catalog');

SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p
                  WHERE pronamespace = 'mill'::regnamespace AND prorettype = 'trigger'::regtype
                  AND has_function_privilege('public', p.oid, 'EXECUTE')$$,
                'CASES 55: nobody makes a trigger with a function of ours');

-- who sees the errors of a role's fold worker
CREATE ROLE folder;
CREATE ROLE stranger;
INSERT INTO mill_catalog.error (object_kind, object_id, sqlstate, message) VALUES ('fold', 'folder'::regrole::oid::bigint, '57P01', 'ended');
SET ROLE folder;
SELECT is((SELECT string_agg(concat_ws(' ', object_kind, object_name, message), ', ') FROM mill.errors), 'fold folder ended', 'errors of a fold worker are seen by its role');
SET ROLE stranger;
SELECT is_empty('SELECT * FROM mill.errors', 'and by no other');
SELECT is_empty($$SELECT * FROM mill.workers WHERE kind <> 'manager'$$, 'nor does another see the role''s workers');
RESET ROLE;
SELECT throws_ok($$INSERT INTO mill_catalog.error (object_kind, object_id, sqlstate, message) VALUES ('thing', 1, '57P01', 'ended')$$, '23514', NULL, 'an error is of a known kind of object');

SELECT * FROM finish();
