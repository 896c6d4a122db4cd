/*
 * step_worker.c
 *		The background worker that runs a role's steps.
 *
 *	T1	a step that is ready is claimed: its row says running, with the attempt
 *	T2	the command, as the role; its checks; the step's success, and what follows
 *	T3	after an abort of T2: the failure is recorded
 *
 * What happens if the worker dies: before T1 commits, nothing has changed.  Between T1 and
 * T2 the attempt shows as running and is nobody's task: the manager finds it
 * (dispatch.c).  T2 commits all or nothing.  In a command that has transactions of
 * its own, what it committed stays, and it may run again.
 *
 * A command may change its session in any way; between two commands the session's
 * state is discarded (DISCARD ALL), as a connection pool does.  A command can be
 * canceled only while it runs, so that the record is complete.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "catalog/namespace.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "storage/lock.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/task.h"
#include "core/worker.h"
#include "core/xact.h"
#include "job/internal.h"

PGDLLEXPORT void mill_step_main(Datum arg);

/* A worker with nothing to do ends after this time, in milliseconds, unless it stays (rooms.c). */
#define LINGER 1000
/* And is not started again for this time, unless work is pending. */
#define DORMANT (60 * 1000)

typedef struct ClaimedStep
{
	MillAttempt attempt;
	int number; /* of the attempt */
	const char *job;
	const char *step;
	MillCommand command;
	const char *checks;	  /* NULL: none */
	const char *warnings; /* NULL: none */
	int timeout;		  /* milliseconds, 0: none */
	bool checking;		  /* the command is done */
} ClaimedStep;

static TimeoutId step_timeout;
static volatile sig_atomic_t timed_out;

/* As core's statement timeout; repeated each second, in case a command catches the error. */
static void
on_timeout(void)
{
	timed_out = true;
	kill(MyProcPid, SIGINT);
}

/* ---- T1 ---- */

#define CLAIM(condition)                                                                           \
	"WITH next AS (SELECT s.id, s.attempts FROM mill_catalog.step_run s"                           \
	"  JOIN mill_catalog.job_run r ON r.id = s.run_id"                                             \
	"  JOIN mill_catalog.job j ON j.id = s.job_id"                                                 \
	"  WHERE s.state = 'ready' AND r.state = 'running' AND r.stop IS NULL"                         \
	"  AND j.enabled AND j.owner = $1"                                                             \
	"  AND j.armed_system = mill_catalog.system_identifier()"                                      \
	"  AND j.armed_database = mill_catalog.database_oid()"                                         \
	"  AND mill_catalog.job_obstacle(j) IS NULL AND " condition                                    \
	"  ORDER BY s.ready_at, s.id LIMIT 1 FOR UPDATE OF s SKIP LOCKED),"                            \
	" tried AS ("                                                                                  \
	"  INSERT INTO mill_catalog.attempt (step_run_id, number, pid, incarnation, started_at)"       \
	"  SELECT id, attempts + 1, $2, $3, $4 FROM next RETURNING id, step_run_id, number),"          \
	" claimed AS (UPDATE mill_catalog.step_run s SET state = 'running',"                           \
	"  attempts = t.number, attempt_id = t.id,"                                                    \
	"  started_at = $4, finished_at = NULL, retry_at = NULL"                                       \
	"  FROM tried t WHERE s.id = t.step_run_id RETURNING s.*)"                                     \
	" SELECT c.attempt_id, c.id, c.run_id, c.job_id, c.attempts, j.name, c.name, d.command,"       \
	"  d.transaction = 'own', d.checks::text, d.warnings::text,"                                   \
	"  least(EXTRACT(epoch FROM d.timeout) * 1000, 2147483647)::int4,"                             \
	"  r.interval_start, r.interval_end"                                                           \
	" FROM claimed c JOIN mill_catalog.job_run r ON r.id = c.run_id"                               \
	" JOIN mill_catalog.job j ON j.id = c.job_id JOIN mill_catalog.step d ON d.id = c.step_id"

static bool
claim_by(MillStatement *statement)
{
	Datum values[4] = {ObjectIdGetDatum(GetSessionUserId()), Int32GetDatum(MyProcPid),
					   Int64GetDatum(mill_incarnation()), TimestampTzGetDatum(mill_now())};

	return mill_run(statement, SPI_OK_SELECT, values, NULL) > 0;
}

/*
 * A step that ran when the server crashed runs only while no other such step does,
 * so that a second crash shows which one is the cause.
 */
static bool
claim_suspect(void)
{
	static MillStatement any = {
		.sql = "SELECT FROM mill_catalog.step_run s WHERE s.state = 'ready' AND s.suspect LIMIT 1"};
	static MillStatement lock = {
		.sql = "LOCK TABLE mill_catalog.step IN SHARE UPDATE EXCLUSIVE MODE"};
	static MillStatement claim =
		{.sql = CLAIM(
			 "s.suspect AND NOT EXISTS (SELECT FROM mill_catalog.step_run o WHERE o.state = 'running' AND o.suspect)"),
		 .nargs = 4,
		 .types = {REGROLEOID, INT4OID, INT8OID, TIMESTAMPTZOID}};

	if (mill_run(&any, SPI_OK_SELECT, NULL, NULL) == 0)
		return false;
	mill_run(&lock, SPI_OK_UTILITY, NULL, NULL);
	return claim_by(&claim);
}

