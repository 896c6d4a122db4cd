/*
 * run_ddl.c
 *		SQL functions that make, cancel, retry and skip runs.
 *
 * They only record what is wanted; the manager is woken at commit.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/event.h"
#include "core/object.h"
#include "core/xact.h"
#include "job/internal.h"

PG_FUNCTION_INFO_V1(mill_run_now);
PG_FUNCTION_INFO_V1(mill_backfill);
PG_FUNCTION_INFO_V1(mill_retry);
PG_FUNCTION_INFO_V1(mill_cancel);
PG_FUNCTION_INFO_V1(mill_skip);

/* Runs that one backfill may make. */
#define MOST_RUNS_OF_BACKFILL 1000000

static const char *const which[] = {"missing", "failed", "all", NULL};

/* The bounds of an interval, both given and in order. */
static void
check_bounds(TimestampTz from, TimestampTz to)
{
	if (TIMESTAMP_NOT_FINITE(from) || TIMESTAMP_NOT_FINITE(to) || from >= to)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("\"from\" must be before \"to\", and both finite"),
						errhint("For example: '2026-03-01', '2026-03-02'.")));
}

/*
 * Replace the run that stands for an interval, if there is one: the interval is no
 * longer done.  False if that run has not ended.  The job is locked.
 */
static bool
replace_run(int64 job_id, TimestampTz from, TimestampTz to)
{
	static MillStatement active =
		{.sql = "SELECT FROM mill_catalog.job_run WHERE job_id = $1 AND interval_start = $2 AND interval_end = $3 AND covers"
				" AND state IN ('queued', 'running')",
		 .nargs = 3,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID}};
	static MillStatement drop =
		{.sql = "DELETE FROM mill_catalog.job_run WHERE job_id = $1 AND interval_start = $2 AND interval_end = $3 AND covers",
		 .nargs = 3,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID}};
	static MillStatement uncover =
		{.sql = "UPDATE mill_catalog.job_progress SET done = done - tstzmultirange(tstzrange($2, $3))"
				" WHERE job_id = $1 AND done && tstzrange($2, $3)",
		 .nargs = 3,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID}};
	Datum values[3] = {Int64GetDatum(job_id), TimestampTzGetDatum(from), TimestampTzGetDatum(to)};

	if (mill_run(&active, SPI_OK_SELECT, values, NULL) > 0)
		return false;
	mill_run(&drop, SPI_OK_DELETE, values, NULL);
	mill_run(&uncover, SPI_OK_UPDATE, values, NULL);
	return true;
}

static int64
insert_run(int64 job_id, TimestampTz from, TimestampTz to, bool covers, int64 backfill_id)
{
	static MillStatement statement =
		{.sql =
			 "INSERT INTO mill_catalog.job_run (job_id, interval_start, interval_end, covers, cause, backfill_id, state, created_at)"
			 " VALUES ($1, $2, $3, $4, CASE WHEN $5 IS NULL THEN 'hand' ELSE 'backfill' END, $5, 'queued', $6) RETURNING id",
		 .nargs = 6,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, BOOLOID, INT8OID, TIMESTAMPTZOID}};
	Datum values[6] = {Int64GetDatum(job_id),	   TimestampTzGetDatum(from),
					   TimestampTzGetDatum(to),	   BoolGetDatum(covers),
					   Int64GetDatum(backfill_id), TimestampTzGetDatum(mill_now())};

	mill_run(&statement, SPI_OK_INSERT_RETURNING, values, backfill_id == 0 ? "    n " : NULL);
	mill_wake_manager_at_commit();
	return DatumGetInt64(mill_value(0, 1, NULL));
}

static void
require_steps(const MillJob *job)
{
	static MillStatement statement =
		{.sql = "SELECT FROM mill_catalog.step WHERE job_id = $1 LIMIT 1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1] = {Int64GetDatum(job->id)};

	if (mill_run(&statement, SPI_OK_SELECT, values, NULL) == 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("job \"%s\" has no steps", job->name),
						errhint("Add one: mill.add_step('%s', 'main', '...').", job->name)));
}

