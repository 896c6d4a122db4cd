/*
 * slot.c
 *		Slots in shared memory: which workers are wanted, run, wait or back off.
 *
 * A slot belongs to one wanted worker for as long as it is wanted, also while
 * it waits for its turn or backs off after a failure, so that its worker state
 * can be shown.  The launcher allocates slots for managers, a manager for the
 * workers of its database; the worker attaches to its slot and detaches when it
 * exits.
 *
 * One lock protects all of it: each process acquires it a few times a second
 * and never holds it across anything that can fail or wait.  The generation
 * number shows a worker that starts late that its slot was allocated again.
 *
 * Nothing here is durable: after a crash the server starts with empty slots,
 * the launcher starts managers, and these read from tables what is wanted.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "core/clock.h"
#include "core/compat.h"
#include "core/room.h"
#include "core/slot.h"

typedef struct MillSlot
{
	bool in_use;
	uint32 generation; /* a new one each time the slot is allocated */
	PGPROC *proc;	   /* NULL: not attached */
	TimestampTz stopped_at;
	TimestampTz waiting_seen; /* when the slot was last found to wait */
	MillSlotInfo info;
} MillSlot;

typedef struct MillShared
{
	LWLock *lock;	  /* protects everything here */
	PGPROC *launcher; /* NULL while none runs */
	uint32 probe_requests;
	uint32 next_generation;
	int slots_used;
	TimestampTz database_ddl_at; /* 0: none yet */
	MillSlot slots[MILL_SLOTS];
} MillShared;

/* NULL unless the library is in shared_preload_libraries. */
static MillShared *mill_shared = NULL;

int mill_my_slot = -1;

static shmem_request_hook_type previous_shmem_request_hook = NULL;
static shmem_startup_hook_type previous_shmem_startup_hook = NULL;

static void
request_shmem(void)
{
	if (previous_shmem_request_hook)
		previous_shmem_request_hook();
	RequestAddinShmemSpace(sizeof(MillShared));
	RequestNamedLWLockTranche("pg_mill", 1);
}

