/*
 * export.c
 *		mill.export: the result of a query into files of the server.
 *
 * One file, or one for each value of a column.  Its name is made of the interval
 * and that value alone, so a step that runs again replaces its own files.  COPY
 * writes to a temporary name; the last thing before the transaction commits is to
 * rename, so readers see whole files only, and none of what was rolled back.  If
 * the server crashes between the two a file is there whose transaction is not:
 * the same one that the next attempt writes.
 */
#include "postgres.h"

#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "common/file_perm.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/object.h"
#include "job/internal.h"

PG_FUNCTION_INFO_V1(mill_export);

static const char *const export_formats[] = {"csv", "text", "json", NULL};

/* ---- files that appear with the commit; in TopTransactionContext ---- */

typedef struct NewFile
{
	SubTransactionId subxact;
	char *temporary;
	char *final;
} NewFile;

static List *new_files = NIL;

static void
forget_files(bool all, SubTransactionId subxact)
{
	ListCell *lc;

	foreach (lc, new_files)
	{
		NewFile *file = lfirst(lc);

		if (!all && file->subxact != subxact)
			continue;
		(void) unlink(file->temporary);
		new_files = foreach_delete_current(new_files, lc);
	}
}

static void
publish_at_commit(XactEvent event, void *arg)
{
	ListCell *lc;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			foreach (lc, new_files)
			{
				NewFile *file = lfirst(lc);

				(void) durable_rename(file->temporary, file->final, ERROR);
			}
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (new_files != NIL)
				ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
								errmsg("cannot prepare a transaction that exports files")));
			break;
		case XACT_EVENT_COMMIT:
			new_files = NIL;
			break;
		case XACT_EVENT_ABORT:
			forget_files(true, InvalidSubTransactionId);
			new_files = NIL;
			break;
		default:
			break;
	}
}

static void
follow_subtransaction(SubXactEvent event, SubTransactionId subxact, SubTransactionId parent,
					  void *arg)
{
	ListCell *lc;

	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_files(false, subxact);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		foreach (lc, new_files)
		{
			NewFile *file = lfirst(lc);

			if (file->subxact == subxact)
				file->subxact = parent;
		}
	}
}

/* A file of this name is to appear; returns the name to write to. */
static char *
announce_file(const char *final)
{
	static bool registered = false;
	MemoryContext before = MemoryContextSwitchTo(TopTransactionContext);
	NewFile *file;
	ListCell *lc;

	if (!registered)
	{
		RegisterXactCallback(publish_at_commit, NULL);
		RegisterSubXactCallback(follow_subtransaction, NULL);
		registered = true;
	}
	foreach (lc, new_files)
	{
		if (strcmp(((NewFile *) lfirst(lc))->final, final) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("file \"%s\" would be written twice in one transaction", final),
					 errhint("Make names differ: {column} of partition_by, {interval_start}.")));
	}
	file = palloc(sizeof(NewFile));
	file->subxact = GetCurrentSubTransactionId();
	file->final = pstrdup(final);
	file->temporary = psprintf("%s.%d.tmp", final, MyProcPid);
	new_files = lappend(new_files, file);
	MemoryContextSwitchTo(before);
	return file->temporary;
}

/* ---- names ---- */

typedef struct Export
{
	const char *template;
	const char *partition_by; /* NULL: none */
	const char *copy_options;
	bool json;
	Datum interval[2];
	char nulls[3];
} Export;

/* A time as a part of a name: of a day its date alone. */
static char *
time_in_name(const Export *export, int bound)
{
	if (export->nulls[bound] == 'n')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the file's name has an interval, and there is none"),
						errhint("Pass $1 and $2: mill.export(..., \"from\" => $1, \"to\" => $2).")));
	return TextDatumGetCString(
		DirectFunctionCall2(timestamptz_to_char, export->interval[bound],
							CStringGetTextDatum(
								export->interval[bound] ==
										DirectFunctionCall2(timestamptz_trunc,
															CStringGetTextDatum("day"),
															export->interval[bound])
									? "YYYY-MM-DD"
									: "YYYY-MM-DD\"T\"HH24-MI-SS")));
}

