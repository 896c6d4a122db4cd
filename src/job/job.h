/*
 * job.h
 *		Commands on a schedule, run as their owners, committed with their bookkeeping.
 *
 * The public header of job: the two kinds of work that it has.  A job is what
 * users name; the manager makes its runs when they are due (dispatch.c).  Steps
 * are what workers run, a few for each role, whichever job's step is ready
 * (step_worker.c).  Everything else is SQL: functions, views and tables.
 */
#ifndef MILL_JOB_JOB_H
#define MILL_JOB_JOB_H

#include "core/room.h"

extern const MillRoom mill_job_room;
extern const MillRoom mill_step_room;

#endif
