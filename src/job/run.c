/*
 * run.c
 *		The states of runs, steps and attempts.
 *
 *	step	waiting -> ready -> running -> success
 *							   running -> retry_wait -> ready
 *							   running -> ready			a conflict, an interruption
 *							   running -> failed
 *			waiting -> upstream_failed | skipped;  any that has not ended -> canceled
 *	run		queued -> running -> success | failed | canceled;  queued -> skipped
 *
 * All of it changes only while the job is locked (mill_job_lock), so that of two
 * steps that end at the same time the second sees the first.  What follows from the
 * end of a run (the job's progress, notifications) is in the same transaction; runs
 * of jobs that come after it are made by the manager (follow.c).  Statements use the
 * latest snapshot, because a step may set any isolation level for its transaction.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/event.h"
#include "core/task.h"
#include "core/xact.h"
#include "job/internal.h"

/* Serialization failures and deadlocks in a row that cost no retry. */
#define FREE_CONFLICTS 5
/* Crashes of the server attributed to one step; other ends of the server while it ran. */
#define MOST_CRASHES 3
#define MOST_INTERRUPTIONS 20

/* ---- the end of a run ---- */

/* NOTIFY the job's channel for an event: failure, success or retry. */
static void
tell(int64 run_id, const char *event)
{
	static MillStatement statement =
		{.sql =
			 "SELECT pg_notify(t.channel, t.payload) FROM (SELECT"
			 "   CASE $2 WHEN 'failure' THEN j.on_failure WHEN 'success' THEN j.on_success ELSE j.on_retry END AS channel,"
			 "   jsonb_strip_nulls(jsonb_build_object('event', $2, 'job', j.name, 'run', r.id, 'state', r.state,"
			 "     'interval_start', r.interval_start, 'interval_end', r.interval_end, 'reason', r.reason, 'step', e.step, 'attempts', e.attempts,"
			 "     'sqlstate', e.sqlstate, 'message', left(e.message, 1000), 'retry_at', e.retry_at))::text AS payload"
			 "  FROM mill_catalog.job_run r JOIN mill_catalog.job j ON j.id = r.job_id"
			 "  LEFT JOIN LATERAL (SELECT s.name AS step, s.attempts, a.sqlstate, a.message, a.retry_at"
			 "    FROM mill_catalog.step_run s JOIN mill_catalog.attempt a ON a.id = s.attempt_id"
			 "    WHERE s.run_id = r.id AND s.state IN ('failed', 'retry_wait', 'canceled') ORDER BY a.finished_at DESC LIMIT 1) e ON true"
			 "  WHERE r.id = $1) t WHERE t.channel IS NOT NULL",
		 .nargs = 2,
		 .types = {INT8OID, TEXTOID},
		 .generic_plan = true};
	Datum values[2] = {Int64GetDatum(run_id), CStringGetTextDatum(event)};

	mill_run(&statement, SPI_OK_SELECT, values, NULL);
}

/* A line in the server's log for a run that failed. */
static void
log_failure(int64 run_id)
{
	static MillStatement statement =
		{.sql = "SELECT j.name, r.interval_start::text, r.interval_end::text, coalesce(r.reason, e.message, '')"
				" FROM mill_catalog.job_run r JOIN mill_catalog.job j ON j.id = r.job_id"
				" LEFT JOIN LATERAL (SELECT 'step \"' || s.name || '\": ' || a.message AS message"
				"   FROM mill_catalog.step_run s JOIN mill_catalog.attempt a ON a.id = s.attempt_id"
				"   WHERE s.run_id = r.id AND s.state = 'failed' ORDER BY a.id LIMIT 1) e ON true"
				" WHERE r.id = $1",
		 .nargs = 1,
		 .types = {INT8OID},
		 .generic_plan = true};
	Datum values[1] = {Int64GetDatum(run_id)};

	if (mill_run(&statement, SPI_OK_SELECT, values, NULL) > 0)
		ereport(LOG, (errmsg("run %lld of job \"%s\" for [%s, %s) failed: %s", (long long) run_id,
							 mill_text(0, 1), mill_text(0, 2), mill_text(0, 3), mill_text(0, 4))));
}