static void
startup_shmem(void)
{
	bool found;

	if (previous_shmem_startup_hook)
		previous_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	mill_shared = ShmemInitStruct("pg_mill", sizeof(MillShared), &found);
	if (!found)
	{
		memset(mill_shared, 0, sizeof(MillShared));
		mill_shared->lock = &GetNamedLWLockTranche("pg_mill")->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Called once, from _PG_init, when preloaded. */
void
mill_shmem_init(void)
{
	previous_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	previous_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

bool
mill_has_workers(void)
{
	return mill_shared != NULL;
}

void
mill_require_preload(void)
{
	if (mill_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_mill has no background workers in this server"),
				 errhint(
					 "Add pg_mill to shared_preload_libraries in postgresql.conf and restart the server.")));
}

/* The slot of this index; the caller holds the lock. */
static MillSlot *
locked_slot(int index)
{
	Assert(mill_shared && LWLockHeldByMe(mill_shared->lock));
	Assert(index >= 0 && index < MILL_SLOTS);
	return &mill_shared->slots[index];
}

/* The same; acquires the lock exclusively. */
static MillSlot *
lock_slot(int index)
{
	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	return locked_slot(index);
}

static void
unlock(void)
{
	LWLockRelease(mill_shared->lock);
}

/* ---- launcher and managers ---- */

int
mill_slots_used(void)
{
	int used;

	LWLockAcquire(mill_shared->lock, LW_SHARED);
	used = mill_shared->slots_used;
	unlock();
	return used;
}

bool
mill_slot_get(int index, MillSlotInfo *info)
{
	bool in_use;

	LWLockAcquire(mill_shared->lock, LW_SHARED);
	in_use = locked_slot(index)->in_use;
	*info = locked_slot(index)->info;
	unlock();
	return in_use;
}

static bool
is_for(const MillSlotInfo *info, MillKind kind, Oid database, int64 object_id, int worker_no)
{
	return info->kind == kind && info->database == database && info->object_id == object_id &&
		   info->worker_no == worker_no;
}

/*
 * Find or allocate the slot of a wanted worker; -1 if all are in use.
 */
int
mill_slot_allocate(MillKind kind, Oid database, int64 object_id, int worker_no)
{
	int free_slot = -1;

	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MILL_SLOTS; i++)
	{
		MillSlot *slot = locked_slot(i);

		if (!slot->in_use)
		{
			if (free_slot < 0)
				free_slot = i;
		}
		else if (is_for(&slot->info, kind, database, object_id, worker_no))
		{
			unlock();
			return i;
		}
	}
	if (free_slot >= 0)
	{
		MillSlot *slot = locked_slot(free_slot);

		memset(slot, 0, sizeof(*slot));
		slot->in_use = true;
		slot->generation = ++mill_shared->next_generation;
		slot->info.kind = kind;
		slot->info.database = database;
		slot->info.object_id = object_id;
		slot->info.worker_no = worker_no;
		slot->info.state = MILL_STATE_STARTING;
		slot->info.since = mill_now();
		mill_shared->slots_used = Max(mill_shared->slots_used, free_slot + 1);
	}
	unlock();
	return free_slot;
}

/* Free a slot.  Its worker must not be attached. */
void
mill_slot_free(int index)
{
	MillSlot *slot = lock_slot(index);

	Assert(slot->in_use && slot->proc == NULL);
	slot->in_use = false;
	unlock();
}

void
mill_slot_assign(int index, Oid owner, int64 version)
{
	MillSlot *slot = lock_slot(index);

	Assert(OidIsValid(owner) && slot->proc == NULL);
	slot->info.owner = owner;
	slot->info.version = version;
	unlock();
}

void
mill_slot_give_up(int index)
{
	lock_slot(index)->info.launched = false;
	unlock();
}

void
mill_slot_reset_failures(int index)
{
	MillSlot *slot = lock_slot(index);

	slot->info.retry_at = 0;
	slot->info.failures = 0;
	unlock();
}

static void
describe_worker(BackgroundWorker *worker, int index, const char *function, const char *title,
				bool manager)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_library_name, "pg_mill", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, function, sizeof(worker->bgw_function_name));
	snprintf(worker->bgw_name, sizeof(worker->bgw_name), "pg_mill %s", title);
	strlcpy(worker->bgw_type, manager ? "pg_mill manager" : "pg_mill worker",
			sizeof(worker->bgw_type));
	worker->bgw_main_arg = Int32GetDatum(index);
	worker->bgw_notify_pid = MyProcPid;
}

/*
 * Register the slot's worker.  False if the server has no free background worker.
 *
 * The slot is marked first, and the lock released for the registration, so that
 * a worker that starts at once finds its slot marked.
 */
bool
mill_slot_launch(int index, const char *function, const char *title)
{
	MillSlot *slot = lock_slot(index);
	TimestampTz launched_before = slot->info.launched_at;
	BackgroundWorker worker;
	bool registered;

	Assert(slot->in_use && !slot->info.launched);
	describe_worker(&worker, index, function, title, slot->info.kind == MILL_KIND_MANAGER);
	memcpy(worker.bgw_extra, &slot->generation, sizeof(slot->generation));
	slot->info.launched = true;
	slot->info.stop = false;
	slot->info.dormant_until = 0;
	slot->info.launched_at = mill_now();
	unlock();

	registered = RegisterDynamicBackgroundWorker(&worker, NULL);
	slot = lock_slot(index);
	if (registered)
		slot->info.waiting_since = 0;
	else
	{
		slot->info.launched = false;
		slot->info.launched_at = launched_before;
	}
	unlock();
	return registered;
}

/* ---- turns ---- */

/*
 * All databases share the server's max_worker_processes, and each manager knows
 * its own work only.  So a manager that finds no free background worker notes in
 * the slot since when it waits and asks one worker, of any database, to end; a
 * background worker that becomes free goes to the slot that has waited longest.
 */

/* A note of waiting that was not renewed for so long is ignored, in milliseconds. */
#define WAITING_TIMEOUT 3000
/* How long a worker may run while others wait, in milliseconds: idle, or busy. */
#define IDLE_TURN 1000
#define BUSY_TURN 10000

/* Is a time so many milliseconds ago?  True also if the clock was set back since. */
static bool
has_passed(TimestampTz at, TimestampTz now, int milliseconds)
{
	return at > now || TimestampDifferenceExceeds(at, now, milliseconds);
}

