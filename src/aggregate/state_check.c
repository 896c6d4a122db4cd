/*
 * state_check.c
 *		Check that bytes can be the partial state of a built-in aggregate whose
 *		transition type is internal.
 *
 * Everybody may call mill.final_state and mill.combine_state, as the views of
 * continuous aggregates run them with their readers' rights, and so anybody may
 * pass arbitrary bytes to them.  The deserialize functions of internal types
 * trust their input, because it comes from another process of the same query:
 * a number with a weight of -2^31 makes them write outside of their buffer.  So
 * each value is checked here first against what the serialize functions can
 * write.  Aggregates without a check here are not kept as partial states.
 *
 * Other transition types are read by their binary input functions, which check
 * their input.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/fmgroids.h"

#include "aggregate/state.h"

/* Digits are of base 10000, as in numeric.c. */
#define BASE 10000
#define BASE_DIGITS 4
#define SIGN_POSITIVE 0x0000
#define SIGN_NEGATIVE 0x4000

/*
 * The largest weights of sums: that of a numeric, or of its square, and what
 * the sum of 2^63 of them may add.
 */
#define NUMERIC_WEIGHT_LIMIT 32767
#define ROWS_WEIGHT 5
#define SUM_WEIGHT (NUMERIC_WEIGHT_LIMIT + ROWS_WEIGHT)
#define SQUARES_WEIGHT (2 * NUMERIC_WEIGHT_LIMIT + 1 + ROWS_WEIGHT)
#define INT128_WEIGHT 9
/* the most decimal places that a numeric can have */
#define SCALE_LIMIT 16383

/* No table has more rows; sums of several such counts do not overflow. */
#define COUNT_MAX (PG_INT64_MAX / 16)

static void
refuse_state(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
			 errmsg("stored aggregate state has an invalid value"),
			 errdetail_internal("%s", detail), errhint("Run mill.refresh to compute it anew.")));
}

/* The next bytes as a number, most significant byte first. */
static int64
take_bytes(StringInfo from, int bytes)
{
	uint64 value = 0;

	if (bytes > from->len - from->cursor)
		refuse_state("It ends within a value.");
	for (int i = 0; i < bytes; i++)
		value = value << 8 | (uint8) from->data[from->cursor++];
	return (int64) value;
}

static int32
take_int32(StringInfo from)
{
	return (int32) take_bytes(from, 4);
}

static int64
check_count(StringInfo from, int64 max)
{
	int64 count = take_bytes(from, 8);

	if (count < 0 || count > max)
		refuse_state("A count of rows is out of range.");
	return count;
}

/*
 * A sum as numericvar_serialize writes it: number of digits, weight of the
 * first one, sign, decimal places, digits.  Digits reach from the weight to the
 * decimal places at most; zero has none.
 */
static void
check_sum(StringInfo from, int max_weight, int max_scale)
{
	int32 count = take_int32(from);
	int32 weight = take_int32(from);
	int32 sign = take_int32(from);
	int32 scale = take_int32(from);
	int fraction;

	if (sign != SIGN_POSITIVE && sign != SIGN_NEGATIVE)
		refuse_state("A sum has an unknown sign.");
	if (scale < 0 || scale > max_scale)
		refuse_state("The decimal places of a sum are out of range.");
	fraction = (scale + BASE_DIGITS - 1) / BASE_DIGITS;
	if (weight < -fraction || weight > max_weight)
		refuse_state("The weight of a sum is out of range.");
	if (count < 0 || count > weight + 1 + fraction || (count == 0 && weight != 0))
		refuse_state("The number of digits of a sum is out of range.");
	for (int i = 0; i < count; i++)
	{
		int64 digit = take_bytes(from, sizeof(int16));

		if (digit >= BASE)
			refuse_state("A digit of a sum is out of range.");
	}
}

