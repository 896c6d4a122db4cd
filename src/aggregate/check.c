/*
 * check.c
 *		Refuses what a continuous aggregate cannot be, with a hint.
 *
 * Whatever passes here is row-wise over the base table up to the aggregation:
 * the rows that one statement changed can be aggregated on their own.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/query.h"

#include "aggregate/definition.h"
#include "window/window.h"

/* The view must be a plain one whose query can be replaced. */
void
mill_check_view(Oid view)
{
	Relation rel = try_relation_open(view, AccessShareLock);

	if (rel == NULL)
		mill_no_such_relation(view);
	if (rel->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a view", RelationGetRelationName(rel)),
				 errhint(
					 "Write the aggregate as a view: CREATE VIEW ... AS SELECT ... GROUP BY ...; then materialize it.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		mill_refuse("temporary views", "Create an ordinary view over an ordinary table.");
	if (RelationHasSecurityInvoker(rel))
		mill_refuse("views with security_invoker",
					"Use ALTER VIEW ... RESET (security_invoker), and GRANT on the view.");
	relation_close(rel, NoLock);
}

/*
 * Check that changes of this table can be captured.  Takes no lock, because
 * event triggers call it and must not wait.
 */
void
mill_check_base(Oid base)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(base));
	Form_pg_class rel;
	const char *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", base);
	rel = (Form_pg_class) GETSTRUCT(tuple);
	name = pstrdup(NameStr(rel->relname));
	if (rel->relkind == RELKIND_FOREIGN_TABLE)
		mill_refuse(psprintf("the stream or foreign table \"%s\" as base table", name),
					"Let a pipeline write the stream to a table, and aggregate that: mill.create_pipeline.");
	if (rel->relkind == RELKIND_VIEW || rel->relkind == RELKIND_MATVIEW)
		mill_refuse(psprintf("the view \"%s\" as base table", name),
					rel->relkind == RELKIND_VIEW
						? "Write its query into this view, over the table itself; or materialize it first, if it aggregates."
						: "Write its query into this view, over the table itself.");
	if (rel->relkind != RELKIND_RELATION && rel->relkind != RELKIND_PARTITIONED_TABLE)
		mill_refuse(psprintf("\"%s\" as base table", name), "Use an ordinary or partitioned table.");
	if (IsCatalogRelationOid(base))
		mill_refuse(psprintf("the system catalog \"%s\" as base table", name),
					"Copy what you need of it into a table, by a job.");
	if (rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		mill_refuse(psprintf("the unlogged table \"%s\" as base table", name),
					"A crash empties it without a trace. Use ALTER TABLE ... SET LOGGED.");
	if (rel->relispartition)
		mill_refuse(psprintf("the partition \"%s\" as base table", name),
					"Aggregate the partitioned table, with a condition if need be.");
	/* relhassubclass stays set after the last child is gone, so look for children */
	if (rel->relkind == RELKIND_RELATION && rel->relhassubclass &&
		find_inheritance_children(base, NoLock) != NIL)
		mill_refuse(psprintf("the table \"%s\" with children that inherit from it", name),
					"Use declarative partitioning.");
	ReleaseSysCache(tuple);
}

/* Check all tables in FROM, the base table and the others. */
static void
check_table(Oid relid)
{
	Relation rel = table_open(relid, AccessShareLock);

	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		mill_refuse(psprintf("the temporary table \"%s\"", RelationGetRelationName(rel)),
					"Use a permanent table.");
	if (rel->rd_rel->relrowsecurity)
		mill_refuse(psprintf("the table \"%s\" with row security", RelationGetRelationName(rel)),
					"What a group holds would depend on who looks. Grant rights on the view instead.");
	table_close(rel, NoLock);
}

static void
check_entries(const MillDefinition *d, Query *level)
{
	int rti = 0;
	ListCell *lc;

	foreach (lc, level->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		rti++;
		if (rte->rtekind == RTE_RELATION && rte->inFromCl)
		{
			if (rte->tablesample)
				mill_refuse("TABLESAMPLE", "Select rows by a condition.");
			if (!rte->inh && get_rel_relkind(rte->relid) == RELKIND_PARTITIONED_TABLE)
				mill_refuse("ONLY of a partitioned table", "It has no rows of its own.");
			check_table(rte->relid);
		}
		if (rte->rtekind == RTE_SUBQUERY && rte->inFromCl &&
			!(d->window == MILL_WINDOW_SESSION && level == d->query && rti == d->window_rti))
			mill_refuse("subqueries in FROM", "Join the tables in the view's own FROM and WHERE.");
		/* it lists all columns of the tables, of which we name those that are needed */
		if (rte->rtekind == RTE_JOIN && rte->alias && rte->alias->colnames)
			mill_refuse("an alias of a join that renames columns", "Give aliases to its tables.");
		if (rte->rtekind == RTE_TABLEFUNC)
			mill_refuse("XMLTABLE and JSON_TABLE", "Use a function in FROM.");
	}
}

/* Clauses that no level may have. */
static void
check_clauses(const Query *q)
{
	if (q->commandType != CMD_SELECT)
		mill_refuse("anything but SELECT", NULL);
	if (q->setOperations)
		mill_refuse("UNION, INTERSECT and EXCEPT",
					"Make a view for each part, and a plain view of their union.");
	if (q->hasRecursive)
		mill_refuse("WITH RECURSIVE", "Write plain joins.");
	if (q->cteList)
		mill_refuse("WITH", "Join the tables in the view's own FROM and WHERE.");
	if (q->hasSubLinks)
		mill_refuse("subqueries in expressions", "Join the table in FROM instead.");
	if (q->distinctClause)
		mill_refuse("DISTINCT", "Use GROUP BY.");
	if (q->limitCount || q->limitOffset)
		mill_refuse("LIMIT and OFFSET",
					"Limit the query that reads the view, or make a second view over it.");
	if (q->sortClause)
		mill_refuse("ORDER BY", "Sort in the query that reads the view.");
	if (q->rowMarks)
		mill_refuse("FOR UPDATE and FOR SHARE", "Leave it out: a group is no row to lock.");
	if (q->hasTargetSRFs)
		mill_refuse("set-returning functions in the select list", "Call the function in FROM.");
	if (q->groupingSets)
		mill_refuse("GROUPING SETS, ROLLUP and CUBE", "Make a view for each grouping.");
}

/* For finding the first expression that is more volatile than allowed. */
typedef struct VolatilitySearch
{
	char allowed; /* the provolatile that is accepted besides immutable */
	Node *found;
	Oid function; /* that it calls; InvalidOid: it calls none */
	bool nested;  /* it is in a query below */
} VolatilitySearch;

static bool
is_too_volatile(Oid function, void *context)
{
	VolatilitySearch *search = context;
	char kind = func_volatile(function);

	if (kind == PROVOLATILE_IMMUTABLE || kind == search->allowed)
		return false;
	search->function = function;
	return true;
}

static bool
calls_window_bound(Node *node)
{
	return OidIsValid(mill_function_of_ours(node, "window_start")) ||
		   OidIsValid(mill_function_of_ours(node, "window_end"));
}

/*
 * A window's bound is the same for every session if its width, origin and zone are
 * constants, and it needs no zone that is not said.
 */
static bool
is_window_bound(Node *node)
{
	List *args;
	ListCell *lc;

	if (!calls_window_bound(node))
		return false;
	args = mill_window_arguments((FuncExpr *) node);
	for_each_from(lc, args, 1)
	{
		if (!IsA(lfirst(lc), Const))
			return false;
	}
	if (exprType(node) != TIMESTAMPTZOID || !((Const *) llast(args))->constisnull)
		return true;
	return !((Const *) lsecond(args))->constisnull &&
		   mill_width_kind(DatumGetIntervalP(((Const *) lsecond(args))->constvalue)) ==
			   MILL_WIDTH_FIXED;
}

static bool
find_volatile(Node *node, void *context)
{
	VolatilitySearch *search = context;

	if (node == NULL)
		return false;
	if (is_window_bound(node))
		return find_volatile(linitial(mill_window_arguments((FuncExpr *) node)), context);
	if (check_functions_in_node(node, is_too_volatile, search) || IsA(node, NextValueExpr) ||
		(IsA(node, SQLValueFunction) && search->allowed != PROVOLATILE_STABLE))
	{
		search->found = node;
		return true;
	}
	if (IsA(node, Query))
	{
		if (query_tree_walker((Query *) node, find_volatile, search, 0))
			return search->nested = true;
		return false;
	}
	return expression_tree_walker(node, find_volatile, search);
}

/* The window that date_trunc(unit, timestamptz) cuts, as arguments of mill.tumble; NULL: none. */
static const char *
window_of_unit(const Const *unit)
{
	static const char *const windows[][2] =
		{{"second", "'1 second'"},
		 {"minute", "'1 minute'"},
		 {"hour", "'1 hour'"},
		 {"day", "'1 day', time_zone => 'UTC'"},
		 {"week", "'7 days', origin => '2001-01-01', time_zone => 'UTC'"},
		 {"month", "'1 month', time_zone => 'UTC'"},
		 {"quarter", "'3 months', time_zone => 'UTC'"},
		 {"year", "'1 year', time_zone => 'UTC'"}};
	char *name;

	if (!IsA(unit, Const) || unit->constisnull || unit->consttype != TEXTOID)
		return NULL;
	name = TextDatumGetCString(unit->constvalue);
	for (size_t i = 0; i < lengthof(windows); i++)
	{
		if (pg_strcasecmp(name, windows[i][0]) == 0)
			return windows[i][1];
	}
	return NULL;
}

/* What to write instead of an expression that is only stable; is_key: in GROUP BY. */
static char *
stable_hint(Query *level, const VolatilitySearch *search, bool is_key)
{
	const FuncExpr *call = (const FuncExpr *) search->found;
	const char *window = NULL;
	Node *time = NULL;

	if (IsA(call, FuncExpr) && list_length(call->args) == 1 && call->funcid == F_DATE_TIMESTAMPTZ)
	{
		window = "'1 day', time_zone => 'UTC'";
		time = linitial(call->args);
	}
	else if (IsA(call, FuncExpr) && call->funcid == F_DATE_TRUNC_TEXT_TIMESTAMPTZ)
	{
		window = window_of_unit(linitial(call->args));
		time = lsecond(call->args);
	}
	if (window && is_key)
		return psprintf("Use mill.tumble(%s, %s) in FROM, and GROUP BY window_start.",
						mill_expression_text(level, time), window);
	if (calls_window_bound(search->found))
		return pstrdup("Give its width and, for days and months, its time zone as constants.");
	if (IsA(call, SQLValueFunction) || (IsA(call, FuncExpr) && call->args == NIL))
		return pstrdup("Filter by time in the query that reads the view.");
	return pstrdup(
		"Its result may depend on settings, such as the time zone. Use an immutable one, for example with AT TIME ZONE.");
}

/* Expressions over rows must give the same for every writer, at any time. */
static void
check_immutable(Query *level, Node *node, const char *where)
{
	VolatilitySearch search = {.allowed = PROVOLATILE_IMMUTABLE};
	bool stable, with_text;
	const char *what;

	if (!find_volatile(node, &search))
		return;
	stable = OidIsValid(search.function) ? func_volatile(search.function) == PROVOLATILE_STABLE
										 : IsA(search.found, SQLValueFunction);
	with_text = !search.nested && !contain_window_function(search.found);
	what = with_text					 ? mill_expression_text(level, search.found)
		   : OidIsValid(search.function) ? format_procedure(search.function)
										 : "CURRENT_TIMESTAMP and the like";
	mill_refuse(psprintf("%s in %s, which is %s", what, where, stable ? "stable" : "volatile"),
				stable ? stable_hint(level, &search, with_text && strcmp(where, "GROUP BY") == 0)
					   : "Use functions that give the same result each time.");
}

void
mill_check_keys(Query *level)
{
	ListCell *lc;

	foreach (lc, level->groupClause)
		check_immutable(level, (Node *) get_sortgroupclause_tle(lfirst(lc), level->targetList)->expr,
						"GROUP BY");
}

static void
check_expressions(const MillDefinition *d, Query *level)
{
	ListCell *lc;
	int rti = 0;

	check_immutable(level, (Node *) level->jointree, "WHERE or JOIN");
	foreach (lc, level->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		ListCell *cell;

		rti++;
		if (rte->rtekind == RTE_VALUES)
			check_immutable(level, (Node *) rte->values_lists, "VALUES");
		if (rte->rtekind != RTE_FUNCTION)
			continue;
		foreach (cell, rte->functions)
		{
			Node *call = ((RangeTblFunction *) lfirst(cell))->funcexpr;

			/* the window's function was checked separately */
			if (level == d->query && rti == d->window_rti && IsA(call, FuncExpr))
				call = (Node *) ((FuncExpr *) call)->args;
			check_immutable(level, call, "FROM");
		}
	}
	mill_check_keys(level);
}

/* Check the arguments of aggregates; expressions around them are computed by the reader. */
static bool
check_arguments(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Aggref))
	{
		Aggref *call = (Aggref *) node;

		check_immutable(context, (Node *) call->args, "an argument of an aggregate");
		check_immutable(context, (Node *) call->aggdirectargs, "an argument of an aggregate");
		check_immutable(context, (Node *) call->aggfilter, "FILTER");
		return false;
	}
	return expression_tree_walker(node, check_arguments, context);
}

