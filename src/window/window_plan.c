/*
 * window_plan.c
 *		What the planner does not see by itself in queries with windows: a planner hook.
 *
 * GROUP BY window_start, window_end: a window's start determines its end.  Whoever selects
 * both must group by both, as SQL knows such a thing of primary keys only.  As core does
 * with those, leave out of GROUP BY what is determined: the ends are computed for each
 * group, not for each row, and are not hashed or compared.
 *
 * FROM t, mill.tumble(t.at, ...): core inlines the function, but keeps a join of each row
 * with an empty one, because the body has a condition.  Here the function's columns become
 * expressions over t, and its condition one of the query.
 *
 * Changes the copy of a query that the planner works on, no query that is stored or
 * shown, and never a result.
 */
#include "postgres.h"

#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "core/compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

#include "core/catalog.h"
#include "window/window.h"

/* The columns of mill.tumble. */
#define WINDOW_START 1
#define WINDOW_END 2

static planner_hook_type previous_planner = NULL;

/* An entry of FROM that is one call of a window function of this name; NULL if it is not. */
FuncExpr *
mill_window_call(const RangeTblEntry *rte, const char *name)
{
	Node *call;

	if (rte->rtekind != RTE_FUNCTION || list_length(rte->functions) != 1)
		return NULL;
	call = ((RangeTblFunction *) linitial(rte->functions))->funcexpr;
	return OidIsValid(mill_function_of_ours(call, name)) ? (FuncExpr *) call : NULL;
}

/* A call of mill.tumble whose windows are the same for all rows: all but the time is. */
static bool
has_fixed_windows(const RangeTblEntry *rte)
{
	const FuncExpr *call = mill_window_call(rte, "tumble");
	ListCell *lc;

	if (call == NULL)
		return false;
	foreach (lc, call->args)
	{
		Node *argument = lfirst(lc);
		int number = IsA(argument, NamedArgExpr) ? ((NamedArgExpr *) argument)->argnumber
												 : foreach_current_index(lc);

		if (number > 0 &&
			(contain_vars_of_level(argument, 0) || contain_volatile_functions(argument)))
			return false;
	}
	return true;
}

/* The GROUP BY item that is a column of a range table entry; NULL: none. */
static SortGroupClause *
grouped_column(const Query *query, int rti, AttrNumber column)
{
	ListCell *lc;

	foreach (lc, query->groupClause)
	{
		const Var *var = (const Var *) get_sortgroupclause_expr(lfirst(lc), query->targetList);

		if (IsA(var, Var) && var->varlevelsup == 0 && var->varno == rti && var->varattno == column)
			return lfirst(lc);
	}
	return NULL;
}

static void
group_by_start_alone(Query *query, int rti)
{
	SortGroupClause *end;

	while (grouped_column(query, rti, WINDOW_START) != NULL &&
		   (end = grouped_column(query, rti, WINDOW_END)) != NULL)
		query->groupClause = list_delete_ptr(query->groupClause, end);
}

static void
leave_out_ends(Query *query)
{
	if (list_length(query->groupClause) < 2 || query->groupingSets != NIL)
		return;
	for (int rti = 1; rti <= list_length(query->rtable); rti++)
	{
		if (has_fixed_windows(rt_fetch(rti, query->rtable)) && mill_flatten_groups(query))
			group_by_start_alone(query, rti);
	}
}

/* Replace the parameters of a function's body by a call's arguments. */
static Node *
put_arguments(Node *node, void *arguments)
{
	if (node && IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN)
		return copyObject(list_nth(arguments, ((Param *) node)->paramid - 1));
	return expression_tree_mutator(node, put_arguments, arguments);
}

/* Is it SELECT columns WHERE condition, and nothing else? Whoever may can replace a function. */
static bool
is_simple(const Query *body)
{
	return body->commandType == CMD_SELECT && body->rtable == NIL && body->cteList == NIL &&
		   !body->hasSubLinks && !body->hasAggs && !body->hasWindowFuncs && !body->hasTargetSRFs &&
		   body->setOperations == NULL && body->groupClause == NIL && body->groupingSets == NIL &&
		   body->havingQual == NULL && body->distinctClause == NIL && body->sortClause == NIL &&
		   body->limitOffset == NULL && body->limitCount == NULL &&
		   list_length(body->targetList) == 2;
}

/*
 * The body of a function as core would inline it: only what its owner and the session
 * leave as we made it.  NULL: it is to be called.
 */
