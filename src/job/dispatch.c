/*
 * dispatch.c
 *		What the manager does for jobs: makes runs that are due, finds dead attempts.
 *
 * T0: a schedule fires at instants; the run of each is for the interval since the
 * one before it.  Fires that were missed, while the server or the job was down,
 * are handled as the job's catchup says.  An interval that already has a run, or
 * that is done, gets no second one, also when the clock was set back.
 *
 * T4: an attempt that shows as running and is no worker's task is over: its worker
 * ended, or the server did.  See task.h for why this cannot be wrong.
 *
 * Nothing here waits for a lock: jobs that somebody has locked are left for one of
 * the next cycles.  An error of one job pauses that job.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/task.h"
#include "core/xact.h"
#include "job/internal.h"

/* Queued runs of a job at one time; others that are due are made when there are fewer. */
#define MOST_QUEUED 100
/* Jobs that one cycle makes runs of. */
#define MOST_JOBS 200
/* A job without catchup still runs if it is not later than this. */
#define ON_TIME (60 * USECS_PER_SEC)
/* Seconds between cancel signals to a step that is to end, and until it is terminated. */
#define REMIND 1
/* Milliseconds until jobs that were locked are looked at again. */
#define LOCKED 100
#define PATIENCE 10
/* History is pruned at most once in this time. */
#define PRUNE (60 * USECS_PER_SEC)
/* ... of the jobs of which runs have succeeded or failed; of all, each so many times. */
#define ALL_ROUNDS 60

/* ---- T0 ---- */

/* The last cycle left jobs for the next one, which is due at once; or jobs that were locked. */
static bool more_due = false;
static bool look_again = false;

typedef struct DueJob
{
	MillJob job;
	char *catchup;
	bool skips; /* a fire while a run is active is skipped */
	int max_active;
	int active; /* runs, of a backfill or not */
	TimestampTz interval_start;
	TimestampTz next_fire;
} DueJob;

static void
make_run(DueJob *due, TimestampTz from, TimestampTz to)
{
	static MillStatement statement =
		{.sql =
			 "INSERT INTO mill_catalog.job_run (job_id, interval_start, interval_end, covers, cause, state, reason, created_at, finished_at)"
			 " SELECT $1, $2, $3, true, 'schedule', CASE WHEN $5 THEN 'skipped' ELSE 'queued' END,"
			 "  CASE WHEN $5 THEN 'an earlier run was active' END, $4, CASE WHEN $5 THEN $4 END"
			 " FROM mill_catalog.job_progress p WHERE p.job_id = $1 AND NOT p.done @> tstzrange($2, $3)"
			 " ON CONFLICT (job_id, interval_start, interval_end) WHERE covers DO NOTHING",
		 .nargs = 5,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID}};
	bool skip = due->skips && due->active >= due->max_active;
	Datum values[5] = {Int64GetDatum(due->job.id), TimestampTzGetDatum(from),
					   TimestampTzGetDatum(to), TimestampTzGetDatum(mill_now()), BoolGetDatum(skip)};

	Assert(from < to);
	if (mill_run(&statement, SPI_OK_INSERT, values, NULL) > 0 && !skip)
		due->active++;
}

static void
note_fire(int64 job_id, TimestampTz interval_start, TimestampTz next_fire)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.job_progress SET interval_start = $2, next_fire = $3, scheduled_at = $4"
				" WHERE job_id = $1",
		 .nargs = 4,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};
	Datum values[4] = {Int64GetDatum(job_id), TimestampTzGetDatum(interval_start),
					   TimestampTzGetDatum(next_fire), TimestampTzGetDatum(mill_now())};

	mill_run(&statement, SPI_OK_UPDATE, values, next_fire == DT_NOEND ? "  n " : NULL);
}

