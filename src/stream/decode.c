/*
 * decode.c
 *		From a message to the values of a row.
 *
 * Runs in whatever process scans a stream.  A decoder is made once per scan
 * and holds what the catalog says; decoding asks the catalog for nothing that
 * our parsers cover.  The value is validated whole even if few columns are
 * needed, so that a message is bad or not whatever is asked of it.
 *
 * Only databases whose encoding is UTF8: messages are UTF-8, and with another
 * encoding a text might have no counterpart.
 *
 * Everything is in memory; an error leaves nothing behind but what the
 * caller's memory context holds.
 */
#include "postgres.h"

#include "access/table.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "core/catalog.h"
#include "stream/decode.h"

/* A needed column. */
typedef struct Column
{
	int index; /* attribute number - 1 */
	MillColumnKind kind;
	int place; /* of its span, or of its field counting from 0 */
	const char *name;
	MillType *type;
	ExprState *default_expression; /* NULL: use the value below */
	Datum default_value;
	bool default_isnull;
} Column;

struct MillDecoder
{
	const MillStream *stream;
	Oid owner; /* of the stream, who wrote the defaults */
	int natts;
	Column *columns;
	int ncolumns;
	const Column *current; /* being decoded, for the error context */
	ExprContext *expressions;
	MillJsonPaths *paths;
	MillJsonSpan *spans;
	MillField *fields;
	int nfields;
	bool more_fields; /* a message may have more than we know */
	const char **field_names;
};

/* ---- making a decoder ---- */

static void *
allocate(size_t size)
{
	return palloc(size);
}

typedef struct PlannedDefault
{
	Relation relation;
	int attnum;
	Node *expression; /* NULL: none */
} PlannedDefault;

static void
plan_default(void *arg)
{
	PlannedDefault *planned = arg;

	planned->expression = build_column_default(planned->relation, planned->attnum);
	if (planned->expression)
		planned->expression = (Node *) expression_planner((Expr *) planned->expression);
}

/*
 * The column's DEFAULT, which may be its domain's; a constant is evaluated
 * here.  Elsewhere a default is run by who writes a row and here by who reads
 * one, who never agreed to that: so it is run as the stream's owner.
 */
static void
add_default(MillDecoder *decoder, Column *column, Relation relation)
{
	PlannedDefault planned = {relation, column->index + 1, NULL};

	column->default_isnull = true;
	if (!TupleDescAttr(RelationGetDescr(relation), column->index)->attgenerated)
		mill_as_owner(decoder->owner, plan_default, &planned);
	if (planned.expression == NULL)
		return;
	if (IsA(planned.expression, Const))
	{
		column->default_value = ((Const *) planned.expression)->constvalue;
		column->default_isnull = ((Const *) planned.expression)->constisnull;
		return;
	}
	if (decoder->expressions == NULL)
		decoder->expressions = CreateStandaloneExprContext();
	column->default_expression = ExecInitExpr((Expr *) planned.expression, NULL);
}

/* A name, not a path, if it is the column's own or none is given. */
static int
add_path(MillDecoder *decoder, const char *field, const char *name)
{
	const char *problem;
	int place;

	if (field == NULL || strcmp(field, name) == 0)
		return mill_json_paths_add_name(decoder->paths, name, strlen(name));
	place = mill_json_paths_add(decoder->paths, field, &problem);
	if (place < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid field \"%s\" for column \"%s\"", field, name),
				 errdetail("In a path, %s.", problem),
				 errhint("For example: field 'user.id', or field 'orders[0].price'.")));
	return place;
}

/* A field's position, counting from 0, from the option's text. */
static int
field_position(const char *field, const char *name)
{
	char *end;
	long position;

	errno = 0;
	position = strtol(field, &end, 10);
	if (errno != 0 || *field < '0' || *field > '9' || *end != '\0' || position < 1 || position > MaxTupleAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid field \"%s\" for column \"%s\"", field, name),
				 errdetail("The field of a csv or text message is its position, from 1 to %d.", MaxTupleAttributeNumber),
				 errhint("For example: field '3'.")));
	return (int) position - 1;
}

/*
 * Where each column's value is in csv and text: at the position given, or
 * after the column before.  Only if no position is given does the table tell
 * how many fields there are.
 */
static void
place_fields(MillDecoder *decoder, TupleDesc desc, int *places)
{
	int next = 0;

	decoder->field_names = palloc0(sizeof(char *) * (MaxTupleAttributeNumber + desc->natts));
	for (int i = 0; i < desc->natts; i++)
	{
		const MillColumn *column = &decoder->stream->columns[i];
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);

		if (TupleDescAttr(desc, i)->attisdropped || column->kind != MILL_COLUMN_FIELD)
			continue;
		if (column->field)
		{
			next = field_position(column->field, name);
			decoder->more_fields = true;
		}
		decoder->field_names[next] = pstrdup(name);
		places[i] = next++;
		decoder->nfields = Max(decoder->nfields, next);
	}
	decoder->fields = palloc0(sizeof(MillField) * Max(decoder->nfields, 1));
}