/* Claim the step that was ready first, NULL if there is none; in the current memory context. */
static ClaimedStep *
claim(void)
{
	static MillStatement statement = {.sql = CLAIM("NOT s.suspect"),
									  .nargs = 4,
									  .types = {REGROLEOID, INT4OID, INT8OID, TIMESTAMPTZOID},
									  .generic_plan = true};
	MemoryContext context = CurrentMemoryContext;
	ClaimedStep *claimed = NULL;

	mill_xact_begin("looking for a step");
	SPI_connect();
	if (claim_by(&statement) || claim_suspect())
	{
		MemoryContext before = MemoryContextSwitchTo(context);
		bool isnull;

		claimed = palloc0(sizeof(ClaimedStep));
		claimed->attempt.id = DatumGetInt64(mill_value(0, 1, NULL));
		claimed->attempt.step_run_id = DatumGetInt64(mill_value(0, 2, NULL));
		claimed->attempt.run_id = DatumGetInt64(mill_value(0, 3, NULL));
		claimed->attempt.job_id = DatumGetInt64(mill_value(0, 4, NULL));
		claimed->number = DatumGetInt32(mill_value(0, 5, NULL));
		claimed->job = mill_text(0, 6);
		claimed->step = mill_text(0, 7);
		claimed->command.text = mill_text(0, 8);
		claimed->command.own_transaction = DatumGetBool(mill_value(0, 9, NULL));
		claimed->checks = mill_text(0, 10);
		claimed->warnings = mill_text(0, 11);
		claimed->timeout = DatumGetInt32(mill_value(0, 12, &isnull));
		claimed->command.interval[0] = DatumGetTimestampTz(mill_value(0, 13, NULL));
		claimed->command.interval[1] = DatumGetTimestampTz(mill_value(0, 14, NULL));
		claimed->command.run_id = claimed->attempt.run_id;
		MemoryContextSwitchTo(before);
		mill_task_set(mill_kind_of(mill_room_named("step")), claimed->attempt.id, false);
		/*
		 * A claim that a crash takes back was none: its effect cannot have been
		 * committed without it.  But where the server has crashed, attempts are
		 * counted for good before anything runs that might crash it again.
		 */
		if (!claimed->command.own_transaction && !mill_incarnation_unclean())
			(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_LOCAL, true, 0, false);
	}
	SPI_finish();
	mill_xact_commit();
	if (claimed)
		mill_task_set(mill_kind_of(mill_room_named("step")), claimed->attempt.id, true);
	return claimed;
}

/* ---- T2 ---- */

static void
run_context(void *arg)
{
	const ClaimedStep *claimed = arg;

	errcontext("step \"%s\" of job \"%s\", run %lld, attempt %d", claimed->step, claimed->job,
			   (long long) claimed->attempt.run_id, claimed->number);
}

/* From here on the command may be canceled. */
static void
let_cancel(const ClaimedStep *claimed)
{
	/* an earlier cancel request was for another step, or will be repeated */
	QueryCancelPending = false;
	timed_out = false;
	if (claimed->timeout > 0)
		enable_timeout_every(step_timeout,
							 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), claimed->timeout),
							 1000);
	RESUME_CANCEL_INTERRUPTS();
}

static void
forbid_cancel(void)
{
	disable_timeout(step_timeout, false);
	HOLD_CANCEL_INTERRUPTS();
	/* the command caught the error and continued */
	if (timed_out)
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("the step was canceled")));
}

/* Run the checks, and deferred constraints and triggers, while an error can still be recorded. */
static void
run_checks(ClaimedStep *claimed)
{
	ConstraintsSetStmt all = {.type = T_ConstraintsSetStmt, .constraints = NIL, .deferred = false};

	AfterTriggerSetState(&all);
	claimed->checking = true;
	mill_checks_run(&claimed->command, claimed->checks, true);
	mill_checks_run(&claimed->command, claimed->warnings, false);
	claimed->checking = false;
}

/* Command and bookkeeping in one transaction. */
static void
run_in_one(ClaimedStep *claimed, const char *activity)
{
	int64 rows;

	mill_xact_begin(activity);
	SPI_connect();
	let_cancel(claimed);
	rows = mill_command_run(&claimed->command);
	run_checks(claimed);
	forbid_cancel();
	mill_attempt_succeed(&claimed->attempt, rows, mill_notices_end());
	SPI_finish();
	mill_xact_commit();
}

