/*
 * bulk.c
 *		The bulk path: inserts rows into a table as COPY FROM does.
 *
 * For each row, in the order of INSERT: defaults of the columns that the source
 * does not give, partition routing, stored generated columns, NOT NULL and
 * CHECK constraints; then the row waits in a buffer (bulk_buffer.c) for table,
 * indexes and AFTER ROW triggers.  Statement triggers fire once around the
 * whole batch.  Domain constraints are checked by the casts in the source
 * query.
 *
 * Buffering is right only if nobody can see the difference.  What may look at
 * the table from inside the statement (volatile defaults, BEFORE ROW triggers)
 * is left to the executor, see mill_bulk_refusal.  Only a BEFORE ROW trigger on
 * a partition is not known before a row for it arrives: then the buffers are
 * flushed first and the row is written at once.
 *
 * All rows have the same command id, so neither the source query nor triggers
 * that use the statement's snapshot see them.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_proc.h"
#include "commands/trigger.h"
#include "executor/execPartition.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "partitioning/partdesc.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteHandler.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "core/compat.h"
#include "write/write_path.h"

struct MillBulk
{
	const MillWriteSpec *spec;
	EState *estate;
	ModifyTableState *state; /* needed by partition routing */
	ResultRelInfo *target;
	PartitionTupleRouting *routing; /* NULL: not partitioned */
	TupleTableSlot *routed;			/* if partitioned: the row in the target's row type */
	ResultRelInfo *partition;		/* of the previous row */
	bool at_once;					/* that partition has BEFORE ROW triggers */
	TransitionCaptureState *capture;
	MillBuffers buffers;
	uint64 count;

	/* A row before the source's columns are set: constant defaults and NULLs. */
	Datum *values;
	bool *isnull;
	int ndefaults; /* number of defaults to compute for each row */
	AttrNumber *default_attnums;
	ExprState **defaults;
};

/* ---- what the bulk path covers ---- */

/*
 * Some functions are volatile but do not read tables: a default with them may
 * be computed before earlier rows are in the table.
 */
static bool
is_unsafe_function(Oid function, void *context)
{
	switch (function)
	{
		case F_NEXTVAL:
		case F_GEN_RANDOM_UUID:
		case F_CLOCK_TIMESTAMP:
			return false;
		default:
			return func_volatile(function) == PROVOLATILE_VOLATILE;
	}
}

/* A NextValueExpr, of an identity column, is safe like nextval(). */
static bool
is_unsafe_default(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, is_unsafe_function, context))
		return true;
	return expression_tree_walker(node, is_unsafe_default, context);
}

static bool
is_written(const MillWriteSpec *spec, AttrNumber attnum)
{
	for (int i = 0; i < spec->ncolumns; i++)
		if (spec->attnums[i] == attnum)
			return true;
	return false;
}

/*
 * The default of a column that the source does not give, ready to be executed;
 * NULL if it is just NULL.  A domain may refuse NULL, so for that it is a cast.
 */
static Expr *
column_default(Relation target, const MillWriteSpec *spec, AttrNumber attnum)
{
	Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(target), attnum - 1);
	Node *expr;

	if (attribute->attisdropped || attribute->attgenerated || is_written(spec, attnum))
		return NULL;

	expr = build_column_default(target, attnum);
	if (expr == NULL)
	{
		int32 typmod = attribute->atttypmod;
		Oid base = getBaseTypeAndTypmod(attribute->atttypid, &typmod);

		if (base == attribute->atttypid)
			return NULL;
		expr = (Node *) makeConst(base, typmod, attribute->attcollation, get_typlen(base),
								  (Datum) 0, true, get_typbyval(base));
		expr = coerce_to_domain(expr, InvalidOid, -1, attribute->atttypid, COERCION_IMPLICIT,
								COERCE_IMPLICIT_CAST, -1, false);
	}
	return expression_planner((Expr *) expr);
}

static bool
has_foreign_partition(Relation relation)
{
	PartitionDesc partitions = RelationGetPartitionDesc(relation, true);

	for (int i = 0; i < partitions->nparts; i++)
	{
		bool found;

		if (partitions->is_leaf[i])
			found = get_rel_relkind(partitions->oids[i]) == RELKIND_FOREIGN_TABLE;
		else
		{
			Relation child = table_open(partitions->oids[i], RowExclusiveLock);

			found = has_foreign_partition(child);
			table_close(child, NoLock);
		}
		if (found)
			return true;
	}
	return false;
}

static bool
has_insert_rule(Relation target)
{
	for (int i = 0; target->rd_rules != NULL && i < target->rd_rules->numLocks; i++)
		if (target->rd_rules->rules[i]->event == CMD_INSERT)
			return true;
	return false;
}

