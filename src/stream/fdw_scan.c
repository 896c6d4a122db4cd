/*
 * fdw_scan.c
 *		Running a scan of a stream.
 *
 * Reading the topic: the gateway is started for the first row and ended after
 * the last one.  Its memory context is a child of the query's, so an error or a
 * LIMIT ends it too.  A message is decoded when its row is asked for; it is in
 * the gateway's frame, which is valid until the next one is read, and that is
 * not before the next row.
 *
 * Reading a bound batch: no gateway, no network.  The error of a bad message is
 * noted in the batch, and there is no row; the caller decides what to do.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/error.h"
#include "stream/fdw.h"

/* How long brokers may be unreachable before a query gives up. */
#define OUTAGE_LIMIT_MS 30000

/* How long a partition may end before its known end. */
#define SHORT_END_LIMIT_MS 10000

static _Noreturn void raise_bad_message(MillScan *scan, const MillDecodeError *error);

void
mill_fdw_begin(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	Relation relation = node->ss.ss_currentRelation;
	MillScan *scan = palloc0(sizeof(MillScan));
	Bitmapset *needed = NULL;
	ListCell *cell;

	node->fdw_state = scan;
	scan->stream = mill_stream_load(RelationGetRelid(relation));
	scan->conditions = list_nth(plan->fdw_private, MILL_PLAN_CONDITIONS);
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	scan->userid = mill_scan_user(node);
	scan->values = ExecInitExprList(plan->fdw_exprs, (PlanState *) node);
	scan->row = AllocSetContextCreate(CurrentMemoryContext, "stream row", ALLOCSET_DEFAULT_SIZES);
	foreach (cell, (List *) list_nth(plan->fdw_private, MILL_PLAN_ATTRIBUTES))
		needed = bms_add_member(needed, lfirst_int(cell));
	scan->decoder = mill_decoder_create(&scan->stream->layout, RelationGetDescr(relation), needed);
}

/* ---- one message ---- */

static void
scan_error_context(void *arg)
{
	MillScan *scan = arg;

	errcontext("topic \"%s\", partition %d, offset %lld", scan->stream->layout.topic,
			   scan->message->partition, (long long) scan->message->offset);
}

/*
 * Decode the scan's message into the slot; the values are valid until the next
 * call.  Errors raised in here say where the message is.
 */
static MillVerdict
decode(MillScan *scan, TupleTableSlot *slot, MillDecodeError *error)
{
	ErrorContextCallback callback;
	MemoryContext old;
	MillVerdict verdict;

	callback.callback = scan_error_context;
	callback.arg = scan;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	ExecClearTuple(slot);
	MemoryContextReset(scan->row);
	old = MemoryContextSwitchTo(scan->row);
	verdict = mill_decode(scan->decoder, scan->message, slot->tts_values, slot->tts_isnull, error);
	MemoryContextSwitchTo(old);

	error_context_stack = callback.previous;
	if (verdict == MILL_ROW || verdict == MILL_DELETE)
	{
		ExecStoreVirtualTuple(slot);
		slot->tts_tableOid = scan->stream->layout.relid;
	}
	return verdict;
}

/* What a delete is, by the scan's treatment of tombstones. */
static MillVerdict
delete_as(MillTombstone tombstone, MillDecodeError *error)
{
	switch (tombstone)
	{
		case MILL_TOMBSTONE_NULLS:
			return MILL_DELETE;
		case MILL_TOMBSTONE_SKIP:
			return MILL_SKIP;
		case MILL_TOMBSTONE_DEAD_LETTER:
			break;
	}
	error->sqlerrcode = ERRCODE_NULL_VALUE_NOT_ALLOWED;
	error->message = "message has a null value (tombstone)";
	return MILL_BAD;
}

/* Decode the scan's message with this function, and apply the treatment of deletes. */
static MillVerdict
take_verdict(MillScan *scan, TupleTableSlot *slot, MillTombstone tombstone,
			 MillVerdict (*function)(MillScan *scan, TupleTableSlot *slot, MillDecodeError *error),
			 MillDecodeError *error)
{
	MillVerdict verdict = MILL_DELETE;

	/* a null value is a delete in every format; decode it only if a row is wanted */
	if (scan->message->value_length >= 0 || tombstone == MILL_TOMBSTONE_NULLS)
		verdict = function(scan, slot, error);
	return verdict == MILL_DELETE ? delete_as(tombstone, error) : verdict;
}

/* ---- a bound batch ---- */

static void
note_error(MillBatch *batch, int ordinal, const MillDecodeError *error)
{
	MillDecodeError *copy = MemoryContextAlloc(batch->context, sizeof(MillDecodeError));

	*copy = *error;
	copy->message = MemoryContextStrdup(batch->context, error->message);
	copy->detail = error->detail ? MemoryContextStrdup(batch->context, error->detail) : NULL;
	copy->hint = error->hint ? MemoryContextStrdup(batch->context, error->hint) : NULL;
	copy->column = error->column ? MemoryContextStrdup(batch->context, error->column) : NULL;
	Assert(error->message && error->sqlerrcode != 0);
	batch->errors[ordinal] = copy;
}

