/*
 * pipeline_ddl.c
 *		SQL functions that create, change and drop pipelines.
 *
 * They run in the caller's session and transaction, check the user's rights,
 * and write our tables as the extension's owner.  The manager is woken when the
 * change commits.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/object.h"
#include "core/slot.h"
#include "ingest/pipeline.h"
#include "ingest/position.h"
#include "ingest/rights.h"
#include "ingest/source.h"

PG_FUNCTION_INFO_V1(mill_create_pipeline);
PG_FUNCTION_INFO_V1(mill_alter_pipeline);
PG_FUNCTION_INFO_V1(mill_drop_pipeline);
PG_FUNCTION_INFO_V1(mill_pipeline_deleted);
PG_FUNCTION_INFO_V1(mill_seek);
PG_FUNCTION_INFO_V1(mill_wait_for);

static void
check_max_wait(FunctionCallInfo fcinfo, int number)
{
	Interval *wait;
	int64 span;

	if (PG_ARGISNULL(number))
		return;
	wait = PG_GETARG_INTERVAL_P(number);
	span = mill_interval_length(wait);
	if (span < 0 || span > USECS_PER_MINUTE)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"max_wait\" is outside of its range 0 .. 1 minute"),
						errhint("For example: max_wait => '1 second'.")));
}

static const char *const modes[] = {"append", "upsert", NULL};
static const char *const error_policies[] = {"dead_letter", "stop", "skip", NULL};
static const char *const durabilities[] = {"async", "sync", NULL};

/* The options that create and alter share, by the position of the first. */
static void
check_options(FunctionCallInfo fcinfo, int on_error, int max_errors, int durability, int workers)
{
	mill_check_word("on_error", mill_text_argument(fcinfo, on_error), error_policies);
	mill_check_word("durability", mill_text_argument(fcinfo, durability), durabilities);
	mill_check_range(fcinfo, max_errors, "max_errors", 1, PG_INT32_MAX);
	mill_check_range(fcinfo, workers, "workers", 1, 64);
	mill_check_range(fcinfo, workers + 1, "batch_rows", 1, 1000000);
	mill_check_range(fcinfo, workers + 2, "batch_bytes", 1, 100 * 1024 * 1024);
	check_max_wait(fcinfo, workers + 3);
}

/* Arguments of mill.create_pipeline. */
enum
{
	ARG_NAME,
	ARG_SOURCE,
	ARG_TARGET,
	ARG_MODE,
	ARG_KEY_INDEX,
	ARG_START,
	ARG_ON_ERROR,
	ARG_MAX_ERRORS,
	ARG_DURABILITY,
	ARG_WORKERS,
	ARG_BATCH_ROWS,
	ARG_BATCH_BYTES,
	ARG_MAX_WAIT,
	ARG_ENABLED
};

static const char *const create_arguments[] = {"name",		 "source",	"target",	  "mode",
											   NULL,		 "start",	NULL,		  NULL,
											   "durability", "workers", "batch_rows", "batch_bytes",
											   "max_wait",	 "enabled"};

static int64
insert_pipeline(FunctionCallInfo fcinfo, const char *start, Oid stream)
{
	static MillStatement insert =
		{.sql = "INSERT INTO mill_catalog.pipeline (name, source, target, mode, key_index, start_position, on_error, max_errors,"
				" durability, workers, batch_rows, batch_bytes, max_wait, enabled, owner, stream, pause_reason)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,"
				" CASE WHEN NOT $14 THEN 'created with enabled => false' END) RETURNING id",
		 .nargs = 16,
		 .types = {TEXTOID, REGCLASSOID, REGCLASSOID, TEXTOID, NAMEOID, TEXTOID, TEXTOID, INT4OID,
				   TEXTOID, INT4OID, INT4OID, INT4OID, INTERVALOID, BOOLOID, REGROLEOID,
				   REGCLASSOID}};
	Datum values[16];
	char nulls[16];

	mill_copy_arguments(fcinfo, 0, 14, values, nulls);
	values[ARG_START] = CStringGetTextDatum(start);
	if (nulls[ARG_KEY_INDEX] == ' ')
		values[ARG_KEY_INDEX] = DirectFunctionCall1(namein,
													CStringGetDatum(get_rel_name(
														DatumGetObjectId(values[ARG_KEY_INDEX]))));
	values[14] = ObjectIdGetDatum(GetUserId());
	values[15] = ObjectIdGetDatum(stream);
	nulls[14] = nulls[15] = ' ';
	mill_run(&insert, SPI_OK_INSERT_RETURNING, values, nulls);
	return DatumGetInt64(mill_value(0, 1, NULL));
}

/* What a pipeline is to move where; checked as the owner, under whom it runs. */
typedef struct NewPlan
{
	Oid owner;
	Oid source;
	Oid target;
	bool upsert;
	Oid key_index;
	Oid stream; /* found by the check */
} NewPlan;

static void
check_plan(void *arg)
{
	NewPlan *plan = arg;

	plan->stream = mill_source_prepare(CurrentMemoryContext, plan->owner, plan->source,
									   plan->target, plan->upsert, plan->key_index)
					   ->stream->layout.relid;
	mill_pipeline_check_rights(plan->owner, plan->source, plan->stream, plan->target, plan->upsert);
}

