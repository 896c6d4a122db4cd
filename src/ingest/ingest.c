/*
 * ingest.c
 *		The ingest worker: moves messages from a topic into a table.
 *
 *	wait for frames -> gather a batch -> apply it in one transaction -> again
 *
 * A batch ends when the gateway has nothing more at the moment, or at the
 * pipeline's limits; while one is applied, the next one grows in the pipe and
 * in the gateway.  No transaction is open while waiting.
 *
 * What is durable: the offset rows, committed with the rows of the batch.  In
 * memory only: the batch, and the gateway's position in the topic, which is
 * always at or ahead of the stored offsets.  Whatever dies, the next worker
 * reads the offset rows and starts a gateway there:
 *
 *	gateway dies			-> this worker raises an error and exits
 *	this worker dies		-> its gateway ends with it
 *	before the commit		-> nothing of the batch is visible; it is read again
 *	after the commit		-> rows and offsets are there; not read again
 *
 * A gateway that hangs sends nothing, and mill_gateway_next ends it.  If one
 * exceeds its memory limit, the next one fetches less at once.
 *
 * A gateway reads its partitions from the offsets given at its start and cannot
 * be moved: for a new partition the worker ends, and the next worker reads it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "broker/event.h"
#include "broker/properties.h"
#include "core/catalog.h"
#include "core/worker.h"
#include "core/xact.h"
#include "ingest/ingest.h"
#include "ingest/rights.h"

/* Limit on the gateway's answers, in milliseconds. */
#define ANSWER_TIMEOUT 10000
/* Limit on what is gathered after a failure, in bytes. */
#define EVIDENCE_BYTES (32 * 1024 * 1024)
/* Milliseconds between checks whether to stop. */
#define CHECK_INTERVAL 1000
/* After so much silence of the gateway the worker state shows it, in milliseconds. */
#define SILENCE_SHOWN 3000

extern PGDLLEXPORT void mill_ingest_main(Datum arg);

/*
 * Read the pipeline's row and plan its source.  False if the pipeline is not to
 * run.
 */
static bool
load_pipeline(MillIngest *ingest, int64 id)
{
	mill_xact_begin("loading a pipeline");
	if (!OidIsValid(mill_extension()))
	{
		mill_xact_commit();
		return false;
	}
	MemoryContextSwitchTo(ingest->source_parent);
	SPI_connect();
	ingest->pipeline = mill_pipeline_by_id(id, false);
	SPI_finish();
	if (ingest->pipeline == NULL || !ingest->pipeline->enabled || ingest->pipeline->failure ||
		ingest->pipeline->owner != GetUserId())
	{
		mill_xact_commit();
		return false;
	}
	mill_as_owner(ingest->pipeline->owner, mill_ingest_prepare_first, ingest);
	mill_xact_commit();
	ingest->applying = MemoryContextStrdup(ingest->source_parent,
										   psprintf("applying a batch of pipeline %s",
													ingest->pipeline->name));
	SetConfigOption("synchronous_commit", ingest->pipeline->sync ? "on" : "off", PGC_SUSET,
					PGC_S_OVERRIDE);
	return true;
}

/* Start a gateway with the owner's user mapping and rights. */
static void
start_gateway(MillIngest *ingest)
{
	List *properties;
	int flags;

	mill_xact_begin("starting a gateway");
	MemoryContextSwitchTo(ingest->source_parent);
	properties = mill_properties_of(ingest->source->stream->serverid, GetUserId(), &flags);
	ingest->properties = mill_properties_text(properties, flags);
	ingest->server_name = GetForeignServer(ingest->source->stream->serverid)->servername;
	mill_xact_commit();

	MemoryContextSwitchTo(ingest->source_parent);
	ingest->gateway = mill_gateway_start(properties, flags, ingest->pipeline->fetch_bytes);
	ingest->topic_partitions = mill_gateway_partitions(ingest->gateway,
													   ingest->source->stream->layout.topic,
													   ANSWER_TIMEOUT);
}

static void
assign_partitions(MillIngest *ingest)
{
	MillAssignment *assignments = palloc0(sizeof(MillAssignment) * (ingest->npartitions + 1));

	for (int i = 0; i < ingest->npartitions; i++)
	{
		const MillPartition *p = &ingest->partitions[i];

		/* also the message before, if it is still there: see check_witness */
		assignments[i].partition = p->partition;
		assignments[i].start = p->last_ms >= 0 && p->stored > p->low ? p->stored - 1 : p->stored;
		assignments[i].end = -1;
	}
	ingest->max_message_bytes = ingest->source->stream->layout.max_message_bytes;
	mill_gateway_assign(ingest->gateway, assignments, ingest->npartitions,
						ingest->max_message_bytes);
}

