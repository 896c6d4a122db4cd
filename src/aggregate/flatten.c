/*
 * flatten.c
 *		A view over a continuous aggregate, as a query over that one's base table.
 *
 * A view that aggregates the groups of another aggregate, as hours do minutes, is
 * kept from the rows of the table below: its groups are made of whole groups of
 * the inner view, so the sum of their counts is the count of their rows, and the
 * least of their minima that of their rows.  So it needs nothing of the inner
 * aggregate, which may rest meanwhile, and costs writers what an aggregate costs.
 * What cannot be computed from rows, as an average of averages, is refused.
 *
 * This changes the query tree alone; the view that the user wrote, over the inner
 * view, stays what the aggregate is compared with.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/definition.h"

#define RESULTS_HINT                                                                               \
	"Results of an aggregate can be combined as they are: the sum of a count or of a sum, min of min, max of max, bool_and, bool_or, bit_and, bit_or. For an average divide sums: sum(total) / sum(n)."

/* Of an inner aggregate that is being put in place of its view. */
typedef struct Inner
{
	Query *query; /* over its base table; a copy */
	Oid view;
	int rti;		   /* of the view in the outer query */
	int window_rti;	   /* in query, 0: none, or its columns are computed instead */
	Node *start, *end; /* what computes them */
} Inner;

/* ---- which view is a continuous aggregate ---- */

/* What the query of a view tells of the aggregate that it reads. */
typedef struct DefinitionSearch
{
	bool asks;		/* whether it is live */
	Oid definition; /* the view that has the user's query */
} DefinitionSearch;

static bool
find_definition(Node *node, void *context)
{
	DefinitionSearch *search = context;
	RangeTblEntry *rte = (RangeTblEntry *) node;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		if (rte->rtekind == RTE_RELATION && rte->inFromCl && rte->relkind == RELKIND_VIEW &&
			get_rel_namespace(rte->relid) == get_namespace_oid("mill_data", true))
			search->definition = rte->relid;
		return false;
	}
	if (OidIsValid(mill_function_of_ours(node, "is_live")))
		search->asks = true;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_definition, search, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, find_definition, search);
}

/*
 * The view with the query of a continuous aggregate, by what its view reads: so it
 * is known also in a copy of the database, before mill.arm.  InvalidOid if the view
 * is none, or reads the tables of somebody else's.
 */
static Oid
definition_of(Oid view)
{
	DefinitionSearch search = {false, InvalidOid};
	Relation rel = table_open(view, AccessShareLock);

	if (rel->rd_rel->relkind == RELKIND_VIEW)
		(void) find_definition((Node *) get_view_query(rel), &search);
	if (OidIsValid(search.definition) &&
		mill_relation_owner(search.definition) != rel->rd_rel->relowner)
		search.definition = InvalidOid;
	table_close(rel, NoLock);
	return search.asks ? search.definition : InvalidOid;
}

/* The entry that is the base table's place: that of the event time, or else the leftmost table; 0: none. */
static int
place_of_base(const Query *query)
{
	ListCell *lc;

	foreach (lc, query->rtable)
	{
		FuncExpr *call;
		int rti;

		if (mill_window_of_entry(lfirst(lc), &call) != MILL_WINDOW_NONE)
			return bms_get_singleton_member(pull_varnos(NULL, linitial(mill_window_arguments(call))),
											&rti)
					   ? rti
					   : 0;
	}
	return mill_leftmost_table(query, (Node *) query->jointree);
}

/* Is an entry in this FROM item, and not below an outer join? */
static bool
is_joined(const Node *item, int rti)
{
	const JoinExpr *join = (const JoinExpr *) item;

	if (IsA(item, RangeTblRef))
		return ((const RangeTblRef *) item)->rtindex == rti;
	return IsA(item, JoinExpr) && join->jointype == JOIN_INNER &&
		   (is_joined(join->larg, rti) || is_joined(join->rarg, rti));
}

static bool
is_in_from(const Query *query, int rti)
{
	ListCell *lc;

	foreach (lc, query->jointree->fromlist)
	{
		if (is_joined(lfirst(lc), rti))
			return true;
	}
	return false;
}

/* ---- FROM ---- */

