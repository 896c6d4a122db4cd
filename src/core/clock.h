/*
 * clock.h
 *		What time it is, when to try again, and when something is due.
 *
 * The one place that managers, back-off and due dates ask for the time, so that
 * tests can set it (mill.clock_offset).
 */
#ifndef MILL_CORE_CLOCK_H
#define MILL_CORE_CLOCK_H

#include "datatype/timestamp.h"

extern TimestampTz mill_now(void);

/* The time of the next try after so many failures in a row before this one. */
extern TimestampTz mill_retry_time(int failures, bool outage);

/*
 * Has a time come that was set at most so many milliseconds ahead?  Also when
 * the clock was set back since.
 */
extern bool mill_is_due(TimestampTz at, int64 limit);

/* The longest time that mill_retry_time gives, in milliseconds. */
#define MILL_LONGEST_RETRY 75000

#endif
