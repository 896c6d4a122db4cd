/*
 * command.c
 *		A step's command and its checks: analyzed when they are defined, and run.
 *
 * A command is one or more statements, $1 and $2 in them the start and the end of
 * the run's interval.  In one transaction they run as a function's would, so
 * that none of them can end it.  In transactions of their own they run as a
 * client's would, one after the other: procedures that commit, VACUUM, and others
 * that cannot be in a transaction block.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "parser/parse_param.h"
#include "parser/parser.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/xact.h"
#include "job/internal.h"

static Oid parameter_types[] = {TIMESTAMPTZOID, TIMESTAMPTZOID};

/* Rows of a failed check that are shown, and bytes of each. */
#define SHOWN_ROWS 20
#define SHOWN_BYTES 200

/* ---- at definition ---- */

/* Statements that core refuses in a transaction block or a function. */
static bool
needs_own_transaction(const Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_VacuumStmt:
			return ((const VacuumStmt *) statement)->is_vacuumcmd;
		case T_IndexStmt:
			return ((const IndexStmt *) statement)->concurrent;
		case T_DropStmt:
			return ((const DropStmt *) statement)->concurrent;
		case T_ReindexStmt:
		{
			const ReindexStmt *reindex = (const ReindexStmt *) statement;
			ListCell *lc;

			foreach (lc, reindex->params)
			{
				if (strcmp(((DefElem *) lfirst(lc))->defname, "concurrently") == 0)
					return true;
			}
			return reindex->kind != REINDEX_OBJECT_INDEX && reindex->kind != REINDEX_OBJECT_TABLE;
		}
		case T_ClusterStmt:
			return ((const ClusterStmt *) statement)->relation == NULL;
		case T_CreatedbStmt:
		case T_DropdbStmt:
		case T_CreateTableSpaceStmt:
		case T_DropTableSpaceStmt:
		case T_AlterSystemStmt:
		case T_DiscardStmt:
			return true;
		default:
			return false;
	}
}

/* Raise an error for a statement that no step can run, or not in this way. */
static void
refuse_statement(const char *what, const RawStmt *raw, bool own_transaction)
{
	const Node *statement = raw->stmt;

	if (IsA(statement, TransactionStmt))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s cannot begin or end a transaction", what),
				 errdetail("Its transaction is the step's, whose success commits with it."),
				 errhint(
					 "A procedure may commit where the step says transaction => 'own': CALL ...")));
	if (IsA(statement, CopyStmt) && ((const CopyStmt *) statement)->filename == NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("%s cannot copy from or to a client, as it has none", what),
						errhint("Use COPY with a file name or PROGRAM.")));
	if (IsA(statement, ListenStmt) || IsA(statement, UnlistenStmt))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("%s cannot listen, as its session ends with it", what)));
	if (!own_transaction && needs_own_transaction(statement))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("%s, %s, cannot run inside a transaction block", what,
							   GetCommandTagName(CreateCommandTag((Node *) statement))),
						errhint("Use transaction => 'own'.")));
}

/* Is an object missing, which an earlier step or statement may have created by then? */
static bool
is_missing_object(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_UNDEFINED_TABLE:
		case ERRCODE_UNDEFINED_COLUMN:
		case ERRCODE_UNDEFINED_FUNCTION:
		case ERRCODE_UNDEFINED_OBJECT:
		case ERRCODE_INVALID_SCHEMA_NAME:
		case ERRCODE_AMBIGUOUS_FUNCTION:
			return true;
	}
	return false;
}

typedef struct Analysis
{
	RawStmt *raw;
	const char *text;
} Analysis;

static void
analyze(void *arg)
{
	Analysis *analysis = arg;

	PushActiveSnapshot(GetTransactionSnapshot());
	(void) parse_analyze_fixedparams(analysis->raw, analysis->text, parameter_types,
									 lengthof(parameter_types), NULL);
	PopActiveSnapshot();
}

/*
 * Analyze a statement, with typed parameters, as the current user; the locks that
 * analysis takes are released.  Raises an error, or, for a missing object, a notice,
 * and then returns false.
 */
static bool
analyze_statement(const char *what, RawStmt *raw, const char *text)
{
	Analysis analysis = {raw, text};
	ErrorData *error = mill_try(analyze, &analysis, CurrentMemoryContext, false);

	if (error == NULL)
		return true;
	if (!is_missing_object(error->sqlerrcode))
		ReThrowError(error);
	ereport(NOTICE,
			(errcode(error->sqlerrcode), errmsg("%s was not checked: %s", what, error->message),
			 errdetail("An earlier step may make what is missing.")));
	return false;
}