typedef struct Lifting
{
	Query *query;
	int rti;
	Bitmapset *joins; /* that became items and conditions */
	List *items;
	List *quals;
} Lifting;

static void
lift_item(Node *item, Lifting *lifting)
{
	JoinExpr *join = (JoinExpr *) item;

	if (!IsA(item, JoinExpr) || !is_joined(item, lifting->rti))
	{
		lifting->items = lappend(lifting->items, item);
		return;
	}
	lift_item(join->larg, lifting);
	lift_item(join->rarg, lifting);
	lifting->quals = lappend(lifting->quals, join->quals);
	lifting->joins = bms_add_member(lifting->joins, join->rtindex);
}

/* Replace the columns of joins that are gone by what they are columns of. */
static Node *
without_joins(Node *node, void *context)
{
	const Lifting *lifting = context;
	const Var *var = (const Var *) node;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && var->varlevelsup == 0 && var->varattno > 0 &&
		bms_is_member(var->varno, lifting->joins))
		return without_joins(list_nth(rt_fetch(var->varno, lifting->query->rtable)->joinaliasvars,
									  var->varattno - 1),
							 context);
	/* nor are columns named by them, as they are where a join has an alias */
	if (IsA(node, Var) && var->varlevelsup == 0 && bms_is_member(var->varnosyn, lifting->joins))
	{
		Var *named = copyObject(unconstify(Var *, var));

		named->varnosyn = named->varno;
		named->varattnosyn = named->varattno;
		return (Node *) named;
	}
	return expression_tree_mutator(node, without_joins, context);
}

/*
 * Make an entry an item of FROM by itself, with the inner joins that it is in as
 * further items and conditions.  It must not be below an outer join.
 */
static Query *
lift(Query *query, int rti)
{
	Lifting lifting = {.query = query, .rti = rti};
	ListCell *lc;
	int join = -1;

	foreach (lc, query->jointree->fromlist)
		lift_item(lfirst(lc), &lifting);
	query->jointree->fromlist = lifting.items;
	foreach (lc, lifting.quals)
		query->jointree->quals = make_and_qual(query->jointree->quals, lfirst(lc));
	query = query_tree_mutator(query, without_joins, &lifting, 0);
	while ((join = bms_next_member(lifting.joins, join)) >= 0)
		rt_fetch(join, query->rtable)->rtekind = RTE_RESULT;
	return query;
}

/* Put other items in the place of one that stands by itself. */
static void
replace_item(Query *query, int rti, List *others)
{
	List *items = NIL;
	ListCell *lc;

	foreach (lc, query->jointree->fromlist)
	{
		RangeTblRef *ref = lfirst(lc);

		if (IsA(ref, RangeTblRef) && ref->rtindex == rti)
			items = list_concat(items, others);
		else
			items = lappend(items, ref);
	}
	query->jointree->fromlist = items;
	rt_fetch(rti, query->rtable)->rtekind = RTE_RESULT;
	rt_fetch(rti, query->rtable)->inFromCl = false;
}

/* ---- the inner query ---- */

static void
refuse_inner(const MillDefinition *inner, const char *name)
{
	if (inner->window == MILL_WINDOW_SESSION)
		mill_refuse(psprintf("the sessions of \"%s\" as rows to aggregate", name),
					"One event may join two of them. Aggregate the table itself.");
	if (inner->window == MILL_WINDOW_HOP)
		mill_refuse(psprintf("the windows of \"%s\" as rows to aggregate, which overlap", name),
					"A row is in several of them. Use mill.tumble there.");
	if (inner->query->havingQual)
		mill_refuse(psprintf("\"%s\", which has HAVING, as rows to aggregate", name),
					"Leave HAVING to the query that reads it.");
	if (inner->ungrouped)
		mill_refuse(psprintf("the only row of \"%s\" as rows to aggregate", name),
					"Aggregate the table itself.");
}

