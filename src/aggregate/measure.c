/*
 * measure.c
 *		How each aggregate of a view is kept: its class and stored columns.
 *
 * An aggregate that can be computed from sums and counts is kept as those, in
 * columns of plain types that can be indexed, subtracted and dumped.  Another
 * one that has a combine function is kept as its partial state, the serialized
 * transition value.  One that has none, depends on order or distinctness, or
 * whose partial state could not be checked when it is read, is kept as its
 * result, and recomputed when its group changes.
 *
 * Texts: "partial" is over the rows that were added or removed (columns a1,
 * a2, ...), "combine" over stored partial results, "final" over combined ones.
 */
#include "postgres.h"

#include "catalog/pg_aggregate.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/definition.h"
#include "aggregate/state.h"

/* The measure that is being built. */
typedef struct Measuring
{
	MillDefinition *d;
	MillMeasure *m;
	const char *filter; /* " FILTER (WHERE ...)" or "" */
} Measuring;

static MillAccumulator *
add_accumulator(Measuring *w, const char *stem, Oid type, Oid collation, char *partial,
				const char *combine, const char *zero)
{
	MillAccumulator *a;
	ListCell *lc;

	foreach (lc, w->d->accumulators)
	{
		a = lfirst(lc);
		if (strcmp(a->partial, partial) == 0 && a->column.type == type &&
			a->column.collation == collation)
		{
			w->m->accumulators = list_append_unique_ptr(w->m->accumulators, a);
			return a;
		}
	}
	a = palloc0(sizeof(MillAccumulator));
	a->column.name = psprintf("%s_%d", stem, list_length(w->d->accumulators) + 1);
	while (mill_is_key(w->d, a->column.name))
		a->column.name = psprintf("%s_", a->column.name);
	a->column.type = type;
	a->column.typmod = -1;
	a->column.collation = collation;
	a->partial = partial;
	a->combine = psprintf(combine, quote_identifier(a->column.name));
	a->zero = zero ? pstrdup(zero) : NULL;
	a->comparable = true;
	w->d->accumulators = lappend(w->d->accumulators, a);
	w->m->accumulators = lappend(w->m->accumulators, a);
	return a;
}

static const char *
argument(Measuring *w, int number)
{
	TargetEntry *entry = list_nth(w->m->call->args, number);

	return mill_add_argument(w->d, (Node *) entry->expr)->name;
}

/* Add the number of values that are not null: count(x). */
static const char *
add_count(Measuring *w)
{
	return add_accumulator(w, "count", INT8OID, InvalidOid,
						   psprintf("count(%s)%s", argument(w, 0), w->filter), "sum(%s)::bigint",
						   "0")
		->column.name;
}

static void
measure_count(Measuring *w)
{
	const char *count;

	if (w->m->call->args != NIL)
		count = add_count(w);
	else if (w->filter[0] == '\0')
		count = "row_count";
	else
		count = add_accumulator(w, "count", INT8OID, InvalidOid, psprintf("count(*)%s", w->filter),
								"sum(%s)::bigint", "0")
					->column.name;
	/* without GROUP BY there may be no group at all */
	w->m->final = w->d->ungrouped ? psprintf("coalesce(%s, 0)", count) : pstrdup(count);
}

/*
 * Subtracting cannot take NaN and infinities out of a sum, so they are counted
 * apart from it, in one number: 1 for each NaN, 1e18 for Infinity, 1e36 for
 * -Infinity.
 */
static const char *
add_specials(Measuring *w)
{
	char *partial = psprintf("coalesce(sum(mill.special_part(%s))%s, 0)", argument(w, 0), w->filter);

	return add_accumulator(w, "specials", NUMERICOID, InvalidOid, partial, "sum(%s)", "0")
		->column.name;
}

/* The value of finite inputs, or what NaN and infinities make of it. */
static char *
with_specials(Measuring *w, const char *value)
{
	const char *s = add_specials(w);

	return psprintf("CASE WHEN %s = 0 THEN %s WHEN %s >= 1e36 AND %s %% 1e36 = 0 THEN '-Infinity'"
					" WHEN %s < 1e36 AND %s %% 1e18 = 0 THEN 'Infinity' ELSE 'NaN' END",
					s, value, s, s, s, s);
}