static MillPartition *
find_partition(MillIngest *ingest, int32 partition)
{
	/* this worker reads every n-th partition of the topic */
	int i = partition / ingest->pipeline->workers;

	if (i < ingest->npartitions && ingest->partitions[i].partition == partition)
		return &ingest->partitions[i];
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the gateway delivered partition %d, which it was not asked for", partition)));
}

/* Set the pipeline failed; it stops until its owner acts. */
static void
fail_pipeline(MillIngest *ingest, const char *failure)
{
	mill_ingest_stop(ingest, mill_pipeline_fail, failure);
	ingest->failed = true;
}

/* ---- gathering ---- */

static void
empty_batch(MillIngest *ingest)
{
	MillBatch *batch = &ingest->batch;

	MemoryContextReset(batch->context);
	batch->count = 0;
	batch->messages = NULL;
	batch->errors = NULL;
	ingest->capacity = 0;
	ingest->batch_bytes = 0;
	ingest->batch_began = 0;
}

/* Make space for one more message. */
static void
grow_batch(MillIngest *ingest)
{
	MillBatch *batch = &ingest->batch;
	int room = ingest->capacity ? ingest->capacity * 2 : 4096;
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	batch->messages = batch->messages
						  ? repalloc_huge(batch->messages, sizeof(*batch->messages) * room)
						  : palloc(sizeof(*batch->messages) * room);
	ingest->capacity = room;
	MemoryContextSwitchTo(old);
}

/*
 * When a gateway starts it first delivers the last message that was applied.
 * If its timestamp is another one now, this is another topic of the same name.
 */
static void
check_witness(MillIngest *ingest, const MillPartition *partition, const MillMessage *message)
{
	if (message->offset == partition->stored - 1 && partition->last_ms >= 0 &&
		message->timestamp_ms != partition->last_ms)
		fail_pipeline(ingest,
					  psprintf("topic \"%s\", partition %d has another message at offset %lld than was read there;"
							   " it was created again; call mill.seek to go on, or drop the pipeline",
							   ingest->source->stream->layout.topic, partition->partition,
							   (long long) message->offset));
}

/* Copy a frame's messages into the batch, in the order they came. */
static void
take_messages(MillIngest *ingest, const MillFrame *frame)
{
	MillBatch *batch = &ingest->batch;
	char *copy = MemoryContextAllocHuge(batch->context, frame->length);
	char *end = copy + frame->length;
	int before = batch->count;

	memcpy(copy, mill_frame_payload(frame), frame->length);
	for (char *at = copy; at < end; at += ((MillMessage *) at)->size)
	{
		const MillMessage *message = (const MillMessage *) at;
		MillPartition *partition = find_partition(ingest, message->partition);

		/* what was applied before is never applied again */
		if (message->offset < partition->position)
		{
			check_witness(ingest, partition, message);
			continue;
		}
		Assert(message->offset >= partition->stored);
		partition->position = message->offset + 1;
		partition->ended = false;
		if (batch->count == ingest->capacity)
			grow_batch(ingest);
		batch->messages[batch->count++] = message;
	}
	/* a frame with nothing new does not begin a batch */
	if (batch->count == before)
	{
		pfree(copy);
		return;
	}
	ingest->fetched = true;
	ingest->batch_bytes += frame->length;
	if (ingest->batch_began == 0)
		ingest->batch_began = GetCurrentTimestamp();
}

/* The end of a partition was reached; it may be past the last message. */
static void
take_end(MillIngest *ingest, const MillFrame *frame)
{
	int32 number;
	int64 position;
	MillPartition *partition;

	memcpy(&number, mill_frame_payload(frame), sizeof(number));
	memcpy(&position, mill_frame_payload(frame) + 8, sizeof(position));
	partition = find_partition(ingest, number);
	partition->ended = true;
	ingest->fetched = true;
	if (position > partition->position)
		partition->position = position;
	if (partition->position != partition->stored || partition->high != partition->position)
		partition->moved = true;
	partition->high = partition->position;
}

static void
take_watermarks(MillIngest *ingest, const MillFrame *frame)
{
	const MillWatermark *marks = (const MillWatermark *) mill_frame_payload(frame);
	int count = frame->length / sizeof(MillWatermark);

	for (int i = 0; i < count; i++)
	{
		MillPartition *partition = find_partition(ingest, marks[i].partition);

		if (marks[i].low >= 0)
			partition->low = marks[i].low;
		if (marks[i].high > partition->high && !partition->ended)
			partition->high = marks[i].high;
		partition->top = marks[i].high;
	}
}