/* A call of mill.window_start or mill.window_end for a window of this query. */
static Node *
window_call(const MillDefinition *d, const char *function, Node *time)
{
	List *args = list_concat(list_make2(copyObject(time), copyObject(d->size)),
							 copyObject(d->alignment));
	Oid types[4];
	Oid oid;
	ListCell *lc;

	Assert(list_length(args) <= lengthof(types));
	foreach (lc, args)
		types[foreach_current_index(lc)] = exprType(lfirst(lc));
	oid = LookupFuncName(list_make2(makeString("mill"), makeString(pstrdup(function))),
						 list_length(args), types, false);
	return (Node *) makeFuncExpr(oid, d->time_type, args, InvalidOid, DEFAULT_COLLATION_OID,
								 COERCE_EXPLICIT_CALL);
}

static Node *
is_not_null(Node *expr)
{
	NullTest *test = makeNode(NullTest);

	test->arg = (Expr *) expr;
	test->nulltesttype = IS_NOT_NULL;
	test->location = -1;
	return (Node *) test;
}

/* Replace the columns of the inner window. */
static Node *
compute_window(Node *node, void *context)
{
	const Inner *inner = context;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && (int) ((Var *) node)->varno == inner->window_rti)
		return copyObject(((Var *) node)->varattno == 1 ? inner->start : inner->end);
	return expression_tree_mutator(node, compute_window, context);
}

/* Compute the columns of the window from the time instead: the outer query has its own, or needs none. */
static void
remove_window(Inner *inner, const MillDefinition *d)
{
	Query *query;

	inner->start = window_call(d, "window_start", d->time);
	inner->end = window_call(d, "window_end", inner->start);
	if (!is_in_from(inner->query, inner->window_rti))
		mill_refuse("an aggregate with its window below an outer join as rows to aggregate",
					"Join the window last there: FROM a LEFT JOIN b ON ..., mill.tumble(...).");
	query = lift(inner->query, inner->window_rti);
	query = query_tree_mutator(query, compute_window, inner, 0);
	replace_item(query, inner->window_rti, NIL);
	/* rows without a time are in no window */
	query->jointree->quals = make_and_qual(query->jointree->quals,
										   is_not_null(copyObject(inner->start)));
	inner->query = query;
	inner->window_rti = 0;
}

/* Does the outer query group by the inner window as it is, with no window of its own? */
static bool
groups_by_window(const Query *outer, const Inner *inner)
{
	bool groups = false;
	ListCell *lc;

	foreach (lc, outer->rtable)
	{
		if (mill_window_of_entry(lfirst(lc), NULL) != MILL_WINDOW_NONE)
			return false;
	}
	foreach (lc, outer->groupClause)
	{
		Var *var = (Var *) get_sortgroupclause_expr(lfirst(lc), outer->targetList);
		Var *column;

		if (!IsA(var, Var) || (int) var->varno != inner->rti || var->varattno <= 0)
			continue;
		column = (Var *) ((TargetEntry *) list_nth(inner->query->targetList, var->varattno - 1))
					 ->expr;
		groups |= IsA(column, Var) && (int) column->varno == inner->window_rti;
	}
	return groups;
}

/* ---- the outer query ---- */

static Node *
column_behind(const Inner *inner, const Var *var)
{
	if (var->varattno <= 0)
		mill_refuse(psprintf("a whole row of \"%s\"", get_rel_name(inner->view)),
					"Name the columns that the view needs.");
	return (Node *) ((TargetEntry *) list_nth(inner->query->targetList, var->varattno - 1))->expr;
}

static bool
is_column(const Inner *inner, Node *node)
{
	return IsA(node, Var) && (int) ((Var *) node)->varno == inner->rti &&
		   ((Var *) node)->varlevelsup == 0;
}

static char *
result_name(const Inner *inner, const Var *var)
{
	return get_attname(inner->view, var->varattno, false);
}

/* Do both belong to one of these? */
static bool
are_both(const Aggref *outer, const Aggref *inner, const char *const *names)
{
	return mill_is_core_function(outer->aggfnoid, names) &&
		   mill_is_core_function(inner->aggfnoid, names);
}

static const char *const sums[] = {"sum", NULL};
static const char *const counts[] = {"count", NULL};

