/*
 * writer.c
 *		Writes rows of a batch into a target: what the paths have in common.
 *
 * Runs in an ingest worker, as the pipeline's owner, between begin and commit
 * of the batch's transaction.  Only plans of statements (statement.c) outlive
 * the writer; an abort of the (sub)transaction undoes everything, and the
 * writer's memory is freed with the caller's context.
 *
 * Begin before ExecutorStart of the query that returns the rows and end after
 * its ExecutorEnd: both sides may queue AFTER triggers, and those nest.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "core/compat.h"
#include "write/write_path.h"

struct MillWriter
{
	DestReceiver receiver; /* must be first, to be cast */
	uint64 received;	   /* rows */
	const MillWriteSpec *spec;
	MemoryContext context;
	Relation target;
	MillBulk *bulk; /* exactly one of these is set */
	MillInsert *insert;
	MillUpsert *upsert;
};

static bool receive_row(TupleTableSlot *row, DestReceiver *receiver);
static void receive_start(DestReceiver *receiver, int operation, TupleDesc desc);
static void receive_end(DestReceiver *receiver);

/*
 * INSERT refuses a value for a generated column when it is rewritten, before
 * any privilege is checked; do the same, with its message.
 */
static void
check_columns(Relation target, const MillWriteSpec *spec)
{
	TupleDesc desc = RelationGetDescr(target);

	for (int i = 0; i < spec->ncolumns; i++)
	{
		Form_pg_attribute attribute;

		if (spec->attnums[i] < 1 || spec->attnums[i] > desc->natts ||
			TupleDescAttr(desc, spec->attnums[i] - 1)->attisdropped)
			ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
							errmsg("column number %d of relation \"%s\" does not exist",
								   spec->attnums[i], RelationGetRelationName(target))));

		attribute = TupleDescAttr(desc, spec->attnums[i] - 1);
		if (attribute->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("cannot insert a non-DEFAULT value into column \"%s\"",
							NameStr(attribute->attname)),
					 errdetail("Column \"%s\" is an identity column defined as GENERATED ALWAYS.",
							   NameStr(attribute->attname)),
					 errhint("Leave the column out of the source.")));
		if (attribute->attgenerated)
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("cannot insert a non-DEFAULT value into column \"%s\"",
							NameStr(attribute->attname)),
					 errdetail("Column \"%s\" is a generated column.", NameStr(attribute->attname)),
					 errhint("Leave the column out of the source.")));
	}
}

/*
 * Make a range table of the target alone, with the privileges that writing
 * needs, and check them.  Upsert may delete; it updates unless there are only
 * key columns; and as ON CONFLICT reads the target's columns, it needs SELECT
 * on them.
 */
static List *
make_range_table(Relation target, const MillWriteSpec *spec, List **permissions)
{
	RangeTblEntry *entry = makeNode(RangeTblEntry);
	List *entries = list_make1(entry);
	MillPermissions *needs;

	entry->rtekind = RTE_RELATION;
	entry->relid = RelationGetRelid(target);
	entry->relkind = target->rd_rel->relkind;
	entry->rellockmode = RowExclusiveLock;
	entry->eref = makeAlias(RelationGetRelationName(target), NIL);

	*permissions = NIL;
	needs = mill_entry_permissions(entry, *permissions);
	needs->requiredPerms = ACL_INSERT;
	for (int i = 0; i < spec->ncolumns; i++)
		needs->insertedCols = bms_add_member(needs->insertedCols,
											 spec->attnums[i] - FirstLowInvalidHeapAttributeNumber);
	if (spec->upsert)
	{
		needs->requiredPerms |= ACL_SELECT | ACL_DELETE;
		needs->selectedCols = bms_copy(needs->insertedCols);
		needs->updatedCols = bms_copy(needs->insertedCols);
		for (int i = 0; i < spec->nkeys; i++)
			needs->updatedCols = bms_del_member(needs->updatedCols,
												spec->attnums[spec->keys[i]] -
													FirstLowInvalidHeapAttributeNumber);
		if (!bms_is_empty(needs->updatedCols))
			needs->requiredPerms |= ACL_UPDATE;
	}

	mill_check_permissions(entries, *permissions);
	if (XactReadOnly && !target->rd_islocaltemp)
		PreventCommandIfReadOnly("INSERT");
	return entries;
}

