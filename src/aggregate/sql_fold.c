/*
 * sql_fold.c
 *		Statements of fold and fill.
 *
 * Each statement removes only the deltas that its own snapshot sees; deltas
 * that commit later stay and are folded later.  The caller took the aggregate's
 * lock before the statement, so nobody else changes the state table.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "aggregate/sql.h"

/* "(column = excluded.column, ...)" for ON CONFLICT. */
static char *
replacement(const MillDefinition *d)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	appendStringInfoString(&text, "row_count = excluded.row_count");
	foreach (lc, d->accumulators)
	{
		const char *name = quote_identifier(((MillAccumulator *) lfirst(lc))->column.name);

		appendStringInfo(&text, ", %s = excluded.%s", name, name);
	}
	return text.data;
}

/* Condition on deltas d: their group is not marked stale. */
static char *
not_stale(const MillDefinition *d, const MillTables *t)
{
	/* e.stale::integer = 1 makes the planner expect few marks */
	return mill_sql(d, t,
					"d.key_hash NOT IN (SELECT e.key_hash FROM $delta e WHERE e.stale AND e.stale::integer = 1)",
					MILL_END);
}

/*
 * Merge $1 deltas or so of groups that are not stale.  Returns one row: the
 * number of deltas merged, the ctids of groups that have no rows left, a group that
 * has less than none, which cannot be (NULL: there is none), and the number of groups
 * that lost an extreme, which are stale now.
 */
char *
mill_sql_fold(const MillDefinition *d, const MillTables *t, const char *ready)
{
	const char *fresh = d->class == MILL_INVERTIBLE ? "true" : not_stale(d, t);
	const char *bounded;

	if (ready == NULL)
		ready = "true";
	if (d->window == MILL_WINDOW_SESSION)
		return mill_sql_fold_sessions(d, t, ready);
	/* where removals are kept only all deltas of a group together say what its extremes are */
	bounded =
		d->by_extremes
			? mill_sql(d, t,
					   "AND d.key_hash IN (SELECT x.key_hash FROM (\n"
					   "   SELECT d.key_hash FROM $delta d WHERE $ready AND $fresh AND $fits LIMIT $1) x)",
					   "ready", ready, "fresh", fresh, "fits", mill_sql_fits(d, "d."), MILL_END)
			: "LIMIT $1";
	return mill_sql(
		d, t,
		"WITH taken AS (DELETE FROM $delta WHERE ctid = ANY (ARRAY(\n"
		"  SELECT d.ctid FROM $delta d WHERE $ready AND $fresh AND $fits $bounded)) RETURNING $stored, removed, key_hash),\n"
		"merged AS (SELECT $group, $now, $reached AS reached FROM (SELECT $stored, removed FROM taken UNION ALL\n"
		"  SELECT $s.stored, false FROM $state s WHERE s.key_hash IN (SELECT key_hash FROM taken)) u GROUP BY $group),\n"
		"stale AS (INSERT INTO $delta ($group, stale) SELECT $group, true FROM merged WHERE reached AND row_count > 0 RETURNING 1),\n"
		"put AS (INSERT INTO $state AS s ($stored) SELECT $stored FROM merged ORDER BY $group\n"
		"  ON CONFLICT ($group) DO UPDATE SET $replacement RETURNING s.ctid, s.row_count,\n"
		"  CASE WHEN s.row_count < 0 THEN ROW($s.group)::text END AS negative)\n"
		"SELECT (SELECT count(*) FROM taken), array_agg(ctid) FILTER (WHERE row_count = 0), min(negative),\n"
		" (SELECT count(*) FROM stale) FROM put",
		"ready", ready, "fresh", fresh, "fits", mill_sql_fits(d, "d."), "bounded", bounded,
		"replacement", replacement(d), "now",
		d->by_extremes ? mill_sql_present(d) : mill_sql_combined(d), "reached",
		d->by_extremes ? psprintf("(%s)", mill_sql_reached(d)) : "false", MILL_END);
}

