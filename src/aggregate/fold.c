/*
 * fold.c
 *		Fold: merge deltas into the state table.  Fill: compute the state table
 *		from the base table.
 *
 * Called by the fold worker and by mill.fold and mill.refresh, in a READ
 * COMMITTED transaction that took the aggregate's lock in an earlier
 * statement.  So each statement here has a snapshot that sees all earlier
 * folds and fills.
 *
 * A crash undoes the transaction: the deltas are still there, the state table
 * is as before.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/xid8.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/error.h"
#include "core/xact.h"

#include "aggregate/internal.h"
#include "aggregate/sql.h"

/*
 * Deltas that one transaction merges, at most: a quarter of what waits, by the size of the
 * table, between these.  Each reads all that wait more than once.
 */
#define FOLD_LIMIT 20000
#define FOLD_LIMIT_BEHIND 200000
#define DELTAS_PER_PAGE 80
/* Stale groups that one transaction recomputes, at most: one by one; in one pass over the table. */
#define RECOMPUTE_LIMIT 1000
#define RECOMPUTE_IN_ONE_PASS 50000
/* Groups that are folded apart after an error, at most, and for how long.  Milliseconds. */
#define APART_LIMIT 10000
#define APART_TIME 2000

/* Run a statement with $1 = limit; its only row is SPI's result. */
static void
execute_limited(const char *sql, int64 limit)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(limit)};
	int code = SPI_execute_with_args(sql, 1, types, values, NULL, false, 0);

	if (code != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "unexpected result of \"%s\": %s", sql, SPI_result_code_string(code));
}

static int64
fold_limit(Oid delta)
{
	int64 waiting = (int64) mill_pages_now(delta, false) * DELTAS_PER_PAGE;

	return Max(FOLD_LIMIT, Min(FOLD_LIMIT_BEHIND, waiting / 4));
}

static bool
has_rows(const char *table, const char *condition)
{
	mill_execute(psprintf("SELECT FROM %s WHERE %s LIMIT 1", table, condition), SPI_OK_SELECT);
	return SPI_processed > 0;
}

/* Delete groups that have no rows left from the state table. */
static void
delete_groups(const MillTables *t, Datum ctids)
{
	Oid types[1] = {TIDARRAYOID};
	Datum values[1] = {ctids};
	const char *sql = psprintf("DELETE FROM %s WHERE ctid = ANY ($1)", t->state);

	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete empty groups");
}

/* Condition on deltas that can be folded: those of panes that are filled.  NULL: all. */
static const char *
ready_condition(const MillAggregate *a, const MillDefinition *d)
{
	if (a->live)
		return NULL;
	if (a->backfill_until == NULL)
		return "false";
	return psprintf("pane >= %s::%s", quote_literal_cstr(a->backfill_until),
					format_type_be(d->time_type));
}

/* Arguments and results of a fold or a fill. */
typedef struct FoldWork
{
	const MillAggregate *aggregate;
	const MillDefinition *d;
	const char *ready;		  /* of a fold: the condition on deltas; NULL: all */
	const char *from, *until; /* of a fill */
	int64 result;
	bool more;
	char *negative; /* a group with fewer than no rows */
} FoldWork;

static void
fold(void *arg)
{
	FoldWork *work = arg;
	const MillDefinition *d = work->d;
	MillTables *t = mill_aggregate_tables(work->aggregate);
	const char *ready = work->ready;

	if (!has_rows(t->delta, ready ? ready : "true"))
		return;
	/* stale groups first: deltas of others that share their hash wait for them */
	if (d->class != MILL_INVERTIBLE &&
		has_rows(t->delta, psprintf("stale%s%s", ready ? " AND " : "", ready ? ready : "")))
	{
		int64 limit = mill_finds_groups(d) ? RECOMPUTE_LIMIT : RECOMPUTE_IN_ONE_PASS;

		execute_limited(mill_sql_recompute(d, t, ready), limit);
		work->result += DatumGetInt64(mill_value(0, 1, NULL));
		work->more |= DatumGetInt64(mill_value(0, 2, NULL)) == limit;
	}
	if (d->class != MILL_RECOMPUTE)
	{
		int64 limit = fold_limit(work->aggregate->delta);
		int64 merged;
		bool isnull;
		Datum ctids;

		execute_limited(mill_sql_fold(d, t, ready), limit);
		merged = DatumGetInt64(mill_value(0, 1, NULL));
		work->result += merged;
		work->more |= merged >= limit || DatumGetInt64(mill_value(0, 4, NULL)) > 0;
		ctids = mill_value(0, 2, &isnull);
		/* of a part of a group's deltas even a sum of no rows says nothing */
		if (merged < limit || d->by_extremes)
		{
			work->negative = mill_text(0, 3);
			if (!isnull)
				delete_groups(t, ctids);
		}
	}
}

