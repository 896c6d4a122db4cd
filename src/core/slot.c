/*
 * slot.c
 *		Slots in shared memory: which workers are wanted, run, wait or rest.
 *
 * A slot belongs to one wanted worker for as long as it is wanted, also while
 * it waits for a place or rests after a failure, so that its state can be
 * shown.  The launcher gives slots to managers, a manager to the workers of
 * its database; the worker attaches to its slot and detaches when it exits.
 *
 * One lock protects all of it: it is taken a few times a second by each
 * process and never held across anything that can fail or wait.  A generation
 * number tells a worker that comes late that its slot went to somebody else.
 *
 * Nothing here is durable: after a crash the server starts with empty slots,
 * the launcher starts managers, and these read from tables what is wanted.
 */
#include "postgres.h"

#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/slot.h"
#include "core/worker.h"

MillShared *mill_shared = NULL;

static shmem_request_hook_type previous_shmem_request_hook = NULL;
static shmem_startup_hook_type previous_shmem_startup_hook = NULL;

PG_FUNCTION_INFO_V1(mill_worker_slots);
PG_FUNCTION_INFO_V1(mill_manager_slot);

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

/* Raise an error if there can be no workers. */
void
mill_require_preload(void)
{
	if (mill_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_mill has no background workers in this server"),
				 errhint("Add pg_mill to shared_preload_libraries in postgresql.conf and restart the server.")));
}

/*
 * Find or make the slot of a wanted worker; -1 if all are taken.
 */
int
mill_slot_allocate(MillKind kind, Oid database, int64 object_id, int worker_no)
{
	int free_slot = -1;

	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MILL_SLOTS; i++)
	{
		MillSlot *slot = &mill_shared->slots[i];

		if (!slot->in_use)
		{
			if (free_slot < 0)
				free_slot = i;
		}
		else if (slot->kind == kind && slot->database == database &&
				 slot->object_id == object_id && slot->worker_no == worker_no)
		{
			LWLockRelease(mill_shared->lock);
			return i;
		}
	}
	if (free_slot >= 0)
	{
		MillSlot *slot = &mill_shared->slots[free_slot];

		memset(slot, 0, sizeof(*slot));
		slot->in_use = true;
		slot->generation = ++mill_shared->next_generation;
		slot->kind = kind;
		slot->database = database;
		slot->object_id = object_id;
		slot->worker_no = worker_no;
		slot->state = MILL_STATE_STARTING;
		slot->since = GetCurrentTimestamp();
		mill_shared->slots_used = Max(mill_shared->slots_used, free_slot + 1);
	}
	LWLockRelease(mill_shared->lock);
	return free_slot;
}

/* Give a slot back.  Its worker must not be attached. */
void
mill_slot_free(int slot)
{
	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	Assert(mill_shared->slots[slot].proc == NULL);
	mill_shared->slots[slot].in_use = false;
	LWLockRelease(mill_shared->lock);
}

/*
 * Register the slot's worker.  False if the server has no place for it.
 *
 * The slot is marked first, outside of the registration, so that a worker
 * that is quick finds itself expected.
 */
bool
mill_slot_launch(int slot_index, const char *function, const char *title)
{
	MillSlot *slot = &mill_shared->slots[slot_index];
	TimestampTz launched_before = slot->launched_at;
	BackgroundWorker worker;
	bool registered;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "pg_mill", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, function, sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "pg_mill %s", title);
	strlcpy(worker.bgw_type, slot->kind == MILL_KIND_MANAGER ? "pg_mill manager" : "pg_mill worker",
			sizeof(worker.bgw_type));
	worker.bgw_main_arg = Int32GetDatum(slot_index);
	worker.bgw_notify_pid = MyProcPid;

	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	memcpy(worker.bgw_extra, &slot->generation, sizeof(slot->generation));
	slot->launched = true;
	slot->stop = false;
	slot->dormant_until = 0;
	slot->launched_at = GetCurrentTimestamp();
	LWLockRelease(mill_shared->lock);

	registered = RegisterDynamicBackgroundWorker(&worker, NULL);
	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	if (registered)
		slot->waiting_since = 0;
	else
	{
		slot->launched = false;
		slot->launched_at = launched_before;
	}
	LWLockRelease(mill_shared->lock);
	return registered;
}

/*
 * Worker only, before it ends: it has nothing to do until then, unless
 * mill_wake_workers says that there is.
 */
void
mill_slot_sleep(int slot_index, TimestampTz until)
{
	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	mill_shared->slots[slot_index].dormant_until = until;
	mill_shared->slots[slot_index].waiting_since = 0;
	LWLockRelease(mill_shared->lock);
}

/* ---- turns ---- */

