/*
 * sql_capture.c
 *		Statements of capture: what writers append to the delta table.
 *
 * They read the transition tables mill_new and mill_old.  New rows are
 * aggregated; old rows are subtracted where that is exact, stored as removed where
 * they matter as extremes only, and otherwise their groups are marked stale.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "aggregate/direct.h"
#include "aggregate/sql.h"

/* Can values of all these columns be compared, as EXCEPT does? */
static bool
is_comparable(List *columns)
{
	ListCell *lc;

	foreach (lc, columns)
	{
		if (!OidIsValid(
				lookup_type_cache(((MillTypedExpr *) lfirst(lc))->type, TYPECACHE_LT_OPR)->lt_opr))
			return false;
	}
	return true;
}

/*
 * Add to a select list the binary form of columns whose values may be equal and not
 * the same: 1.0 and 1.00, '1 mon' and '30 days', -0.  What an UPDATE changes in this
 * way shows in results.
 */
static void
add_images(StringInfo list, List *columns)
{
	ListCell *lc;

	foreach (lc, columns)
	{
		MillTypedExpr *column = lfirst(lc);
		const char *name = quote_identifier(column->name);
		Oid output;
		bool varlena;

		if (mill_equal_is_same(column->type, column->collation))
			continue;
		getTypeBinaryOutputInfo(column->type, &output, &varlena);
		appendStringInfo(list, ", %s(%s)",
						 quote_qualified_identifier(get_namespace_name(get_func_namespace(output)),
													get_func_name(output)),
						 name);
	}
}

/* Keys and aggregate inputs of the old or the new rows. */
static char *
changed_rows(const MillDefinition *d, const char *from)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	appendStringInfo(&text, "(%s SELECT %s", mill_sql_source(d, from), mill_sql_group(d, ""));
	if (d->window == MILL_WINDOW_SESSION)
		appendStringInfoString(&text, ", event_time");
	foreach (lc, d->arguments)
		appendStringInfo(&text, ", %s", ((MillTypedExpr *) lfirst(lc))->name);
	add_images(&text, d->keys);
	add_images(&text, d->arguments);
	appendStringInfo(&text, " FROM (%s) r)", mill_rows(d));
	return text.data;
}

/* Mark the groups of some rows stale. */
static char *
mark_stale(const MillDefinition *d, const MillTables *t, const char *rows)
{
	return mill_sql(d, t,
					"INSERT INTO $delta ($group, stale)\nSELECT DISTINCT $group, true FROM $rows r",
					"rows", rows, MILL_END);
}

/* The partial results of rows. */
static char *
partial(const MillDefinition *d, const char *from)
{
	return psprintf("%s\n%s", mill_sql_source(d, from), mill_sql_partial(d, NULL));
}

/* Partial results, negated, so that they can be added; extremes as they are. */
static char *
negated(const MillDefinition *d, const char *partials)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	appendStringInfo(&text, "SELECT %s, -row_count AS row_count", mill_sql_group(d, ""));
	foreach (lc, d->accumulators)
	{
		MillAccumulator *a = lfirst(lc);
		const char *name = quote_identifier(a->column.name);

		if (a->extreme)
			appendStringInfo(&text, ", %s", name);
		else
			appendStringInfo(&text, ", %s - %s AS %s", a->zero, name, name);
	}
	appendStringInfo(&text, " FROM (%s) p", partials);
	return text.data;
}

/* The partial results of removed rows. */
static char *
negative(const MillDefinition *d, const char *from)
{
	return negated(d, partial(d, from));
}

/* For added rows: mill_new, or a partition that is attached. */
char *
mill_sql_insert(const MillDefinition *d, const MillTables *t, const char *from)
{
	if (d->class == MILL_RECOMPUTE)
		return mark_stale(d, t, changed_rows(d, from));
	return mill_sql(d, t, "INSERT INTO $delta ($stored)\n$partial", "partial", partial(d, from),
					MILL_END);
}

/* For removed rows: mill_old, or a partition that is detached or truncated. */
char *
mill_sql_delete(const MillDefinition *d, const MillTables *t, const char *from)
{
	if (d->by_extremes)
		return mill_sql(d, t,
						"INSERT INTO $delta ($stored, removed)\nSELECT $stored, true FROM ($negative) n",
						"negative", negative(d, from), MILL_END);
	if (d->class != MILL_INVERTIBLE)
		return mark_stale(d, t, changed_rows(d, from));
	return mill_sql(d, t, "INSERT INTO $delta ($stored)\n$negative", "negative", negative(d, from),
					MILL_END);
}

/* For rows of a partition that goes: what the history keeps of them. */
char *
mill_sql_keep(const MillDefinition *d, const MillTables *t, const char *from, Oid relid)
{
	return mill_sql(d, t,
					"INSERT INTO $history ($stored, of_table)\nSELECT $stored, $relid FROM ($partial) p",
					"relid", psprintf("%u", relid), "partial", partial(d, from), MILL_END);
}

/* For UPDATE: one row for each group whose partial results differ. */
static char *
difference(const MillDefinition *d, const MillTables *t)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	appendStringInfoString(&text,
						   mill_sql(d, t,
									"INSERT INTO $delta ($stored)\nSELECT $group, $combined\n"
									"FROM (($old)\n UNION ALL\n ($new)) u\nGROUP BY $group\nHAVING sum(row_count) <> 0",
									"old", negative(d, MILL_OLD_ROWS), "new",
									partial(d, MILL_NEW_ROWS), MILL_END));
	foreach (lc, d->accumulators)
	{
		MillAccumulator *a = lfirst(lc);

		if (a->comparable)
			appendStringInfo(&text, " OR %s <> %s", a->combine, a->zero);
		else
			appendStringInfoString(&text, " OR true");
	}
	return text.data;
}

/* For UPDATE: the rows that are no more, and those that are new. */
static char *
replaced(const MillDefinition *d, const MillTables *t, const char *old, const char *new)
{
	const char *except = is_comparable(d->keys) && is_comparable(d->arguments) ? "%s EXCEPT ALL %s"
																			   : "%s";
	char *gone = mill_sql_partial_of(d, psprintf(except, old, new), NULL);
	char *added = mill_sql_partial_of(d, psprintf(except, new, old), NULL);

	return mill_sql(d, t,
					"INSERT INTO $delta ($stored, removed)\nSELECT $stored, true FROM ($gone) n\n"
					"UNION ALL\nSELECT $stored, false FROM ($added) p",
					"gone", negated(d, gone), "added", added, MILL_END);
}

char *
mill_sql_update(const MillDefinition *d, const MillTables *t)
{
	char *old, *new;

	if (d->class == MILL_INVERTIBLE)
		return difference(d, t);
	old = changed_rows(d, MILL_OLD_ROWS);
	new = changed_rows(d, MILL_NEW_ROWS);
	if (d->by_extremes)
		return replaced(d, t, old, new);
	if (is_comparable(d->keys) && is_comparable(d->arguments))
		return mark_stale(d, t,
						  mill_sql(d, t,
								   "(($old EXCEPT ALL $new)\n UNION ALL\n ($new EXCEPT ALL $old))",
								   "old", old, "new", new, MILL_END));
	return mark_stale(d, t,
					  mill_sql(d, t, "($old UNION ALL $new)", "old", old, "new", new, MILL_END));
}