/* ---- partitions that come and go meanwhile ---- */

/* The last transaction that changed which relations an aggregate captures; 0: none. */
static uint64
last_change(int64 id)
{
	static MillStatement read =
		{.sql = "SELECT exact_since FROM mill_catalog.aggregate WHERE id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum value = Int64GetDatum(id);
	bool none = true;
	Datum xid = 0;

	if (mill_run(&read, SPI_OK_SELECT, &value, NULL) > 0)
		xid = mill_value(0, 1, &none);
	return none ? 0 : U64FromFullTransactionId(DatumGetFullTransactionId(xid));
}

/*
 * The same, when all that planning has to know of it has arrived here: a transaction is
 * seen a little before others are told what it did to relations, and both before
 * it gives up its locks.
 */
static uint64
settled_change(int64 id)
{
	uint64 change = last_change(id);
	TransactionId xid = XidFromFullTransactionId(FullTransactionIdFromU64(change));

	/* one of long ago has a number that may mean another one */
	if (change != 0 &&
		U64FromFullTransactionId(ReadNextFullTransactionId()) - change < INT_MAX / 2 &&
		!TransactionIdIsCurrentTransactionId(xid))
		XactLockTableWait(xid, NULL, NULL, XLTW_None);
	AcceptInvalidationMessages();
	return change;
}

typedef struct Attempt
{
	FoldWork *work;
	void (*function)(void *arg);
	bool partitioned;
	uint64 change; /* of the partitions, when the work was planned */
	bool outdated;
} Attempt;

static void
attempt(void *arg)
{
	Attempt *try = arg;

	mill_as_owner(try->work->aggregate->owner, try->function, try->work);
	try->outdated = try->partitioned && last_change(try->work->aggregate->id) != try->change;
	if (try->outdated)
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("partitions of \"%s\" came or went meanwhile",
							   get_rel_name(try->work->aggregate->base))));
}

/*
 * Run a fold or a fill as the aggregate's owner; if it fails, it is undone and its error is
 * returned.  ATTACH PARTITION does not wait for us, nor we for it, and a statement is
 * planned before it gets its snapshot.  So it may see the deltas of a partition that it
 * does not read, or read one whose deltas it does not see.  Then it is done again.
 */
static ErrorData *
run_planned(FoldWork *work, void (*function)(void *arg))
{
	bool partitioned = get_rel_relkind(work->aggregate->base) == RELKIND_PARTITIONED_TABLE;
	FoldWork before = *work;

	for (;;)
	{
		uint64 change = partitioned ? settled_change(work->aggregate->id) : 0;
		Attempt try = {work, function, partitioned, change, false};
		ErrorData *error = mill_try(attempt, &try, CurrentMemoryContext, true);

		if (error == NULL)
			return NULL;
		*work = before;
		if (!try.outdated)
			return error;
		CHECK_FOR_INTERRUPTS();
	}
}

/* ---- groups that cannot be folded ---- */

/* Groups that are folded apart from the others: the hashes of their deltas. */
typedef struct Apart
{
	FoldWork *work;
	const char *ready; /* of all */
	Datum *hashes;
	int count;
	TimestampTz until;
	bool out_of_time;
	int failed;
	ErrorData *error; /* of the first that failed */
	int64 hash;
	char *group; /* its name, or "?" */
} Apart;

/* In no order, so that those that fail are not always before others. */
static void
read_hashes(void *arg)
{
	Apart *apart = arg;
	Datum array;
	bool isnull;

	mill_execute(psprintf("SELECT array_agg(h ORDER BY random()) FROM"
						  " (SELECT DISTINCT key_hash AS h FROM %s WHERE %s LIMIT %d) x",
						  mill_aggregate_tables(apart->work->aggregate)->delta,
						  apart->ready ? apart->ready : "true", APART_LIMIT),
				 SPI_OK_SELECT);
	array = mill_value(0, 1, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(array), INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
						  TYPALIGN_DOUBLE, &apart->hashes, NULL, &apart->count);
}

