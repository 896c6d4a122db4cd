/*
 * clock.h
 *		When to try again.
 */
#ifndef MILL_CORE_CLOCK_H
#define MILL_CORE_CLOCK_H

#include "datatype/timestamp.h"

extern TimestampTz mill_retry_time(int failures, bool outage);

#endif