static void
check_output(Query *q)
{
	VolatilitySearch search = {.allowed = PROVOLATILE_STABLE};

	check_arguments((Node *) q->targetList, q);
	check_arguments(q->havingQual, q);
	if ((find_volatile((Node *) q->targetList, &search) || find_volatile(q->havingQual, &search)) &&
		OidIsValid(search.function))
		mill_refuse(psprintf("the volatile function %s in the select list",
							 format_procedure(search.function)),
					"Call it in the query that reads the view.");
	if (q->constraintDeps)
		mill_refuse("columns that are only known by a primary key", "Add each column to GROUP BY.");
	if (!q->hasAggs && q->groupClause == NIL)
		mill_refuse("a view without aggregates",
					"There is nothing to maintain: the plain view is as fast as it gets.");
}

/* An inner query of sessions: one window function, PARTITION BY the grouping keys. */
static void
check_session(const MillDefinition *d)
{
	Query *inner = d->base_level;
	WindowClause *window = linitial(inner->windowClause);
	SortGroupClause *order;
	ListCell *lc;
	int sessions = 0;

	if (inner->hasAggs || inner->groupClause || inner->havingQual)
		mill_refuse("aggregates inside the query that finds the sessions",
					"Aggregate in the outer query.");
	if (d->query->jointree->quals)
		mill_refuse("WHERE outside of the query that finds the sessions",
					"Filter inside of it: rows that are filtered out later would still make sessions.");
	foreach (lc, inner->targetList)
	{
		Node *expr = (Node *) ((TargetEntry *) lfirst(lc))->expr;

		if (OidIsValid(mill_function_of_ours(expr, "session_start")))
			sessions++;
		else
			check_immutable(inner, expr, "the query that finds the sessions");
		if (!IsA(expr, WindowFunc) && contain_window_function(expr))
			mill_refuse("window functions inside expressions",
						"Select mill.session_start(...) as a column of its own.");
	}
	if (list_length(inner->windowClause) != 1 || sessions != 1)
		mill_refuse("window functions",
					"Only one mill.session_start(...) OVER (PARTITION BY ... ORDER BY time) can be maintained.");
	order = list_length(window->orderClause) == 1 ? linitial(window->orderClause) : NULL;
	if (order == NULL || !equal(get_sortgroupclause_expr(order, inner->targetList), d->time))
		mill_refuse("sessions in another order than that of their event time",
					"Write OVER (PARTITION BY ... ORDER BY the event time).");
}