/*
 * A sum of numerics has the largest scale of its inputs, and averages and variances
 * their digits by it; subtracting leaves the scale of what is gone.  So inputs are
 * counted by their scale, in one number: 10^(18 * scale) for each, as the scales of
 * one column are few.  It can be subtracted as any sum.  Returns its accumulator's
 * name, or NULL where the type fixes the scale.
 */
static const char *
add_scales(Measuring *w, Oid type)
{
	const TargetEntry *entry = linitial(w->m->call->args);
	const char *a = argument(w, 0);
	char *partial;

	if (type != NUMERICOID || exprTypmod((Node *) entry->expr) >= 0)
		return NULL;
	partial = psprintf("coalesce(sum(mill.scale_part(%s))%s, 0)", a, w->filter);
	return add_accumulator(w, "scales", NUMERICOID, InvalidOid, partial, "sum(%s)", "0")->column.name;
}

/* The largest scale as an expression, or NULL. */
static const char *
add_scale(Measuring *w, Oid type)
{
	const char *scales = add_scales(w, type);

	return scales ? psprintf("((length(%s::text) - 1) / 18)", scales) : NULL;
}

/* A sum, or a sum of squares, with the scale of its inputs. */
static char *
with_scale(const char *sum, const char *scale, int factor)
{
	return scale ? psprintf("round(%s, %s * %d)", sum, scale, factor) : pstrdup(sum);
}

/*
 * Add the sum of inputs of a type.  Returns its accumulator's name, or NULL if
 * the sum of that type cannot be kept.
 */
static const char *
add_sum(Measuring *w, Oid type, bool average)
{
	const char *a = argument(w, 0);
	char *partial = psprintf("coalesce(sum(%s)%s, 0)", a, w->filter);
	MillAccumulator *sum;

	switch (type)
	{
		case INT2OID:
		case INT4OID:
			return add_accumulator(w, "sum", INT8OID, InvalidOid, partial, "sum(%s)::bigint", "0")
				->column.name;
		case INT8OID:
			return add_accumulator(w, "sum", NUMERICOID, InvalidOid, partial, "sum(%s)", "0")
				->column.name;
		case NUMERICOID:
			partial = psprintf("coalesce(sum(mill.finite_part(%s))%s, 0)", a, w->filter);
			return add_accumulator(w, "sum", NUMERICOID, InvalidOid, partial, "sum(%s)", "0")
				->column.name;
		case FLOAT4OID:
		case FLOAT8OID:
			/* floats: subtraction would leave rounding errors in the sum */
			w->m->class = MILL_INSERT_ONLY;
			if (average && type == FLOAT4OID)
				partial = psprintf("coalesce(sum(%s::float8)%s, 0)", a, w->filter);
			return add_accumulator(w, "sum", average ? FLOAT8OID : type, InvalidOid, partial,
								   "sum(%s)", NULL)
				->column.name;
		case INTERVALOID:
			partial = psprintf("coalesce(sum(%s)%s, '0')", a, w->filter);
			sum = add_accumulator(w, "sum", type, InvalidOid, partial, "sum(%s)", "'0'::interval");
			/* '1 month - 30 days' compares equal to zero but is not */
			sum->comparable = false;
			return sum->column.name;
		case MONEYOID:
			partial = psprintf("coalesce(sum(%s)%s, '0')", a, w->filter);
			return add_accumulator(w, "sum", type, InvalidOid, partial, "sum(%s)", "'0'::money")
				->column.name;
		default:
			return NULL;
	}
}

/* The value of a sum that has inputs: that of numerics from its parts, in one call. */
static const char *
sum_value(Measuring *w, Oid type, const char *sum)
{
	const char *scales = add_scales(w, type);

	if (type != NUMERICOID)
		return sum;
	return scales ? psprintf("mill.sum_of_parts(%s, %s, %s)", sum, scales, add_specials(w))
				  : with_specials(w, sum);
}

