/*
 * fold_worker.c
 *		The background worker that folds, and fills new aggregates.
 *
 * One worker for each role that owns aggregates in a database, connected as
 * that role, while there is something to do; a second one while two or more of
 * its aggregates are behind.
 *
 *	writer commits			-> the worker is woken, unless it was told already
 *	fold_interval later		-> deltas are merged, in transactions of bounded size
 *	nothing left			-> it sleeps until the next commit
 *	not live yet			-> between folds, panes are filled, newest first
 *	all filled				-> the view goes live
 *
 * What a transaction did and how far a fill has come commit together, so the
 * worker may die anywhere.  An error concerns one aggregate: it is recorded,
 * that aggregate rests, the others go on.  Reads are right at any time; what
 * waits to be folded only makes them slower.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_index.h"
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
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/error.h"
#include "core/worker.h"
#include "core/xact.h"

#include "aggregate/internal.h"

/* Commits that nobody tells of, of prepared transactions, are noticed by then. */
#define SWEEP 60000
/* Without anything to do the worker ends after so many milliseconds. */
#define LINGER 5000
/* Pages of the base table that one step of a fill should read. */
#define FILL_PAGES 4096

/* What the worker remembers of an aggregate between its looks. */
typedef struct Task
{
	int64 id;
	TimestampTz due; /* of the next fold, if pending */
	bool pending;
	bool filling; /* there is more to fill */
	TimestampTz fill_due;
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

/* A fold's figures, in the transaction that folded. */
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

/*
 * Is there a way to find the rows of a stretch of time without reading the
 * whole table: an index that begins with the event time, or partitions by it?
 */
static bool
finds_by_time(const MillDefinition *d)
{
	Relation rel;
	ListCell *lc;
	bool found = false;
	AttrNumber column;

	if (d->time_column == NULL || d->window == MILL_WINDOW_SESSION)
		return false;
	column = get_attnum(d->base, d->time_column);
	rel = table_open(d->base, AccessShareLock);
	foreach (lc, RelationGetIndexList(rel))
	{
		HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);

		if (index->indisvalid && index->indkey.values[0] == column &&
			heap_attisnull(tuple, Anum_pg_index_indpred, NULL))
			found = true;
		ReleaseSysCache(tuple);
	}
	table_close(rel, NoLock);
	return found;
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
 * From which pane on the next step fills, as text; NULL when it is the last
 * step.  The table's whole time is divided into steps of equal length.
 */
static char *
next_bound(const MillAggregate *a, const MillDefinition *d)
{
	const char *column, *until, *type;
	int steps = (int) (pages_of(a->base) / FILL_PAGES) + 1;
	NextBound next = {0};

	if (!finds_by_time(d) || steps == 1)
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

	/* Panes that a step of even length would not move past are taken whole. */
	if (from && a->backfill_until && strcmp(from, a->backfill_until) == 0)
		from = NULL;
	groups = mill_fill(a, d, from, a->backfill_until);
	mill_aggregate_set(a->id, false, from == NULL, from ? from : a->backfill_until);
	note_fill(a->id, groups);
}

/*
 * Let the view read the state that is complete now.  The view is locked before
 * the aggregate, as everywhere, and for a moment only.
 */
static void
go_live(int64 id, Oid view)
{
	MillAggregate *a;

	LockRelationOid(view, AccessExclusiveLock);
	if (!mill_aggregate_lock(id, true))
		return;
	a = mill_aggregate_by_id(id);
	if (a && a->view == view && a->filled && !a->live)
		mill_aggregate_go_live(a, mill_definition_of(a->definition));
}

/* What to do with an aggregate now. */
typedef enum Action
{
	FOLD,
	FILL,
	GO_LIVE
} Action;

/* One transaction; more says whether to go on at once. */
static void
act(Action action, int64 id, Oid view, const char *name, bool *more)
{
	static const char *const verbs[] = {"folding", "filling", "making live"};
	char activity[NAMEDATALEN + 32];
	MillAggregate *a;

	*more = false;
	snprintf(activity, sizeof(activity), "%s %s", verbs[action], name);
	mill_xact_begin(activity);
	SPI_connect();
	if (action == GO_LIVE)
		go_live(id, view);
	else if (mill_aggregate_lock(id, false) && (a = mill_aggregate_by_id(id)) != NULL)
	{
		MillDefinition *d = mill_definition_of(a->definition);

		if (action == FILL && !a->live && !a->filled)
		{
			fill_step(a, d);
			*more = true;
		}
		else if (action == FOLD)
		{
			int64 taken = mill_fold(a, d, more);

			if (taken > 0)
				note_fold(id, taken, *more);
		}
	}
	SPI_finish();
	mill_xact_commit();
}

/* The same, with an error contained: recorded, and the aggregate left to rest. */
static bool
try(Action action, Task *task, const MillAggregate *a, const char *name)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool more = false;
	bool result = false;

	PG_TRY();
	{
		act(action, a->id, a->view, name, &result);
		more = result;
		task->failures = 0;
	}
	PG_CATCH();
	{
		ErrorData *error;
		TimestampTz retry_at;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN ||
			error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		EmitErrorReport();
		FlushErrorState();
		mill_xact_abort();
		retry_at = mill_retry_time(task->failures++, false);
		mill_error_record("aggregate", a->id, error, retry_at);
		task->due = task->fill_due = retry_at;
		task->pending = true;
		mill_slot_report(mill_my_slot, MILL_STATE_RUNNING, error->message);
	}
	PG_END_TRY();
	return more;
}

