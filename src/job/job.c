/*
 * job.c
 *		A job's row, for the files that change it or make its runs.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "job/internal.h"
#include "window/zone.h"

MillJob *
mill_job_by_name(const char *name)
{
	static MillStatement statement =
		{.sql = "SELECT id, name, owner::oid, schedule, time_zone, start_at FROM mill_catalog.job WHERE name = $1 FOR UPDATE",
		 .nargs = 1,
		 .types = {TEXTOID}};
	Datum values[1] = {CStringGetTextDatum(name)};
	MillJob *job;

	if (mill_run(&statement, SPI_OK_SELECT, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("job \"%s\" does not exist", name)));
	job = palloc0(sizeof(MillJob));
	job->id = DatumGetInt64(mill_value(0, 1, NULL));
	job->name = mill_text(0, 2);
	job->owner = DatumGetObjectId(mill_value(0, 3, NULL));
	job->schedule = mill_text(0, 4);
	job->time_zone = mill_text(0, 5);
	job->start_at = DatumGetTimestampTz(mill_value(0, 6, NULL));
	if (!has_privs_of_role(GetUserId(), job->owner))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of job \"%s\"", name)));
	return job;
}

bool
mill_job_lock(int64 job_id, bool wait)
{
#define LOCK "SELECT FROM mill_catalog.job_progress WHERE job_id = $1 FOR NO KEY UPDATE"
	static MillStatement lock = {.sql = LOCK, .nargs = 1, .types = {INT8OID}, .generic_plan = true};
	static MillStatement try_lock = {.sql = LOCK " SKIP LOCKED",
									 .nargs = 1,
									 .types = {INT8OID},
									 .generic_plan = true};
	Datum values[1] = {Int64GetDatum(job_id)};

	return mill_run(wait ? &lock : &try_lock, SPI_OK_SELECT, values, NULL) > 0;
}

bool
mill_job_schedule(const MillJob *job, MillSchedule *schedule, pg_tz **zone)
{
	if (job->schedule == NULL)
		return false;
	mill_schedule_parse(job->schedule, schedule);
	*zone = mill_zone_lookup(job->time_zone, false);
	return true;
}

void
mill_job_plan(const MillJob *job, TimestampTz after, TimestampTz *interval_start,
			  TimestampTz *next_fire)
{
	MillSchedule schedule;
	pg_tz *zone;
	TimestampTz lower, last;

	*interval_start = after;
	*next_fire = DT_NOEND;
	if (!mill_job_schedule(job, &schedule, &zone))
		return;
	*next_fire = mill_schedule_next(&schedule, zone, job->start_at, after);
	/* no schedule of cron's has a longer way to its next instant */
	lower = schedule.every > 0 ? job->start_at - 1 : after - INT64CONST(45) * 366 * USECS_PER_DAY;
	if (!IS_VALID_TIMESTAMP(lower) || lower >= after)
		return;
	last = mill_schedule_last(&schedule, zone, job->start_at, lower, after);
	if (last != DT_NOBEGIN)
		*interval_start = last;
}
