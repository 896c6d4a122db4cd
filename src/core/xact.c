/*
 * xact.c
 *		Begins and ends all transactions of workers, and wakes processes at commit.
 *
 * A worker waits outside of transactions and works inside one.  SPI is not
 * connected here: the code that needs it connects for as long as needed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "core/room.h"
#include "core/slot.h"
#include "core/xact.h"

PG_FUNCTION_INFO_V1(mill_announce_extension);
PG_FUNCTION_INFO_V1(mill_work_changed);

/* The memory context of the caller of mill_xact_begin. */
static MemoryContext outer_context;

static bool wake_manager = false;
static bool wake_all_managers = false;
static bool wake_launcher = false;
static uint32 wake_kinds = 0; /* bit n: the workers of MillKind n */

/*
 * Begin a transaction with an active snapshot.  Activity is shown in
 * pg_stat_activity and must stay valid until the transaction ends.
 */
void
mill_xact_begin(const char *activity)
{
	Assert(!IsTransactionState());
	Assert(activity);
	outer_context = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	/* whatever a command that ran in this session has set for those to come */
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	PushActiveSnapshot(GetTransactionSnapshot());
	debug_query_string = activity;
	pgstat_report_activity(STATE_RUNNING, activity);
}

static void
after_xact(void)
{
	debug_query_string = NULL;
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(outer_context);
}

void
mill_xact_commit(void)
{
	Assert(IsTransactionState() && ActiveSnapshotSet());
	PopActiveSnapshot();
	CommitTransactionCommand();
	after_xact();
}

/* After an error: abort the transaction and its subtransactions. */
void
mill_xact_abort(void)
{
	AbortOutOfAnyTransaction();
	after_xact();
}

ErrorData *
mill_try(void (*function)(void *arg), void *arg, MemoryContext errors, bool keep)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		function(arg);
		if (keep)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(errors);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * Wake the processes that act on a change, once it is visible.  Runs at commit,
 * so nothing here may fail.
 */
static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (wake_launcher)
				mill_wake_launcher();
			if (wake_all_managers)
				mill_wake_manager(InvalidOid);
			else if (wake_manager)
				mill_wake_manager(MyDatabaseId);
			for (MillKind kind = 1; wake_kinds >> kind; kind++)
			{
				if (wake_kinds & (1U << kind))
					mill_wake_workers(kind, MyDatabaseId);
			}
			wake_launcher = wake_manager = wake_all_managers = false;
			wake_kinds = 0;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			wake_launcher = wake_manager = wake_all_managers = false;
			wake_kinds = 0;
			break;
		default:
			break;
	}
}

/* Called once, from _PG_init. */
void
mill_xact_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}

/* For changes of shared objects, such as roles. */
void
mill_wake_all_managers_at_commit(void)
{
	wake_all_managers = true;
}

/* For changes of this database's tables that have no trigger work_changed. */
void
mill_wake_manager_at_commit(void)
{
	wake_manager = true;
}

void
mill_wake_launcher_at_commit(void)
{
	wake_launcher = true;
}

void
mill_wake_workers_at_commit(const MillRoom *room)
{
	wake_kinds |= 1U << mill_kind_of(room);
}

/*
 * SQL: called by the install script, so that workers start as soon as the
 * extension is created.
 */
Datum
mill_announce_extension(PG_FUNCTION_ARGS)
{
	mill_wake_launcher_at_commit();
	PG_RETURN_VOID();
}

/*
 * SQL: mill_catalog.work_changed(), a trigger of tables that define what is
 * wanted: wakes the manager when the change commits, whoever made it.
 */
Datum
mill_work_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("this function was not called by a trigger")));
	wake_manager = true;
	return PointerGetDatum(NULL);
}