/* Make the runs of a job whose next fire has come, and find the next one. */
static void
fire(void *arg)
{
	DueJob *due = arg;
	TimestampTz now = mill_now();
	TimestampTz from = due->interval_start;
	TimestampTz at = due->next_fire;
	MillSchedule schedule;
	pg_tz *zone;

	if (!mill_job_schedule(&due->job, &schedule, &zone))
		return;
	if (at > now)
	{
		/*
		 * The clock was ahead when next_fire was computed.  Continue from now; what
		 * has been done is not done again.
		 */
		mill_job_plan(&due->job, Max(now, due->job.start_at), &from, &at);
		note_fire(due->job.id, from, at);
		return;
	}
	if (strcmp(due->catchup, "all") == 0)
	{
		for (int i = 0; i < MOST_QUEUED && at <= now; i++)
		{
			make_run(due, from, at);
			from = at;
			at = mill_schedule_next(&schedule, zone, due->job.start_at, at);
		}
	}
	else
	{
		TimestampTz last = mill_schedule_last(&schedule, zone, due->job.start_at, at - 1, now);

		/* if the zone's rules have changed, the stored next_fire may not be on the schedule */
		last = Max(last, at);
		if (last > at)
			from = Max(from,
					   mill_schedule_last(&schedule, zone, due->job.start_at, at - 1, last - 1));
		if (strcmp(due->catchup, "latest") == 0 || now - last <= ON_TIME)
			make_run(due, from, last);
		from = last;
		at = mill_schedule_next(&schedule, zone, due->job.start_at, last);
	}
	note_fire(due->job.id, from, at);
	mill_runs_begin(due->job.id);
}

static void
pause_job(int64 job_id, const char *reason)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.job SET enabled = false, pause_reason = $2, state_at = $3, version = version + 1"
				" WHERE id IN (SELECT id FROM mill_catalog.job WHERE id = $1 FOR UPDATE SKIP LOCKED)",
		 .nargs = 3,
		 .types = {INT8OID, TEXTOID, TIMESTAMPTZOID}};
	Datum values[3] = {Int64GetDatum(job_id), CStringGetTextDatum(reason),
					   TimestampTzGetDatum(mill_now())};

	mill_run(&statement, SPI_OK_UPDATE, values, NULL);
}

/* Call a function for one job, in a subtransaction; an error pauses the job. */
static void
contain(int64 job_id, void (*function)(void *arg), void *arg)
{
	ErrorData *error = mill_try(function, arg, CurrentMemoryContext, true);

	if (error == NULL)
		return;
	ereport(LOG,
			(errmsg("could not make runs of job %lld: %s", (long long) job_id, error->message)));
	/* what will pass is tried again at the next look */
	if (!mill_error_is_transient(error->sqlerrcode))
		pause_job(job_id, error->message);
}

/* Jobs that are due, or whose next_fire was computed before the clock was set back. */
#define DUE                                                                                        \
	"FROM mill_catalog.job_progress p JOIN mill_catalog.job j ON j.id = p.job_id"                  \
	" WHERE (p.next_fire <= $1 OR p.scheduled_at > $1 AND p.next_fire IS NOT NULL)"                \
	"  AND j.enabled AND j.schedule IS NOT NULL"                                                   \
	"  AND j.armed_system = mill_catalog.system_identifier()"                                      \
	"  AND j.armed_database = mill_catalog.database_oid()"                                         \
	"  AND EXISTS (SELECT FROM mill_catalog.step s WHERE s.job_id = j.id)"                         \
	"  AND (SELECT count(*) FROM (SELECT FROM mill_catalog.job_run r WHERE r.job_id = j.id"        \
	"    AND r.state = 'queued' AND r.backfill_id IS NULL LIMIT $2) q) < $2"                       \
	" ORDER BY p.next_fire LIMIT $3"

