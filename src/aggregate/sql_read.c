/*
 * sql_read.c
 *		What readers see: the state table and the deltas not folded yet.
 *
 * Groups without deltas are read from the state table as they are, which costs
 * little more than reading a plain table.  Groups with deltas are combined, and
 * stale ones recomputed from the base table.  Which is which is decided by a
 * hash of the group's columns, so NULLs need no special care; if two groups
 * have the same hash, both are combined, which gives the same result.
 *
 * The whole statement has one snapshot; it sees a base row and its delta, or
 * neither.  While the state table is not complete the view is its definition:
 * which of both is read is decided in that snapshot (mill.is_live), once, before
 * anything of the other is read.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "aggregate/sql.h"

/*
 * Groups without deltas.  NOT IN, because a hashed subplan costs the same
 * however wrong the planner's estimates are.  The condition row_count -
 * row_count = 0 is always true but makes the estimate low: the planner does not
 * hash what it expects not to fit into memory, though in practice it does.
 */
static char *
without_deltas(const MillDefinition *d, const MillTables *t)
{
	return mill_sql(d, t,
					"SELECT $s.stored\n FROM $state s\n WHERE s.row_count > 0"
					" AND s.key_hash NOT IN (SELECT d.key_hash FROM $delta d WHERE d.row_count - d.row_count = 0)",
					MILL_END);
}

/* State rows and deltas of groups with deltas, not combined yet. */
static char *
uncombined(const MillDefinition *d, const MillTables *t)
{
	const char *never = d->by_extremes				  ? ", false AS stale, false AS removed"
						: d->class != MILL_INVERTIBLE ? ", false AS stale"
													  : "";
	const char *perhaps = d->by_extremes				? ", d.stale, d.removed"
						  : d->class != MILL_INVERTIBLE ? ", d.stale"
														: "";

	return mill_sql(d, t,
					"SELECT $s.stored$never_stale FROM $state s WHERE s.key_hash IN (SELECT d.key_hash FROM $delta d)\n"
					"  UNION ALL\n  SELECT $d.stored$perhaps_stale FROM $delta d",
					"never_stale", never, "perhaps_stale", perhaps, MILL_END);
}

static char *
with_deltas(const MillDefinition *d, const MillTables *t)
{
	/* all deltas are marks: other groups with the same hash are unchanged */
	if (d->class == MILL_RECOMPUTE)
		return mill_sql(d, t,
						"SELECT $s.stored FROM $state s WHERE s.key_hash IN (SELECT d.key_hash FROM $delta d)\n"
						"  AND NOT EXISTS (SELECT FROM $delta d WHERE d.key_hash = s.key_hash AND $d_is_s)",
						"d_is_s", mill_sql_same_group(d, "d", "s"), MILL_END);
	if (d->window == MILL_WINDOW_SESSION)
		return mill_sql_islands(d, uncombined(d, t), true);
	if (d->by_extremes)
		return mill_sql(d, t,
						"SELECT $group, $present\n FROM ($pieces) u\n GROUP BY $group\n"
						" HAVING sum(row_count) > 0 AND NOT bool_or(stale) AND NOT ($reached)",
						"pieces", uncombined(d, t), "reached", mill_sql_reached(d), MILL_END);
	return mill_sql(d, t,
					"SELECT $group, $combined\n FROM ($pieces) u\n GROUP BY $group\n HAVING sum(row_count) > 0$sound",
					"pieces", uncombined(d, t), "sound",
					d->class != MILL_INVERTIBLE ? " AND NOT bool_or(stale)" : "", MILL_END);
}

/*
 * Stale groups, recomputed from the base table.  They are few, which
 * d.stale::integer = 1 tells the planner.
 */
static char *
stale_groups(const MillDefinition *d, const MillTables *t)
{
	const char *stale = mill_sql(d, t,
								 "SELECT DISTINCT $d.group, d.key_hash FROM $delta d"
								 " WHERE d.stale AND d.stale::integer = 1",
								 MILL_END);

	/* and those that lost an extreme */
	if (d->by_extremes)
		stale =
			mill_sql(d, t,
					 "$stale UNION\n SELECT $group, mill.key_hash($group) FROM (\n"
					 "  SELECT $s.stored, false AS removed FROM $state s WHERE s.key_hash IN ($hashes)\n"
					 "  UNION ALL SELECT $d.stored, d.removed FROM $delta d WHERE d.key_hash IN ($hashes)) u\n"
					 " GROUP BY $group HAVING sum(row_count) > 0 AND ($reached)",
					 "stale", stale, "hashes",
					 mill_sql(d, t, "SELECT e.key_hash FROM $delta e WHERE e.removed", MILL_END),
					 "reached", mill_sql_reached(d), MILL_END);
	return mill_sql_recomputed(d, t, stale);
}

/*
 * Groups of the base table, from the state table or computed, together with what
 * is kept of rows that are gone.  The base table comes first, to be locked first.
 */
