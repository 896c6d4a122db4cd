/*
 * direct.c
 *		Direct capture: the plan of a capture statement, started once a session.
 *
 * Most of what a small statement pays for an aggregate is the start of an
 * executor.  Where a capture statement reads nothing but transition tables and
 * runs nothing but core's and our own functions, its plan is started once and kept:
 * each change gives it other transition tables and reads it again, as an executor
 * does whose parameter has changed, and what it returns is written into the delta table
 * as COPY would.  The statement and its plan are the same as on the other way, SPI, and
 * so is what is written.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/direct.h"

/* Rows that are written at once. */
#define ROWS_AT_ONCE 100
/* What the planner is told of a transition table: few groups, but not one. */
#define EXPECTED_ROWS 100

struct MillDirect
{
	MemoryContext context; /* has all of this */
	EState *estate;
	PlanState *plan;
	int change;	 /* the parameter that says that the transition tables are others */
	List *scans; /* NamedTuplestoreScanState */
	bool running;

	Oid delta;
	TupleDesc columns;
	ExprState **generated;	/* for each column; NULL: it comes from the plan */
	ExprContext *row;		/* of the generated columns */
	MemoryContext writing;	/* what the table's access method leaves behind */
	TupleTableSlot **slots; /* ROWS_AT_ONCE, made when they are needed */
	int nslots;
};

/* ---------------------------------------------------------------- what may run directly */

/*
 * Is this function neither core's nor ours?  One in C of another extension may well run
 * statements, as whoever calls it.
 */
static bool
is_other_function(Oid function, void *context)
{
	return function >= FirstNormalObjectId &&
		   getExtensionOfObject(ProcedureRelationId, function) != mill_extension();
}

/* Can comparing or reading values of this type? Domains have conditions, rows any columns. */
static bool
is_other_type(Oid type)
{
	Oid element = get_element_type(type);

	if (OidIsValid(element))
		type = element;
	if (type == RECORDOID || type == RECORDARRAYOID)
		return true;
	if (type < FirstNormalObjectId)
		return false;
	return get_typtype(type) != TYPTYPE_BASE && get_typtype(type) != TYPTYPE_ENUM;
}

static bool
find_other_code(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_other_code, context, 0);
	if (check_functions_in_node(node, is_other_function, context))
		return true;
	switch (nodeTag(node))
	{
		case T_Const:
			/* mill.partial_state gets its aggregate as a constant */
			if (((Const *) node)->consttype == REGPROCEDUREOID && !((Const *) node)->constisnull &&
				is_other_function(DatumGetObjectId(((Const *) node)->constvalue), context))
				return true;
			/* FALLTHROUGH */
		case T_Var:
		case T_OpExpr:
		case T_Aggref:
		case T_WindowFunc:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CoerceToDomain:
		case T_RowExpr:
		case T_FieldSelect:
			if (is_other_type(exprType(node)))
				return true;
			break;
		case T_FuncExpr:
			/* what is done with a row, and not with its columns, shows where it is done */
			if (exprType(node) != RECORDOID && is_other_type(exprType(node)))
				return true;
			break;
		default:
			break;
	}
	return expression_tree_walker(node, find_other_code, context);
}

/*
 * Does the plan read nothing but transition tables?  Then let each node of it
 * depend on the parameter.
 */
static bool
adopt_plan(Plan *plan, int change)
{
	ListCell *lc;

	if (plan == NULL)
		return true;
	switch (nodeTag(plan))
	{
		case T_Agg:
		case T_NamedTuplestoreScan:
		case T_NestLoop:
		case T_ProjectSet:
		case T_Result:
		case T_SetOp:
		case T_Sort:
		case T_Unique:
		case T_WindowAgg:
			break;
		case T_Append:
			foreach (lc, ((Append *) plan)->appendplans)
			{
				if (!adopt_plan(lfirst(lc), change))
					return false;
			}
			break;
		case T_SubqueryScan:
			if (!adopt_plan(((SubqueryScan *) plan)->subplan, change))
				return false;
			break;
		default:
			return false;
	}
	if (plan->initPlan != NIL)
		return false;
	plan->extParam = bms_add_member(plan->extParam, change);
	plan->allParam = bms_add_member(plan->allParam, change);
	return adopt_plan(outerPlan(plan), change) && adopt_plan(innerPlan(plan), change);
}

/*
 * Would an INSERT into the delta table do nothing but store rows?  Its owner may have
 * given it triggers, indexes, conditions or columns; SPI does justice to them.
 */