/* The group that failed, as a row's text. */
static void
read_group(void *arg)
{
	Apart *apart = arg;
	MillTables *t = mill_aggregate_tables(apart->work->aggregate);

	mill_execute(mill_sql(apart->work->d, t,
						  "SELECT ROW($group)::text FROM $delta WHERE key_hash = $hash", "hash",
						  psprintf(INT64_FORMAT, apart->hash), MILL_END),
				 SPI_OK_SELECT);
	if (SPI_processed > 0)
		apart->group = mill_text(0, 1);
}

static void
read_group_as_owner(void *arg)
{
	mill_as_owner(((Apart *) arg)->work->aggregate->owner, read_group, arg);
}

static ErrorData *
fold_some(Apart *apart, int first, int count)
{
	StringInfoData condition;

	initStringInfo(&condition);
	appendStringInfo(&condition, "%s%skey_hash = ANY ('{", apart->ready ? apart->ready : "",
					 apart->ready ? " AND " : "");
	for (int i = 0; i < count; i++)
		appendStringInfo(&condition, "%s" INT64_FORMAT, i > 0 ? "," : "",
						 DatumGetInt64(apart->hashes[first + i]));
	appendStringInfoString(&condition, "}'::bigint[])");
	apart->work->ready = condition.data;
	return run_planned(apart->work, fold);
}

/* Fold the two halves of groups that failed together, and so on to single groups. */
static void
fold_halves(Apart *apart, int first, int count, ErrorData *error)
{
	int half = count / 2;

	if (mill_error_is_environment(error->sqlerrcode))
		ReThrowError(error);
	if (count == 1)
	{
		if (apart->failed++ == 0)
		{
			apart->error = error;
			apart->hash = DatumGetInt64(apart->hashes[first]);
		}
		return;
	}
	for (int i = 0; i < 2; i++)
	{
		int begin = i == 0 ? first : first + half;
		int size = i == 0 ? half : count - half;
		ErrorData *again;

		CHECK_FOR_INTERRUPTS();
		if (mill_now() > apart->until)
		{
			apart->out_of_time = true;
			return;
		}
		again = fold_some(apart, begin, size);
		if (again)
			fold_halves(apart, begin, size, again);
	}
}

/* An error about groups, in a context that outlives this. */
static ErrorData *
name_groups(Apart *apart, MemoryContext errors)
{
	MemoryContext before;
	ErrorData *error;

	/* its types are the user's and may fail, too: then the error matters more */
	apart->group = "?";
	(void) mill_try(read_group_as_owner, apart, CurrentMemoryContext, true);
	before = MemoryContextSwitchTo(errors);
	error = palloc0(sizeof(ErrorData));
	error->elevel = WARNING;
	error->sqlerrcode = apart->error->sqlerrcode;
	error->message = apart->failed == 1
						 ? psprintf("group %s could not be folded: %s", apart->group,
									apart->error->message)
						 : psprintf("%d groups could not be folded, %s among them: %s",
									apart->failed, apart->group, apart->error->message);
	error->detail = apart->error->detail ? pstrdup(apart->error->detail) : NULL;
	error->hint = apart->error->hint ? pstrdup(apart->error->hint) : NULL;
	error->context = apart->error->context ? pstrdup(apart->error->context) : NULL;
	MemoryContextSwitchTo(before);
	return error;
}

/*
 * After an error: fold the groups that can be folded.  Returns the error about the
 * others, after it was raised as a warning.
 */
static ErrorData *
fold_apart(FoldWork *work, ErrorData *error, MemoryContext errors)
{
	Apart apart = {.work = work,
				   .ready = work->ready,
				   .until = TimestampTzPlusMilliseconds(mill_now(), APART_TIME)};

	mill_as_owner(work->aggregate->owner, read_hashes, &apart);
	if (apart.count == 0)
		ReThrowError(error);
	fold_halves(&apart, 0, apart.count, error);
	/* at once again only if that leads on */
	work->more = (work->more || apart.out_of_time) && work->result > 0;
	if (apart.failed == 0)
		return NULL;
	error = name_groups(&apart, errors);
	ThrowErrorData(error);
	return error;
}