static bool
measure_sum(Measuring *w, Oid type)
{
	const char *sum = add_sum(w, type, false);

	if (sum)
	{
		const char *value = sum_value(w, type, sum);

		w->m->final = psprintf("CASE WHEN %s > 0 THEN %s END", add_count(w), value);
	}
	return sum != NULL;
}

static bool
measure_avg(Measuring *w, Oid type)
{
	const char *sum = add_sum(w, type, true);
	const char *count;

	if (sum == NULL)
		return false;
	count = add_count(w);
	if (type == FLOAT4OID || type == FLOAT8OID || type == INTERVALOID)
		w->m->final = psprintf("CASE WHEN %s > 0 THEN %s / %s::float8 END", count, sum, count);
	else
		w->m->final = psprintf("CASE WHEN %s > 0 THEN %s::numeric / %s::numeric END", count,
							   sum_value(w, type, sum), count);
	return true;
}

/*
 * Variance and standard deviation of integers and numerics, by count, sum and
 * sum of squares: (n * q - s * s) / (n * (n - 1)), or / (n * n) for the
 * population, and 0 without digits where there is none, as core's
 * numeric_stddev_internal does; the root is rounded to the scale of the quotient,
 * once: it is taken with digits to spare.
 */
static bool
measure_variance(Measuring *w, Oid type, const char *name)
{
	bool population = strstr(name, "_pop") != NULL;
	bool root = strncmp(name, "stddev", 6) == 0;
	const char *a, *s, *q, *n, *scale;
	char *quotient;

	if (type != INT2OID && type != INT4OID && type != INT8OID && type != NUMERICOID)
		return false;
	a = argument(w, 0);
	s = add_sum(w, type, false);
	n = add_count(w);
	q = add_accumulator(w, "squares", NUMERICOID, InvalidOid,
						psprintf(type == NUMERICOID
									 ? "coalesce(sum(mill.finite_part(%s) * %s)%s, 0)"
									 : "coalesce(sum(%s::numeric * %s::numeric)%s, 0)",
								 a, a, w->filter),
						"sum(%s)", "0")
			->column.name;
	scale = add_scale(w, type);
	s = with_scale(s, scale, 1);
	q = with_scale(q, scale, 2);
	quotient =
		psprintf("CASE WHEN %s * %s > %s::numeric * %s THEN (%s * %s - %s::numeric * %s) / (%s::numeric * %s) ELSE 0 END",
				 n, q, s, s, n, q, s, s, n, population ? n : psprintf("(%s - 1)", n));
	if (root)
		quotient =
			psprintf("(SELECT round(sqrt(v + 0e-40), coalesce(scale(v), 0)) FROM (SELECT %s) AS x(v))",
					 quotient);
	if (type == NUMERICOID)
		quotient = psprintf("CASE WHEN %s = 0 THEN %s ELSE 'NaN' END", add_specials(w), quotient);
	w->m->final = psprintf("CASE WHEN %s > %d THEN %s END", n, population ? 0 : 1, quotient);
	return true;
}

static void
measure_extreme(Measuring *w, const char *name)
{
	static const char *const removable[] = {"max", "min", NULL};
	MillAccumulator *a;

	w->m->class = MILL_INSERT_ONLY;
	a = add_accumulator(w, name, w->m->column.type, w->m->column.collation,
						psprintf("%s(%s)%s", name, argument(w, 0), w->filter),
						psprintf("%s(%%s)", name), NULL);
	w->m->final = a->column.name;
	if (mill_is_one_of(name, removable) &&
		OidIsValid(lookup_type_cache(a->column.type, TYPECACHE_EQ_OPR)->eq_opr))
		a->extreme = true;
}

/* bool_and, every, bool_or: by how many are true, and how many are not null. */
static void
measure_bool(Measuring *w, bool any)
{
	const char *all = add_count(w);
	const char *trues = add_accumulator(w, "count", INT8OID, InvalidOid,
										psprintf("count(nullif(%s, false))%s", argument(w, 0),
												 w->filter),
										"sum(%s)::bigint", "0")
							->column.name;

	w->m->final = any ? psprintf("CASE WHEN %s > 0 THEN %s > 0 END", all, trues)
					  : psprintf("CASE WHEN %s > 0 THEN %s = %s END", all, trues, all);
}

