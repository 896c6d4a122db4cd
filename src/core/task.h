/*
 * task.h
 *		Which tasks workers run now, and which start of the server this is.
 *
 * A task is a number that its room assigns, not 0: an attempt of a step of a job.
 * A worker sets it before a table shows the task as begun, and again, as begun,
 * when that has committed.  So a reader of the table that checks here afterwards
 * never takes a living task for dead; and one that first gets the tasks begun
 * from here, and then reads the table, finds which are not wanted any more.
 *
 * Unlike an advisory lock this cannot be changed by what a task runs; it survives
 * an abort, and ends with the process, or with the server.
 */
#ifndef MILL_CORE_TASK_H
#define MILL_CORE_TASK_H

#include "core/slot.h"

extern void mill_task_shmem_init(void);

/* Worker only: set the task that it runs; 0: none. */
extern void mill_task_set(MillKind kind, int64 task, bool begun);

extern bool mill_task_is_alive(MillKind kind, Oid database, int64 task);

/* The tasks that have begun, at most MILL_SLOTS; returns their number. */
extern int mill_tasks_begun(MillKind kind, Oid database, int64 *tasks);

/*
 * Note that all workers of a database are about to be terminated, which is no
 * failure of their tasks; and whether this task was one of those.
 */
extern void mill_tasks_interrupt(Oid database);
extern bool mill_task_was_interrupted(MillKind kind, Oid database, int64 task);

/* Signal the worker that runs this task, if there is one. */
extern void mill_task_signal(MillKind kind, Oid database, int64 task, int signal_number);

/* A number for this start of the server and this database; a restart after a crash has a new one. */
extern int64 mill_incarnation(void);

/* Did it begin with the crash of a process; or with any end that was no shutdown? */
extern bool mill_incarnation_after_crash(void);
extern bool mill_incarnation_unclean(void);

/*
 * Is the server shutting down?  Before it signals its processes it says so in its
 * lock file; no, if that cannot be read.  Its processes end one after the other, so
 * one may be seen to end by another that has not been signalled yet.
 */
extern bool mill_server_is_stopping(void);

#endif