/* The command in transactions of its own, then checks and bookkeeping in one. */
static void
run_in_own(ClaimedStep *claimed, const char *activity)
{
	int64 rows;

	debug_query_string = activity;
	pgstat_report_activity(STATE_RUNNING, activity);
	let_cancel(claimed);
	rows = mill_command_run(&claimed->command);
	forbid_cancel();

	mill_xact_begin(activity);
	SPI_connect();
	let_cancel(claimed);
	run_checks(claimed);
	forbid_cancel();
	mill_attempt_succeed(&claimed->attempt, rows, mill_notices_end());
	SPI_finish();
	mill_xact_commit();
}

/* ---- T3 ---- */

/* After an error in T2, which is aborted, logged and recorded. */
static void
record_step_failure(ClaimedStep *claimed)
{
	ErrorData *error = CopyErrorData();
	MillOutcome outcome = MILL_OUTCOME_ERROR;
	TimestampTz retry_at;
	char *notices;

	HOLD_CANCEL_INTERRUPTS();
	disable_timeout(step_timeout, false);
	notices = mill_notices_end();
	EmitErrorReport();
	FlushErrorState();
	mill_xact_abort();

	if (timed_out && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
	{
		outcome = MILL_OUTCOME_TIMEOUT;
		error->message = psprintf("the step took longer than its timeout of %d ms",
								  claimed->timeout);
	}
	else if (claimed->checking && error->sqlerrcode == ERRCODE_CHECK_VIOLATION)
		outcome = MILL_OUTCOME_CHECK_FAILED;

	mill_xact_begin("recording a failure");
	SPI_connect();
	retry_at = mill_attempt_fail(&claimed->attempt, outcome, error, notices);
	SPI_finish();
	mill_xact_commit();
	mill_error_record("job", claimed->attempt.job_id, error, retry_at);
}

/* ---- between steps ---- */

/*
 * Discard the session's state, so that the next step sees none of it: what DISCARD
 * ALL does, but for plans, of which most are ours and which nobody sees.
 */
static void
discard_session(void)
{
	mill_xact_begin("discarding a step's session");
	PortalHashTableDeleteAll();
	SetPGVariable("session_authorization", NIL, false);
	ResetAllOptions();
	DropAllPreparedStatements();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetTempTableNamespace();
	ResetSequenceCaches();
	mill_xact_commit();
	SetConfigOption("application_name", MyBgworkerEntry->bgw_name, PGC_USERSET, PGC_S_SESSION);
}

static void
run_step(ClaimedStep *claimed)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback callback = {error_context_stack, run_context, claimed};
	const char *activity = psprintf("step %s of job %s", claimed->step, claimed->job);

	mill_slot_report(mill_my_slot, MILL_STATE_RUNNING,
					 psprintf("%s, run %lld", activity, (long long) claimed->attempt.run_id));
	PG_TRY();
	{
		error_context_stack = &callback;
		mill_notices_begin();
		if (claimed->command.own_transaction)
			run_in_own(claimed, activity);
		else
			run_in_one(claimed, activity);
		error_context_stack = callback.previous;
	}
	PG_CATCH();
	{
		error_context_stack = callback.previous;
		MemoryContextSwitchTo(context);
		record_step_failure(claimed);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	mill_task_set(mill_kind_of(mill_room_named("step")), 0, false);
	discard_session();
	mill_slot_succeed(mill_my_slot);
}

static bool
may_stay(int worker_no)
{
	bool stays;

	mill_xact_begin("looking for what is due soon");
	SPI_connect();
	stays = mill_step_worker_stays(GetSessionUserId(), worker_no);
	SPI_finish();
	mill_xact_commit();
	return stays;
}

static void
step_body(int64 object_id, int worker_no)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_mill step",
												  ALLOCSET_DEFAULT_SIZES);
	TimestampTz idle_since = 0;

	step_timeout = RegisterTimeout(USER_TIMEOUT, on_timeout);
	HOLD_CANCEL_INTERRUPTS();
	while (!mill_worker_should_stop() && !mill_slot_others_wait(mill_my_slot))
	{
		ClaimedStep *claimed;

		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		(void) mill_slot_take_pending(mill_my_slot);
		mill_worker_serve();
		claimed = claim();
		if (claimed)
		{
			run_step(claimed);
			idle_since = 0;
			continue;
		}
		mill_slot_report(mill_my_slot, MILL_STATE_IDLE, NULL);
		if (idle_since == 0)
			idle_since = mill_now();
		if (TimestampDifferenceExceeds(idle_since, mill_now(), LINGER) || idle_since > mill_now())
		{
			if (may_stay(worker_no))
			{
				mill_worker_wait(LINGER);
				continue;
			}
			mill_slot_sleep(mill_my_slot, TimestampTzPlusMilliseconds(mill_now(), DORMANT));
			return;
		}
		mill_worker_wait(LINGER / 4);
	}
}

/* Main function of the worker process. */
void
mill_step_main(Datum arg)
{
	mill_worker_run(arg, step_body);
}
