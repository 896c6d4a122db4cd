/*
 * clock.c
 *		What time it is, when to try again, and when something is due.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/timestamp.h"

#include "core/clock.h"
#include "core/settings.h"

/* Longest delays before a retry, in seconds; see MILL_LONGEST_RETRY. */
#define LONGEST_DELAY 60
#define LONGEST_DELAY_IN_OUTAGE 5

TimestampTz
mill_now(void)
{
	return GetCurrentTimestamp() + mill_clock_offset * USECS_PER_SEC;
}

/*
 * Exponential back-off: 1 s, doubled with each failure up to a limit, plus or
 * minus a random fifth, so that what failed together is not retried together.
 */
TimestampTz
mill_retry_time(int failures, bool outage)
{
	double delay = (double) (1 << Min(failures, 6));

	Assert(failures >= 0);
	delay = Min(delay, outage ? LONGEST_DELAY_IN_OUTAGE : LONGEST_DELAY);
	delay *= 0.8 + 0.4 * pg_prng_double(&pg_global_prng_state);
	return TimestampTzPlusMilliseconds(mill_now(), (int64) (delay * 1000));
}

bool
mill_is_due(TimestampTz at, int64 limit)
{
	TimestampTz now = mill_now();

	return at <= now || at > TimestampTzPlusMilliseconds(now, limit);
}
