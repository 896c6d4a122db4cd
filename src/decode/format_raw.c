/*
 * format_raw.c
 *		Format raw: one column takes the whole value.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "decode/format.h"

static void
open_raw(MillDecoder *decoder, TupleDesc desc)
{
}

static void
add_raw(MillDecoder *decoder, MillDecoderColumn *column)
{
}

static MillVerdict
read_raw(MillDecoder *decoder, const MillMessage *message, MillDecodeError *error)
{
	return MILL_ROW;
}

static bool
raw_field(MillDecoder *decoder, MillDecoderColumn *column, const MillMessage *message, Datum *value,
		  bool *isnull, MillDecodeError *error)
{
	MillType *type = column->type;
	const char *input = mill_message_value(message);
	size_t length = message->value_length;

	if (type->oid == BYTEAOID)
	{
		*value = PointerGetDatum(cstring_to_text_with_len(input, (int) length));
		return true;
	}
	return mill_check_utf8(input, length, error) && type->parse(type, input, length, value, error);
}

const MillFormat mill_format_raw = {
	.name = "raw",
	.one_field = true,
	.open = open_raw,
	.add = add_raw,
	.read = read_raw,
	.field = raw_field,
};
