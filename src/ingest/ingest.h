/*
 * ingest.h
 *		What the files of the ingest worker share.
 */
#ifndef MILL_INGEST_INGEST_H
#define MILL_INGEST_INGEST_H

#include "ingest/pipeline.h"
#include "ingest/source.h"

/* One partition of this worker. */
typedef struct MillPartition
{
	int32 partition;
	int64 stored;	/* next_offset as committed, ours to advance */
	int64 last_ms;	/* timestamp of message stored - 1, -1 if not known */
	int64 position; /* the next offset after all that the batch holds */
	int64 low;
	int64 high;
	int64 top;	/* the topic's end, with what is not committed yet */
	bool ended; /* nothing more to read as far as we know */
	bool stale; /* low, high or position changed without a message */
} MillPartition;

/* A piece in which bad messages are looked for is at most so long. */
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
	char *fields_reason; /* what is to be said of them, or NULL */

	MillGateway *gateway;
	const char *server_name; /* that it was started for */
	const char *properties;	 /* that it was told, see mill_properties_text; NULL: not yet */
	int topic_partitions;
	bool failed;  /* the pipeline's row says so */
	int failures; /* of the workers before, in a row; 0 once something has passed */
	bool fetched; /* messages or an end came since the state was reported */
	bool trouble; /* the state shows it, until something is fetched */
	MillPartition *partitions;
	int npartitions;

	MillBatch batch;
	int capacity; /* messages that the arrays have room for */
	Size batch_bytes;
	TimestampTz batch_began; /* 0: no message yet */
	int max_message_bytes;	 /* as the gateway was told; 0: not yet */
	bool restart;			 /* the gateway must be another one: the worker is to end */
	TimestampTz looked_at;	 /* for changes of the source */
	bool applying_rows;		 /* an error now is one of source, target or message */
	int piece;				 /* messages that one transaction applies; 0: not known yet */

	/* bad messages in the running minute */
	TimestampTz minute_began;
	int bad_in_minute;
	bool too_many_bad; /* the pipeline is to be paused */
} MillIngest;

/* ---- prepare.c; all in a transaction, as the pipeline's owner ---- */

/* Plan the source, anew if DDL changed something. */
extern void mill_ingest_prepare(MillIngest *ingest);

/* The same at the worker's start, with a look at rights; arg is the MillIngest. */
extern void mill_ingest_prepare_first(void *arg);

/* Outside of a transaction: has DDL changed what is to be done?  From time to time. */
extern void mill_ingest_look_at_source(MillIngest *ingest);

/* ---- offsets.c ---- */

/*
 * Turn the start position into offsets where it was not yet, give new
 * partitions an offset row, and load those of this worker.  False if the
 * stored offsets and the topic do not fit together: the pipeline has failed,
 * with the reason in its row.
 */
extern bool mill_offsets_load(MillIngest *ingest);

/*
 * Fence: lock the offset rows of the partitions that occur in messages
 * [first, last) of the batch, or have news to store.  False if another worker
 * moved one, or the pipeline's row changed: nothing may be applied.
 */
extern bool mill_offsets_lock(MillIngest *ingest, int first, int last);

typedef struct MillTally
{
	uint64 written;
	uint64 skipped;
	uint64 dead;
} MillTally;

/* Store the offsets after message last - 1, in the transaction of the rows. */
extern void mill_offsets_store(MillIngest *ingest, int first, int last, const MillTally *tally);

/* The transaction is committed. */
extern void mill_offsets_committed(MillIngest *ingest, int last);

/* ---- apply.c ---- */

/*
 * Apply the batch.  True if the pipeline goes on; false if the worker is to
 * end, because the pipeline's row says something else now.
 */
extern bool mill_apply(MillIngest *ingest);

/* Let the pipeline rest until its owner acts: mill_pipeline_fail or _pause, outside of a transaction. */
extern void mill_ingest_stop(MillIngest *ingest, void (*stop)(int64 id, const char *reason),
							 const char *reason);

/* ---- isolate.c ---- */

/* Run messages [first, last) through source and writer, in the current transaction. */
extern uint64 mill_apply_range(MillSource *source, MillBatch *batch, int first, int last);

/*
 * The same, with each message that fails found and put into batch->errors, by
 * halves in subtransactions.  Whether it is to blame is for the caller to say.
 */
extern uint64 mill_apply_isolated(MillSource *source, MillBatch *batch, int first, int last);

/* For a batch, with judgement: an error is raised if it is the pipeline's. */
extern uint64 mill_isolate(MillIngest *ingest, int first, int last, uint64 *received);

/* ---- missing_fields.c ---- */

extern MillFields *mill_fields_create(const MillStream *stream);
extern bool mill_fields_look(MillFields *fields, const MillBatch *batch);
extern char *mill_fields_reason(const MillFields *fields);

/* ---- dead_letter.c ---- */

/* Write the bad message into mill_catalog.dead_letter. */
extern void mill_dead_letter_write(int64 pipeline, const MillStream *stream,
								   const MillMessage *message, const MillDecodeError *error);

#endif
