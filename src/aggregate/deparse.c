/*
 * deparse.c
 *		Query trees to SQL text: rows of a view, its output, single expressions.
 *
 * The base table is written as "mill_rows", a name that the statement around
 * it defines: as the rows that a statement changed, or as a part of the table.
 * Texts are made and run under the same safe search_path, so all names in them
 * except those of pg_catalog are qualified.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "optimizer/tlist.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/definition.h"
#include "window/window.h"

/* A constant as text with its type. */
char *
mill_constant(Node *node)
{
	return deparse_expression(node, NIL, false, false);
}

/* A session's gap as text of a constant that can be added to an event time. */
char *
mill_gap(Oid time_type, const Const *gap)
{
	Interval *width;

	if (time_type == INT8OID)
		return psprintf("'" INT64_FORMAT "'::bigint", DatumGetInt64(gap->constvalue));
	width = DatumGetIntervalP(gap->constvalue);
	if (time_type == DATEOID)
		return psprintf("%d", width->day + (int) (width->time / USECS_PER_DAY));
	/* days of a gap are 24 hours, also across a change of the clocks */
	return psprintf("'" INT64_FORMAT " microseconds'::interval",
					width->time + width->day * USECS_PER_DAY);
}

/* A range table entry that deparses as a bare name with these columns. */
static void
name_entry(RangeTblEntry *rte, const char *name, List *columns)
{
	rte->rtekind = RTE_CTE;
	rte->relid = InvalidOid;
	rte->inh = false;
	rte->ctename = pstrdup(name);
	rte->ctelevelsup = 0;
	rte->eref->colnames = columns;
	if (rte->alias)
		rte->alias->colnames = NIL;
}

/* A query over one such entry. */
static Query *
query_over(const char *name, List *column_names)
{
	Query *query = makeNode(Query);
	RangeTblEntry *rte = makeNode(RangeTblEntry);
	RangeTblRef *ref = makeNode(RangeTblRef);

	rte->eref = makeAlias(name, NIL);
	name_entry(rte, name, column_names);
	rte->inFromCl = true;
	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = list_make1(rte);
	query->jointree = makeFromExpr(list_make1(ref), NULL);
	return query;
}

static List *
column_names(List *columns)
{
	List *names = NIL;
	ListCell *lc;

	foreach (lc, columns)
		names = lappend(names, makeString(((MillTypedExpr *) lfirst(lc))->name));
	return names;
}

static List *
only_target(Node *expr)
{
	return list_make1(makeTargetEntry((Expr *) expr, 1, "mill_value", false));
}

/* The expression of a query that has only_target, as text. */
static char *
write_only_target(Query *query)
{
	char *text = pg_get_querydef(query, false);
	char *end;

	/* Cut the expression out of " SELECT ... AS mill_value FROM ...". */
	text = strstr(text, "SELECT ");
	end = text ? strstr(text, " AS mill_value") : NULL;
	if (end == NULL)
		elog(ERROR, "could not write expression");
	*end = '\0';
	return text + strlen("SELECT ");
}

/* Deparse an expression whose Var (1, n) stands for the n-th of these columns. */
char *
mill_over_columns(List *columns, Node *expr)
{
	Query *query = query_over("mill_source", column_names(columns));

	query->targetList = only_target(expr);
	query->hasAggs = true;
	return write_only_target(query);
}

/* An expression of a query as text, with the names that the query has for tables and columns. */
char *
mill_expression_text(Query *level, Node *expr)
{
	Query *query = copyObject(level);

	query->groupClause = query->sortClause = query->distinctClause = query->windowClause = NIL;
	query->havingQual = NULL;
	query->hasAggs = query->hasWindowFuncs = false;
	query->targetList = only_target(copyObject(expr));
	mill_drop_rule_entries(query);
	return write_only_target(query);
}

