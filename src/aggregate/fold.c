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

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "core/catalog.h"

#include "aggregate/internal.h"

/* Deltas that one transaction merges, at most. */
#define FOLD_LIMIT 20000
/* Stale groups that one transaction recomputes, at most: one by one; in one pass over the table. */
#define RECOMPUTE_LIMIT 1000
#define RECOMPUTE_IN_ONE_PASS 50000

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
static char *
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
	const char *ready = ready_condition(work->aggregate, d);

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
		int64 merged;
		bool isnull;
		Datum ctids;

		execute_limited(mill_sql_fold(d, t, ready), FOLD_LIMIT);
		merged = DatumGetInt64(mill_value(0, 1, NULL));
		work->result += merged;
		work->more |= merged >= FOLD_LIMIT || DatumGetInt64(mill_value(0, 4, NULL)) > 0;
		ctids = mill_value(0, 2, &isnull);
		/* of a part of a group's deltas even a sum of no rows says nothing */
		if (merged < FOLD_LIMIT || d->by_extremes)
		{
			work->negative = mill_text(0, 3);
			if (!isnull)
				delete_groups(t, ctids);
		}
	}
}

/*
 * Merge deltas and recompute stale groups, as the aggregate's owner, up to the
 * limits of one transaction; *more says whether some are left.  Returns how
 * many deltas were removed.  SPI must be connected.
 *
 * Does nothing if the aggregate rests, or if the state table has no unique index,
 * because then a dump is being restored.
 */
int64
mill_fold(const MillAggregate *a, const MillDefinition *d, bool *more)
{
	FoldWork work = {.aggregate = a, .d = d};

	Assert(mill_aggregate_is_locked(a->id));
	if (!a->resting && mill_has_unique_index(a->state))
		mill_as_owner(a->owner, fold, &work);
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

	Assert(mill_aggregate_is_locked(a->id));
	mill_as_owner(a->owner, fill, &work);
	return work.result;
}