/* An event of the job of a run, of its failure or of what follows one; detail tells the run. */
void
mill_run_note(int64 run_id, const char *event)
{
	static MillStatement statement =
		{.sql = "SELECT j.id, j.name, j.owner::oid, jsonb_strip_nulls(jsonb_build_object('run', r.id, 'interval_start', r.interval_start,"
				" 'interval_end', r.interval_end, 'reason', coalesce(r.reason, e.message)))::text"
				" FROM mill_catalog.job_run r JOIN mill_catalog.job j ON j.id = r.job_id"
				" LEFT JOIN LATERAL (SELECT s.name || ': ' || left(a.message, 1000) AS message"
				"   FROM mill_catalog.step_run s JOIN mill_catalog.attempt a ON a.id = s.attempt_id"
				"   WHERE s.run_id = r.id AND s.state = 'failed' ORDER BY a.id LIMIT 1) e ON true"
				" WHERE r.id = $1",
		 .nargs = 1,
		 .types = {INT8OID},
		 .generic_plan = true};
	Datum values[1] = {Int64GetDatum(run_id)};

	if (mill_run(&statement, SPI_OK_SELECT, values, NULL) > 0)
		mill_event_note("job", DatumGetInt64(mill_value(0, 1, NULL)), mill_text(0, 2),
						DatumGetObjectId(mill_value(0, 3, NULL)), event, mill_text(0, 4));
}

/* One of a backfill's runs has ended. */
static void
count_in_backfill(Datum backfill_id, bool success)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.backfill SET success = success + CASE WHEN $2 THEN 1 ELSE 0 END,"
				" failed = failed + CASE WHEN $2 THEN 0 ELSE 1 END,"
				" finished_at = CASE WHEN success + failed + 1 >= total THEN $3 END WHERE id = $1",
		 .nargs = 3,
		 .types = {INT8OID, BOOLOID, TIMESTAMPTZOID},
		 .generic_plan = true};
	Datum values[3] = {backfill_id, BoolGetDatum(success), TimestampTzGetDatum(mill_now())};

	mill_run(&statement, SPI_OK_UPDATE, values, NULL);
}

/* The job's progress after a run that succeeded or failed. */
static void
note_run_end(int64 run_id, bool success)
{
	static MillStatement progress =
		{.sql =
			 "UPDATE mill_catalog.job_progress p SET unpruned = unpruned + 1,"
			 " failures = CASE WHEN $2 THEN 0 ELSE failures + 1 END,"
			 " last_success_at = CASE WHEN $2 THEN $3 ELSE last_success_at END,"
			 " done = CASE WHEN $2 AND r.covers THEN done + tstzmultirange(tstzrange(r.interval_start, r.interval_end)) ELSE done END"
			 " FROM mill_catalog.job_run r WHERE r.id = $1 AND p.job_id = r.job_id"
			 /* a run that did not fit into the queue may be due; failures may pause the job */
			 " RETURNING coalesce(next_fire <= $3, false) OR p.failures > 0,"
			 "  (SELECT o.failures FROM mill_catalog.job_progress o WHERE o.job_id = p.job_id) > 0",
		 .nargs = 3,
		 .types = {INT8OID, BOOLOID, TIMESTAMPTZOID},
		 .generic_plan = true};
	Datum values[3] = {Int64GetDatum(run_id), BoolGetDatum(success),
					   TimestampTzGetDatum(mill_now())};
	bool failed_before;

	mill_run(&progress, SPI_OK_UPDATE_RETURNING, values, NULL);
	failed_before = DatumGetBool(mill_value(0, 2, NULL));
	if (DatumGetBool(mill_value(0, 1, NULL)))
		mill_wake_manager_at_commit();
	if (!success)
		mill_run_note(run_id, "failed");
	else if (failed_before)
		mill_run_note(run_id, "recovered");
}