/* Handle an event of the client library; true if the pipeline has failed. */
static bool
take_event(MillIngest *ingest, const MillFrame *frame)
{
	MillGatewayEvent event = mill_gateway_event(frame);

	switch (event.kind)
	{
		case MILL_EVENT_LOG:
			ereport(DEBUG1, (errmsg_internal("kafka client: %s", event.message)));
			return false;
		case MILL_EVENT_RECOVERED:
			ingest->error_shown = false;
			mill_slot_report(mill_my_slot, MILL_STATE_RUNNING, NULL);
			return false;
		case MILL_EVENT_DEGRADED:
		case MILL_EVENT_REFUSED:
			ereport(LOG, (errmsg("pipeline \"%s\": %s", ingest->pipeline->name, event.message),
						  event.detail ? errdetail_internal("%s", event.detail) : 0,
						  event.hint ? errhint("%s", event.hint) : 0));
			ingest->error_shown = true;
			mill_slot_report(mill_my_slot, MILL_STATE_DEGRADED,
							 event.detail ? psprintf("%s (%s)", event.message, event.detail)
										  : event.message);
			return false;
		case MILL_EVENT_FORBIDDEN:
			mill_gateway_raise(&event, ERRCODE_INSUFFICIENT_PRIVILEGE);
		case MILL_EVENT_FATAL:
			ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("kafka client cannot go on"),
							errdetail_internal("%s", event.message),
							event.hint ? errhint("%s", event.hint) : 0));
			break;
		case MILL_EVENT_TOPIC_GONE:
			fail_pipeline(ingest,
						  psprintf("topic \"%s\" was deleted; drop the pipeline, or call mill.seek if the topic was created again",
								   ingest->source->stream->layout.topic));
			return true;
		case MILL_EVENT_OUT_OF_RANGE:
			/* end: the next worker compares offsets and topic, and has the better error */
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							errmsg("offset of partition %d is no longer in topic \"%s\"",
								   event.partition, ingest->source->stream->layout.topic),
							errdetail_internal("%s", event.message)));
			break;
	}
	return false;
}

/* Handle one frame; true if the worker is to end. */
static bool
take_frame(MillIngest *ingest, const MillFrame *frame)
{
	switch (frame->type)
	{
		case MILL_REPLY_DATA:
			take_messages(ingest, frame);
			return ingest->failed;
		case MILL_REPLY_END:
			take_end(ingest, frame);
			return false;
		case MILL_REPLY_HIGH:
			take_watermarks(ingest, frame);
			return false;
		case MILL_REPLY_EVENT:
		{
			/* texts are in the batch's context: an outage may bring many events */
			MemoryContext old = MemoryContextSwitchTo(ingest->batch.context);
			bool end = take_event(ingest, frame);

			MemoryContextSwitchTo(old);
			return end;
		}
		case MILL_REPLY_PARTITIONS:
		{
			int32 count;

			memcpy(&count, mill_frame_payload(frame), sizeof(count));
			return count > ingest->topic_partitions;
		}
		default:
			elog(ERROR, "unexpected frame of type %c from the gateway", frame->type);
	}
}

/* How many messages to gather for judging a failure: more with each one in a row. */
static int
evidence_needed(const MillIngest *ingest)
{
	return MILL_PIECE << Min(2 * ingest->failures, 6);
}

/* Has the batch come to one of its limits? */
static bool
is_full(const MillIngest *ingest)
{
	const MillPipeline *pipeline = ingest->pipeline;

	/* after a failure gather more than one piece, to tell whether message or pipeline is bad */
	if (ingest->failures > 0 && ingest->batch.count < evidence_needed(ingest) &&
		ingest->batch_bytes < EVIDENCE_BYTES)
		return ingest->batch_began != 0 &&
			   TimestampDifferenceExceeds(ingest->batch_began, GetCurrentTimestamp(), 1000);
	return ingest->batch.count >= pipeline->batch_rows ||
		   ingest->batch_bytes >= pipeline->batch_bytes ||
		   (ingest->batch_began != 0 &&
			TimestampDifferenceExceeds(ingest->batch_began, GetCurrentTimestamp(),
									   pipeline->max_wait_ms));
}

