/*
 * apply.c
 *		Apply a batch to the target, with its dead letters and offsets, in one
 *		transaction.
 *
 *	1. lock the offset rows where they have the offsets we expect (the fence)
 *	2. run the source query over the batch into the writer
 *	3. write the dead letters, advance the offsets, commit
 *
 * An error aborts all of it.  The batch is still in memory, and what happens
 * next depends on the error:
 *
 * - transient (lock timeout, deadlock, serialization, full disk, ...): back
 *   off, then apply the same batch again.  Never a dead letter.
 * - any other: apply the batch again in small pieces, each a transaction, in
 *   which halving finds exactly the messages that fail; whether the messages
 *   or the pipeline are to blame is judged there too (isolate.c).
 *
 * A message that the decoder finds bad without an error needs no halving.
 *
 * DDL on the target waits for a transaction of ours, so one takes about
 * APPLY_TIME, whatever a row costs: pieces grow or shrink by what the last ones
 * took, and one that takes longer than APPLY_LIMIT is undone and made smaller.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "portability/instr_time.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/compat.h"
#include "core/settings.h"
#include "core/worker.h"
#include "core/xact.h"
#include "ingest/ingest.h"

/* The size of a worker's first piece; by how much pieces grow, and shrink when undone. */
#define FIRST_PIECE 1000
#define GROWTH 4
#define SHRINKAGE 16
/* Milliseconds: what a piece should take; the most it may take if it has several messages. */
#define APPLY_TIME 500.0
#define APPLY_LIMIT 1500
/* The same batch is retried so often before the worker gives up. */
#define TRIES 10

typedef enum Outcome
{
	APPLIED,
	FENCED,	 /* the pipeline's row or offsets are not as expected; nothing was done */
	STOPPED, /* at a bad message, as on_error => 'stop' says */
	ISOLATE, /* undone: find the messages that fail */
	SHRINK,	 /* undone: it took too long */
	REPEAT	 /* undone: transient error, retry */
} Outcome;

/* Set while a piece is applied, else MAX_TIMEOUTS. */
static TimeoutId piece_clock = MAX_TIMEOUTS;

/* Timeout handler: cancel a piece that took too long, like a user's cancel request. */
static volatile sig_atomic_t piece_expired = false;

