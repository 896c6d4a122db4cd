/*
 * bulk_buffer.c
 *		The bulk path's buffers: rows are kept here until there are enough for
 *		one table_multi_insert per relation.
 *
 * The bounds are COPY's: 1,000 rows or 64 kB over all relations together, so
 * that many partitions take no more memory than one table; after a flush the
 * buffers of at most 32 relations are kept.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "write/write_path.h"

#define MAX_ROWS 1000
#define MAX_BYTES 65535
#define MAX_BUFFERS 32

typedef struct RowBuffer
{
	ResultRelInfo *relation;
	BulkInsertState state;
	int used;						 /* so many slots hold rows */
	TupleTableSlot *slots[MAX_ROWS]; /* made on demand, from the start */
} RowBuffer;

/*
 * A ResultRelInfo has a member for COPY's buffer.  No COPY runs with ours, so
 * we use it to find a relation's buffer.
 */
static inline RowBuffer *
buffer_of(ResultRelInfo *relation)
{
	return (RowBuffer *) relation->ri_CopyMultiInsertBuffer;
}

static RowBuffer *
make_buffer(MillBuffers *buffers, ResultRelInfo *relation)
{
	RowBuffer *buffer = palloc0(sizeof(RowBuffer));

	buffer->relation = relation;
	buffer->state = GetBulkInsertState();
	relation->ri_CopyMultiInsertBuffer = (struct CopyMultiInsertBuffer *) buffer;
	buffers->buffers = lappend(buffers->buffers, buffer);
	return buffer;
}

static void
free_buffer(RowBuffer *buffer)
{
	Assert(buffer->used == 0);
	buffer->relation->ri_CopyMultiInsertBuffer = NULL;
	FreeBulkInsertState(buffer->state);
	for (int i = 0; i < MAX_ROWS && buffer->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(buffer->slots[i]);
	table_finish_bulk_insert(buffer->relation->ri_RelationDesc, 0);
	pfree(buffer);
}

/*
 * First insert all rows; then for each its index entries, which may raise
 * unique violations, and the events of its AFTER ROW triggers, which also fill
 * transition tables.
 */
static void
flush_buffer(MillBuffers *buffers, RowBuffer *buffer)
{
	ResultRelInfo *relation = buffer->relation;
	TriggerDesc *triggers = relation->ri_TrigDesc;
	bool events = buffers->capture != NULL || (triggers != NULL && triggers->trig_insert_after_row);
	MemoryContext caller;

	if (buffer->used == 0)
		return;

	/* table_multi_insert may leak memory */
	caller = MemoryContextSwitchTo(GetPerTupleMemoryContext(buffers->estate));
	table_multi_insert(relation->ri_RelationDesc, buffer->slots, buffer->used, buffers->cid, 0,
					   buffer->state);
	MemoryContextSwitchTo(caller);

	for (int i = 0; i < buffer->used; i++)
	{
		TupleTableSlot *slot = buffer->slots[i];
		List *recheck = NIL;

		if (relation->ri_NumIndices > 0)
			recheck = mill_insert_index_tuples(relation, slot, buffers->estate);
		if (events)
			ExecARInsertTriggers(buffers->estate, relation, slot, recheck, buffers->capture);
		list_free(recheck);
		ExecClearTuple(slot);
	}
	buffer->used = 0;
}

/*
 * Write all rows, and free the buffers of the relations that were unused for
 * longest, but never that of the current one, whose slot may be in use.
 */
void
mill_buffers_flush(MillBuffers *buffers, ResultRelInfo *current)
{
	ListCell *cell;

	foreach (cell, buffers->buffers)
		flush_buffer(buffers, lfirst(cell));
	buffers->rows = 0;
	buffers->bytes = 0;

	while (list_length(buffers->buffers) > MAX_BUFFERS)
	{
		RowBuffer *oldest = linitial(buffers->buffers);

		buffers->buffers = list_delete_first(buffers->buffers);
		if (oldest->relation == current)
			buffers->buffers = lappend(buffers->buffers, oldest);
		else
			free_buffer(oldest);
	}
}

TupleTableSlot *
mill_buffers_slot(MillBuffers *buffers, ResultRelInfo *relation)
{
	RowBuffer *buffer;

	if (buffers->rows >= MAX_ROWS || buffers->bytes >= MAX_BYTES)
		mill_buffers_flush(buffers, relation);

	buffer = buffer_of(relation);
	if (buffer == NULL)
		buffer = make_buffer(buffers, relation);
	if (buffer->slots[buffer->used] == NULL)
		buffer->slots[buffer->used] = table_slot_create(relation->ri_RelationDesc, NULL);
	return ExecClearTuple(buffer->slots[buffer->used]);
}

/* The row may point into memory that is freed with it, so copy it. */
void
mill_buffers_keep(MillBuffers *buffers, ResultRelInfo *relation, TupleTableSlot *slot)
{
	ExecMaterializeSlot(slot);
	buffer_of(relation)->used++;
	buffers->rows++;
	if (TTS_IS_BUFFERTUPLE(slot) || TTS_IS_HEAPTUPLE(slot))
		buffers->bytes += ((HeapTupleTableSlot *) slot)->tuple->t_len;
	else
	{
		slot_getallattrs(slot);
		buffers->bytes += heap_compute_data_size(slot->tts_tupleDescriptor, slot->tts_values,
												 slot->tts_isnull);
	}
}

/* Free all buffers; after a flush. */
void
mill_buffers_free(MillBuffers *buffers)
{
	ListCell *cell;

	foreach (cell, buffers->buffers)
		free_buffer(lfirst(cell));
	buffers->buffers = NIL;
}