static bool
has_other_types(Relation target, const MillWriteSpec *spec)
{
	for (int i = 0; i < spec->ncolumns; i++)
	{
		Form_pg_attribute to = TupleDescAttr(RelationGetDescr(target), spec->attnums[i] - 1);
		Form_pg_attribute from = TupleDescAttr(spec->source, i);

		if (from->atttypid != to->atttypid ||
			(to->atttypmod >= 0 && from->atttypmod != to->atttypmod))
			return true;
	}
	return false;
}

const char *
mill_bulk_refusal(Relation target, const MillWriteSpec *spec)
{
	char kind = target->rd_rel->relkind;

	if (spec->upsert)
		return "an upsert takes a statement";
	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		return "it is not a table";
	if (check_enable_rls(RelationGetRelid(target), InvalidOid, true) == RLS_ENABLED)
		return "row security applies";
	if (has_insert_rule(target))
		return "it has rules on INSERT";
	if (target->trigdesc != NULL && target->trigdesc->trig_insert_before_row)
		return "it has BEFORE ROW triggers on INSERT";
	if (has_other_types(target, spec))
		return "the rows do not have the types of its columns";
	for (AttrNumber attnum = 1; attnum <= RelationGetNumberOfAttributes(target); attnum++)
		if (is_unsafe_default((Node *) column_default(target, spec, attnum), NULL))
			return "a column that is not in the source has a volatile default";
	if (kind == RELKIND_PARTITIONED_TABLE && has_foreign_partition(target))
		return "it has foreign tables as partitions";
	return NULL;
}

/* ---- begin ---- */

static void
prepare_defaults(MillBulk *bulk, Relation target)
{
	int natts = RelationGetNumberOfAttributes(target);

	bulk->values = palloc0_array(Datum, natts);
	bulk->isnull = palloc_array(bool, natts);
	bulk->default_attnums = palloc_array(AttrNumber, natts);
	bulk->defaults = palloc_array(ExprState *, natts);
	memset(bulk->isnull, true, natts);

	for (AttrNumber attnum = 1; attnum <= natts; attnum++)
	{
		Expr *expr = column_default(target, bulk->spec, attnum);

		if (expr == NULL)
			continue;
		if (IsA(expr, Const))
		{
			bulk->values[attnum - 1] = ((Const *) expr)->constvalue;
			bulk->isnull[attnum - 1] = ((Const *) expr)->constisnull;
			continue;
		}
		bulk->default_attnums[bulk->ndefaults] = attnum;
		bulk->defaults[bulk->ndefaults++] = ExecInitExpr(expr, NULL);
	}
}

/*
 * Set up the executor nodes that an INSERT would have, as far as routing,
 * constraints, indexes and triggers use them.
 */
static void
prepare_target(MillBulk *bulk, List *entries, List *permissions)
{
	EState *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	ModifyTableState *state = makeNode(ModifyTableState);

	mill_init_range_table(estate, entries, permissions);
	ExecInitResultRelation(estate, target, 1);
	ExecOpenIndices(target, false);

	state->ps.state = estate;
	state->operation = CMD_INSERT;
	state->mt_nrels = 1;
	state->resultRelInfo = target;
	state->rootResultRelInfo = target;

	bulk->estate = estate;
	bulk->target = target;
	bulk->state = state;
}

MillBulk *
mill_bulk_begin(Relation target, const MillWriteSpec *spec, List *entries, List *permissions)
{
	MillBulk *bulk = palloc0_object(MillBulk);

	bulk->spec = spec;
	prepare_defaults(bulk, target);
	prepare_target(bulk, entries, permissions);

	/* until mill_bulk_end this is the query that triggers belong to */
	AfterTriggerBeginQuery();
	bulk->capture = MakeTransitionCaptureState(target->trigdesc, RelationGetRelid(target),
											   CMD_INSERT);
	bulk->state->mt_transition_capture = bulk->capture;
	if (target->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		bulk->routing = ExecSetupPartitionTupleRouting(bulk->estate, target);
		bulk->routed = table_slot_create(target, &bulk->estate->es_tupleTable);
	}

	bulk->buffers.estate = bulk->estate;
	bulk->buffers.cid = GetCurrentCommandId(true);
	bulk->buffers.capture = bulk->capture;
	ExecBSInsertTriggers(bulk->estate, bulk->target);
	return bulk;
}

/* ---- a row ---- */

static void
fill_slot(MillBulk *bulk, TupleTableSlot *slot, TupleTableSlot *row)
{
	const MillWriteSpec *spec = bulk->spec;
	int natts = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, bulk->values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, bulk->isnull, natts * sizeof(bool));
	for (int i = 0; i < spec->ncolumns; i++)
	{
		slot->tts_values[spec->attnums[i] - 1] = row->tts_values[i];
		slot->tts_isnull[spec->attnums[i] - 1] = row->tts_isnull[i];
	}
	for (int i = 0; i < bulk->ndefaults; i++)
	{
		int column = bulk->default_attnums[i] - 1;

		slot->tts_values[column] = ExecEvalExprSwitchContext(bulk->defaults[i],
															 GetPerTupleExprContext(bulk->estate),
															 &slot->tts_isnull[column]);
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(bulk->target->ri_RelationDesc);
}