static void
expire_piece(void)
{
	piece_expired = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/* Start the piece's timeout, after the locks that it waits for were taken. */
static void
start_clock(int count)
{
	static TimeoutId id = MAX_TIMEOUTS;

	if (id == MAX_TIMEOUTS)
		id = RegisterTimeout(USER_TIMEOUT, expire_piece);
	piece_expired = false;
	if (count > 1)
		enable_timeout_after(id, APPLY_LIMIT);
	piece_clock = id;
}

/* the timeout may have fired too late to cancel anything */
static void
stop_clock(void)
{
	if (piece_clock == MAX_TIMEOUTS)
		return;
	disable_timeout(piece_clock, false);
	piece_clock = MAX_TIMEOUTS;
	if (piece_expired)
		QueryCancelPending = false;
}

static uint64
apply(MillIngest *ingest, int first, int last, bool piecewise)
{
	uint64 written;
	uint64 received = 0;

	/* from here on an error may be caused by a message */
	ingest->applying_rows = true;
	start_clock(last - first);
	if (piecewise)
	{
		written = mill_isolate(ingest, first, last, &received);
	}
	else
	{
		ingest->source->received = 0;
		written = mill_apply_range(ingest->source, &ingest->batch, first, last);
		/* deferred triggers are code of the pipeline's owner: run them inside mill_as_owner */
		AfterTriggerSetState(makeNode(ConstraintsSetStmt));
		received = ingest->source->received;
	}
	ingest->source->passed |= received > 0;
	stop_clock();
	ingest->applying_rows = false;
	return written;
}

/* ---- a piece of the batch in a transaction ---- */

static int
first_error(const MillBatch *batch, int first, int last)
{
	while (first < last && batch->errors[first] == NULL)
		first++;
	return first;
}

/* Were there more than max_errors bad messages in the last minute?  Counts these. */
static bool
count_bad(MillIngest *ingest, uint64 bad)
{
	TimestampTz now = GetCurrentTimestamp();

	if (bad == 0 || ingest->pipeline->max_errors == 0)
		return false;
	if (TimestampDifferenceExceeds(ingest->minute_began, now, 60 * 1000))
	{
		ingest->minute_began = now;
		ingest->bad_in_minute = 0;
	}
	ingest->bad_in_minute += bad;
	return ingest->bad_in_minute > ingest->pipeline->max_errors;
}

/* Write dead letters for the bad messages of the range, or count them as skipped. */
static void
handle_bad_messages(MillIngest *ingest, int first, int last, MillTally *tally)
{
	MillBatch *batch = &ingest->batch;

	for (int i = first_error(batch, first, last); i < last; i = first_error(batch, i + 1, last))
	{
		if (ingest->on_error == MILL_ON_ERROR_SKIP)
			tally->skipped++;
		else
		{
			mill_dead_letter_write(ingest->pipeline->id, ingest->source->stream, batch->messages[i],
								   batch->errors[i]);
			tally->dead++;
		}
	}
	ingest->too_many_bad = count_bad(ingest, tally->skipped + tally->dead);
}

/*
 * Set the pipeline failed or paused, so that it stops until its owner acts.  In
 * a transaction of its own, after the batch's, because a change of a pipeline
 * locks its row before its offsets, and a batch has the offsets locked.  If we
 * die before this commits, the next worker's batch comes to the same result.
 */
void
mill_ingest_stop(MillIngest *ingest, void (*stop)(int64 id, const char *reason), const char *reason)
{
	mill_xact_begin("stopping a pipeline");
	SPI_connect();
	stop(ingest->pipeline->id, reason);
	SPI_finish();
	mill_xact_commit();
}

/* on_error => 'stop': the pipeline fails at message i. */
static void
stop_at(MillIngest *ingest, int i)
{
	const MillMessage *message = ingest->batch.messages[i];

	mill_ingest_stop(ingest, mill_pipeline_fail,
					 psprintf("bad message in topic \"%s\", partition %d, offset %lld: %s",
							  ingest->source->stream->layout.topic, message->partition,
							  (long long) message->offset, ingest->batch.errors[i]->message));
}

/* Pause: more than max_errors bad messages in a minute. */
static void
pause_for_errors(MillIngest *ingest)
{
	mill_ingest_stop(ingest, mill_pipeline_pause,
					 psprintf("more than %d bad messages in a minute; see mill.dead_letters, then call mill.resume",
							  ingest->pipeline->max_errors));
}

/*
 * Apply messages [first, *last) in the current transaction.  *last is reduced
 * to a bad message's number if on_error is 'stop'.  Errors are raised.
 */
static Outcome
apply_piece(MillIngest *ingest, int first, int *last, bool isolate)
{
	MillBatch *batch = &ingest->batch;
	MillTally tally = {0};
	bool stop = false;

	Assert(GetUserId() == ingest->pipeline->owner);
	Assert(first <= *last && *last <= batch->count);
	SPI_connect();
	if (!mill_offsets_lock(ingest, first, *last))
		return FENCED;
	SPI_finish();

	while (ingest->source == NULL || (first < *last && !mill_source_lock(ingest->source)))
		mill_ingest_prepare(ingest);
	if (ingest->restart)
		return FENCED;
	if (ingest->on_error == MILL_ON_ERROR_STOP)
		BeginInternalSubTransaction(NULL);
	tally.written = apply(ingest, first, *last, isolate);
	if (ingest->on_error == MILL_ON_ERROR_STOP)
	{
		int bad = first_error(batch, first, *last);

		stop = bad < *last;
		if (!stop)
			ReleaseCurrentSubTransaction();
		else
		{
			/* apply again only what comes before the bad message */
			RollbackAndReleaseCurrentSubTransaction();
			*last = bad;
			tally.written = apply(ingest, first, *last, isolate);
		}
	}

	SPI_connect();
	if (!stop)
		handle_bad_messages(ingest, first, *last, &tally);
	mill_offsets_store(ingest, first, *last, &tally);
	SPI_finish();
	return stop ? STOPPED : APPLIED;
}

/* Show and record the error of a batch that is to be retried, and wait. */
static void
back_off(MillIngest *ingest, const ErrorData *error, int tries)
{
	TimestampTz until = TimestampTzPlusMilliseconds(mill_now(), 100L << Min(tries, 6));

	mill_slot_report(mill_my_slot, MILL_STATE_DEGRADED, mill_error_reason(error));
	mill_error_record(mill_pipeline_room.kind, ingest->pipeline->id, error, until);
	while (mill_now() < until)
		mill_worker_wait(TimestampDifferenceMilliseconds(mill_now(), until));
}

typedef struct Piece
{
	MillIngest *ingest;
	int first;
	int *last;
	bool isolate;
	Outcome outcome;
} Piece;

static void
apply_as_owner(void *arg)
{
	Piece *piece = arg;

	piece->outcome = apply_piece(piece->ingest, piece->first, piece->last, piece->isolate);
}

/* Apply messages [first, *last) in one transaction; contains errors that can be handled. */
static Outcome
try_piece(MillIngest *ingest, int first, int *last, bool isolate, int *tries)
{
	MemoryContext context = CurrentMemoryContext;
	Piece piece = {ingest, first, last, isolate, APPLIED};
	ErrorData *volatile error = NULL;
	volatile bool expired = false;
	Outcome outcome;

	PG_TRY();
	{
		mill_xact_begin(ingest->applying);
		mill_as_owner(ingest->pipeline->owner, apply_as_owner, &piece);
		if (piece.outcome == FENCED)
			mill_xact_abort();
		else
			mill_xact_commit();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		ingest->batch.decoder = NULL;
		stop_clock();
		expired = error->sqlerrcode == ERRCODE_QUERY_CANCELED && piece_expired &&
				  ingest->applying_rows;
		piece_expired = false;
		if (!expired && (mill_error_is_transient(error->sqlerrcode)
							 ? *tries >= TRIES
							 : isolate || !ingest->applying_rows ||
								   mill_error_is_environment(error->sqlerrcode)))
			PG_RE_THROW();
		ingest->applying_rows = false;
		FlushErrorState();
		mill_xact_abort();
		MemoryContextSwitchTo(context);
	}
	PG_END_TRY();

	if (error == NULL)
		return piece.outcome;
	/* the messages are judged anew: the errors may have had other causes */
	memset(&ingest->batch.errors[first], 0, sizeof(MillDecodeError *) * (*last - first));
	if (expired)
		outcome = SHRINK;
	else if (mill_error_is_transient(error->sqlerrcode))
	{
		back_off(ingest, error, (*tries)++);
		outcome = REPEAT;
	}
	else
		outcome = ISOLATE;
	FreeErrorData(error);
	return outcome;
}

/* Show in the worker state what is being applied, if it takes long enough to be seen. */
static void
report_piece(MillIngest *ingest, int count)
{
	/* without a message the worker state may show an error that must stay shown */
	if (count == 0 || ingest->piece >= ingest->pipeline->batch_rows)
		return;
	mill_slot_report(mill_my_slot, MILL_STATE_RUNNING,
					 psprintf("applying %d messages since %s", count,
							  timestamptz_to_str(GetCurrentTimestamp())));
}

/* The length of the next piece, from the length and duration of the last one. */
static void
adapt_piece(MillIngest *ingest, int count, double milliseconds)
{
	int limit = ingest->pipeline->batch_rows;

	if (milliseconds > APPLY_TIME)
		ingest->piece = Max((int) (count * APPLY_TIME / milliseconds), 1);
	else if (count >= ingest->piece && milliseconds < APPLY_TIME / 2)
		ingest->piece = ingest->piece > limit / GROWTH ? limit : ingest->piece * GROWTH;
	ingest->piece = Min(ingest->piece, limit);
}

bool
mill_apply(MillIngest *ingest)
{
	MillBatch *batch = &ingest->batch;
	bool isolate = false;
	int tries = 0;
	int first = 0;

	Assert(!IsTransactionState());
	if (ingest->piece == 0)
		ingest->piece = Min(FIRST_PIECE, ingest->pipeline->batch_rows);
	batch->errors = MemoryContextAllocZero(batch->context,
										   sizeof(*batch->errors) * (batch->count + 1));
	batch->deletes = MemoryContextAllocZero(batch->context, sizeof(bool) * (batch->count + 1));
	do
	{
		int last = Min(first + (isolate ? Min(ingest->piece, MILL_PIECE) : ingest->piece),
					   batch->count);
		instr_time start, took;

		report_piece(ingest, last - first);
		INSTR_TIME_SET_CURRENT(start);
		switch (try_piece(ingest, first, &last, isolate, &tries))
		{
			case APPLIED:
				INSTR_TIME_SET_CURRENT(took);
				INSTR_TIME_SUBTRACT(took, start);
				adapt_piece(ingest, last - first, INSTR_TIME_GET_MILLISEC(took));
				mill_offsets_committed(ingest, last);
				first = last;
				if (ingest->too_many_bad)
				{
					pause_for_errors(ingest);
					return false;
				}
				break;
			case STOPPED:
				stop_at(ingest, last);
				return false;
			case FENCED:
				return false;
			case ISOLATE:
				isolate = true;
				break;
			case SHRINK:
				ingest->piece = Max((last - first) / SHRINKAGE, 1);
				break;
			case REPEAT:
				break;
		}
	}
	while (first < batch->count);
	return true;
}
