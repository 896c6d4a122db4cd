/*
 * load.c
 *		mill.load_files: files of the server into a table, each once.
 *
 * The ledger, mill_catalog.file, has a row for each file of a target, by path,
 * size and checksum, which commits with the file's rows: so a file is loaded
 * once, whatever happens, and again when its contents are others.  Called at top
 * level, each file has a transaction of its own; within one, a subtransaction.
 *
 * A file is given to core's COPY as a whole.  If that fails, row by row, each in a
 * subtransaction, and rows that fail go to mill_catalog.rejected_row with the
 * number of their line.  JSON lines are given to jsonb_populate_record, absent
 * fields to the columns' defaults.
 *
 * Everything that reads or writes the user's data is done as the user, who must
 * be allowed to read files of the server.
 */
#include "postgres.h"

#include <glob.h>
#include <sys/stat.h>

#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/copy.h"
#include "commands/copyfrom_internal.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/error.h"
#include "core/object.h"
#include "core/xact.h"
#include "job/internal.h"

PG_FUNCTION_INFO_V1(mill_load_files);

static const char *const formats[] = {"csv", "text", "json", NULL};
static const char *const bad_rows[] = {"reject", "stop", NULL};

/* Bytes kept of a row that was rejected. */
#define KEPT_OF_ROW 10000

/* What is to be loaded, and how. */
typedef struct Load
{
	Oid target;
	Oid role;
	const char *format; /* csv, text or json */
	bool json;
	bool reject;
	int max_errors;
	const char *columns; /* a list in parentheses, or empty */
	const char *options; /* COPY's */
	char *path;
	int64 size;
	TimestampTz modified_at;
	char checksum[PG_SHA256_DIGEST_STRING_LENGTH];
	/* outcome */
	int64 rows;
	int64 file_id;
	List *rejected; /* Rejected, in a context that outlives subtransactions */
} Load;

typedef struct Rejected
{
	int64 line;
	char *row;
	ErrorData *error;
} Rejected;

/* ---- files ---- */

static void
take_checksum(Load *load)
{
	FILE *file = AllocateFile(load->path, PG_BINARY_R);
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	char buffer[65536];
	size_t length;

	if (file == NULL)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not open file \"%s\" for reading: %m", load->path)));
	if (pg_cryptohash_init(hash) < 0)
		elog(ERROR, "could not compute a checksum");
	while ((length = fread(buffer, 1, sizeof(buffer), file)) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (pg_cryptohash_update(hash, (uint8 *) buffer, length) < 0)
			elog(ERROR, "could not compute a checksum");
	}
	if (ferror(file))
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not read file \"%s\": %m", load->path)));
	FreeFile(file);
	if (pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute a checksum");
	pg_cryptohash_free(hash);
	for (int i = 0; i < PG_SHA256_DIGEST_LENGTH; i++)
		snprintf(load->checksum + 2 * i, 3, "%02x", digest[i]);
}

/* Regular files that match a pattern, in the order of their names. */
static List *
matching_files(const char *pattern)
{
	glob_t found;
	int code = glob(pattern, GLOB_ERR, NULL, &found);
	List *paths = NIL;

	if (code != 0 && code != GLOB_NOMATCH)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not look for files \"%s\": %m", pattern)));
	for (size_t i = 0; code == 0 && i < found.gl_pathc; i++)
	{
		struct stat status;

		if (stat(found.gl_pathv[i], &status) == 0 && S_ISREG(status.st_mode))
			paths = lappend(paths, pstrdup(found.gl_pathv[i]));
	}
	globfree(&found);
	return paths;
}

/* Size and time of the file; false if it is gone. */
static bool
look_at_file(Load *load)
{
	struct stat status;

	if (stat(load->path, &status) != 0)
		return false;
	load->size = status.st_size;
	load->modified_at = time_t_to_timestamptz(status.st_mtime);
	return true;
}

/* ---- the ledger ---- */