static void
fire_due_jobs(void)
{
	static MillStatement count = {.sql = "SELECT count(*) FROM (SELECT " DUE ") d",
								  .nargs = 3,
								  .types = {TIMESTAMPTZOID, INT8OID, INT8OID}};
	static MillStatement lock =
		{.sql = "SELECT j.id, j.name, j.schedule, j.time_zone, j.start_at, j.catchup, j.overlap = 'skip', j.max_active,"
				"  (SELECT count(*) FROM mill_catalog.job_run r WHERE r.job_id = j.id AND r.state IN ('queued', 'running') AND r.backfill_id IS NULL),"
				"  p.interval_start, p.next_fire, j.owner::oid " DUE
				" FOR NO KEY UPDATE OF p SKIP LOCKED",
		 .nargs = 3,
		 .types = {TIMESTAMPTZOID, INT8OID, INT8OID}};
	Datum values[3] = {TimestampTzGetDatum(mill_now()), Int64GetDatum(MOST_QUEUED),
					   Int64GetDatum(MOST_JOBS)};
	uint64 counted, rows;
	DueJob *jobs;

	mill_run(&count, SPI_OK_SELECT, values, NULL);
	counted = DatumGetInt64(mill_value(0, 1, NULL));
	more_due = counted == MOST_JOBS;
	if (counted == 0)
		return;
	rows = mill_run(&lock, SPI_OK_SELECT, values, NULL);
	look_again |= rows < counted;
	jobs = palloc0(sizeof(DueJob) * (rows + 1));

	for (uint64 row = 0; row < rows; row++)
	{
		DueJob *due = &jobs[row];

		due->job.id = DatumGetInt64(mill_value(row, 1, NULL));
		due->job.name = mill_text(row, 2);
		due->job.schedule = mill_text(row, 3);
		due->job.time_zone = mill_text(row, 4);
		due->job.start_at = DatumGetTimestampTz(mill_value(row, 5, NULL));
		due->catchup = mill_text(row, 6);
		due->skips = DatumGetBool(mill_value(row, 7, NULL));
		due->max_active = DatumGetInt32(mill_value(row, 8, NULL));
		due->active = DatumGetInt64(mill_value(row, 9, NULL));
		due->interval_start = DatumGetTimestampTz(mill_value(row, 10, NULL));
		due->next_fire = DatumGetTimestampTz(mill_value(row, 11, NULL));
		due->job.owner = DatumGetObjectId(mill_value(row, 12, NULL));
	}
	for (uint64 row = 0; row < rows; row++)
		contain(jobs[row].job.id, fire, &jobs[row]);
}

/* Runs that users made, or that waited while their job was paused. */
static void
begin_queued_runs(void)
{
	/* the jobs that have any, by one index lookup each */
	static MillStatement statement = {
		.sql =
			"WITH RECURSIVE q (job_id) AS ("
			"  (SELECT r.job_id FROM mill_catalog.job_run r WHERE r.state = 'queued' ORDER BY r.job_id LIMIT 1)"
			"  UNION ALL SELECT (SELECT r.job_id FROM mill_catalog.job_run r WHERE r.state = 'queued' AND r.job_id > q.job_id ORDER BY r.job_id LIMIT 1)"
			"  FROM q WHERE q.job_id IS NOT NULL)"
			" SELECT j.id FROM q JOIN mill_catalog.job j ON j.id = q.job_id WHERE j.enabled"
			"  AND j.armed_system = mill_catalog.system_identifier() AND j.armed_database = mill_catalog.database_oid()"
			"  AND EXISTS (SELECT FROM mill_catalog.step s WHERE s.job_id = j.id)"
			" ORDER BY j.id"};
	uint64 rows = mill_run(&statement, SPI_OK_SELECT, NULL, NULL);
	int64 *jobs = palloc(sizeof(int64) * (rows + 1));

	for (uint64 row = 0; row < rows; row++)
		jobs[row] = DatumGetInt64(mill_value(row, 1, NULL));
	for (uint64 row = 0; row < rows; row++)
	{
		if (mill_job_lock(jobs[row], false))
			mill_runs_begin(jobs[row]);
		else
			look_again = true;
	}
}