static TupleTableSlot *
next_bound_row(MillScan *scan, TupleTableSlot *slot)
{
	MillBatch *batch = scan->batch;

	while (scan->ordinal < batch->last)
	{
		int ordinal = scan->ordinal++;
		MillDecodeError error = {0};
		MillVerdict verdict;

		CHECK_FOR_INTERRUPTS();
		if (batch->errors[ordinal])
			continue;
		batch->current = ordinal;
		scan->message = batch->messages[ordinal];
		scan->messages++;

		batch->decoder = scan->decoder;
		verdict = take_verdict(scan, slot, batch->tombstone, decode, &error);
		batch->decoder = NULL;
		batch->deletes[ordinal] = verdict == MILL_DELETE;
		if (verdict == MILL_BAD)
			note_error(batch, ordinal, &error);
		else if (verdict != MILL_SKIP)
		{
			ItemPointerSet(&slot->tts_tid, (BlockNumber) ordinal, FirstOffsetNumber);
			return slot;
		}
	}
	return ExecClearTuple(slot);
}

/* ---- the topic ---- */

/* A partition's position is known: is that the end of its range? */
static void
take_range_end(MillScan *scan, const char *payload)
{
	int32 partition;
	int64 position;

	memcpy(&partition, payload, sizeof(partition));
	memcpy(&position, payload + 8, sizeof(position));
	for (int i = 0; i < scan->nranges; i++)
	{
		MillRange *range = &scan->ranges[i];

		if (range->partition != partition || range->ended)
			continue;
		if (position >= range->end)
		{
			range->ended = true;
			scan->running--;
		}

		/*
		 * Before its end: either a replica is behind and will catch up, or the
		 * topic has lost messages and will not.
		 */
		else if (scan->short_since == 0)
			scan->short_since = GetCurrentTimestamp();
	}
}

static void
take_scan_event(MillScan *scan, const MillFrame *frame)
{
	MemoryContext old = MemoryContextSwitchTo(scan->reading);
	MillGatewayEvent event = mill_gateway_event(frame);

	MemoryContextSwitchTo(old);
	switch (event.kind)
	{
		case MILL_EVENT_LOG:
			elog(DEBUG1, "gateway: %s", event.message);
			break;
		case MILL_EVENT_RECOVERED:
			scan->connection_event = NULL;
			break;
		case MILL_EVENT_DEGRADED:
			if (scan->connection_event == NULL)
				scan->disconnected_since = GetCurrentTimestamp();
			scan->connection_event = MemoryContextAlloc(scan->reading, sizeof(event));
			*scan->connection_event = event;
			break;
		case MILL_EVENT_REFUSED:
		case MILL_EVENT_FORBIDDEN:
			mill_gateway_raise(&event, ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION);
		case MILL_EVENT_OUT_OF_RANGE:
			ereport(ERROR,
					(errcode(ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION),
					 errmsg("messages of topic \"%s\", partition %d went away while they were read",
							scan->stream->layout.topic, event.partition),
					 errdetail_internal("%s", event.message),
					 errhint("Retention or a deletion passed the scan; read again.")));
			break;
		default:
			ereport(ERROR, (errcode(ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION),
							errmsg("could not read topic \"%s\"", scan->stream->layout.topic),
							errdetail_internal("%s", event.message),
							event.hint ? errhint("%s", event.hint) : 0));
	}
}

/* Wait for the gateway, but give up if brokers or partition stay out of reach for long. */
static void
wait_for_gateway(MillScan *scan)
{
	if (mill_gateway_wait(scan->gateway, 1000))
		return;
	if (scan->connection_event &&
		TimestampDifferenceExceeds(scan->disconnected_since, GetCurrentTimestamp(), OUTAGE_LIMIT_MS))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION),
				 errmsg("could not read topic \"%s\"", scan->stream->layout.topic),
				 errdetail_internal("%s: %s", scan->connection_event->message,
									scan->connection_event->detail ? scan->connection_event->detail
																   : "no answer"),
				 scan->connection_event->hint ? errhint("%s", scan->connection_event->hint) : 0));
	if (scan->short_since != 0 &&
		TimestampDifferenceExceeds(scan->short_since, GetCurrentTimestamp(), SHORT_END_LIMIT_MS))
		ereport(ERROR, (errcode(ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION),
						errmsg("topic \"%s\" ends before the offsets that its broker promised",
							   scan->stream->layout.topic),
						errhint("If the topic was recreated or lost messages, read again.")));
}

/*
 * The next message of the topic, NULL when all ranges have ended; valid until
 * the next call.
 */