/* Was a file of this path, size and time, or with this checksum, loaded before? */
static bool
was_loaded(const Load *load, bool by_checksum)
{
	static MillStatement by_time =
		{.sql = "SELECT FROM mill_catalog.file WHERE target = $1 AND path = $2 AND size = $3 AND modified_at = $4 AND state = 'loaded'",
		 .nargs = 4,
		 .types = {REGCLASSOID, TEXTOID, INT8OID, TIMESTAMPTZOID}};
	static MillStatement by_sum =
		{.sql = "SELECT FROM mill_catalog.file WHERE target = $1 AND path = $2 AND size = $3 AND checksum = $4 AND state = 'loaded'",
		 .nargs = 4,
		 .types = {REGCLASSOID, TEXTOID, INT8OID, TEXTOID}};
	Datum values[4] = {ObjectIdGetDatum(load->target), CStringGetTextDatum(load->path),
					   Int64GetDatum(load->size),
					   by_checksum ? CStringGetTextDatum(load->checksum)
								   : TimestampTzGetDatum(load->modified_at)};

	return mill_run(by_checksum ? &by_sum : &by_time, SPI_OK_SELECT, values, NULL) > 0;
}

/*
 * Write the file's row, and lock it: of two who load the same file the second waits
 * here, and then finds that it is loaded.  False then.
 */
static bool
enter_file(Load *load)
{
	static MillStatement statement =
		{.sql =
			 "INSERT INTO mill_catalog.file AS f (target, path, size, checksum, modified_at, role, state, run_id, loaded_at)"
			 " VALUES ($1, $2, $3, $4, $5, $6, 'loaded', nullif(current_setting('mill.run_id', true), '')::bigint, $7)"
			 " ON CONFLICT (target, path, size, checksum) DO UPDATE SET modified_at = excluded.modified_at, role = excluded.role,"
			 "  state = 'loaded', error = NULL, run_id = excluded.run_id, loaded_at = excluded.loaded_at"
			 "  WHERE f.state <> 'loaded' RETURNING id",
		 .nargs = 7,
		 .types = {REGCLASSOID, TEXTOID, INT8OID, TEXTOID, TIMESTAMPTZOID, REGROLEOID,
				   TIMESTAMPTZOID}};
	Datum values[7] = {ObjectIdGetDatum(load->target),
					   CStringGetTextDatum(load->path),
					   Int64GetDatum(load->size),
					   CStringGetTextDatum(load->checksum),
					   TimestampTzGetDatum(load->modified_at),
					   ObjectIdGetDatum(load->role),
					   TimestampTzGetDatum(mill_now())};

	if (mill_run(&statement, SPI_OK_INSERT_RETURNING, values, NULL) == 0)
		return false;
	load->file_id = DatumGetInt64(mill_value(0, 1, NULL));
	return true;
}

static void
note_outcome(const Load *load, const ErrorData *error)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.file SET state = CASE WHEN $4 IS NULL THEN 'loaded' ELSE 'failed' END,"
				" rows = $2, rejected = $3, error = $4 WHERE id = $1",
		 .nargs = 4,
		 .types = {INT8OID, INT8OID, INT8OID, TEXTOID}};
	static MillStatement forget = {.sql = "DELETE FROM mill_catalog.rejected_row WHERE file_id = $1",
								   .nargs = 1,
								   .types = {INT8OID}};
	static MillStatement reject =
		{.sql = "INSERT INTO mill_catalog.rejected_row (file_id, line, row_text, sqlstate, message, detail, context)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7)",
		 .nargs = 7,
		 .types = {INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}};
	Datum values[4] = {Int64GetDatum(load->file_id), Int64GetDatum(error ? 0 : load->rows),
					   Int64GetDatum(list_length(load->rejected)),
					   error ? CStringGetTextDatum(mill_error_reason(error)) : (Datum) 0};
	ListCell *lc;

	mill_run(&forget, SPI_OK_DELETE, values, NULL);
	foreach (lc, load->rejected)
	{
		const Rejected *r = lfirst(lc);
		Datum row[7] = {values[0],
						Int64GetDatum(r->line),
						CStringGetTextDatum(r->row),
						CStringGetTextDatum(unpack_sql_state(r->error->sqlerrcode)),
						CStringGetTextDatum(r->error->message),
						r->error->detail ? CStringGetTextDatum(r->error->detail) : (Datum) 0,
						r->error->context ? CStringGetTextDatum(r->error->context) : (Datum) 0};
		char nulls[] = "       ";

		nulls[5] = r->error->detail ? ' ' : 'n';
		nulls[6] = r->error->context ? ' ' : 'n';
		mill_run(&reject, SPI_OK_INSERT, row, nulls);
	}
	mill_run(&statement, SPI_OK_UPDATE, values, error ? NULL : "   n");
}

