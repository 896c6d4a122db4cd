/*
 * clock.c
 *		What time it is, when to try again, and when something is due.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/timestamp.h"

#include "core/clock.h"
#include "core/settings.h"

/* Longest rests, in seconds; see MILL_LONGEST_RETRY. */
#define REST_AFTER_FAILURE 60
#define REST_IN_OUTAGE 5

TimestampTz
mill_now(void)
{
	return GetCurrentTimestamp() + mill_clock_offset * USECS_PER_SEC;
}

/*
 * 1 s, doubled each time up to a limit, give or take a fifth, so that what
 * failed together does not come back together.
 */
TimestampTz
mill_retry_time(int failures, bool outage)
{
	double rest = (double) (1 << Min(failures, 6));

	Assert(failures >= 0);
	rest = Min(rest, outage ? REST_IN_OUTAGE : REST_AFTER_FAILURE);
	rest *= 0.8 + 0.4 * pg_prng_double(&pg_global_prng_state);
	return TimestampTzPlusMilliseconds(mill_now(), (int64) (rest * 1000));
}

bool
mill_is_due(TimestampTz at, int64 limit)
{
	TimestampTz now = mill_now();

	return at <= now || at > TimestampTzPlusMilliseconds(now, limit);
}