/*
 * Did a job that this run's job comes after do the interval once more since the run
 * began?  Then what the run made is of the old: it waits for its turn again, from
 * its first step on.
 */
static bool
queue_again_if_superseded(int64 run_id)
{
	static MillStatement queue =
		{.sql = "UPDATE mill_catalog.job_run SET state = 'queued', started_at = NULL, deadline = NULL"
				" WHERE id = $1 AND superseded",
		 .nargs = 1,
		 .types = {INT8OID},
		 .generic_plan = true};
	static MillStatement steps =
		{.sql = "UPDATE mill_catalog.step_run SET state = 'waiting', failures = 0, conflicts = 0, ready_at = NULL,"
				" started_at = NULL, finished_at = NULL, rows = NULL WHERE run_id = $1",
		 .nargs = 1,
		 .types = {INT8OID},
		 .generic_plan = true};
	Datum values[1] = {Int64GetDatum(run_id)};

	if (mill_run(&queue, SPI_OK_UPDATE, values, NULL) == 0)
		return false;
	mill_run(&steps, SPI_OK_UPDATE, values, NULL);
	mill_wake_manager_at_commit();
	return true;
}

/* All steps of a run have ended. */
static void
end_run(int64 run_id, const char *state)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.job_run r SET state = $2, finished_at = $3, followed = NOT ($2 = 'success' AND covers"
				"  AND EXISTS (SELECT FROM mill_catalog.job d WHERE r.job_id = ANY (d.run_after) AND d.run_after <> '{}'))"
				" WHERE id = $1 RETURNING job_id, followed, backfill_id",
		 .nargs = 3,
		 .types = {INT8OID, TEXTOID, TIMESTAMPTZOID},
		 .generic_plan = true};
	Datum values[3] = {Int64GetDatum(run_id), CStringGetTextDatum(state),
					   TimestampTzGetDatum(mill_now())};
	bool success = strcmp(state, "success") == 0;
	bool followed, in_backfill;
	Datum backfill_id;
	int64 job_id;

	if (success && queue_again_if_superseded(run_id))
		return;
	mill_run(&statement, SPI_OK_UPDATE_RETURNING, values, NULL);
	job_id = DatumGetInt64(mill_value(0, 1, NULL));
	followed = DatumGetBool(mill_value(0, 2, NULL));
	backfill_id = mill_value(0, 3, &in_backfill);
	in_backfill = !in_backfill;

	if (strcmp(state, "canceled") != 0)
	{
		note_run_end(run_id, success);
		tell(run_id, success ? "success" : "failure");
	}
	if (strcmp(state, "failed") == 0)
		log_failure(run_id);
	if (!followed)
		mill_wake_manager_at_commit();
	if (in_backfill)
		count_in_backfill(backfill_id, success);
	mill_runs_begin(job_id);
}

void
mill_run_set_aside(int64 run_id, const char *state, const char *reason)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.job_run r SET state = $2, reason = $3, finished_at = $4"
				" FROM (SELECT id, state FROM mill_catalog.job_run WHERE id = $1) old WHERE r.id = old.id"
				" RETURNING r.backfill_id, old.state = 'queued'",
		 .nargs = 4,
		 .types = {INT8OID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
		 .generic_plan = true};
	Datum values[4] = {Int64GetDatum(run_id), CStringGetTextDatum(state),
					   CStringGetTextDatum(reason), TimestampTzGetDatum(mill_now())};
	bool alone;
	Datum backfill_id;

	mill_run(&statement, SPI_OK_UPDATE_RETURNING, values, NULL);
	backfill_id = mill_value(0, 1, &alone);
	/* a run that had ended was counted when it did */
	if (!alone && DatumGetBool(mill_value(0, 2, NULL)))
		count_in_backfill(backfill_id, false);
}

/* ---- between the steps of a run ---- */