typedef struct Checked
{
	const char *what;
	const char *text;
	int position; /* of the statement in it */
} Checked;

/* Adds to errors what was analyzed, and makes their position one in the command. */
static void
checked_context(void *arg)
{
	const Checked *checked = arg;
	int position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(checked->text);
	}
	errcontext("%s", checked->what);
}

void
mill_command_check(const char *what, const char *command, bool own_transaction)
{
	Checked checked = {what, command, 0};
	ErrorContextCallback callback = {error_context_stack, checked_context, &checked};
	List *statements;
	ListCell *lc;

	error_context_stack = &callback;
	statements = raw_parser(command, RAW_PARSE_DEFAULT);
	if (statements == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR), errmsg("%s is empty", what),
				 errhint("For example: INSERT INTO t SELECT ... WHERE at >= $1 AND at < $2")));
	foreach (lc, statements)
		refuse_statement(what, lfirst(lc), own_transaction);
	foreach (lc, statements)
	{
		RawStmt *raw = lfirst(lc);

		/* statements after a utility command may need what it creates */
		if (!analyze_requires_snapshot(raw) || !analyze_statement(what, raw, command))
			break;
	}
	error_context_stack = callback.previous;
}

/* Call a function for each name and query of a JSON object. */
static void
each_check(Jsonb *checks, void (*function)(const char *name, const char *query, void *arg),
		   void *arg)
{
	JsonbIterator *iterator = JsonbIteratorInit(&checks->root);
	JsonbValue value;
	JsonbIteratorToken token;
	char *name = NULL;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE)
			function(name,
					 value.type == jbvString ? pnstrdup(value.val.string.val, value.val.string.len)
											 : NULL,
					 arg);
	}
}

static void
check_check(const char *name, const char *query, void *arg)
{
	List *statements;
	char *what = psprintf("check \"%s\"", name);

	if (query == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s is not the text of a query", what)));
	mill_command_check(what, query, false);
	statements = raw_parser(query, RAW_PARSE_DEFAULT);
	if (list_length(statements) != 1 || !IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s is not one query", what),
				 errhint(
					 "A check fails when it returns a row: SELECT * FROM sales WHERE amount < 0")));
}

void
mill_checks_check(const char *argument, Datum checks)
{
	Jsonb *object = DatumGetJsonbP(checks);

	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"%s\" is no JSON object", argument),
						errhint("For example: %s => '{\"no negative amounts\": "
								"\"SELECT * FROM sales WHERE amount < 0\"}'.",
								argument)));
	each_check(object, check_check, NULL);
}

/* ---- at run time ---- */

static void
type_parameters(ParseState *pstate, void *arg)
{
	setup_parse_fixed_parameters(pstate, parameter_types, lengthof(parameter_types));
}

static ParamListInfo
parameters_of(const MillCommand *command)
{
	ParamListInfo parameters = makeParamList(lengthof(parameter_types));

	for (int i = 0; i < lengthof(parameter_types); i++)
	{
		parameters->params[i].value = TimestampTzGetDatum(command->interval[i]);
		parameters->params[i].isnull = false;
		parameters->params[i].pflags = PARAM_FLAG_CONST;
		parameters->params[i].ptype = parameter_types[i];
	}
	parameters->parserSetup = type_parameters;
	return parameters;
}

static void
set_setting(const char *name, const char *value, GucAction action)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, action, true, 0, false);
}

/* The settings mill.*, for the transaction, or the session, which is cleared afterwards. */
static void
set_settings(const MillCommand *command)
{
	GucAction action = command->own_transaction ? GUC_ACTION_SET : GUC_ACTION_LOCAL;

	set_setting("mill.run_id", psprintf("%lld", (long long) command->run_id), action);
	set_setting("mill.interval_start", timestamptz_to_str(command->interval[0]), action);
	set_setting("mill.interval_end", timestamptz_to_str(command->interval[1]), action);
}

/* One of a command's statements, as text. */
static char *
statement_text(const char *command, const RawStmt *raw)
{
	int length = raw->stmt_len > 0 ? raw->stmt_len : (int) strlen(command + raw->stmt_location);

	return pnstrdup(command + raw->stmt_location, length);
}

