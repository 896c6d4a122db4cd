/*
 * parse_scalar.c
 *		Direct parsers: numbers, bool, uuid.
 *
 * Each returns what the type's input function does.  A text that is not in the
 * usual form, but that the input function might accept, is passed to it; what
 * it certainly rejects is rejected here, without raising an error.
 */
#include "postgres.h"

#include <ctype.h>
#include <math.h>

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/numeric.h"
#include "utils/uuid.h"

#include "decode/json_lex.h"
#include "decode/type.h"

static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') < 10;
}

/* Strip the white space that input functions ignore. */
static void
trim(const char **input, size_t *length)
{
	while (*length > 0 && isspace((unsigned char) **input))
	{
		(*input)++;
		(*length)--;
	}
	while (*length > 0 && isspace((unsigned char) (*input)[*length - 1]))
		(*length)--;
}

static bool
parse_boolean(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	const char *word = input;
	size_t left = length;
	bool result;

	trim(&word, &left);
	if (!parse_bool_with_len(word, left, &result))
		return mill_bad_syntax(error, "boolean", input, length);
	*value = BoolGetDatum(result);
	return true;
}

/* ---- integers ---- */

/*
 * Read a decimal integer in the range min .. -(min + 1).  False if it is not:
 * *large is set if it is an integer, but out of range.
 */
static inline bool
read_integer(const char *p, const char *end, int64 min, int64 *value, bool *large)
{
	bool negative = p < end && *p == '-';
	const char *digits;
	int64 sum = 0;

	/* counts downwards, because the most negative number has no positive counterpart */
	if (p < end && (*p == '-' || *p == '+'))
		p++;
	for (digits = p; p < end && is_digit(*p); p++)
	{
		if (likely(p - digits < 18))
			sum = sum * 10 - (*p - '0');
		else if (pg_mul_s64_overflow(sum, 10, &sum) || pg_sub_s64_overflow(sum, *p - '0', &sum))
		{
			*large = true;
			return false;
		}
	}
	*large = sum < min || (p == end && !negative && sum == min);
	*value = negative || *large ? sum : -sum;
	return p > digits && p == end && !*large;
}

/*
 * Not a plain integer in range: it may have white space around it, or be 0x1F
 * or 1_000, which later versions accept.  Of two errors the one of the input
 * functions is chosen: out of range before malformed.
 */
static pg_noinline bool
other_integer(MillType *type, const char *input, size_t length, int64 min, const char *name,
			  Datum *value, MillDecodeError *error)
{
	const char *word = input;
	size_t left = length;
	int64 number;
	bool large;

	trim(&word, &left);
	if (read_integer(word, word + left, min, &number, &large))
		return mill_type_input(type, input, length, value, error);
	for (size_t i = 1; i < left; i++)
	{
		if (is_digit(word[i - 1]) &&
			(word[i] == '_' || (word[i - 1] == '0' && isalpha((unsigned char) word[i]))))
			return mill_type_input(type, input, length, value, error);
	}
	return large ? mill_bad_range(error, name, input, length)
				 : mill_bad_syntax(error, name, input, length);
}

static bool
parse_int2(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	int64 number;
	bool large;

	if (!read_integer(input, input + length, PG_INT16_MIN, &number, &large))
		return other_integer(type, input, length, PG_INT16_MIN, "smallint", value, error);
	*value = Int16GetDatum((int16) number);
	return true;
}

static bool
parse_int4(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	int64 number;
	bool large;

	if (!read_integer(input, input + length, PG_INT32_MIN, &number, &large))
		return other_integer(type, input, length, PG_INT32_MIN, "integer", value, error);
	*value = Int32GetDatum((int32) number);
	return true;
}

static bool
parse_int8(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	int64 number;
	bool large;

	if (!read_integer(input, input + length, PG_INT64_MIN, &number, &large))
		return other_integer(type, input, length, PG_INT64_MIN, "bigint", value, error);
	*value = Int64GetDatum(number);
	return true;
}

/* ---- numbers with a fraction ---- */

typedef struct Decimal
{
	int64 digits; /* all digits, without the point */
	int count;
	int fraction; /* how many are after the point */
	bool negative;
} Decimal;