/* Decide steps that are ready, or never will be; true if that may decide further ones. */
static bool
advance_steps(int64 run_id)
{
	static MillStatement statement =
		{.sql =
			 "UPDATE mill_catalog.step_run w SET state = n.state,"
			 " ready_at = CASE WHEN n.state = 'ready' THEN $2 END, finished_at = CASE WHEN n.state <> 'ready' THEN $2 END"
			 " FROM (SELECT w.id, CASE WHEN w.run_when = 'all_success' AND c.bad > 0 THEN 'upstream_failed'"
			 "    WHEN c.open > 0 THEN NULL"
			 "    WHEN w.run_when = 'any_failed' AND c.bad = 0 THEN 'skipped'"
			 "    ELSE 'ready' END AS state"
			 "  FROM mill_catalog.step_run w CROSS JOIN LATERAL (SELECT"
			 "    count(*) FILTER (WHERE p.state IN ('waiting', 'ready', 'running', 'retry_wait')) AS open,"
			 "    count(*) FILTER (WHERE p.state IN ('failed', 'upstream_failed', 'canceled')) AS bad"
			 "    FROM mill_catalog.step_run p WHERE p.run_id = w.run_id AND p.step_id = ANY (w.parents)) c"
			 "  WHERE w.run_id = $1 AND w.state = 'waiting') n"
			 " WHERE w.id = n.id AND n.state IS NOT NULL RETURNING n.state = 'ready'",
		 .nargs = 2,
		 .types = {INT8OID, TIMESTAMPTZOID},
		 .generic_plan = true};
	Datum values[2] = {Int64GetDatum(run_id), TimestampTzGetDatum(mill_now())};
	uint64 rows = mill_run(&statement, SPI_OK_UPDATE_RETURNING, values, NULL);
	bool decided = false, ready = false;

	for (uint64 row = 0; row < rows; row++)
	{
		if (DatumGetBool(mill_value(row, 1, NULL)))
			ready = true;
		else
			decided = true;
	}
	if (ready)
	{
		mill_wake_workers_at_commit(mill_room_named("step"));
		mill_wake_manager_at_commit();
	}
	return decided;
}

/* A run that was asked to end: none of its steps begins any more. */
static void
stop_steps(int64 run_id)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.step_run s SET state = 'canceled', finished_at = $2 FROM mill_catalog.job_run r"
				" WHERE s.run_id = $1 AND r.id = $1 AND r.stop IS NOT NULL"
				" AND s.state IN ('waiting', 'ready', 'retry_wait')",
		 .nargs = 2,
		 .types = {INT8OID, TIMESTAMPTZOID},
		 .generic_plan = true};
	Datum values[2] = {Int64GetDatum(run_id), TimestampTzGetDatum(mill_now())};

	mill_run(&statement, SPI_OK_UPDATE, values, NULL);
}

void
mill_run_settle(int64 run_id)
{
	static MillStatement statement =
		{.sql =
			 "SELECT count(*) FILTER (WHERE s.state IN ('waiting', 'ready', 'running', 'retry_wait')),"
			 " CASE WHEN max(r.stop) = 'timeout' THEN 'failed' WHEN max(r.stop) = 'cancel' THEN 'canceled'"
			 "  WHEN bool_or(s.state IN ('failed', 'upstream_failed')) THEN 'failed'"
			 "  WHEN bool_or(s.state = 'canceled') THEN 'canceled' ELSE 'success' END"
			 " FROM mill_catalog.job_run r LEFT JOIN mill_catalog.step_run s ON s.run_id = r.id WHERE r.id = $1",
		 .nargs = 1,
		 .types = {INT8OID},
		 .generic_plan = true};
	Datum values[1] = {Int64GetDatum(run_id)};

	stop_steps(run_id);
	while (advance_steps(run_id))
		;
	mill_run(&statement, SPI_OK_SELECT, values, NULL);
	if (DatumGetInt64(mill_value(0, 1, NULL)) == 0)
		end_run(run_id, mill_text(0, 2));
}

/* ---- the beginning of a run ---- */

