/*
 * write_path.h
 *		The paths of a writer, behind writer.h; used by this room only.
 */
#ifndef MILL_WRITE_WRITE_PATH_H
#define MILL_WRITE_WRITE_PATH_H

#include "commands/trigger.h"
#include "nodes/execnodes.h"
#include "write/writer.h"

/*
 * Each path begins with a target that is locked and whose privileges were
 * checked, takes rows of spec->source, and returns at its end how many rows it
 * changed.  All memory is in the context that is current at begin; the caller
 * makes it current for the other calls too.
 */

/* As COPY does: bulk.c. */
typedef struct MillBulk MillBulk;
extern MillBulk *mill_bulk_begin(Relation target, const MillWriteSpec *spec, List *entries,
								 List *permissions);
extern void mill_bulk_row(MillBulk *bulk, TupleTableSlot *row);
extern uint64 mill_bulk_end(MillBulk *bulk);

/* Why the bulk path does not cover this target, NULL if it does. */
extern const char *mill_bulk_refusal(Relation target, const MillWriteSpec *spec);

/* One INSERT over all rows: insert.c. */
typedef struct MillInsert MillInsert;
extern MillInsert *mill_insert_begin(Relation target, const MillWriteSpec *spec);
extern void mill_insert_row(MillInsert *insert, TupleTableSlot *row);
extern uint64 mill_insert_end(MillInsert *insert);

/* The last change of each key: upsert.c. */
typedef struct MillUpsert MillUpsert;
extern MillUpsert *mill_upsert_begin(Relation target, const MillWriteSpec *spec);
extern void mill_upsert_row(MillUpsert *upsert, TupleTableSlot *row);
extern uint64 mill_upsert_end(MillUpsert *upsert);

/* ---- the bulk path's buffers: bulk_buffer.c ---- */

typedef struct MillBuffers
{
	EState *estate;
	CommandId cid;
	TransitionCaptureState *capture; /* or NULL */
	List *buffers;					 /* oldest first, at most one per relation */
	int rows;						 /* waiting, in all buffers together */
	Size bytes;
} MillBuffers;

/* An empty slot for the relation's next row; flushes if the buffers are full. */
extern TupleTableSlot *mill_buffers_slot(MillBuffers *buffers, ResultRelInfo *relation);

/* That slot holds a complete row: keep it until it is flushed. */
extern void mill_buffers_keep(MillBuffers *buffers, ResultRelInfo *relation, TupleTableSlot *slot);

/* Write all rows, with their index entries and AFTER ROW triggers' events. */
extern void mill_buffers_flush(MillBuffers *buffers, ResultRelInfo *current);
extern void mill_buffers_free(MillBuffers *buffers);

/* ---- statements over rows in a tuplestore: statement.c ---- */

/*
 * The descriptor of such rows: that of the writer's source, with the columns
 * named c1, c2, ... and the collations of the target's columns, plus extra
 * columns to be set by the caller.
 */
extern TupleDesc mill_statement_desc(Relation target, const MillWriteSpec *spec, int extra);

/* "schema"."target" ("a", "b") and c1, c2. */
extern void mill_statement_insert(StringInfo sql, Relation target, const MillWriteSpec *spec,
								  const char *batch);

/*
 * Run a statement in which batch is the name of the rows; returns how many rows
 * it changed.  Its plan is kept.  With by_index the plan looks up the target's
 * rows one after the other.
 */
extern uint64 mill_statement_run(const char *sql, const char *batch, TupleDesc desc,
								 Tuplestorestate *rows, double count, bool by_index);

/* The same for a query; calls the function with each row of its result. */
extern void mill_statement_each(const char *sql, const char *batch, TupleDesc desc,
								Tuplestorestate *rows,
								void (*function)(HeapTuple row, TupleDesc desc, void *arg),
								void *arg);

#endif
