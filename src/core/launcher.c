/*
 * launcher.c
 *		Keeps a manager in each database that has the extension.
 *
 * The launcher is the only static worker.  It is connected to no database and
 * reads only pg_database.  Whether a database has the extension can only be read
 * in that database, so a manager is started in each; where the extension is
 * absent it notes that in its slot and ends.  CREATE EXTENSION requests at its
 * commit that the launcher tries again.
 *
 * A manager that ends for another reason (an error, or its database is being
 * dropped, renamed or copied) is started again after a delay.  The new session
 * waits for the database's lock, before it counts as a user of the database,
 * until the DDL is over.
 *
 * Nothing is durable here: if the launcher dies, the postmaster restarts it
 * after a second, and it finds the managers in their slots.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "tcop/tcopprot.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/clock.h"
#include "core/launcher.h"
#include "core/slot.h"
#include "core/worker.h"
#include "core/xact.h"

/* Milliseconds between checks for new databases. */
#define CHECK_INTERVAL 10000
/* Milliseconds before a manager that ended, or could not be started, is started again. */
#define RETRY_INTERVAL 1000

/* Called once, from _PG_init, when preloaded. */
void
mill_launcher_init(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "pg_mill", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "mill_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "pg_mill launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "pg_mill launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

/*
 * The databases that may be connected to, in the current memory context.
 */
static List *
list_databases(void)
{
	MemoryContext context = CurrentMemoryContext;
	List *databases = NIL;
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;

	mill_xact_begin("looking for databases");
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!form->datallowconn || form->datistemplate || form->datconnlimit == -2)
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	mill_xact_commit();
	return databases;
}

/* Free the slots of databases that are gone; with probe_again also of those without extension. */
static void
free_slots(List *databases, bool probe_again)
{
	for (int i = 0; i < mill_slots_used(); i++)
	{
		MillSlotInfo slot;

		if (!mill_slot_get(i, &slot) || slot.kind != MILL_KIND_MANAGER || slot.launched ||
			slot.pid != 0)
			continue;
		if (!list_member_oid(databases, slot.database) || (probe_again && slot.absent))
			mill_slot_free(i);
	}
}

/* Start a database's manager if needed.  False if that must be tried again soon. */
static bool
start_manager(Oid database)
{
	int index = mill_slot_allocate(MILL_KIND_MANAGER, database, 0, 0);
	MillSlotInfo slot;
	char title[64];

	if (index < 0)
		return true;
	(void) mill_slot_get(index, &slot);

	/* give up a worker that was registered but did not start in time */
	if (slot.launched && slot.pid == 0 &&
		mill_is_due(slot.launched_at + CHECK_INTERVAL * INT64CONST(1000), CHECK_INTERVAL))
	{
		mill_slot_give_up(index);
		slot.launched = false;
	}
	if (slot.launched || slot.absent)
		return true;
	if (!mill_is_due(slot.launched_at + RETRY_INTERVAL * INT64CONST(1000), RETRY_INTERVAL))
		return false;
	snprintf(title, sizeof(title), "manager for database %u", database);
	if (mill_slot_may_launch(index) && mill_slot_launch(index, "mill_manager_main", title))
		return true;
	/* log it once, not at each attempt */
	if (mill_slot_wait(index,
					   "the server has no free background worker for pg_mill's manager; consider increasing max_worker_processes"))
		ereport(LOG,
				(errmsg("pg_mill could not start its manager for database %u", database),
				 errdetail(
					 "All background workers of the server are taken; a worker of pg_mill that can make room for it is asked to."),
				 errhint("Consider increasing max_worker_processes.")));
	mill_preempt_worker(InvalidOid, index);
	return false;
}

void
mill_launcher_main(Datum arg)
{
	MemoryContext cycle;
	uint32 seen = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	mill_launcher_attach();

	cycle = AllocSetContextCreate(TopMemoryContext, "pg_mill launcher cycle",
								  ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		List *databases;
		ListCell *lc;
		uint32 requests = mill_probe_requests();
		long wait = CHECK_INTERVAL;

		MemoryContextSwitchTo(cycle);
		MemoryContextReset(cycle);
		databases = list_databases();
		free_slots(databases, requests != seen);
		seen = requests;
		foreach (lc, databases)
		{
			if (!start_manager(lfirst_oid(lc)))
				wait = RETRY_INTERVAL;
		}
		mill_worker_wait(wait);
	}
}
