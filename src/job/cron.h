/*
 * cron.h
 *		Cron's five fields: text to sets, and local times that match.
 */
#ifndef MILL_JOB_CRON_H
#define MILL_JOB_CRON_H

#include "job/schedule.h"

extern void mill_cron_parse(const char *text, MillCron *cron);

/*
 * The first local minute from this time on that matches, time zones aside;
 * DT_NOEND if there is none.
 */
extern Timestamp mill_cron_local(const MillCron *cron, Timestamp from);

#endif