static void
add_column(MillDecoder *decoder, Relation relation, TupleDesc desc, int index, int place)
{
	Form_pg_attribute attribute = TupleDescAttr(desc, index);
	const MillColumn *given = &decoder->stream->columns[index];
	Column *column = &decoder->columns[decoder->ncolumns++];

	mill_metadata_check(given, attribute);
	column->index = index;
	column->kind = given->kind;
	column->place = place;
	column->name = pstrdup(NameStr(attribute->attname));
	column->type = mill_type_create(attribute->atttypid, attribute->atttypmod);
	if (column->kind == MILL_COLUMN_FIELD && decoder->stream->format == MILL_FORMAT_JSON)
	{
		column->place = add_path(decoder, given->field, column->name);
		add_default(decoder, column, relation);
	}
}

MillDecoder *
mill_decoder_create(const MillStream *stream, TupleDesc desc, const Bitmapset *needed)
{
	MillDecoder *decoder = palloc0(sizeof(MillDecoder));
	int *places = palloc0(sizeof(int) * Max(desc->natts, 1));
	Relation relation;
	int attribute = -1;

	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("streams need a database whose encoding is UTF8"),
				 errdetail("This database's encoding is %s.", GetDatabaseEncodingName()),
				 errhint("For example: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0.")));

	decoder->stream = stream;
	decoder->owner = mill_relation_owner(stream->relid);
	decoder->natts = desc->natts;
	decoder->columns = palloc0(sizeof(Column) * Max(desc->natts, 1));
	if (stream->format == MILL_FORMAT_JSON)
		decoder->paths = mill_json_paths_create(allocate);
	else if (stream->format != MILL_FORMAT_RAW)
		place_fields(decoder, desc, places);

	relation = table_open(stream->relid, AccessShareLock);
	while ((attribute = bms_next_member(needed, attribute)) >= 0)
	{
		if (attribute >= 1 && attribute <= desc->natts && !TupleDescAttr(desc, attribute - 1)->attisdropped)
			add_column(decoder, relation, desc, attribute - 1, places[attribute - 1]);
	}
	table_close(relation, NoLock);

	if (decoder->paths)
		decoder->spans = palloc0(sizeof(MillJsonSpan) * Max(mill_json_paths_count(decoder->paths), 1));
	pfree(places);
	return decoder;
}

/* ---- decoding ---- */

static void
column_error_context(void *arg)
{
	MillDecoder *decoder = arg;

	if (decoder->current)
		errcontext("column \"%s\" of a stream", decoder->current->name);
}

typedef struct ComputedDefault
{
	MillDecoder *decoder;
	Column *column;
	Datum value;
	bool isnull;
} ComputedDefault;

static void
compute_default(void *arg)
{
	ComputedDefault *computed = arg;

	computed->value = ExecEvalExpr(computed->column->default_expression, computed->decoder->expressions, &computed->isnull);
}

/* What is not in the message: the column's default, which its domain allows. */
static void
take_default(MillDecoder *decoder, Column *column, Datum *value, bool *isnull)
{
	MillType *type = column->type;

	*value = column->default_value;
	*isnull = column->default_isnull;
	if (column->default_expression)
	{
		ComputedDefault computed = {.decoder = decoder, .column = column};

		mill_as_owner(decoder->owner, compute_default, &computed);
		*value = computed.value;
		*isnull = computed.isnull;
	}
	else if (*isnull && type->class == MILL_TYPE_DOMAIN)
		domain_check(*value, true, type->oid, &type->domain_cache, type->context);
}

/* Split and count; the fields' places are as in place_fields. */
static bool
read_fields(MillDecoder *decoder, const char *data, size_t length, MillDecodeError *error)
{
	const MillStream *stream = decoder->stream;
	bool csv = stream->format == MILL_FORMAT_CSV;
	int count;

	if (!mill_check_utf8(data, length, error))
		return false;
	if (csv)
		count = mill_split_csv(data, length, stream->delimiter ? stream->delimiter : ',',
							   stream->null_string ? stream->null_string : "",
							   decoder->fields, decoder->nfields, error);
	else
		count = mill_split_text(data, length, stream->delimiter ? stream->delimiter : '\t',
								stream->null_string ? stream->null_string : "\\N",
								decoder->fields, decoder->nfields, error);
	if (count < 0)
		return false;
	if (decoder->nfields == 0 && count == 1 && length == 0)
		return true;
	if (count < decoder->nfields)
	{
		/* the first that is missing and has a column */
		while (decoder->field_names[count] == NULL)
			count++;
		return mill_bad(error, ERRCODE_BAD_COPY_FILE_FORMAT, "missing data for column \"%s\"",
						decoder->field_names[count]);
	}
	if (count > decoder->nfields && !decoder->more_fields)
		return mill_bad(error, ERRCODE_BAD_COPY_FILE_FORMAT, "extra data after last expected column");
	return true;
}

/*
 * No part of a message may be longer than the stream's limit, whichever
 * columns are asked for: the gateway may have cut it.
 */
