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

#include "core/compat.h"

PG_FUNCTION_INFO_V1(mill_finite_part);
PG_FUNCTION_INFO_V1(mill_special_part);
PG_FUNCTION_INFO_V1(mill_scale_part);
PG_FUNCTION_INFO_V1(mill_sum_of_parts);

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

/* The number of decimal digits of a whole number that is not negative; 1 of zero. */
static int
decimal_digits(Datum value)
{
	/* its binary form: number of digits to the base 10000, weight of the first, sign, scale, digits */
	const unsigned char *sent = (const unsigned char *) VARDATA_ANY(
		DatumGetByteaPP(DirectFunctionCall1(numeric_send, value)));
	int ndigits = sent[0] << 8 | sent[1];
	int weight = (int16) (sent[2] << 8 | sent[3]);
	int first;

	if (ndigits == 0 || weight < 0)
		return 1;
	first = sent[8] << 8 | sent[9];
	return weight * 4 + (first >= 1000 ? 4 : first >= 100 ? 3 : first >= 10 ? 2 : 1);
}

/* What NaN and infinities among the inputs make of a sum: see mill.special_part. */
static Datum
special_sum(Datum specials)
{
	Datum infinite = NumericGetDatum(power_of_ten(36));
	bool is_negative = DatumGetBool(DirectFunctionCall2(numeric_ge, specials, infinite));
	Datum unit = is_negative ? infinite : NumericGetDatum(power_of_ten(18));
	Datum rest = DirectFunctionCall2(numeric_mod, specials, unit);
	bool is_one_kind = DatumGetBool(
		DirectFunctionCall2(numeric_eq, rest, NumericGetDatum(int64_to_numeric(0))));
	const char *text = !is_one_kind ? "NaN" : is_negative ? "-Infinity" : "Infinity";

	return DirectFunctionCall3(numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
							   Int32GetDatum(-1));
}

/* In fn_extra: the scale of the last call, and its part and that of the next scale. */
typedef struct LastScale
{
	Numeric zero;
	int scale;
	Numeric least, next;
} LastScale;

static void
keep_scale(LastScale *last, int scale)
{
	if (last->least)
	{
		pfree(last->least);
		pfree(last->next);
	}
	last->scale = scale;
	last->least = power_of_ten(DIGITS_PER_SCALE * scale);
	last->next = power_of_ten(DIGITS_PER_SCALE * (scale + 1));
}

/* The largest scale of an input: that of the last call, or counted from the digits. */
static int
largest_scale(LastScale *last, Numeric scales, MemoryContext context)
{
	Datum value = NumericGetDatum(scales);
	MemoryContext before;

	if (last->least &&
		DatumGetBool(DirectFunctionCall2(numeric_ge, value, NumericGetDatum(last->least))) &&
		DatumGetBool(DirectFunctionCall2(numeric_lt, value, NumericGetDatum(last->next))))
		return last->scale;
	before = MemoryContextSwitchTo(context);
	keep_scale(last, Min((decimal_digits(value) - 1) / DIGITS_PER_SCALE, LARGEST_SCALE));
	MemoryContextSwitchTo(before);
	return last->scale;
}

static LastScale *
last_scale(FmgrInfo *function)
{
	if (function->fn_extra == NULL)
	{
		MemoryContext before = MemoryContextSwitchTo(function->fn_mcxt);
		LastScale *last = function->fn_extra = palloc0(sizeof(LastScale));

		last->zero = int64_to_numeric(0);
		MemoryContextSwitchTo(before);
	}
	return function->fn_extra;
}

/* Zero in the only form in which sums of whole numbers have it; without unpacking the value. */
static bool
is_zero(Datum value, Numeric zero)
{
	const struct varlena *packed = PG_DETOAST_DATUM_PACKED(value);

	return VARSIZE_ANY_EXHDR(packed) == VARSIZE_ANY_EXHDR(zero) &&
		   memcmp(VARDATA_ANY(packed), VARDATA_ANY(zero), VARSIZE_ANY_EXHDR(zero)) == 0;
}

/*
 * SQL: mill.sum_of_parts(sum, scales, specials): the sum of the inputs that these are the sums
 * of parts of, in the largest scale of an input, as core's sum has it.  The arguments are
 * sums of mill.finite_part, mill.scale_part and mill.special_part.
 */
Datum
mill_sum_of_parts(PG_FUNCTION_ARGS)
{
	LastScale *last = last_scale(fcinfo->flinfo);
	Numeric sum;
	int scale;

	if (!is_zero(PG_GETARG_DATUM(2), last->zero) &&
		!DatumGetBool(
			DirectFunctionCall2(numeric_eq, PG_GETARG_DATUM(2), NumericGetDatum(last->zero))))
		PG_RETURN_DATUM(special_sum(PG_GETARG_DATUM(2)));
	sum = PG_GETARG_NUMERIC(0);
	if (!is_finite(sum))
		PG_RETURN_NUMERIC(sum);
	scale = largest_scale(last, PG_GETARG_NUMERIC(1), fcinfo->flinfo->fn_mcxt);
	if (DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(sum))) == scale)
		PG_RETURN_NUMERIC(sum);
	PG_RETURN_DATUM(DirectFunctionCall2(numeric_round, NumericGetDatum(sum), Int32GetDatum(scale)));
}