/* May this slot's worker be started: does no other slot wait longer for a free background worker? */
bool
mill_slot_may_launch(int index)
{
	TimestampTz now = mill_now();
	TimestampTz since;
	bool may = true;

	LWLockAcquire(mill_shared->lock, LW_SHARED);
	since = locked_slot(index)->info.waiting_since;
	for (int i = 0; i < mill_shared->slots_used; i++)
	{
		const MillSlot *other = locked_slot(i);

		if (i != index && other->in_use && other->info.waiting_since != 0 &&
			!has_passed(other->waiting_seen, now, WAITING_TIMEOUT) &&
			(since == 0 || other->info.waiting_since < since))
			may = false;
	}
	unlock();
	return may;
}

/* A reason that is too long is cut between words. */
static void
keep_reason(MillSlotInfo *info, const char *reason)
{
	static const char more[] = " ...";
	int space = sizeof(info->reason) - sizeof(more);
	int length;

	if (strlcpy(info->reason, reason, sizeof(info->reason)) < sizeof(info->reason))
		return;
	length = pg_mbcliplen(reason, space, space);
	for (int i = length; i > space / 2; i--)
	{
		if (reason[i] == ' ')
		{
			length = i;
			break;
		}
	}
	strcpy(info->reason + length, more);
}

/* Keeps "since" while the state stays the same.  The caller holds the lock. */
static void
set_state(MillSlot *slot, MillState state, const char *reason)
{
	Assert(LWLockHeldByMeInMode(mill_shared->lock, LW_EXCLUSIVE));
	if (slot->info.state != state)
		slot->info.since = mill_now();
	slot->info.state = state;
	keep_reason(&slot->info, reason ? reason : "");
}

/* The slot waits for a free background worker, with this reason.  True if it did not wait before. */
bool
mill_slot_wait(int index, const char *reason)
{
	MillSlot *slot = lock_slot(index);
	bool is_new = slot->info.waiting_since == 0;

	slot->waiting_seen = mill_now();
	if (is_new)
		slot->info.waiting_since = slot->waiting_seen;
	set_state(slot, MILL_STATE_WAITING, reason);
	unlock();
	return is_new;
}

/* Does a worker of this database run?  The caller holds the lock. */
static bool
has_workers(Oid database)
{
	for (int i = 0; i < mill_shared->slots_used; i++)
	{
		const MillSlot *slot = locked_slot(i);

		if (slot->in_use && slot->info.kind != MILL_KIND_MANAGER &&
			slot->info.database == database && slot->info.launched)
			return true;
	}
	return false;
}

/*
 * May this slot's process be asked to end because others wait?  0: no; idle
 * workers (3) come before those that had their time (2), and these before
 * managers without workers (1).  The caller holds the lock.
 */
static int
preemption_rank(const MillSlot *slot, TimestampTz now)
{
	bool manager = slot->info.kind == MILL_KIND_MANAGER;
	bool idle = !manager && slot->info.state == MILL_STATE_IDLE;

	if (!slot->in_use || !slot->proc || slot->info.stop ||
		!has_passed(slot->info.launched_at, now, idle ? IDLE_TURN : BUSY_TURN))
		return 0;
	if (manager)
		return has_workers(slot->info.database) ? 0 : 1;
	if (idle)
		return 3;
	return mill_room_of(slot->info.kind)->preemptible ? 2 : 0;
}

/* Was a process asked to end just now?  Then a background worker becomes free soon.  Holds the lock. */
static bool
is_ending(const MillSlot *slot, TimestampTz now)
{
	return slot->in_use && slot->proc && slot->info.stop &&
		   !has_passed(slot->stopped_at, now, BUSY_TURN);
}

/*
 * Others wait: ask one process to end, a worker of this database, or (InvalidOid)
 * of any database; then managers may be asked too, and are started again in
 * their turn.
 */