/*
 * All databases draw on the server's max_worker_processes, and each manager
 * sees its own work only.  So who finds no free background worker notes it in
 * the slot, asks one worker anywhere to end, and until it has its turn nobody
 * takes what becomes free before whoever waits longer.
 */

/* A note that was not renewed for so long, in milliseconds, is of no account. */
#define WAITING_COUNTS 3000
/* How long a worker runs while others wait: idle, or busy, in milliseconds. */
#define IDLE_TURN 1000
#define BUSY_TURN 10000

/* May this slot's worker be started: does no other slot wait longer for a free place? */
bool
mill_slot_may_launch(int slot_index)
{
	TimestampTz now = GetCurrentTimestamp();
	bool may = true;

	LWLockAcquire(mill_shared->lock, LW_SHARED);
	for (int i = 0; i < mill_shared->slots_used; i++)
	{
		const MillSlot *other = &mill_shared->slots[i];
		TimestampTz since = mill_shared->slots[slot_index].waiting_since;

		if (i != slot_index && other->in_use && other->waiting_since != 0 &&
			!TimestampDifferenceExceeds(other->waiting_seen, now, WAITING_COUNTS) &&
			(since == 0 || other->waiting_since < since))
			may = false;
	}
	LWLockRelease(mill_shared->lock);
	return may;
}

/*
 * The slot waits, with this reason; for a free background worker if it says
 * so.  Returns whether that is news.
 */
bool
mill_slot_wait(int slot_index, const char *reason)
{
	MillSlot *slot = &mill_shared->slots[slot_index];
	TimestampTz now = GetCurrentTimestamp();
	bool news;

	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	news = slot->waiting_since == 0;
	if (news)
		slot->waiting_since = now;
	slot->waiting_seen = now;
	LWLockRelease(mill_shared->lock);
	mill_slot_report(slot_index, MILL_STATE_WAITING, reason);
	return news;
}

/* Does a worker of this database run?  Holds the lock. */
static bool
has_workers(Oid database)
{
	for (int i = 0; i < mill_shared->slots_used; i++)
	{
		const MillSlot *slot = &mill_shared->slots[i];

		if (slot->in_use && slot->kind != MILL_KIND_MANAGER && slot->database == database && slot->launched)
			return true;
	}
	return false;
}

/*
 * May this slot's process be asked to end, for others, and how soon?  0: no;
 * idle workers go before those that had their time, and these before managers
 * that look after nobody.  Holds the lock.
 */
static int
readiness(const MillSlot *slot, TimestampTz now)
{
	bool idle = slot->kind != MILL_KIND_MANAGER && slot->state == MILL_STATE_IDLE;

	if (!slot->in_use || !slot->proc || slot->stop ||
		!TimestampDifferenceExceeds(slot->launched_at, now, idle ? IDLE_TURN : BUSY_TURN))
		return 0;
	if (slot->kind == MILL_KIND_MANAGER)
		return has_workers(slot->database) ? 0 : 1;
	return idle ? 3 : 2;
}

/*
 * Others wait: ask one process to end, a worker of this database or (InvalidOid)
 * of any, where also managers are asked: they come back when it is their turn.
 */
void
mill_make_room(Oid database, int besides)
{
	TimestampTz now = GetCurrentTimestamp();
	int victim = -1;
	int best = 0;

	LWLockAcquire(mill_shared->lock, LW_SHARED);
	for (int i = 0; i < mill_shared->slots_used; i++)
	{
		const MillSlot *slot = &mill_shared->slots[i];
		int ready;

		if (i == besides || i == mill_my_slot || (OidIsValid(database) && (slot->database != database || slot->kind == MILL_KIND_MANAGER)))
			continue;
		if (slot->in_use && slot->proc && slot->stop && !TimestampDifferenceExceeds(slot->stopped_at, now, BUSY_TURN))
		{
			victim = -1;
			break; /* a place is coming */
		}
		ready = readiness(slot, now);
		if (ready > best || (ready > 0 && ready == best && slot->launched_at < mill_shared->slots[victim].launched_at))
		{
			victim = i;
			best = ready;
		}
	}
	LWLockRelease(mill_shared->lock);
	if (victim >= 0)
		mill_slot_stop(victim, false);
}

/* A reason that is too long is cut between words. */
static void
keep_reason(MillSlot *slot, const char *reason)
{
	static const char more[] = " ...";
	int room = sizeof(slot->reason) - sizeof(more);
	int length;

	if (strlcpy(slot->reason, reason, sizeof(slot->reason)) < sizeof(slot->reason))
		return;
	length = pg_mbcliplen(reason, room, room);
	for (int i = length; i > room / 2; i--)
	{
		if (reason[i] == ' ')
		{
			length = i;
			break;
		}
	}
	strcpy(slot->reason + length, more);
}