static void
choose_path(MillWriter *writer)
{
	const MillWriteSpec *spec = writer->spec;
	Relation target = writer->target;
	const char *refusal = NULL;
	List *permissions;
	List *entries;

	check_columns(target, spec);
	entries = make_range_table(target, spec, &permissions);

	if (spec->path != MILL_WRITE_EXECUTOR)
		refusal = mill_bulk_refusal(target, spec);
	if (spec->path == MILL_WRITE_BULK && refusal != NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot write to \"%s\" in bulk: %s",
							   RelationGetRelationName(target), refusal)));

	if (spec->upsert)
		writer->upsert = mill_upsert_begin(target, spec);
	else if (spec->path == MILL_WRITE_EXECUTOR || refusal != NULL)
		writer->insert = mill_insert_begin(target, spec);
	else
		writer->bulk = mill_bulk_begin(target, spec, entries, permissions);
}

MillWriter *
mill_writer_begin(const MillWriteSpec *spec)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "pg_mill writer",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	MillWriter *writer = palloc0(sizeof(MillWriter));

	if (spec->source->natts != spec->ncolumns + 1)
		elog(ERROR, "rows of a writer have %d columns, not %d and an ordinal", spec->source->natts,
			 spec->ncolumns);

	Assert(IsTransactionState() && ActiveSnapshotSet());
	Assert(!spec->upsert || (spec->nkeys > 0 && spec->is_delete));
	Assert(!spec->guard || spec->upsert);
	writer->receiver.receiveSlot = receive_row;
	writer->receiver.rStartup = receive_start;
	writer->receiver.rShutdown = receive_end;
	writer->receiver.rDestroy = receive_end;
	writer->receiver.mydest = DestNone;
	writer->spec = spec;
	writer->context = context;
	writer->target = try_relation_open(spec->target, RowExclusiveLock);
	if (writer->target == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("target table with OID %u does not exist", spec->target)));

	choose_path(writer);
	MemoryContextSwitchTo(caller);
	return writer;
}

DestReceiver *
mill_writer_receiver(MillWriter *writer)
{
	return &writer->receiver;
}

uint64
mill_writer_received(const MillWriter *writer)
{
	return writer->received;
}

/* The lock on the target is kept until the transaction ends, as after INSERT. */
uint64
mill_writer_end(MillWriter *writer)
{
	MemoryContext caller = MemoryContextSwitchTo(writer->context);
	uint64 count;

	if (writer->bulk)
		count = mill_bulk_end(writer->bulk);
	else if (writer->upsert)
		count = mill_upsert_end(writer->upsert);
	else
		count = mill_insert_end(writer->insert);

	relation_close(writer->target, NoLock);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(writer->context);
	return count;
}

/*
 * The paths trust that datums have the types of spec->source; a query that was
 * planned for other types must not get further.
 */
static void
receive_start(DestReceiver *receiver, int operation, TupleDesc desc)
{
	TupleDesc source = ((MillWriter *) receiver)->spec->source;

	if (desc->natts != source->natts)
		elog(ERROR, "rows have %d columns, expected %d", desc->natts, source->natts);
	for (int i = 0; i < source->natts; i++)
		if (TupleDescAttr(desc, i)->atttypid != TupleDescAttr(source, i)->atttypid)
			elog(ERROR, "column %d of the rows has type %u, expected %u", i + 1,
				 TupleDescAttr(desc, i)->atttypid, TupleDescAttr(source, i)->atttypid);
}

static bool
receive_row(TupleTableSlot *row, DestReceiver *receiver)
{
	MillWriter *writer = (MillWriter *) receiver;
	MemoryContext caller = MemoryContextSwitchTo(writer->context);

	writer->received++;
	slot_getallattrs(row);
	if (writer->bulk)
		mill_bulk_row(writer->bulk, row);
	else if (writer->upsert)
		mill_upsert_row(writer->upsert, row);
	else
		mill_insert_row(writer->insert, row);

	MemoryContextSwitchTo(caller);
	return true;
}

/* Does nothing: mill_writer_end ends the rows, memory goes with the writer's context. */
static void
receive_end(DestReceiver *receiver)
{
}
