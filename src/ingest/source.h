/*
 * source.h
 *		The query of a pipeline: from its stream, by views, to its target.
 */
#ifndef MILL_INGEST_SOURCE_H
#define MILL_INGEST_SOURCE_H

#include "nodes/plannodes.h"
#include "stream/batch.h"
#include "write/writer.h"

typedef struct MillSource
{
	MemoryContext context; /* holds this and all of it */
	MillStream *stream;
	PlannedStmt *plan;	/* delivers spec.source */
	MillWriteSpec spec; /* path is the caller's to set */
	bool passed;		/* rows were taken by the target under this very plan */
	uint64 received;	/* rows that the target was given; the caller's to reset */
} MillSource;

/*
 * Check that the source is row-wise over one stream and fits the target, and
 * plan it.  Planning runs functions of the source: the pipeline's owner must be
 * the current user (see mill_as_owner), and what a superuser may not run is
 * refused before (mill_pipeline_check_superuser).  Needs a transaction with an active
 * snapshot; the result lives in a child of the parent context.  Errors are the
 * user's.
 */
extern MillSource *mill_source_prepare(MemoryContext parent, Oid owner, Oid source, Oid target,
									   bool upsert, Oid key_index);

/* Make the batch one of this source's stream. */
extern void mill_source_take(const MillSource *source, MillBatch *batch);

/* Has nothing changed since the source was planned, as far as this transaction knows? */
extern bool mill_source_is_valid(const MillSource *source);

/*
 * Lock what the plan touches.  False if it is no longer valid: delete its
 * context and prepare anew.
 */
extern bool mill_source_lock(MillSource *source);

#endif