static Query *
body_of(HeapTuple tuple)
{
	Form_pg_proc function = (Form_pg_proc) GETSTRUCT(tuple);
	Datum source;
	bool is_null;
	Node *node;
	Query *body;

	source = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosqlbody, &is_null);
	if (is_null || function->prolang != SQLlanguageId || function->prosecdef ||
		function->proisstrict || function->provolatile == PROVOLATILE_VOLATILE ||
		!heap_attisnull(tuple, Anum_pg_proc_proconfig, NULL) || FmgrHookIsNeeded(function->oid) ||
		mill_function_aclcheck(function->oid, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		return NULL;
	node = stringToNode(TextDatumGetCString(source));
	if (IsA(node, List))
		node = linitial(linitial_node(List, (List *) node));
	body = castNode(Query, node);
	return is_simple(body) ? body : NULL;
}

static bool
is_reference(const Node *node, int rti)
{
	return IsA(node, RangeTblRef) && ((const RangeTblRef *) node)->rtindex == rti;
}

/*
 * Take a range table entry out of FROM if it is joined with something by no other than inner
 * joins; false: it is not.  The conditions of those joins are added to a list, and
 * become ones of the query: they may refer to what is no longer below them.
 */
static bool
take_out(Node **node, int rti, List **conditions)
{
	JoinExpr *join = (JoinExpr *) *node;

	if (!IsA(join, JoinExpr) || join->jointype != JOIN_INNER)
		return false;
	if (is_reference(join->larg, rti))
		*node = join->rarg;
	else if (is_reference(join->rarg, rti))
		*node = join->larg;
	else if (!take_out(&join->larg, rti, conditions) && !take_out(&join->rarg, rti, conditions))
		return false;
	*conditions = lappend(*conditions, join->quals);
	join->quals = NULL;
	return true;
}

static bool
take_out_of_query(Query *query, int rti, List **conditions)
{
	FromExpr *from = query->jointree;
	ListCell *lc;

	foreach (lc, from->fromlist)
	{
		if (is_reference(lfirst(lc), rti) && list_length(from->fromlist) > 1)
		{
			from->fromlist = list_delete_cell(from->fromlist, lc);
			return true;
		}
		if (take_out((Node **) &lfirst(lc), rti, conditions))
			return true;
	}
	return false;
}

/* Each argument is used more than once. */
static bool
may_be_repeated(List *arguments)
{
	return !contain_volatile_functions((Node *) arguments) &&
		   !contain_subplans((Node *) arguments) && !expression_returns_set((Node *) arguments);
}

/* Put the windows of a call in FROM where they are used; false: it stays. */
static bool
inline_windows(Query *query, int rti, const FuncExpr *call)
{
	RangeTblEntry *rte = rt_fetch(rti, query->rtable);
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->funcid));
	List *conditions = NIL;
	List *arguments;
	List *columns;
	Query *body;
	ListCell *lc;

	if (!HeapTupleIsValid(tuple))
		return false;
	arguments = expand_function_arguments(call->args, false, call->funcresulttype, tuple);
	body = may_be_repeated(arguments) ? body_of(tuple) : NULL;
	ReleaseSysCache(tuple);
	if (body == NULL || !take_out_of_query(query, rti, &conditions))
		return false;
	columns = (List *) put_arguments((Node *) body->targetList, arguments);
	/* in the order in which they would be tried: ON, WHERE, the function's own */
	conditions = lappend(conditions, query->jointree->quals);
	conditions = lappend(conditions, put_arguments(body->jointree->quals, arguments));
	query->jointree->quals = NULL;
	foreach (lc, conditions)
		query->jointree->quals = make_and_qual(query->jointree->quals, lfirst(lc));
	*query = *castNode(Query, mill_replace_vars(query, rti, rte, columns));
	/* nothing refers to it now, and the planner would inline it again */
	rte = rt_fetch(rti, query->rtable);
	rte->rtekind = RTE_RESULT;
	rte->functions = NIL;
	rte->lateral = false;
	return true;
}

/*
 * Adds what a plan depends on to a list of PlanInvalItem.  With grouping sets, what is
 * not grouped by is null, and an expression would no longer be known as the column that it was.
 */
static void
inline_all_windows(Query *query, List **dependencies)
{
	if (query->commandType != CMD_SELECT || query->groupingSets != NIL)
		return;
	for (int rti = 1; rti <= list_length(query->rtable); rti++)
	{
		RangeTblEntry *rte = rt_fetch(rti, query->rtable);
		const FuncExpr *call = rte->funcordinality ? NULL : mill_window_call(rte, "tumble");
		PlanInvalItem *item;

		if (call == NULL || !inline_windows(query, rti, call))
			continue;
		item = makeNode(PlanInvalItem);
		item->cacheId = PROCOID;
		item->hashValue = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(call->funcid));
		*dependencies = lappend(*dependencies, item);
	}
}

static bool
walk(Node *node, void *dependencies)
{
	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, walk, dependencies);
	leave_out_ends((Query *) node);
	inline_all_windows((Query *) node, dependencies);
	return query_tree_walker((Query *) node, walk, dependencies, 0);
}

static PlannedStmt *
plan(Query *query, const char *text, int options, ParamListInfo parameters)
{
	List *dependencies = NIL;
	PlannedStmt *planned;

	walk((Node *) query, &dependencies);
	planned = previous_planner ? previous_planner(query, text, options, parameters)
							   : standard_planner(query, text, options, parameters);
	planned->invalItems = list_concat(planned->invalItems, dependencies);
	return planned;
}

/* Called once, from _PG_init. */
void
mill_window_plan_init(void)
{
	previous_planner = planner_hook;
	planner_hook = plan;
}
