/*
 * internal.h
 *		Jobs, their runs and steps, among the files of this room.
 *
 * A run is one job for one half-open interval, an attempt one execution of one of
 * its steps.  Their states change in six kinds of transactions only:
 *
 *	T0	manager		a job is due: its runs are made; a run that has its turn begins
 *	T1	worker		a step that is ready is claimed: an attempt begins
 *	T2	worker		the command, its checks, and that the attempt succeeded
 *	T3	worker		after an abort of T2: the attempt's failure is recorded
 *	T4	manager		attempts whose worker has ended are recorded; retries that are due begin
 *
 *	T5	manager		a run that succeeded is followed by those of jobs that come after it
 *
 * and in those of users, who make, cancel, retry and skip runs.  A job has one lock,
 * mill_job_lock: whoever changes anything of its runs takes that first, but for T1,
 * which skips steps that are locked, and for runs that users add.  Users lock the
 * job's row before it.  A worker locks one job and then waits for nobody; the manager
 * waits for no lock at all.  So only users who change several jobs in one transaction
 * can deadlock, with each other.
 */
#ifndef MILL_JOB_INTERNAL_H
#define MILL_JOB_INTERNAL_H

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/elog.h"

#include "job/job.h"
#include "job/schedule.h"

typedef struct MillJob
{
	int64 id;
	char *name;
	Oid owner;
	char *schedule; /* NULL: none */
	char *time_zone;
	TimestampTz start_at;
} MillJob;

/* ---- job.c ---- */

/* A user's job, its row locked for a change; an error if there is none or the user does not own it. */
extern MillJob *mill_job_by_name(const char *name);

/*
 * Lock the runs, steps and progress of a job until the end of the transaction.
 * False if the job is gone or, without waiting, if somebody has it locked.
 */
extern bool mill_job_lock(int64 job_id, bool wait);

/* A job's schedule and zone; false if it has none. */
extern bool mill_job_schedule(const MillJob *job, MillSchedule *schedule, pg_tz **zone);

/*
 * The first fire after an instant, which is not before start_at, and the interval
 * that it is for: since the schedule's instant before it.  DT_NOEND: there is none.
 */
extern void mill_job_plan(const MillJob *job, TimestampTz after, TimestampTz *interval_start,
						  TimestampTz *next_fire);

/* ---- command.c ---- */

/* Raise an error if this cannot be a step's command; a notice for a missing object. */
extern void mill_command_check(const char *what, const char *command, bool own_transaction);

/* The same of checks, a JSON object of names and queries; NULL passes. */
extern void mill_checks_check(const char *argument, Datum checks);

typedef struct MillCommand
{
	const char *text;
	bool own_transaction;
	TimestampTz interval[2]; /* $1 and $2 */
	int64 run_id;
} MillCommand;

/*
 * Run a command as the session's user: in the current transaction, with SPI
 * connected; or outside of any, each statement in its own.  Returns the rows
 * that it wrote or, where it wrote none, read.
 */
extern int64 mill_command_run(const MillCommand *command);

/* Run checks in the current transaction: an error, or a warning, for each that returns a row. */
extern void mill_checks_run(const MillCommand *command, const char *checks, bool fail);

/* ---- notices.c ---- */

extern void mill_notices_begin(void);
extern char *mill_notices_end(void); /* the messages, bounded; NULL: none; palloc'd */

/* ---- run.c: states, in a transaction, with SPI connected ---- */

typedef enum MillOutcome
{
	MILL_OUTCOME_ERROR,
	MILL_OUTCOME_CHECK_FAILED,
	MILL_OUTCOME_TIMEOUT,
	MILL_OUTCOME_CRASHED,		 /* its process ended */
	MILL_OUTCOME_CRASHED_SERVER, /* ... and the server crashed, because of this step */
	MILL_OUTCOME_INTERRUPTED,	 /* the server ended, or DDL on the database ended workers */
	MILL_OUTCOME_SUSPECT		 /* interrupted by a crash, perhaps caused by this step */
} MillOutcome;

typedef struct MillAttempt
{
	int64 id;
	int64 step_run_id;
	int64 run_id;
	int64 job_id;
} MillAttempt;

/* Begin those of a job's queued runs whose turn it is; the caller has locked the job. */
extern void mill_runs_begin(int64 job_id);

/* The attempt succeeded; an error if it is no longer the step's, or its run is to end. */
extern void mill_attempt_succeed(const MillAttempt *attempt, int64 rows, const char *notices);

/* The attempt failed; does nothing if it is no longer the step's.  Returns when it is retried, or 0. */
extern TimestampTz mill_attempt_fail(const MillAttempt *attempt, MillOutcome outcome,
									 const ErrorData *error, const char *notices);

/* Advance steps and the run according to the states of its steps; the caller has locked the job. */
extern void mill_run_settle(int64 run_id);

/* Note an event of the run's job, for mill.events. */
extern void mill_run_note(int64 run_id, const char *event);

/* End a run that has not begun, or has ended, with this state; the job's progress stays as it is. */
extern void mill_run_set_aside(int64 run_id, const char *state, const char *reason);

/* ---- rooms.c ---- */

/*
 * Is one of a role's jobs due so soon that its worker stays, though nothing is ready?
 * In a transaction, with SPI connected.
 */
extern bool mill_step_worker_stays(int64 role, int worker_no);

/* ---- replace.c ---- */

/*
 * An error if this is no relation, or if it belongs to another role and the user
 * is a superuser: what its triggers and defaults do, a superuser would do.
 */
extern void mill_check_written_target(Oid target);

/* ---- follow.c ---- */

/*
 * Make the runs that follow those that succeeded; false if some are left because
 * somebody has one of the jobs locked.  For the manager.
 */
extern bool mill_runs_follow(void);

/* ---- dispatch.c ---- */

extern void mill_jobs_dispatch(void);
extern TimestampTz mill_jobs_next_due(void);

#endif
