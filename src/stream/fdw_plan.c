/*
 * fdw_plan.c
 *		Planning a scan of a stream: its costs, the columns to decode, and the
 *		conditions that can be pushed down.
 *
 * A condition on the partition, offset or timestamp narrows the ranges that are
 * read.  It is checked again on each row, so narrowing may be coarse but must
 * never lose a row.  The other operand of such a condition is kept as an
 * expression and evaluated when the scan starts.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "stream/fdw.h"

/*
 * Without asking the broker nothing is known about a topic, and planning should
 * not ask.  The costs are high enough for the planner to read a topic only once.
 */
#define GUESSED_ROWS 100000
#define STARTUP_COST 1000.0
#define MESSAGE_COST 0.05

void
mill_fdw_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	if (rel->tuples <= 0)
		rel->tuples = GUESSED_ROWS;
	set_baserel_size_estimates(root, rel);
}

void
mill_fdw_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	Cost startup = STARTUP_COST + rel->baserestrictcost.startup;
	Cost total = startup +
				 rel->tuples * (MESSAGE_COST + cpu_tuple_cost + rel->baserestrictcost.per_tuple);

	add_path(rel, (Path *) mill_create_foreignscan_path(root, rel, rel->rows, startup, total,
														rel->lateral_relids));
}

/* ---- conditions ---- */

/*
 * Which metadata column of this relation a node is, if its type can be compared
 * on the broker's side; else MILL_COLUMN_FIELD.
 */
static MillColumnKind
column_kind(const MillStream *stream, RelOptInfo *rel, Node *node)
{
	Var *var;
	MillColumnKind kind;

	while (node && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node == NULL || !IsA(node, Var))
		return MILL_COLUMN_FIELD;
	var = (Var *) node;
	if (var->varno != rel->relid || var->varlevelsup != 0 || var->varattno < 1 ||
		var->varattno > stream->layout.ncolumns)
		return MILL_COLUMN_FIELD;

	kind = stream->layout.columns[var->varattno - 1].kind;
	if (kind == MILL_COLUMN_PARTITION || kind == MILL_COLUMN_OFFSET)
		return var->vartype == INT2OID || var->vartype == INT4OID || var->vartype == INT8OID
				   ? kind
				   : MILL_COLUMN_FIELD;
	/* not timestamp without time zone: an hour occurs twice when clocks are set back */
	return kind == MILL_COLUMN_TIMESTAMP && var->vartype == TIMESTAMPTZOID ? kind
																		   : MILL_COLUMN_FIELD;
}

/* Can the node be evaluated before the first row is read? */
static bool
is_fixed(Node *node)
{
	return !contain_var_clause(node) && !contain_volatile_functions(node) && !contain_subplans(node);
}

/* The operator's btree strategy on this kind of column, 0 if it cannot be used. */
static int
strategy_of(Oid opno, MillColumnKind kind)
{
	int strategy;
	Oid family;

	if (kind != MILL_COLUMN_TIMESTAMP)
		return get_op_opfamily_strategy(opno, INTEGER_BTREE_FAM_OID);

	/*
	 * Timestamps may be out of order: after one that is too high there may be
	 * others that are not.
	 */
	family = get_opclass_family(GetDefaultOpClass(TIMESTAMPTZOID, BTREE_AM_OID));
	strategy = get_op_opfamily_strategy(opno, family);
	return strategy == BTLessStrategyNumber || strategy == BTLessEqualStrategyNumber ? 0 : strategy;
}

/*
 * If the clause can be pushed down, add it to conditions and its other operand
 * to values.
 */
static void
push_down(const MillStream *stream, RelOptInfo *rel, Expr *clause, List **conditions, List **values)
{
	MillColumnKind kind = MILL_COLUMN_FIELD;
	Node *value = NULL;
	int strategy = 0;
	bool any = false;

	if (IsA(clause, OpExpr) && list_length(((OpExpr *) clause)->args) == 2)
	{
		OpExpr *op = (OpExpr *) clause;
		Oid opno = op->opno;
		Node *column = linitial(op->args);

		value = lsecond(op->args);
		kind = column_kind(stream, rel, column);
		if (kind == MILL_COLUMN_FIELD)
		{
			kind = column_kind(stream, rel, value);
			value = column;
			opno = get_commutator(op->opno);
		}
		if (kind != MILL_COLUMN_FIELD && OidIsValid(opno))
			strategy = strategy_of(opno, kind);
	}
	else if (IsA(clause, ScalarArrayOpExpr) && ((ScalarArrayOpExpr *) clause)->useOr)
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		any = true;
		value = lsecond(op->args);
		kind = column_kind(stream, rel, linitial(op->args));
		if (kind == MILL_COLUMN_PARTITION && strategy_of(op->opno, kind) == BTEqualStrategyNumber)
			strategy = BTEqualStrategyNumber;
	}

	if (strategy == 0 || !is_fixed(value))
		return;
	*conditions = lappend(*conditions, list_make3_int(kind, strategy, any));
	*values = lappend(*values, value);
}

/* ---- columns ---- */

/*
 * The attributes that a scan must decode, as an integer list: those of the
 * output and those in the clauses.  The plan's own target list cannot be used:
 * where core omits a projection it has every column.
 */
static List *
needed_attributes(RelOptInfo *rel, Oid relid, List *clauses)
{
	Relation relation = table_open(relid, NoLock);
	TupleDesc desc = RelationGetDescr(relation);
	Bitmapset *columns = NULL;
	List *needed = NIL;
	bool all;

	pull_varattnos((Node *) rel->reltarget->exprs, rel->relid, &columns);
	pull_varattnos((Node *) clauses, rel->relid, &columns);
	all = bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, columns);

	for (int i = 1; i <= desc->natts; i++)
		if (!TupleDescAttr(desc, i - 1)->attisdropped &&
			(all || bms_is_member(i - FirstLowInvalidHeapAttributeNumber, columns)))
			needed = lappend_int(needed, i);
	table_close(relation, NoLock);
	return needed;
}

ForeignScan *
mill_fdw_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path, List *tlist,
			  List *clauses, Plan *outer)
{
	MillStream *stream = mill_stream_load(relid);
	List *conditions = NIL;
	List *values = NIL;
	ListCell *cell;

	clauses = extract_actual_clauses(clauses, false);
	foreach (cell, clauses)
		push_down(stream, rel, lfirst(cell), &conditions, &values);

	return make_foreignscan(tlist, clauses, rel->relid, values,
							list_make2(needed_attributes(rel, relid, clauses), conditions), NIL,
							NIL, outer);
}