/* Compute the stored generated columns of a row, and check its constraints. */
static void
complete_row(MillBulk *bulk, ResultRelInfo *relation, TupleTableSlot *slot, bool check_partition)
{
	Relation rel = relation->ri_RelationDesc;
	TupleConstr *constraints = RelationGetDescr(rel)->constr;

	if (constraints != NULL && constraints->has_generated_stored)
		ExecComputeStoredGenerated(relation, bulk->estate, slot, CMD_INSERT);
	if (constraints != NULL)
		ExecConstraints(relation, slot, bulk->estate);
	if (check_partition && rel->rd_rel->relispartition)
		ExecPartitionCheck(relation, slot, bulk->estate, true);
}

/*
 * The row goes to another partition than the previous one.  mill_bulk_refusal
 * checked for foreign tables, but did not lock all partitions.
 */
static void
change_partition(MillBulk *bulk, ResultRelInfo *partition)
{
	TriggerDesc *triggers = partition->ri_TrigDesc;

	if (partition->ri_FdwRoutine != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("foreign table \"%s\" was attached to the target while rows were written",
						RelationGetRelationName(partition->ri_RelationDesc))));
	bulk->partition = partition;
	bulk->at_once = triggers != NULL && triggers->trig_insert_before_row;
}

/*
 * Write a row whose BEFORE ROW triggers may change it, drop it, or look for
 * earlier rows.
 */
static void
write_at_once(MillBulk *bulk, ResultRelInfo *partition, TupleTableSlot *slot)
{
	List *recheck = NIL;

	mill_buffers_flush(&bulk->buffers, NULL);
	if (!ExecBRInsertTriggers(bulk->estate, partition, slot))
		return;
	complete_row(bulk, partition, slot, true);
	table_tuple_insert(partition->ri_RelationDesc, slot, bulk->buffers.cid, 0, NULL);
	if (partition->ri_NumIndices > 0)
		recheck = mill_insert_index_tuples(partition, slot, bulk->estate);
	ExecARInsertTriggers(bulk->estate, partition, slot, recheck, bulk->capture);
	list_free(recheck);
	bulk->count++;
}

static void
route_row(MillBulk *bulk, TupleTableSlot *row)
{
	TupleTableSlot *routed = bulk->routed;
	ResultRelInfo *partition;
	TupleTableSlot *slot;
	TupleConversionMap *map;

	fill_slot(bulk, routed, row);
	partition = ExecFindPartition(bulk->state, bulk->target, bulk->routing, routed, bulk->estate);
	if (partition != bulk->partition)
		change_partition(bulk, partition);

	map = mill_root_to_partition_map(partition, bulk->estate);
	if (!bulk->at_once)
		slot = mill_buffers_slot(&bulk->buffers, partition);
	else
		slot = map != NULL ? partition->ri_PartitionTupleSlot : routed;

	if (map != NULL)
		slot = execute_attr_map_slot(map->attrMap, routed, slot);
	else if (slot != routed)
		ExecCopySlot(slot, routed);
	slot->tts_tableOid = RelationGetRelid(partition->ri_RelationDesc);

	if (bulk->at_once)
	{
		write_at_once(bulk, partition, slot);
		return;
	}
	complete_row(bulk, partition, slot, false);
	mill_buffers_keep(&bulk->buffers, partition, slot);
	bulk->count++;
}

void
mill_bulk_row(MillBulk *bulk, TupleTableSlot *row)
{
	TupleTableSlot *slot;

	CHECK_FOR_INTERRUPTS();
	ResetPerTupleExprContext(bulk->estate);

	if (bulk->routing != NULL)
	{
		route_row(bulk, row);
		return;
	}
	slot = mill_buffers_slot(&bulk->buffers, bulk->target);
	fill_slot(bulk, slot, row);
	complete_row(bulk, bulk->target, slot, true);
	mill_buffers_keep(&bulk->buffers, bulk->target, slot);
	bulk->count++;
}

/* ---- end ---- */

uint64
mill_bulk_end(MillBulk *bulk)
{
	uint64 count = bulk->count;

	mill_buffers_flush(&bulk->buffers, NULL);
	ExecASInsertTriggers(bulk->estate, bulk->target, bulk->capture);
	AfterTriggerEndQuery(bulk->estate);

	ExecResetTupleTable(bulk->estate->es_tupleTable, false);
	mill_buffers_free(&bulk->buffers);
	if (bulk->routing != NULL)
		ExecCleanupTupleRouting(bulk->state, bulk->routing);
	ExecCloseResultRelations(bulk->estate);
	ExecCloseRangeTableRelations(bulk->estate);
	FreeExecutorState(bulk->estate);
	return count;
}
