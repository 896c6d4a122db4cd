/*
 * isolate.c
 *		Run messages through source and writer, and find the bad ones.
 *
 * Runs inside a transaction of the caller, as the pipeline's owner.  Halving
 * finds exactly the messages that fail.  Then it is decided whether the
 * messages are bad or the pipeline is.  A message is bad if it fails while it
 * is decoded, whatever the SQLSTATE, or with an error whose class is about data
 * (is_data_error).  Any other error of query, target or triggers is blamed on
 * the message if other messages of the piece pass, or if it is the only one
 * and messages passed under the same plan before.  If all fail alike, or none
 * ever passed, the pipeline is to blame: the error is raised, and no message
 * is dropped.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "common/pg_prng.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/error.h"
#include "core/settings.h"
#include "ingest/ingest.h"

/*
 * Errors that are about data by their class: bad values (22), violated
 * constraints (23), exceptions raised by a trigger (P0001, P0004), more than one
 * row where one is expected (21), a violated check option (44), rows too large
 * for an index or a page (54000).
 */
static bool
is_data_error(int sqlerrcode)
{
	/* in class 22, but about the target */
	if (sqlerrcode == ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED)
		return false;
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

/* ---- a range of messages ---- */

uint64
mill_apply_range(MillSource *source, MillBatch *batch, int first, int last)
{
	MillWriter *writer;
	QueryDesc *query;
	uint64 written;
	MemoryContext context;
	MemoryContext old;

	Assert(0 <= first && first <= last && last <= batch->count);
	Assert(batch->stream == source->stream->layout.relid);
	Assert(IsTransactionState() && ActiveSnapshotSet());
	if (first == last)
		return 0;
	context = AllocSetContextCreate(CurrentMemoryContext, "pg_mill write", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	batch->first = first;
	batch->last = last;
	source->spec.batch = batch;
	source->spec.path = mill_write_path;

	writer = mill_writer_begin(&source->spec);
	query = CreateQueryDesc(source->plan, "pg_mill source", GetActiveSnapshot(), InvalidSnapshot,
							mill_writer_receiver(writer), NULL, NULL, 0);
	ExecutorStart(query, 0);
	mill_stream_bind(query->planstate, batch);
	mill_executor_run(query);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
	source->received += mill_writer_received(writer);
	written = mill_writer_end(writer);
	CommandCounterIncrement();

	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return written;
}

/* ---- finding the bad ones ---- */

static void
keep_error(MillBatch *batch, int i, const ErrorData *error, const char *column, bool undecided)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	MillDecodeError *kept = palloc0(sizeof(MillDecodeError));

	kept->sqlerrcode = error->sqlerrcode;
	kept->message = pstrdup(error->message);
	kept->detail = error->detail ? pstrdup(error->detail) : NULL;
	kept->hint = error->hint ? pstrdup(error->hint) : NULL;
	column = column ? column : error->column_name;
	kept->column = column ? pstrdup(column) : NULL;
	kept->undecided = undecided;
	Assert(0 <= i && i < batch->count);
	batch->errors[i] = kept;
	MemoryContextSwitchTo(old);
}

/* The result of trying a range. */
typedef struct Trial
{
	uint64 written;
	uint64 received;  /* rows passed to the target, even if it dropped them */
	ErrorData *error; /* NULL: the range passed */
	int decoding;	  /* message that could not be decoded, or -1 */
	char *column;	  /* column of the stream that could not be decoded */
} Trial;

/* Try a range in a subtransaction.  Raises errors of the environment, which no message caused. */
static void
try_range(MillSource *source, MillBatch *batch, int first, int last, Trial *trial)
{
	MemoryContext context = CurrentMemoryContext;
	/* memory of errors must not pile up over thousands of messages */
	MemoryContext scratch = AllocSetContextCreate(context, "pg_mill trial", ALLOCSET_SMALL_SIZES);
	ResourceOwner owner = CurrentResourceOwner;

	memset(trial, 0, sizeof(*trial));
	trial->decoding = -1;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		/* what would fail at commit must fail here */
		source->received = 0;
		trial->written = mill_apply_range(source, batch, first, last);
		trial->received = source->received;
		AfterTriggerSetState(makeNode(ConstraintsSetStmt));
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		trial->error = CopyErrorData();
		trial->written = trial->received = 0;
		FlushErrorState();
		if (batch->decoder)
		{
			const char *column = mill_decoder_column(batch->decoder);

			trial->decoding = batch->current;
			trial->column = column ? pstrdup(column) : NULL;
		}
		batch->decoder = NULL;
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		if (mill_error_is_environment(trial->error->sqlerrcode))
			ReThrowError(trial->error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	MemoryContextDelete(scratch);
}

/*
 * Find the messages of a range that fail.  One that fails while it is decoded
 * is known at once; else the range is halved down to single messages.
 */
static uint64
isolate(MillSource *source, MillBatch *batch, int first, int last, uint64 *received)
{
	int middle = first + (last - first) / 2;
	int after = middle;
	Trial trial;

	CHECK_FOR_INTERRUPTS();
	check_stack_depth();
	if (first == last)
		return 0;
	try_range(source, batch, first, last, &trial);
	if (trial.error == NULL)
	{
		*received += trial.received;
		return trial.written;
	}
	if (trial.decoding >= 0 || last - first == 1)
	{
		middle = trial.decoding >= 0 ? trial.decoding : first;
		after = middle + 1;
		keep_error(batch, middle, trial.error, trial.column,
				   trial.decoding < 0 && !is_data_error(trial.error->sqlerrcode));
	}
	FreeErrorData(trial.error);
	return isolate(source, batch, first, middle, received) +
		   isolate(source, batch, after, last, received);
}

uint64
mill_apply_isolated(MillSource *source, MillBatch *batch, int first, int last)
{
	uint64 received = 0;

	return isolate(source, batch, first, last, &received);
}

/*
 * Does any of the messages from here on pass?  They are tried and undone, only
 * to decide who is to blame.  If there are many, a random sample is tried.
 */
static bool
later_messages_pass(MillIngest *ingest, int from)
{
	MillBatch *batch = &ingest->batch;
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int step = (batch->count - from) / MILL_PIECE + 1;
	bool passed = false;

	for (int i = from + (int) pg_prng_uint64_range(&pg_global_prng_state, 0, step - 1);
		 i < batch->count && !passed; i += step)
	{
		Trial trial;

		CHECK_FOR_INTERRUPTS();
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
		try_range(ingest->source, batch, i, i + 1, &trial);
		passed = trial.error == NULL && trial.received > 0;
		if (trial.error)
			FreeErrorData(trial.error);
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		batch->errors[i] = NULL;
	}
	return passed;
}

static bool
is_unknown_name(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_UNDEFINED_TABLE || sqlerrcode == ERRCODE_UNDEFINED_FUNCTION ||
		   sqlerrcode == ERRCODE_UNDEFINED_OBJECT;
}

/* Raise a message's error as the pipeline's, saying where the message is. */
static void
raise_pipeline_error(const MillIngest *ingest, int i)
{
	const MillMessage *message = ingest->batch.messages[i];
	const MillDecodeError *error = ingest->batch.errors[i];
	char *message_text =
		psprintf("Met with the message of topic \"%s\", partition %d, offset %lld; nothing was skipped.",
				 ingest->source->stream->layout.topic, message->partition,
				 (long long) message->offset);

	ereport(ERROR,
			(errcode(error->sqlerrcode), errmsg_internal("%s", error->message),
			 errdetail_internal("%s%s%s", error->detail ? error->detail : "",
								error->detail ? " " : "", message_text),
			 error->hint ? errhint("%s", error->hint) : 0,
			 !error->hint && is_unknown_name(error->sqlerrcode)
				 ? errhint(
					   "Workers run with search_path " MILL_SEARCH_PATH
					   ": qualify names in triggers, defaults and views, or SET search_path for their functions.")
				 : 0));
}

/*
 * Decide about errors of a piece whose class does not tell: the messages are
 * bad, or the pipeline is to blame and the error is raised.  See the file header.
 */
static void
decide_blame(MillIngest *ingest, int first, int last, uint64 received)
{
	const MillBatch *batch = &ingest->batch;
	int undecided = 0;
	int culprit = -1;
	bool alike = true;

	for (int i = first; i < last; i++)
	{
		if (batch->errors[i] == NULL || !batch->errors[i]->undecided)
			continue;
		if (culprit < 0)
			culprit = i;
		alike &= batch->errors[i]->sqlerrcode == batch->errors[culprit]->sqlerrcode;
		undecided++;
	}
	if (undecided == 0 || received > 0)
		return;
	if ((!ingest->source->passed || (undecided > 1 && alike)) && !later_messages_pass(ingest, last))
		raise_pipeline_error(ingest, culprit);
}

uint64
mill_isolate(MillIngest *ingest, int first, int last, uint64 *received)
{
	uint64 written = isolate(ingest->source, &ingest->batch, first, last, received);

	decide_blame(ingest, first, last, *received);
	return written;
}
