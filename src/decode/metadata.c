/*
 * metadata.c
 *		Columns that are not fields of a message's value.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "decode/type.h"

PG_FUNCTION_INFO_V1(mill_headers_to_jsonb);

/* The types that each kind of column can have; the first is suggested in hints. */
static const struct
{
	const char *name;
	Oid types[3];
} kinds[] = {
	[MILL_COLUMN_FIELD] = {"", {InvalidOid}},
	[MILL_COLUMN_KEY] = {"key", {InvalidOid}},
	[MILL_COLUMN_KEY_TEXT] = {"key_text", {TEXTOID, VARCHAROID}},
	[MILL_COLUMN_HEADERS] = {"headers", {JSONBOID}},
	[MILL_COLUMN_TIMESTAMP] = {"timestamp", {TIMESTAMPTZOID, TIMESTAMPOID}},
	[MILL_COLUMN_PARTITION] = {"partition", {INT4OID, INT8OID}},
	[MILL_COLUMN_OFFSET] = {"offset", {INT8OID}},
	[MILL_COLUMN_TOPIC] = {"topic", {TEXTOID, VARCHAROID}},
	[MILL_COLUMN_PAYLOAD] = {"payload", {BYTEAOID}},
};

/* Raise an error if a column of this kind cannot have this type. */
void
mill_metadata_check(const MillColumn *column, Form_pg_attribute attribute)
{
	const Oid *types = kinds[column->kind].types;

	if (!OidIsValid(types[0]))
		return;
	for (int i = 0; i < lengthof(kinds[0].types); i++)
	{
		if (OidIsValid(types[i]) && types[i] == attribute->atttypid)
			return;
	}
	ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
					errmsg("column \"%s\" for metadata '%s' cannot be of type %s",
						   NameStr(attribute->attname), kinds[column->kind].name,
						   format_type_be(attribute->atttypid)),
					errhint("Use type %s.", format_type_be(types[0]))));
}

/* ---- headers ---- */

/*
 * Append a string to JSON; bytes that are not text are written as \x and
 * hexadecimal digits, like bytea.
 */
static void
append_string(StringInfo json, const char *bytes, size_t length)
{
	static const char digits[] = "0123456789abcdef";

	if (mill_utf8_prefix(bytes, length) == length)
	{
		escape_json(json, pnstrdup(bytes, length));
		return;
	}
	appendStringInfoString(json, "\"\\\\x");
	for (size_t i = 0; i < length; i++)
	{
		appendStringInfoChar(json, digits[(unsigned char) bytes[i] >> 4]);
		appendStringInfoChar(json, digits[bytes[i] & 15]);
	}
	appendStringInfoChar(json, '"');
}

/* A header as protocol.h encodes it. */
typedef struct Header
{
	const char *name;
	size_t name_length;
	const char *value;
	int32_t value_length; /* -1: null */
} Header;

/* Read the header at *at; false at the end, and if it is not valid. */
static bool
next_header(const char **at, const char *end, Header *header)
{
	uint32_t name_length;

	if (end - *at < (ptrdiff_t) sizeof(name_length))
		return false;
	memcpy(&name_length, *at, sizeof(name_length));
	header->name = *at + sizeof(name_length);
	header->name_length = name_length;
	if (end - header->name < (ptrdiff_t) (name_length + sizeof(header->value_length)))
		return false;
	memcpy(&header->value_length, header->name + name_length, sizeof(header->value_length));
	header->value = header->name + name_length + sizeof(header->value_length);
	if (end - header->value < header->value_length)
		return false;
	*at = header->value + Max(header->value_length, 0);
	return true;
}

/* Length of the headers that fit completely into limit bytes. */
int
mill_headers_fitting(const char *encoded, int length, int limit)
{
	const char *at = encoded;
	const char *before = encoded;
	Header header;

	while (at - encoded <= limit && next_header(&at, encoded + length, &header))
	{
		if (at - encoded <= limit)
			before = at;
	}
	return (int) (before - encoded);
}