static char *
with_history(const MillDefinition *d, const MillTables *t, const char *live)
{
	return mill_sql(d, t,
					"SELECT $group, $combined\n FROM (\n"
					"  SELECT $stored FROM ($source\n $partial) p WHERE NOT mill.is_live($regclass::regclass)\n"
					"  UNION ALL SELECT $stored FROM ($live) l WHERE mill.is_live($regclass::regclass)\n"
					"  UNION ALL SELECT $stored FROM $history) h\n GROUP BY $group",
					"source", mill_sql_source(d, t->base), "partial", mill_sql_partial(d, NULL),
					"regclass", quote_literal_cstr(t->state), "live", live, MILL_END);
}

/* Do windows overlap while partial results are those of panes? */
static bool
hops_by_pane(const MillDefinition *d)
{
	return d->window == MILL_WINDOW_HOP && !d->by_window;
}

/* Groups with deltas: partial results, one row for each. */
static char *
touched_groups(const MillDefinition *d, const MillTables *t)
{
	char *combined = with_deltas(d, t);

	return d->class == MILL_INVERTIBLE
			   ? combined
			   : psprintf("%s\n UNION ALL\n (%s)", combined, stale_groups(d, t));
}

/* All groups of the view's windows. */
static char *
all_groups(const MillDefinition *d, const MillTables *t)
{
	char *text = psprintf("%s\n UNION ALL\n %s", without_deltas(d, t), touched_groups(d, t));

	if (t->history)
		text = with_history(d, t, text);
	if (hops_by_pane(d))
		return mill_sql(d, t,
						"SELECT w.window_start AS pane, $keys$comma$combined\n FROM ($groups) u, LATERAL mill.hop(u.pane$hop_args) w\n GROUP BY w.window_start$comma$keys",
						"comma", d->keys ? ", " : "", "groups", text, "hop_args", d->hop_args,
						MILL_END);
	return text;
}

/*
 * A measure's final value.  Without GROUP BY there is a row even without
 * groups; then the aggregate itself must say what its result over no rows is.
 */
static char *
final_value(const MillDefinition *d, const MillTables *t, const MillMeasure *m)
{
	const MillAccumulator *a;

	if (!d->ungrouped || m->class != MILL_RECOMPUTE)
		return m->final;
	a = linitial(m->accumulators);
	return psprintf("CASE WHEN row_count IS NULL THEN (SELECT %s FROM (%s %s) r WHERE false) ELSE %s END",
					a->partial, mill_sql_source(d, t->base), mill_rows(d), m->final);
}

/* The view's query over groups. */
static char *
over_groups(const MillDefinition *d, const MillTables *t, const char *groups)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	appendStringInfoString(&text, "SELECT ");
	if (d->window == MILL_WINDOW_SESSION)
		appendStringInfo(&text, "first_at AS session_start%s", d->keys || d->measures ? ", " : "");
	else if (d->window != MILL_WINDOW_NONE)
		appendStringInfo(&text, "pane AS window_start, mill.window_end(pane%s) AS window_end%s",
						 d->window_args, d->keys || d->measures ? ", " : "");
	appendStringInfoString(&text, mill_sql_keys(d, ""));
	foreach (lc, d->measures)
	{
		MillMeasure *m = lfirst(lc);

		appendStringInfo(&text, "%s%s AS %s", d->keys || lc != list_head(d->measures) ? ", " : "",
						 final_value(d, t, m), m->column.name);
	}
	if (d->ungrouped)
		appendStringInfo(&text, "\n FROM (SELECT) one LEFT JOIN (%s) g ON true", groups);
	else
		appendStringInfo(&text, "\n FROM (%s) g", groups);
	if (t->history == NULL)
		appendStringInfo(&text, "\n WHERE mill.is_live(%s::regclass)", quote_literal_cstr(t->state));
	return mill_outer(d, text.data);
}

/*
 * The query of the view.  The definition comes first, so that a reader locks the
 * base table before state and delta table, as all others do.
 */
char *
mill_sql_view(const MillDefinition *d, const MillTables *t)
{
	/* named all the same: it is the view's, and comes before it in a dump */
	if (t->history)
		return mill_sql(d, t, "SELECT * FROM $def WHERE false\nUNION ALL\n($all)", "all",
						over_groups(d, t, all_groups(d, t)), MILL_END);
	if (d->ungrouped || hops_by_pane(d))
		return mill_sql(d, t,
						"SELECT * FROM $def WHERE NOT mill.is_live($regclass::regclass)\nUNION ALL\n($all)",
						"regclass", quote_literal_cstr(t->state), "all",
						over_groups(d, t, all_groups(d, t)), MILL_END);
	/* the many groups without deltas apart, as each UNION costs some nodes for each row */
	return mill_sql(d, t,
					"SELECT * FROM $def WHERE NOT mill.is_live($regclass::regclass)\nUNION ALL\n($most)\nUNION ALL\n($touched)",
					"regclass", quote_literal_cstr(t->state), "most",
					over_groups(d, t, without_deltas(d, t)), "touched",
					over_groups(d, t, touched_groups(d, t)), MILL_END);
}
