/*
 * prepare.c
 *		What a worker is to do, after DDL may have changed it: the source's plan,
 *		its topic, the properties of its gateway.
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "broker/properties.h"
#include "core/catalog.h"
#include "core/xact.h"
#include "ingest/ingest.h"
#include "ingest/rights.h"

/* Milliseconds between checks of the catalog while no messages come. */
#define CHECK_INTERVAL 1000

static MillOnError
error_policy(const MillIngest *ingest)
{
	const char *name = ingest->pipeline->on_error;

	if (name == NULL)
		return ingest->source->stream->on_error;
	if (strcmp(name, "stop") == 0)
		return MILL_ON_ERROR_STOP;
	if (strcmp(name, "skip") == 0)
		return MILL_ON_ERROR_SKIP;
	return MILL_ON_ERROR_DEAD_LETTER;
}

/* Offsets belong to one topic; the source must read it through one stream. */
static void
check_stream(MillIngest *ingest)
{
	const MillPipeline *pipeline = ingest->pipeline;
	const MillStream *stream = ingest->source->stream;

	const char *server = GetForeignServer(stream->serverid)->servername;

	if (!pipeline->start_resolved || pipeline->topic == NULL)
		return;
	if (strcmp(pipeline->topic, stream->layout.topic) == 0)
	{
		/* the server may have been renamed, but the stream may also have another server */
		if (stream->layout.relid == pipeline->stream || pipeline->server == NULL ||
			strcmp(pipeline->server, server) == 0)
			return;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" reads topic \"%s\" of server \"%s\" now, and the offsets of pipeline \"%s\" are of server \"%s\"",
						get_rel_name(stream->layout.relid), stream->layout.topic, server,
						pipeline->name, pipeline->server),
				 errhint(
					 "Call mill.seek to say where to begin there, or let the source read the other stream again.")));
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("stream \"%s\" reads topic \"%s\" now, and the offsets of pipeline \"%s\" are of topic \"%s\"",
					get_rel_name(stream->layout.relid), stream->layout.topic, pipeline->name,
					pipeline->topic),
			 errhint("Call mill.seek to say where to begin in topic \"%s\", or let the source read topic \"%s\" again.",
					 stream->layout.topic, pipeline->topic)));
}

/*
 * Was the gateway given something else than what holds now: addresses of
 * brokers, credentials, the limit on the length of messages?
 */
static bool
gateway_is_outdated(const MillIngest *ingest)
{
	const MillStream *stream = ingest->source->stream;
	List *properties;
	int flags;

	if (ingest->properties == NULL)
		return false;
	properties = mill_properties_of(stream->serverid, ingest->pipeline->owner, &flags);
	return strcmp(mill_properties_text(properties, flags), ingest->properties) != 0 ||
		   (ingest->max_message_bytes != 0 &&
			ingest->max_message_bytes != stream->layout.max_message_bytes);
}

/*
 * Plan the source and bind the batch to it, at the start and after DDL; in a
 * transaction, as the pipeline's owner.
 */
void
mill_ingest_prepare(MillIngest *ingest)
{
	MillPipeline *pipeline = ingest->pipeline;
	MemoryContext old;

	Assert(IsTransactionState() && GetUserId() == pipeline->owner);
	if (ingest->source)
		MemoryContextDelete(ingest->source->context);
	ingest->source = NULL;
	ingest->fields = NULL;
	mill_pipeline_check_relations(pipeline);
	ingest->source = mill_source_prepare(ingest->source_parent, pipeline->owner, pipeline->source,
										 pipeline->target, pipeline->upsert,
										 mill_pipeline_key_index(pipeline));
	check_stream(ingest);
	old = MemoryContextSwitchTo(ingest->source->context);
	ingest->fields = mill_fields_create(ingest->source->stream);
	MemoryContextSwitchTo(old);
	ingest->on_error = error_policy(ingest);
	ingest->restart = gateway_is_outdated(ingest);
	mill_source_init_batch(ingest->source, &ingest->batch);
}

void
mill_ingest_prepare_first(void *arg)
{
	MillIngest *ingest = arg;

	mill_ingest_prepare(ingest);
	mill_pipeline_check_rights(GetUserId(), ingest->pipeline->source,
							   ingest->source->stream->layout.relid, ingest->pipeline->target,
							   ingest->pipeline->upsert);
}

static void
prepare_again(void *arg)
{
	MillIngest *ingest = arg;

	if (!mill_source_is_valid(ingest->source))
		mill_ingest_prepare(ingest);
}

/*
 * Plan again if DDL changed something, so that an error shows at once and not
 * with the next message.
 */
void
mill_ingest_check_source(MillIngest *ingest)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(ingest->checked_at, now, CHECK_INTERVAL) &&
		ingest->checked_at <= now)
		return;
	ingest->checked_at = now;
	mill_xact_begin("looking for changes");
	mill_as_owner(ingest->pipeline->owner, prepare_again, ingest);
	mill_xact_commit();
}
