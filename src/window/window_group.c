/*
 * window_group.c
 *		GROUP BY window_start, window_end: a planner hook.
 *
 * A window's start determines its end.  Whoever selects both must group by both, as
 * SQL knows such a thing of primary keys only.  As core does with those, leave out of
 * GROUP BY what is determined: the ends are computed for each group, not for each row,
 * and are not hashed or compared.
 *
 * Changes the copy of a query that the planner works on, no query that is stored or
 * shown, and never a result.
 */
#include "postgres.h"

#include "core/compat.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"

#include "core/catalog.h"
#include "window/window.h"

/* The columns of mill.tumble. */
#define WINDOW_START 1
#define WINDOW_END 2

static planner_hook_type previous_planner = NULL;

/* A call of mill.tumble whose windows are the same for all rows: all but the time is. */
static bool
has_fixed_windows(const RangeTblEntry *rte)
{
	Node *call;
	ListCell *lc;

	if (rte->rtekind != RTE_FUNCTION || list_length(rte->functions) != 1)
		return false;
	call = ((RangeTblFunction *) linitial(rte->functions))->funcexpr;
	if (!OidIsValid(mill_function_of_ours(call, "tumble")))
		return false;
	foreach (lc, ((FuncExpr *) call)->args)
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

static bool
walk(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, walk, context);
	leave_out_ends((Query *) node);
	return query_tree_walker((Query *) node, walk, context, 0);
}

static PlannedStmt *
plan(Query *query, const char *text, int options, ParamListInfo parameters)
{
	walk((Node *) query, NULL);
	return previous_planner ? previous_planner(query, text, options, parameters)
							: standard_planner(query, text, options, parameters);
}

/* Called once, from _PG_init. */
void
mill_window_group_init(void)
{
	previous_planner = planner_hook;
	planner_hook = plan;
}