/*
 * Merge deltas and recompute stale groups, as the aggregate's owner, up to the
 * limits of one transaction; *more says whether some are left.  Returns how
 * many deltas were removed.  SPI must be connected.
 *
 * Groups that cannot be folded stay as they are while the others go on: a warning, and
 * *failed is the error about them, in the context errors, or NULL.  Other errors are raised.
 *
 * Does nothing if the aggregate rests, or if the state table has no unique index,
 * because then a dump is being restored.
 */
int64
mill_fold(const MillAggregate *a, const MillDefinition *d, bool *more, MemoryContext errors,
		  ErrorData **failed)
{
	FoldWork work = {.aggregate = a, .d = d, .ready = ready_condition(a, d)};
	ErrorData *error = NULL;

	Assert(mill_aggregate_is_locked(a->id));
	*failed = NULL;
	if (!a->resting && mill_has_unique_index(a->state))
		error = run_planned(&work, fold);
	if (error)
		*failed = fold_apart(&work, error, errors);
	if (work.negative)
	{
		MillAggregate wrong = *a;

		/* more rows were taken away than there were: something changed its tables besides us */
		mill_aggregate_rest(&wrong, psprintf("group %s had fewer than no rows", work.negative));
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("continuous aggregate \"%s\" is wrong: group %s has fewer than no rows",
						get_rel_name(a->view), work.negative),
				 errdetail("The view is the plain query until it has been filled anew.")));
		work.more = false;
	}
	*more = work.more;
	return work.result;
}

/* A bound given as text, as a constant of the window's time type. */
static char *
bound(const MillDefinition *d, const char *value)
{
	return psprintf("%s::%s", quote_literal_cstr(value), format_type_be(d->time_type));
}

/* The range of panes, and of base rows that they need, as conditions; NULL for all. */
static void
write_range(const MillDefinition *d, const char *from, const char *until, char **panes, char **rows)
{
	StringInfoData pane, row;
	const char *column = d->time_column ? quote_identifier(d->time_column) : NULL;
	bool by_start = d->window == MILL_WINDOW_HOP && d->by_window;

	initStringInfo(&pane);
	initStringInfo(&row);
	if (from)
	{
		const char *start = by_start
								? bound(d, from)
								: psprintf("mill.window_start(%s%s)", bound(d, from), d->pane_args);

		appendStringInfo(&pane, "pane >= %s", start);
		if (column)
			appendStringInfo(&row, "%s >= %s", column, start);
	}
	if (until)
	{
		appendStringInfo(&pane, "%spane < %s", from ? " AND " : "", bound(d, until));
		/* windows of a hop overlap: one that starts earlier may end later than this */
		if (column && !by_start)
			appendStringInfo(&row, "%s%s < mill.window_end(mill.window_start(%s%s)%s)",
							 row.len ? " AND " : "", column, bound(d, until), d->pane_args,
							 d->pane_args);
	}
	*panes = pane.len ? pane.data : NULL;
	*rows = row.len ? row.data : NULL;
}

static void
fill(void *arg)
{
	FoldWork *work = arg;
	MillTables *t = mill_aggregate_tables(work->aggregate);
	char *panes, *rows;

	write_range(work->d, work->from, work->until, &panes, &rows);
	mill_execute(mill_sql_clear(t, panes), SPI_OK_DELETE);
	mill_execute(mill_sql_fill(work->d, t, panes, rows), SPI_OK_SELECT);
	work->result = DatumGetInt64(mill_value(0, 1, NULL));
}

/*
 * Compute the panes [from, until), or all, from the base table, as the
 * aggregate's owner, and replace what the state table has of them.  Bounds are
 * text in the type of the window's time, NULL for none.  Returns the number of
 * groups.  SPI must be connected.
 */
int64
mill_fill(const MillAggregate *a, const MillDefinition *d, const char *from, const char *until)
{
	FoldWork work = {.aggregate = a, .d = d, .from = from, .until = until};
	ErrorData *error;

	Assert(mill_aggregate_is_locked(a->id));
	error = run_planned(&work, fill);
	if (error)
		ReThrowError(error);
	return work.result;
}