/* Names of a relation's columns by number; empty for dropped ones. */
static List *
relation_columns(Oid relid)
{
	Relation rel = table_open(relid, AccessShareLock);
	TupleDesc desc = RelationGetDescr(rel);
	List *names = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		names = lappend(names,
						makeString(attribute->attisdropped ? ""
														   : pstrdup(NameStr(attribute->attname))));
	}
	table_close(rel, NoLock);
	return names;
}

static void
add_target(Query *query, Node *expr, const char *name)
{
	query->targetList = lappend(query->targetList,
								makeTargetEntry((Expr *) copyObject(expr),
												list_length(query->targetList) + 1, pstrdup(name),
												false));
}

static Node *
window_variable(const MillDefinition *d, int column)
{
	return (Node *) makeVar(d->window_rti, column, d->time_type, -1, InvalidOid, 0);
}

/* Replace mill.hop in FROM by mill.tumble with the width of panes. */
static void
hop_to_panes(const MillDefinition *d, Query *query)
{
	RangeTblEntry *rte = rt_fetch(d->window_rti, query->rtable);
	RangeTblFunction *entry = linitial(rte->functions);
	FuncExpr *call = (FuncExpr *) entry->funcexpr;
	List *args = list_concat(list_make2(copyObject(d->time), copyObject(d->pane)),
							 copyObject(d->alignment));
	Oid types[4];
	ListCell *lc;

	foreach (lc, args)
		types[foreach_current_index(lc)] = exprType(lfirst(lc));
	call->funcid = LookupFuncName(list_make2(makeString("mill"), makeString("tumble")),
								  list_length(args), types, false);
	call->args = args;
}

/* Add the event time as a column of a session's inner query. */
static Node *
session_time(const MillDefinition *d, Query *query)
{
	RangeTblEntry *rte = rt_fetch(d->window_rti, query->rtable);
	Query *inner = rte->subquery;
	int number = list_length(rte->eref->colnames) + 1;
	ListCell *lc;

	/* before what is there for PARTITION BY and ORDER BY alone, and is no column */
	inner->targetList = list_insert_nth(inner->targetList, number - 1,
										makeTargetEntry((Expr *) copyObject(d->time), number,
														"mill_time", false));
	for_each_from(lc, inner->targetList, number)((TargetEntry *) lfirst(lc))->resno++;
	rte->eref->colnames = lappend(rte->eref->colnames, makeString("mill_time"));
	if (rte->alias)
		rte->alias->colnames = NIL;
	return window_variable(d, number);
}

/* The number of the inner query's column that calls mill.session_start. */
static int
session_column(const MillDefinition *d)
{
	ListCell *lc;

	foreach (lc, d->base_level->targetList)
	{
		if (OidIsValid(mill_function_of_ours((Node *) ((TargetEntry *) lfirst(lc))->expr,
											 "session_start")))
			return foreach_current_index(lc) + 1;
	}
	elog(ERROR, "session_start not found");
}

/*
 * The rows to aggregate, as a query: pane (or first_at and event_time for
 * sessions), the keys, and the inputs a1, a2, ... of aggregates.
 */
char *
mill_rows(const MillDefinition *d)
{
	Query *query = copyObject(d->query);
	Query *level = query;
	ListCell *lc;

	if (d->window == MILL_WINDOW_SESSION)
		level = rt_fetch(d->window_rti, query->rtable)->subquery;
	name_entry(rt_fetch(d->base_rti, level->rtable), "mill_rows", relation_columns(d->base));

	query->targetList = NIL;
	if (d->window == MILL_WINDOW_SESSION)
	{
		add_target(query, window_variable(d, session_column(d)), "first_at");
		add_target(query, session_time(d, query), "event_time");
	}
	else if (d->window != MILL_WINDOW_NONE)
	{
		if (!d->by_window)
			hop_to_panes(d, query);
		add_target(query, window_variable(d, 1), "pane");
	}
	foreach (lc, d->keys)
		add_target(query, ((MillTypedExpr *) lfirst(lc))->expr,
				   ((MillTypedExpr *) lfirst(lc))->name);
	foreach (lc, d->arguments)
		add_target(query, ((MillTypedExpr *) lfirst(lc))->expr,
				   ((MillTypedExpr *) lfirst(lc))->name);
	query->groupClause = NIL;
	query->havingQual = NULL;
	query->hasAggs = false;
	return pg_get_querydef(query, false);
}