/* Take the frames that are here, up to a full batch; true if the worker is to end. */
static bool
gather(MillIngest *ingest)
{
	const MillFrame *frame;

	while (!is_full(ingest) && (frame = mill_gateway_next(ingest->gateway)) != NULL)
	{
		if (take_frame(ingest, frame))
			return true;
	}
	return false;
}

static bool
has_progress(const MillIngest *ingest)
{
	if (ingest->batch.count > 0)
		return true;
	for (int i = 0; i < ingest->npartitions; i++)
	{
		if (ingest->partitions[i].moved)
			return true;
	}
	return false;
}

static bool
all_ended(const MillIngest *ingest)
{
	for (int i = 0; i < ingest->npartitions; i++)
	{
		if (!ingest->partitions[i].ended)
			return false;
	}
	return true;
}

/* A partition whose committed messages are all read and where an open transaction waits, or NULL. */
static const MillPartition *
held_partition(const MillIngest *ingest)
{
	for (int i = 0; i < ingest->npartitions; i++)
	{
		const MillPartition *p = &ingest->partitions[i];

		if (p->ended && p->top > p->position)
			return p;
	}
	return NULL;
}

/*
 * Show in the worker state whether we are behind.  An error, also the previous
 * worker's, stays shown until something is fetched; "idle" is only shown while
 * the gateway is alive.  Allocates nothing, because it is called in each loop.
 */
static void
report_state(MillIngest *ingest)
{
	MillSlotInfo slot;
	MillState state = all_ended(ingest) ? MILL_STATE_IDLE : MILL_STATE_RUNNING;
	const MillPartition *held = state == MILL_STATE_IDLE ? held_partition(ingest) : NULL;
	int silence = mill_gateway_silence(ingest->gateway);
	char reason[2 * MILL_REASON_SIZE] = ""; /* the slot cuts it between words */

	if (ingest->fetched || ingest->npartitions == 0)
		ingest->error_shown = false;
	if (silence >= SILENCE_SHOWN)
	{
		state = MILL_STATE_DEGRADED;
		snprintf(reason, sizeof(reason),
				 "the kafka gateway has given no sign of life for %d seconds", silence / 1000);
	}
	else if (ingest->error_shown)
		return;
	else if (held)
		snprintf(reason, sizeof(reason),
				 "everything committed is read; an open transaction holds partition %d at offset %lld",
				 held->partition, (long long) held->position);
	else if (ingest->fields_reason)
		snprintf(reason, sizeof(reason), "%s; %s",
				 state == MILL_STATE_IDLE ? "everything is read" : "reading", ingest->fields_reason);
	(void) mill_slot_get(mill_my_slot, &slot);
	if (slot.state != state || strcmp(slot.reason, reason) != 0)
		mill_slot_report(mill_my_slot, state, reason);
}

/* Update the reason about fields that no message has. */
static void
check_missing_fields(MillIngest *ingest)
{
	char *reason;

	if (!mill_fields_check(ingest->fields, &ingest->batch))
		return;
	reason = mill_fields_reason(ingest->fields);
	if (ingest->fields_reason)
		pfree(ingest->fields_reason);
	ingest->fields_reason = reason ? MemoryContextStrdup(ingest->source_parent, reason) : NULL;
}

static void
run(MillIngest *ingest)
{
	while (!mill_worker_should_stop())
	{
		bool end = gather(ingest);

		if (ingest->failed)
			return;
		/* texts about a batch live as long as the batch */
		MemoryContextSwitchTo(ingest->batch.context);
		if (has_progress(ingest))
		{
			if (!mill_apply(ingest))
				return;
			/* offsets that moved before the first fetch do not end a row of failures */
			if (ingest->fetched && ingest->failures > 0)
			{
				mill_slot_succeed(mill_my_slot);
				ingest->failures = 0;
			}
			check_missing_fields(ingest);
			MemoryContextSwitchTo(ingest->source_parent);
			empty_batch(ingest);
		}
		else
		{
			MemoryContextSwitchTo(ingest->source_parent);
			mill_ingest_check_source(ingest);
		}
		report_state(ingest);
		ingest->fetched = false;
		if (end || ingest->restart)
			return;
		mill_gateway_wait(ingest->gateway, CHECK_INTERVAL);
		mill_worker_serve();
	}
}

/* ---- a gateway that exceeds its memory limit ---- */

/* The next smaller limit; a broker always sends at least one whole batch. */
static int
smaller_fetch(int bytes)
{
	static const int steps[] = {1024 * 1024, 128 * 1024, 16 * 1024, 1000};

	for (int i = 0; i < lengthof(steps); i++)
	{
		if (bytes == 0 || bytes > steps[i])
			return steps[i];
	}
	return bytes;
}

