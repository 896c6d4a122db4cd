/*
 * type_input.c
 *		Used by all parsers: conversion by a type's own input function, and error
 *		messages.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "core/compat.h"
#include "decode/type.h"

/* Longest part of a value that is shown in a message. */
#define CLIP_BYTES 100

char *
mill_clip(const char *input, size_t length)
{
	int clipped = (int) length;

	if (length <= CLIP_BYTES)
		return pnstrdup(input, length);
	clipped = pg_mbcliplen(input, CLIP_BYTES + MAX_MULTIBYTE_CHAR_LEN, CLIP_BYTES);
	return psprintf("%.*s...", clipped, input);
}

/* Set *error; always returns false, for parsers to return. */
bool
mill_bad(MillDecodeError *error, int sqlerrcode, const char *format, ...)
{
	StringInfoData message;
	int needed;

	initStringInfo(&message);
	for (;;)
	{
		va_list args;

		va_start(args, format);
		needed = appendStringInfoVA(&message, format, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&message, needed);
	}
	error->sqlerrcode = sqlerrcode;
	error->message = message.data;
	error->detail = NULL;
	return false;
}

bool
mill_bad_syntax(MillDecodeError *error, const char *type, const char *input, size_t length)
{
	return mill_bad(error, ERRCODE_INVALID_TEXT_REPRESENTATION,
					"invalid input syntax for type %s: \"%s\"", type, mill_clip(input, length));
}

bool
mill_bad_range(MillDecodeError *error, const char *type, const char *input, size_t length)
{
	return mill_bad(error, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
					"value \"%s\" is out of range for type %s", mill_clip(input, length), type);
}

bool
mill_check_utf8(const char *input, size_t length, MillDecodeError *error)
{
	size_t valid = mill_utf8_prefix(input, length);

	if (valid == length)
		return true;
	return mill_bad(error, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
					"invalid byte sequence for encoding \"UTF8\": 0x%02x at byte %zu",
					(unsigned char) input[valid], valid + 1);
}

bool
mill_bad_json(MillDecodeError *error, const MillJsonError *fault, const char *data, size_t length)
{
	size_t from = fault->position;
	size_t left = length - from;

	switch (fault->fault)
	{
		case MILL_JSON_ENCODING:
			mill_bad(error, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE, "%s: 0x%02x at byte %zu",
					 fault->message, (unsigned char) data[from], from + 1);
			return false;
		case MILL_JSON_ZERO:
			mill_bad(error, ERRCODE_UNTRANSLATABLE_CHARACTER, "unsupported Unicode escape sequence");
			break;
		case MILL_JSON_LIMIT:
			mill_bad(error, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "JSON value exceeds a limit");
			break;
		case MILL_JSON_NOT_AN_OBJECT:
			mill_bad(error, ERRCODE_INVALID_TEXT_REPRESENTATION, "message is not a JSON object");
			break;
		case MILL_JSON_SYNTAX:
			mill_bad(error, ERRCODE_INVALID_TEXT_REPRESENTATION,
					 "invalid input syntax for type json");
			break;
	}

	/* the offending text may not be UTF-8 */
	left = mill_utf8_prefix(data + from, Min(left, 40));
	error->detail = psprintf("At byte %zu, %s%s%s%s.", from + 1, fault->message,
							 left > 0 ? ": \"" : "", pnstrdup(data + from, left),
							 left > 0 ? "\"" : "");
	if (length > 5 && data[0] == '\0')
		error->hint =
			"The value begins with the byte 0x00, as those of a schema registry do: four bytes of a schema's number follow, then"
			" the value. With format 'raw' a view can take it apart.";
	return false;
}

/* Convert by the type's input function, which gets a terminated copy. */
bool
mill_type_input(MillType *type, const char *input, size_t length, Datum *value,
				MillDecodeError *error)
{
	char *copy = pnstrdup(input, length);

	return mill_input_safely(&type->input, copy, type->ioparam, type->typmod, value,
							 &error->sqlerrcode, &error->message, &error->detail);
}