/* The outer query of sessions must group by what the inner one partitions by. */
static void
check_session_keys(const MillDefinition *d)
{
	WindowClause *window = linitial(d->base_level->windowClause);
	int keys = 0;
	ListCell *lc;

	foreach (lc, d->query->groupClause)
	{
		Var *var = (Var *) get_sortgroupclause_tle(lfirst(lc), d->query->targetList)->expr;
		Node *inner = NULL;
		bool found = false;
		ListCell *cell;

		if (IsA(var, Var))
			inner = (Node *) ((TargetEntry *) list_nth(d->base_level->targetList, var->varattno - 1))
						->expr;
		if (OidIsValid(mill_function_of_ours(inner, "session_start")))
			continue;
		foreach (cell, window->partitionClause)
			found |= equal(get_sortgroupclause_expr(lfirst(cell), d->base_level->targetList), inner);
		if (!found)
			mill_refuse("sessions that are grouped by more than they are partitioned by",
						"Use the same columns in PARTITION BY and GROUP BY.");
		keys++;
	}
	if (keys != list_length(window->partitionClause))
		mill_refuse("sessions that are partitioned by more than they are grouped by",
					"Use the same columns in PARTITION BY and GROUP BY.");
}

static void
check_joins(const MillDefinition *d)
{
	ListCell *lc;
	int rti = 0;

	if (mill_is_nullable((Node *) d->base_level->jointree, d->base_rti, false))
		mill_refuse("an outer join whose optional side is the base table",
					"Put the base table on the left of LEFT JOIN.");
	if (d->window == MILL_WINDOW_TUMBLE || d->window == MILL_WINDOW_HOP)
	{
		if (mill_is_nullable((Node *) d->query->jointree, d->window_rti, false))
			mill_refuse("an outer join whose optional side is the window",
						"A row without a time is in no window: write FROM table, mill.tumble(...).");
		if (rt_fetch(d->window_rti, d->query->rtable)->funcordinality)
			mill_refuse("a window WITH ORDINALITY", "Leave it out.");
	}
	foreach (lc, d->base_level->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (++rti != d->base_rti && rte->rtekind == RTE_RELATION && rte->inFromCl &&
			rte->relid == d->base)
			mill_refuse("a join of the base table with itself",
						"Only rows of one side arrive at a time.");
	}
}