/* From the end of what the schedule, or a run of this kind, did last, up to now. */
static void
interval_until_now(int64 job_id, TimestampTz *from, TimestampTz *to)
{
	static MillStatement statement =
		{.sql =
			 "SELECT greatest(p.interval_start, (SELECT max(r.interval_end) FROM mill_catalog.job_run r"
			 "  WHERE r.job_id = $1 AND NOT r.covers)) FROM mill_catalog.job_progress p WHERE p.job_id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1] = {Int64GetDatum(job_id)};

	mill_run(&statement, SPI_OK_SELECT, values, NULL);
	*from = DatumGetTimestampTz(mill_value(0, 1, NULL));
	*to = mill_now();
	/* the clock may have been set back */
	if (*from >= *to)
		*from = *to - 1;
}

Datum
mill_run_now(PG_FUNCTION_ARGS)
{
	TimestampTz from, to;
	MillJob *job;
	int64 id;

	mill_require_preload();
	mill_require_argument(fcinfo, 0, "job");
	if (PG_ARGISNULL(1) != PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("give both \"from\" and \"to\", or none of them")));
	SPI_connect();
	job = mill_job_by_name(mill_text_argument(fcinfo, 0));
	require_steps(job);
	if (PG_ARGISNULL(1))
		interval_until_now(job->id, &from, &to);
	else
	{
		from = PG_GETARG_TIMESTAMPTZ(1);
		to = PG_GETARG_TIMESTAMPTZ(2);
		check_bounds(from, to);
		(void) mill_job_lock(job->id, true);
		if (!replace_run(job->id, from, to))
			ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
							errmsg("a run of job \"%s\" for that interval has not ended", job->name),
							errhint("Wait for it, or cancel it: see mill.job_runs.")));
	}
	id = insert_run(job->id, from, to, !PG_ARGISNULL(1), 0);
	mill_run_note(id, "run");
	SPI_finish();
	PG_RETURN_INT64(id);
}

/* ---- backfill ---- */

/* Is an interval one of those that are wanted? */
static bool
wants_interval(int64 job_id, const char *only, TimestampTz from, TimestampTz to)
{
	static MillStatement statement =
		{.sql = "SELECT CASE $4 WHEN 'all' THEN true WHEN 'missing' THEN NOT p.done @> tstzrange($2, $3)"
				"  ELSE EXISTS (SELECT FROM mill_catalog.job_run r WHERE r.job_id = $1 AND r.interval_start = $2"
				"   AND r.interval_end = $3 AND r.covers AND r.state IN ('failed', 'canceled')) END"
				" FROM mill_catalog.job_progress p WHERE p.job_id = $1",
		 .nargs = 4,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID}};
	Datum values[4] = {Int64GetDatum(job_id), TimestampTzGetDatum(from), TimestampTzGetDatum(to),
					   CStringGetTextDatum(only)};

	mill_run(&statement, SPI_OK_SELECT, values, NULL);
	return DatumGetBool(mill_value(0, 1, NULL));
}

/* Runs for the schedule's intervals that are within the bounds; returns how many. */
static int64
make_backfill_runs(const MillJob *job, TimestampTz lower, TimestampTz upper, const char *only,
				   int64 backfill_id)
{
	MillSchedule schedule;
	pg_tz *zone;
	TimestampTz from, to, anchor;
	int64 count = 0;

	if (!mill_job_schedule(job, &schedule, &zone))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job \"%s\" has no schedule, which would say what its intervals are",
						job->name),
				 errhint("Run it for one interval: mill.run_now('%s', '...', '...').", job->name)));
	/* "@every": the instants before start_at continue those after it */
	anchor = job->start_at;
	if (schedule.every > 0 && anchor > lower)
		anchor -= ((anchor - lower) / schedule.every + 1) * schedule.every;
	from = mill_schedule_next(&schedule, zone, anchor, lower - 1);
	while (from < upper && (to = mill_schedule_next(&schedule, zone, anchor, from)) <= upper)
	{
		CHECK_FOR_INTERRUPTS();
		if (wants_interval(job->id, only, from, to) && replace_run(job->id, from, to))
		{
			insert_run(job->id, from, to, true, backfill_id);
			if (++count > MOST_RUNS_OF_BACKFILL)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("the backfill would make more than %d runs", MOST_RUNS_OF_BACKFILL),
						 errhint("Backfill a shorter time.")));
		}
		from = to;
	}
	return count;
}