/* Show a state and its reason; keeps "since" while the state stays. */
void
mill_slot_report(int slot_index, MillState state, const char *reason)
{
	MillSlot *slot = &mill_shared->slots[slot_index];
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	if (slot->state != state)
		slot->since = now;
	slot->state = state;
	keep_reason(slot, reason ? reason : "");
	LWLockRelease(mill_shared->lock);
}

/*
 * Ask a worker to end: after its batch, or now, in the middle of it.
 */
void
mill_slot_stop(int slot_index, bool now)
{
	MillSlot *slot = &mill_shared->slots[slot_index];
	int pid = 0;

	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	if (!slot->stop)
		slot->stopped_at = GetCurrentTimestamp();
	slot->stop = true;
	if (slot->proc)
	{
		pid = slot->pid;
		SetLatch(&slot->proc->procLatch);
	}
	LWLockRelease(mill_shared->lock);

	if (now && pid != 0)
		kill(pid, SIGTERM);
}

/*
 * There is work for the workers of a kind.  Called by writers at each commit:
 * those that were told already are left alone.
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
		MillSlot *slot = &mill_shared->slots[i];

		if (!slot->in_use || slot->kind != kind || slot->database != database || slot->pending)
			continue;
		/* Two writers at once wake twice, which does no harm. */
		slot->pending = true;
		if (slot->proc)
			SetLatch(&slot->proc->procLatch);
		else
			dormant = true;
	}
	LWLockRelease(mill_shared->lock);
	if (dormant)
		mill_wake_manager(database);
}

/* Has there been work since the last call?  Asked before looking for it. */
bool
mill_slot_take_pending(int slot)
{
	bool pending;

	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	pending = mill_shared->slots[slot].pending;
	mill_shared->slots[slot].pending = false;
	LWLockRelease(mill_shared->lock);
	return pending;
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
	LWLockRelease(mill_shared->lock);
}

void
mill_wake_manager(Oid database)
{
	if (mill_shared == NULL)
		return;
	LWLockAcquire(mill_shared->lock, LW_SHARED);
	for (int i = 0; i < MILL_SLOTS; i++)
	{
		MillSlot *slot = &mill_shared->slots[i];

		if (slot->in_use && slot->kind == MILL_KIND_MANAGER &&
			slot->database == database && slot->proc != NULL)
			SetLatch(&slot->proc->procLatch);
	}
	LWLockRelease(mill_shared->lock);
}

const char *
mill_state_name(MillState state)
{
	switch (state)
	{
		case MILL_STATE_STARTING:
			return "starting";
		case MILL_STATE_RUNNING:
			return "running";
		case MILL_STATE_IDLE:
			return "idle";
		case MILL_STATE_DEGRADED:
			return "degraded";
		case MILL_STATE_FAILED:
			return "failed";
		case MILL_STATE_WAITING:
			return "waiting for a slot";
	}
	return "unknown";
}

/* The slots of a kind in the current database, as rows. */
static void
show_slots(FunctionCallInfo fcinfo, MillKind kind)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MillSlot *copy;

	InitMaterializedSRF(fcinfo, 0);
	if (mill_shared == NULL)
		return;

	/* Copy first: storing tuples may fail or take long. */
	copy = palloc(sizeof(mill_shared->slots));
	LWLockAcquire(mill_shared->lock, LW_SHARED);
	memcpy(copy, mill_shared->slots, sizeof(mill_shared->slots));
	LWLockRelease(mill_shared->lock);

	for (int i = 0; i < MILL_SLOTS; i++)
	{
		MillSlot *slot = &copy[i];
		Datum values[7];
		bool nulls[7] = {false};

		if (!slot->in_use || slot->kind != kind || slot->database != MyDatabaseId)
			continue;
		values[0] = Int64GetDatum(slot->object_id);
		values[1] = Int32GetDatum(slot->worker_no);
		values[2] = Int32GetDatum(slot->pid);
		nulls[2] = slot->pid == 0;
		values[3] = CStringGetTextDatum(mill_state_name(slot->state));
		values[4] = CStringGetTextDatum(slot->reason);
		nulls[4] = slot->reason[0] == '\0';
		values[5] = TimestampTzGetDatum(slot->since);
		values[6] = TimestampTzGetDatum(slot->retry_at);
		nulls[6] = slot->retry_at == 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/*
 * SQL: mill_catalog.worker_slots(), manager_slot(): of pipelines' workers, and of
 * the database's manager.  For the views only, which show each user his own:
 * nobody has USAGE on the schema.
 */
Datum
mill_worker_slots(PG_FUNCTION_ARGS)
{
	show_slots(fcinfo, MILL_KIND_PIPELINE);
	return (Datum) 0;
}

Datum
mill_manager_slot(PG_FUNCTION_ARGS)
{
	show_slots(fcinfo, MILL_KIND_MANAGER);
	return (Datum) 0;
}