/* Maps the expressions of the view's target list to columns of the groups. */
typedef struct OutputContext
{
	const MillDefinition *d;
	int session_column;
} OutputContext;

static Node *
group_variable(int number, Node *expr)
{
	return (Node *) makeVar(1, number, exprType(expr), exprTypmod(expr), exprCollation(expr), 0);
}

static Node *
to_groups(Node *node, void *argument)
{
	OutputContext *context = argument;
	const MillDefinition *d = context->d;
	int before = d->window == MILL_WINDOW_NONE ? 0 : d->window == MILL_WINDOW_SESSION ? 1 : 2;
	ListCell *lc;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && d->window_rti && ((Var *) node)->varno == d->window_rti)
	{
		int column = ((Var *) node)->varattno;

		if (d->window != MILL_WINDOW_SESSION)
			return group_variable(column, node);
		if (column == context->session_column)
			return group_variable(1, node);
	}
	foreach (lc, d->keys)
	{
		if (!d->made_key && equal(((MillTypedExpr *) lfirst(lc))->expr, node))
			return group_variable(before + foreach_current_index(lc) + 1, node);
	}
	if (IsA(node, Aggref))
	{
		foreach (lc, d->measures)
		{
			if (equal(((MillMeasure *) lfirst(lc))->call, node))
				return group_variable(before + list_length(d->keys) + foreach_current_index(lc) + 1,
									  node);
		}
	}
	return expression_tree_mutator(node, to_groups, context);
}

static List *
group_columns(const MillDefinition *d)
{
	List *names = NIL;
	ListCell *lc;

	if (d->window == MILL_WINDOW_SESSION)
		names = list_make1(makeString("session_start"));
	else if (d->window != MILL_WINDOW_NONE)
		names = list_make2(makeString("window_start"), makeString("window_end"));
	names = list_concat(names, column_names(d->keys));
	foreach (lc, d->measures)
		names = lappend(names, makeString(((MillMeasure *) lfirst(lc))->column.name));
	return names;
}

/*
 * The view's own query over its groups: its expressions, names and HAVING.
 * The columns of groups are those of the window, the keys and the measures.
 */
char *
mill_outer(const MillDefinition *d, const char *groups)
{
	Query *query = query_over("mill_groups", group_columns(d));
	OutputContext context = {d, d->window == MILL_WINDOW_SESSION ? session_column(d) : 0};
	ListCell *lc;

	foreach (lc, d->query->targetList)
	{
		TargetEntry *entry = lfirst(lc);

		if (!entry->resjunk)
			add_target(query, to_groups((Node *) entry->expr, &context), entry->resname);
	}
	query->jointree->quals = to_groups(d->query->havingQual, &context);
	return psprintf("WITH mill_groups AS NOT MATERIALIZED (\n%s\n)\n%s", groups,
					pg_get_querydef(query, false));
}

/* An operator by its qualified name. */
static char *
operator_name(Oid operator)
{
	HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	name = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return name;
}

/*
 * A condition that holds if two values of a type are the same to GROUP BY,
 * NULLs included; an index on one side can be used.
 */
char *
mill_equality(const char *left, const char *right, Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_EQ_OPR);

	if (!OidIsValid(entry->eq_opr))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("could not identify an equality operator for type %s",
							   format_type_be(type))));
	return psprintf("(%s %s %s OR %s IS NULL AND %s IS NULL)", left, operator_name(entry->eq_opr),
					right, left, right);
}