Datum
mill_backfill(PG_FUNCTION_ARGS)
{
	static MillStatement insert =
		{.sql = "INSERT INTO mill_catalog.backfill (job_id, range_start, range_end, which, parallel, newest_first, total, role, created_at)"
				" VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8) RETURNING id",
		 .nargs = 8,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, INT4OID, BOOLOID, REGROLEOID,
				   TIMESTAMPTZOID}};
	static MillStatement count =
		{.sql = "UPDATE mill_catalog.backfill SET total = $2, finished_at = CASE WHEN $2 = 0 THEN created_at END WHERE id = $1",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	static const char *const required[] = {"job", "from", "to", "only", "parallel", "newest_first"};
	Datum values[8];
	char nulls[8];
	MillJob *job;
	char *only;
	Datum counted[2];

	mill_require_preload();
	for (int i = 0; i < lengthof(required); i++)
		mill_require_argument(fcinfo, i, required[i]);
	only = mill_text_argument(fcinfo, 3);
	mill_check_word("only", only, which);
	mill_check_range(fcinfo, 4, "parallel", 1, 1000);
	check_bounds(PG_GETARG_TIMESTAMPTZ(1), PG_GETARG_TIMESTAMPTZ(2));
	SPI_connect();
	job = mill_job_by_name(mill_text_argument(fcinfo, 0));
	require_steps(job);
	(void) mill_job_lock(job->id, true);
	mill_copy_arguments(fcinfo, 0, 6, values, nulls);
	values[0] = Int64GetDatum(job->id);
	values[6] = ObjectIdGetDatum(GetUserId());
	values[7] = TimestampTzGetDatum(mill_now());
	mill_run(&insert, SPI_OK_INSERT_RETURNING, values, NULL);
	counted[0] = mill_value(0, 1, NULL);
	counted[1] = Int64GetDatum(make_backfill_runs(job, PG_GETARG_TIMESTAMPTZ(1),
												  PG_GETARG_TIMESTAMPTZ(2), only,
												  DatumGetInt64(counted[0])));
	mill_run(&count, SPI_OK_UPDATE, counted, NULL);
	mill_event_note("job", job->id, job->name, job->owner, "backfilled",
					psprintf("{\"backfill\": %lld, \"runs\": %lld}",
							 (long long) DatumGetInt64(counted[0]),
							 (long long) DatumGetInt64(counted[1])));
	SPI_finish();
	if (DatumGetInt64(counted[1]) == 0)
		ereport(NOTICE, (errmsg("there is nothing to backfill"),
						 errdetail("No interval of the schedule that is within the bounds is %s.",
								   strcmp(only, "all") == 0 ? "free" : only)));
	PG_RETURN_DATUM(counted[0]);
}

/* ---- retry, cancel, skip ---- */

typedef struct Run
{
	int64 id;
	int64 job_id;
	char *state;
	bool stopped;
} Run;

/* A user's run; its job is locked. */
static Run *
run_argument(FunctionCallInfo fcinfo)
{
	static MillStatement find =
		{.sql = "SELECT j.name FROM mill_catalog.job_run r JOIN mill_catalog.job j ON j.id = r.job_id WHERE r.id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	static MillStatement read =
		{.sql = "SELECT state, stop IS NOT NULL FROM mill_catalog.job_run WHERE id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Run *run = palloc0(sizeof(Run));
	Datum values[1];

	mill_require_argument(fcinfo, 0, "run");
	run->id = PG_GETARG_INT64(0);
	values[0] = Int64GetDatum(run->id);
	if (mill_run(&find, SPI_OK_SELECT, values, NULL) > 0)
	{
		run->job_id = mill_job_by_name(mill_text(0, 1))->id;
		(void) mill_job_lock(run->job_id, true);
		if (mill_run(&read, SPI_OK_SELECT, values, NULL) > 0)
		{
			run->state = mill_text(0, 1);
			run->stopped = DatumGetBool(mill_value(0, 2, NULL));
		}
	}
	if (run->state == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("run %lld does not exist", (long long) run->id)));
	return run;
}

static void
refuse_run(const Run *run, const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("run %lld cannot be %s, as its state is %s", (long long) run->id, what,
						   run->state)));
}

/*
 * SQL: mill.retry(run).  Reset the steps that did not succeed, and all that come
 * after them, to their state before the run; it is queued again.
 */
