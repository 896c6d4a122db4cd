/*
 * clock.c
 *		When to try again.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/timestamp.h"

#include "core/clock.h"

/* Longest rests, in seconds. */
#define REST_AFTER_FAILURE 60
#define REST_IN_OUTAGE 5

/*
 * The time of the next try after so many failures in a row before this one:
 * 1 s, doubled each time up to a limit, give or take a fifth, so that what
 * failed together does not come back together.
 */
TimestampTz
mill_retry_time(int failures, bool outage)
{
	double rest = (double) (1 << Min(failures, 6));

	rest = Min(rest, outage ? REST_IN_OUTAGE : REST_AFTER_FAILURE);
	rest *= 0.8 + 0.4 * pg_prng_double(&pg_global_prng_state);
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (int64) (rest * 1000));
}