/* ---- subtransactions ---- */

/*
 * Do something in a subtransaction.  Returns the error that it raised, in the
 * given memory context, or NULL.  Errors of the moment are raised anew.
 */
static ErrorData *
attempt_apart(MemoryContext errors, void (*function)(void *arg), void *arg)
{
	ErrorData *error = mill_try(function, arg, errors, true);

	if (error && mill_error_is_environment(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/* A row was bad: remember it, or give up the file if there are too many. */
static void
reject_row(Load *load, int64 line, const char *row, int length, ErrorData *error)
{
	Rejected *rejected;

	if (!load->reject || list_length(load->rejected) >= load->max_errors)
		ereport(ERROR, (errcode(error->sqlerrcode), errmsg("%s", error->message),
						error->detail ? errdetail_internal("%s", error->detail) : 0,
						errhint("Line %lld of the file.%s", (long long) line,
								load->reject ? " More rows than max_errors are bad." : "")));
	rejected = palloc(sizeof(Rejected));
	rejected->line = line;
	rejected->row = pnstrdup(row, pg_mbcliplen(row, length, KEPT_OF_ROW));
	rejected->error = error;
	load->rejected = lappend(load->rejected, rejected);
}

/* ---- csv and text ---- */

static char *
copy_statement(const Load *load, const char *format)
{
	return psprintf("COPY %s %s FROM %s WITH (FORMAT %s%s%s)",
					quote_qualified_identifier(get_namespace_name(get_rel_namespace(load->target)),
											   get_rel_name(load->target)),
					load->columns, quote_literal_cstr(load->path), format,
					load->options[0] ? ", " : "", load->options);
}

/* The statement as its parse tree: one COPY, whatever the options contain. */
static CopyStmt *
parse_copy(const char *sql)
{
	List *statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	CopyStmt *copy = (CopyStmt *) linitial_node(RawStmt, statements)->stmt;

	if (list_length(statements) != 1 || !IsA(copy, CopyStmt) || copy->is_program || !copy->is_from)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"options\" is no list of options of COPY"),
						errhint("For example: options => 'HEADER true, DELIMITER '';'''.")));
	return copy;
}

typedef struct CopyFile
{
	Load *load;
	char *sql;
} CopyFile;

static void
copy_whole_file(void *arg)
{
	CopyFile *copy = arg;

	if (SPI_execute(copy->sql, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not execute \"%s\"", copy->sql);
	copy->load->rows = SPI_processed;
}

/* One row of the file, for a subtransaction. */
typedef struct CopyRow
{
	CopyFromState state;
	ExprContext *econtext;
	SPIPlanPtr insert;
	TupleDesc desc;
	Datum *values;
	bool *nulls;
	Datum *parameters;
	char *parameter_nulls;
	bool end;
} CopyRow;

static void
copy_row(void *arg)
{
	CopyRow *row = arg;
	MemoryContext before;
	int count = 0;

	before = MemoryContextSwitchTo(row->econtext->ecxt_per_tuple_memory);
	row->end = !NextCopyFrom(row->state, row->econtext, row->values, row->nulls);
	MemoryContextSwitchTo(before);
	if (row->end)
		return;
	for (int i = 0; i < row->desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(row->desc, i);

		if (attribute->attisdropped || attribute->attgenerated)
			continue;
		row->parameters[count] = row->values[i];
		row->parameter_nulls[count++] = row->nulls[i] ? 'n' : ' ';
	}
	if (SPI_execute_plan(row->insert, row->parameters, row->parameter_nulls, false, 0) !=
		SPI_OK_INSERT)
		elog(ERROR, "could not insert a row");
}

/* INSERT of all columns but generated ones; as COPY, over identity columns too. */
static SPIPlanPtr
prepare_insert(Relation rel)
{
	StringInfoData columns, parameters;
	Oid *types = palloc(sizeof(Oid) * RelationGetDescr(rel)->natts);
	SPIPlanPtr plan;
	int count = 0;

	initStringInfo(&columns);
	initStringInfo(&parameters);
	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(rel), i);

		if (attribute->attisdropped || attribute->attgenerated)
			continue;
		appendStringInfo(&columns, "%s%s", count > 0 ? ", " : "",
						 quote_identifier(NameStr(attribute->attname)));
		appendStringInfo(&parameters, "%s$%d", count > 0 ? ", " : "", count + 1);
		types[count++] = attribute->atttypid;
	}
	plan = SPI_prepare(psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s)",
								quote_qualified_identifier(get_namespace_name(
															   RelationGetNamespace(rel)),
														   RelationGetRelationName(rel)),
								columns.data, parameters.data),
					   count, types);
	if (plan == NULL)
		elog(ERROR, "could not prepare an INSERT");
	return plan;
}

