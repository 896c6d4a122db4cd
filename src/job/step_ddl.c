/*
 * step_ddl.c
 *		SQL functions that add, change and drop the steps of a job.
 *
 * A run has the steps that its job had when the run began, in that order; each
 * runs the command that it has when it begins.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/event.h"
#include "core/object.h"
#include "core/xact.h"
#include "job/internal.h"

PG_FUNCTION_INFO_V1(mill_add_step);
PG_FUNCTION_INFO_V1(mill_alter_step);
PG_FUNCTION_INFO_V1(mill_drop_step);

static const char *const conditions[] = {"all_success", "all_done", "any_failed", NULL};
static const char *const step_transactions[] = {"one", "own", NULL};

/* Arguments that mill.add_step and mill.alter_step share, from the command's position on. */
enum
{
	OPT_COMMAND,
	OPT_AFTER,
	OPT_RUN_WHEN,
	OPT_TRANSACTION,
	OPT_CHECKS,
	OPT_WARNINGS,
	OPT_TIMEOUT,
	OPT_RETRIES,
	OPTIONS
};

static void
check_step_name(const char *name)
{
	if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME), errmsg("invalid step name: \"%s\"", name),
						errdetail("A name has 1 to %d bytes.", NAMEDATALEN - 1)));
}

/* For mill.events: a step of the job was added, altered or dropped. */
static void
note_step_change(const MillJob *job, const char *step, const char *change)
{
	StringInfoData detail;

	initStringInfo(&detail);
	appendStringInfo(&detail, "{\"%s\": ", change);
	escape_json(&detail, step);
	appendStringInfoChar(&detail, '}');
	mill_event_note("job", job->id, job->name, job->owner, "altered", detail.data);
}

/* A step's id by its name, 0 if the job has none. */
static int64
step_id(const MillJob *job, const char *name)
{
	static MillStatement statement =
		{.sql = "SELECT id FROM mill_catalog.step WHERE job_id = $1 AND name = $2",
		 .nargs = 2,
		 .types = {INT8OID, TEXTOID}};
	Datum values[2] = {Int64GetDatum(job->id), CStringGetTextDatum(name)};

	if (mill_run(&statement, SPI_OK_SELECT, values, NULL) == 0)
		return 0;
	return DatumGetInt64(mill_value(0, 1, NULL));
}

static int64
existing_step(const MillJob *job, const char *name)
{
	int64 id = step_id(job, name);

	if (id == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("job \"%s\" has no step \"%s\"", job->name, name)));
	return id;
}

