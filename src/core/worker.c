/*
 * worker.c
 *		Start, signals, error handling and end, common to all workers.
 *
 * A worker attaches to its slot, connects as the owner of its object (so that
 * SQL of users never runs with other rights, and RESET ROLE gains nothing), and
 * runs its body.  All its progress is in committed transactions, so it may end
 * anywhere:
 *
 * - the body returns: asked to stop, or nothing left to do.  Exit 0.
 * - the body raises an error: the transaction is aborted, the error goes to
 *   the server's log and, in a transaction of its own, to mill_catalog.error;
 *   the slot shows when it is retried.  Exit 1.  The manager starts it again.
 * - SIGTERM: as any backend (die); the slot is left as it was.
 * - a crash restarts the server; slots are empty then, and what is wanted is
 *   read from tables.
 *
 * Exit codes other than 0 and 1 would make the postmaster restart the server.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/error.h"
#include "core/room.h"
#include "core/worker.h"

/*
 * Attach to the slot that this process was registered for, return a copy of it,
 * and set up signals; ends the process if the slot was allocated again.
 */
void
mill_worker_attach(Datum arg, MillSlotInfo *info)
{
	int slot = DatumGetInt32(arg);
	uint32 generation;

	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));
	if (!mill_slot_attach(slot, generation))
		proc_exit(0);
	(void) mill_slot_get(slot, info);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
}

bool
mill_worker_should_stop(void)
{
	MillSlotInfo info;

	(void) mill_slot_get(mill_my_slot, &info);
	return info.stop;
}

void
mill_worker_wait(long milliseconds)
{
	Assert(!IsTransactionState());
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds,
					 MILL_WAIT_EVENT);
	ResetLatch(MyLatch);
	/* WaitLatch does not report the postmaster's death if the latch is set already */
	if (!PostmasterIsAlive())
		proc_exit(1);
	mill_worker_serve();
}

void
mill_worker_serve(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * After an error: abort, log, record, and let the slot back off until the next
 * attempt.  An outage of the broker (SQLSTATE class 08) is shown as degraded, not
 * as failed, and is retried sooner.
 */
static void
record_failure(const MillSlotInfo *slot)
{
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData *error = CopyErrorData();
	bool outage = ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION;
	MillSlotInfo now;
	TimestampTz retry_at;

	/* From here on ignore cancel requests, so that the record is complete. */
	HOLD_INTERRUPTS();
	EmitErrorReport();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(context);

	(void) mill_slot_get(mill_my_slot, &now);
	retry_at = mill_retry_time(now.failures, outage);
	mill_slot_fail(mill_my_slot, retry_at, outage ? MILL_STATE_DEGRADED : MILL_STATE_FAILED,
				   mill_error_reason(error));
	RESUME_INTERRUPTS();

	mill_error_record(mill_room_of(slot->kind)->kind, slot->object_id, error, retry_at);
}

void
mill_worker_run(Datum arg, void (*body)(int64 object_id, int worker_no))
{
	sigjmp_buf on_error;
	MillSlotInfo slot;

	mill_worker_attach(arg, &slot);
	Assert(slot.kind != MILL_KIND_MANAGER && OidIsValid(slot.owner));
	BackgroundWorkerInitializeConnectionByOid(slot.database, slot.owner, 0);

	/* Statements of pg_mill have a safe search_path in any case, see catalog.c. */
	if (!mill_room_of(slot.kind)->user_settings)
	{
		SetConfigOption("search_path", MILL_SEARCH_PATH, PGC_SUSET, PGC_S_OVERRIDE);
		SetConfigOption("lock_timeout", "5s", PGC_SUSET, PGC_S_OVERRIDE);
	}
	/* pg_stat_activity shows kind and object. */
	SetConfigOption("application_name", MyBgworkerEntry->bgw_name, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);

	if (sigsetjmp(on_error, 1) != 0)
	{
		/* An error while recording the first one just ends the process. */
		PG_exception_stack = NULL;
		error_context_stack = NULL;
		record_failure(&slot);
		proc_exit(1);
	}
	PG_exception_stack = &on_error;
	body(slot.object_id, slot.worker_no);
	mill_slot_finish(mill_my_slot);
	proc_exit(0);
}