Datum
mill_create_pipeline(PG_FUNCTION_ARGS)
{
	NewPlan plan = {.owner = GetUserId()};
	char *start;
	int64 id;

	mill_check_creator(&mill_pipeline_room);
	for (int i = 0; i < lengthof(create_arguments); i++)
	{
		if (create_arguments[i])
			mill_require_argument(fcinfo, i, create_arguments[i]);
	}
	plan.source = PG_GETARG_OID(ARG_SOURCE);
	plan.target = PG_GETARG_OID(ARG_TARGET);
	mill_check_word("mode", mill_text_argument(fcinfo, ARG_MODE), modes);
	if (!PG_ARGISNULL(ARG_KEY_INDEX) && strcmp(mill_text_argument(fcinfo, ARG_MODE), "upsert") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"key_index\" is for mode \"upsert\""),
						errhint("Add mode => 'upsert', or leave it out.")));
	check_options(fcinfo, ARG_ON_ERROR, ARG_MAX_ERRORS, ARG_DURABILITY, ARG_WORKERS);
	start = mill_position_check(mill_text_argument(fcinfo, ARG_START));

	plan.upsert = strcmp(mill_text_argument(fcinfo, ARG_MODE), "upsert") == 0;
	plan.key_index = PG_ARGISNULL(ARG_KEY_INDEX) ? InvalidOid : PG_GETARG_OID(ARG_KEY_INDEX);
	mill_as_owner(plan.owner, check_plan, &plan);

	SPI_connect();
	mill_check_new_name(&mill_pipeline_room, mill_text_argument(fcinfo, ARG_NAME));
	id = insert_pipeline(fcinfo, start, plan.stream);
	mill_mark_create(&mill_pipeline_room, id, mill_text_argument(fcinfo, ARG_NAME));
	SPI_finish();
	PG_RETURN_INT64(id);
}

/* Change source or target; offsets are kept. */
static void
check_new_relations(const MillPipeline *pipeline, Oid source, Oid target)
{
	MillPipeline changed = *pipeline;
	NewPlan plan = {.owner = pipeline->owner,
					.source = source,
					.target = target,
					.upsert = pipeline->upsert};

	changed.source = source;
	changed.target = target;
	mill_pipeline_check_relations(&changed);
	plan.key_index = mill_pipeline_key_index(&changed);
	mill_as_owner(plan.owner, check_plan, &plan);
}