static void
begin_run(int64 run_id)
{
	static MillStatement begin =
		{.sql = "UPDATE mill_catalog.job_run r SET state = 'running', started_at = $2, finished_at = NULL,"
				" stop = NULL, stop_at = NULL, reason = NULL, superseded = false, deadline = $2 + j.timeout"
				" FROM mill_catalog.job j WHERE r.id = $1 AND j.id = r.job_id",
		 .nargs = 2,
		 .types = {INT8OID, TIMESTAMPTZOID},
		 .generic_plan = true};
	/* a run that is retried has its steps already */
	static MillStatement make_steps =
		{.sql =
			 "INSERT INTO mill_catalog.step_run (run_id, job_id, step_id, name, parents, run_when, state)"
			 " SELECT r.id, r.job_id, s.id, s.name, s.parents, s.run_when, 'waiting'"
			 " FROM mill_catalog.job_run r JOIN mill_catalog.step s ON s.job_id = r.job_id WHERE r.id = $1"
			 " AND NOT EXISTS (SELECT FROM mill_catalog.step_run x WHERE x.run_id = r.id) ORDER BY s.id",
		 .nargs = 1,
		 .types = {INT8OID},
		 .generic_plan = true};
	Datum values[2] = {Int64GetDatum(run_id), TimestampTzGetDatum(mill_now())};

	mill_run(&begin, SPI_OK_UPDATE, values, NULL);
	mill_run(&make_steps, SPI_OK_INSERT, values, NULL);
	mill_run_settle(run_id);
}

/* What may begin of a job's queued runs: those besides backfills, or those of one. */
typedef struct Queue
{
	Datum backfill_id;
	bool backfill;
	bool newest_first;
	int64 room; /* runs that may begin */
} Queue;

/* Begin the first runs of a queue, in the order of its index. */
static void
begin_first(int64 job_id, const Queue *queue)
{
	static MillStatement besides =
		{.sql = "SELECT id FROM mill_catalog.job_run WHERE job_id = $1 AND state = 'queued' AND backfill_id IS NULL"
				" ORDER BY job_id, backfill_id, interval_end LIMIT $2",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID},
		 .generic_plan = true};
	static MillStatement oldest =
		{.sql = "SELECT id FROM mill_catalog.job_run WHERE job_id = $1 AND state = 'queued' AND backfill_id = $3"
				" ORDER BY job_id, backfill_id, interval_end LIMIT $2",
		 .nargs = 3,
		 .types = {INT8OID, INT8OID, INT8OID},
		 .generic_plan = true};
	static MillStatement newest =
		{.sql = "SELECT id FROM mill_catalog.job_run WHERE job_id = $1 AND state = 'queued' AND backfill_id = $3"
				" ORDER BY job_id DESC, backfill_id DESC, interval_end DESC LIMIT $2",
		 .nargs = 3,
		 .types = {INT8OID, INT8OID, INT8OID},
		 .generic_plan = true};
	MillStatement *statement = &besides;
	Datum values[3] = {Int64GetDatum(job_id), Int64GetDatum(queue->room), queue->backfill_id};
	uint64 rows;
	int64 *runs;

	if (queue->backfill)
		statement = queue->newest_first ? &newest : &oldest;
	rows = mill_run(statement, SPI_OK_SELECT, values, NULL);
	runs = palloc(sizeof(int64) * (rows + 1));

	for (uint64 row = 0; row < rows; row++)
		runs[row] = DatumGetInt64(mill_value(row, 1, NULL));
	for (uint64 row = 0; row < rows; row++)
		begin_run(runs[row]);
	pfree(runs);
}