/*
 * Positions of the partitions that are known to have more to read, or of all
 * if none is known to; *first is one of them.
 */
static char *
reading_positions(const MillIngest *ingest, const MillPartition **first)
{
	StringInfoData positions;
	bool all = true;

	*first = NULL;
	for (int i = 0; i < ingest->npartitions; i++)
		all = all && ingest->partitions[i].position >= ingest->partitions[i].high;
	initStringInfo(&positions);
	for (int i = 0; i < ingest->npartitions; i++)
	{
		const MillPartition *p = &ingest->partitions[i];

		if (!all && p->position >= p->high)
			continue;
		if (*first == NULL)
			*first = p;
		appendStringInfo(&positions, "%spartition %d from offset %lld", positions.len ? ", " : "",
						 p->partition, (long long) p->position);
	}
	return positions.data;
}

/*
 * The current error is that the gateway exceeded its memory limit: let the next
 * gateway fetch less at once.  If that is not possible, say in the error where
 * the message must be that is too large.  Raises the error again.  Called
 * outside of a transaction, where all reading from the gateway is done.
 */
static void
fetch_less(MillIngest *ingest)
{
	int bytes = smaller_fetch(ingest->pipeline->fetch_bytes);
	ErrorData *error;

	Assert(!IsTransactionState());
	MemoryContextSwitchTo(ingest->source_parent);
	error = CopyErrorData();
	FlushErrorState();
	if (bytes == ingest->pipeline->fetch_bytes && ingest->npartitions > 0)
	{
		const MillPartition *p;
		char *positions = reading_positions(ingest, &p);

		error->detail =
			psprintf("A single batch unpacks to more than that. Topic \"%s\" was being read: %s.",
					 ingest->source->stream->layout.topic, positions);
		error->hint =
			psprintf("Call mill.seek with an offset behind that batch, for example mill.seek('%s', '{\"%d\": %lld}').",
					 ingest->pipeline->name, p->partition, (long long) p->position + 1);
		ReThrowError(error);
	}
	error->detail = psprintf("%s The next try fetches at most %d bytes at once.", error->detail,
							 bytes);
	mill_xact_begin("fetching less");
	SPI_connect();
	mill_pipeline_fetch_less(ingest->pipeline->id, bytes);
	SPI_finish();
	mill_xact_commit();
	ReThrowError(error);
}

/* Start a gateway and run until the worker is to end. */
static void
read_topic(MillIngest *ingest)
{
	MillSlotInfo slot;

	(void) mill_slot_get(mill_my_slot, &slot);
	ingest->failures = slot.failures;
	PG_TRY();
	{
		start_gateway(ingest);
		if (mill_offsets_load(ingest))
		{
			assign_partitions(ingest);
			/* keep showing the previous worker's error until something is fetched */
			ingest->error_shown = slot.state == MILL_STATE_FAILED ||
								  slot.state == MILL_STATE_DEGRADED;
			if (!ingest->error_shown)
				mill_slot_report(mill_my_slot, MILL_STATE_RUNNING, NULL);
			run(ingest);
		}
	}
	PG_CATCH();
	{
		if (ingest->gateway && mill_gateway_out_of_memory(ingest->gateway))
			fetch_less(ingest);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* Error context of this worker. */
static void
name_pipeline(void *arg)
{
	const MillIngest *ingest = arg;

	if (ingest->pipeline)
		errcontext("pipeline \"%s\"", ingest->pipeline->name);
}

/* Body of the worker; see mill_worker_run. */
static void
ingest_body(int64 pipeline, int worker_no)
{
	MillIngest *ingest = MemoryContextAllocZero(TopMemoryContext, sizeof(MillIngest));
	ErrorContextCallback context;

	context.callback = name_pipeline;
	context.arg = ingest;
	context.previous = error_context_stack;
	error_context_stack = &context;
	ingest->worker_no = worker_no;
	ingest->source_parent = AllocSetContextCreate(TopMemoryContext, "pg_mill ingest",
												  ALLOCSET_DEFAULT_SIZES);
	ingest->batch.context = AllocSetContextCreate(TopMemoryContext, "pg_mill batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(ingest->source_parent);

	if (!load_pipeline(ingest, pipeline))
		return;
	read_topic(ingest);
	error_context_stack = context.previous;
}

void
mill_ingest_main(Datum arg)
{
	mill_worker_run(arg, ingest_body);
}