/* Does a step come after the other, directly or not, or is it the same? */
static bool
step_comes_after(int64 id, int64 other)
{
	static MillStatement statement =
		{.sql = "WITH RECURSIVE before (id) AS (SELECT $1 UNION"
				"  SELECT p FROM before b JOIN mill_catalog.step s ON s.id = b.id CROSS JOIN unnest(s.parents) p)"
				" SELECT FROM before WHERE id = $2",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	Datum values[2] = {Int64GetDatum(id), Int64GetDatum(other)};

	return mill_run(&statement, SPI_OK_SELECT, values, NULL) > 0;
}

/* Names of steps as an array of their ids; id is the step that comes after them, 0 for a new one. */
static Datum
parent_ids(const MillJob *job, int64 id, const char *name, ArrayType *names)
{
	Datum *elements;
	bool *nulls;
	int count;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		char *parent;
		int64 parent_id;

		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("argument \"after\" must not contain nulls")));
		parent = TextDatumGetCString(elements[i]);
		if (strcmp(parent, name) == 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("step \"%s\" cannot run after itself", name)));
		parent_id = existing_step(job, parent);
		if (id != 0 && step_comes_after(parent_id, id))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("step \"%s\" cannot run after \"%s\", which runs after it", name,
								   parent)));
		elements[i] = Int64GetDatum(parent_id);
	}
	return PointerGetDatum(
		construct_array(elements, count, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Commands and checks of a step, for check_as_owner. */
typedef struct StepCommands
{
	const char *what;
	const char *command;
	bool own_transaction;
	Datum checks, warnings; /* 0: none */
	const char *search_path;
} StepCommands;

static void
check_commands(void *arg)
{
	StepCommands *step = arg;

	if (step->search_path)
		(void) set_config_option("search_path", step->search_path, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	mill_command_check(step->what, step->command, step->own_transaction);
	if (step->checks)
		mill_checks_check("checks", step->checks);
	if (step->warnings)
		mill_checks_check("warnings", step->warnings);
}

/*
 * Analysis may run users' code: the input functions of types.  So it is done as
 * the job's owner, whoever changes the step, but with the search_path of the
 * caller.
 */
static void
check_as_owner(Oid owner, StepCommands *step)
{
	if (GetUserId() != owner)
	{
		step->search_path = pstrdup(namespace_search_path);
		mill_as_owner(owner, check_commands, step);
	}
	else
		check_commands(step);
}

/* The options, and commands where they are not given. */
static void
check_step_options(FunctionCallInfo fcinfo, int first, Oid owner, const char *name,
				   const char *command, const char *transaction)
{
	StepCommands step = {.what = psprintf("the command of step \"%s\"", name),
						 .command = command,
						 .own_transaction = strcmp(transaction, "own") == 0};

	if (!PG_ARGISNULL(first + OPT_CHECKS))
		step.checks = PG_GETARG_DATUM(first + OPT_CHECKS);
	if (!PG_ARGISNULL(first + OPT_WARNINGS))
		step.warnings = PG_GETARG_DATUM(first + OPT_WARNINGS);
	mill_check_word("run_when", mill_text_argument(fcinfo, first + OPT_RUN_WHEN), conditions);
	mill_check_word("transaction", mill_text_argument(fcinfo, first + OPT_TRANSACTION),
					step_transactions);
	mill_check_range(fcinfo, first + OPT_RETRIES, "retries", 0, 1000);
	if (!PG_ARGISNULL(first + OPT_TIMEOUT))
	{
		if (mill_interval_length(PG_GETARG_INTERVAL_P(first + OPT_TIMEOUT)) < 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("argument \"timeout\" must be zero or more"),
							errhint("For example: timeout => '5 minutes'.")));
	}
	check_as_owner(owner, &step);
}

Datum
mill_add_step(PG_FUNCTION_ARGS)
{
	static MillStatement statement =
		{.sql = "INSERT INTO mill_catalog.step (job_id, name, command, parents, run_when, transaction, checks, warnings, timeout, retries)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, nullif($9, '0'), $10) RETURNING id",
		 .nargs = 10,
		 .types = {INT8OID, TEXTOID, TEXTOID, INT8ARRAYOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID,
				   INTERVALOID, INT4OID}};
	static const char *const required[] = {"job",	"name",		"command",
										   "after", "run_when", "transaction"};
	Datum values[10];
	char nulls[10];
	MillJob *job;
	char *name;
	int64 id;

	for (int i = 0; i < lengthof(required); i++)
		mill_require_argument(fcinfo, i, required[i]);
	name = mill_text_argument(fcinfo, 1);
	check_step_name(name);

	SPI_connect();
	job = mill_job_by_name(mill_text_argument(fcinfo, 0));
	check_step_options(fcinfo, 2, job->owner, name, mill_text_argument(fcinfo, 2),
					   mill_text_argument(fcinfo, 2 + OPT_TRANSACTION));
	if (step_id(job, name) != 0)
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						errmsg("job \"%s\" already has a step \"%s\"", job->name, name)));
	mill_copy_arguments(fcinfo, 1, 1 + OPTIONS, &values[1], &nulls[1]);
	values[0] = Int64GetDatum(job->id);
	nulls[0] = ' ';
	values[3] = parent_ids(job, 0, name, PG_GETARG_ARRAYTYPE_P(2 + OPT_AFTER));
	mill_run(&statement, SPI_OK_INSERT_RETURNING, values, nulls);
	id = DatumGetInt64(mill_value(0, 1, NULL));
	note_step_change(job, name, "step added");
	SPI_finish();
	/* a job without steps is not due */
	mill_wake_manager_at_commit();
	PG_RETURN_INT64(id);
}

