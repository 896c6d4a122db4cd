/*
 * sql.c
 *		Parts that the statements of an aggregate have in common.
 *
 * Rows of the state table and of the delta table are partial results of groups:
 *
 *		pane, keys, row_count, accumulators				with or without a window
 *		first_at, last_at, keys, row_count, accumulators	fragments of sessions
 *
 * A delta row may instead mark its group as stale: to be recomputed.  One that is
 * "removed" has what was removed: counts and sums negated, and the extremes among the
 * removed values.  As long as these do not reach the extremes of what is there, they do
 * not matter; if they do the group is as if it were stale.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "aggregate/aggregate.h"
#include "aggregate/sql.h"

static void
add_column(StringInfo list, const char *prefix, const char *name)
{
	appendStringInfo(list, "%s%s%s", list->len ? ", " : "", prefix, quote_identifier(name));
}

static void
add_keys(StringInfo list, const MillDefinition *d, const char *prefix)
{
	ListCell *lc;

	foreach (lc, d->keys)
		add_column(list, prefix, ((MillTypedExpr *) lfirst(lc))->name);
}

/* The keys alone, each with a prefix such as "k.". */
char *
mill_sql_keys(const MillDefinition *d, const char *prefix)
{
	StringInfoData list;

	initStringInfo(&list);
	add_keys(&list, d, prefix);
	return list.data;
}

/* The columns that identify a group: pane and keys; of sessions, the keys. */
char *
mill_sql_group(const MillDefinition *d, const char *prefix)
{
	StringInfoData list;

	initStringInfo(&list);
	if (d->window == MILL_WINDOW_TUMBLE || d->window == MILL_WINDOW_HOP)
		add_column(&list, prefix, "pane");
	add_keys(&list, d, prefix);
	return list.data;
}

/* All columns of a partial result. */
char *
mill_sql_stored(const MillDefinition *d, const char *prefix)
{
	StringInfoData list;
	ListCell *lc;

	initStringInfo(&list);
	if (d->window == MILL_WINDOW_SESSION)
	{
		add_column(&list, prefix, "first_at");
		add_column(&list, prefix, "last_at");
	}
	else if (d->window != MILL_WINDOW_NONE)
		add_column(&list, prefix, "pane");
	add_keys(&list, d, prefix);
	add_column(&list, prefix, "row_count");
	foreach (lc, d->accumulators)
		add_column(&list, prefix, ((MillAccumulator *) lfirst(lc))->column.name);
	return list.data;
}

/* A part that every aggregate has, by name; NULL if there is none. */
static char *
own_part(const MillDefinition *d, const MillTables *t, const char *alias, const char *name)
{
	const char *prefix = alias[0] ? psprintf("%s.", alias) : "";

	if (strcmp(name, "stored") == 0)
		return mill_sql_stored(d, prefix);
	if (strcmp(name, "group") == 0)
		return mill_sql_group(d, prefix);
	if (strcmp(name, "keys") == 0)
		return mill_sql_keys(d, prefix);
	if (alias[0])
		return NULL;
	if (strcmp(name, "combined") == 0)
		return mill_sql_combined(d);
	if (strcmp(name, "present") == 0)
		return mill_sql_present(d);
	if (strcmp(name, "base") == 0)
		return t->base;
	if (strcmp(name, "def") == 0)
		return t->definition;
	if (strcmp(name, "state") == 0)
		return t->state;
	if (strcmp(name, "history") == 0)
		return t->history;
	return strcmp(name, "delta") == 0 ? t->delta : NULL;
}

/* A part given by the caller, by name; NULL if there is none. */
static char *
given_part(va_list parts, const char *name)
{
	const char *given;

	while ((given = va_arg(parts, const char *)) != NULL)
	{
		char *text = va_arg(parts, char *);

		if (strcmp(given, name) == 0)
			return text;
	}
	return NULL;
}

/* The word of small letters and underscores at *p; moves *p past it. */
static char *
read_word(const char **p)
{
	size_t length = strspn(*p, "abcdefghijklmnopqrstuvwxyz_");

	*p += length;
	return pnstrdup(*p - length, length);
}

char *
mill_sql(const MillDefinition *d, const MillTables *t, const char *text, ...)
{
	const char *whole = text;
	StringInfoData sql;

	initStringInfo(&sql);
	while (*text)
	{
		const char *word;
		const char *alias = "";
		const char *part;
		va_list parts;

		if (text[0] != '$' || !islower((unsigned char) text[1]))
		{
			appendStringInfoChar(&sql, *text++);
			continue;
		}
		text++;
		word = read_word(&text);
		if (text[0] == '.' && islower((unsigned char) text[1]))
		{
			alias = word;
			text++;
			word = read_word(&text);
		}
		va_start(parts, text);
		part = alias[0] ? NULL : given_part(parts, word);
		va_end(parts);
		if (part == NULL)
			part = own_part(d, t, alias, word);
		if (part == NULL)
			elog(ERROR, "no part \"%s\" was given for \"%s\"", word, whole);
		appendStringInfoString(&sql, part);
	}
	return sql.data;
}