/* The arguments of a call that is kept as a partial state. */
static char *
all_arguments(Measuring *w)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < list_length(w->m->call->args); i++)
		appendStringInfo(&list, ", %s", argument(w, i));
	return list.data;
}

/* mill.session_end: the last event of a session, and its gap. */
static void
measure_session_end(Measuring *w)
{
	Aggref *call = (Aggref *) eval_const_expressions(NULL, (Node *) w->m->call);
	TargetEntry *time = linitial(call->args);
	TargetEntry *gap = lsecond(call->args);
	Var *var = (Var *) time->expr;
	TargetEntry *inner;

	if (w->d->window != MILL_WINDOW_SESSION)
		mill_refuse("mill.session_end without sessions",
					"Group by mill.session_start of an inner query.");
	inner = IsA(var, Var) && var->varattno > 0
				? list_nth(w->d->base_level->targetList, var->varattno - 1)
				: NULL;
	if (inner == NULL || !equal(inner->expr, w->d->time) || !equal(gap->expr, w->d->size) ||
		w->filter[0])
		mill_refuse("mill.session_end that differs from mill.session_start",
					"Give both the same event time and the same gap, and no FILTER.");
	w->m->class = MILL_INSERT_ONLY;
	w->m->final = psprintf("last_at + %s", mill_gap(w->d->time_type, (Const *) w->d->size));
}

/* Can partial states of this aggregate be stored and combined? */
static bool
is_combinable(Oid function)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));
	Form_pg_aggregate form;
	bool result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", function);
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	result = OidIsValid(form->aggcombinefn) &&
			 (form->aggtranstype != INTERNALOID ||
			  (OidIsValid(form->aggserialfn) && mill_state_has_check(form->aggdeserialfn)));
	ReleaseSysCache(tuple);
	return result;
}

static void
measure_state(Measuring *w)
{
	char *function = psprintf("%s::regprocedure",
							  quote_literal_cstr(format_procedure_qualified(w->m->call->aggfnoid)));
	const char *state;

	w->m->class = MILL_INSERT_ONLY;
	state = add_accumulator(w, "state", BYTEAOID, InvalidOid,
							psprintf("mill.partial_state(%s%s)%s", function, all_arguments(w),
									 w->filter),
							psprintf("mill.combine_state(%s, %%s)", function), NULL)
				->column.name;
	w->m->final = psprintf("mill.final_state(%s, %s, NULL::%s)", function, state,
						   format_type_be_qualified(w->m->column.type));
}

static Node *
argument_variable(Measuring *w, Node *expr)
{
	MillTypedExpr *column = mill_add_argument(w->d, expr);
	int number = list_length(w->d->arguments);
	ListCell *lc;

	foreach (lc, w->d->arguments)
	{
		if (lfirst(lc) == column)
			number = foreach_current_index(lc) + 1;
	}
	return (Node *) makeVar(1, number, column->type, column->typmod, column->collation, 0);
}

/* Keep the result itself, computed by the call as written. */
static void
measure_recompute(Measuring *w)
{
	Aggref *call = copyObject(w->m->call);
	ListCell *lc;

	if (contain_var_clause((Node *) call->aggdirectargs))
		mill_refuse(psprintf("a direct argument of %s that is not a constant",
							 format_procedure(call->aggfnoid)),
					"Write a constant, or a view for each value.");
	foreach (lc, call->args)
	{
		TargetEntry *entry = lfirst(lc);

		entry->expr = (Expr *) argument_variable(w, (Node *) entry->expr);
	}
	if (call->aggfilter)
		call->aggfilter = (Expr *) argument_variable(w, (Node *) call->aggfilter);
	w->m->class = MILL_RECOMPUTE;
	w->m->final = add_accumulator(w, "value", w->m->column.type, w->m->column.collation,
								  mill_over_columns(w->d->arguments, (Node *) call), "NULL", NULL)
					  ->column.name;
}

