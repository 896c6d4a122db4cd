/*
 * writer.h
 *		Writes rows of a batch into a target, with the same result as INSERT.
 *
 * The public header of the room.  Rows arrive through the writer's
 * DestReceiver; whether they take the bulk path (as COPY) or a statement is the
 * writer's choice and only a matter of speed.
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

/* What to write.  The strings and arrays must outlive the writer. */
typedef struct MillWriteSpec
{
	Oid target;
	TupleDesc source;	 /* of the rows to be received.  The last
								 * column, a tid, is the ordinal of the row's
								 * message, and is not written */
	int ncolumns;		 /* source columns that are written */
	AttrNumber *attnums; /* target column of each */
	bool upsert;
	int nkeys; /* upsert: the unique index's columns ... */
	int *keys; /* ... as indexes into attnums */
	bool (*is_delete)(ItemPointer ordinal, void *batch); /* upsert: does this row delete its key? */
	void *batch;
	MillWritePath path;
	const MillGuard *guard; /* upsert of a late message, else NULL */
} MillWriteSpec;

/*
 * Begin, receive rows, end: inside one (sub)transaction with an active
 * snapshot.  The writer lives in the current memory context, and after an error
 * only the abort is needed.  Begin before ExecutorStart of the query that
 * returns the rows, end after its ExecutorEnd, since both may queue triggers.
 * Checks the current user's privileges on the target: INSERT on the columns;
 * for upsert also DELETE, SELECT on the columns, and UPDATE on those that are
 * not keys.  Returns the number of rows inserted, updated or deleted.
 */
extern MillWriter *mill_writer_begin(const MillWriteSpec *spec);
extern DestReceiver *mill_writer_receiver(MillWriter *writer);
extern uint64 mill_writer_end(MillWriter *writer);

/* The number of rows received so far, whatever became of them. */
extern uint64 mill_writer_received(const MillWriter *writer);

#endif