/* Encoded headers (protocol.h) as jsonb, up to the first that is not valid. */
static Datum
make_headers(const char *p, size_t encoded_length)
{
	const char *end = p + encoded_length;
	StringInfoData json;
	Header header;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	while (next_header(&p, end, &header))
	{
		if (json.len > 1)
			appendStringInfoString(&json, ", ");
		appendStringInfoString(&json, "{\"name\": ");
		append_string(&json, header.name, header.name_length);
		appendStringInfoString(&json, ", \"value\": ");
		if (header.value_length >= 0)
			append_string(&json, header.value, header.value_length);
		else
			appendStringInfoString(&json, "null");
		appendStringInfoChar(&json, '}');
	}
	appendStringInfoChar(&json, ']');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/*
 * SQL: mill_catalog.headers_to_jsonb(bytea), for the views: headers as dead
 * letters store them, in the gateway's encoding.  Never raises an error, because
 * one letter must not hide the others; of longer input than a letter can store
 * it shows the beginning.
 */
Datum
mill_headers_to_jsonb(PG_FUNCTION_ARGS)
{
	bytea *encoded = PG_GETARG_BYTEA_PP(0);
	int length = VARSIZE_ANY_EXHDR(encoded);

	PG_RETURN_DATUM(
		make_headers(VARDATA_ANY(encoded),
					 mill_headers_fitting(VARDATA_ANY(encoded), length, MILL_KEPT_BYTES)));
}

/* ---- the others ---- */

bool
mill_message_time(const MillMessage *message, TimestampTz *time)
{
	int64 zero = (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * INT64CONST(86400000);

	/* producers can send anything */
	if (message->timestamp_ms < 0 || message->timestamp_ms > END_TIMESTAMP / 1000)
		return false;
	*time = (message->timestamp_ms - zero) * 1000;
	return true;
}

static bool
make_produced_at(const MillMessage *message, MillType *type, Datum *value, MillDecodeError *error)
{
	TimestampTz time;

	if (!mill_message_time(message, &time))
		return mill_bad(error, ERRCODE_DATETIME_VALUE_OUT_OF_RANGE,
						"message timestamp out of range: %lld", (long long) message->timestamp_ms);
	*value = TimestampTzGetDatum(time);
	if (type->oid == TIMESTAMPOID)
		*value = DirectFunctionCall1(timestamptz_timestamp, *value);
	return true;
}

static Datum
make_bytea(const char *bytes, size_t length)
{
	return PointerGetDatum(cstring_to_text_with_len(bytes, (int) length));
}

static bool
make_key(const MillMessage *message, MillType *type, Datum *value, MillDecodeError *error)
{
	const char *key = mill_message_key(message);
	size_t length = message->key_length;

	if (type->oid == BYTEAOID)
	{
		*value = make_bytea(key, length);
		return true;
	}
	return mill_check_utf8(key, length, error) && type->parse(type, key, length, value, error);
}

bool
mill_metadata_value(MillColumnKind kind, const MillLayout *layout, MillType *type,
					const MillMessage *message, Datum *value, bool *isnull, MillDecodeError *error)
{
	*isnull = false;
	switch (kind)
	{
		case MILL_COLUMN_KEY:
		case MILL_COLUMN_KEY_TEXT:
			*isnull = message->key_length < 0;
			return *isnull || make_key(message, type, value, error);
		case MILL_COLUMN_HEADERS:
			*value = make_headers(mill_message_headers(message), message->headers_length);
			return true;
		case MILL_COLUMN_TIMESTAMP:
			*isnull = message->timestamp_ms < 0;
			return *isnull || make_produced_at(message, type, value, error);
		case MILL_COLUMN_PARTITION:
			*value = type->oid == INT8OID ? Int64GetDatum(message->partition)
										  : Int32GetDatum(message->partition);
			return true;
		case MILL_COLUMN_OFFSET:
			*value = Int64GetDatum(message->offset);
			return true;
		case MILL_COLUMN_TOPIC:
			return type->parse(type, layout->topic, strlen(layout->topic), value, error);
		case MILL_COLUMN_PAYLOAD:
			*isnull = message->value_length < 0;
			if (!*isnull)
				*value = make_bytea(mill_message_value(message), message->value_length);
			return true;
		case MILL_COLUMN_FIELD:
			break;
	}
	elog(ERROR, "unexpected kind of column: %d", (int) kind);
}