static bool
check_sizes(MillDecoder *decoder, const MillMessage *message, MillDecodeError *error)
{
	static const char *const names[MILL_PARTS] = {"key", "value", "headers"};
	const MillCut *cut = mill_message_cut(message);
	int64 lengths[MILL_PARTS] = {message->key_length, message->value_length, message->headers_length};
	int limit = decoder->stream->max_message_bytes;

	for (int i = 0; i < MILL_PARTS; i++)
	{
		bool is_cut = cut && cut->length[i] > 0;

		/* What was cut is not whole, also if the limit has been raised since. */
		if (is_cut)
			lengths[i] = cut->length[i];
		if (!is_cut && (limit <= 0 || lengths[i] <= limit))
			continue;
		mill_bad(error, ERRCODE_PROGRAM_LIMIT_EXCEEDED, "message %s of %lld bytes is larger than the limit of %d bytes",
				 names[i], (long long) lengths[i], limit);
		error->detail = "The stream's option \"max_message_bytes\" sets the limit; raise it and read the message again.";
		return false;
	}
	return true;
}

/* Validate and take apart; the value is not null. */
static bool
read_value(MillDecoder *decoder, const MillMessage *message, MillDecodeError *error)
{
	const MillStream *stream = decoder->stream;
	const char *data = mill_message_value(message);
	size_t length = message->value_length;
	MillJsonError fault;

	switch (stream->format)
	{
		case MILL_FORMAT_JSON:
			return mill_json_scan(decoder->paths, data, length, decoder->spans, &fault) ||
				   mill_bad_json(error, &fault, data, length);
		case MILL_FORMAT_CSV:
		case MILL_FORMAT_TEXT:
			return read_fields(decoder, data, length, error);
		case MILL_FORMAT_RAW:
			break;
	}
	return true;
}

/* A NULL that the message gives, where the column's domain may refuse it. */
static bool
take_null(MillType *type, Datum *value, bool *isnull)
{
	*value = (Datum) 0;
	*isnull = true;
	if (type->class == MILL_TYPE_DOMAIN)
		domain_check(*value, true, type->oid, &type->domain_cache, type->context);
	return true;
}

static bool
decode_field(MillDecoder *decoder, Column *column, const MillMessage *message,
			 Datum *value, bool *isnull, MillDecodeError *error)
{
	MillType *type = column->type;
	const char *input;
	size_t length;

	*isnull = false;
	if (decoder->stream->format == MILL_FORMAT_JSON)
	{
		const MillJsonSpan *span = &decoder->spans[column->place];

		/* the most common case in one step */
		if (likely(span->kind >= MILL_JSON_TRUE && span->kind <= MILL_JSON_STRING && !span->escaped &&
				   type->class == MILL_TYPE_SCALAR))
			return type->parse(type, span->start, span->length, value, error);
		if (span->kind != MILL_JSON_ABSENT)
			return mill_type_json(type, span, value, isnull, error);
		take_default(decoder, column, value, isnull);
		return true;
	}
	if (decoder->stream->format != MILL_FORMAT_RAW)
	{
		const MillField *field = &decoder->fields[column->place];

		if (field->isnull)
			return take_null(type, value, isnull);
		return type->parse(type, field->start, field->length, value, error);
	}
	input = mill_message_value(message);
	length = message->value_length;
	if (type->oid == BYTEAOID)
	{
		*value = PointerGetDatum(cstring_to_text_with_len(input, (int) length));
		return true;
	}
	return mill_check_utf8(input, length, error) && type->parse(type, input, length, value, error);
}

static bool
decode_columns(MillDecoder *decoder, const MillMessage *message, Datum *values, bool *isnull, MillDecodeError *error)
{
	bool tombstone = message->value_length < 0;

	if (!check_sizes(decoder, message, error) || (!tombstone && !read_value(decoder, message, error)))
		return false;
	for (int i = 0; i < decoder->ncolumns; i++)
	{
		Column *column = &decoder->columns[i];
		int index = column->index;
		bool good;

		decoder->current = column;
		if (column->kind != MILL_COLUMN_FIELD)
			good = mill_metadata_value(column->kind, decoder->stream, column->type, message,
									   &values[index], &isnull[index], error);
		else if (tombstone)
			continue;
		else
			good = decode_field(decoder, column, message, &values[index], &isnull[index], error);
		if (!good)
		{
			error->detail = error->detail ? psprintf("%s Column \"%s\" of the stream.", error->detail, column->name)
										  : psprintf("Column \"%s\" of the stream.", column->name);
			error->column = column->name;
			return false;
		}
	}
	return true;
}

const char *
mill_decoder_column(const MillDecoder *decoder)
{
	return decoder->current ? decoder->current->name : NULL;
}

bool
mill_decode(MillDecoder *decoder, const MillMessage *message,
			Datum *values, bool *isnull, MillDecodeError *error)
{
	ErrorContextCallback callback;
	bool good;

	memset(values, 0, sizeof(Datum) * decoder->natts);
	memset(isnull, true, sizeof(bool) * decoder->natts);
	memset(error, 0, sizeof(*error));
	decoder->current = NULL;

	callback.callback = column_error_context;
	callback.arg = decoder;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	good = decode_columns(decoder, message, values, isnull, error);
	error_context_stack = callback.previous;
	return good;
}