static void
pause_failing_jobs(void)
{
	static MillStatement statement =
		{.sql =
			 "UPDATE mill_catalog.job j SET enabled = false, state_at = $1, version = version + 1,"
			 " pause_reason = format('%s runs failed in a row (pause_after)', f.failures)"
			 " FROM (SELECT x.id, p.failures FROM mill_catalog.job x JOIN mill_catalog.job_progress p ON p.job_id = x.id"
			 "  WHERE x.enabled AND p.failures >= x.pause_after FOR UPDATE OF x SKIP LOCKED) f WHERE j.id = f.id",
		 .nargs = 1,
		 .types = {TIMESTAMPTZOID}};
	Datum values[1] = {TimestampTzGetDatum(mill_now())};

	mill_run(&statement, SPI_OK_UPDATE, values, NULL);
}

/* ---- T4 ---- */

/* The outcome of an attempt whose worker has ended. */
static MillOutcome
outcome_of_dead(bool same_server, bool suspect)
{
	if (same_server)
		return mill_server_is_stopping() ? MILL_OUTCOME_INTERRUPTED : MILL_OUTCOME_CRASHED;
	if (!mill_incarnation_after_crash())
		return MILL_OUTCOME_INTERRUPTED;
	return suspect ? MILL_OUTCOME_CRASHED_SERVER : MILL_OUTCOME_SUSPECT;
}

static void
sweep(void)
{
	static MillStatement statement = {
		.sql = "SELECT s.attempt_id, s.id, s.run_id, s.job_id, a.incarnation, s.suspect, a.pid"
			   " FROM mill_catalog.step_run s JOIN mill_catalog.attempt a ON a.id = s.attempt_id"
			   " JOIN mill_catalog.job j ON j.id = s.job_id"
			   " WHERE s.state = 'running' AND j.armed_system = mill_catalog.system_identifier()"
			   "  AND j.armed_database = mill_catalog.database_oid() ORDER BY s.id"};
	static const char *const messages[] =
		{[MILL_OUTCOME_CRASHED] = "the worker that ran the step was terminated",
		 [MILL_OUTCOME_CRASHED_SERVER] = "the server crashed while the step ran, once more",
		 [MILL_OUTCOME_INTERRUPTED] =
			 "the server ended, or the database was wanted by others, while the step ran",
		 [MILL_OUTCOME_SUSPECT] = "the server crashed while the step ran"};
	MillKind kind = mill_kind_of(mill_room_named("step"));
	uint64 rows = mill_run(&statement, SPI_OK_SELECT, NULL, NULL);
	SPITupleTable *table = SPI_tuptable;

	for (uint64 row = 0; row < rows; row++)
	{
		MillAttempt attempt;
		MillOutcome outcome;
		ErrorData error = {.sqlerrcode = ERRCODE_ADMIN_SHUTDOWN};

		SPI_tuptable = table;
		attempt.id = DatumGetInt64(mill_value(row, 1, NULL));
		attempt.step_run_id = DatumGetInt64(mill_value(row, 2, NULL));
		attempt.run_id = DatumGetInt64(mill_value(row, 3, NULL));
		attempt.job_id = DatumGetInt64(mill_value(row, 4, NULL));
		if (mill_task_is_alive(kind, MyDatabaseId, attempt.id))
			continue;
		outcome = outcome_of_dead(DatumGetInt64(mill_value(row, 5, NULL)) == mill_incarnation(),
								  DatumGetBool(mill_value(row, 6, NULL)));
		if (mill_task_was_interrupted(kind, MyDatabaseId, attempt.id))
			outcome = MILL_OUTCOME_INTERRUPTED;
		error.message = (char *) messages[outcome];
		if (outcome == MILL_OUTCOME_CRASHED)
			error.detail = psprintf("Process %d is gone; the server's log may say why.",
									DatumGetInt32(mill_value(row, 7, NULL)));
		if (mill_job_lock(attempt.job_id, false))
			(void) mill_attempt_fail(&attempt, outcome, &error, NULL);
		else
			look_again = true;
	}
}