/* Row by row, in the subtransaction of the file. */
static void
copy_by_rows(void *arg)
{
	CopyFile *copy = arg;
	Load *load = copy->load;
	CopyStmt *statement = parse_copy(copy->sql);
	Relation rel = table_open(load->target, RowExclusiveLock);
	ParseState *pstate = make_parsestate(NULL);
	EState *estate = CreateExecutorState();
	MemoryContext context = CurrentMemoryContext;
	MemoryContext per_row = AllocSetContextCreate(context, "pg_mill row", ALLOCSET_DEFAULT_SIZES);
	int natts = RelationGetDescr(rel)->natts;
	CopyRow row = {.econtext = GetPerTupleExprContext(estate),
				   .insert = prepare_insert(rel),
				   .desc = RelationGetDescr(rel),
				   .values = palloc(sizeof(Datum) * natts),
				   .nulls = palloc(sizeof(bool) * natts),
				   .parameters = palloc(sizeof(Datum) * natts),
				   .parameter_nulls = palloc(natts)};

	load->rows = 0;
	(void) addRangeTableEntryForRelation(pstate, rel, RowExclusiveLock, NULL, false, false);
	row.state = BeginCopyFrom(pstate, rel, NULL, load->path, false, NULL, statement->attlist,
							  statement->options);
	while (!row.end)
	{
		uint64 line_before = row.state->cur_lineno;
		ErrorData *error;

		CHECK_FOR_INTERRUPTS();
		ResetPerTupleExprContext(estate);
		MemoryContextReset(per_row);
		MemoryContextSwitchTo(per_row);
		error = attempt_apart(context, copy_row, &row);
		MemoryContextSwitchTo(context);
		if (error == NULL)
			load->rows += !row.end;
		/* what cannot be read any further is no bad row but a bad file */
		else if (row.state->cur_lineno == line_before)
			ReThrowError(error);
		else if (error->sqlerrcode == ERRCODE_CHARACTER_NOT_IN_REPERTOIRE ||
				 error->sqlerrcode == ERRCODE_UNTRANSLATABLE_CHARACTER)
			ReThrowError(error);
		else
			reject_row(load, row.state->cur_lineno, row.state->line_buf.data,
					   row.state->line_buf.len, error);
	}
	EndCopyFrom(row.state);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
}

/* ---- JSON lines ---- */

/* INSERT of one JSON object, $1: of a column's field, or where there is none its default. */
static char *
json_statement(Relation rel)
{
	static const char default_sql[] =
		"SELECT coalesce((SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = $1 AND d.adnum = $2),"
		" (SELECT format('nextval(%L)', pg_get_serial_sequence($1::regclass::text, a.attname)) FROM pg_attribute a"
		"  WHERE a.attrelid = $1 AND a.attnum = $2 AND a.attidentity <> ''), 'NULL')";
	const char *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												  RelationGetRelationName(rel));
	StringInfoData columns, values;

	initStringInfo(&columns);
	initStringInfo(&values);
	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(rel), i);
		const char *column = quote_identifier(NameStr(attribute->attname));
		Oid types[2] = {OIDOID, INT2OID};
		Datum parameters[2] = {ObjectIdGetDatum(RelationGetRelid(rel)),
							   Int16GetDatum(attribute->attnum)};

		if (attribute->attisdropped || attribute->attgenerated)
			continue;
		SPI_execute_with_args(default_sql, 2, types, parameters, NULL, true, 1);
		appendStringInfo(&columns, "%s%s", columns.len > 0 ? ", " : "", column);
		appendStringInfo(&values, "%sCASE WHEN $1 OPERATOR(pg_catalog.?) %s THEN r.%s ELSE %s END",
						 values.len > 0 ? ", " : "",
						 quote_literal_cstr(NameStr(attribute->attname)), column, mill_text(0, 1));
	}
	return psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_catalog.jsonb_populate_record(NULL::%s, $1) r",
					name, columns.data, values.data, name);
}

