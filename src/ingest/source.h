/*
 * source.h
 *		The query of a pipeline: from its stream, through views, to its target.
 */
#ifndef MILL_INGEST_SOURCE_H
#define MILL_INGEST_SOURCE_H

#include "nodes/plannodes.h"
#include "stream/batch.h"
#include "write/writer.h"

typedef struct MillSource
{
	MemoryContext context; /* holds this struct and all it points to */
	MillStream *stream;
	PlannedStmt *plan;	/* returns rows of spec.source */
	MillWriteSpec spec; /* path is set by the caller */
	bool passed;		/* the target has accepted rows under this plan */
	uint64 received;	/* rows passed to the target; reset by the caller */
} MillSource;

/*
 * Check that the source is row-wise over one stream and fits the target, and
 * plan it.  Planning runs functions of the source, so the current user must be
 * the pipeline's owner (see mill_as_owner), and what a superuser may not run
 * must have been refused before (mill_pipeline_check_superuser).  Needs a
 * transaction with an active snapshot; the result lives in a child of the
 * parent context.  Errors are about what the user wrote.
 */
extern MillSource *mill_source_prepare(MemoryContext parent, Oid owner, Oid source, Oid target,
									   bool upsert, Oid key_index);

/* Set up a batch for this source's stream. */
extern void mill_source_init_batch(const MillSource *source, MillBatch *batch);

/* Is the plan still valid, as far as this transaction knows? */
extern bool mill_source_is_valid(const MillSource *source);

/*
 * Lock the relations of the plan.  False if it is not valid any more: delete
 * its context and prepare the source again.
 */
extern bool mill_source_lock(MillSource *source);

#endif