/* The same for a sum that is read into 128 bits. */
static void
check_int128(StringInfo from)
{
	/* 2^127 */
	static const int16 limit[INT128_WEIGHT + 1] = {170,	 1411, 8346, 469,  2317,
												   3168, 7303, 7158, 8410, 5728};
	StringInfoData again = *from;
	int count, weight;

	check_sum(from, INT128_WEIGHT, 0);
	count = take_int32(&again);
	weight = take_int32(&again);
	if (weight < INT128_WEIGHT)
		return;
	again.cursor += 2 * sizeof(int32);
	for (int i = 0; i <= INT128_WEIGHT; i++)
	{
		int digit = i < count ? (int) take_bytes(&again, sizeof(int16)) : 0;

		if (digit < limit[i])
			return;
		if (digit > limit[i])
			break;
	}
	refuse_state("A sum does not fit into 128 bits.");
}

/* What follows the sums of numerics: the largest scale, and counts of special values. */
static void
check_numeric_tail(StringInfo from, int64 rows)
{
	int32 scale = take_int32(from);

	if (scale < 0 || scale > SCALE_LIMIT)
		refuse_state("The largest number of decimal places is out of range.");
	(void) check_count(from, rows);		 /* that have this scale */
	(void) check_count(from, COUNT_MAX); /* NaN */
	(void) check_count(from, COUNT_MAX); /* Infinity */
	(void) check_count(from, COUNT_MAX); /* -Infinity */
}

/* avg and sum of numeric */
static void
check_numeric_avg(StringInfo from)
{
	int64 rows = check_count(from, COUNT_MAX);

	check_sum(from, SUM_WEIGHT, SCALE_LIMIT);
	check_numeric_tail(from, rows);
}

/* variance and standard deviation of numeric and bigint */
static void
check_numeric(StringInfo from)
{
	int64 rows = check_count(from, COUNT_MAX);

	check_sum(from, SUM_WEIGHT, SCALE_LIMIT);
	check_sum(from, SQUARES_WEIGHT, 2 * SCALE_LIMIT);
	check_numeric_tail(from, rows);
}

/* avg and sum of bigint */
static void
check_int8_avg(StringInfo from)
{
	(void) check_count(from, COUNT_MAX);
	check_int128(from);
}

/* variance and standard deviation of integer and smallint */
static void
check_numeric_poly(StringInfo from)
{
	(void) check_count(from, COUNT_MAX);
	check_int128(from);
	check_int128(from);
}

#ifdef F_INTERVAL_AVG_DESERIALIZE
/* avg and sum of interval, whose transition type is internal since version 17 */
static void
check_interval_avg(StringInfo from)
{
	int64 time;
	int32 day, month;

	(void) check_count(from, COUNT_MAX);
	time = take_bytes(from, 8);
	day = take_int32(from);
	month = take_int32(from);
	/* infinite values are counted, not summed */
	if ((time == PG_INT64_MAX && day == PG_INT32_MAX && month == PG_INT32_MAX) ||
		(time == PG_INT64_MIN && day == PG_INT32_MIN && month == PG_INT32_MIN))
		refuse_state("A sum of finite intervals is infinite.");
	(void) check_count(from, COUNT_MAX); /* infinity */
	(void) check_count(from, COUNT_MAX); /* -infinity */
}
#endif

typedef void (*StateCheck)(StringInfo from);

/* The check for the input of this deserialize function, or NULL if there is none. */
static StateCheck
find_check(Oid deserialize)
{
	switch (deserialize)
	{
		case F_NUMERIC_AVG_DESERIALIZE:
			return check_numeric_avg;
		case F_NUMERIC_DESERIALIZE:
			return check_numeric;
		case F_INT8_AVG_DESERIALIZE:
			return check_int8_avg;
		case F_NUMERIC_POLY_DESERIALIZE:
			return check_numeric_poly;
#ifdef F_INTERVAL_AVG_DESERIALIZE
		case F_INTERVAL_AVG_DESERIALIZE:
			return check_interval_avg;
#endif
		default:
			return NULL;
	}
}

/* Can what this function reads be checked, and so be stored? */
bool
mill_state_has_check(Oid deserialize)
{
	return find_check(deserialize) != NULL;
}

/* Raise an error unless the bytes are safe to pass to the deserialize function. */
void
mill_state_check(Oid deserialize, StringInfo payload)
{
	StringInfoData from = *payload;

	from.cursor = 0;
	find_check(deserialize)(&from);
	if (from.cursor != from.len)
		refuse_state("There are bytes left behind the last value.");
}
