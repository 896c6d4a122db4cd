/*
 * parse_text.c
 *		Direct parsers: character types, bytea, json and jsonb.
 *
 * The input is valid UTF-8 without a zero byte, and the database's encoding is
 * UTF-8.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "core/compat.h"
#include "decode/json_lex.h"
#include "decode/type.h"

static bool
parse_text(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	char *result = palloc(VARHDRSZ + length);

	SET_VARSIZE(result, VARHDRSZ + length);
	memcpy(VARDATA(result), input, length);
	*value = PointerGetDatum(result);
	return true;
}

/*
 * Cut to the first max characters; false if more than blanks would be lost.
 */
static bool
truncate_text(const char *input, size_t *length, int max)
{
	size_t kept = pg_mbcharcliplen(input, (int) *length, max);

	for (size_t i = kept; i < *length; i++)
	{
		if (input[i] != ' ')
			return false;
	}
	*length = kept;
	return true;
}

static bool
parse_varchar(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	int max = type->typmod - VARHDRSZ;

	if (type->typmod >= (int32) VARHDRSZ && length > max && !truncate_text(input, &length, max))
		return mill_bad(error, ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
						"value too long for type character varying(%d)", max);
	return parse_text(type, input, length, value, error);
}

static bool
parse_bpchar(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	int max = type->typmod - VARHDRSZ;
	int blanks;
	char *result;

	if (type->typmod < (int32) VARHDRSZ)
		return parse_text(type, input, length, value, error);
	if (length > max && !truncate_text(input, &length, max))
		return mill_bad(error, ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
						"value too long for type character(%d)", max);
	blanks = max - pg_mbstrlen_with_len(input, (int) length);
	result = palloc(VARHDRSZ + length + blanks);
	SET_VARSIZE(result, VARHDRSZ + length + blanks);
	memcpy(VARDATA(result), input, length);
	memset(VARDATA(result) + length, ' ', blanks);
	*value = PointerGetDatum(result);
	return true;
}

static bool
parse_name(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	Name result = palloc0(NAMEDATALEN);

	if (length >= NAMEDATALEN)
		length = pg_mbcliplen(input, (int) length, NAMEDATALEN - 1);
	memcpy(NameStr(*result), input, length);
	*value = NameGetDatum(result);
	return true;
}

/* ---- bytea ---- */

/* Hex format: after \x pairs of digits, white space between pairs. */
static bool
read_hex(const char *p, const char *end, char **out, MillDecodeError *error)
{
	while (p < end)
	{
		int high;
		int low;

		if (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')
		{
			p++;
			continue;
		}
		high = mill_hex_digit(*p);
		if (high >= 0 && end - p < 2)
			return mill_bad(error, ERRCODE_INVALID_PARAMETER_VALUE,
							"invalid hexadecimal data: odd number of digits");
		low = high >= 0 ? mill_hex_digit(p[1]) : -1;
		if (low < 0)
		{
			const char *wrong = high < 0 ? p : p + 1;

			return mill_bad(error, ERRCODE_INVALID_PARAMETER_VALUE,
							"invalid hexadecimal digit: \"%s\"",
							pnstrdup(wrong, pg_utf_mblen((const unsigned char *) wrong)));
		}
		*(*out)++ = (char) (high * 16 + low);
		p += 2;
	}
	return true;
}

/* Escape format: \\ and backslash with three octal digits. */
static bool
read_escapes(const char *p, const char *end, char **out, MillDecodeError *error)
{
	while (p < end)
	{
		if (*p != '\\')
			*(*out)++ = *p++;
		else if (end - p >= 4 && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' &&
				 p[3] >= '0' && p[3] <= '7')
		{
			*(*out)++ = (char) ((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
			p += 4;
		}
		else if (end - p >= 2 && p[1] == '\\')
		{
			*(*out)++ = '\\';
			p += 2;
		}
		else
			return mill_bad(error, ERRCODE_INVALID_TEXT_REPRESENTATION,
							"invalid input syntax for type %s", "bytea");
	}
	return true;
}

static bool
parse_bytea(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	char *result = palloc(VARHDRSZ + length);
	char *out = VARDATA(result);
	const char *end = input + length;

	if (length >= 2 && input[0] == '\\' && input[1] == 'x')
	{
		if (!read_hex(input + 2, end, &out, error))
			return false;
	}
	else if (!read_escapes(input, end, &out, error))
		return false;
	SET_VARSIZE(result, out - result);
	*value = PointerGetDatum(result);
	return true;
}

/* ---- json, jsonb ---- */

static bool
parse_json(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	MillJsonSpan span;
	MillJsonError fault;

	if (!mill_json_check(input, length, &span, &fault))
		return mill_bad_json(error, &fault, input, length);
	return mill_json_to_type(type, input, length, value);
}

MillParse
mill_text_parser(Oid oid)
{
	switch (oid)
	{
		case TEXTOID:
			return parse_text;
		case VARCHAROID:
			return parse_varchar;
		case BPCHAROID:
			return parse_bpchar;
		case NAMEOID:
			return parse_name;
		case BYTEAOID:
			return parse_bytea;
		case JSONOID:
		case JSONBOID:
			return parse_json;
	}
	return NULL;
}
