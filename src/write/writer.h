/*
 * writer.h
 *		Rows of a batch into a target, as INSERT would put them there.
 *
 * The door of the room write.  Rows come through the writer's DestReceiver;
 * whether they go by the bulk path (as COPY) or by a statement is the writer's
 * choice and makes no difference but speed.
 */
#ifndef MILL_WRITE_WRITER_H
#define MILL_WRITE_WRITER_H

#include "tcop/dest.h"
#include "utils/relcache.h"
#include "write/guard.h"

typedef struct MillWriter MillWriter;

typedef enum MillWritePath
{
	MILL_WRITE_ANY,	 /* bulk where it covers the target */
	MILL_WRITE_BULK, /* raises an error where it does not */
	MILL_WRITE_EXECUTOR
} MillWritePath;

/* What to write; the strings and arrays outlive the writer. */
typedef struct MillWriteSpec
{
	Oid target;
	TupleDesc source;	 /* of the rows that will come, ordinal last:
								 * the last column is tid, the ordinal of the
								 * row's message, and is not written */
	int ncolumns;		 /* source columns that are written */
	AttrNumber *attnums; /* target column of each */
	bool upsert;
	int nkeys;											 /* upsert: the unique index' columns ... */
	int *keys;											 /* ... as indexes into attnums */
	bool (*is_delete)(ItemPointer ordinal, void *batch); /* upsert: of its key */
	void *batch;
	MillWritePath path;
	const MillGuard *guard; /* upsert: NULL for what comes in its turn */
} MillWriteSpec;

/*
 * Begin, feed through the receiver, end: inside one transaction (or
 * subtransaction) with an active snapshot; the writer lives in the current
 * memory context, and an error in between needs no cleaning up but the abort.
 * Begin before ExecutorStart of the query that gives the rows, end after its
 * ExecutorEnd, since both may queue triggers.  Checks the current user's
 * privileges on the target: INSERT on the columns; for upsert also DELETE,
 * SELECT on the columns, and UPDATE on those that are not keys.  Returns the
 * number of rows inserted, updated or deleted.
 */
extern MillWriter *mill_writer_begin(const MillWriteSpec *spec);
extern DestReceiver *mill_writer_receiver(MillWriter *writer);
extern uint64 mill_writer_end(MillWriter *writer);

/* Rows that came so far, whatever became of them. */
extern uint64 mill_writer_received(const MillWriter *writer);

#endif