/* Condition: the rows of these two aliases are of the same group. */
char *
mill_sql_same_group(const MillDefinition *d, const char *left, const char *right)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	if (d->window == MILL_WINDOW_TUMBLE || d->window == MILL_WINDOW_HOP)
		appendStringInfo(&text, "%s.pane = %s.pane", left, right);
	foreach (lc, d->keys)
	{
		MillTypedExpr *key = lfirst(lc);
		const char *name = quote_identifier(key->name);

		appendStringInfo(&text, "%s%s", text.len ? " AND " : "",
						 mill_equality(psprintf("%s.%s", left, name),
									   psprintf("%s.%s", right, name), key->type));
	}
	return text.data;
}

/*
 * Condition: the keys fit into a row of the state table's indexes, which is 2,704 bytes
 * long at most.  Groups of others stay in the delta table, from which they are read.
 */
char *
mill_sql_fits(const MillDefinition *d, const char *prefix)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	foreach (lc, d->keys)
	{
		MillTypedExpr *key = lfirst(lc);

		if (get_typlen(key->type) < 0)
			appendStringInfo(&text, "%scoalesce(pg_column_size(%s%s), 0)", text.len ? " + " : "",
							 prefix, quote_identifier(key->name));
	}
	return text.len ? psprintf("%s <= 2600", text.data) : pstrdup("true");
}

/* WITH mill_rows: the used columns of the base table, read from another relation. */
char *
mill_sql_source(const MillDefinition *d, const char *from)
{
	StringInfoData list;
	ListCell *lc;

	initStringInfo(&list);
	foreach (lc, d->base_columns)
		add_column(&list, "", lfirst(lc));
	return psprintf("WITH mill_rows AS NOT MATERIALIZED (SELECT %s FROM %s)", list.data, from);
}

/* The row count and the accumulators of rows, as a select list's end. */
static void
add_partials(StringInfo text, const MillDefinition *d)
{
	ListCell *lc;

	appendStringInfoString(text, ", count(*) AS row_count");
	foreach (lc, d->accumulators)
	{
		MillAccumulator *a = lfirst(lc);

		appendStringInfo(text, ", %s AS %s", a->partial, quote_identifier(a->column.name));
	}
}

/* Partial results of rows, a query, by group; where is a condition on them, r. */
char *
mill_sql_partial_of(const MillDefinition *d, const char *rows, const char *where)
{
	StringInfoData text;
	const char *group = mill_sql_group(d, "");

	initStringInfo(&text);
	appendStringInfoString(&text, "SELECT ");
	if (d->window == MILL_WINDOW_SESSION)
	{
		/* rows with a NULL or infinite time are in no session: first_at is NULL */
		appendStringInfoString(&text,
							   "first_at, CASE WHEN first_at IS NOT NULL THEN max(event_time) END AS last_at, ");
		group = psprintf("first_at, %s", mill_sql_keys(d, ""));
		appendStringInfoString(&text, mill_sql_keys(d, ""));
	}
	else
		appendStringInfoString(&text, group);
	add_partials(&text, d);
	appendStringInfo(&text, "\n FROM (%s) r%s%s\n GROUP BY %s", rows, where ? " WHERE " : "",
					 where ? where : "", group);
	return text.data;
}

/* Partial results of mill_rows. */
char *
mill_sql_partial(const MillDefinition *d, const char *where)
{
	return mill_sql_partial_of(d, mill_rows(d), where);
}

/* Row count and accumulators of several partial results, combined; a filter for extremes. */
static char *
combined(const MillDefinition *d, const char *filter)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	appendStringInfoString(&text, "sum(row_count)::bigint AS row_count");
	foreach (lc, d->accumulators)
	{
		MillAccumulator *a = lfirst(lc);

		appendStringInfo(&text, ", %s%s AS %s", a->combine, a->extreme ? filter : "",
						 quote_identifier(a->column.name));
	}
	return text.data;
}

char *
mill_sql_combined(const MillDefinition *d)
{
	return combined(d, "");
}

/* The same of partial results among which are removed ones. */
char *
mill_sql_present(const MillDefinition *d)
{
	return combined(d, " FILTER (WHERE NOT removed)");
}

/* Condition on a group of them: a removed value was an extreme; never NULL. */
char *
mill_sql_reached(const MillDefinition *d)
{
	StringInfoData text;
	ListCell *lc;

	Assert(d->by_extremes);
	initStringInfo(&text);
	foreach (lc, d->accumulators)
	{
		MillAccumulator *a = lfirst(lc);
		char *removed;

		if (!a->extreme)
			continue;
		removed = psprintf("%s FILTER (WHERE removed)", a->combine);
		appendStringInfo(&text, "%s%s IS NOT NULL AND %s", text.len ? " OR " : "", removed,
						 mill_equality(a->combine, removed, a->column.type));
	}
	return text.data;
}

/*
 * The partial results of the group(s) that an outer row identifies, computed
 * from the base table; for LATERAL.
 */