/* Read a number of at most 18 digits without an exponent. */
static bool
read_decimal(const char *input, size_t length, Decimal *decimal)
{
	const char *p = input;
	const char *end = input + length;
	int64 sum = 0;
	const char *digits;

	decimal->fraction = 0;
	decimal->negative = p < end && *p == '-';
	if (decimal->negative)
		p++;
	if (end - p > 19)
		return false;
	for (digits = p; p < end && is_digit(*p); p++)
		sum = sum * 10 + (*p - '0');
	decimal->count = (int) (p - digits);
	if (decimal->count == 0)
		return false;
	if (p < end && *p == '.')
	{
		for (digits = ++p; p < end && is_digit(*p); p++)
			sum = sum * 10 + (*p - '0');
		decimal->fraction = (int) (p - digits);
		decimal->count += decimal->fraction;
	}
	decimal->digits = sum;
	return p == end && decimal->count <= 18;
}

/* Might the input function of a floating-point type accept this? */
static bool
may_be_float(const char *input, size_t length)
{
	trim(&input, &length);
	return length > 0 && strchr("+-.0123456789nNiI", *input) != NULL;
}

/* Is it a number that strtod reads to its end?  The text must be terminated. */
static bool
is_plain_number(const char *p)
{
	p += *p == '-';
	if (!is_digit(*p))
		return false;
	return strspn(p, "0123456789.eE+-") == strlen(p);
}

