/*
 * sql_fold.c
 *		Merging deltas into the state, and computing state anew, as statements.
 *
 * Each statement takes what its own snapshot sees and nothing else, so that
 * deltas that commit later stay and are added on.  The caller holds the
 * aggregate's lock since before the statement: nobody else touches the state.
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

static char *
and_ready(const char *ready)
{
	return ready ? psprintf(" AND %s", ready) : "";
}

/*
 * Merge up to $1 deltas of groups that are not stale.  One row: how many
 * deltas were taken, and the places of groups that have no rows any more.
 */
char *
mill_sql_fold(const MillDefinition *d, const MillTables *t, const char *ready)
{
	const char *stored = mill_sql_stored(d, "");
	const char *group = mill_sql_group(d, "");
	const char *fresh = d->class != MILL_INVERTIBLE ? psprintf(" AND d.key_hash NOT IN (SELECT e.key_hash FROM %s e WHERE e.stale AND e.stale::integer = 1)", t->delta) : "";

	if (d->window == MILL_WINDOW_SESSION)
		return mill_sql_fold_sessions(d, t);
	return psprintf("WITH taken AS (DELETE FROM %s WHERE ctid = ANY (ARRAY(SELECT d.ctid FROM %s d WHERE true%s%s LIMIT $1)) RETURNING %s, key_hash),\n"
					"merged AS (SELECT %s, %s FROM (SELECT %s FROM taken UNION ALL\n"
					"  SELECT %s FROM %s s WHERE s.key_hash IN (SELECT key_hash FROM taken)) u GROUP BY %s),\n"
					"put AS (INSERT INTO %s AS s (%s) SELECT %s FROM merged ORDER BY %s\n"
					"  ON CONFLICT (%s) DO UPDATE SET %s RETURNING s.ctid, s.row_count)\n"
					"SELECT (SELECT count(*) FROM taken), array_agg(ctid) FILTER (WHERE row_count = 0) FROM put",
					t->delta, t->delta, fresh, and_ready(ready), stored,
					group, mill_sql_combined(d), stored,
					mill_sql_stored(d, "s."), t->state, group,
					t->state, stored, stored, group, group, replacement(d));
}

/*
 * Compute up to $1 stale groups anew from the base table, and drop all their
 * deltas.  One row: how many deltas were taken, how many groups there were.
 */
char *
mill_sql_renew(const MillDefinition *d, const MillTables *t, const char *ready)
{
	const char *stored = mill_sql_stored(d, "");
	const char *group = mill_sql_group(d, "");
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text,
					 "WITH stale AS MATERIALIZED (SELECT DISTINCT %s, key_hash FROM %s WHERE stale%s LIMIT $1),\n"
					 "taken AS (DELETE FROM %s d USING stale k WHERE d.key_hash = k.key_hash AND %s RETURNING 1),\n"
					 "fresh AS MATERIALIZED (SELECT %s FROM stale k, LATERAL (%s) b),\n",
					 group, t->delta, and_ready(ready),
					 t->delta, mill_sql_same_group(d, "d", "k"),
					 mill_sql_stored(d, "b."), mill_sql_fresh(d, t, "k"));
	if (d->window == MILL_WINDOW_SESSION)
		/* Taken and put anew: a unique index minds only the living. */
		appendStringInfo(&text,
						 "gone AS (DELETE FROM %s s USING stale k WHERE s.key_hash = k.key_hash AND %s RETURNING 1),\n"
						 "put AS (INSERT INTO %s (%s) SELECT %s FROM fresh WHERE (SELECT count(*) FROM gone) >= 0 RETURNING 1)\n",
						 t->state, mill_sql_same_group(d, "s", "k"), t->state, stored, stored);
	else
		appendStringInfo(&text,
						 "gone AS (DELETE FROM %s s USING stale k WHERE s.key_hash = k.key_hash AND %s\n"
						 "  AND NOT EXISTS (SELECT FROM fresh f WHERE %s) RETURNING 1),\n"
						 "put AS (INSERT INTO %s AS s (%s) SELECT %s FROM fresh ORDER BY %s\n"
						 "  ON CONFLICT (%s) DO UPDATE SET %s RETURNING 1)\n",
						 t->state, mill_sql_same_group(d, "s", "k"), mill_sql_same_group(d, "f", "k"),
						 t->state, stored, stored, group, group, replacement(d));
	appendStringInfoString(&text, "SELECT (SELECT count(*) FROM taken), (SELECT count(*) FROM stale), (SELECT count(*) FROM put), (SELECT count(*) FROM gone)");
	return text.data;
}

/* Remove the state of some panes, or all. */
char *
mill_sql_clear(const MillTables *t, const char *range)
{
	return psprintf("DELETE FROM %s%s%s", t->state, range ? " WHERE " : "", range ? range : "");
}

/*
 * Compute some panes, or all, from the base table into a state that was
 * cleared of them, and drop their deltas.  One row: groups put.
 */
char *
mill_sql_fill(const MillDefinition *d, const MillTables *t, const char *range, const char *base_range)
{
	const char *stored = mill_sql_stored(d, "");
	const char *from = base_range ? psprintf("%s WHERE %s", t->base, base_range) : t->base;

	return psprintf("WITH taken AS (DELETE FROM %s%s%s RETURNING 1),\n"
					"put AS (INSERT INTO %s (%s) SELECT %s FROM (%s\n%s) f RETURNING 1)\n"
					"SELECT (SELECT count(*) FROM put), (SELECT count(*) FROM taken)",
					t->delta, range ? " WHERE " : "", range ? range : "",
					t->state, stored, stored, mill_sql_source(d, from), mill_sql_partial(d, range));
}