/* Stop runs that exceed their timeout. */
static void
stop_late_runs(void)
{
	static MillStatement find =
		{.sql =
			 "SELECT r.id, r.job_id FROM mill_catalog.job_run r JOIN mill_catalog.job j ON j.id = r.job_id"
			 " WHERE r.state = 'running' AND r.deadline <= $1 AND r.stop IS NULL"
			 "  AND j.armed_system = mill_catalog.system_identifier() AND j.armed_database = mill_catalog.database_oid()",
		 .nargs = 1,
		 .types = {TIMESTAMPTZOID}};
	static MillStatement stop =
		{.sql = "UPDATE mill_catalog.job_run SET stop = 'timeout', stop_at = $1, deadline = NULL,"
				" reason = format('it took longer than its timeout of %s', deadline - started_at)"
				" WHERE id = $2 AND state = 'running' AND deadline <= $1 AND stop IS NULL",
		 .nargs = 2,
		 .types = {TIMESTAMPTZOID, INT8OID}};
	Datum values[2] = {TimestampTzGetDatum(mill_now())};
	uint64 rows = mill_run(&find, SPI_OK_SELECT, values, NULL);
	SPITupleTable *table = SPI_tuptable;

	for (uint64 row = 0; row < rows; row++)
	{
		SPI_tuptable = table;
		values[1] = mill_value(row, 1, NULL);
		if (!mill_job_lock(DatumGetInt64(mill_value(row, 2, NULL)), false))
			look_again = true;
		else if (mill_run(&stop, SPI_OK_UPDATE, values, NULL) > 0)
			mill_run_settle(DatumGetInt64(values[1]));
	}
}

/* Signal the workers whose steps are to end: of stopped runs, of jobs that were dropped. */
static void
stop_tasks(void)
{
	static MillStatement stopped =
		{.sql = "SELECT s.attempt_id, r.stop_at < $1 - make_interval(secs => $2)"
				" FROM mill_catalog.job_run r JOIN mill_catalog.step_run s ON s.run_id = r.id"
				" WHERE r.state = 'running' AND r.stop IS NOT NULL AND s.state = 'running'",
		 .nargs = 2,
		 .types = {TIMESTAMPTZOID, FLOAT8OID}};
	static MillStatement orphans =
		{.sql = "SELECT t FROM unnest($1) t WHERE NOT EXISTS (SELECT FROM mill_catalog.attempt a WHERE a.id = t)",
		 .nargs = 1,
		 .types = {INT8ARRAYOID}};
	MillKind kind = mill_kind_of(mill_room_named("step"));
	Datum values[2] = {TimestampTzGetDatum(mill_now()), Float8GetDatum(PATIENCE)};
	int64 begun[MILL_SLOTS];
	Datum tasks[MILL_SLOTS];
	int count = mill_tasks_begun(kind, MyDatabaseId, begun);
	uint64 rows;

	if (count == 0)
		return;
	rows = mill_run(&stopped, SPI_OK_SELECT, values, NULL);
	for (uint64 row = 0; row < rows; row++)
		mill_task_signal(kind, MyDatabaseId, DatumGetInt64(mill_value(row, 1, NULL)),
						 DatumGetBool(mill_value(row, 2, NULL)) ? SIGTERM : SIGINT);
	for (int i = 0; i < count; i++)
		tasks[i] = Int64GetDatum(begun[i]);
	values[0] = PointerGetDatum(
		construct_array(tasks, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	rows = mill_run(&orphans, SPI_OK_SELECT, values, NULL);
	for (uint64 row = 0; row < rows; row++)
		mill_task_signal(kind, MyDatabaseId, DatumGetInt64(mill_value(row, 1, NULL)), SIGINT);
}

/* Begin retries that are due, also if the clock was set back since they were planned. */
static void
begin_retries(void)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.step_run SET state = 'ready', ready_at = $1, retry_at = NULL"
				" WHERE id IN (SELECT s.id FROM mill_catalog.step_run s WHERE s.state = 'retry_wait'"
				"  AND (s.retry_at <= $1 OR s.finished_at > $1) FOR UPDATE SKIP LOCKED)",
		 .nargs = 1,
		 .types = {TIMESTAMPTZOID}};
	Datum values[1] = {TimestampTzGetDatum(mill_now())};

	mill_run(&statement, SPI_OK_UPDATE, values, NULL);
}