static char *
from_base(const MillDefinition *d, const MillTables *t, const char *key)
{
	const char *from = t->base;

	if (d->time_column && d->window != MILL_WINDOW_SESSION)
	{
		const char *column = quote_identifier(d->time_column);

		from = psprintf("%s WHERE %s >= %s.pane AND %s < mill.window_end(%s.pane%s)", t->base,
						column, key, column, key, d->pane_args);
	}
	return psprintf("%s\n %s", mill_sql_source(d, from),
					mill_sql_partial(d, mill_sql_same_group(d, "r", key)));
}

/*
 * The number of the base table's column that a key is; 0 if it is an expression.  The
 * keys of sessions are columns of the inner query.
 */
static AttrNumber
column_of_key(const MillDefinition *d, const MillTypedExpr *key)
{
	const Var *var = (const Var *) key->expr;
	bool is_session = d->window == MILL_WINDOW_SESSION;

	if (is_session && var && IsA(var, Var) && (int) var->varno == d->window_rti)
	{
		TargetEntry *entry = get_tle_by_resno(d->base_level->targetList, var->varattno);

		var = entry ? (const Var *) entry->expr : NULL;
	}
	else if (is_session)
		return 0;
	return var && IsA(var, Var) && (int) var->varno == d->base_rti && var->varattno > 0
			   ? var->varattno
			   : 0;
}

/*
 * Columns of the base table by which the rows of a group are found, those of keys first,
 * as numbers.  The time finds a window, but not a session.
 */
static List *
columns_of_groups(const MillDefinition *d, bool with_time)
{
	List *columns = NIL;
	ListCell *lc;

	foreach (lc, d->keys)
	{
		AttrNumber column = column_of_key(d, lfirst(lc));

		if (column)
			columns = list_append_unique_int(columns, column);
	}
	if (d->time_column && with_time)
		columns = list_append_unique_int(columns, get_attnum(d->base, d->time_column));
	return columns;
}

/*
 * Are the rows of a group found without reading the whole base table?  Then stale
 * groups are computed one by one; otherwise all in one pass.
 */
bool
mill_finds_groups(const MillDefinition *d)
{
	return mill_has_index_on(d->base, columns_of_groups(d, d->window != MILL_WINDOW_SESSION));
}

/* The columns of the index that would find them, as a list for CREATE INDEX; NULL: none would. */
char *
mill_wanted_index(const MillDefinition *d)
{
	StringInfoData list;
	ListCell *lc;

	if (d->class == MILL_INVERTIBLE || mill_finds_groups(d) ||
		columns_of_groups(d, d->window != MILL_WINDOW_SESSION) == NIL)
		return NULL;
	initStringInfo(&list);
	foreach (lc, columns_of_groups(d, true))
		add_column(&list, "", get_attname(d->base, (AttrNumber) lfirst_int(lc), false));
	return list.data;
}

/*
 * The partial results of stale groups, computed from the base table; stale is a
 * query of their columns and hashes.
 */
char *
mill_sql_recomputed(const MillDefinition *d, const MillTables *t, const char *stale)
{
	char *is_stale;

	if (mill_finds_groups(d))
		return mill_sql(d, t, "SELECT $b.stored FROM ($stale) k, LATERAL ($computed) b", "stale",
						stale, "computed", from_base(d, t, "k"), MILL_END);
	is_stale =
		mill_sql(d, t,
				 "EXISTS (SELECT FROM ($stale) k WHERE mill.key_hash($r.group) = k.key_hash AND $same)",
				 "stale", stale, "same", mill_sql_same_group(d, "r", "k"), MILL_END);
	return psprintf("%s\n %s", mill_sql_source(d, t->base), mill_sql_partial(d, is_stale));
}

static void
add_definition(StringInfo text, const MillTypedExpr *column)
{
	appendStringInfo(text, "%s%s %s", text->len ? ", " : "", quote_identifier(column->name),
					 format_type_extended(column->type, column->typmod,
										  FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	if (OidIsValid(column->collation) && column->collation != get_typcollation(column->type))
		appendStringInfo(text, " COLLATE %s", generate_collation_name(column->collation));
}

/* Column definitions of the state table, which the delta table has too. */
char *
mill_sql_columns(const MillDefinition *d)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	if (d->window == MILL_WINDOW_SESSION)
		appendStringInfo(&text, "first_at %s, last_at %s", format_type_be(d->time_type),
						 format_type_be(d->time_type));
	else if (d->window != MILL_WINDOW_NONE)
		appendStringInfo(&text, "pane %s NOT NULL", format_type_be(d->time_type));
	foreach (lc, d->keys)
		add_definition(&text, lfirst(lc));
	appendStringInfoString(&text, ", row_count bigint NOT NULL DEFAULT 0");
	foreach (lc, d->accumulators)
		add_definition(&text, &((MillAccumulator *) lfirst(lc))->column);
	appendStringInfo(&text,
					 ", key_hash bigint NOT NULL GENERATED ALWAYS AS (mill.key_hash(%s)) STORED",
					 mill_sql_group(d, ""));
	return text.data;
}
