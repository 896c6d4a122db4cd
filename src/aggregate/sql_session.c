/*
 * sql_session.c
 *		Sessions: merging fragments that are closer than the gap.
 *
 * A fragment is a session among the rows of one statement.  The fragments of a
 * key, in order of their first event, form islands: an island begins where the
 * first event comes a gap or more after the last event of all earlier
 * fragments.  Rows without an event time form one island, as NULLs do in
 * GROUP BY.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "aggregate/sql.h"

/*
 * Merge fragments, with columns as stored, into sessions.  With skip_stale,
 * leave out keys that have a stale fragment.
 */
char *
mill_sql_islands(const MillDefinition *d, const char *fragments, bool skip_stale)
{
	return mill_sql(d, NULL,
					"SELECT min(first_at) AS first_at, max(last_at) AS last_at, $keys, $combined\n"
					" FROM (SELECT $stored, count(*) FILTER (WHERE starts) OVER (PARTITION BY $keys, first_at IS NULL\n"
					"    ORDER BY first_at, last_at, starts DESC ROWS UNBOUNDED PRECEDING) AS island\n"
					"  FROM (SELECT $stored, first_at >= $gap + max(last_at) OVER (PARTITION BY $keys, first_at IS NULL\n"
					"     ORDER BY first_at, last_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS starts$stale\n"
					"   FROM ($fragments) f) f WHERE $wanted) f\n"
					" GROUP BY $keys, first_at IS NULL, island",
					"gap", d->gap, "fragments", fragments, "stale",
					skip_stale
						? mill_sql(d, NULL, ", bool_or(stale) OVER (PARTITION BY $keys) AS stale",
								   MILL_END)
						: "",
					"wanted", skip_stale ? "NOT stale" : "true", MILL_END);
}

/*
 * Merge up to $1 fragments of keys that are not stale.  Returns one row: the
 * number of fragments merged, and NULLs.  Sessions that no fragment reaches are
 * left alone: the gaps between them stay.
 */
char *
mill_sql_fold_sessions(const MillDefinition *d, const MillTables *t, const char *ready)
{
	const char *fragments = mill_sql(d, t,
									 "SELECT $stored FROM taken UNION ALL SELECT $stored FROM near",
									 MILL_END);

	return mill_sql(
		d, t,
		"WITH taken AS (DELETE FROM $delta WHERE ctid = ANY (ARRAY(SELECT d.ctid FROM $delta d\n"
		"  WHERE d.key_hash NOT IN (SELECT e.key_hash FROM $delta e WHERE e.stale AND e.stale::integer = 1)\n"
		"  AND $ready AND $fits LIMIT $1)) RETURNING $stored, key_hash),\n"
		"near AS (DELETE FROM $state s WHERE s.key_hash IN (SELECT key_hash FROM taken) AND EXISTS (SELECT FROM taken t\n"
		"  WHERE t.key_hash = s.key_hash AND (t.first_at IS NULL AND s.first_at IS NULL\n"
		"   OR s.last_at + $gap > t.first_at AND t.last_at + $gap > s.first_at)) RETURNING $s.stored),\n"
		"put AS (INSERT INTO $state ($stored) SELECT $stored FROM ($islands) m RETURNING 1)\n"
		"SELECT (SELECT count(*) FROM taken), NULL::tid[], NULL::text, 0::bigint, (SELECT count(*) FROM put)",
		"gap", d->gap, "ready", ready, "fits", mill_sql_fits(d, "d."), "islands",
		mill_sql_islands(d, fragments, false), MILL_END);
}
