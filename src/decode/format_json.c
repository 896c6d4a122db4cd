/*
 * format_json.c
 *		Format json: a message is a JSON object, a field a name or a path in it.
 */
#include "postgres.h"

#include "decode/format.h"

typedef struct JsonData
{
	MillJsonPaths *paths;
	MillJsonSpan *spans; /* of each path, in the current message */
} JsonData;

static void *
allocate(size_t size)
{
	return palloc(size);
}

static void
open_json(MillDecoder *decoder, TupleDesc desc)
{
	JsonData *data = palloc0(sizeof(JsonData));

	data->paths = mill_json_paths_create(allocate);
	/* each needed column has a path, and paths of the same field share one */
	data->spans = palloc0(sizeof(MillJsonSpan) * Max(desc->natts, 1));
	decoder->format_data = data;
}

/* Add a column's field to the paths and return its number; the column's own name is no path. */
static int
add_path(MillJsonPaths *paths, const char *field, const char *name)
{
	const char *problem;
	int field_no;

	if (field == NULL || strcmp(field, name) == 0)
		return mill_json_paths_add_name(paths, name, strlen(name));
	field_no = mill_json_paths_add(paths, field, &problem);
	if (field_no < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid field \"%s\" for column \"%s\"", field, name),
						errdetail("In a path, %s.", problem),
						errhint("For example: field 'user.id', or field 'orders[0].price'.")));
	return field_no;
}

static void
add_json(MillDecoder *decoder, MillDecoderColumn *column)
{
	JsonData *data = decoder->format_data;

	column->field_no = add_path(data->paths, decoder->layout->columns[column->index].field,
								column->name);
}

static MillVerdict
read_json(MillDecoder *decoder, const MillMessage *message, MillDecodeError *error)
{
	JsonData *data = decoder->format_data;
	const char *value = mill_message_value(message);
	MillJsonError fault;

	if (mill_json_scan(data->paths, value, message->value_length, data->spans, &fault))
		return MILL_ROW;
	mill_bad_json(error, &fault, value, message->value_length);
	return MILL_BAD;
}

static bool
json_field(MillDecoder *decoder, MillDecoderColumn *column, const MillMessage *message,
		   Datum *value, bool *isnull, MillDecodeError *error)
{
	MillType *type = column->type;
	const MillJsonSpan *span = &((JsonData *) decoder->format_data)->spans[column->field_no];

	/* the most common case in one step */
	if (likely(span->kind >= MILL_JSON_TRUE && span->kind <= MILL_JSON_STRING && !span->escaped &&
			   type->class == MILL_TYPE_SCALAR))
		return type->parse(type, span->start, span->length, value, error);
	if (span->kind != MILL_JSON_ABSENT)
		return mill_type_json(type, span, value, isnull, error);
	mill_take_default(decoder, column, value, isnull);
	return true;
}

const MillFormat mill_format_json = {
	.name = "json",
	.named_fields = true,
	.absent_fields = true,
	.open = open_json,
	.add = add_json,
	.read = read_json,
	.field = json_field,
};