/* What could lead to another directory, or be taken for a hidden file, is written as %XX. */
static void
append_value(StringInfo name, const char *value)
{
	for (const char *c = value; *c; c++)
	{
		if (*c == '/' || *c == '%' || *c == '\\' || (unsigned char) *c < ' ' ||
			(*c == '.' && c == value))
			appendStringInfo(name, "%%%02X", (unsigned char) *c);
		else
			appendStringInfoChar(name, *c);
	}
	if (value[0] == '\0')
		appendStringInfoString(name, "%00");
}

static char *
file_name(const Export *export, const char *value)
{
	StringInfoData name;
	const char *rest = export->template;

	initStringInfo(&name);
	while (*rest)
	{
		const char *end = *rest == '{' ? strchr(rest, '}') : NULL;
		char *word;

		if (end == NULL)
		{
			appendStringInfoChar(&name, *rest++);
			continue;
		}
		word = pnstrdup(rest + 1, end - rest - 1);
		if (strcmp(word, "interval_start") == 0)
			appendStringInfoString(&name, time_in_name(export, 0));
		else if (strcmp(word, "interval_end") == 0)
			appendStringInfoString(&name, time_in_name(export, 1));
		else if (export->partition_by && strcmp(word, export->partition_by) == 0)
			append_value(&name, value ? value : "null");
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the file's name has an unknown part \"{%s}\"", word),
					 errhint(
						 "Known are {interval_start}, {interval_end} and the column of partition_by.")));
		rest = end + 1;
	}
	canonicalize_path(name.data);
	if (!is_absolute_path(name.data))
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME),
						errmsg("relative path not allowed for a file that is exported: \"%s\"",
							   name.data)));
	return name.data;
}

/* Make the directories of a path that are not there; as core makes its own. */
static void
make_directories(const char *path)
{
	char *directory = pstrdup(path);

	get_parent_directory(directory);
	if (pg_mkdir_p(directory, pg_dir_create_mode) != 0)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not create directory \"%s\": %m", directory)));
}

/* ---- writing ---- */

static int64
execute_export(const Export *export, const char *sql, int expected)
{
	Oid types[2] = {TIMESTAMPTZOID, TIMESTAMPTZOID};

	if (SPI_execute_with_args(sql, 2, types, (Datum *) export->interval, export->nulls, false, 0) !=
		expected)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"query\" is not one query")));
	return SPI_processed;
}

/* COPY takes no parameters: what it reads is a table. */
static int64
write_file(const Export *export, const char *columns, const char *condition, const char *final)
{
	char *temporary = announce_file(final);
	const char *what = export->json ? "to_jsonb(r)" : "r.*";

	make_directories(final);
	return execute_export(export,
						  psprintf("COPY (SELECT %s FROM (SELECT %s FROM pg_temp.mill_export e WHERE %s) r) TO %s WITH (%s)",
								   what, columns, condition, quote_literal_cstr(temporary),
								   export->copy_options),
						  SPI_OK_UTILITY);
}

/* All columns of the query but the one by which files are divided, whose value is in their names. */
static char *
other_columns(const Export *export)
{
	StringInfoData list;
	bool found = false;

	execute_export(export, "SELECT * FROM pg_temp.mill_export LIMIT 0", SPI_OK_SELECT);
	initStringInfo(&list);
	for (int i = 0; i < SPI_tuptable->tupdesc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(SPI_tuptable->tupdesc, i)->attname);

		if (strcmp(name, export->partition_by) == 0)
			found = true;
		else
			appendStringInfo(&list, "%se.%s", list.len > 0 ? ", " : "", quote_identifier(name));
	}
	if (!found)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
						errmsg("the query has no column \"%s\"", export->partition_by)));
	return list.data;
}