/* Is the outer aggregate of the inner one's results the same as that of its rows? */
static bool
is_combination(const Aggref *outer, const Aggref *inner)
{
	static const char *const same[][4] = {{"min"},	   {"max"},		{"bool_and", "every"},
										  {"bool_or"}, {"bit_and"}, {"bit_or"},
										  {"bit_xor"}};

	if (outer->aggdistinct || inner->aggdistinct || outer->aggkind != AGGKIND_NORMAL)
		return false;
	if (mill_is_core_function(outer->aggfnoid, sums) &&
		mill_is_core_function(inner->aggfnoid, counts))
		return true;
	/* the sum of floats depends on their order */
	if (are_both(outer, inner, sums))
		return outer->aggtype != FLOAT4OID && outer->aggtype != FLOAT8OID;
	for (size_t i = 0; i < lengthof(same); i++)
	{
		if (are_both(outer, inner, same[i]))
			return true;
	}
	return false;
}

static Node *
integer(int64 value)
{
	return (Node *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(value), false,
							  FLOAT8PASSBYVAL);
}

static Node *
case_when(Node *condition, Node *value, Node *otherwise)
{
	CaseExpr *expr = makeNode(CaseExpr);
	CaseWhen *when = makeNode(CaseWhen);

	when->expr = (Expr *) condition;
	when->result = (Expr *) value;
	when->location = -1;
	expr->casetype = exprType(value);
	expr->casecollid = exprCollation(value);
	expr->args = list_make1(when);
	expr->defresult = (Expr *) otherwise;
	expr->location = -1;
	return (Node *) expr;
}

/* What one row gives to an inner aggregate's result: 1 or 0 to a count, its argument to others. */
static Node *
share_of_row(const Aggref *inner)
{
	bool is_count = mill_is_core_function(inner->aggfnoid, counts);
	Node *argument = NULL;
	Node *value;

	if (inner->args)
		argument = copyObject((Node *) ((TargetEntry *) linitial(inner->args))->expr);
	value = is_count ? integer(1)
					 : coerce_to_target_type(NULL, argument, exprType(argument), inner->aggtype, -1,
											 COERCION_EXPLICIT, COERCE_EXPLICIT_CAST, -1);
	Assert(value != NULL);
	if (is_count && argument)
		value = case_when(is_not_null(argument), value, integer(0));
	if (inner->aggfilter)
		value = case_when(copyObject((Node *) inner->aggfilter), value,
						  is_count ? integer(0)
								   : (Node *) makeNullConst(exprType(value), exprTypmod(value),
															exprCollation(value)));
	return value;
}

/* The inner aggregate whose result is the only argument of this call; NULL if it is none. */
static Aggref *
combined_aggregate(const Inner *inner, const Aggref *call)
{
	Node *argument, *column;

	if (list_length(call->args) != 1)
		return NULL;
	argument = (Node *) ((TargetEntry *) linitial(call->args))->expr;
	if (!is_column(inner, argument))
		return NULL;
	column = column_behind(inner, (Var *) argument);
	return IsA(column, Aggref) ? (Aggref *) column : NULL;
}

static Node *to_rows(Node *node, void *context);

/* An aggregate call over groups, as one over rows. */
static Node *
call_to_rows(const Inner *inner, Aggref *call)
{
	static const char *const any_number[] = {"min",		"max",	   "bool_and", "every",
											 "bool_or", "bit_and", "bit_or",   NULL};
	Aggref *combined = combined_aggregate(inner, call);
	Aggref *result;
	TargetEntry *entry;

	if (combined == NULL)
	{
		if (!call->aggdistinct && !mill_is_core_function(call->aggfnoid, any_number))
			mill_refuse(psprintf("%s over the groups of \"%s\"", get_func_name(call->aggfnoid),
								 get_rel_name(inner->view)),
						RESULTS_HINT);
		return expression_tree_mutator((Node *) call, to_rows, (void *) inner);
	}
	entry = linitial(call->args);
	if (!is_combination(call, combined))
		mill_refuse(psprintf("%s of \"%s\", which is %s of rows", get_func_name(call->aggfnoid),
							 result_name(inner, (Var *) entry->expr),
							 get_func_name(combined->aggfnoid)),
					call->aggtype == FLOAT4OID || call->aggtype == FLOAT8OID
						? "The sum of floating point numbers depends on their order. Sum numeric values."
						: RESULTS_HINT);
	result = copyObject(call);
	((TargetEntry *) linitial(result->args))->expr = (Expr *) share_of_row(combined);
	result->aggorder = NIL;
	result->aggfilter = (Expr *) to_rows((Node *) call->aggfilter, (void *) inner);
	return (Node *) result;
}

