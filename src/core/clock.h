/*
 * clock.h
 *		What time it is, when to try again, and when something is due.
 *
 * Managers, back-off and due dates ask only here for the time, so that tests
 * can move it (mill.clock_offset).
 */
#ifndef MILL_CORE_CLOCK_H
#define MILL_CORE_CLOCK_H

#include "datatype/timestamp.h"

extern TimestampTz mill_now(void);

/* When to retry, after so many failures in a row before this one. */
extern TimestampTz mill_retry_time(int failures, bool outage);

/*
 * Has this time come?  It was set at most limit milliseconds ahead, so a time
 * further ahead means that the clock was set back, and counts as come.
 */
extern bool mill_is_due(TimestampTz at, int64 limit);

/* The longest delay that mill_retry_time gives, in milliseconds. */
#define MILL_LONGEST_RETRY 75000

#endif