Datum
mill_alter_pipeline(PG_FUNCTION_ARGS)
{
	static MillStatement update =
		{.sql = "UPDATE mill_catalog.pipeline SET name = coalesce($1, name), on_error = coalesce($2, on_error),"
				" max_errors = coalesce($3, max_errors), durability = coalesce($4, durability), workers = coalesce($5, workers),"
				" batch_rows = coalesce($6, batch_rows), batch_bytes = coalesce($7, batch_bytes),"
				" max_wait = coalesce($8, max_wait), start_position = coalesce($9, start_position),"
				" source = coalesce($10, source), target = coalesce($11, target),"
				" version = version + 1 WHERE id = $12",
		 .nargs = 12,
		 .types = {TEXTOID, TEXTOID, INT4OID, TEXTOID, INT4OID, INT4OID, INT4OID, INTERVALOID,
				   TEXTOID, REGCLASSOID, REGCLASSOID, INT8OID}};
	Datum values[12];
	char nulls[12];
	MillPipeline *pipeline;

	mill_require_argument(fcinfo, 0, "name");
	check_options(fcinfo, 2, 3, 4, 5);

	SPI_connect();
	pipeline = mill_pipeline_by_name(mill_text_argument(fcinfo, 0));
	if (!PG_ARGISNULL(1))
		mill_check_new_name(&mill_pipeline_room, mill_text_argument(fcinfo, 1));
	mill_copy_arguments(fcinfo, 1, 11, values, nulls);
	if (!PG_ARGISNULL(10) || !PG_ARGISNULL(11))
		check_new_relations(pipeline, PG_ARGISNULL(10) ? pipeline->source : PG_GETARG_OID(10),
							PG_ARGISNULL(11) ? pipeline->target : PG_GETARG_OID(11));
	if (!PG_ARGISNULL(9))
	{
		values[8] = CStringGetTextDatum(mill_position_check(mill_text_argument(fcinfo, 9)));
		if (pipeline->start_resolved)
			ereport(NOTICE,
					(errmsg("pipeline \"%s\" goes on from its stored offsets; a start position concerns only its first start",
							pipeline->name),
					 errhint("Use mill.seek to go on from another position.")));
	}
	values[11] = Int64GetDatum(pipeline->id);
	nulls[11] = ' ';
	mill_run(&update, SPI_OK_UPDATE, values, nulls);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * SQL: mill_catalog.pipeline_deleted(), AFTER DELETE on mill_catalog.pipeline:
 * delete what depends on it.  Deleting the offset rows waits for a running
 * batch, whose dead letters the next statement then sees.
 */
Datum
mill_pipeline_deleted(PG_FUNCTION_ARGS)
{
	static MillStatement deletes[] =
		{{.sql = "DELETE FROM mill_catalog.pipeline_offset WHERE pipeline_id = $1",
		  .nargs = 1,
		  .types = {INT8OID}},
		 {.sql = "DELETE FROM mill_catalog.dead_letter WHERE pipeline_id = $1",
		  .nargs = 1,
		  .types = {INT8OID}},
		 {.sql = "DELETE FROM mill_catalog.error WHERE object_kind = 'pipeline' AND object_id = $1",
		  .nargs = 1,
		  .types = {INT8OID}}};

	return mill_delete_dependents(fcinfo, deletes, lengthof(deletes));
}

Datum
mill_drop_pipeline(PG_FUNCTION_ARGS)
{
	mill_require_argument(fcinfo, 0, "pipeline");
	SPI_connect();
	mill_object_drop(&mill_pipeline_room, mill_pipeline_by_name(mill_text_argument(fcinfo, 0))->id);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * The worker resolves the position into offsets when it starts and asks the
 * broker.  Until then the stored offsets are kept as -1 - offset: the update
 * waits for a running batch, and no other batch finds the offset it expects.
 */
Datum
mill_seek(PG_FUNCTION_ARGS)
{
	static MillStatement unset =
		{.sql = "UPDATE mill_catalog.pipeline_offset SET next_offset = -1 - next_offset"
				" WHERE pipeline_id = $1 AND next_offset >= 0",
		 .nargs = 1,
		 .types = {INT8OID}};
	static MillStatement seek =
		{.sql = "UPDATE mill_catalog.pipeline SET start_position = $2, start_resolved = false, failure = NULL, fetch_bytes = NULL,"
				" state_at = clock_timestamp(), version = version + 1"
				" WHERE id = $1",
		 .nargs = 2,
		 .types = {INT8OID, TEXTOID}};
	Datum values[2];

	mill_require_argument(fcinfo, 0, "pipeline");
	mill_require_argument(fcinfo, 1, "position");
	SPI_connect();
	values[0] = Int64GetDatum(mill_pipeline_by_name(mill_text_argument(fcinfo, 0))->id);
	values[1] = CStringGetTextDatum(mill_position_check(mill_text_argument(fcinfo, 1)));
	mill_run(&unset, SPI_OK_UPDATE, values, NULL);
	mill_run(&seek, SPI_OK_UPDATE, values, NULL);
	SPI_finish();
	PG_RETURN_VOID();
}

/* The committed offset of a partition, whatever the isolation level. */
static int64
stored_offset(int64 pipeline, int32 partition)
{
	static MillStatement read = {.sql = "SELECT next_offset FROM mill_catalog.pipeline_offset"
										" WHERE pipeline_id = $1 AND partition = $2",
								 .nargs = 2,
								 .types = {INT8OID, INT4OID}};
	Datum values[2] = {Int64GetDatum(pipeline), Int32GetDatum(partition)};
	int64 offset = -1;

	SPI_connect();
	if (mill_run(&read, SPI_OK_SELECT, values, NULL) > 0)
		offset = DatumGetInt64(mill_value(0, 1, NULL));
	SPI_finish();
	return offset;
}

/* A pipeline by name that the user may change; not locked. */
static int64
pipeline_id(const char *name)
{
	static MillStatement find =
		{.sql = "SELECT id, owner::oid FROM mill_catalog.pipeline WHERE name = $1",
		 .nargs = 1,
		 .types = {TEXTOID}};
	Datum values[1] = {CStringGetTextDatum(name)};
	int64 id;

	SPI_connect();
	if (mill_run(&find, SPI_OK_SELECT, values, NULL) == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("pipeline \"%s\" does not exist", name)));
	id = DatumGetInt64(mill_value(0, 1, NULL));
	if (!has_privs_of_role(GetUserId(), DatumGetObjectId(mill_value(0, 2, NULL))))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of pipeline \"%s\"", name)));
	SPI_finish();
	return id;
}

Datum
mill_wait_for(PG_FUNCTION_ARGS)
{
	TimestampTz deadline;
	int64 id;

	mill_require_argument(fcinfo, 0, "pipeline");
	mill_require_argument(fcinfo, 1, "partition");
	mill_require_argument(fcinfo, 2, "offset");
	mill_require_argument(fcinfo, 3, "timeout");
	id = pipeline_id(mill_text_argument(fcinfo, 0));
	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(GetCurrentTimestamp()),
													   PG_GETARG_DATUM(3)));

	while (stored_offset(id, PG_GETARG_INT32(1)) <= PG_GETARG_INT64(2))
	{
		if (GetCurrentTimestamp() >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("offset %lld of partition %d is not in the table of pipeline \"%s\" yet",
							(long long) PG_GETARG_INT64(2), PG_GETARG_INT32(1),
							mill_text_argument(fcinfo, 0)),
					 errhint("mill.pipelines and mill.lag show what the pipeline is doing.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10,
						 MILL_WAIT_EVENT);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_VOID();
}
