/*
 * numeric_parts.c
 *		What the sums of numerics that can be subtracted are made of.
 *
 * Of each input, three numbers, each kept as a sum of its own: the value if it is
 * finite, a mark if it is not, and a mark of its scale.  measure.c says how results
 * are made from them.  They are called for each row, so each is one call and
 * no comparison.  In any backend; results are the argument or in the caller's context.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

PG_FUNCTION_INFO_V1(mill_finite_part);
PG_FUNCTION_INFO_V1(mill_special_part);
PG_FUNCTION_INFO_V1(mill_scale_part);

/* Larger scales count as this: numerics of a hundred thousand digits cost more than they tell. */
#define LARGEST_SCALE 7000
/* Digits in which the inputs of one scale are counted. */
#define DIGITS_PER_SCALE 18

static Numeric
power_of_ten(int exponent)
{
	char text[16];

	snprintf(text, sizeof(text), "1e%d", exponent);
	return DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text),
											   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

static bool
is_finite(Numeric value)
{
	return !numeric_is_nan(value) && !numeric_is_inf(value);
}

/* SQL: mill.finite_part(numeric): the value; NULL if it is NaN or infinite. */
Datum
mill_finite_part(PG_FUNCTION_ARGS)
{
	if (!is_finite(PG_GETARG_NUMERIC(0)))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/*
 * SQL: mill.special_part(numeric): NULL if the value is finite, else 1 for NaN,
 * 1e18 for Infinity, 1e36 for -Infinity.
 */
Datum
mill_special_part(PG_FUNCTION_ARGS)
{
	Numeric value = PG_GETARG_NUMERIC(0);

	if (is_finite(value))
		PG_RETURN_NULL();
	if (numeric_is_nan(value))
		PG_RETURN_NUMERIC(int64_to_numeric(1));
	PG_RETURN_NUMERIC(DatumGetBool(DirectFunctionCall2(numeric_gt, NumericGetDatum(value),
													   NumericGetDatum(int64_to_numeric(0))))
						  ? power_of_ten(18)
						  : power_of_ten(36));
}

/* In fn_extra: the last result.  The values of a column mostly have one scale. */
typedef struct ScaleMark
{
	int scale;
	Numeric mark;
} ScaleMark;

/* SQL: mill.scale_part(numeric): 10^(18 * scale); NULL if the value is not finite. */
Datum
mill_scale_part(PG_FUNCTION_ARGS)
{
	Numeric value = PG_GETARG_NUMERIC(0);
	ScaleMark *last = fcinfo->flinfo->fn_extra;
	MemoryContext before;
	Numeric mark;
	int scale;

	if (!is_finite(value))
		PG_RETURN_NULL();
	scale = DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(value)));
	scale = Min(scale, LARGEST_SCALE);
	if (last && last->scale == scale)
		PG_RETURN_NUMERIC(last->mark);

	before = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	mark = power_of_ten(DIGITS_PER_SCALE * scale);
	if (last)
		pfree(last->mark);
	else
		last = fcinfo->flinfo->fn_extra = palloc(sizeof(ScaleMark));
	last->scale = scale;
	last->mark = mark;
	MemoryContextSwitchTo(before);
	PG_RETURN_NUMERIC(last->mark);
}
