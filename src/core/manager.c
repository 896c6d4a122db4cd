/*
 * manager.c
 *		Reconciles the work that is wanted in a database with its workers.
 *
 * One manager per database that has the extension, a superuser's session that
 * runs constant SQL only.  Each cycle it reads which work the rooms want (rows of
 * their tables) and compares it with the slots of its database:
 *
 *	wanted, no slot				-> a slot is allocated
 *	slot, not wanted			-> its worker is asked to stop; then freed
 *	slot, other version			-> its worker is asked to stop; then started again
 *	slot without worker			-> started, if its back-off is over and it has a turn
 *
 * Turns: at most mill.workers_max workers run.  While others wait, those that
 * are idle, and then those that ran longest, are asked to end; where the server
 * has no free background worker, those of any database (see slot.c, "turns").
 * A worker with nothing to do may end, too: it is started again when there is
 * work.
 *
 * DROP, RENAME and CREATE DATABASE ... TEMPLATE wait five seconds for other
 * sessions of the database to end, and hold or await a lock on it meanwhile.  A
 * manager that cannot acquire that lock in the weaker mode of a session stops its
 * workers and exits; the launcher starts it again.  A hook (ddl.c) announces such
 * commands, so that managers need not check the lock often at other times.
 *
 * If the manager dies its workers continue; the next one finds their slots.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/launcher.h"
#include "core/room.h"
#include "core/settings.h"
#include "core/task.h"
#include "core/worker.h"
#include "core/xact.h"

/*
 * All in milliseconds.  Between two cycles without a wake-up or anything due: when
 * an account expires, for example, nobody is woken.
 */
#define CHECK_INTERVAL 10000
/* The same while a slot waits for its turn; after DDL on a database was announced. */
#define TURN_INTERVAL 1000
#define DDL_INTERVAL 200
/* How long a worker that was registered may take to start. */
#define START_TIMEOUT 10000
/* The longest time that a worker may pass to mill_slot_sleep. */
#define LONGEST_SLEEP (2 * 60 * 1000)

/* Get a slot; false unless it belongs to a worker of this database. */
static bool
get_worker(int index, MillSlotInfo *slot)
{
	return mill_slot_get(index, slot) && slot->database == MyDatabaseId &&
		   slot->kind != MILL_KIND_MANAGER;
}

/*
 * Does another session hold or request a conflicting lock on our database?
 */
static bool
has_database_conflict(void)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, false);
	return false;
}

/* Terminate all workers of this database, and wait for them. */
static void
stop_all_workers(void)
{
	bool alive;

	mill_tasks_interrupt(MyDatabaseId);
	do
	{
		alive = false;
		for (int i = 0; i < mill_slots_used(); i++)
		{
			MillSlotInfo slot;

			if (!get_worker(i, &slot))
				continue;
			if (slot.pid != 0)
			{
				alive = true;
				mill_slot_stop(i, true);
			}
			else
				mill_slot_free(i);
		}
		if (alive)
			mill_worker_wait(50);
	}
	while (alive);
}

/* The work that a room wants, by slot; entries of slots that are not wanted stay NULL. */
static void
collect_wanted(MillKind kind, const MillWork **wanted)
{
	ListCell *lc;

	foreach (lc, mill_room_of(kind)->desired())
	{
		const MillWork *work = lfirst(lc);
		int index = mill_slot_allocate(kind, MyDatabaseId, work->object_id, work->worker_no);

		Assert(OidIsValid(work->owner));
		if (index >= 0)
			wanted[index] = work;
	}
}

/* The next cycle is at this time, or earlier. */
static void
check_by(TimestampTz *next, TimestampTz at)
{
	*next = Min(*next, at);
}

static bool
stays(const MillSlotInfo *slot)
{
	const MillRoom *room = mill_room_of(slot->kind);

	return room->stays && room->stays(slot->object_id, slot->worker_no);
}

/*
 * Reconcile a slot with the work that is wanted, NULL if none is.  True if its
 * worker is to be started when it has its turn.
 */
static bool
reconcile_slot(int index, const MillSlotInfo *slot, const MillWork *work, TimestampTz *next)
{
	TimestampTz retry_at = slot->retry_at;

	if (slot->launched &&
		(slot->pid != 0 ||
		 !mill_is_due(slot->launched_at + START_TIMEOUT * INT64CONST(1000), START_TIMEOUT)))
	{
		if (slot->pid == 0)
			check_by(next, slot->launched_at + START_TIMEOUT * INT64CONST(1000));
		if (work ? work->version != slot->version : !stays(slot))
			mill_slot_stop(index, false);
		return false;
	}
	if (slot->launched)
		mill_slot_give_up(index);
	if (work == NULL)
	{
		mill_slot_free(index);
		return false;
	}
	if (work->version != slot->version)
	{
		mill_slot_reset_failures(index);
		retry_at = 0;
	}
	else if (slot->launched_at != 0 && !slot->finished && !slot->stop && retry_at == 0)
	{
		/* It died without reporting, perhaps before it could connect. */
		retry_at = mill_retry_time(slot->failures, false);
		mill_slot_fail(index, retry_at, MILL_STATE_FAILED,
					   "the worker ended before it could say why; see the server log");
	}
	if (!slot->pending && !mill_is_due(slot->dormant_until, LONGEST_SLEEP))
	{
		check_by(next, slot->dormant_until);
		return false;
	}
	if (!mill_is_due(retry_at, MILL_LONGEST_RETRY))
	{
		check_by(next, retry_at);
		return false;
	}
	return true;
}