static bool
parse_float8(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	static const double powers[] = {1e0, 1e1, 1e2,	1e3,  1e4,	1e5,  1e6,	1e7,
									1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
	Decimal decimal;
	char *copy;
	char *end;
	double result;

	/* both numbers are exact, so the quotient is correctly rounded */
	if (read_decimal(input, length, &decimal) && decimal.count <= 15)
	{
		result = (double) decimal.digits / powers[decimal.fraction];
		*value = Float8GetDatum(decimal.negative ? -result : result);
		return true;
	}
	if (!may_be_float(input, length))
		return mill_bad_syntax(error, "double precision", input, length);
	copy = pnstrdup(input, length);
	if (!is_plain_number(copy))
		return mill_type_input(type, input, length, value, error);
	errno = 0;
	result = strtod(copy, &end);
	if (*end != '\0')
		return mill_bad_syntax(error, "double precision", input, length);
	if (errno == ERANGE && (result == 0.0 || isinf(result)))
		return mill_bad(error, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
						"\"%s\" is out of range for type double precision",
						mill_clip(input, length));
	*value = Float8GetDatum(result);
	return true;
}

static bool
parse_float4(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	char *copy;
	char *end;
	float result;

	if (!may_be_float(input, length))
		return mill_bad_syntax(error, "real", input, length);
	copy = pnstrdup(input, length);
	if (!is_plain_number(copy))
		return mill_type_input(type, input, length, value, error);
	errno = 0;
	result = strtof(copy, &end);
	if (*end != '\0')
		return mill_bad_syntax(error, "real", input, length);
	if (errno == ERANGE && (result == 0.0f || isinf(result)))
		return mill_bad(error, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
						"\"%s\" is out of range for type real", mill_clip(input, length));
	*value = Float4GetDatum(result);
	return true;
}

/* A type modifier as packed by numeric.c: the scale has eleven bits and a sign. */
static inline int
typmod_precision(int32 typmod)
{
	return ((typmod - VARHDRSZ) >> 16) & 0xFFFF;
}

static inline int
typmod_scale(int32 typmod)
{
	return (((typmod - VARHDRSZ) & 0x7FF) ^ 1024) - 1024;
}

/* Give the number the scale of the type, if no digits are lost. */
static bool
fits_typmod(int32 typmod, Decimal *decimal)
{
	static const int64 powers[] = {INT64CONST(1),	   INT64CONST(10),	  INT64CONST(100),
								   INT64CONST(1000),   INT64CONST(10000), INT64CONST(100000),
								   INT64CONST(1000000)};
	int scale = typmod_scale(typmod);
	int more = scale - decimal->fraction;

	if (typmod < (int32) VARHDRSZ)
		return true;
	if (scale < 0 || more < 0 || more >= lengthof(powers) || decimal->count + more > 18 ||
		decimal->count - decimal->fraction > typmod_precision(typmod) - scale)
		return false;
	decimal->digits *= powers[more];
	decimal->fraction = scale;
	return true;
}

/* Is a plain number too large even before rounding? */
static bool
overflows_typmod(int32 typmod, const char *input, size_t length)
{
	const char *p = input;
	const char *end = input + length;
	const char *digits;
	int whole;

	if (typmod < (int32) VARHDRSZ)
		return false;
	if (p < end && *p == '-')
		p++;
	while (p < end && *p == '0')
		p++;
	for (digits = p; p < end && is_digit(*p); p++)
		;
	whole = (int) Min(p - digits, MILL_JSON_MAX_DIGITS);
	if (p < end && *p == '.')
	{
		for (p++; p < end && is_digit(*p); p++)
			;
	}
	return p == end && whole > 0 && whole > typmod_precision(typmod) - typmod_scale(typmod);
}

static bool
parse_numeric(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	const char *word = input;
	size_t left = length;
	Decimal decimal;

	if (read_decimal(input, length, &decimal) && fits_typmod(type->typmod, &decimal))
	{
		*value = NumericGetDatum(
			int64_div_fast_to_numeric(decimal.negative ? -decimal.digits : decimal.digits,
									  decimal.fraction));
		return true;
	}
	if (overflows_typmod(type->typmod, input, length))
	{
		mill_bad(error, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "numeric field overflow");
		error->detail = psprintf("A field with precision %d, scale %d cannot hold \"%s\".",
								 typmod_precision(type->typmod), typmod_scale(type->typmod),
								 mill_clip(input, length));
		return false;
	}
	trim(&word, &left);
	if (left == 0 || strchr("+-.0123456789nNiI", *word) == NULL)
		return mill_bad_syntax(error, "numeric", input, length);

	/* a string must not contain a number that JSON would not allow */
	for (size_t i = 0, digits = 0, exponent = 0; i < left; i++)
	{
		if (is_digit(word[i]))
			digits++;
		if (is_digit(word[i]) && i > 0 && exponent > 0 && exponent <= MILL_JSON_MAX_DIGITS)
			exponent = exponent * 10 + (word[i] - '0');
		if (word[i] == 'e' || word[i] == 'E')
			exponent = 1;
		if (digits > MILL_JSON_MAX_DIGITS ||
			exponent > 10 * MILL_JSON_MAX_DIGITS + MILL_JSON_MAX_DIGITS)
			return mill_bad(error, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							"number \"%s\" has more than %d digits", mill_clip(word, left),
							MILL_JSON_MAX_DIGITS);
	}
	return mill_type_input(type, input, length, value, error);
}

/* ---- uuid ---- */

/* Pairs of digits, a hyphen after any even pair, optionally all in braces. */
static bool
parse_uuid(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	pg_uuid_t *uuid = palloc(sizeof(pg_uuid_t));
	const char *p = input;
	const char *end = input + length;

	if (length >= 2 && *p == '{' && end[-1] == '}')
	{
		p++;
		end--;
	}
	for (int i = 0; i < UUID_LEN; i++)
	{
		int high = end - p >= 2 ? mill_hex_digit(p[0]) : -1;
		int low = high >= 0 ? mill_hex_digit(p[1]) : -1;

		if (low < 0)
			return mill_bad_syntax(error, "uuid", input, length);
		uuid->data[i] = (unsigned char) (high * 16 + low);
		p += 2;
		if (p < end && *p == '-' && i % 2 == 1 && i < UUID_LEN - 1)
			p++;
	}
	if (p != end)
		return mill_bad_syntax(error, "uuid", input, length);
	*value = UUIDPGetDatum(uuid);
	return true;
}

MillParse
mill_scalar_parser(Oid oid, int32 typmod)
{
	switch (oid)
	{
		case BOOLOID:
			return parse_boolean;
		case INT2OID:
			return parse_int2;
		case INT4OID:
			return parse_int4;
		case INT8OID:
			return parse_int8;
		case FLOAT4OID:
			return parse_float4;
		case FLOAT8OID:
			return parse_float8;
		case NUMERICOID:
			return parse_numeric;
		case UUIDOID:
			return parse_uuid;
	}
	return NULL;
}