/*
 * Recompute up to $1 stale groups from the base table, and drop all their
 * deltas.  Returns one row, first the numbers of deltas and of groups.
 */
char *
mill_sql_recompute(const MillDefinition *d, const MillTables *t, const char *ready)
{
	const char *put;

	if (d->window == MILL_WINDOW_SESSION)
		/* deleted and inserted again: no conflict, since the unique index ignores dead rows */
		put =
			"gone AS (DELETE FROM $state s USING stale k WHERE s.key_hash = k.key_hash AND $s_is_k RETURNING 1),\n"
			"put AS (INSERT INTO $state ($stored) SELECT $stored FROM fresh WHERE (SELECT count(*) FROM gone) >= 0 RETURNING 1)\n";
	else
		put = "gone AS (DELETE FROM $state s USING stale k WHERE s.key_hash = k.key_hash AND $s_is_k\n"
			  "  AND NOT EXISTS (SELECT FROM fresh f WHERE $f_is_k) RETURNING 1),\n"
			  "put AS (INSERT INTO $state AS s ($stored) SELECT $stored FROM fresh ORDER BY $group\n"
			  "  ON CONFLICT ($group) DO UPDATE SET $replacement RETURNING 1)\n";
	return mill_sql(d, t,
					"WITH stale AS MATERIALIZED (SELECT DISTINCT $group, key_hash FROM $delta WHERE stale AND $ready AND $fits LIMIT $1),\n"
					"taken AS (DELETE FROM $delta d USING stale k WHERE d.key_hash = k.key_hash AND $d_is_k RETURNING 1),\n"
					"fresh AS MATERIALIZED ($computed),\n"
					"$put"
					"SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM stale), (SELECT count(*) FROM put), (SELECT count(*) FROM gone)",
					"ready", ready ? ready : "true", "fits", mill_sql_fits(d, ""), "d_is_k",
					mill_sql_same_group(d, "d", "k"), "computed",
					mill_sql_recomputed(d, t, "TABLE stale"), "put",
					mill_sql(d, t, put, "s_is_k", mill_sql_same_group(d, "s", "k"), "f_is_k",
							 mill_sql_same_group(d, "f", "k"), "replacement", replacement(d),
							 MILL_END),
					MILL_END);
}

/* Delete some panes, or all, from the state table. */
char *
mill_sql_clear(const MillTables *t, const char *range)
{
	return psprintf("DELETE FROM %s%s%s", t->state, range ? " WHERE " : "", range ? range : "");
}

/*
 * Compute some panes, or all, from the base table into a state table that has
 * none of them, and drop their deltas.  Groups with keys too long for it become deltas.
 * Returns one row: the number of groups.
 */
char *
mill_sql_fill(const MillDefinition *d, const MillTables *t, const char *range,
			  const char *base_range)
{
	const char *from = base_range ? psprintf("%s WHERE %s", t->base, base_range) : t->base;
	char *fits = mill_sql_fits(d, "");

	return mill_sql(d, t,
					"WITH taken AS (DELETE FROM $delta WHERE $range RETURNING 1),\n"
					"filled AS ($source\n$partial),\n"
					"put AS (INSERT INTO $state ($stored) SELECT $stored FROM filled WHERE $fits RETURNING 1)$left\n"
					"SELECT (SELECT count(*) FROM put), (SELECT count(*) FROM taken)",
					"range", range ? range : "true", "source", mill_sql_source(d, from), "partial",
					mill_sql_partial(d, range), "fits", fits, "left",
					strcmp(fits, "true") == 0
						? ""
						: mill_sql(d, t,
								   d->class == MILL_RECOMPUTE
									   ? ",\nlonger AS (INSERT INTO $delta ($group, stale) SELECT $group, true FROM filled WHERE NOT ($fits))"
									   : ",\nlonger AS (INSERT INTO $delta ($stored) SELECT $stored FROM filled WHERE NOT ($fits))",
								   "fits", fits, MILL_END),
					MILL_END);
}