void
mill_preempt_worker(Oid database, int except)
{
	TimestampTz now = mill_now();
	TimestampTz launched_at = 0;
	int victim = -1;
	int best = 0;

	LWLockAcquire(mill_shared->lock, LW_SHARED);
	for (int i = 0; i < mill_shared->slots_used; i++)
	{
		const MillSlot *slot = locked_slot(i);
		int rank;

		if (i == except || i == mill_my_slot ||
			(OidIsValid(database) &&
			 (slot->info.database != database || slot->info.kind == MILL_KIND_MANAGER)))
			continue;
		if (is_ending(slot, now))
		{
			victim = -1;
			break;
		}
		rank = preemption_rank(slot, now);
		if (rank > best || (rank > 0 && rank == best && slot->info.launched_at < launched_at))
		{
			victim = i;
			best = rank;
			launched_at = slot->info.launched_at;
		}
	}
	unlock();
	if (victim >= 0)
		mill_slot_stop(victim, false);
}

/*
 * Ask a worker to end after its batch; or terminate it now, in the middle of one.
 */
void
mill_slot_stop(int index, bool now)
{
	MillSlot *slot = lock_slot(index);
	int pid = 0;

	if (!slot->info.stop)
		slot->stopped_at = mill_now();
	slot->info.stop = true;
	if (slot->proc)
	{
		pid = slot->info.pid;
		SetLatch(&slot->proc->procLatch);
	}
	unlock();

	if (now && pid != 0)
		kill(pid, SIGTERM);
}

/* ---- the worker in a slot ---- */

/* Detach from the slot, and wake the process that manages it. */
static void
detach(int code, Datum arg)
{
	MillSlot *slot = lock_slot(mill_my_slot);
	Oid database = slot->info.database;
	bool manager = slot->info.kind == MILL_KIND_MANAGER;

	slot->proc = NULL;
	slot->info.pid = 0;
	slot->info.launched = false;
	if (manager && mill_shared->launcher)
		SetLatch(&mill_shared->launcher->procLatch);
	unlock();

	if (!manager)
		mill_wake_manager(database);
}

/*
 * Attach this process to the slot that it was registered for, until it exits.
 * False if the slot was allocated again meanwhile.
 */
bool
mill_slot_attach(int index, uint32 generation)
{
	MillSlot *slot = lock_slot(index);
	MillSlotInfo *info = &slot->info;

	Assert(mill_my_slot < 0);
	if (!slot->in_use || slot->generation != generation || slot->proc != NULL)
	{
		unlock();
		return false;
	}
	slot->proc = MyProc;
	info->pid = MyProcPid;
	info->launched = true;
	info->retry_at = 0;
	info->finished = false;
	/* A failure is shown until the worker reports another state. */
	if (info->failures == 0 || info->reason[0] == '\0' ||
		(info->state != MILL_STATE_FAILED && info->state != MILL_STATE_DEGRADED))
	{
		info->state = MILL_STATE_STARTING;
		info->since = mill_now();
		info->reason[0] = '\0';
	}
	unlock();
	mill_my_slot = index;
	before_shmem_exit(detach, 0);
	return true;
}

/* Set the worker state and its reason. */
void
mill_slot_report(int index, MillState state, const char *reason)
{
	set_state(lock_slot(index), state, reason);
	unlock();
}

/* Count one more failure in a row and set the worker state; not started again before retry_at. */
void
mill_slot_fail(int index, TimestampTz retry_at, MillState state, const char *reason)
{
	MillSlot *slot = lock_slot(index);

	Assert(index == mill_my_slot || slot->proc == NULL);
	slot->info.failures++;
	slot->info.retry_at = retry_at;
	set_state(slot, state, reason);
	unlock();
}

/* Reset the count of failures in a row. */
void
mill_slot_succeed(int index)
{
	lock_slot(index)->info.failures = 0;
	unlock();
}

/* The worker has ended normally. */
void
mill_slot_finish(int index)
{
	Assert(index == mill_my_slot);
	lock_slot(index)->info.finished = true;
	unlock();
}

/*
 * Worker only, before it ends: do not start it again until this time, unless
 * mill_wake_workers is called for its kind.
 */
void
mill_slot_sleep(int index, TimestampTz until)
{
	MillSlot *slot = lock_slot(index);

	Assert(index == mill_my_slot);
	slot->info.dormant_until = until;
	slot->info.waiting_since = 0;
	unlock();
}