void
mill_runs_begin(int64 job_id)
{
	static MillStatement may =
		{.sql = "SELECT FROM mill_catalog.job_progress p JOIN mill_catalog.job j ON j.id = p.job_id"
				" WHERE p.job_id = $1 AND j.enabled AND coalesce(p.failures < j.pause_after, true)"
				"  AND EXISTS (SELECT FROM mill_catalog.job_run q WHERE q.job_id = $1 AND q.state = 'queued')",
		 .nargs = 1,
		 .types = {INT8OID},
		 .generic_plan = true};
	/* runs of the schedule and by hand share the job's limit, each backfill has its own */
	static MillStatement find =
		{.sql = "SELECT f.backfill_id, f.newest_first, f.most - (SELECT count(*) FROM mill_catalog.job_run a WHERE a.job_id = $1"
				"   AND a.state = 'running' AND a.backfill_id IS NOT DISTINCT FROM f.backfill_id)"
				" FROM (SELECT NULL::bigint AS backfill_id, false AS newest_first,"
				"   CASE WHEN j.overlap = 'allow' THEN 1000 ELSE j.max_active END AS most FROM mill_catalog.job j WHERE j.id = $1"
				"  UNION ALL SELECT b.id, b.newest_first, b.parallel FROM mill_catalog.backfill b"
				"   WHERE b.job_id = $1 AND b.finished_at IS NULL) f",
		 .nargs = 1,
		 .types = {INT8OID},
		 .generic_plan = true};
	Datum values[1] = {Int64GetDatum(job_id)};
	uint64 rows;
	Queue *queues;

	if (mill_run(&may, SPI_OK_SELECT, values, NULL) == 0)
		return;
	rows = mill_run(&find, SPI_OK_SELECT, values, NULL);
	queues = palloc0(sizeof(Queue) * (rows + 1));
	for (uint64 row = 0; row < rows; row++)
	{
		bool besides;

		queues[row].backfill_id = mill_value(row, 1, &besides);
		queues[row].backfill = !besides;
		queues[row].newest_first = DatumGetBool(mill_value(row, 2, NULL));
		queues[row].room = DatumGetInt64(mill_value(row, 3, NULL));
	}
	for (uint64 row = 0; row < rows; row++)
	{
		if (queues[row].room > 0)
			begin_first(job_id, &queues[row]);
	}
	pfree(queues);
}

/* ---- the end of an attempt ---- */

/* Lock the job, and see whether the run is asked to end; false if the run is gone. */
static bool
lock_run(const MillAttempt *attempt, bool *stopped)
{
	static MillStatement statement =
		{.sql = "SELECT stop IS NOT NULL FROM mill_catalog.job_run WHERE id = $1",
		 .nargs = 1,
		 .types = {INT8OID},
		 .generic_plan = true};
	Datum values[1] = {Int64GetDatum(attempt->run_id)};

	if (!mill_job_lock(attempt->job_id, true) ||
		mill_run(&statement, SPI_OK_SELECT, values, NULL) == 0)
		return false;
	*stopped = DatumGetBool(mill_value(0, 1, NULL));
	return true;
}

void
mill_attempt_succeed(const MillAttempt *attempt, int64 rows, const char *notices)
{
	static MillStatement step =
		{.sql = "UPDATE mill_catalog.step_run SET state = 'success', finished_at = $3, rows = $4, conflicts = 0"
				" WHERE id = $1 AND attempt_id = $2 AND state = 'running'",
		 .nargs = 4,
		 .types = {INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID},
		 .generic_plan = true};
	static MillStatement try =
		{.sql = "UPDATE mill_catalog.attempt SET outcome = 'success', finished_at = $2, rows = $3, notices = $4 WHERE id = $1",
		 .nargs = 4,
		 .types = {INT8OID, TIMESTAMPTZOID, INT8OID, TEXTOID},
		 .generic_plan = true};
	Datum now = TimestampTzGetDatum(mill_now());
	Datum values[4] = {Int64GetDatum(attempt->step_run_id), Int64GetDatum(attempt->id), now,
					   Int64GetDatum(rows)};
	Datum try_values[4] = {values[1], now, values[3],
						   notices ? CStringGetTextDatum(notices) : (Datum) 0};
	bool stopped = false;

	if (!lock_run(attempt, &stopped))
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("the job was dropped")));
	if (stopped)
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("the run is to end")));
	if (mill_run(&step, SPI_OK_UPDATE, values, NULL) != 1)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("another attempt at the step has begun")));
	mill_run(&try, SPI_OK_UPDATE, try_values, notices ? "    " : "   n");
	mill_run_settle(attempt->run_id);
}

