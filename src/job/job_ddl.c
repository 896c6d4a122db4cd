/*
 * job_ddl.c
 *		SQL functions that create, change and drop jobs.
 *
 * They run in the caller's session and transaction, check the caller's rights, and
 * then write our tables as the extension's owner.  A change applies to what begins
 * after it; a step that runs is not affected.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/object.h"
#include "job/internal.h"
#include "window/zone.h"

PG_FUNCTION_INFO_V1(mill_create_job);
PG_FUNCTION_INFO_V1(mill_alter_job);
PG_FUNCTION_INFO_V1(mill_drop_job);
PG_FUNCTION_INFO_V1(mill_run_after);
PG_FUNCTION_INFO_V1(mill_job_deleted);
PG_FUNCTION_INFO_V1(mill_job_run_deleted);

static const char *const catchups[] = {"none", "latest", "all", NULL};
static const char *const overlaps[] = {"queue", "skip", "allow", NULL};
static const char *const transactions[] = {"one", "own", NULL};

/* Arguments of mill.create_job; those from time_zone to keep_for are alter_job's, too. */
enum
{
	ARG_NAME,
	ARG_SCHEDULE,
	ARG_COMMAND,
	ARG_TIME_ZONE,
	ARG_START_AT,
	ARG_CATCHUP,
	ARG_OVERLAP,
	ARG_MAX_ACTIVE,
	ARG_RETRIES,
	ARG_RETRY_DELAY,
	ARG_BACKOFF,
	ARG_MAX_RETRY_DELAY,
	ARG_TIMEOUT,
	ARG_PAUSE_AFTER,
	ARG_ON_FAILURE,
	ARG_ON_SUCCESS,
	ARG_ON_RETRY,
	ARG_KEEP_RUNS,
	ARG_KEEP_FOR,
	ARG_TRANSACTION,
	ARG_CHECKS,
	ARG_WARNINGS,
	ARG_ENABLED
};

/* ---- options ---- */

/* Of fixed length and not negative; zero only where that means none, or at once. */
static void
check_interval(FunctionCallInfo fcinfo, int number, const char *name, bool zero)
{
	int64 length;

	if (PG_ARGISNULL(number))
		return;
	length = mill_interval_length(PG_GETARG_INTERVAL_P(number));
	if (length < 0 || (length == 0 && !zero))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"%s\" must be %s", name,
							   zero ? "zero or more" : "more than zero"),
						errhint("For example: %s => '5 minutes'.", name)));
}

static void
check_channel(FunctionCallInfo fcinfo, int number, const char *name)
{
	char *channel = mill_text_argument(fcinfo, number);

	if (channel == NULL)
		return;
	if (strstr(channel, "://") || strncmp(channel, "mailto:", 7) == 0)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("argument \"%s\" is an address", name),
						errhint("Name a channel, and let who sends messages LISTEN to it.")));
	if (strlen(channel) >= NAMEDATALEN)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"%s\" is too long for a channel of NOTIFY", name)));
}

/* The options that create and alter share, at the same positions. */
static void
check_options_of_job(FunctionCallInfo fcinfo)
{
	double backoff;

	mill_check_word("catchup", mill_text_argument(fcinfo, ARG_CATCHUP), catchups);
	mill_check_word("overlap", mill_text_argument(fcinfo, ARG_OVERLAP), overlaps);
	mill_check_range(fcinfo, ARG_MAX_ACTIVE, "max_active", 1, 1000);
	mill_check_range(fcinfo, ARG_RETRIES, "retries", 0, 1000);
	check_interval(fcinfo, ARG_RETRY_DELAY, "retry_delay", true);
	check_interval(fcinfo, ARG_MAX_RETRY_DELAY, "max_retry_delay", true);
	check_interval(fcinfo, ARG_TIMEOUT, "timeout", true);
	mill_check_range(fcinfo, ARG_PAUSE_AFTER, "pause_after", 0, PG_INT32_MAX);
	check_channel(fcinfo, ARG_ON_FAILURE, "on_failure");
	check_channel(fcinfo, ARG_ON_SUCCESS, "on_success");
	check_channel(fcinfo, ARG_ON_RETRY, "on_retry");
	mill_check_range(fcinfo, ARG_KEEP_RUNS, "keep_runs", 1, 1000000);
	check_interval(fcinfo, ARG_KEEP_FOR, "keep_for", false);
	if (PG_ARGISNULL(ARG_BACKOFF))
		return;
	backoff = PG_GETARG_FLOAT8(ARG_BACKOFF);
	if (!(backoff >= 1 && backoff <= 100))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"backoff\" is %g, outside of its range 1 .. 100", backoff),
						errhint("Each retry waits so many times as long as the one before it.")));
}

