/*
 * replace.c
 *		Writing the result of a query so that it may be done again.
 *
 * mill.replace_interval deletes an interval of a table and inserts it anew,
 * mill.upsert inserts or updates by a key.  Both are for the commands of steps,
 * whose interval is run again after a failure or by a backfill; and like any
 * statement they act as whoever calls them.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/object.h"
#include "core/settings.h"
#include "job/internal.h"

PG_FUNCTION_INFO_V1(mill_replace_interval);
PG_FUNCTION_INFO_V1(mill_upsert);

/* The query's parameters: the interval, as in the command that calls us. */
typedef struct StepInterval
{
	Datum values[2];
	char nulls[3];
} StepInterval;

static StepInterval
interval_arguments(FunctionCallInfo fcinfo, int first)
{
	StepInterval interval;

	mill_copy_arguments(fcinfo, first, 2, interval.values, interval.nulls);
	interval.nulls[2] = '\0';
	return interval;
}

static void
execute(const char *sql, const StepInterval *interval, int expected)
{
	Oid types[2] = {TIMESTAMPTZOID, TIMESTAMPTZOID};
	int code = SPI_execute_with_args(sql, 2, types, (Datum *) interval->values, interval->nulls,
									 false, 0);

	if (code != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"query\" is not one query: %s", SPI_result_code_string(code))));
}

void
mill_check_written_target(Oid target)
{
	if (get_rel_name(target) == NULL)
		mill_no_such_relation(target);
	if (superuser() && !superuser_arg(mill_relation_owner(target)) && !mill_superuser_any_target)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("a superuser cannot write into \"%s\", which belongs to another role",
							   get_rel_name(target)),
						errdetail("What that role wrote would run as superuser."),
						errhint("Do it as that role, or set mill.superuser_any_target.")));
}

static const char *
quoted_target(Oid target)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(target)),
									  get_rel_name(target));
}

/* The names of a query's columns, quoted. */
static List *
query_columns(const char *query, const StepInterval *interval)
{
	List *columns = NIL;

	execute(psprintf("SELECT * FROM (%s\n) q LIMIT 0", query), interval, SPI_OK_SELECT);
	for (int i = 0; i < SPI_tuptable->tupdesc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(SPI_tuptable->tupdesc, i)->attname);

		columns = lappend(columns, pstrdup(quote_identifier(name)));
	}
	return columns;
}

static bool
has_column(const List *columns, const char *column)
{
	ListCell *lc;

	foreach (lc, columns)
	{
		if (strcmp(lfirst(lc), column) == 0)
			return true;
	}
	return false;
}

/* Columns in a list, each written by the format, whose %s are all its name. */
static char *
join_columns(const List *columns, const char *format)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	foreach (lc, columns)
	{
		char *column = lfirst(lc);

		if (text.len > 0)
			appendStringInfoString(&text, ", ");
		appendStringInfo(&text, format, column, column);
	}
	return text.data;
}

static void
require_column(const List *columns, const char *column, const char *what)
{
	if (!has_column(columns, column))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("the query has no column %s, %s", column, what),
						errhint("Its columns are: %s.", join_columns(columns, "%s"))));
}

/* SQL: mill.replace_interval(target, column, query, from, to) */
Datum
mill_replace_interval(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {"target", "column", "query", "from", "to"};
	Oid target;
	const char *column, *query, *name;
	StepInterval interval;
	List *columns;
	int64 rows, outside;

	for (int i = 0; i < lengthof(required); i++)
		mill_require_argument(fcinfo, i, required[i]);
	target = PG_GETARG_OID(0);
	mill_check_written_target(target);
	name = quoted_target(target);
	column = quote_identifier(NameStr(*PG_GETARG_NAME(1)));
	query = mill_text_argument(fcinfo, 2);
	interval = interval_arguments(fcinfo, 3);
	if (PG_GETARG_TIMESTAMPTZ(3) >= PG_GETARG_TIMESTAMPTZ(4))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("\"from\" must be before \"to\"")));

	SPI_connect();
	columns = query_columns(query, &interval);
	require_column(columns, column, "by which the interval is replaced");
	execute(psprintf("DELETE FROM %s WHERE %s >= $1 AND %s < $2", name, column, column), &interval,
			SPI_OK_DELETE);
	execute(psprintf("WITH i AS (INSERT INTO %s (%s) SELECT * FROM (%s\n) q RETURNING %s AS at)\n"
					 " SELECT count(*), count(*) FILTER (WHERE (at >= $1 AND at < $2) IS NOT TRUE) FROM i",
					 name, join_columns(columns, "%s"), query, column),
			&interval, SPI_OK_SELECT);
	rows = DatumGetInt64(mill_value(0, 1, NULL));
	outside = DatumGetInt64(mill_value(0, 2, NULL));
	if (outside > 0)
		ereport(ERROR, (errcode(ERRCODE_CHECK_VIOLATION),
						errmsg("%lld of %lld rows have a value of %s outside of the interval",
							   (long long) outside, (long long) rows, column),
						errdetail("They would be there twice when the interval is replaced again."),
						errhint("Restrict the query: WHERE %s >= $1 AND %s < $2.", column, column)));
	SPI_finish();
	PG_RETURN_INT64(rows);
}

