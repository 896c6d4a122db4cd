/*
 * schedule.h
 *		When a job is due: cron's five fields, its macros, or a fixed interval.
 *
 * A schedule is text; parsed, it answers one question: the first instant after
 * another one at which it fires.
 */
#ifndef MILL_JOB_SCHEDULE_H
#define MILL_JOB_SCHEDULE_H

#include "datatype/timestamp.h"
#include "pgtime.h"

/* Cron's five fields, as sets of the values that match. */
typedef struct MillCron
{
	uint64 minutes; /* bit 0 .. 59 */
	uint32 hours;	/* bit 0 .. 23 */
	uint32 days;	/* of the month, bit 1 .. 31 */
	bool last_day;	/* the last day of the month */
	uint16 months;	/* bit 1 .. 12 */
	uint8 weekdays; /* bit 0, Sunday, .. 6 */
	uint8 nth[7];	/* per weekday: bit 1 .. 5, the first to the fifth in its month */
	bool all_days;	/* the field of days begins with "*" */
	bool all_weekdays;
	bool wildcard; /* minutes or hours begin with "*": see mill_schedule_next */
} MillCron;

typedef struct MillSchedule
{
	int64 every; /* microseconds; 0: by cron */
	MillCron cron;
} MillSchedule;

/* Parse the whole text; raises an error that says what is wrong, and where. */
extern void mill_schedule_parse(const char *text, MillSchedule *schedule);

/*
 * The first instant after this one; DT_NOEND if there is none that a timestamp
 * can hold.  By cron in local time of the zone: with a wildcard in minutes or
 * hours each local minute that exists and matches, otherwise each matching local
 * time once: the first instant that shows it, or, if the clock skips it, the
 * first one after the gap.  At a fixed interval: from the anchor on.
 */
extern TimestampTz mill_schedule_next(const MillSchedule *schedule, pg_tz *zone, TimestampTz anchor,
									  TimestampTz after);

/* The last instant after one and up to another one; DT_NOBEGIN if there is none. */
extern TimestampTz mill_schedule_last(const MillSchedule *schedule, pg_tz *zone, TimestampTz anchor,
									  TimestampTz after, TimestampTz until);

#endif
