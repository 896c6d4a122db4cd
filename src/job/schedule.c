/*
 * schedule.c
 *		When a job is due: cron's five fields, its macros, or a fixed interval.
 *
 * Local time jumps.  A schedule with a wildcard in its minutes or hours follows
 * the minutes that exist: "every half hour" is every half hour, also in the night
 * that has one hour more or less.  One of fixed times means, for example, a daily
 * job, which is to run once: the first time that the clock shows the time; if the
 * clock skips it, at the first instant after the gap.
 */
#include "postgres.h"

#include "common/int.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "job/cron.h"
#include "window/zone.h"

PG_FUNCTION_INFO_V1(mill_next_runs);

/* The most runs that one call of mill.next_runs returns. */
#define MOST_RUNS 100000

static const char every_word[] = "@every";

/* "@every 90 seconds": an interval of a fixed length. */
static int64
parse_every(const char *text, const char *interval_text)
{
	Interval *interval = DatumGetIntervalP(
		DirectFunctionCall3(interval_in, CStringGetDatum(interval_text),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	int64 days;

	if (interval->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid schedule: \"%s\"", text),
				 errdetail("Months and years are not always as long."),
				 errhint("For example \"@monthly\", \"0 1 1 * *\", or \"@every 30 days\".")));
	if (pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &days) ||
		pg_add_s64_overflow(days, interval->time, &days) || days < USECS_PER_SEC)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid schedule: \"%s\"", text),
				 errdetail("It must be one second or more."),
				 errhint("For example \"@every 90 seconds\".")));
	return days;
}

void
mill_schedule_parse(const char *text, MillSchedule *schedule)
{
	const char *start = text + strspn(text, " \t");
	size_t word = strlen(every_word);

	memset(schedule, 0, sizeof(*schedule));
	if (pg_strncasecmp(start, every_word, word) == 0 && (start[word] == ' ' || start[word] == '\t'))
		schedule->every = parse_every(text, start + word);
	else
		mill_cron_parse(text, &schedule->cron);
}

static TimestampTz
next_of_every(int64 every, TimestampTz anchor, TimestampTz after)
{
	int64 passed;
	TimestampTz next;

	if (after < anchor)
		return anchor;
	if (pg_sub_s64_overflow(after, anchor, &passed) ||
		pg_add_s64_overflow(after - passed % every, every, &next) || !IS_VALID_TIMESTAMP(next))
		return DT_NOEND;
	return next;
}

/* Each local time once. */
static TimestampTz
next_fixed(const MillCron *cron, pg_tz *zone, TimestampTz after)
{
	/* no clock goes further back than this */
	Timestamp local = mill_zone_local(zone, after) - 2 * USECS_PER_DAY;

	for (;;)
	{
		TimestampTz at;

		local = mill_cron_local(cron, local);
		if (local == DT_NOEND)
			return DT_NOEND;
		at = mill_zone_first(zone, local);
		if (at > after)
			return at;
		local += USECS_PER_MINUTE;
	}
}

/* Each local minute that exists, as often as it does. */
static TimestampTz
next_wildcard(const MillCron *cron, pg_tz *zone, TimestampTz after)
{
	TimestampTz from = after + 1;

	for (;;)
	{
		TimestampTz change = mill_zone_change(zone, from);
		Timestamp shown = mill_zone_local(zone, from);
		Timestamp local = mill_cron_local(cron, shown);

		/* until the next change of the offset local time is continuous */
		if (local == DT_NOEND)
			return DT_NOEND;
		if (change == DT_NOEND || local - shown < change - from)
			return from + (local - shown);
		from = change;
	}
}

TimestampTz
mill_schedule_next(const MillSchedule *schedule, pg_tz *zone, TimestampTz anchor, TimestampTz after)
{
	TimestampTz next;

	Assert(!TIMESTAMP_NOT_FINITE(after));
	if (schedule->every > 0)
		return next_of_every(schedule->every, anchor, after);
	next = schedule->cron.wildcard ? next_wildcard(&schedule->cron, zone, after)
								   : next_fixed(&schedule->cron, zone, after);
	Assert(next > after);
	return IS_VALID_TIMESTAMP(next) ? next : DT_NOEND;
}

TimestampTz
mill_schedule_last(const MillSchedule *schedule, pg_tz *zone, TimestampTz anchor, TimestampTz after,
				   TimestampTz until)
{
	TimestampTz last = DT_NOBEGIN;
	int64 span = USECS_PER_MINUTE;

	Assert(!TIMESTAMP_NOT_FINITE(after) && !TIMESTAMP_NOT_FINITE(until));
	/* a schedule can only be read forwards: go back in steps that double until one fires */
	for (;;)
	{
		bool all = span >= until - after;
		TimestampTz at = all ? after : until - span;

		while ((at = mill_schedule_next(schedule, zone, anchor, at)) <= until)
		{
			last = at;
			CHECK_FOR_INTERRUPTS();
		}
		if (last != DT_NOBEGIN || all)
			return last;
		span *= 2;
	}
}

/* SQL: mill.next_runs(schedule, time_zone, after, n) */
Datum
mill_next_runs(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MillSchedule schedule;
	pg_tz *zone = session_timezone;
	TimestampTz at;
	int count;

	mill_require_argument(fcinfo, 0, "schedule");
	mill_require_argument(fcinfo, 2, "after");
	mill_require_argument(fcinfo, 3, "n");
	mill_schedule_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)), &schedule);
	if (!PG_ARGISNULL(1))
		zone = mill_zone_lookup(text_to_cstring(PG_GETARG_TEXT_PP(1)), false);
	at = PG_GETARG_TIMESTAMPTZ(2);
	count = PG_GETARG_INT32(3);
	if (TIMESTAMP_NOT_FINITE(at))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"after\" must be finite")));
	if (count < 0 || count > MOST_RUNS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"n\" is %d, outside of its range 0 .. %d", count, MOST_RUNS)));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int i = 0; i < count; i++)
	{
		Datum value;
		bool isnull = false;

		CHECK_FOR_INTERRUPTS();
		at = mill_schedule_next(&schedule, zone, PG_GETARG_TIMESTAMPTZ(2), at);
		if (at == DT_NOEND)
			break;
		value = TimestampTzGetDatum(at);
		tuplestore_putvalues(result->setResult, result->setDesc, &value, &isnull);
	}
	return (Datum) 0;
}
