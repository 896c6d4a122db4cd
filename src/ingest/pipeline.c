/*
 * pipeline.c
 *		A pipeline's row: reading it, failing and pausing it, and the workers
 *		that it wants.
 *
 * mill_catalog.pipeline says what is wanted.  Every change of a row increments
 * its version; a worker that finds another version than it started with ends
 * and the next one is started, so nothing is reconfigured while it runs.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/object.h"
#include "ingest/pipeline.h"

#define PIPELINE_COLUMNS                                                                           \
	"id, name, owner::oid, source::oid, stream::oid, target::oid,"                                 \
	" mode = 'upsert', key_index, start_position, start_resolved, on_error,"                       \
	" coalesce(max_errors, 0), durability = 'sync', workers, batch_rows, batch_bytes,"             \
	" (EXTRACT(epoch FROM max_wait) * 1000)::int4, enabled, failure, version, topic, server,"      \
	" coalesce(fetch_bytes, 0)"

static char *
copy_text(MemoryContext context, int column)
{
	char *value = mill_text(0, column);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

/*
 * Raises the error only for callers that need the key: a pipeline whose index
 * is gone can still be paused and dropped.
 */
Oid
mill_pipeline_key_index(const MillPipeline *pipeline)
{
	Oid index;

	if (pipeline->key_index == NULL)
		return InvalidOid;
	index = get_relname_relid(pipeline->key_index, get_rel_namespace(pipeline->target));
	if (!OidIsValid(index))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the key index \"%s\" no longer exists", pipeline->key_index),
				 errhint(
					 "Create a unique index of that name, or drop the pipeline and create it anew.")));
	return index;
}

/* Build a MillPipeline from the first row of SPI's result. */
static MillPipeline *
read_pipeline(MemoryContext context)
{
	MillPipeline *p = MemoryContextAllocZero(context, sizeof(MillPipeline));

	p->id = DatumGetInt64(mill_value(0, 1, NULL));
	p->name = copy_text(context, 2);
	p->owner = DatumGetObjectId(mill_value(0, 3, NULL));
	p->source = DatumGetObjectId(mill_value(0, 4, NULL));
	p->stream = DatumGetObjectId(mill_value(0, 5, NULL));
	p->target = DatumGetObjectId(mill_value(0, 6, NULL));
	p->upsert = DatumGetBool(mill_value(0, 7, NULL));
	p->key_index = copy_text(context, 8);
	p->start = copy_text(context, 9);
	p->start_resolved = DatumGetBool(mill_value(0, 10, NULL));
	p->on_error = copy_text(context, 11);
	p->max_errors = DatumGetInt32(mill_value(0, 12, NULL));
	p->sync = DatumGetBool(mill_value(0, 13, NULL));
	p->workers = DatumGetInt32(mill_value(0, 14, NULL));
	p->batch_rows = DatumGetInt32(mill_value(0, 15, NULL));
	p->batch_bytes = DatumGetInt32(mill_value(0, 16, NULL));
	p->max_wait_ms = DatumGetInt32(mill_value(0, 17, NULL));
	p->enabled = DatumGetBool(mill_value(0, 18, NULL));
	p->failure = copy_text(context, 19);
	p->version = DatumGetInt64(mill_value(0, 20, NULL));
	p->topic = copy_text(context, 21);
	p->server = copy_text(context, 22);
	p->fetch_bytes = DatumGetInt32(mill_value(0, 23, NULL));
	return p;
}

/* The memory context that was current before SPI_connect. */
static MemoryContext
callers_context(void)
{
	void *probe = SPI_palloc(1);
	MemoryContext context = GetMemoryChunkContext(probe);

	pfree(probe);
	return context;
}

MillPipeline *
mill_pipeline_by_id(int64 id, bool lock)
{
	static MillStatement read = {.sql = "SELECT " PIPELINE_COLUMNS
										" FROM mill_catalog.pipeline WHERE id = $1",
								 .nargs = 1,
								 .types = {INT8OID}};
	static MillStatement read_and_lock =
		{.sql = "SELECT " PIPELINE_COLUMNS " FROM mill_catalog.pipeline WHERE id = $1 FOR UPDATE",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1] = {Int64GetDatum(id)};

	if (mill_run(lock ? &read_and_lock : &read, SPI_OK_SELECT, values, NULL) == 0)
		return NULL;
	return read_pipeline(callers_context());
}

/*
 * A pipeline by name, with its row locked, that the user may change.
 */
MillPipeline *
mill_pipeline_by_name(const char *name)
{
	static MillStatement read = {.sql = "SELECT " PIPELINE_COLUMNS
										" FROM mill_catalog.pipeline WHERE name = $1 FOR UPDATE",
								 .nargs = 1,
								 .types = {TEXTOID}};
	Datum values[1] = {CStringGetTextDatum(name)};
	MillPipeline *p;

	if (mill_run(&read, SPI_OK_SELECT, values, NULL) == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("pipeline \"%s\" does not exist", name)));
	p = read_pipeline(callers_context());
	if (!has_privs_of_role(GetUserId(), p->owner))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be owner of pipeline \"%s\"", name)));
	return p;
}

