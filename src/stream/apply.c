/*
 * apply.c
 *		A batch into the target, with its dead letters and offsets, in one
 *		transaction.
 *
 *	1. lock the offset rows where they stand as we believe (the fence)
 *	2. run the source query over the batch into the writer
 *	3. write the dead letters, move the offsets, commit
 *
 * An error aborts all of it; the batch is still in memory, and what happens
 * next depends on whose fault it was:
 *
 * - the data's (is_data_error): the batch is done again in small pieces, each
 *   a transaction, in which halving finds exactly the bad messages.  What the
 *   decoder finds bad needs no halving: it tells without an error.
 * - the moment's (lock timeout, deadlock, serialization, full disk, ...): the
 *   same batch again after a rest.  Never a dead letter.
 * - anything else: the worker ends with the error.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/settings.h"
#include "core/worker.h"
#include "core/xact.h"
#include "stream/ingest.h"

/* A piece in which bad messages are looked for is at most so long. */
#define PIECE 1000
/* So often the same batch is tried again before the worker gives up. */
#define TRIES 10

typedef enum Outcome
{
	APPLIED,
	FENCED,		/* the pipeline's row or offsets changed; nothing was done */
	STOPPED,	/* at a bad message, as on_error => 'stop' says */
	DATA_ERROR, /* isolate */
	REPEAT
} Outcome;

/*
 * Is this the fault of a message?  Bad values (22), violated constraints
 * (23), exceptions that a trigger raised (P0001, P0004), more than one row
 * where one belongs (21), a violated check option (44), rows too large for
 * their index or page (54000).
 */
bool
mill_is_data_error(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_CARDINALITY_VIOLATION:
		case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
			return true;
	}
	return sqlerrcode == ERRCODE_RAISE_EXCEPTION || sqlerrcode == ERRCODE_ASSERT_FAILURE ||
		   sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED;
}

/* Will the same batch do, after a rest? */
static bool
is_passing(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:	 /* 40: serialization, deadlock */
		case ERRCODE_INSUFFICIENT_RESOURCES: /* 53: disk full, out of memory */
			return true;
	}
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}

/* ---- a range of messages ---- */

uint64
mill_apply_range(MillSource *source, MillBatch *batch, int first, int last)
{
	MillWriter *writer;
	QueryDesc *query;
	uint64 written;
	MemoryContext context;
	MemoryContext old;

	if (first == last)
		return 0;
	context = AllocSetContextCreate(CurrentMemoryContext, "pg_mill write", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	batch->first = first;
	batch->last = last;
	mill_bound_batch = batch;
	source->spec.path = mill_write_path;

	writer = mill_writer_begin(&source->spec);
	query = CreateQueryDesc(source->plan, "pg_mill source", GetActiveSnapshot(), InvalidSnapshot,
							mill_writer_receiver(writer), NULL, NULL, 0);
	ExecutorStart(query, 0);
	mill_executor_run(query);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
	written = mill_writer_end(writer);
	CommandCounterIncrement();

	mill_bound_batch = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return written;
}

/* ---- finding the bad ones ---- */

static void
keep_error(MillBatch *batch, int i, const ErrorData *error)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	MillDecodeError *kept = palloc0(sizeof(MillDecodeError));

	kept->sqlerrcode = error->sqlerrcode;
	kept->message = pstrdup(error->message);
	kept->detail = error->detail ? pstrdup(error->detail) : NULL;
	batch->errors[i] = kept;
	MemoryContextSwitchTo(old);
}

/*
 * Try a range in a subtransaction.  NULL if it went well, else the error,
 * which is the data's: others are raised.
 */
static ErrorData *
try_range(MillSource *source, MillBatch *batch, int first, int last, uint64 *written)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		ConstraintsSetStmt *immediate = makeNode(ConstraintsSetStmt);

		/* What would fail at commit must fail here. */
		*written = mill_apply_range(source, batch, first, last);
		AfterTriggerSetState(immediate);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		mill_bound_batch = NULL;
		RollbackAndReleaseCurrentSubTransaction();
		if (!mill_is_data_error(error->sqlerrcode))
		{
			MemoryContextSwitchTo(context);
			ReThrowError(error);
		}
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

uint64
mill_apply_isolated(MillSource *source, MillBatch *batch, int first, int last)
{
	uint64 written = 0;
	ErrorData *error;
	int middle = first + (last - first) / 2;

	CHECK_FOR_INTERRUPTS();
	if (first == last)
		return 0;
	error = try_range(source, batch, first, last, &written);
	if (error == NULL)
		return written;
	if (last - first == 1)
	{
		keep_error(batch, first, error);
		FreeErrorData(error);
		return 0;
	}
	FreeErrorData(error);
	return mill_apply_isolated(source, batch, first, middle) +
		   mill_apply_isolated(source, batch, middle, last);
}

/* ---- a piece of the batch in a transaction ---- */

static int
first_error(const MillBatch *batch, int first, int last)
{
	while (first < last && batch->errors[first] == NULL)
		first++;
	return first;
}

/* More bad messages in a minute than the pipeline bears? */
static bool
too_many_bad(MillIngest *ingest, uint64 bad)
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