typedef struct JsonFile
{
	Load *load;
	bool each; /* each row in a subtransaction of its own */
} JsonFile;

typedef struct JsonRow
{
	SPIPlanPtr insert;
	char *line;
} JsonRow;

static void
insert_json(void *arg)
{
	JsonRow *row = arg;
	Datum value;

	pg_verifymbstr(row->line, strlen(row->line), false);
	value = DirectFunctionCall1(jsonb_in, CStringGetDatum(row->line));
	if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(value)))
		ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
						errmsg("the line is no JSON object")));
	if (SPI_execute_plan(row->insert, &value, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert a row");
}

/* The next line without its end, in the buffer; false at the end of the file. */
static bool
read_line(FILE *file, StringInfo line, const char *path)
{
	int c;

	resetStringInfo(line);
	while ((c = getc(file)) != EOF && c != '\n')
	{
		if (c == '\0')
			ereport(ERROR, (errcode(ERRCODE_BAD_COPY_FILE_FORMAT),
							errmsg("file \"%s\" is no text: it contains a zero byte", path)));
		appendStringInfoCharMacro(line, (char) c);
	}
	if (ferror(file))
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not read file \"%s\": %m", path)));
	if (line->len > 0 && line->data[line->len - 1] == '\r')
		line->data[--line->len] = '\0';
	return c != EOF || line->len > 0;
}

static void
load_json(void *arg)
{
	JsonFile *json = arg;
	Load *load = json->load;
	Relation rel = table_open(load->target, RowExclusiveLock);
	MemoryContext context = CurrentMemoryContext;
	MemoryContext per_row = AllocSetContextCreate(context, "pg_mill row", ALLOCSET_DEFAULT_SIZES);
	Oid type = JSONBOID;
	JsonRow row = {.insert = SPI_prepare(json_statement(rel), 1, &type)};
	FILE *file = AllocateFile(load->path, PG_BINARY_R);
	StringInfoData line;
	int64 number = 0;

	if (row.insert == NULL)
		elog(ERROR, "could not prepare an INSERT");
	if (file == NULL)
		ereport(ERROR, (errcode_for_file_access(),
						errmsg("could not open file \"%s\" for reading: %m", load->path)));
	initStringInfo(&line);
	load->rows = 0;
	while (read_line(file, &line, load->path))
	{
		ErrorData *error = NULL;

		CHECK_FOR_INTERRUPTS();
		number++;
		if (line.len == 0)
			continue;
		row.line = line.data;
		MemoryContextReset(per_row);
		MemoryContextSwitchTo(per_row);
		if (json->each)
			error = attempt_apart(context, insert_json, &row);
		else
			insert_json(&row);
		MemoryContextSwitchTo(context);
		if (error)
			reject_row(load, number, line.data, line.len, error);
		else
			load->rows++;
	}
	FreeFile(file);
	table_close(rel, NoLock);
}

/* ---- a file, and all of them ---- */

/*
 * The file's rows, in the subtransaction of the file: at one go; if that fails row
 * by row, so that exactly the bad ones are found.  An error if it is to fail.
 */
static void
load_rows(void *arg)
{
	Load *load = arg;
	MemoryContext context = CurrentMemoryContext;
	ErrorData *error;

	if (load->json)
	{
		JsonFile json = {load, false};

		error = attempt_apart(context, load_json, &json);
		json.each = true;
		if (error && load->reject)
			load_json(&json);
	}
	else
	{
		CopyFile copy = {load, copy_statement(load, load->format)};

		error = attempt_apart(context, copy_whole_file, &copy);
		if (error && load->reject)
			copy_by_rows(&copy);
	}
	if (error && !load->reject)
		ReThrowError(error);
	/* Not one row passed: it is not the rows that are bad, but the file, the table or the rights. */
	if (load->rows == 0 && load->rejected != NIL)
		ReThrowError(((Rejected *) linitial(load->rejected))->error);
}

