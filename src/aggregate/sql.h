/*
 * sql.h
 *		The statements of capture, fold, fill and reads, as text.
 */
#ifndef MILL_AGGREGATE_SQL_H
#define MILL_AGGREGATE_SQL_H

#include "lib/stringinfo.h"

#include "aggregate/definition.h"

/* The tables of an aggregate, as qualified and quoted names. */
typedef struct MillTables
{
	char *base;
	char *definition;
	char *state;
	char *delta;
	char *history; /* NULL: none */
} MillTables;

/*
 * sql.c: expand a template into a statement.  $name in the text is replaced by
 * the part of that name, from the arguments: pairs of name and text, then
 * MILL_END.  Each aggregate has the parts $base, $def, $state, $delta and, if it keeps one,
 * $history, its relations, and the lists $stored, $group, $keys, $combined and $present,
 * the first three also with an alias before each column, $s.stored.  $1 is left alone.
 * A part that does not exist is an error.  t may be NULL if the text names no table.
 */
extern char *mill_sql(const MillDefinition *d, const MillTables *t, const char *text, ...)
	__attribute__((sentinel));
#define MILL_END ((const char *) NULL)

/* Parts of statements. */
extern char *mill_sql_keys(const MillDefinition *d, const char *prefix);
extern char *mill_sql_group(const MillDefinition *d, const char *prefix);
extern char *mill_sql_stored(const MillDefinition *d, const char *prefix);
extern char *mill_sql_same_group(const MillDefinition *d, const char *left, const char *right);
extern char *mill_sql_partial(const MillDefinition *d, const char *where);
extern char *mill_sql_partial_of(const MillDefinition *d, const char *rows, const char *where);
extern char *mill_sql_source(const MillDefinition *d, const char *from);
extern char *mill_sql_combined(const MillDefinition *d);
extern char *mill_sql_present(const MillDefinition *d);
extern char *mill_sql_reached(const MillDefinition *d);
extern char *mill_sql_recomputed(const MillDefinition *d, const MillTables *t, const char *stale);
extern char *mill_sql_fits(const MillDefinition *d, const char *prefix);
extern bool mill_finds_groups(const MillDefinition *d);
extern char *mill_wanted_index(const MillDefinition *d);
extern char *mill_sql_columns(const MillDefinition *d);

/* sql_capture.c: capture, over the transition tables mill_new and mill_old */
extern char *mill_sql_insert(const MillDefinition *d, const MillTables *t, const char *from);
extern char *mill_sql_delete(const MillDefinition *d, const MillTables *t, const char *from);
extern char *mill_sql_update(const MillDefinition *d, const MillTables *t);
extern char *mill_sql_keep(const MillDefinition *d, const MillTables *t, const char *from,
						   Oid relid);

/* sql_read.c: what readers see */
extern char *mill_sql_view(const MillDefinition *d, const MillTables *t);

/* sql_fold.c: what the fold does; results are described there */
extern char *mill_sql_fold(const MillDefinition *d, const MillTables *t, const char *ready);
extern char *mill_sql_recompute(const MillDefinition *d, const MillTables *t, const char *ready);
extern char *mill_sql_clear(const MillTables *t, const char *range);
extern char *mill_sql_fill(const MillDefinition *d, const MillTables *t, const char *range,
						   const char *base_range);

/* sql_session.c: the same for sessions */
extern char *mill_sql_islands(const MillDefinition *d, const char *fragments, bool skip_stale);
extern char *mill_sql_fold_sessions(const MillDefinition *d, const MillTables *t, const char *ready);

#endif