/* Fold one aggregate, at most for a while. */
static void
serve_fold(Task *task, const MillAggregate *a, const char *name)
{
	TimestampTz start = mill_now();
	bool more = true;

	task->pending = false;
	task->due = start + a->fold_interval_ms * INT64CONST(1000);
	while (more && !mill_worker_should_stop() &&
		   !TimestampDifferenceExceeds(start, mill_now(), 2000))
		more = try(FOLD, task, a, name);
	/* Behind: go on when the others had their turn. */
	if (more)
	{
		task->pending = true;
		task->due = start;
	}
}

/* Fill one step, then rest as long as it took: others want the disk too. */
static void
serve_fill(Task *task, const MillAggregate *a, const char *name)
{
	TimestampTz start = mill_now();

	task->filling = true;
	if (a->filled)
		(void) try(GO_LIVE, task, a, name);
	else
		(void) try(FILL, task, a, name);
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
 * Look at each aggregate once.  Returns how many milliseconds from now there
 * is something to do; and whether something is waiting for its time already.
 */
static long
round_of_work(bool look_everywhere, bool *waits)
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
		if (task->pending && task->due <= mill_now())
			serve_fold(task, a, lfirst(name));
		task->filling = !a->live && (a->backfill || a->filled);
		if (task->filling && task->fill_due <= mill_now())
			serve_fill(task, a, lfirst(name));
		*waits |= task->pending || task->filling;
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
	TimestampTz busy_at = mill_now();

	/*
	 * DDL of others takes its locks in any order.  Whoever deadlocks with us
	 * shall not be the one who gets the error: we look for deadlocks sooner,
	 * and do not wait as long as others do before they look.
	 */
	SetConfigOption("deadlock_timeout", "100ms", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "500ms", PGC_SUSET, PGC_S_OVERRIDE);

	while (!mill_worker_should_stop())
	{
		bool look = mill_slot_take_pending(mill_my_slot);
		bool waits = false;
		long wait;

		if (TimestampDifferenceExceeds(swept, mill_now(), SWEEP))
		{
			look = true;
			swept = mill_now();
		}
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
		mill_slot_report(mill_my_slot, MILL_STATE_RUNNING, NULL);
		wait = round_of_work(look, &waits);
		mill_slot_succeed(mill_my_slot);
		mill_slot_report(mill_my_slot, MILL_STATE_IDLE, NULL);

		/* Places are few: who has nothing to do for long leaves his to others. */
		if (look || waits)
			busy_at = mill_now();
		if (TimestampDifferenceExceeds(busy_at, mill_now(), LINGER))
		{
			mill_slot_sleep(mill_my_slot, TimestampTzPlusMilliseconds(mill_now(), wait));
			return;
		}
		wait = Min(wait, LINGER);

		mill_worker_wait(wait);
	}
}

/* Main function of the worker process. */
void
mill_fold_main(Datum arg)
{
	mill_worker_run(arg, fold_body);
}

/* A worker for each role with aggregates, two if that many are behind. */
static List *
desired_fold_workers(void)
{
	static MillStatement statement = {
		.sql = "SELECT c.relowner, count(*) FILTER (WHERE p.behind), pg_get_userbyid(c.relowner)"
			   " FROM mill_catalog.aggregate a JOIN pg_class c ON c.oid = a.view"
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
	.desired = desired_fold_workers,
};