/* What decides the next state of a step after a failure. */
typedef struct StepPolicy
{
	int failures, conflicts, interruptions, crashes;
	int retries;
	double retry_delay, max_retry_delay, backoff; /* seconds */
} StepPolicy;

/* Read the step of an attempt; false unless the attempt is its last one and still running. */
static bool
read_policy(const MillAttempt *attempt, StepPolicy *policy)
{
	static MillStatement statement =
		{.sql = "SELECT s.failures, s.conflicts, s.interruptions, s.crashes, coalesce(d.retries, j.retries),"
				" EXTRACT(epoch FROM j.retry_delay)::float8, EXTRACT(epoch FROM j.max_retry_delay)::float8, j.backoff"
				" FROM mill_catalog.step_run s JOIN mill_catalog.job j ON j.id = s.job_id"
				" LEFT JOIN mill_catalog.step d ON d.id = s.step_id"
				" WHERE s.id = $1 AND s.attempt_id = $2 AND s.state = 'running'",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID},
		 .generic_plan = true};
	Datum values[2] = {Int64GetDatum(attempt->step_run_id), Int64GetDatum(attempt->id)};

	if (mill_run(&statement, SPI_OK_SELECT, values, NULL) == 0)
		return false;
	policy->failures = DatumGetInt32(mill_value(0, 1, NULL));
	policy->conflicts = DatumGetInt32(mill_value(0, 2, NULL));
	policy->interruptions = DatumGetInt32(mill_value(0, 3, NULL));
	policy->crashes = DatumGetInt32(mill_value(0, 4, NULL));
	policy->retries = DatumGetInt32(mill_value(0, 5, NULL));
	policy->retry_delay = DatumGetFloat8(mill_value(0, 6, NULL));
	policy->max_retry_delay = DatumGetFloat8(mill_value(0, 7, NULL));
	policy->backoff = DatumGetFloat8(mill_value(0, 8, NULL));
	return true;
}

/* The time of the n-th retry: the delay grows by the factor up to the limit, give or take a tenth. */
static TimestampTz
retry_time(const StepPolicy *policy)
{
	double delay = policy->retry_delay;

	for (int i = 1; i < policy->failures && delay < policy->max_retry_delay; i++)
		delay *= policy->backoff;
	delay = Min(delay, Max(policy->max_retry_delay, policy->retry_delay));
	delay *= 0.9 + 0.2 * pg_prng_double(&pg_global_prng_state);
	return mill_now() + (int64) (delay * USECS_PER_SEC);
}

/*
 * The step's next state, and its counters.  A conflict with others, and the end
 * of the server, cost no retry, unless they come too often.
 */
static const char *
next_state(StepPolicy *policy, MillOutcome outcome, bool conflict)
{
	if (conflict && policy->conflicts < FREE_CONFLICTS)
	{
		policy->conflicts++;
		return "ready";
	}
	policy->conflicts = 0;
	if ((outcome == MILL_OUTCOME_INTERRUPTED || outcome == MILL_OUTCOME_SUSPECT) &&
		++policy->interruptions < MOST_INTERRUPTIONS)
		return "ready";
	if (outcome == MILL_OUTCOME_CRASHED_SERVER)
		policy->crashes++;
	policy->failures++;
	return policy->failures > policy->retries || policy->crashes >= MOST_CRASHES ||
				   policy->interruptions >= MOST_INTERRUPTIONS
			   ? "failed"
			   : "retry_wait";
}

static const char *
outcome_name(MillOutcome outcome, bool conflict, bool stopped)
{
	if (stopped)
		return "canceled";
	switch (outcome)
	{
		case MILL_OUTCOME_ERROR:
			return conflict ? "conflict" : "error";
		case MILL_OUTCOME_CHECK_FAILED:
			return "check_failed";
		case MILL_OUTCOME_TIMEOUT:
			return "timeout";
		case MILL_OUTCOME_CRASHED:
		case MILL_OUTCOME_CRASHED_SERVER:
			return "crashed";
		case MILL_OUTCOME_INTERRUPTED:
		case MILL_OUTCOME_SUSPECT:
			return "interrupted";
	}
	return NULL;
}

