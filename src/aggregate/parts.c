/*
 * parts.c
 *		What reading, checking and measuring a definition share.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/definition.h"
#include "window/window.h"

void
mill_refuse(const char *what, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("continuous aggregates do not support %s", what),
					hint ? errhint("%s", hint) : 0));
}

/* An expression with its name and type. */
MillTypedExpr *
mill_typed_column(const char *name, Node *expr)
{
	MillTypedExpr *column = palloc0(sizeof(MillTypedExpr));

	column->name = pstrdup(name);
	column->expr = expr;
	column->type = exprType(expr);
	column->typmod = exprTypmod(expr);
	column->collation = exprCollation(expr);
	return column;
}

/* Add an expression to the inputs of aggregates, a1, a2, ..., unless it is one. */
MillTypedExpr *
mill_add_argument(MillDefinition *d, Node *expr)
{
	ListCell *lc;
	MillTypedExpr *column;

	foreach (lc, d->arguments)
	{
		column = lfirst(lc);
		if (equal(column->expr, expr))
			return column;
	}
	column = mill_typed_column(psprintf("a%d", list_length(d->arguments) + 1), expr);
	d->arguments = lappend(d->arguments, column);
	return column;
}

bool
mill_is_key(const MillDefinition *d, const char *name)
{
	ListCell *lc;

	foreach (lc, d->keys)
	{
		if (strcmp(((MillTypedExpr *) lfirst(lc))->name, name) == 0)
			return true;
	}
	return false;
}

/* The leftmost table in FROM, 0 if there is none. */
int
mill_leftmost_table(const Query *level, Node *node)
{
	if (IsA(node, FromExpr))
	{
		ListCell *lc;

		foreach (lc, ((FromExpr *) node)->fromlist)
		{
			int rti = mill_leftmost_table(level, lfirst(lc));

			if (rti)
				return rti;
		}
		return 0;
	}
	if (IsA(node, JoinExpr))
	{
		int rti = mill_leftmost_table(level, ((JoinExpr *) node)->larg);

		return rti ? rti : mill_leftmost_table(level, ((JoinExpr *) node)->rarg);
	}
	if (IsA(node, RangeTblRef))
	{
		int rti = ((RangeTblRef *) node)->rtindex;

		return rt_fetch(rti, level->rtable)->rtekind == RTE_RELATION ? rti : 0;
	}
	return 0;
}

/* The window of an entry of FROM, and its call of mill.tumble or mill.hop. */
MillWindowKind
mill_window_of_entry(const RangeTblEntry *rte, FuncExpr **call)
{
	FuncExpr *tumble = mill_window_call(rte, "tumble");
	FuncExpr *hop = tumble ? NULL : mill_window_call(rte, "hop");

	if (call)
		*call = tumble ? tumble : hop;
	return tumble ? MILL_WINDOW_TUMBLE : hop ? MILL_WINDOW_HOP : MILL_WINDOW_NONE;
}

/*
 * The arguments of a call of a window function in their order, those that it leaves out
 * as well; all but the first, the time, as constants where they are.
 */
List *
mill_window_arguments(const FuncExpr *call)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->funcid));
	List *args;
	ListCell *lc;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", call->funcid);
	args = expand_function_arguments(copyObject(call->args), false, call->funcresulttype, tuple);
	ReleaseSysCache(tuple);
	for_each_from(lc, args, 1) lfirst(lc) = eval_const_expressions(NULL, lfirst(lc));
	return args;
}

/* Are values of a type that are equal also the same, as core asks for deduplication? */
bool
mill_equal_is_same(Oid type, Oid collation)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY);
	Oid function = OidIsValid(entry->btree_opf)
					   ? get_opfamily_proc(entry->btree_opf, entry->btree_opintype,
										   entry->btree_opintype, BTEQUALIMAGE_PROC)
					   : InvalidOid;

	return OidIsValid(function) &&
		   DatumGetBool(
			   OidFunctionCall1Coll(function, collation, ObjectIdGetDatum(entry->btree_opintype)));
}

bool
mill_is_one_of(const char *name, const char *const *names)
{
	for (int i = 0; names[i]; i++)
	{
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return false;
}

/* Is this a function of core's by one of these names? */
bool
mill_is_core_function(Oid function, const char *const *names)
{
	return get_func_namespace(function) == PG_CATALOG_NAMESPACE &&
		   mill_is_one_of(get_func_name(function), names);
}
