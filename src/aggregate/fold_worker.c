/*
 * fold_worker.c
 *		The background worker that folds deltas, and fills new aggregates.
 *
 * Each role that owns aggregates in a database has one worker, connected as
 * that role, while there is something to do, and a second one while two or
 * more of its aggregates are behind.
 *
 *	writer commits			-> wakes the worker, unless a wake-up is pending
 *	fold_interval later		-> folds, in transactions of bounded size
 *	no deltas left			-> waits for the next commit, or ends
 *	aggregate rests			-> waits for the writers under way, then fills it anew
 *	aggregate not live		-> fills a step of panes between folds, newest first
 *	all panes filled		-> makes the aggregate live
 *
 * The progress of a fold or fill is committed with its result, so the worker
 * may die at any point.  An error is about one aggregate: it is recorded, the
 * worker backs off from that aggregate and goes on with the others.  Readers
 * always see right results; deltas that are not folded only make reads slower.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/error.h"
#include "core/worker.h"
#include "core/xact.h"

#include "aggregate/internal.h"

/* How often to look for deltas unasked: COMMIT PREPARED wakes nobody.  Milliseconds. */
#define SWEEP 60000
/* How often to look for windows that have become too old.  Microseconds. */
#define EXPIRE_INTERVAL (60 * USECS_PER_SEC)
/* The worker ends when it had nothing to do for so long.  Milliseconds. */
#define LINGER 5000
/* Writers may wake the worker so often, at most, however many they are.  Milliseconds. */
#define LOOK 50
/* A step of a fill reads about so many pages of the base table. */
#define FILL_PAGES 4096

/* What the worker keeps of an aggregate between rounds. */
typedef struct Task
{
	int64 id;
	TimestampTz due; /* of the next fold, if pending */
	bool pending;
	bool filling; /* not live yet, and ours to fill */
	TimestampTz fill_due;
	TimestampTz expire_due; /* of the history */
	int failures;
} Task;

static List *tasks = NIL;

static Task *
task_of(int64 id)
{
	ListCell *lc;
	Task *task;
	MemoryContext before;

	foreach (lc, tasks)
	{
		task = lfirst(lc);
		if (task->id == id)
			return task;
	}
	before = MemoryContextSwitchTo(TopMemoryContext);
	task = palloc0(sizeof(Task));
	task->id = id;
	task->pending = true;
	tasks = lappend(tasks, task);
	MemoryContextSwitchTo(before);
	return task;
}

/* Record a fold's figures, in the transaction that folded. */
static void
note_fold(int64 id, int64 taken, bool more)
{
	static MillStatement note =
		{.sql = "UPDATE mill_catalog.aggregate_progress SET folds = folds + 1, deltas_folded = deltas_folded + $2, behind = $3,"
				" deltas_per_second = $2 / greatest(EXTRACT(epoch FROM clock_timestamp() - coalesce(last_fold_at, clock_timestamp() - interval '1 second')), 0.001)::float8,"
				" last_fold_at = clock_timestamp() WHERE aggregate_id = $1",
		 .nargs = 3,
		 .types = {INT8OID, INT8OID, BOOLOID}};
	Datum values[3] = {Int64GetDatum(id), Int64GetDatum(taken), BoolGetDatum(more)};

	mill_run(&note, SPI_OK_UPDATE, values, NULL);
}