/* The columns of the primary key, quoted. */
static List *
primary_key(Oid target)
{
	Relation rel = table_open(target, AccessShareLock);
	Oid index = mill_primary_key_index(rel);
	List *columns = NIL;

	if (OidIsValid(index))
	{
		Relation key = index_open(index, AccessShareLock);

		for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(key); i++)
			columns = lappend(columns,
							  pstrdup(quote_identifier(
								  get_attname(target, key->rd_index->indkey.values[i], false))));
		index_close(key, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
	if (columns == NIL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("table \"%s\" has no primary key", get_rel_name(target)),
						errhint("Name the columns of a unique index: keys => '{id}'.")));
	return columns;
}

static List *
key_argument(FunctionCallInfo fcinfo, int number, Oid target)
{
	Datum *elements;
	bool *nulls;
	int count;
	List *columns = NIL;

	if (PG_ARGISNULL(number))
		return primary_key(target);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(number), TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("argument \"keys\" must not contain nulls")));
		columns = lappend(columns, pstrdup(quote_identifier(TextDatumGetCString(elements[i]))));
	}
	if (columns == NIL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"keys\" must not be empty")));
	return columns;
}

/* What ON CONFLICT does: the columns that are no key are set. */
static char *
conflict_action(const List *columns, const List *keys)
{
	List *others = NIL;
	ListCell *lc;

	foreach (lc, columns)
	{
		if (!has_column(keys, lfirst(lc)))
			others = lappend(others, lfirst(lc));
	}
	if (others == NIL)
		return "NOTHING";
	return psprintf("UPDATE SET %s WHERE (%s) IS DISTINCT FROM (%s)",
					join_columns(others, "%s = excluded.%s"), join_columns(others, "t.%s"),
					join_columns(others, "excluded.%s"));
}

/* SQL: mill.upsert(target, query, keys, from, to) */
Datum
mill_upsert(PG_FUNCTION_ARGS)
{
	Oid target;
	const char *query;
	StepInterval interval;
	List *columns, *keys;
	ListCell *lc;
	int64 rows;

	mill_require_argument(fcinfo, 0, "target");
	mill_require_argument(fcinfo, 1, "query");
	target = PG_GETARG_OID(0);
	mill_check_written_target(target);
	query = mill_text_argument(fcinfo, 1);
	interval = interval_arguments(fcinfo, 3);

	SPI_connect();
	keys = key_argument(fcinfo, 2, target);
	columns = query_columns(query, &interval);
	foreach (lc, keys)
		require_column(columns, lfirst(lc), "which is a key");
	/* Of several rows of one key the last of the query counts, as if they came one by one. */
	execute(psprintf("INSERT INTO %s AS t (%s)\n"
					 " SELECT %s FROM (SELECT DISTINCT ON (%s) n.* FROM (SELECT q.*, row_number() OVER () AS \"mill row\" FROM (%s\n) q) n"
					 "  ORDER BY %s, n.\"mill row\" DESC) d\n"
					 " ON CONFLICT (%s) DO %s",
					 quoted_target(target), join_columns(columns, "%s"),
					 join_columns(columns, "d.%s"), join_columns(keys, "n.%s"), query,
					 join_columns(keys, "n.%s"), join_columns(keys, "%s"),
					 conflict_action(columns, keys)),
			&interval, SPI_OK_INSERT);
	rows = SPI_processed;
	SPI_finish();
	PG_RETURN_INT64(rows);
}