Datum
mill_retry(PG_FUNCTION_ARGS)
{
	static MillStatement steps =
		{.sql =
			 "WITH RECURSIVE again (step_id) AS ("
			 "  SELECT s.step_id FROM mill_catalog.step_run s WHERE s.run_id = $1 AND s.state IN ('failed', 'upstream_failed', 'canceled')"
			 "  UNION SELECT s.step_id FROM again a JOIN mill_catalog.step_run s ON s.run_id = $1 AND a.step_id = ANY (s.parents))"
			 " UPDATE mill_catalog.step_run s SET state = 'waiting', failures = 0, conflicts = 0, interruptions = 0, crashes = 0,"
			 "  ready_at = NULL, retry_at = NULL, started_at = NULL, finished_at = NULL, rows = NULL"
			 " FROM again a WHERE s.run_id = $1 AND s.step_id = a.step_id",
		 .nargs = 1,
		 .types = {INT8OID}};
	static MillStatement queue =
		{.sql = "UPDATE mill_catalog.job_run SET state = 'queued', stop = NULL, stop_at = NULL, reason = NULL, finished_at = NULL,"
				" deadline = NULL WHERE id = $1 RETURNING backfill_id",
		 .nargs = 1,
		 .types = {INT8OID}};
	static MillStatement uncount =
		{.sql = "UPDATE mill_catalog.backfill SET failed = failed - 1, finished_at = NULL WHERE id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1];
	bool isnull;
	Run *run;

	mill_require_preload();
	SPI_connect();
	run = run_argument(fcinfo);
	if (strcmp(run->state, "failed") != 0 && strcmp(run->state, "canceled") != 0 &&
		strcmp(run->state, "skipped") != 0)
		refuse_run(run, "retried");
	values[0] = Int64GetDatum(run->id);
	mill_run(&steps, SPI_OK_UPDATE, values, NULL);
	mill_run(&queue, SPI_OK_UPDATE_RETURNING, values, NULL);
	values[0] = mill_value(0, 1, &isnull);
	if (!isnull)
		mill_run(&uncount, SPI_OK_UPDATE, values, NULL);
	mill_run_note(run->id, "retried");
	mill_wake_manager_at_commit();
	SPI_finish();
	PG_RETURN_VOID();
}

/* SQL: mill.cancel(run).  The manager signals the workers of the steps that run. */
Datum
mill_cancel(PG_FUNCTION_ARGS)
{
	static MillStatement stop =
		{.sql = "UPDATE mill_catalog.job_run SET stop = 'cancel', stop_at = $2, reason = 'canceled by ' || quote_ident($3) WHERE id = $1",
		 .nargs = 3,
		 .types = {INT8OID, TIMESTAMPTZOID, TEXTOID}};
	const char *role = GetUserNameFromId(GetUserId(), false);
	Datum values[3];
	Run *run;

	SPI_connect();
	run = run_argument(fcinfo);
	if (strcmp(run->state, "queued") == 0)
		mill_run_set_aside(run->id, "canceled", psprintf("canceled by %s", quote_identifier(role)));
	else if (strcmp(run->state, "running") != 0)
		refuse_run(run, "canceled");
	else if (!run->stopped)
	{
		values[0] = Int64GetDatum(run->id);
		values[1] = TimestampTzGetDatum(mill_now());
		values[2] = CStringGetTextDatum(role);
		mill_run(&stop, SPI_OK_UPDATE, values, NULL);
		mill_run_settle(run->id);
	}
	mill_run_note(run->id, "canceled");
	mill_wake_manager_at_commit();
	SPI_finish();
	PG_RETURN_VOID();
}

/* SQL: mill.skip(run).  What its steps have committed stays. */
Datum
mill_skip(PG_FUNCTION_ARGS)
{
	Run *run;

	SPI_connect();
	run = run_argument(fcinfo);
	if (strcmp(run->state, "running") == 0 || strcmp(run->state, "success") == 0)
		refuse_run(run, "skipped");
	mill_run_set_aside(run->id, "skipped",
					   psprintf("skipped by %s",
								quote_identifier(GetUserNameFromId(GetUserId(), false))));
	mill_run_note(run->id, "skipped");
	mill_wake_manager_at_commit();
	SPI_finish();
	PG_RETURN_VOID();
}