static void
note_fill(int64 id, int64 groups)
{
	static MillStatement note =
		{.sql = "UPDATE mill_catalog.aggregate_progress SET fill_steps = fill_steps + 1, groups_filled = groups_filled + $2 WHERE aggregate_id = $1",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	Datum values[2] = {Int64GetDatum(id), Int64GetDatum(groups)};

	mill_run(&note, SPI_OK_UPDATE, values, NULL);
}

static double
pages_of(Oid base)
{
	double pages = 0;
	ListCell *lc;

	foreach (lc, find_all_inheritors(base, AccessShareLock, NULL))
	{
		Relation rel = table_open(lfirst_oid(lc), NoLock);

		if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
			pages += RelationGetNumberOfBlocks(rel);
		table_close(rel, NoLock);
	}
	return pages;
}

typedef struct NextBound
{
	const char *sql;
	char *bound;
} NextBound;

static void
read_next_bound(void *arg)
{
	NextBound *next = arg;

	mill_execute(next->sql, SPI_OK_SELECT);
	if (SPI_processed > 0)
		next->bound = mill_text(0, 1);
}

/*
 * The first pane of the next step of a fill, as text; NULL for the last step.
 * Steps are ranges of time of equal length over the whole table.
 */
static char *
next_bound(const MillAggregate *a, const MillDefinition *d)
{
	const char *column, *until, *type;
	int steps = (int) (pages_of(a->base) / FILL_PAGES) + 1;
	NextBound next = {0};

	if (d->time_column == NULL || d->window == MILL_WINDOW_SESSION || steps == 1 ||
		!mill_has_index_on(a->base, list_make1_int(get_attnum(a->base, d->time_column))))
		return NULL;
	column = quote_identifier(d->time_column);
	type = format_type_be(d->time_type);
	until = a->backfill_until ? psprintf("%s::%s", quote_literal_cstr(a->backfill_until), type)
							  : "b.high";
	next.sql =
		psprintf("SELECT n.bound FROM (SELECT min(%s) AS low, max(%s) AS high FROM %s WHERE %s) b,\n"
				 " LATERAL (SELECT mill.window_start((%s - (b.high - b.low) / %d)::%s%s) AS bound) n WHERE n.bound > b.low",
				 column, column, mill_relation_name(a->base),
				 d->time_type == INT8OID ? "true" : psprintf("isfinite(%s)", column), until, steps,
				 type, d->pane_args);
	mill_as_owner(a->owner, read_next_bound, &next);
	return next.bound;
}

/* One step of filling an aggregate; the caller holds its lock. */
static void
fill_step(MillAggregate *a, const MillDefinition *d)
{
	char *from = next_bound(a, d);
	int64 groups;

	/* the step is shorter than a pane and would fill nothing: fill all that is left */
	if (from && a->backfill_until && strcmp(from, a->backfill_until) == 0)
		from = NULL;
	groups = mill_fill(a, d, from, a->backfill_until);
	mill_aggregate_set_progress(a, from == NULL, from);
	note_fill(a->id, groups);
}

/* What to do with an aggregate now. */
typedef enum Action
{
	FOLD,
	FILL,
	BEGIN_FILL,
	EXPIRE
} Action;

/* Does it rest, and may it be filled: has what laid it to rest passed? */
static bool
may_begin_fill(int64 id)
{
	MillAggregate *a = mill_aggregate_by_id(id);

	return a && a->resting && mill_aggregate_obstacle(a) == NULL &&
		   !OidIsValid(mill_find_uncaptured(a->relations, false));
}

/* What came of an action. */
typedef struct Outcome
{
	MemoryContext context; /* of the error */
	bool more;			   /* repeat it at once */
	ErrorData *failed;	   /* about groups that could not be folded */
} Outcome;

/* Do it; the caller holds the aggregate's lock. */
static void
act(Action action, MillAggregate *a, Outcome *outcome)
{
	/* rights are taken without a word to us */
	char *obstacle = action == BEGIN_FILL ? NULL : mill_aggregate_obstacle(a);
	MillDefinition *d;
	int64 taken;

	if (obstacle)
	{
		mill_aggregate_rest(a, obstacle);
		return;
	}
	d = mill_definition_of(a->definition);
	if (action == BEGIN_FILL)
		mill_aggregate_begin_fill(a);
	else if (action == FILL && !a->live)
	{
		fill_step(a, d);
		outcome->more = true;
	}
	else if (action == EXPIRE)
		mill_history_expire(a, d);
	else if (action == FOLD)
	{
		taken = mill_fold(a, d, &outcome->more, outcome->context, &outcome->failed);
		if (taken > 0)
			note_fold(a->id, taken, outcome->more);
	}
}

/*
 * Run one action in a transaction.  The base table is locked before the aggregate, as
 * by all others.
 */
static void
run_action(Action action, int64 id, Oid base, const char *name, Outcome *outcome)
{
	static const char *const verbs[] = {"folding", "filling", "waiting for writers of",
										"forgetting old windows of"};
	char activity[NAMEDATALEN + 32];
	MillAggregate *a;

	snprintf(activity, sizeof(activity), "%s %s", verbs[action], name);
	mill_xact_begin(activity);
	SPI_connect();
	if (action != BEGIN_FILL)
		LockRelationOid(base, AccessShareLock);
	if ((action != BEGIN_FILL || (may_begin_fill(id) && mill_try_lock_base(base))) &&
		mill_aggregate_lock(id, false) && (a = mill_aggregate_by_id(id)) != NULL &&
		a->base == base && a->resting == (action == BEGIN_FILL))
		act(action, a, outcome);
	SPI_finish();
	mill_xact_commit();
}

/* Record an error, and let the aggregate's next attempt wait. */
static void
back_off_from(Task *task, const MillAggregate *a, const ErrorData *error)
{
	TimestampTz retry_at = mill_retry_time(task->failures++, false);

	mill_error_record("aggregate", a->id, error, retry_at);
	task->due = task->fill_due = retry_at;
	task->pending = true;
	mill_slot_report(mill_my_slot, MILL_STATE_RUNNING, error->message);
}

/* The same, but errors are recorded; true if it is to be repeated at once. */
static bool
try_action(Action action, Task *task, const MillAggregate *a, const char *name)
{
	MemoryContext context = CurrentMemoryContext;
	Outcome outcome = {.context = context};

	PG_TRY();
	{
		run_action(action, a->id, a->base, name, &outcome);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		outcome.failed = CopyErrorData();
		if (outcome.failed->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN ||
			outcome.failed->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		EmitErrorReport();
		FlushErrorState();
		mill_xact_abort();
		outcome.more = false;
	}
	PG_END_TRY();
	if (outcome.failed && !outcome.more)
		back_off_from(task, a, outcome.failed);
	else if (outcome.failed == NULL)
		task->failures = 0;
	return outcome.more;
}

/* Fold one aggregate, for at most about 2 seconds. */
static void
fold_task(Task *task, const MillAggregate *a, const char *name)
{
	TimestampTz start = mill_now();
	bool more = true;

	task->pending = false;
	task->due = start + a->fold_interval_ms * INT64CONST(1000);
	while (more && !mill_worker_should_stop() &&
		   !TimestampDifferenceExceeds(start, mill_now(), 2000))
		more = try_action(FOLD, task, a, name);
	/* still behind: go on after the other aggregates */
	if (more)
	{
		task->pending = true;
		task->due = start;
	}
}

/* Fill one step, then pause as long as the step took, to leave I/O to others. */
static void
fill_task(Task *task, const MillAggregate *a, const char *name)
{
	TimestampTz start = mill_now();

	task->filling = true;
	(void) try_action(a->resting ? BEGIN_FILL : FILL, task, a, name);
	if (task->failures == 0)
		task->fill_due = mill_now() + Min(mill_now() - start, USECS_PER_SEC);
}

/* The aggregates of this worker's role, in the given context. */
static List *
read_aggregates(MemoryContext context, List **names)
{
	List *list = NIL;
	ListCell *lc;
	MemoryContext before;

	mill_xact_begin("looking for deltas");
	SPI_connect();
	foreach (lc, mill_aggregates_of_owner(GetUserId()))
	{
		MillAggregate *a = lfirst(lc);
		char *name = get_rel_name(a->view);

		before = MemoryContextSwitchTo(context);
		list = lappend(list, memcpy(palloc(sizeof(MillAggregate)), a, sizeof(MillAggregate)));
		*names = lappend(*names, pstrdup(name ? name : "?"));
		MemoryContextSwitchTo(before);
	}
	SPI_finish();
	mill_xact_commit();
	return list;
}

/*
 * Fold and fill each aggregate that is due.  Returns the milliseconds until
 * the next one is; *waits is set if any has deltas to fold or panes to fill.
 */
static long
run_round(bool look_everywhere, bool *waiting)
{
	List *names = NIL;
	List *aggregates = read_aggregates(CurrentMemoryContext, &names);
	TimestampTz next = TimestampTzPlusMilliseconds(mill_now(), SWEEP);
	ListCell *lc, *name;

	forboth (lc, aggregates, name, names)
	{
		MillAggregate *a = lfirst(lc);
		Task *task = task_of(a->id);

		if (mill_worker_should_stop())
			return 0;
		if (look_everywhere)
			task->pending = true;
		if (OidIsValid(a->history) && !a->resting && task->expire_due <= mill_now())
		{
			task->expire_due = mill_now() + EXPIRE_INTERVAL;
			(void) try_action(EXPIRE, task, a, lfirst(name));
		}
		if (task->pending && task->due <= mill_now())
			fold_task(task, a, lfirst(name));
		task->filling = !a->live && a->backfill;
		if (task->filling && task->fill_due <= mill_now())
			fill_task(task, a, lfirst(name));
		*waiting |= task->pending || task->filling;
		if (task->pending)
			next = Min(next, task->due);
		if (task->filling)
			next = Min(next, task->fill_due);
	}
	return TimestampDifferenceMilliseconds(mill_now(), next);
}

static void
fold_body(int64 object_id, int worker_no)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "pg_mill fold round",
												  ALLOCSET_DEFAULT_SIZES);
	TimestampTz swept = 0;
	TimestampTz looked = 0;
	TimestampTz busy_at = mill_now();

	/*
	 * Users' DDL takes its locks in any order and can deadlock with us.  The
	 * user should not get that error: with this deadlock_timeout we find the
	 * deadlock first, and lock_timeout is below the default deadlock_timeout,
	 * so that we give up before others look for one.
	 */
	SetConfigOption("deadlock_timeout", "10ms", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "500ms", PGC_SUSET, PGC_S_OVERRIDE);

	while (!mill_worker_should_stop())
	{
		/* a wake-up that is not taken yet is the last one: nobody sends another */
		bool early = !TimestampDifferenceExceeds(looked, mill_now(), LOOK);
		bool look = !early && mill_slot_take_pending(mill_my_slot);
		bool waiting = false;
		long wait;

		if (look)
			looked = mill_now();
		if (TimestampDifferenceExceeds(swept, mill_now(), SWEEP))
		{
			look = true;
			swept = mill_now();
		}
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		mill_slot_report(mill_my_slot, MILL_STATE_RUNNING, NULL);
		wait = run_round(look, &waiting);
		mill_slot_succeed(mill_my_slot);
		mill_slot_report(mill_my_slot, MILL_STATE_IDLE, NULL);

		/* background workers are few: after a while without work give this one back */
		if (look || early || waiting)
			busy_at = mill_now();
		if (TimestampDifferenceExceeds(busy_at, mill_now(), LINGER))
		{
			mill_slot_sleep(mill_my_slot, TimestampTzPlusMilliseconds(mill_now(), wait));
			return;
		}
		mill_worker_wait(Min(wait, early ? LOOK : LINGER));
	}
}

