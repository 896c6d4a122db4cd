/*
 * sql_session.c
 *		Sessions: fragments that lie closer than the gap make one.
 *
 * A fragment is a session of the rows of one statement.  Fragments of a key,
 * in order of their first event, make islands: one begins where the first
 * event comes a gap or more after all earlier ones' last.  Rows without an
 * event time make an island of their own, as NULLs do in GROUP BY.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "aggregate/sql.h"

/*
 * Fragments (columns as stored, perhaps stale) to sessions.  With skip_stale,
 * keys of which a fragment is stale are left out.
 */
char *
mill_sql_islands(const MillDefinition *d, const char *fragments, bool skip_stale)
{
	const char *keys = mill_sql_keys(d, "");
	const char *stored = mill_sql_stored(d, "");

	return psprintf("SELECT min(first_at) AS first_at, max(last_at) AS last_at, %s, %s\n"
					" FROM (SELECT %s, count(*) FILTER (WHERE starts) OVER (PARTITION BY %s, first_at IS NULL ORDER BY first_at, last_at, starts DESC ROWS UNBOUNDED PRECEDING) AS island\n"
					"  FROM (SELECT %s, first_at >= %s + max(last_at) OVER (PARTITION BY %s, first_at IS NULL ORDER BY first_at, last_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS starts%s\n"
					"   FROM (%s) f) f%s) f\n"
					" GROUP BY %s, first_at IS NULL, island",
					keys, mill_sql_combined(d),
					stored, keys,
					stored, d->gap, keys, skip_stale ? psprintf(", bool_or(stale) OVER (PARTITION BY %s) AS stale", keys) : "",
					fragments, skip_stale ? " WHERE NOT stale" : "",
					keys);
}

/*
 * Merge up to $1 fragments of keys that are not stale.  One row: how many
 * were taken, and nothing.  Sessions that no fragment comes near stay as they
 * are: between each other there is a gap already.
 */
char *
mill_sql_fold_sessions(const MillDefinition *d, const MillTables *t)
{
	const char *stored = mill_sql_stored(d, "");

	return psprintf("WITH taken AS (DELETE FROM %s WHERE ctid = ANY (ARRAY(SELECT d.ctid FROM %s d\n"
					"  WHERE d.key_hash NOT IN (SELECT e.key_hash FROM %s e WHERE e.stale AND e.stale::integer = 1) LIMIT $1)) RETURNING %s, key_hash),\n"
					"near AS (DELETE FROM %s s WHERE s.key_hash IN (SELECT key_hash FROM taken) AND EXISTS (SELECT FROM taken t\n"
					"  WHERE t.key_hash = s.key_hash AND (t.first_at IS NULL AND s.first_at IS NULL\n"
					"   OR s.last_at + %s > t.first_at AND t.last_at + %s > s.first_at)) RETURNING %s),\n"
					"put AS (INSERT INTO %s (%s) SELECT %s FROM (%s) m RETURNING 1)\n"
					"SELECT (SELECT count(*) FROM taken), NULL::tid[], (SELECT count(*) FROM put)",
					t->delta, t->delta, t->delta, stored,
					t->state, d->gap, d->gap, mill_sql_stored(d, "s."),
					t->state, stored, stored,
					mill_sql_islands(d, psprintf("SELECT %s FROM taken UNION ALL SELECT %s FROM near", stored, stored), false));
}
