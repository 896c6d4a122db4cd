/*
 * ingest.h
 *		What the files of the ingest worker share.
 */
#ifndef MILL_INGEST_INGEST_H
#define MILL_INGEST_INGEST_H

#include "ingest/pipeline.h"
#include "ingest/source.h"

/* One partition that this worker reads. */
typedef struct MillPartition
{
	int32 partition;
	int64 stored;	/* next_offset as committed; only we advance it */
	int64 last_ms;	/* timestamp of message stored - 1, -1 if not known */
	int64 position; /* the next offset after what the batch has */
	int64 low;
	int64 high;
	int64 top;	/* the partition's end, including uncommitted messages */
	bool ended; /* nothing more to read as far as we know */
	bool moved; /* low, high or position changed since they were stored */
} MillPartition;

/* Messages of a piece in which bad ones are looked for, at most. */
#define MILL_PIECE 1000

typedef struct MillFields MillFields;

typedef struct MillIngest
{
	MillPipeline *pipeline;
	int worker_no;
	const char *applying; /* for pg_stat_activity */
	MillOnError on_error;

	MillSource *source;
	MemoryContext source_parent;
	MillFields *fields;	 /* of the source's stream; NULL if it is not JSON */
	char *fields_reason; /* missing fields, for the worker state; or NULL */

	MillGateway *gateway;
	const char *server_name; /* the server that the gateway was started for */
	const char *properties;	 /* that it was given, see mill_properties_text; NULL: not yet */
	int topic_partitions;
	bool failed;	  /* the pipeline's row says so */
	int failures;	  /* of previous workers, in a row; 0 after a batch was committed */
	bool fetched;	  /* messages or an end came since the state was reported */
	bool error_shown; /* the worker state shows one, until something is fetched */
	MillPartition *partitions;
	int npartitions;

	MillBatch batch;
	int capacity; /* messages that fit into the arrays */
	Size batch_bytes;
	TimestampTz batch_began; /* 0: no message yet */
	int max_message_bytes;	 /* as given to the gateway; 0: not yet */
	bool restart;			 /* needs another gateway, so the worker is to end */
	TimestampTz checked_at;	 /* last check for changes of the source */
	bool applying_rows;		 /* an error now comes from source, target or message */
	int piece;				 /* messages that one transaction applies; 0: not known yet */

	/* bad messages in the running minute */
	TimestampTz minute_began;
	int bad_in_minute;
	bool too_many_bad; /* the pipeline is to be paused */
} MillIngest;

/* ---- prepare.c; all in a transaction, as the pipeline's owner ---- */

/* Plan the source, again if DDL changed something. */
extern void mill_ingest_prepare(MillIngest *ingest);

/* The same when the worker starts, and check rights; arg is the MillIngest. */
extern void mill_ingest_prepare_first(void *arg);

/* Outside of a transaction, while idle: check whether DDL changed what is to be done. */
extern void mill_ingest_check_source(MillIngest *ingest);

/* ---- offsets.c ---- */

/*
 * Resolve the start position into offsets unless that was done, give new
 * partitions an offset row, and load the partitions of this worker.  False if
 * stored offsets and topic do not fit together: then the pipeline has failed,
 * with the reason in its row.
 */
extern bool mill_offsets_load(MillIngest *ingest);

/*
 * The fence: lock the offset rows of the partitions that occur in messages
 * [first, last) of the batch or have moved.  False if the rows are not as this
 * worker expects, or the pipeline's row changed: then nothing may be applied.
 */
extern bool mill_offsets_lock(MillIngest *ingest, int first, int last);

typedef struct MillTally
{
	uint64 written;
	uint64 skipped;
	uint64 dead;
} MillTally;

/* Store the offsets after message last - 1, in the same transaction as the rows. */
extern void mill_offsets_store(MillIngest *ingest, int first, int last, const MillTally *tally);

/* To be called after the commit. */
extern void mill_offsets_committed(MillIngest *ingest, int last);

/* ---- apply.c ---- */

/*
 * Apply the batch.  False if the worker is to end, because the pipeline's row
 * has changed.
 */
extern bool mill_apply(MillIngest *ingest);

/* Stop the pipeline by mill_pipeline_fail or _pause; outside of a transaction. */
extern void mill_ingest_stop(MillIngest *ingest, void (*stop)(int64 id, const char *reason),
							 const char *reason);

/* ---- isolate.c ---- */

/* Run messages [first, last) through source and writer, in the current transaction. */
extern uint64 mill_apply_range(MillSource *source, MillBatch *batch, int first, int last);

/*
 * The same, but find each message that fails, by halving in subtransactions,
 * and put its error into batch->errors.  Whether the message is to blame is for
 * the caller to decide.
 */
extern uint64 mill_apply_isolated(MillSource *source, MillBatch *batch, int first, int last);

/* The same for a batch, and decide: raises an error if the pipeline is to blame. */
extern uint64 mill_isolate(MillIngest *ingest, int first, int last, uint64 *received);

/* ---- missing_fields.c ---- */

extern MillFields *mill_fields_create(const MillStream *stream);
extern bool mill_fields_check(MillFields *fields, const MillBatch *batch);
extern char *mill_fields_reason(const MillFields *fields);

/* ---- dead_letter.c ---- */

/* Write the bad message into mill_catalog.dead_letter. */
extern void mill_dead_letter_write(int64 pipeline, const MillStream *stream,
								   const MillMessage *message, const MillDecodeError *error);

#endif