/* Main function of the background worker. */
void
mill_fold_main(Datum arg)
{
	mill_worker_run(arg, fold_body);
}

/* Wants a worker for each role with aggregates, two if two or more are behind. */
static List *
desired_fold_workers(void)
{
	static MillStatement statement = {
		.sql = "SELECT c.relowner, count(*) FILTER (WHERE p.behind), pg_get_userbyid(c.relowner)"
			   " FROM mill_catalog.armed_aggregate a JOIN pg_class c ON c.oid = a.view"
			   " JOIN mill_catalog.aggregate_progress p ON p.aggregate_id = a.id"
			   /* a worker connects as this role; mill.aggregates warns of those that cannot */
			   " WHERE mill_catalog.login_obstacle(c.relowner) IS NULL"
			   " GROUP BY c.relowner ORDER BY c.relowner"};
	uint64 rows = mill_run(&statement, SPI_OK_SELECT, NULL, NULL);
	List *list = NIL;

	for (uint64 row = 0; row < rows; row++)
	{
		int workers = DatumGetInt64(mill_value(row, 2, NULL)) > 1 ? 2 : 1;

		for (int n = 0; n < workers; n++)
		{
			MillWork *work = palloc0(sizeof(MillWork));

			work->owner = DatumGetObjectId(mill_value(row, 1, NULL));
			work->object_id = work->owner;
			work->worker_no = n;
			work->version = 1;
			work->title = psprintf("fold of %s", mill_text(row, 3));
			list = lappend(list, work);
		}
	}
	return list;
}

const MillRoom mill_fold_room = {
	.kind = "fold",
	.function = "mill_fold_main",
	.preemptible = true,
	.armed = mill_aggregates_arm,
	.before_command = mill_aggregates_before_command,
	.desired = desired_fold_workers,
};
