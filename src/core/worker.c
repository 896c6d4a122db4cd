/*
 * worker.c
 *		The frame that every worker of an object runs in.
 *
 * A worker attaches to its slot, connects as the owner of its object (so that
 * nothing a user wrote ever runs with other rights, and RESET ROLE gains
 * nothing), and runs its body.  All its progress is in committed
 * transactions, so it may end anywhere:
 *
 * - the body returns: asked to stop, or nothing left to do.  Exit 0.
 * - the body raises an error: the transaction is aborted, the error goes to
 *   the server's log and, in a transaction of its own, to mill_catalog.error;
 *   the slot says when to try again.  Exit 1.  The manager starts the next.
 * - SIGTERM: as any backend (die); the slot is left as it was.
 * - a crash restarts the server; slots begin empty and tables tell the rest.
 *
 * Exit codes other than 0 and 1 would make the postmaster restart everything.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/worker.h"
#include "core/xact.h"

int mill_my_slot = -1;

/*
 * Leave the slot to whom it belongs, and tell him.
 */
static void
detach(int code, Datum arg)
{
	MillSlot *slot = &mill_shared->slots[mill_my_slot];
	Oid database;
	bool manager;

	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	slot->proc = NULL;
	slot->pid = 0;
	slot->launched = false;
	database = slot->database;
	manager = slot->kind == MILL_KIND_MANAGER;
	if (manager && mill_shared->launcher)
		SetLatch(&mill_shared->launcher->procLatch);
	LWLockRelease(mill_shared->lock);

	if (!manager)
		mill_wake_manager(database);
}

/*
 * Attach to the slot this worker was registered for, and set up signals.
 * False if the slot has gone to somebody else meanwhile.
 */
bool
mill_worker_attach(Datum arg, bool manager)
{
	int index = DatumGetInt32(arg);
	MillSlot *slot = &mill_shared->slots[index];
	uint32 generation;
	bool failed;

	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));

	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	if (!slot->in_use || slot->generation != generation || slot->proc != NULL)
	{
		LWLockRelease(mill_shared->lock);
		return false;
	}
	slot->proc = MyProc;
	slot->pid = MyProcPid;
	slot->retry_at = 0;
	slot->finished = false;
	/* A pipeline's failure stays shown until its worker has something better to say. */
	failed = slot->kind == MILL_KIND_PIPELINE && slot->failures > 0 && slot->reason[0] != '\0' &&
			 (slot->state == MILL_STATE_FAILED || slot->state == MILL_STATE_DEGRADED);
	if (!failed)
	{
		slot->state = MILL_STATE_STARTING;
		slot->since = GetCurrentTimestamp();
		slot->reason[0] = '\0';
	}
	mill_my_slot = index;
	LWLockRelease(mill_shared->lock);
	before_shmem_exit(detach, 0);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	return true;
}

/* True when the manager asked this worker to end at the next good moment. */
bool
mill_worker_should_stop(void)
{
	bool stop;

	LWLockAcquire(mill_shared->lock, LW_SHARED);
	stop = mill_shared->slots[mill_my_slot].stop;
	LWLockRelease(mill_shared->lock);
	return stop;
}

/* The object's work goes well: the next failure is a first one. */
void
mill_worker_succeeded(void)
{
	mill_shared->slots[mill_my_slot].failures = 0;
}

/* An error as the reason of a state. */
const char *
mill_error_reason(const ErrorData *error)
{
	return error->detail ? psprintf("%s (%s)", error->message, error->detail) : error->message;
}

/*
 * After an error: abort, log, record, and leave the slot resting until the
 * next try.  An outage of the broker (SQLSTATE class 08) is not a failure of
 * the object, and is tried again sooner.
 */
static void
record_failure(const char *kind)
{
	MillSlot *slot = &mill_shared->slots[mill_my_slot];
	MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);
	ErrorData *error = CopyErrorData();
	bool outage = ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_CONNECTION_EXCEPTION;
	const char *reason;
	TimestampTz retry_at;

	/* Past here a cancel would only make the record incomplete. */
	HOLD_INTERRUPTS();
	EmitErrorReport();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(context);

	retry_at = mill_retry_time(slot->failures, outage);
	reason = mill_error_reason(error);
	LWLockAcquire(mill_shared->lock, LW_EXCLUSIVE);
	slot->failures++;
	slot->retry_at = retry_at;
	LWLockRelease(mill_shared->lock);
	mill_slot_report(mill_my_slot, outage ? MILL_STATE_DEGRADED : MILL_STATE_FAILED, reason);
	RESUME_INTERRUPTS();

	mill_xact_begin("recording an error");
	if (OidIsValid(mill_extension()))
		mill_error_record(kind, slot->object_id, error, retry_at);
	mill_xact_commit();
}

void
mill_worker_run(Datum arg, const char *kind, void (*body)(int64 object_id, int worker_no))
{
	sigjmp_buf on_error;
	MillSlot *slot;

	if (!mill_worker_attach(arg, false))
		proc_exit(0);
	slot = &mill_shared->slots[mill_my_slot];
	BackgroundWorkerInitializeConnectionByOid(slot->database, slot->owner, 0);

	SetConfigOption("search_path", MILL_SEARCH_PATH, PGC_SUSET, PGC_S_OVERRIDE);
	/* pg_stat_activity shows kind and object. */
	SetConfigOption("application_name", MyBgworkerEntry->bgw_name, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "5s", PGC_SUSET, PGC_S_OVERRIDE);

	if (sigsetjmp(on_error, 1) != 0)
	{
		/* A second error, while recording the first, only ends us. */
		PG_exception_stack = NULL;
		error_context_stack = NULL;
		record_failure(kind);
		proc_exit(1);
	}
	PG_exception_stack = &on_error;
	body(slot->object_id, slot->worker_no);
	slot->finished = true;
	proc_exit(0);
}