/* ---- when it is due ---- */

static void
set_progress(MillStatement *statement, int expected, int64 job_id, TimestampTz interval_start,
			 TimestampTz next_fire)
{
	Datum values[4] = {Int64GetDatum(job_id), TimestampTzGetDatum(interval_start),
					   TimestampTzGetDatum(next_fire), TimestampTzGetDatum(mill_now())};

	mill_run(statement, expected, values, next_fire == DT_NOEND ? "  n " : NULL);
}

static void
create_progress(const MillJob *job)
{
	static MillStatement statement =
		{.sql = "INSERT INTO mill_catalog.job_progress (job_id, interval_start, next_fire, scheduled_at) VALUES ($1, $2, $3, $4)",
		 .nargs = 4,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};
	TimestampTz interval_start, next_fire;

	mill_job_plan(job, job->start_at, &interval_start, &next_fire);
	set_progress(&statement, SPI_OK_INSERT, job->id, interval_start, next_fire);
}

/*
 * A new schedule continues where the old one is: its first interval begins where
 * the last one of the old schedule ended.
 */
static void
change_progress(const MillJob *job, bool moved)
{
	static MillStatement read =
		{.sql = "SELECT interval_start, next_fire IS NULL FROM mill_catalog.job_progress WHERE job_id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	static MillStatement update =
		{.sql = "UPDATE mill_catalog.job_progress SET interval_start = $2, next_fire = $3, scheduled_at = $4 WHERE job_id = $1",
		 .nargs = 4,
		 .types = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID}};
	Datum values[1] = {Int64GetDatum(job->id)};
	TimestampTz interval_start, next_fire, ignored;

	if (!mill_job_lock(job->id, true) || mill_run(&read, SPI_OK_SELECT, values, NULL) == 0)
		elog(ERROR, "job %lld has no progress", (long long) job->id);
	interval_start = DatumGetTimestampTz(mill_value(0, 1, NULL));
	if (moved)
		mill_job_plan(job, job->start_at, &interval_start, &next_fire);
	else if (DatumGetBool(mill_value(0, 2, NULL)))
		/* there was no schedule: nothing of the past is due */
		mill_job_plan(job, Max(mill_now(), job->start_at), &interval_start, &next_fire);
	else
		mill_job_plan(job, Max(interval_start, job->start_at), &ignored, &next_fire);
	set_progress(&update, SPI_OK_UPDATE, job->id, interval_start, next_fire);
}

/* ---- create, alter, drop ---- */

static int64
insert_job(FunctionCallInfo fcinfo, MillJob *job)
{
	static MillStatement statement =
		{.sql = "INSERT INTO mill_catalog.job (name, schedule, time_zone, start_at, catchup, overlap, max_active, retries, retry_delay,"
				" backoff, max_retry_delay, enabled, keep_runs, keep_for, owner, pause_reason)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
				" CASE WHEN NOT $12 THEN 'created with enabled => false' END) RETURNING id",
		 .nargs = 15,
		 .types = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, INT4OID, INT4OID,
				   INTERVALOID, FLOAT8OID, INTERVALOID, BOOLOID, INT4OID, INTERVALOID, REGROLEOID}};
	static const int arguments[] = {ARG_NAME,		ARG_SCHEDULE,		 ARG_TIME_ZONE,
									ARG_START_AT,	ARG_CATCHUP,		 ARG_OVERLAP,
									ARG_MAX_ACTIVE, ARG_RETRIES,		 ARG_RETRY_DELAY,
									ARG_BACKOFF,	ARG_MAX_RETRY_DELAY, ARG_ENABLED,
									ARG_KEEP_RUNS,	ARG_KEEP_FOR};
	Datum values[15];
	char nulls[15];

	for (int i = 0; i < lengthof(arguments); i++)
		mill_copy_arguments(fcinfo, arguments[i], 1, &values[i], &nulls[i]);
	if (job->schedule == NULL)
		nulls[1] = 'n';
	values[2] = CStringGetTextDatum(job->time_zone);
	values[3] = TimestampTzGetDatum(job->start_at);
	values[14] = ObjectIdGetDatum(GetUserId());
	nulls[2] = nulls[3] = nulls[14] = ' ';
	mill_run(&statement, SPI_OK_INSERT_RETURNING, values, nulls);
	return DatumGetInt64(mill_value(0, 1, NULL));
}