/* Core's aggregates that are kept as sums and counts; false if this is none of them. */
static bool
measure_core(Measuring *w)
{
	static const char *const extremes[] = {"min", "max", "bit_and", "bit_or", "bit_xor", NULL};
	static const char *const booleans[] = {"bool_and", "every", "bool_or", NULL};
	static const char *const variances[] = {"var_pop",	   "var_samp", "variance", "stddev_pop",
											"stddev_samp", "stddev",   NULL};
	Aggref *call = w->m->call;
	const char *name = get_func_name(call->aggfnoid);
	Oid type = list_length(call->args) == 1
				   ? exprType((Node *) ((TargetEntry *) linitial(call->args))->expr)
				   : InvalidOid;

	if (get_func_namespace(call->aggfnoid) != PG_CATALOG_NAMESPACE)
		return false;
	if (strcmp(name, "count") == 0)
	{
		measure_count(w);
		return true;
	}
	if (mill_is_one_of(name, extremes))
	{
		measure_extreme(w, name);
		return true;
	}
	if (mill_is_one_of(name, booleans))
	{
		measure_bool(w, strcmp(name, "bool_or") == 0);
		return true;
	}
	if (strcmp(name, "sum") == 0)
		return measure_sum(w, type);
	if (strcmp(name, "avg") == 0)
		return measure_avg(w, type);
	return mill_is_one_of(name, variances) && measure_variance(w, type, name);
}

/* Aggregates whose result depends on the order in which states are combined. */
static bool
depends_on_order(Oid function)
{
	static const char *const names[] = {"string_agg", "array_agg", "xmlagg", "any_value", NULL};

	return mill_is_core_function(function, names);
}

static void
add_measure(MillDefinition *d, Aggref *call)
{
	MillMeasure *m = palloc0(sizeof(MillMeasure));
	Measuring w = {d, m, ""};

	m->call = call;
	m->column.name = psprintf("m%d", list_length(d->measures) + 1);
	m->column.expr = (Node *) call;
	m->column.type = exprType((Node *) call);
	m->column.typmod = exprTypmod((Node *) call);
	m->column.collation = exprCollation((Node *) call);
	m->class = MILL_INVERTIBLE;
	d->measures = lappend(d->measures, m);

	if (call->aggfilter)
		w.filter = psprintf(" FILTER (WHERE %s)",
							mill_add_argument(d, (Node *) call->aggfilter)->name);
	if (OidIsValid(mill_function_of_ours((Node *) call, "session_end")))
		measure_session_end(&w);
	else if (call->aggdistinct || call->aggkind != AGGKIND_NORMAL || call->aggvariadic ||
			 depends_on_order(call->aggfnoid))
		measure_recompute(&w);
	else if (measure_core(&w))
		;
	else if (call->aggorder == NIL && call->args != NIL && is_combinable(call->aggfnoid))
		measure_state(&w);
	else
		measure_recompute(&w);
	d->class = Max(d->class, m->class);
}

static bool
find_calls(Node *node, void *context)
{
	MillDefinition *d = context;
	ListCell *lc;

	if (node == NULL)
		return false;
	if (!IsA(node, Aggref))
		return expression_tree_walker(node, find_calls, d);
	foreach (lc, d->measures)
	{
		if (equal(((MillMeasure *) lfirst(lc))->call, node))
			return false;
	}
	add_measure(d, (Aggref *) node);
	return false;
}

/* Add the aggregates of target list and HAVING to the definition's measures. */
void
mill_add_measures(MillDefinition *d)
{
	ListCell *lc;

	find_calls((Node *) d->query->targetList, d);
	find_calls(d->query->havingQual, d);
	/* a session that loses a row may become two */
	if (d->window == MILL_WINDOW_SESSION)
		d->class = Max(d->class, MILL_INSERT_ONLY);
	d->by_extremes = d->class == MILL_INSERT_ONLY && d->window != MILL_WINDOW_SESSION;
	foreach (lc, d->accumulators)
		d->by_extremes &= ((MillAccumulator *) lfirst(lc))->zero != NULL ||
						  ((MillAccumulator *) lfirst(lc))->extreme;
}
