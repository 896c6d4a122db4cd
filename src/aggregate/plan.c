/*
 * plan.c
 *		Compilation of queries over continuous aggregates: a planner hook.
 *
 * An aggregate's view has two branches, of which a query runs one (mill.is_live).  The
 * planner adds up the costs of both, and a plan that costs much is compiled (jit): a
 * read of a few rows would be, for half a second, because the table is large that it does
 * not read.  So the decision is made again without the branches that are not run.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "jit/jit.h"
#include "nodes/plannodes.h"
#include "optimizer/planner.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/internal.h"

static planner_hook_type previous_planner = NULL;

/* Does a branch scan a table and no more?  The groups without deltas are read so. */
static bool
is_scan(const Plan *plan)
{
	while (plan != NULL && IsA(plan, SubqueryScan))
		plan = ((const SubqueryScan *) plan)->subplan;
	if (plan == NULL)
		return false;
	switch (nodeTag(plan))
	{
		case T_SeqScan:
		case T_IndexScan:
		case T_IndexOnlyScan:
		case T_BitmapHeapScan:
			return true;
		default:
			return false;
	}
}

/*
 * Is a branch with this condition, which is decided once, not run, or next to nothing?  So
 * is, while few deltas wait, what does more than to scan the state table.
 */
static bool
is_idle(Node *condition, const Plan *branch)
{
	bool is_plain = is_notclause(condition);
	Node *call = is_plain ? (Node *) get_notclausearg(condition) : condition;
	Const *state;

	if (!OidIsValid(mill_function_of_ours(call, "is_live")))
		return false;
	state = linitial(((FuncExpr *) call)->args);
	if (!IsA(state, Const) || state->constisnull)
		return false;
	switch (mill_reading_now(DatumGetObjectId(state->constvalue)))
	{
		case MILL_READS_PLAIN:
			return !is_plain;
		case MILL_READS_STATE:
			return is_plain || !is_scan(outerPlan(branch));
		default:
			return is_plain;
	}
}

static bool
is_idle_branch(const Plan *plan)
{
	ListCell *lc;

	if (!IsA(plan, Result))
		return false;
	foreach (lc, (List *) ((const Result *) plan)->resconstantqual)
	{
		if (is_idle(lfirst(lc), plan))
			return true;
	}
	return false;
}

static Cost idle_cost(const Plan *plan);

static Cost
idle_cost_of_all(List *plans)
{
	Cost cost = 0;
	ListCell *lc;

	foreach (lc, plans)
		cost += idle_cost(lfirst(lc));
	return cost;
}

/* What a plan's cost has of idle branches. */
static Cost
idle_cost(const Plan *plan)
{
	Cost cost;

	if (plan == NULL)
		return 0;
	if (is_idle_branch(plan))
		return plan->total_cost;
	cost = idle_cost(outerPlan(plan)) + idle_cost(innerPlan(plan));
	switch (nodeTag(plan))
	{
		case T_Append:
			return cost + idle_cost_of_all(((const Append *) plan)->appendplans);
		case T_MergeAppend:
			return cost + idle_cost_of_all(((const MergeAppend *) plan)->mergeplans);
		case T_SubqueryScan:
			return cost + idle_cost(((const SubqueryScan *) plan)->subplan);
		default:
			return cost;
	}
}

/* Compile what core would compile at this cost, and not more. */
static void
limit_jit(PlannedStmt *planned, Cost cost)
{
	if (jit_above_cost >= 0 && cost <= jit_above_cost)
		planned->jitFlags = PGJIT_NONE;
	if (jit_optimize_above_cost >= 0 && cost <= jit_optimize_above_cost)
		planned->jitFlags &= ~PGJIT_OPT3;
	if (jit_inline_above_cost >= 0 && cost <= jit_inline_above_cost)
		planned->jitFlags &= ~PGJIT_INLINE;
}

static PlannedStmt *
plan_query(Query *query, const char *text, int options, ParamListInfo parameters)
{
	PlannedStmt *planned = previous_planner ? previous_planner(query, text, options, parameters)
											: standard_planner(query, text, options, parameters);
	Cost idle;

	if (planned->jitFlags == PGJIT_NONE)
		return planned;
	idle = idle_cost(planned->planTree) + idle_cost_of_all(planned->subplans);
	if (idle > 0)
		limit_jit(planned, planned->planTree->total_cost - idle);
	return planned;
}

/* Called once, from _PG_init. */
void
mill_plan_init(void)
{
	previous_planner = planner_hook;
	planner_hook = plan_query;
}
