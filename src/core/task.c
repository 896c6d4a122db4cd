/*
 * task.c
 *		Which tasks workers run now, and which start of the server this is.
 *
 * One entry for each slot, which the slot's worker writes; one lock protects them
 * all and is never held across anything that can fail or wait.
 */
#include "postgres.h"

#include <signal.h>

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/pidfile.h"
#include "utils/timestamp.h"

#include "core/task.h"

typedef struct Task
{
	int64 number;	   /* 0: none */
	int64 interrupted; /* the last one that mill_tasks_interrupt found here */
	bool begun;
	MillKind kind;
	Oid database;
	int pid;
} Task;

typedef struct Tasks
{
	LWLock *lock;
	int64 incarnation;
	bool after_crash;
	bool unclean;
	Task tasks[MILL_SLOTS];
} Tasks;

/* NULL unless the library is in shared_preload_libraries. */
static Tasks *shared_tasks = NULL;

static shmem_request_hook_type request_hook_before = NULL;
static shmem_startup_hook_type startup_hook_before = NULL;

static void
request_tasks(void)
{
	if (request_hook_before)
		request_hook_before();
	RequestAddinShmemSpace(sizeof(Tasks));
	RequestNamedLWLockTranche("pg_mill_tasks", 1);
}

/* Did the server end as it should?  Asked before recovery begins. */
static bool
was_shut_down(void)
{
	bool valid;
	ControlFileData *control = get_controlfile(DataDir, &valid);
	DBState state = control->state;

	pfree(control);
	return valid && (state == DB_SHUTDOWNED || state == DB_SHUTDOWNED_IN_RECOVERY);
}

static void
startup_tasks(void)
{
	/* After the crash of a child the postmaster calls this again, and its own memory is as it was. */
	static bool started = false;
	bool found;

	if (startup_hook_before)
		startup_hook_before();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared_tasks = ShmemInitStruct("pg_mill tasks", sizeof(Tasks), &found);
	if (!found)
	{
		memset(shared_tasks, 0, sizeof(Tasks));
		shared_tasks->lock = &GetNamedLWLockTranche("pg_mill_tasks")->lock;
		/* the process id keeps starts distinct if the clock was set back */
		shared_tasks->incarnation = GetCurrentTimestamp() ^ ((int64) PostmasterPid << 40);
		shared_tasks->after_crash = started;
		shared_tasks->unclean = started || !was_shut_down();
		started = true;
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Called once, from _PG_init, when preloaded. */
void
mill_task_shmem_init(void)
{
	request_hook_before = shmem_request_hook;
	shmem_request_hook = request_tasks;
	startup_hook_before = shmem_startup_hook;
	shmem_startup_hook = startup_tasks;
}

static void
clear_task(int code, Datum arg)
{
	LWLockAcquire(shared_tasks->lock, LW_EXCLUSIVE);
	shared_tasks->tasks[mill_my_slot].number = 0;
	LWLockRelease(shared_tasks->lock);
}

void
mill_task_set(MillKind kind, int64 task, bool begun)
{
	static bool registered = false;
	Task *mine;

	Assert(mill_my_slot >= 0 && (task != 0 || !begun));
	if (!registered)
		before_shmem_exit(clear_task, 0);
	registered = true;
	LWLockAcquire(shared_tasks->lock, LW_EXCLUSIVE);
	mine = &shared_tasks->tasks[mill_my_slot];
	mine->number = task;
	mine->begun = begun;
	mine->kind = kind;
	mine->database = MyDatabaseId;
	mine->pid = MyProcPid;
	LWLockRelease(shared_tasks->lock);
}

/* The entry of a task, NULL if no worker runs it.  The caller holds the lock. */
static const Task *
find_task(MillKind kind, Oid database, int64 number)
{
	Assert(number != 0 && LWLockHeldByMe(shared_tasks->lock));
	for (int i = 0; i < MILL_SLOTS; i++)
	{
		const Task *task = &shared_tasks->tasks[i];

		if (task->number == number && task->kind == kind && task->database == database)
			return task;
	}
	return NULL;
}

bool
mill_task_is_alive(MillKind kind, Oid database, int64 task)
{
	bool alive;

	LWLockAcquire(shared_tasks->lock, LW_SHARED);
	alive = find_task(kind, database, task) != NULL;
	LWLockRelease(shared_tasks->lock);
	return alive;
}

int
mill_tasks_begun(MillKind kind, Oid database, int64 *tasks)
{
	int count = 0;

	LWLockAcquire(shared_tasks->lock, LW_SHARED);
	for (int i = 0; i < MILL_SLOTS; i++)
	{
		const Task *task = &shared_tasks->tasks[i];

		if (task->number != 0 && task->begun && task->kind == kind && task->database == database)
			tasks[count++] = task->number;
	}
	LWLockRelease(shared_tasks->lock);
	return count;
}

void
mill_tasks_interrupt(Oid database)
{
	LWLockAcquire(shared_tasks->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MILL_SLOTS; i++)
	{
		Task *task = &shared_tasks->tasks[i];

		if (task->number != 0 && task->database == database)
			task->interrupted = task->number;
	}
	LWLockRelease(shared_tasks->lock);
}

bool
mill_task_was_interrupted(MillKind kind, Oid database, int64 task)
{
	bool found = false;

	LWLockAcquire(shared_tasks->lock, LW_SHARED);
	for (int i = 0; i < MILL_SLOTS; i++)
	{
		const Task *entry = &shared_tasks->tasks[i];

		found |= entry->interrupted == task && entry->kind == kind && entry->database == database;
	}
	LWLockRelease(shared_tasks->lock);
	return found;
}

void
mill_task_signal(MillKind kind, Oid database, int64 task, int signal_number)
{
	const Task *found;

	/* Under the lock, so that the worker cannot begin another task meanwhile. */
	LWLockAcquire(shared_tasks->lock, LW_SHARED);
	found = find_task(kind, database, task);
	if (found)
		kill(found->pid, signal_number);
	LWLockRelease(shared_tasks->lock);
}

int64
mill_incarnation(void)
{
	return shared_tasks->incarnation ^ MyDatabaseId;
}

bool
mill_incarnation_unclean(void)
{
	return shared_tasks->unclean;
}

bool
mill_incarnation_after_crash(void)
{
	return shared_tasks->after_crash;
}

bool
mill_server_is_stopping(void)
{
	FILE *file = AllocateFile("postmaster.pid", "r");
	char line[MAXPGPATH] = "";
	int lines = 0;

	if (file == NULL)
		return false;
	while (lines < LOCK_FILE_LINE_PM_STATUS && fgets(line, sizeof(line), file))
		lines++;
	FreeFile(file);
	return lines == LOCK_FILE_LINE_PM_STATUS &&
		   strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
}