/* Options that zero or an empty text clears; NULL keeps the old value. */
static void
set_optional(FunctionCallInfo fcinfo, int64 job_id)
{
	static MillStatement statement =
		{.sql =
			 "UPDATE mill_catalog.job SET timeout = CASE WHEN $2 IS NULL THEN timeout ELSE nullif($2, '0') END,"
			 " pause_after = CASE WHEN $3 IS NULL THEN pause_after ELSE nullif($3, 0) END,"
			 " on_failure = CASE WHEN $4 IS NULL THEN on_failure ELSE nullif($4, '') END,"
			 " on_success = CASE WHEN $5 IS NULL THEN on_success ELSE nullif($5, '') END,"
			 " on_retry = CASE WHEN $6 IS NULL THEN on_retry ELSE nullif($6, '') END WHERE id = $1",
		 .nargs = 6,
		 .types = {INT8OID, INTERVALOID, INT4OID, TEXTOID, TEXTOID, TEXTOID}};
	Datum values[6];
	char nulls[6];

	mill_copy_arguments(fcinfo, ARG_TIMEOUT, 5, &values[1], &nulls[1]);
	values[0] = Int64GetDatum(job_id);
	nulls[0] = ' ';
	mill_run(&statement, SPI_OK_UPDATE, values, nulls);
}

/* The one step of a job that was created with a command. */
static void
add_main_step(FunctionCallInfo fcinfo, int64 job_id)
{
	static MillStatement statement =
		{.sql = "INSERT INTO mill_catalog.step (job_id, name, command, run_when, transaction, checks, warnings)"
				" VALUES ($1, 'main', $2, 'all_success', $3, $4, $5)",
		 .nargs = 5,
		 .types = {INT8OID, TEXTOID, TEXTOID, JSONBOID, JSONBOID}};
	char *transaction = mill_text_argument(fcinfo, ARG_TRANSACTION);
	Datum values[5];
	char nulls[5];

	mill_command_check("the command", mill_text_argument(fcinfo, ARG_COMMAND),
					   strcmp(transaction, "own") == 0);
	if (!PG_ARGISNULL(ARG_CHECKS))
		mill_checks_check("checks", PG_GETARG_DATUM(ARG_CHECKS));
	if (!PG_ARGISNULL(ARG_WARNINGS))
		mill_checks_check("warnings", PG_GETARG_DATUM(ARG_WARNINGS));
	mill_copy_arguments(fcinfo, ARG_COMMAND, 1, &values[1], &nulls[1]);
	mill_copy_arguments(fcinfo, ARG_TRANSACTION, 3, &values[2], &nulls[2]);
	values[0] = Int64GetDatum(job_id);
	nulls[0] = ' ';
	mill_run(&statement, SPI_OK_INSERT, values, nulls);
}

/* The given zone, or the session's; it is stored with the job. */
static char *
zone_argument(FunctionCallInfo fcinfo, int number)
{
	char *name = mill_text_argument(fcinfo, number);

	if (name == NULL)
		name = pstrdup(pg_get_timezone_name(session_timezone));
	(void) mill_zone_lookup(name, false);
	return name;
}

Datum
mill_create_job(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {"name",	  NULL,			 NULL,		 NULL,
										   NULL,	  "catchup",	 "overlap",	 "max_active",
										   "retries", "retry_delay", "backoff",	 "max_retry_delay",
										   NULL,	  NULL,			 NULL,		 NULL,
										   NULL,	  "keep_runs",	 "keep_for", "transaction",
										   NULL,	  NULL,			 "enabled"};
	MillJob job = {.owner = GetUserId()};
	MillSchedule schedule;

	mill_check_creator(&mill_job_room);
	for (int i = 0; i < lengthof(required); i++)
	{
		if (required[i])
			mill_require_argument(fcinfo, i, required[i]);
	}
	check_options_of_job(fcinfo);
	mill_check_word("transaction", mill_text_argument(fcinfo, ARG_TRANSACTION), transactions);
	job.name = mill_text_argument(fcinfo, ARG_NAME);
	job.time_zone = zone_argument(fcinfo, ARG_TIME_ZONE);
	job.start_at = PG_ARGISNULL(ARG_START_AT) ? mill_now() : PG_GETARG_TIMESTAMPTZ(ARG_START_AT);
	if (TIMESTAMP_NOT_FINITE(job.start_at))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"start_at\" must be finite")));
	job.schedule = mill_text_argument(fcinfo, ARG_SCHEDULE);
	if (job.schedule && job.schedule[0] == '\0')
		job.schedule = NULL;
	if (job.schedule)
		mill_schedule_parse(job.schedule, &schedule);
	if (PG_ARGISNULL(ARG_COMMAND) && (!PG_ARGISNULL(ARG_CHECKS) || !PG_ARGISNULL(ARG_WARNINGS)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("checks are of a command, and there is none"),
						errhint("Give command => ..., or the checks to mill.add_step.")));

	SPI_connect();
	mill_check_new_name(&mill_job_room, job.name);
	job.id = insert_job(fcinfo, &job);
	set_optional(fcinfo, job.id);
	mill_mark_create(&mill_job_room, job.id, job.name);
	create_progress(&job);
	if (!PG_ARGISNULL(ARG_COMMAND))
		add_main_step(fcinfo, job.id);
	SPI_finish();
	PG_RETURN_INT64(job.id);
}