/* Does the expression use columns of mill.hop?  A pane belongs to several windows. */
static bool
uses_window(Node *node, void *context)
{
	const MillDefinition *d = context;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return ((Var *) node)->varno == d->window_rti;
	return expression_tree_walker(node, uses_window, context);
}

static void
check_hop(const MillDefinition *d)
{
	ListCell *lc;
	bool used = uses_window((Node *) d->query->jointree, (void *) d);

	foreach (lc, d->measures)
		used |= uses_window((Node *) ((MillMeasure *) lfirst(lc))->call, (void *) d);
	foreach (lc, d->keys)
		used |= uses_window(((MillTypedExpr *) lfirst(lc))->expr, (void *) d);
	if (used)
		mill_refuse("columns of mill.hop in WHERE, in GROUP BY expressions or inside aggregates",
					"Use window_start and window_end in the select list, GROUP BY and HAVING.");
}

/* Check the whole query, once its window and query levels are known. */
void
mill_check_query(const MillDefinition *d)
{
	check_clauses(d->query);
	if (d->query->hasWindowFuncs)
		mill_refuse("window functions", "Use them in a view over this one.");
	if (d->base_level != d->query)
	{
		check_clauses(d->base_level);
		check_session(d);
		check_session_keys(d);
		check_expressions(d, d->base_level);
		check_entries(d, d->base_level);
	}
	check_entries(d, d->query);
	check_expressions(d, d->query);
	check_output(d->query);
}

/* Check what depends on base table, keys and measures together. */
void
mill_check_definition(const MillDefinition *d)
{
	check_joins(d);
	if (d->window == MILL_WINDOW_HOP)
		check_hop(d);
}
