/*
 * parts.c
 *		What reading, checking and measuring a definition share.
 */
#include "postgres.h"

#include "utils/lsyscache.h"

#include "core/compat.h"

#include "aggregate/definition.h"

void
mill_refuse(const char *what, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("continuous aggregates do not support %s", what),
					hint ? errhint("%s", hint) : 0));
}

/* The function's oid if the node calls mill.<name>, else InvalidOid. */
Oid
mill_function_of_ours(Node *node, const char *name)
{
	Oid function = InvalidOid;
	char *schema;

	if (node && IsA(node, FuncExpr))
		function = ((FuncExpr *) node)->funcid;
	else if (node && IsA(node, WindowFunc))
		function = ((WindowFunc *) node)->winfnoid;
	else if (node && IsA(node, Aggref))
		function = ((Aggref *) node)->aggfnoid;
	if (!OidIsValid(function) || strcmp(get_func_name(function), name) != 0)
		return InvalidOid;
	schema = get_namespace_name(get_func_namespace(function));
	return schema && strcmp(schema, "mill") == 0 ? function : InvalidOid;
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