/* Of the slots that are ready, the one whose worker was started longest ago; -1 if there is none. */
static int
next_in_turn(const bool *ready, int count)
{
	TimestampTz launched_at = 0;
	int next = -1;

	for (int i = 0; i < count; i++)
	{
		MillSlotInfo slot;

		if (!ready[i])
			continue;
		(void) mill_slot_get(i, &slot);
		if (next >= 0 && slot.launched_at >= launched_at)
			continue;
		next = i;
		launched_at = slot.launched_at;
	}
	return next;
}

static int
count_running(void)
{
	MillSlotInfo slot;
	int running = 0;

	for (int i = 0; i < mill_slots_used(); i++)
		running += get_worker(i, &slot) && slot.launched;
	return running;
}

/* Start the workers that are ready, as far as there are turns.  False if one waits for its turn. */
static bool
start_workers(bool *ready, const MillWork **wanted, int count)
{
	int running = count_running();
	bool all = true;
	int next;

	while ((next = next_in_turn(ready, count)) >= 0)
	{
		MillSlotInfo slot;

		(void) mill_slot_get(next, &slot);
		mill_slot_assign(next, wanted[next]->owner, wanted[next]->version);
		ready[next] = false;
		if (running >= mill_workers_max)
		{
			mill_slot_report(next, MILL_STATE_WAITING,
							 "mill.workers_max workers are running in this database");
			mill_preempt_worker(MyDatabaseId, next);
			all = false;
		}
		else if (mill_slot_may_launch(next) &&
				 mill_slot_launch(next, mill_room_of(slot.kind)->function, wanted[next]->title))
			running++;
		else
		{
			(void)
				mill_slot_wait(next,
							   "the server has no free background worker; consider increasing max_worker_processes");
			mill_preempt_worker(InvalidOid, next);
			all = false;
		}
	}
	return all;
}

/* One cycle: reconcile all slots of the database; returns when the next one is due. */
static TimestampTz
reconcile(void)
{
	const MillWork **wanted = palloc0(sizeof(MillWork *) * MILL_SLOTS);
	bool *ready = palloc0(sizeof(bool) * MILL_SLOTS);
	TimestampTz next = TimestampTzPlusMilliseconds(mill_now(), CHECK_INTERVAL);
	int count;

	for (MillKind kind = 1; kind <= mill_room_count(); kind++)
	{
		collect_wanted(kind, wanted);
		if (mill_room_of(kind)->next_due)
			check_by(&next, mill_room_of(kind)->next_due());
	}
	count = mill_slots_used();
	for (int i = 0; i < count; i++)
	{
		MillSlotInfo slot;

		if (get_worker(i, &slot))
			ready[i] = reconcile_slot(i, &slot, wanted[i], &next);
	}
	if (!start_workers(ready, wanted, count))
		check_by(&next, TimestampTzPlusMilliseconds(mill_now(), TURN_INTERVAL));
	return next;
}

/* Wait until then or until woken; not for long if DDL on a database was announced. */
static void
wait_until(TimestampTz at)
{
	long wait = TimestampDifferenceMilliseconds(mill_now(), at);

	/* the clock may have been set back */
	wait = Min(wait, CHECK_INTERVAL);
	mill_worker_wait(mill_database_ddl_expected() ? Min(wait, DDL_INTERVAL) : wait);
}

void
mill_manager_main(Datum arg)
{
	MillSlotInfo slot;

	mill_worker_attach(arg, &slot);
	Assert(slot.kind == MILL_KIND_MANAGER);
	BackgroundWorkerInitializeConnectionByOid(slot.database, InvalidOid, 0);
	SetConfigOption("search_path", MILL_SEARCH_PATH, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "5s", PGC_SUSET, PGC_S_OVERRIDE);
	/* What a crash takes back the manager finds again, and does again. */
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);

	for (;;)
	{
		TimestampTz next = 0;
		bool conflict, absent;

		mill_xact_begin("looking for work");
		conflict = has_database_conflict();
		absent = !conflict && !OidIsValid(mill_extension());
		if (!conflict && !absent)
		{
			SPI_connect();
			next = reconcile();
			SPI_finish();
		}
		mill_xact_commit();
		if (conflict || absent)
		{
			stop_all_workers();
			if (absent)
				mill_slot_set_absent(mill_my_slot);
			proc_exit(0);
		}
		if (mill_worker_should_stop())
			proc_exit(0);
		mill_slot_report(mill_my_slot, MILL_STATE_RUNNING, NULL);
		wait_until(next);
	}
}