static int64
run_in_transaction(const MillCommand *command, List *statements)
{
	SPIExecuteOptions options = {.params = parameters_of(command),
								 .dest = CreateDestReceiver(DestNone)};
	int64 written = 0, read = 0;
	ListCell *lc;

	foreach (lc, statements)
	{
		const char *text = statement_text(command->text, lfirst(lc));
		int code = SPI_execute_extended(text, &options);

		if (code < 0)
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("statement cannot be run in a step's transaction: %s",
								   SPI_result_code_string(code)),
							errdetail_internal("%s", text), errhint("Use transaction => 'own'.")));
		if (code == SPI_OK_SELECT || code == SPI_OK_UTILITY)
			read = SPI_processed;
		else
			written += SPI_processed;
	}
	return written > 0 ? written : read;
}

/*
 * As exec_simple_query does it.  What is parsed must outlive the transactions
 * that a procedure ends: all of it is in the current memory context, not the
 * transaction's.
 */
static int64
run_at_top_level(const MillCommand *command, RawStmt *raw)
{
	MemoryContext context = CurrentMemoryContext;
	ParamListInfo parameters;
	CommandTag tag = CreateCommandTag(raw->stmt);
	QueryCompletion completion;
	List *plans;
	Portal portal;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	parameters = parameters_of(command);
	PushActiveSnapshot(GetTransactionSnapshot());
	plans = pg_plan_queries(pg_analyze_and_rewrite_fixedparams(raw, command->text, parameter_types,
															   lengthof(parameter_types), NULL),
							command->text, CURSOR_OPT_PARALLEL_OK, parameters);
	PopActiveSnapshot();

	portal = CreatePortal("", true, true);
	portal->visible = false;
	PortalDefineQuery(portal, NULL, command->text, tag, plans, NULL);
	PortalStart(portal, parameters, 0, InvalidSnapshot);
	(void) mill_portal_run(portal, &completion);
	PortalDrop(portal, false);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return completion.nprocessed;
}

int64
mill_command_run(const MillCommand *command)
{
	List *statements;
	int64 rows = 0;
	ListCell *lc;

	/* check again: an earlier version of the extension may have accepted the command */
	statements = raw_parser(command->text, RAW_PARSE_DEFAULT);
	foreach (lc, statements)
		refuse_statement("the command", lfirst(lc), command->own_transaction);
	if (!command->own_transaction)
	{
		Assert(IsTransactionState());
		set_settings(command);
		return run_in_transaction(command, statements);
	}

	Assert(!IsTransactionState());
	StartTransactionCommand();
	set_settings(command);
	CommitTransactionCommand();
	foreach (lc, statements)
		rows += run_at_top_level(command, lfirst(lc));
	return rows;
}

typedef struct CheckRun
{
	const MillCommand *command;
	bool fail;
} CheckRun;

/* The rows that SPI returned, each as "(a, b)", one a line. */
static char *
rows_as_text(void)
{
	StringInfoData text;
	uint64 rows = SPI_processed;

	initStringInfo(&text);
	for (uint64 row = 0; row < rows && row < SHOWN_ROWS; row++)
	{
		StringInfoData line;

		initStringInfo(&line);
		for (int i = 1; i <= SPI_tuptable->tupdesc->natts; i++)
		{
			char *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i);

			appendStringInfo(&line, "%s%s", i > 1 ? ", " : "", value ? value : "null");
		}
		if (line.len > SHOWN_BYTES)
		{
			line.len = pg_mbcliplen(line.data, line.len, SHOWN_BYTES);
			line.data[line.len] = '\0';
			appendStringInfoString(&line, "...");
		}
		appendStringInfo(&text, "%s(%s)", row > 0 ? "\n" : "", line.data);
	}
	if (rows > SHOWN_ROWS)
		appendStringInfoString(&text, "\n...");
	return text.data;
}

static void
run_check(const char *name, const char *query, void *arg)
{
	const CheckRun *run = arg;
	SPIExecuteOptions options = {.params = parameters_of(run->command), .tcount = SHOWN_ROWS + 1};
	int code = SPI_execute_extended(query, &options);

	if (code != SPI_OK_SELECT)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("check \"%s\" is no query: %s", name, SPI_result_code_string(code))));
	if (SPI_processed == 0)
		return;
	ereport(run->fail ? ERROR : WARNING,
			(errcode(ERRCODE_CHECK_VIOLATION),
			 errmsg("check \"%s\" found %llu%s row%s", name,
					(unsigned long long) Min(SPI_processed, SHOWN_ROWS),
					SPI_processed > SHOWN_ROWS ? " or more" : "", SPI_processed > 1 ? "s" : ""),
			 errdetail_internal("%s", rows_as_text())));
}

void
mill_checks_run(const MillCommand *command, const char *checks, bool fail)
{
	CheckRun run = {command, fail};

	if (checks == NULL)
		return;
	each_check(DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(checks))), run_check,
			   &run);
}