/* Was new work announced since the last call?  To be called before looking for work. */
bool
mill_slot_take_pending(int index)
{
	MillSlot *slot = lock_slot(index);
	bool pending = slot->info.pending;

	slot->info.pending = false;
	unlock();
	return pending;
}

/*
 * Worker only, between two pieces of work that are not preempted: has it run for
 * BUSY_TURN, and do others wait?
 */
bool
mill_slot_others_wait(int index)
{
	TimestampTz now = mill_now();
	bool wait = false;

	Assert(index == mill_my_slot);
	LWLockAcquire(mill_shared->lock, LW_SHARED);
	if (has_passed(locked_slot(index)->info.launched_at, now, BUSY_TURN))
	{
		for (int i = 0; i < mill_shared->slots_used && !wait; i++)
		{
			const MillSlot *other = locked_slot(i);

			wait = other->in_use && !other->proc && other->info.state == MILL_STATE_WAITING;
		}
	}
	unlock();
	return wait;
}

/* Manager only: the database does not have the extension. */
void
mill_slot_set_absent(int index)
{
	Assert(index == mill_my_slot);
	lock_slot(index)->info.absent = true;
	unlock();
}

/* ---- wake-ups ---- */

/*
 * There is work for the workers of a kind.  Called by writers at each commit, so
 * workers with pending work are not woken again.
 */
void
mill_wake_workers(MillKind kind, Oid database)
{
	bool dormant = false;

	if (mill_shared == NULL)
		return;
	LWLockAcquire(mill_shared->lock, LW_SHARED);
	for (int i = 0; i < mill_shared->slots_used; i++)
	{
		MillSlot *slot = locked_slot(i);

		if (!slot->in_use || slot->info.kind != kind || slot->info.database != database ||
			slot->info.pending)
			continue;
		/* the lock is shared: two writers may wake a worker twice, which does no harm */
		slot->info.pending = true;
		if (slot->proc)
			SetLatch(&slot->proc->procLatch);
		else
			dormant = true;
	}
	unlock();
	if (dormant)
		mill_wake_manager(database);
}

void
mill_wake_launcher(void)
{
	if (mill_shared == NULL)
		return;
	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	mill_shared->probe_requests++;
	if (mill_shared->launcher)
		SetLatch(&mill_shared->launcher->procLatch);
	unlock();
}

uint32
mill_probe_requests(void)
{
	uint32 requests;

	LWLockAcquire(mill_shared->lock, LW_SHARED);
	requests = mill_shared->probe_requests;
	unlock();
	return requests;
}

static void
detach_launcher(int code, Datum arg)
{
	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	mill_shared->launcher = NULL;
	unlock();
}

/* Make this process the launcher, until it exits. */
void
mill_launcher_attach(void)
{
	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	mill_shared->launcher = MyProc;
	unlock();
	before_shmem_exit(detach_launcher, 0);
}

/* Wake the manager of a database, or all (InvalidOid); but not the calling process. */
void
mill_wake_manager(Oid database)
{
	if (mill_shared == NULL)
		return;
	LWLockAcquire(mill_shared->lock, LW_SHARED);
	for (int i = 0; i < mill_shared->slots_used; i++)
	{
		const MillSlot *slot = locked_slot(i);

		if (slot->in_use && slot->info.kind == MILL_KIND_MANAGER && slot->proc != NULL &&
			slot->proc != MyProc && (!OidIsValid(database) || slot->info.database == database))
			SetLatch(&slot->proc->procLatch);
	}
	unlock();
}

/* How long after mill_expect_database_ddl, in milliseconds; the command itself waits 5 seconds. */
#define DDL_EXPECTED 10000

/*
 * A command is about to drop, rename, move or copy a database: managers check
 * their database's lock for a while.
 */
void
mill_expect_database_ddl(void)
{
	if (mill_shared == NULL)
		return;
	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	mill_shared->database_ddl_at = mill_now();
	unlock();
	mill_wake_manager(InvalidOid);
}

bool
mill_database_ddl_expected(void)
{
	TimestampTz at;

	LWLockAcquire(mill_shared->lock, LW_SHARED);
	at = mill_shared->database_ddl_at;
	unlock();
	return at != 0 && !has_passed(at, mill_now(), DDL_EXPECTED);
}