Datum
mill_alter_step(PG_FUNCTION_ARGS)
{
	static MillStatement read =
		{.sql = "SELECT command, transaction FROM mill_catalog.step WHERE id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	static MillStatement statement =
		{.sql =
			 "UPDATE mill_catalog.step SET name = coalesce($1, name), command = coalesce($2, command), parents = coalesce($3, parents),"
			 " run_when = coalesce($4, run_when), transaction = coalesce($5, transaction),"
			 " checks = CASE WHEN $6 IS NULL THEN checks ELSE nullif($6, '{}') END,"
			 " warnings = CASE WHEN $7 IS NULL THEN warnings ELSE nullif($7, '{}') END,"
			 " timeout = CASE WHEN $8 IS NULL THEN timeout ELSE nullif($8, '0') END, retries = coalesce($9, retries) WHERE id = $10",
		 .nargs = 10,
		 .types = {TEXTOID, TEXTOID, INT8ARRAYOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID,
				   INTERVALOID, INT4OID, INT8OID}};
	Datum values[10];
	char nulls[10];
	MillJob *job;
	char *name, *new_name, *command, *transaction;
	int64 id;

	mill_require_argument(fcinfo, 0, "job");
	mill_require_argument(fcinfo, 1, "name");
	name = mill_text_argument(fcinfo, 1);
	new_name = mill_text_argument(fcinfo, 2);
	SPI_connect();
	job = mill_job_by_name(mill_text_argument(fcinfo, 0));
	id = existing_step(job, name);
	values[0] = Int64GetDatum(id);
	mill_run(&read, SPI_OK_SELECT, values, NULL);
	command = mill_text_argument(fcinfo, 3 + OPT_COMMAND);
	transaction = mill_text_argument(fcinfo, 3 + OPT_TRANSACTION);
	check_step_options(fcinfo, 3, job->owner, name, command ? command : mill_text(0, 1),
					   transaction ? transaction : mill_text(0, 2));
	if (new_name)
	{
		check_step_name(new_name);
		if (strcmp(new_name, name) != 0 && step_id(job, new_name) != 0)
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
							errmsg("job \"%s\" already has a step \"%s\"", job->name, new_name)));
	}
	mill_copy_arguments(fcinfo, 2, 1 + OPTIONS, values, nulls);
	if (!PG_ARGISNULL(3 + OPT_AFTER))
		values[2] = parent_ids(job, id, name, PG_GETARG_ARRAYTYPE_P(3 + OPT_AFTER));
	values[9] = Int64GetDatum(id);
	nulls[9] = ' ';
	mill_run(&statement, SPI_OK_UPDATE, values, nulls);
	note_step_change(job, name, "step altered");
	SPI_finish();
	PG_RETURN_VOID();
}

/* Skip a step in the job's runs where it has not begun; an error if it is running. */
static void
drop_from_runs(int64 job_id, int64 id)
{
	static MillStatement running =
		{.sql = "SELECT run_id FROM mill_catalog.step_run WHERE step_id = $1 AND state = 'running' LIMIT 1",
		 .nargs = 1,
		 .types = {INT8OID}};
	static MillStatement drop =
		{.sql =
			 "UPDATE mill_catalog.step_run s SET state = 'skipped', finished_at = $2 FROM mill_catalog.job_run r"
			 " WHERE s.step_id = $1 AND r.id = s.run_id AND r.state IN ('queued', 'running')"
			 " AND s.state IN ('waiting', 'ready', 'retry_wait') RETURNING s.run_id, r.state = 'running'",
		 .nargs = 2,
		 .types = {INT8OID, TIMESTAMPTZOID}};
	Datum values[2] = {Int64GetDatum(id), TimestampTzGetDatum(mill_now())};
	SPITupleTable *table;
	uint64 rows;

	(void) mill_job_lock(job_id, true);
	if (mill_run(&running, SPI_OK_SELECT, values, NULL) > 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE), errmsg("the step is running"),
						errhint("Wait for run %lld to end, or cancel it: mill.cancel(%lld).",
								(long long) DatumGetInt64(mill_value(0, 1, NULL)),
								(long long) DatumGetInt64(mill_value(0, 1, NULL)))));
	rows = mill_run(&drop, SPI_OK_UPDATE_RETURNING, values, NULL);
	table = SPI_tuptable;
	for (uint64 row = 0; row < rows; row++)
	{
		SPI_tuptable = table;
		if (DatumGetBool(mill_value(row, 2, NULL)))
			mill_run_settle(DatumGetInt64(mill_value(row, 1, NULL)));
	}
}

Datum
mill_drop_step(PG_FUNCTION_ARGS)
{
	static MillStatement dependents =
		{.sql = "SELECT name FROM mill_catalog.step WHERE job_id = $1 AND $2 = ANY (parents) ORDER BY name LIMIT 1",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	static MillStatement drop = {.sql = "DELETE FROM mill_catalog.step WHERE id = $1",
								 .nargs = 1,
								 .types = {INT8OID}};
	Datum values[2];
	MillJob *job;
	char *name;

	mill_require_argument(fcinfo, 0, "job");
	mill_require_argument(fcinfo, 1, "name");
	SPI_connect();
	job = mill_job_by_name(mill_text_argument(fcinfo, 0));
	name = mill_text_argument(fcinfo, 1);
	values[0] = Int64GetDatum(job->id);
	values[1] = Int64GetDatum(existing_step(job, name));
	if (mill_run(&dependents, SPI_OK_SELECT, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("step \"%s\" runs after step \"%s\"", mill_text(0, 1), name),
				 errhint("Let it run after others: mill.alter_step('%s', '%s', after => '{}').",
						 job->name, mill_text(0, 1))));
	drop_from_runs(job->id, DatumGetInt64(values[1]));
	mill_run(&drop, SPI_OK_DELETE, &values[1], NULL);
	note_step_change(job, name, "step dropped");
	SPI_finish();
	PG_RETURN_VOID();
}