/* A column of the inner aggregate that is a key. */
static Node *
key_behind(const Inner *inner, const Var *var)
{
	Node *column = column_behind(inner, var);

	if (contain_agg_clause(column))
		mill_refuse(psprintf("\"%s\", a result of \"%s\", where it is not combined",
							 result_name(inner, var), get_rel_name(inner->view)),
					RESULTS_HINT);
	return copyObject(column);
}

/* An expression that may be a key by itself. */
static Node *
key_to_rows(const Inner *inner, Node *node)
{
	return is_column(inner, node) ? key_behind(inner, (Var *) node) : to_rows(node, (void *) inner);
}

/* Is this a comparison that gives the same for all values that GROUP BY takes for equal? */
static bool
is_comparison(Node *node)
{
	bool of_two = IsA(node, OpExpr) || IsA(node, DistinctExpr);
	List *args;
	Oid operator, family;

	if (!of_two && !IsA(node, ScalarArrayOpExpr))
		return false;
	args = of_two ? ((OpExpr *) node)->args : ((ScalarArrayOpExpr *) node)->args;
	operator= of_two ? ((OpExpr *) node)->opno : ((ScalarArrayOpExpr *) node)->opno;
	family = lookup_type_cache(getBaseType(exprType(linitial(args))), TYPECACHE_BTREE_OPFAMILY)
				 ->btree_opf;
	return OidIsValid(family) &&
		   (op_in_opfamily(operator, family) ||
			(OidIsValid(get_negator(operator)) && op_in_opfamily(get_negator(operator), family)));
}

/*
 * An expression over groups of the inner aggregate, as one over rows.  A group has one of
 * its keys' values that are equal: where these may not be the same, as 1.0 and 1.00, an
 * expression of them is another thing for rows than for groups.
 */
static Node *
to_rows(Node *node, void *context)
{
	const Inner *inner = context;

	if (node == NULL)
		return NULL;
	if (IsA(node, Aggref))
		return call_to_rows(inner, (Aggref *) node);
	if (IsA(node, TargetEntry))
	{
		TargetEntry *entry = flatCopyTargetEntry((TargetEntry *) node);

		entry->expr = (Expr *) key_to_rows(inner, (Node *) entry->expr);
		return (Node *) entry;
	}
	if (IsA(node, NullTest))
	{
		NullTest *test = copyObject((NullTest *) node);

		test->arg = (Expr *) key_to_rows(inner, (Node *) test->arg);
		return (Node *) test;
	}
	if (is_comparison(node))
	{
		/* OpExpr, DistinctExpr and ScalarArrayOpExpr */
		Node *comparison = copyObject(node);
		List **args = IsA(node, ScalarArrayOpExpr) ? &((ScalarArrayOpExpr *) comparison)->args
												   : &((OpExpr *) comparison)->args;
		ListCell *lc;

		foreach (lc, *args)
			lfirst(lc) = key_to_rows(inner, lfirst(lc));
		return comparison;
	}
	if (is_column(inner, node))
	{
		Node *key = key_behind(inner, (Var *) node);

		if (!mill_equal_is_same(exprType(node), exprCollation(node)))
			mill_refuse(psprintf("an expression of \"%s\", whose values may be equal and not the same",
								 result_name(inner, (Var *) node)),
						"Use the column by itself, or let the view below have the expression.");
		return key;
	}
	return expression_tree_mutator(node, to_rows, context);
}

/* Width and origin of mill.window_start as the planner computes it; false if its width is not fixed. */
static bool
fixed_window(Node *call, int64 *width, int64 *origin)
{
	FuncExpr *fixed = (FuncExpr *) eval_const_expressions(NULL, copyObject(call));

	if (!IsA(fixed, FuncExpr) || strcmp(get_func_name(fixed->funcid), "fixed_start") != 0)
		return false;
	*width = DatumGetInt64(((Const *) lsecond(fixed->args))->constvalue);
	*origin = DatumGetInt64(((Const *) lthird(fixed->args))->constvalue);
	return true;
}

/*
 * The event time of a window whose bounds are all bounds of the inner windows
 * is the row's own: a condition on it can use an index.
 */