/* ---- history ---- */

static void
prune_history(void)
{
	static MillStatement statement =
		{.sql =
			 "WITH pruned AS (UPDATE mill_catalog.job_progress p SET unpruned = 0 FROM mill_catalog.job j"
			 "  WHERE j.id = p.job_id AND p.job_id IN (SELECT x.job_id FROM mill_catalog.job_progress x"
			 "   JOIN mill_catalog.job y ON y.id = x.job_id WHERE x.unpruned > 0 OR $2 ORDER BY x.job_id LIMIT 1000"
			 "   FOR NO KEY UPDATE OF x SKIP LOCKED) RETURNING j.id, j.keep_runs, j.keep_for)"
			 " DELETE FROM mill_catalog.job_run r USING pruned j WHERE r.job_id = j.id"
			 "  AND r.state NOT IN ('queued', 'running')"
			 "  AND (r.created_at < $1 - j.keep_for OR r.id <= (SELECT o.id FROM mill_catalog.job_run o WHERE o.job_id = j.id"
			 "     ORDER BY o.id DESC OFFSET j.keep_runs LIMIT 1))"
			 "  AND NOT EXISTS (SELECT FROM mill_catalog.backfill b WHERE b.id = r.backfill_id AND b.finished_at IS NULL)",
		 .nargs = 2,
		 .types = {TIMESTAMPTZOID, BOOLOID}};
	static TimestampTz pruned_at = 0;
	static int rounds = 0;
	Datum values[2] = {TimestampTzGetDatum(mill_now()), BoolGetDatum(rounds == 0)};

	if (!mill_is_due(pruned_at + PRUNE, PRUNE / 1000))
		return;
	pruned_at = mill_now();
	rounds = (rounds + 1) % ALL_ROUNDS;
	mill_run(&statement, SPI_OK_DELETE, values, NULL);
}

/* ---- entry points for the manager ---- */

void
mill_jobs_dispatch(void)
{
	static MillStatement any = {.sql = "SELECT FROM mill_catalog.job LIMIT 1"};

	/* steps of a dropped job are signaled even if it was the last job */
	stop_tasks();
	if (mill_run(&any, SPI_OK_SELECT, NULL, NULL) == 0)
		return;
	look_again = false;
	sweep();
	stop_late_runs();
	begin_retries();
	pause_failing_jobs();
	look_again |= !mill_runs_follow();
	fire_due_jobs();
	begin_queued_runs();
	prune_history();
}

TimestampTz
mill_jobs_next_due(void)
{
	static MillStatement statement =
		{.sql =
			 "SELECT least((SELECT p.next_fire FROM mill_catalog.job_progress p JOIN mill_catalog.job j ON j.id = p.job_id"
			 "    WHERE j.enabled AND p.next_fire > $1 ORDER BY p.next_fire LIMIT 1),"
			 "  (SELECT min(retry_at) FROM mill_catalog.step_run WHERE state = 'retry_wait' AND retry_at > $1),"
			 "  (SELECT min(deadline) FROM mill_catalog.job_run WHERE state = 'running' AND deadline > $1),"
			 "  (SELECT $1 + make_interval(secs => $2) FROM mill_catalog.job_run WHERE state = 'running' AND stop IS NOT NULL LIMIT 1))",
		 .nargs = 2,
		 .types = {TIMESTAMPTZOID, FLOAT8OID}};
	Datum values[2] = {TimestampTzGetDatum(mill_now()), Float8GetDatum(REMIND)};
	bool isnull;
	Datum at;

	if (more_due)
		return mill_now();
	mill_run(&statement, SPI_OK_SELECT, values, NULL);
	at = mill_value(0, 1, &isnull);
	if (look_again)
		return Min(mill_now() + LOCKED * INT64CONST(1000),
				   isnull ? DT_NOEND : DatumGetTimestampTz(at));
	return isnull ? DT_NOEND : DatumGetTimestampTz(at);
}
