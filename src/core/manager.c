/*
 * manager.c
 *		Reconciles what a database wants done with the workers that do it.
 *
 * One manager per database that has the extension, a superuser's session that
 * runs fixed SQL only.  Each cycle it reads what the rooms want (rows of
 * their tables) and compares with the slots of its database:
 *
 *	wanted, no slot				-> a slot, waiting
 *	slot, not wanted			-> its worker is asked to stop; then freed
 *	slot, other version			-> its worker is asked to stop; then again
 *	slot without worker			-> started, if it has rested and has a turn
 *
 * Turns: at most mill.workers_max workers run.  While others wait, those that
 * idle, and then those that ran longest, are asked to end; where the server has
 * no free background worker, those of any database (see slots, "turns").
 * A worker with nothing to do may end, too: it is started again when there is.
 *
 * DROP, RENAME and CREATE DATABASE ... TEMPLATE wait five seconds for others
 * to leave the database, and hold or await a lock on it meanwhile.  A manager
 * that cannot have that lock in the weaker mode of a session leads its
 * workers out and leaves; the launcher starts it again.
 *
 * If the manager dies its workers go on; the next one finds their slots.
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
#include "core/worker.h"
#include "core/xact.h"

/* Milliseconds between two looks at tables and at the database's lock. */
#define CYCLE 1000
/* How long a worker that was registered may take to come. */
#define COME 10000

static const MillRoom *rooms[4];
static int nrooms = 0;

/* Called from _PG_init. */
void
mill_room_register(const MillRoom *room)
{
	Assert(nrooms < lengthof(rooms));
	rooms[nrooms++] = room;
}

/* Is this slot one of this database's workers? */
static bool
is_ours(const MillSlot *slot)
{
	return slot->in_use && slot->database == MyDatabaseId && slot->kind != MILL_KIND_MANAGER;
}

/*
 * Does somebody hold or want our database for himself?
 */
static bool
database_wanted(void)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, false);
	return false;
}

/* The server's main loop duties after a wait. */
static void
wait_and_serve(long timeout)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout, MILL_WAIT_EVENT);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* End all workers of this database now, and wait for them. */
static void
lead_out(void)
{
	for (;;)
	{
		bool alive = false;

		for (int i = 0; i < MILL_SLOTS; i++)
		{
			if (!is_ours(&mill_shared->slots[i]))
				continue;
			if (mill_shared->slots[i].proc)
			{
				alive = true;
				mill_slot_stop(i, true);
			}
			else
				mill_slot_free(i);
		}
		if (!alive)
			break;
		wait_and_serve(50);
	}
}

/* What a room wants, by slot; entries of slots not wanted stay NULL. */
static void
collect_wanted(const MillRoom *room, const MillWork **wanted)
{
	ListCell *lc;

	foreach (lc, room->desired())
	{
		const MillWork *work = lfirst(lc);
		int index = mill_slot_allocate(room->kind, MyDatabaseId, work->object_id, work->worker_no);

		if (index >= 0)
			wanted[index] = work;
	}
}

/*
 * Bring a slot to what is wanted of it.  True if its worker should be started
 * when it has its turn.
 */
static bool
settle(int index, const MillWork *work)
{
	MillSlot *slot = &mill_shared->slots[index];
	TimestampTz now = GetCurrentTimestamp();

	if (slot->launched && slot->proc == NULL && TimestampDifferenceExceeds(slot->launched_at, now, COME))
		slot->launched = false;

	if (slot->launched)
	{
		if (work == NULL || work->version != slot->version)
			mill_slot_stop(index, false);
		return false;
	}
	if (work == NULL)
	{
		mill_slot_free(index);
		return false;
	}
	if (work->version != slot->version)
	{
		slot->retry_at = 0;
		slot->failures = 0;
	}
	else if (slot->launched_at != 0 && !slot->finished && !slot->stop && slot->retry_at == 0)
	{
		/* It died without a word, perhaps before it could connect. */
		slot->retry_at = mill_retry_time(slot->failures++, false);
		mill_slot_report(index, MILL_STATE_FAILED, "the worker ended before it could say why; see the server log");
	}
	if (slot->dormant_until > now && !slot->pending)
		return false;
	return slot->retry_at <= now;
}

/* The slot without a worker that waited longest; -1 if there is none. */
static int
next_in_turn(const bool *ready)
{
	int next = -1;

	for (int i = 0; i < MILL_SLOTS; i++)
	{
		if (ready[i] && (next < 0 || mill_shared->slots[i].launched_at < mill_shared->slots[next].launched_at))
			next = i;
	}
	return next;
}

static const MillRoom *
room_of(MillKind kind)
{
	for (int i = 0; i < nrooms; i++)
	{
		if (rooms[i]->kind == kind)
			return rooms[i];
	}
	elog(ERROR, "no room for work of kind %d", (int) kind);
}

/* Start what is ready, as far as there is place. */
static void
start_workers(bool *ready, const MillWork **wanted)
{
	int running = 0;
	int next;

	for (int i = 0; i < MILL_SLOTS; i++)
	{
		if (is_ours(&mill_shared->slots[i]) && mill_shared->slots[i].launched)
			running++;
	}
	while ((next = next_in_turn(ready)) >= 0)
	{
		MillSlot *slot = &mill_shared->slots[next];

		slot->owner = wanted[next]->owner;
		slot->version = wanted[next]->version;
		if (running >= mill_workers_max)
		{
			mill_slot_report(next, MILL_STATE_WAITING, "mill.workers_max workers are running in this database");
			mill_make_room(MyDatabaseId, next);
		}
		else if (!mill_slot_may_launch(next) || !mill_slot_launch(next, room_of(slot->kind)->function, wanted[next]->title))
		{
			(void) mill_slot_wait(next, "the server has no free background worker; consider increasing max_worker_processes");
			mill_make_room(InvalidOid, next);
		}
		else
			running++;
		ready[next] = false;
	}
}

static void
reconcile(void)
{
	const MillWork **wanted = palloc0(sizeof(MillWork *) * MILL_SLOTS);
	bool *ready = palloc0(sizeof(bool) * MILL_SLOTS);

	for (int i = 0; i < nrooms; i++)
		collect_wanted(rooms[i], wanted);
	for (int i = 0; i < MILL_SLOTS; i++)
	{
		if (is_ours(&mill_shared->slots[i]))
			ready[i] = settle(i, wanted[i]);
	}
	start_workers(ready, wanted);
}

void
mill_manager_main(Datum arg)
{
	MillSlot *slot;

	if (!mill_worker_attach(arg, true))
		proc_exit(0);
	slot = &mill_shared->slots[mill_my_slot];
	BackgroundWorkerInitializeConnectionByOid(slot->database, InvalidOid, 0);
	SetConfigOption("search_path", MILL_SEARCH_PATH, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "5s", PGC_SUSET, PGC_S_OVERRIDE);

	for (;;)
	{
		mill_xact_begin("looking for work");
		if (database_wanted())
		{
			mill_xact_commit();
			lead_out();
			proc_exit(0);
		}
		if (!OidIsValid(mill_extension()))
		{
			mill_xact_commit();
			lead_out();
			slot->absent = true;
			proc_exit(0);
		}
		SPI_connect();
		reconcile();
		SPI_finish();
		mill_xact_commit();

		if (slot->stop)
			proc_exit(0);
		wait_and_serve(CYCLE);
	}
}