/* Dead letters of the range, or a count of what is skipped. */
static void
settle_bad(MillIngest *ingest, int first, int last, MillTally *tally)
{
	MillBatch *batch = &ingest->batch;

	for (int i = first_error(batch, first, last); i < last; i = first_error(batch, i + 1, last))
	{
		if (ingest->on_error == MILL_ON_ERROR_SKIP)
			tally->skipped++;
		else
		{
			mill_dead_letter_write(ingest->pipeline->id, ingest->source->stream, batch->messages[i], batch->errors[i]);
			tally->dead++;
		}
	}
	if (too_many_bad(ingest, tally->skipped + tally->dead))
		mill_pipeline_pause(ingest->pipeline->id,
							psprintf("more than %d bad messages in a minute; see mill.dead_letters, then call mill.resume",
									 ingest->pipeline->max_errors));
}

/* on_error => 'stop': the message at i ends the pipeline until its owner acts. */
static void
stop_at(MillIngest *ingest, int i)
{
	const MillMessage *message = ingest->batch.messages[i];
	const MillDecodeError *error = ingest->batch.errors[i];

	mill_pipeline_fail(ingest->pipeline->id,
					   psprintf("bad message in topic \"%s\", partition %d, offset %lld: %s",
								ingest->source->stream->topic, message->partition,
								(long long) message->offset, error->message));
}

/*
 * Messages [first, *last) in the current transaction; *last comes back
 * smaller if the pipeline is to stop at the message there.  Errors are
 * raised.
 */
static Outcome
apply_piece(MillIngest *ingest, int first, int *last, bool isolate)
{
	MillBatch *batch = &ingest->batch;
	MillTally tally = {0};
	bool stop = false;

	SPI_connect();
	if (!mill_offsets_lock(ingest, first, *last))
		return FENCED;
	SPI_finish();

	while (first < *last && !mill_source_lock(ingest->source))
		mill_ingest_prepare(ingest);
	if (ingest->on_error == MILL_ON_ERROR_STOP)
		BeginInternalSubTransaction(NULL);
	tally.written = (isolate ? mill_apply_isolated : mill_apply_range)(ingest->source, batch, first, *last);
	if (ingest->on_error == MILL_ON_ERROR_STOP)
	{
		int bad = first_error(batch, first, *last);

		stop = bad < *last;
		if (!stop)
			ReleaseCurrentSubTransaction();
		else
		{
			/* Only what comes before it, once more. */
			RollbackAndReleaseCurrentSubTransaction();
			*last = bad;
			tally.written = (isolate ? mill_apply_isolated : mill_apply_range)(ingest->source, batch, first, *last);
		}
	}

	SPI_connect();
	if (stop)
		stop_at(ingest, *last);
	else
		settle_bad(ingest, first, *last, &tally);
	mill_offsets_store(ingest, first, *last, &tally);
	SPI_finish();
	return stop ? STOPPED : APPLIED;
}

/* Write down why we rest, and rest, with interrupts served. */
static void
rest(MillIngest *ingest, const ErrorData *error, int tries)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 100L << Min(tries, 6));

	mill_slot_report(mill_my_slot, MILL_STATE_DEGRADED, error->message);
	mill_xact_begin("recording an error");
	mill_error_record("pipeline", ingest->pipeline->id, error, until);
	mill_xact_commit();
	while (GetCurrentTimestamp() < until)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until), MILL_WAIT_EVENT);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/* One transaction for messages [first, *last). */
static Outcome
try_piece(MillIngest *ingest, int first, int *last, bool isolate, int *tries)
{
	MemoryContext context = CurrentMemoryContext;
	volatile Outcome outcome = APPLIED;
	ErrorData *volatile error = NULL;

	PG_TRY();
	{
		mill_xact_begin("applying a batch");
		outcome = apply_piece(ingest, first, last, isolate);
		if (outcome == FENCED)
			mill_xact_abort();
		else
			mill_xact_commit();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		mill_bound_batch = NULL;
		if (!(mill_is_data_error(error->sqlerrcode) && !isolate) &&
			!(is_passing(error->sqlerrcode) && *tries < TRIES))
			PG_RE_THROW();
		FlushErrorState();
		mill_xact_abort();
		MemoryContextSwitchTo(context);
	}
	PG_END_TRY();

	if (error == NULL)
		return outcome;
	if (mill_is_data_error(error->sqlerrcode))
		outcome = DATA_ERROR;
	else
	{
		rest(ingest, error, (*tries)++);
		outcome = REPEAT;
	}
	FreeErrorData(error);
	return outcome;
}

bool
mill_apply(MillIngest *ingest)
{
	MillBatch *batch = &ingest->batch;
	int piece = ingest->pipeline->batch_rows;
	bool isolate = false;
	int tries = 0;
	int first = 0;

	batch->errors = MemoryContextAllocZero(batch->context, sizeof(*batch->errors) * (batch->count + 1));
	do
	{
		int last = Min(first + piece, batch->count);

		switch (try_piece(ingest, first, &last, isolate, &tries))
		{
			case APPLIED:
				mill_offsets_committed(ingest, last);
				first = last;
				break;
			case FENCED:
			case STOPPED:
				return false;
			case DATA_ERROR:
				isolate = true;
				piece = Min(piece, PIECE);
				break;
			case REPEAT:
				break;
		}
	}
	while (first < batch->count);
	return true;
}