/* In the transaction of the file. */
static void
load_one_file(Load *load)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData *error;

	if (!look_at_file(load) || was_loaded(load, false))
		return;
	take_checksum(load);
	if (was_loaded(load, true) || !enter_file(load))
		return;
	load->rejected = NIL;
	error = attempt_apart(context, load_rows, load);
	if (error)
		load->rejected = NIL;
	note_outcome(load, error);
	if (error)
		ereport(WARNING, (errcode(error->sqlerrcode),
						  errmsg("file \"%s\" was not loaded: %s", load->path, error->message),
						  error->detail ? errdetail_internal("%s", error->detail) : 0,
						  error->hint ? errhint("%s", error->hint) : 0));
}

/* A list of columns for COPY; empty for all. */
static char *
column_list(FunctionCallInfo fcinfo, int number)
{
	StringInfoData list;
	Datum *elements;
	bool *nulls;
	int count;

	if (PG_ARGISNULL(number))
		return "";
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(number), TEXTOID, -1, false, TYPALIGN_INT, &elements,
					  &nulls, &count);
	initStringInfo(&list);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("argument \"columns\" must not contain nulls")));
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "(",
						 quote_identifier(TextDatumGetCString(elements[i])));
	}
	if (count > 0)
		appendStringInfoChar(&list, ')');
	return list.data;
}

/* SQL: CALL mill.load_files(target, files, format, columns, options, on_error, max_errors) */
Datum
mill_load_files(PG_FUNCTION_ARGS)
{
	static const char *const required[] = {"target", "files",	 "format",	  NULL,
										   NULL,	 "on_error", "max_errors"};
	bool atomic = !fcinfo->context || !IsA(fcinfo->context, CallContext) ||
				  castNode(CallContext, fcinfo->context)->atomic;
	Load load = {.role = GetUserId()};
	MemoryContext per_file;
	ListCell *lc;

	for (int i = 0; i < lengthof(required); i++)
	{
		if (required[i])
			mill_require_argument(fcinfo, i, required[i]);
	}
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg(
					 "must be superuser or have privileges of the pg_read_server_files role to load files")));
	mill_check_word("format", mill_text_argument(fcinfo, 2), formats);
	mill_check_word("on_error", mill_text_argument(fcinfo, 5), bad_rows);
	mill_check_range(fcinfo, 6, "max_errors", 1, PG_INT32_MAX);
	load.target = PG_GETARG_OID(0);
	mill_check_written_target(load.target);

	SPI_connect_ext(atomic ? 0 : SPI_OPT_NONATOMIC);
	load.format = mill_text_argument(fcinfo, 2);
	load.json = strcmp(load.format, "json") == 0;
	load.reject = strcmp(mill_text_argument(fcinfo, 5), "reject") == 0;
	load.max_errors = PG_GETARG_INT32(6);
	load.columns = column_list(fcinfo, 3);
	load.options = PG_ARGISNULL(4) ? "" : mill_text_argument(fcinfo, 4);
	if (load.json && (load.columns[0] || load.options[0]))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arguments \"columns\" and \"options\" are for formats csv and text")));
	if (!load.json)
	{
		load.path = "";
		(void) parse_copy(copy_statement(&load, load.format));
	}
	per_file = AllocSetContextCreate(CurrentMemoryContext, "pg_mill file", ALLOCSET_DEFAULT_SIZES);
	foreach (lc, matching_files(mill_text_argument(fcinfo, 1)))
	{
		MemoryContext before = MemoryContextSwitchTo(per_file);

		load.path = lfirst(lc);
		load_one_file(&load);
		MemoryContextSwitchTo(before);
		MemoryContextReset(per_file);
		if (!atomic)
			SPI_commit();
	}
	SPI_finish();
	PG_RETURN_NULL();
}