static bool
is_plain(Relation delta)
{
	TupleConstr *constraints = RelationGetDescr(delta)->constr;

	return delta->rd_rel->relkind == RELKIND_RELATION && delta->trigdesc == NULL &&
		   !delta->rd_rel->relhasindex && !delta->rd_rel->relhasrules &&
		   !delta->rd_rel->relrowsecurity && !delta->rd_rel->relispartition &&
		   (constraints == NULL || constraints->num_check == 0);
}

/* ---------------------------------------------------------------- start */

static void
add_rows(QueryEnvironment *environment, const char *name, TupleDesc columns, Tuplestorestate *rows)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = pstrdup(name);
	relation->md.tupdesc = columns;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = EXPECTED_ROWS;
	relation->reldata = rows;
	register_ENR(environment, relation);
}

/* The plan of an INSERT's rows, which may be changed; NULL if it cannot run directly. */
static PlannedStmt *
plan_statement(const char *statement, QueryEnvironment *environment)
{
	List *queries = pg_analyze_and_rewrite_fixedparams(linitial_node(RawStmt,
																	 pg_parse_query(statement)),
													   statement, NULL, 0, environment);
	PlannedStmt *planned;
	int change;

	if (list_length(queries) != 1 || find_other_code(linitial(queries), NULL))
		return NULL;
	planned = pg_plan_query(linitial_node(Query, queries), statement, 0, NULL);
	if (planned->commandType != CMD_INSERT || planned->subplans != NIL ||
		!IsA(planned->planTree, ModifyTable))
		return NULL;
	planned->planTree = outerPlan(planned->planTree);
	change = list_length(planned->paramExecTypes);
	planned->paramExecTypes = lappend_oid(planned->paramExecTypes, InvalidOid);
	return adopt_plan(planned->planTree, change) ? planned : NULL;
}

static bool
find_scans(PlanState *plan, void *context)
{
	MillDirect *d = context;

	if (IsA(plan, NamedTuplestoreScanState))
		d->scans = lappend(d->scans, plan);
	return planstate_tree_walker(plan, find_scans, context);
}

static void
start_plan(MillDirect *d, PlannedStmt *planned, QueryEnvironment *environment)
{
	EState *estate = CreateExecutorState();
	MemoryContext before = MemoryContextSwitchTo(estate->es_query_cxt);
	int parameters = list_length(planned->paramExecTypes);

	estate->es_plannedstmt = planned;
	estate->es_queryEnv = environment;
	estate->es_param_exec_vals = palloc0(parameters * sizeof(ParamExecData));
	d->change = parameters - 1;
	d->estate = estate;
	d->plan = ExecInitNode(planned->planTree, estate, 0);
	(void) find_scans(d->plan, d);
	MemoryContextSwitchTo(before);
}

/* Prepare the generated columns of the delta table; false if one is not of the simple kind. */
static bool
prepare_columns(MillDirect *d, Relation delta)
{
	d->delta = RelationGetRelid(delta);
	d->columns = CreateTupleDescCopyConstr(RelationGetDescr(delta));
	d->generated = palloc0(d->columns->natts * sizeof(ExprState *));
	d->row = CreateExprContext(d->estate);
	for (int i = 0; i < d->columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(d->columns, i);
		Node *expression;

		if (column->attgenerated != ATTRIBUTE_GENERATED_STORED)
			continue;
		expression = build_column_default(delta, i + 1);
		if (!column->attbyval || find_other_code(expression, NULL))
			return false;
		d->generated[i] = ExecPrepareExpr((Expr *) expression, d->estate);
	}
	return true;
}

MillDirect *
mill_direct_start(const char *statement, Oid delta, TupleDesc row, Tuplestorestate *old,
				  Tuplestorestate *new, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "pg_mill direct capture",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	MillDirect *d = palloc0(sizeof(MillDirect));
	Relation rel = table_open(delta, RowExclusiveLock);
	QueryEnvironment *environment = create_queryEnv();
	MemoryContext scratch = AllocSetContextCreate(context, "pg_mill planning",
												  ALLOCSET_DEFAULT_SIZES);
	PlannedStmt *planned;

	Assert(IsTransactionState() && (old || new));
	d->context = context;
	row = CreateTupleDescCopyConstr(row);
	if (old)
		add_rows(environment, MILL_OLD_ROWS, row, old);
	if (new)
		add_rows(environment, MILL_NEW_ROWS, row, new);
	/* parsing and planning leave much behind */
	MemoryContextSwitchTo(scratch);
	planned = is_plain(rel) ? plan_statement(statement, environment) : NULL;
	MemoryContextSwitchTo(context);
	planned = copyObject(planned);
	MemoryContextDelete(scratch);
	if (planned)
	{
		start_plan(d, planned, environment);
		if (list_length(planned->planTree->targetlist) != RelationGetNumberOfAttributes(rel) ||
			!prepare_columns(d, rel))
			planned = NULL;
	}
	table_close(rel, NoLock);
	if (planned)
	{
		d->writing = AllocSetContextCreate(context, "pg_mill direct write", ALLOCSET_DEFAULT_SIZES);
		d->slots = palloc0(ROWS_AT_ONCE * sizeof(TupleTableSlot *));
	}
	MemoryContextSwitchTo(before);
	if (planned == NULL)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	return d;
}