void
mill_pipeline_check_relations(const MillPipeline *pipeline)
{
	if (get_rel_name(pipeline->source) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the source of pipeline \"%s\" no longer exists", pipeline->name),
				 errhint(
					 "Name another one, and the pipeline goes on from its offsets: mill.alter_pipeline(..., source => ...).")));
	if (get_rel_name(pipeline->target) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the target of pipeline \"%s\" no longer exists", pipeline->name),
				 errhint(
					 "Name another one, and the pipeline goes on from its offsets: mill.alter_pipeline(..., target => ...).")));
}

static void
stop_pipeline(MillStatement *statement, int64 id, const char *reason)
{
	Datum values[2] = {Int64GetDatum(id), CStringGetTextDatum(reason)};

	mill_run(statement, SPI_OK_UPDATE, values, NULL);
}

void
mill_pipeline_fail(int64 id, const char *failure)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.pipeline SET failure = $2, state_at = clock_timestamp(),"
				" version = version + 1 WHERE id = $1",
		 .nargs = 2,
		 .types = {INT8OID, TEXTOID}};

	stop_pipeline(&statement, id, failure);
}

void
mill_pipeline_pause(int64 id, const char *reason)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.pipeline SET enabled = false, pause_reason = $2, state_at = clock_timestamp(),"
				" version = version + 1 WHERE id = $1",
		 .nargs = 2,
		 .types = {INT8OID, TEXTOID}};

	stop_pipeline(&statement, id, reason);
}

void
mill_pipeline_fetch_less(int64 id, int bytes)
{
	/* does not change the version: the pipeline's other workers go on */
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.pipeline SET fetch_bytes = least(fetch_bytes, $2) WHERE id = $1",
		 .nargs = 2,
		 .types = {INT8OID, INT4OID}};
	Datum values[2] = {Int64GetDatum(id), Int32GetDatum(bytes)};

	mill_run(&statement, SPI_OK_UPDATE, values, NULL);
}

/* A failure is over, and what a gateway without memory asked for. */
static void
pipeline_resumed(int64 id)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.pipeline SET failure = NULL, fetch_bytes = NULL WHERE id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1] = {Int64GetDatum(id)};

	mill_run(&statement, SPI_OK_UPDATE, values, NULL);
}

/* Transactions of another server say nothing here. */
static void
pipelines_armed(bool refill)
{
	static MillStatement forget_letters = {
		.sql = "UPDATE mill_catalog.dead_letter SET written_by = NULL"};
	static MillStatement forget_deletes = {
		.sql = "UPDATE mill_catalog.pipeline_offset SET deleted_by = NULL"};

	mill_run(&forget_letters, SPI_OK_UPDATE, NULL, NULL);
	mill_run(&forget_deletes, SPI_OK_UPDATE, NULL, NULL);
}

/*
 * The workers that the manager is to run: those of all pipelines that are
 * enabled, not failed, and armed in this database.
 */
static List *
desired_pipeline_workers(void)
{
	static MillStatement statement =
		{.sql = "SELECT id, owner::oid, version, workers, name FROM mill_catalog.pipeline p"
				" WHERE enabled AND failure IS NULL AND mill_catalog.pipeline_obstacle(p) IS NULL"
				" AND armed_system = mill_catalog.system_identifier()"
				" AND armed_database = $1 ORDER BY id",
		 .nargs = 1,
		 .types = {OIDOID}};
	Datum values[1] = {ObjectIdGetDatum(MyDatabaseId)};
	uint64 rows;
	List *work_list = NIL;

	mill_marks_follow_owners(&mill_pipeline_room);
	rows = mill_run(&statement, SPI_OK_SELECT, values, NULL);

	for (uint64 row = 0; row < rows; row++)
	{
		int workers = DatumGetInt32(mill_value(row, 4, NULL));

		for (int n = 0; n < workers; n++)
		{
			MillWork *work = palloc0(sizeof(MillWork));

			work->object_id = DatumGetInt64(mill_value(row, 1, NULL));
			work->worker_no = n;
			work->owner = DatumGetObjectId(mill_value(row, 2, NULL));
			work->version = DatumGetInt64(mill_value(row, 3, NULL));
			work->title = psprintf("pipeline %s", mill_text(row, 5));
			work_list = lappend(work_list, work);
		}
	}
	return work_list;
}

const MillRoom mill_pipeline_room = {
	.kind = "pipeline",
	.preemptible = true,
	.function = "mill_ingest_main",
	.desired = desired_pipeline_workers,
	.object = "pipeline",
	.table = "mill_catalog.pipeline",
	.resumed = pipeline_resumed,
	.armed = pipelines_armed,
};
