/*
 * batch.h
 *		Messages that a query over a stream reads in place of the topic.
 */
#ifndef MILL_STREAM_BATCH_H
#define MILL_STREAM_BATCH_H

#include "nodes/execnodes.h"
#include "stream/stream.h"

/* Messages in memory, in a memory context of their own. */
typedef struct MillBatch
{
	Oid stream;				 /* the stream, a foreign table, that they are of */
	MillTombstone tombstone; /* the stream's choice, or NULLS for upsert */
	int count;
	const MillMessage **messages; /* in order of arrival */
	MillDecodeError **errors;	  /* per message: NULL, or why it is bad; set by
								 * the scan, in the batch's context */
	bool *deletes;				  /* per message: is it a delete?  set by the scan */
	MemoryContext context;
	int first; /* the scan delivers messages [first, last) */
	int last;
	int current;		  /* the message being decoded, for errcontext */
	MillDecoder *decoder; /* decoding it: an error now is that message's */
} MillBatch;

/*
 * Let the scans of the batch's stream, in a query that was started, read the
 * batch instead of the topic.  Such a scan sets each row's ctid to the ordinal
 * of its message (block number = ordinal, offset number 1), so that the query
 * can pass it on.
 */
extern void mill_stream_bind(PlanState *query, MillBatch *batch);

#endif