/* Record in the attempt's row how it failed. */
static void
record_attempt(const MillAttempt *attempt, const char *outcome, const ErrorData *error,
			   const char *notices, TimestampTz retry_at)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.attempt SET outcome = $2, finished_at = $3, sqlstate = $4, message = $5, detail = $6,"
				" hint = $7, context = $8, notices = $9, retry_at = $10 WHERE id = $1",
		 .nargs = 10,
		 .types = {INT8OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
				   TEXTOID, TIMESTAMPTZOID},
		 .generic_plan = true};
	const char *texts[10] = {[1] = outcome,		   [3] = unpack_sql_state(error->sqlerrcode),
							 [4] = error->message, [5] = error->detail,
							 [6] = error->hint,	   [7] = error->context,
							 [8] = notices};
	Datum values[10];
	char nulls[10];

	for (int i = 0; i < 10; i++)
	{
		values[i] = texts[i] ? CStringGetTextDatum(texts[i]) : (Datum) 0;
		nulls[i] = texts[i] ? ' ' : 'n';
	}
	values[0] = Int64GetDatum(attempt->id);
	values[2] = TimestampTzGetDatum(mill_now());
	values[9] = TimestampTzGetDatum(retry_at);
	nulls[0] = nulls[2] = ' ';
	nulls[9] = retry_at ? ' ' : 'n';
	mill_run(&statement, SPI_OK_UPDATE, values, nulls);
}

TimestampTz
mill_attempt_fail(const MillAttempt *attempt, MillOutcome outcome, const ErrorData *error,
				  const char *notices)
{
	static MillStatement statement =
		{.sql =
			 "UPDATE mill_catalog.step_run SET state = $2, failures = $3, conflicts = $4, interruptions = $5, crashes = $6,"
			 " suspect = suspect OR $7, ready_at = $8, retry_at = $9, finished_at = $8 WHERE id = $1",
		 .nargs = 9,
		 .types = {INT8OID, TEXTOID, INT4OID, INT4OID, INT4OID, INT4OID, BOOLOID, TIMESTAMPTZOID,
				   TIMESTAMPTZOID},
		 .generic_plan = true};
	bool conflict = outcome == MILL_OUTCOME_ERROR &&
					ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK;
	bool suspect = outcome == MILL_OUTCOME_SUSPECT || outcome == MILL_OUTCOME_CRASHED_SERVER;
	StepPolicy policy;
	const char *state;
	TimestampTz retry_at = 0;
	bool stopped = false;
	Datum values[9];

	if (!lock_run(attempt, &stopped) || !read_policy(attempt, &policy))
		return 0;
	state = stopped ? "canceled" : next_state(&policy, outcome, conflict);
	if (strcmp(state, "retry_wait") == 0)
		retry_at = retry_time(&policy);
	record_attempt(attempt, outcome_name(outcome, conflict, stopped), error, notices, retry_at);

	values[0] = Int64GetDatum(attempt->step_run_id);
	values[1] = CStringGetTextDatum(state);
	values[2] = Int32GetDatum(policy.failures);
	values[3] = Int32GetDatum(policy.conflicts);
	values[4] = Int32GetDatum(policy.interruptions);
	values[5] = Int32GetDatum(policy.crashes);
	values[6] = BoolGetDatum(suspect);
	values[7] = TimestampTzGetDatum(mill_now());
	values[8] = TimestampTzGetDatum(retry_at);
	mill_run(&statement, SPI_OK_UPDATE, values, retry_at ? "         " : "        n");
	if (retry_at)
	{
		tell(attempt->run_id, "retry");
		mill_wake_manager_at_commit();
	}
	if (strcmp(state, "ready") == 0)
		mill_wake_workers_at_commit(mill_room_named("step"));
	mill_run_settle(attempt->run_id);
	return retry_at;
}