/* Those of mill.alter_job that differ. */
#define ARG_NEW_NAME 1
#define ARG_NEW_SCHEDULE 2

Datum
mill_alter_job(PG_FUNCTION_ARGS)
{
	static MillStatement statement =
		{.sql =
			 "UPDATE mill_catalog.job SET name = coalesce($1, name),"
			 " schedule = CASE WHEN $2 IS NULL THEN schedule ELSE nullif($2, '') END, time_zone = coalesce($3, time_zone),"
			 " start_at = coalesce($4, start_at), catchup = coalesce($5, catchup), overlap = coalesce($6, overlap),"
			 " max_active = coalesce($7, max_active), retries = coalesce($8, retries), retry_delay = coalesce($9, retry_delay),"
			 " backoff = coalesce($10, backoff), max_retry_delay = coalesce($11, max_retry_delay),"
			 " keep_runs = coalesce($12, keep_runs), keep_for = coalesce($13, keep_for), version = version + 1 WHERE id = $14",
		 .nargs = 14,
		 .types = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, INT4OID, INT4OID,
				   INTERVALOID, FLOAT8OID, INTERVALOID, INT4OID, INTERVALOID, INT8OID}};
	Datum values[14];
	char nulls[14];
	MillJob *job;
	MillSchedule schedule;
	bool moved = !PG_ARGISNULL(ARG_START_AT);
	char *zone;

	mill_require_argument(fcinfo, ARG_NAME, "name");
	check_options_of_job(fcinfo);
	SPI_connect();
	job = mill_job_by_name(mill_text_argument(fcinfo, ARG_NAME));
	if (!PG_ARGISNULL(ARG_NEW_NAME))
		mill_check_new_name(&mill_job_room, mill_text_argument(fcinfo, ARG_NEW_NAME));
	if (!PG_ARGISNULL(ARG_NEW_SCHEDULE))
	{
		job->schedule = mill_text_argument(fcinfo, ARG_NEW_SCHEDULE);
		if (job->schedule[0] == '\0')
			job->schedule = NULL;
		else
			mill_schedule_parse(job->schedule, &schedule);
	}
	zone = mill_text_argument(fcinfo, ARG_TIME_ZONE);
	if (zone)
	{
		(void) mill_zone_lookup(zone, false);
		job->time_zone = zone;
	}
	if (moved)
	{
		job->start_at = PG_GETARG_TIMESTAMPTZ(ARG_START_AT);
		if (TIMESTAMP_NOT_FINITE(job->start_at))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("argument \"start_at\" must be finite")));
	}

	mill_copy_arguments(fcinfo, ARG_NEW_NAME, 11, values, nulls);
	mill_copy_arguments(fcinfo, ARG_KEEP_RUNS, 2, &values[11], &nulls[11]);
	values[13] = Int64GetDatum(job->id);
	nulls[13] = ' ';
	mill_run(&statement, SPI_OK_UPDATE, values, nulls);
	set_optional(fcinfo, job->id);
	if (!PG_ARGISNULL(ARG_NEW_SCHEDULE) || zone || moved)
		change_progress(job, moved);
	SPI_finish();
	PG_RETURN_VOID();
}

