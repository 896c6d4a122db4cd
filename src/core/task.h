/*
 * task.h
 *		What the workers of a room are at, and which start of the server this is.
 *
 * A task is a number of its room, not 0: a try at a step of a job.  A worker
 * tells of it before a table shows the task as begun, and once more when that
 * has committed.  So who reads the table first and then asks here is never told
 * that a task is dead which is not; who asks here first for those that have
 * begun, and then reads the table, knows which are not wanted any more.
 *
 * Unlike a lock this is out of reach of what a task runs, it outlives an abort,
 * and it goes with the process, or with the server.
 */
#ifndef MILL_CORE_TASK_H
#define MILL_CORE_TASK_H

#include "core/slot.h"

extern void mill_task_shmem_init(void);

/* Worker only: it is at this task; 0: at none. */
extern void mill_task_set(MillKind kind, int64 task, bool begun);

extern bool mill_task_is_alive(MillKind kind, Oid database, int64 task);

/* The tasks that have begun, at most MILL_SLOTS; returns their number. */
extern int mill_tasks_begun(MillKind kind, Oid database, int64 *tasks);

/*
 * All workers of a database are about to be terminated, for no fault of their
 * tasks; and was this task one of those?
 */
extern void mill_tasks_interrupt(Oid database);
extern bool mill_task_was_interrupted(MillKind kind, Oid database, int64 task);

/* Signal the worker that is at this task, if one is. */
extern void mill_task_signal(MillKind kind, Oid database, int64 task, int signal_number);

/* Identifies this start of the server, which the crash of a process ends, too, for this database. */
extern int64 mill_incarnation(void);

/* Did it begin with the crash of a process? */
extern bool mill_incarnation_after_crash(void);

#endif