static void
use_own_time(Query *outer, const Inner *inner)
{
	ListCell *lc;

	foreach (lc, outer->rtable)
	{
		FuncExpr *call;
		MillDefinition window = {0};
		MillWindowKind kind = mill_window_of_entry(lfirst(lc), &call);
		int64 width, origin, outer_width, outer_origin;
		int first = kind == MILL_WINDOW_HOP ? 3 : 2;
		bool nested = true;

		if (kind == MILL_WINDOW_NONE)
			continue;
		call->args = mill_window_arguments(call);
		if (!equal(linitial(call->args), inner->start) ||
			!fixed_window(inner->start, &width, &origin))
			continue;
		window.time_type = exprType(linitial(call->args));
		window.alignment = list_copy_tail(call->args, first);
		for (int i = 1; i < first && nested; i++)
		{
			window.size = list_nth(call->args, i);
			nested = fixed_window(window_call(&window, "window_start", linitial(call->args)),
								  &outer_width, &outer_origin) &&
					 outer_width % width == 0 && (outer_origin - origin) % width == 0;
		}
		if (nested)
			linitial(call->args) = copyObject(linitial(((FuncExpr *) inner->start)->args));
	}
}

/* Put the inner query in place of its view. */
static Query *
put_in_place(Query *outer, Inner *inner)
{
	Query *query = inner->query;
	ListCell *lc;

	foreach (lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		/* what is no table in FROM is there for rules alone */
		if (rte->rtekind == RTE_RELATION && !rte->inFromCl)
			rte->rtekind = RTE_RESULT;
	}
	OffsetVarNodes((Node *) query, list_length(outer->rtable), 0);
	outer = query_tree_mutator(outer, to_rows, inner, 0);
	outer->jointree->quals = make_and_qual(query->jointree->quals, outer->jointree->quals);
	replace_item(outer, inner->rti, query->jointree->fromlist);
	outer->rtable = list_concat(outer->rtable, query->rtable);
	return outer;
}

/*
 * Is this query over another continuous aggregate?  Its range table index, and in
 * *definition the view that has its query; 0 if not: then it may still look one up.
 */
int
mill_find_inner(const Query *query, Oid *definition)
{
	const RangeTblEntry *rte;
	int rti;

	*definition = InvalidOid;
	if (query->setOperations || query->cteList || query->hasSubLinks)
		return 0;
	rti = place_of_base(query);
	if (rti == 0)
		return 0;
	rte = rt_fetch(rti, query->rtable);
	if (rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_VIEW)
		*definition = definition_of(rte->relid);
	return OidIsValid(*definition) ? rti : 0;
}

/* The functions of the inner view would run as the outer one's owner. */
void
mill_check_inner(const MillDefinition *d, int rti)
{
	Oid view = rt_fetch(rti, d->query->rtable)->relid;

	if (mill_relation_owner(view) != mill_relation_owner(d->view))
		mill_refuse(psprintf("a view over the continuous aggregate \"%s\" of another role",
							 get_rel_name(view)),
					"Make one over the table itself.");
}

/*
 * A query over a continuous aggregate, which mill_find_inner found and whose
 * definition is given, as one over that one's base table.  Raises an error if that
 * cannot be done.
 */
Query *
mill_flatten(Query *outer, int rti, const MillDefinition *definition)
{
	Inner inner = {.rti = rti,
				   .view = rt_fetch(rti, outer->rtable)->relid,
				   .query = copyObject(definition->query),
				   .window_rti = definition->window_rti};
	Query *query;

	/* while they have the names that the user gave them */
	mill_check_keys(outer);
	refuse_inner(definition, get_rel_name(inner.view));
	if (!is_in_from(outer, rti))
		mill_refuse(psprintf("the aggregate \"%s\" in an outer join as rows to aggregate",
							 get_rel_name(inner.view)),
					"Look the other table up in the query that reads the view.");
	outer = lift(outer, rti);
	if (inner.window_rti && !groups_by_window(outer, &inner))
		remove_window(&inner, definition);
	query = put_in_place(outer, &inner);
	if (inner.start)
	{
		OffsetVarNodes(inner.start, list_length(outer->rtable), 0);
		use_own_time(query, &inner);
	}
	return query;
}