static const MillMessage *
next_message(MillScan *scan)
{
	while (scan->at == scan->frame_end)
	{
		const MillFrame *frame;

		if (scan->running == 0)
			return NULL;
		CHECK_FOR_INTERRUPTS();
		frame = mill_gateway_next(scan->gateway);
		if (frame == NULL)
		{
			wait_for_gateway(scan);
			continue;
		}
		switch (frame->type)
		{
			case MILL_REPLY_DATA:
				scan->at = mill_frame_payload(frame);
				scan->frame_end = scan->at + frame->length;
				scan->short_since = 0;
				break;
			case MILL_REPLY_END:
				take_range_end(scan, mill_frame_payload(frame));
				break;
			case MILL_REPLY_EVENT:
				take_scan_event(scan, frame);
				break;
			default:
				/* new watermarks and partitions do not matter: this scan's ends are fixed */
				break;
		}
	}

	scan->message = (const MillMessage *) scan->at;
	scan->at += scan->message->size;
	scan->messages++;
	return scan->message;
}

static void
raise_bad_message(MillScan *scan, const MillDecodeError *error)
{
	ereport(ERROR,
			(errcode(error->sqlerrcode), errmsg_internal("%s", error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 errhint(
				 "To read past bad messages set the stream's option on_error to 'skip', or narrow the offsets that are read."),
			 errcontext("topic \"%s\", partition %d, offset %lld", scan->stream->layout.topic,
						scan->message->partition, (long long) scan->message->offset)));
}

/*
 * Decode with on_error 'skip': input functions of some types raise errors
 * instead of returning them, which only a subtransaction can contain.  It has
 * ended when this returns or raises.  Such an error is the message's, whatever
 * its SQLSTATE.
 */
static MillVerdict
decode_contained(MillScan *scan, TupleTableSlot *slot, MillDecodeError *error)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile MillVerdict verdict = MILL_BAD;

	/* no subtransactions in parallel mode; there such an error ends the query */
	if (IsInParallelMode())
		return decode(scan, slot, error);

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		verdict = decode(scan, slot, error);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *raised;

		MemoryContextSwitchTo(context);
		raised = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (mill_error_is_environment(raised->sqlerrcode))
			ReThrowError(raised);
		FreeErrorData(raised);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return verdict;
}

static TupleTableSlot *
next_row(MillScan *scan, TupleTableSlot *slot)
{
	const MillStream *stream = scan->stream;
	bool skip = stream->on_error == MILL_ON_ERROR_SKIP;

	while (next_message(scan))
	{
		MillDecodeError error = {0};
		MillVerdict verdict = take_verdict(scan, slot, stream->tombstone,
										   skip ? decode_contained : decode, &error);

		if (verdict == MILL_ROW || verdict == MILL_DELETE)
			return slot;
		if (verdict == MILL_SKIP)
			continue;
		if (!skip)
			raise_bad_message(scan, &error);
		scan->skipped++;
	}

	/* the slot's values may point into the previous frame */
	ExecClearTuple(slot);
	mill_fdw_close_topic(scan);
	return slot;
}

/* ---- the scan ---- */

TupleTableSlot *
mill_fdw_iterate(ForeignScanState *node)
{
	MillScan *scan = (MillScan *) node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	if (!scan->opened)
	{
		scan->opened = true;
		if (scan->batch)
			scan->ordinal = scan->batch->first;
		else
			mill_fdw_open_topic(node, scan);
	}
	return scan->batch ? next_bound_row(scan, slot) : next_row(scan, slot);
}

/* Planstate walker of mill_stream_bind. */
static bool
bind_scans(PlanState *node, void *batch)
{
	if (node == NULL)
		return false;
	if (IsA(node, ForeignScanState) &&
		castNode(ForeignScanState, node)->fdwroutine->IterateForeignScan == mill_fdw_iterate)
	{
		MillScan *scan = castNode(ForeignScanState, node)->fdw_state;

		if (scan->stream->layout.relid == ((MillBatch *) batch)->stream)
		{
			Assert(!scan->opened);
			scan->batch = batch;
		}
	}
	return planstate_tree_walker(node, bind_scans, batch);
}

void
mill_stream_bind(PlanState *query, MillBatch *batch)
{
	Assert(0 <= batch->first && batch->first <= batch->last && batch->last <= batch->count);
	Assert(batch->errors && batch->deletes);
	(void) bind_scans(query, batch);
}

void
mill_fdw_rescan(ForeignScanState *node)
{
	MillScan *scan = (MillScan *) node->fdw_state;

	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	mill_fdw_close_topic(scan);
	scan->opened = false;
}

void
mill_fdw_end(ForeignScanState *node)
{
	MillScan *scan = (MillScan *) node->fdw_state;

	if (scan == NULL)
		return;
	mill_fdw_close_topic(scan);
	if (scan->skipped > 0)
		ereport(NOTICE, (errmsg_plural("skipped %lld bad message of topic \"%s\"",
									   "skipped %lld bad messages of topic \"%s\"", scan->skipped,
									   (long long) scan->skipped, scan->stream->layout.topic)));
}