Datum
mill_drop_job(PG_FUNCTION_ARGS)
{
	static MillStatement dependents =
		{.sql = "SELECT name FROM mill_catalog.job WHERE $1 = ANY (run_after) ORDER BY name LIMIT 1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1];
	MillJob *job;

	mill_require_argument(fcinfo, 0, "name");
	SPI_connect();
	job = mill_job_by_name(mill_text_argument(fcinfo, 0));
	values[0] = Int64GetDatum(job->id);
	if (mill_run(&dependents, SPI_OK_SELECT, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("job \"%s\" runs after job \"%s\"", mill_text(0, 1), job->name),
				 errhint("Drop that first, or let it run by itself: mill.run_after('%s', NULL).",
						 mill_text(0, 1))));
	mill_object_drop(&mill_job_room, job->id);
	SPI_finish();
	PG_RETURN_VOID();
}

/* ---- after another job ---- */

/* Does a job come after the other, directly or not? */
static bool
comes_after(int64 job_id, int64 other_id)
{
	static MillStatement statement =
		{.sql = "WITH RECURSIVE before (id) AS (SELECT $1 UNION"
				"  SELECT a FROM before b JOIN mill_catalog.job j ON j.id = b.id CROSS JOIN unnest(j.run_after) a)"
				" SELECT FROM before WHERE id = $2",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	Datum values[2] = {Int64GetDatum(job_id), Int64GetDatum(other_id)};

	return mill_run(&statement, SPI_OK_SELECT, values, NULL) > 0;
}

/* SQL: mill.run_after(job, other_job); NULL: after none any more */
Datum
mill_run_after(PG_FUNCTION_ARGS)
{
	static MillStatement clear =
		{.sql = "UPDATE mill_catalog.job SET run_after = '{}', version = version + 1 WHERE id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	static MillStatement add =
		{.sql = "UPDATE mill_catalog.job SET run_after = run_after || $2, version = version + 1"
				" WHERE id = $1 AND NOT $2 = ANY (run_after)",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	MillJob *job, *other;
	Datum values[2];

	mill_require_argument(fcinfo, 0, "job");
	SPI_connect();
	job = mill_job_by_name(mill_text_argument(fcinfo, 0));
	values[0] = Int64GetDatum(job->id);
	if (PG_ARGISNULL(1))
	{
		mill_run(&clear, SPI_OK_UPDATE, values, NULL);
		SPI_finish();
		PG_RETURN_VOID();
	}
	other = mill_job_by_name(mill_text_argument(fcinfo, 1));
	if (comes_after(other->id, job->id))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("job \"%s\" cannot run after \"%s\", which runs after it", job->name,
							   other->name)));
	values[1] = Int64GetDatum(other->id);
	mill_run(&add, SPI_OK_UPDATE, values, NULL);
	SPI_finish();
	PG_RETURN_VOID();
}

/* ---- rows deleted with a job or a run ---- */

#define DELETE_BY_ID(statement)                                                                    \
	{                                                                                              \
		.sql = statement, .nargs = 1, .types = { INT8OID }                                         \
	}

/* SQL: mill_catalog.job_deleted(), AFTER DELETE on mill_catalog.job */
Datum
mill_job_deleted(PG_FUNCTION_ARGS)
{
	/* the progress first, which is the lock; the runs' own trigger deletes steps and attempts */
	static MillStatement deletes[] =
		{DELETE_BY_ID("DELETE FROM mill_catalog.job_progress WHERE job_id = $1"),
		 DELETE_BY_ID("DELETE FROM mill_catalog.job_run WHERE job_id = $1"),
		 DELETE_BY_ID("DELETE FROM mill_catalog.backfill WHERE job_id = $1"),
		 DELETE_BY_ID("DELETE FROM mill_catalog.step WHERE job_id = $1"),
		 DELETE_BY_ID(
			 "DELETE FROM mill_catalog.error WHERE object_kind = 'job' AND object_id = $1")};

	return mill_delete_dependents(fcinfo, deletes, lengthof(deletes));
}

/* SQL: mill_catalog.job_run_deleted(), AFTER DELETE on mill_catalog.job_run */
Datum
mill_job_run_deleted(PG_FUNCTION_ARGS)
{
	static MillStatement deletes[] =
		{DELETE_BY_ID(
			 "DELETE FROM mill_catalog.attempt WHERE step_run_id IN (SELECT s.id FROM mill_catalog.step_run s WHERE s.run_id = $1)"),
		 DELETE_BY_ID("DELETE FROM mill_catalog.step_run WHERE run_id = $1")};

	return mill_delete_dependents(fcinfo, deletes, lengthof(deletes));
}
