/*
 * window_support.c
 *		Planner support functions of windows.
 *
 * Runs in any backend that plans a query.  A support function never raises an
 * error about what a user wrote: it leaves the call alone, and its execution
 * raises it.
 */
#include "postgres.h"

#include "window/window.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "core/compat.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/supportnodes.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* Row estimate of hop if its widths are not known. */
#define UNKNOWN_HOP_ROWS 10

/* The constant that an argument is; NULL if it is none, or null. */
static Const *
constant_operand(List *arguments, int n)
{
	Node *argument = n < list_length(arguments) ? list_nth(arguments, n) : NULL;

	return argument != NULL && IsA(argument, Const) && !((Const *) argument)->constisnull
			   ? (Const *) argument
			   : NULL;
}

static bool
is_null_constant(List *arguments, int n)
{
	Node *argument = list_nth(arguments, n);

	return IsA(argument, Const) && ((Const *) argument)->constisnull;
}

/* An interval's months, days or microseconds, if it has only those and is above zero; else 0. */
static int64
width_of(const Interval *width, MillWidthKind *kind)
{
	*kind = width->month != 0 ? MILL_WIDTH_MONTHS
			: width->day != 0 ? MILL_WIDTH_DAYS
							  : MILL_WIDTH_FIXED;
	if ((width->month != 0) + (width->day != 0) + (width->time != 0) != 1 || width->month < 0 ||
		width->day < 0 || width->time < 0)
		return 0;
	return width->month + width->day + width->time;
}

/* A constant width; 0 if it is not constant or will be refused. */
static int64
constant_width(List *arguments, int n, MillWidthKind *kind)
{
	Const *width = constant_operand(arguments, n);

	*kind = MILL_WIDTH_FIXED;
	if (width == NULL)
		return 0;
	if (width->consttype == INT8OID)
		return Max(DatumGetInt64(width->constvalue), 0);
	return width->consttype == INTERVALOID ? width_of(DatumGetIntervalP(width->constvalue), kind)
										   : 0;
}

/* A zone has no effect on fixed widths, but an invalid name must still be an error. */
static bool
zone_is_valid(List *arguments, int n)
{
	Const *zone;

	if (n >= list_length(arguments) || is_null_constant(arguments, n))
		return true;
	zone = constant_operand(arguments, n);
	return zone != NULL && mill_zone_lookup(TextDatumGetCString(zone->constvalue), true) != NULL;
}

static Const *
bigint_constant(int64 value)
{
	return makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(value), false,
					 FLOAT8PASSBYVAL);
}

/* Find a function of mill_catalog, also for users without USAGE on the schema. */
static Oid
find_function(const char *name, oidvector *types)
{
	Oid schema = get_namespace_oid("mill_catalog", true);

	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, PointerGetDatum(name),
						   PointerGetDatum(types), ObjectIdGetDatum(schema));
}

/*
 * Replace a call with constant fixed width and constant origin by a call of
 * mill_catalog.fixed_start or fixed_end (time, width, origin).
 */
static Node *
simplify(FuncExpr *call, char *replacement)
{
	Oid types[3] = {call->funcresulttype, INT8OID, INT8OID};
	List *arguments = call->args;
	MillWidthKind kind;
	int64 width = constant_width(arguments, 1, &kind);
	Const *origin = constant_operand(arguments, 2);
	int64 origin_value = call->funcresulttype == INT8OID ? 0 : 2 * USECS_PER_DAY;
	Oid function;

	/* without a zone, days are 24 hours */
	if (kind == MILL_WIDTH_DAYS && call->funcresulttype == TIMESTAMPOID &&
		!pg_mul_s64_overflow(width, USECS_PER_DAY, &width))
		kind = MILL_WIDTH_FIXED;
	if (width == 0 || kind != MILL_WIDTH_FIXED || !zone_is_valid(arguments, 3))
		return NULL;
	if (origin != NULL)
		origin_value = DatumGetInt64(origin->constvalue);
	else if (!is_null_constant(arguments, 2))
		return NULL;
	if (call->funcresulttype != INT8OID && TIMESTAMP_NOT_FINITE(origin_value))
		return NULL;
	function = find_function(replacement, buildoidvector(types, 3));
	if (!OidIsValid(function))
		return NULL;
	origin_value %= width;
	return (Node *) makeFuncExpr(function, call->funcresulttype,
								 list_make3(linitial(arguments), bigint_constant(width),
											bigint_constant(origin_value < 0 ? origin_value + width
																			 : origin_value)),
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

static Datum
support_simplify(PG_FUNCTION_ARGS, char *replacement)
{
	Node *request = (Node *) PG_GETARG_POINTER(0);

	if (!IsA(request, SupportRequestSimplify))
		PG_RETURN_POINTER(NULL);
	PG_RETURN_POINTER(simplify(((SupportRequestSimplify *) request)->fcall, replacement));
}

PG_FUNCTION_INFO_V1(mill_window_start_support);
Datum
mill_window_start_support(PG_FUNCTION_ARGS)
{
	return support_simplify(fcinfo, "fixed_start");
}

PG_FUNCTION_INFO_V1(mill_window_end_of_support);
Datum
mill_window_end_of_support(PG_FUNCTION_ARGS)
{
	return support_simplify(fcinfo, "fixed_end");
}

/* A hop returns size / slide windows. */
PG_FUNCTION_INFO_V1(mill_hop_support);
Datum
mill_hop_support(PG_FUNCTION_ARGS)
{
	Node *node = (Node *) PG_GETARG_POINTER(0);
	SupportRequestRows *request = (SupportRequestRows *) node;
	MillWidthKind slide_kind;
	MillWidthKind size_kind;
	int64 slide;
	int64 size;

	if (!IsA(node, SupportRequestRows))
		PG_RETURN_POINTER(NULL);
	request->rows = UNKNOWN_HOP_ROWS;
	if (request->node != NULL && IsA(request->node, FuncExpr))
	{
		List *arguments = ((FuncExpr *) request->node)->args;

		slide = constant_width(arguments, 1, &slide_kind);
		size = constant_width(arguments, 2, &size_kind);
		if (slide > 0 && size > 0 && slide_kind == size_kind)
			request->rows = (size - 1) / slide + 1;
	}
	PG_RETURN_POINTER(request);
}

/* Nearly every time is finite; the planner's default would be a third. */
PG_FUNCTION_INFO_V1(mill_is_finite_support);
Datum
mill_is_finite_support(PG_FUNCTION_ARGS)
{
	Node *node = (Node *) PG_GETARG_POINTER(0);

	if (!IsA(node, SupportRequestSelectivity))
		PG_RETURN_POINTER(NULL);
	((SupportRequestSelectivity *) node)->selectivity = 1;
	PG_RETURN_POINTER(node);
}