void
mill_direct_end(MillDirect *d)
{
	MemoryContextDelete(d->context);
}

bool
mill_direct_is_broken(const MillDirect *d)
{
	return d->running;
}

/* ---------------------------------------------------------------- run */

static void
store_rows(MillDirect *d, Relation delta)
{
	MemoryContext before = MemoryContextSwitchTo(d->writing);

	table_multi_insert(delta, d->slots, d->nslots, GetCurrentCommandId(true), 0, NULL);
	MemoryContextSwitchTo(before);
	MemoryContextReset(d->writing);
	d->nslots = 0;
}

static void
finish_row(MillDirect *d, Relation delta, TupleTableSlot *slot)
{
	d->row->ecxt_scantuple = slot;
	for (int i = 0; i < d->columns->natts; i++)
	{
		if (d->generated[i])
			slot->tts_values[i] = ExecEvalExprSwitchContext(d->generated[i], d->row,
															&slot->tts_isnull[i]);
		if (slot->tts_isnull[i] && TupleDescAttr(d->columns, i)->attnotnull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("null value in column \"%s\" of relation \"%s\" violates not-null constraint",
							NameStr(TupleDescAttr(d->columns, i)->attname),
							RelationGetRelationName(delta)),
					 errtablecol(delta, i + 1)));
	}
	ResetExprContext(d->row);
}

/* Keep a row until enough are there. */
static void
add_row(MillDirect *d, Relation delta, TupleTableSlot *result)
{
	TupleTableSlot *slot = d->slots[d->nslots];

	if (slot == NULL)
	{
		MemoryContext before = MemoryContextSwitchTo(d->context);

		slot = d->slots[d->nslots] = MakeSingleTupleTableSlot(d->columns, &TTSOpsVirtual);
		MemoryContextSwitchTo(before);
	}
	ExecCopySlot(slot, result);
	slot->tts_tableOid = RelationGetRelid(delta);
	finish_row(d, delta, slot);
	if (++d->nslots == ROWS_AT_ONCE)
		store_rows(d, delta);
}

/* Let go of what belongs to this transaction and its transition tables, and be ready for others. */
static bool
reset_plan(PlanState *plan, void *context)
{
	if (plan->chgParam != NULL)
		ExecReScan(plan);
	return planstate_tree_walker(plan, reset_plan, context);
}

bool
mill_direct_run(MillDirect *d, Tuplestorestate *old, Tuplestorestate *new)
{
	Relation delta = table_open(d->delta, RowExclusiveLock);
	MemoryContext before;
	TupleTableSlot *result;
	ListCell *lc;

	Assert(!d->running);
	if (!is_plain(delta) || RelationGetNumberOfAttributes(delta) != d->columns->natts)
	{
		table_close(delta, NoLock);
		return false;
	}
	d->running = true;
	d->nslots = 0;
	before = MemoryContextSwitchTo(d->estate->es_query_cxt);
	foreach (lc, d->scans)
	{
		NamedTuplestoreScanState *scan = lfirst(lc);
		const char *name = ((NamedTuplestoreScan *) scan->ss.ps.plan)->enrname;

		scan->relation = strcmp(name, MILL_OLD_ROWS) == 0 ? old : new;
		Assert(scan->relation);
		scan->readptr = tuplestore_alloc_read_pointer(scan->relation, EXEC_FLAG_REWIND);
		tuplestore_select_read_pointer(scan->relation, scan->readptr);
		tuplestore_rescan(scan->relation);
	}
	while (result = ExecProcNode(d->plan), !TupIsNull(result))
	{
		CHECK_FOR_INTERRUPTS();
		add_row(d, delta, result);
	}
	if (d->nslots > 0)
		store_rows(d, delta);
	d->plan->chgParam = bms_make_singleton(d->change);
	(void) reset_plan(d->plan, NULL);
	MemoryContextSwitchTo(before);
	d->running = false;
	table_close(delta, NoLock);
	return true;
}
