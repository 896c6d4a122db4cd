/*
 * window_zone.c
 *		Local time that never goes backwards.
 *
 * Runs in any backend.  Keeps no state.
 *
 * Clocks are set forward, and a local time such as midnight may not exist; they
 * are set back, and it exists twice, and local dates may even alternate (St.
 * John's set its clocks back at 00:01).  Windows must neither overlap nor leave
 * gaps, so they begin where a local time is *first reached*:
 *
 *		first(L)   = the first instant whose local time is L or later
 *		reached(t) = the latest local time of any instant up to t
 *
 * Both are monotonic, and first(L) <= t exactly if L <= reached(t): an instant
 * belongs to the window that contains reached(t), and windows begin at first()
 * of their local start.  Core's own conversion prefers the second of two equal
 * local times, hence this file.
 */
#include "postgres.h"

#include "window/window.h"
#include "utils/timestamp.h"

/* Seconds from 1970 to 2000: pg_time_t to Timestamp. */
#define EPOCH_SECONDS ((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)
/* No zone is further than this from UTC; clocks are set back by twice that at most. */
#define FARTHEST_OFFSET (26 * SECS_PER_HOUR)

/*
 * The zone of this name; if there is none, NULL or an error.  Zones live as long
 * as the process.
 */
pg_tz *
mill_zone_lookup(const char *name, bool missing_ok)
{
	pg_tz *zone = strlen(name) <= TZ_STRLEN_MAX ? pg_tzset(name) : NULL;

	if (zone != NULL && pg_tz_acceptable(zone))
		return zone;
	if (!missing_ok)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("time zone \"%s\" not recognized", name),
						errhint("Use a name of pg_timezone_names, for example \"Europe/Berlin\".")));
	return NULL;
}

static int64
floor_seconds(int64 microseconds)
{
	return microseconds / USECS_PER_SEC - (microseconds % USECS_PER_SEC < 0);
}

/*
 * The offset from UTC at an instant, and the next change after it.  False if
 * there is no further change.
 */
static bool
next_change(pg_tz *zone, pg_time_t at, long int *offset, pg_time_t *change)
{
	long int after_offset;
	int before_dst;
	int after_dst;
	int found = pg_next_dst_boundary(&at, offset, &before_dst, change, &after_offset, &after_dst,
									 zone);

	/* at the very second of the last change in its table, core ignores the years after */
	if (found == 0)
	{
		at++;
		found = pg_next_dst_boundary(&at, offset, &before_dst, change, &after_offset, &after_dst,
									 zone);
	}
	if (found < 0)
		elog(ERROR, "no offset for this time in time zone \"%s\"", pg_get_timezone_name(zone));
	return found > 0;
}

/* When clocks are next set, forward or back, after an instant; DT_NOEND: never. */
TimestampTz
mill_zone_change(pg_tz *zone, TimestampTz at)
{
	long int offset;
	pg_time_t change;

	if (!next_change(zone, floor_seconds(at) + EPOCH_SECONDS, &offset, &change))
		return DT_NOEND;
	return (change - EPOCH_SECONDS) * USECS_PER_SEC;
}

/* The local time of an instant. */
Timestamp
mill_zone_local(pg_tz *zone, TimestampTz at)
{
	long int offset;
	pg_time_t change;

	(void) next_change(zone, floor_seconds(at) + EPOCH_SECONDS, &offset, &change);
	return at + offset * USECS_PER_SEC;
}

/* reached(): the local time, or the latest one before if clocks were set back. */
Timestamp
mill_zone_reached(pg_tz *zone, TimestampTz at)
{
	pg_time_t seconds = floor_seconds(at) + EPOCH_SECONDS;
	pg_time_t from = seconds - 2 * FARTHEST_OFFSET;
	pg_time_t change;
	long int offset;
	Timestamp reached = PG_INT64_MIN;

	while (next_change(zone, from, &offset, &change) && change <= seconds)
	{
		/* just before the change */
		reached = Max(reached, (change - EPOCH_SECONDS + offset) * USECS_PER_SEC - 1);
		from = change;
	}
	return Max(reached, at + offset * USECS_PER_SEC);
}

/*
 * first(): the first instant whose local time is this or later.  The local time
 * may be out of a timestamp's range by a few days; so may the result.
 */
TimestampTz
mill_zone_first(pg_tz *zone, Timestamp local)
{
	pg_time_t from = floor_seconds(local) + EPOCH_SECONDS - FARTHEST_OFFSET;
	TimestampTz begin = local - FARTHEST_OFFSET * USECS_PER_SEC;

	for (;;)
	{
		long int offset;
		pg_time_t change;
		bool changes = next_change(zone, from, &offset, &change);
		TimestampTz at = Max(begin, local - offset * USECS_PER_SEC);

		if (!changes || floor_seconds(at) + EPOCH_SECONDS < change)
			return at;
		from = change;
		begin = (change - EPOCH_SECONDS) * USECS_PER_SEC;
	}
}