static int64
write_partitions(const Export *export)
{
	const char *columns = other_columns(export);
	const char *column = quote_identifier(export->partition_by);
	SPITupleTable *values;
	uint64 count;
	int64 rows = 0;

	count =
		execute_export(export,
					   psprintf("SELECT DISTINCT e.%s::pg_catalog.text FROM pg_temp.mill_export e ORDER BY 1",
								column),
					   SPI_OK_SELECT);
	values = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		char *value;

		CHECK_FOR_INTERRUPTS();
		SPI_tuptable = values;
		value = mill_text(i, 1);
		rows += write_file(export, columns,
						   value ? psprintf("e.%s::pg_catalog.text OPERATOR(pg_catalog.=) %s",
											column, quote_literal_cstr(value))
								 : psprintf("e.%s IS NULL", column),
						   file_name(export, value));
	}
	return rows;
}

/* The interval given, or that of the run that the session works for. */
static void
interval_of_export(FunctionCallInfo fcinfo, int first, Export *export)
{
	static const char *const settings[] = {"mill.interval_start", "mill.interval_end"};

	for (int i = 0; i < 2; i++)
	{
		const char *setting = GetConfigOption(settings[i], true, false);

		export->interval[i] = PG_GETARG_DATUM(first + i);
		export->nulls[i] = PG_ARGISNULL(first + i) ? 'n' : ' ';
		if (PG_ARGISNULL(first + i) && setting && setting[0])
		{
			export->interval[i] = DirectFunctionCall3(timestamptz_in, CStringGetDatum(setting),
													  ObjectIdGetDatum(InvalidOid),
													  Int32GetDatum(-1));
			export->nulls[i] = ' ';
		}
	}
	export->nulls[2] = '\0';
}

/* SQL: mill.export(query, path, format, partition_by, options, from, to) */
Datum
mill_export(PG_FUNCTION_ARGS)
{
	Export export = {0};
	const char *format, *options;
	int64 rows;

	mill_require_argument(fcinfo, 0, "query");
	mill_require_argument(fcinfo, 1, "path");
	mill_require_argument(fcinfo, 2, "format");
	if (!has_privs_of_role(GetUserId(), ROLE_PG_WRITE_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg(
					 "must be superuser or have privileges of the pg_write_server_files role to export files")));
	format = mill_text_argument(fcinfo, 2);
	mill_check_word("format", format, export_formats);
	export.template = mill_text_argument(fcinfo, 1);
	export.json = strcmp(format, "json") == 0;
	export.partition_by = PG_ARGISNULL(3) ? NULL : NameStr(*PG_GETARG_NAME(3));
	options = mill_text_argument(fcinfo, 4);
	if (export.json && options)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"options\" is for formats csv and text")));
	/* JSON has no control characters of its own, so with these COPY leaves it as it is */
	export.copy_options = export.json
							  ? "FORMAT csv, QUOTE E'\\x01', ESCAPE E'\\x01', DELIMITER E'\\x02'"
							  : psprintf("FORMAT %s%s%s", format, options ? ", " : "",
										 options ? options : "");
	interval_of_export(fcinfo, 5, &export);

	SPI_connect();
	execute_export(&export, "DROP TABLE IF EXISTS pg_temp.mill_export", SPI_OK_UTILITY);
	execute_export(&export,
				   psprintf("CREATE TEMP TABLE mill_export ON COMMIT DROP AS SELECT * FROM (%s\n) q",
							mill_text_argument(fcinfo, 0)),
				   SPI_OK_UTILITY);
	if (export.partition_by)
		rows = write_partitions(&export);
	else
		rows = write_file(&export, "e.*", "true", file_name(&export, NULL));
	execute_export(&export, "DROP TABLE pg_temp.mill_export", SPI_OK_UTILITY);
	SPI_finish();
	PG_RETURN_INT64(rows);
}
