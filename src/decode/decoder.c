/*
 * decoder.c
 *		Decodes a message into the values of a row.
 *
 * Runs in any process that scans a stream.  A decoder is made once per scan and
 * has all that is needed from the catalog; decoding accesses the catalog only
 * for types without a parser of ours.  The whole value is validated even if few
 * columns are needed, so that a message is bad or not whatever a query reads.
 *
 * Requires a database with encoding UTF8: messages are UTF-8, and in another
 * encoding there may be no equivalent of a text.
 *
 * Everything is in memory; an error leaves nothing behind but what is in the
 * caller's memory context.
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
#include "decode/format.h"

/* ---- making a decoder ---- */

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
 * The column's DEFAULT, or its domain's; a constant is evaluated here.
 * Elsewhere a default runs as the role that writes a row; here it would run as
 * the one that reads, which never agreed to that, so it runs as the stream's
 * owner.
 */
static void
add_default(MillDecoder *decoder, MillDecoderColumn *column, Relation relation)
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

static void
add_needed_column(MillDecoder *decoder, Relation relation, Form_pg_attribute attribute)
{
	int index = attribute->attnum - 1;
	const MillColumn *given = &decoder->layout->columns[index];
	MillDecoderColumn *column = &decoder->columns[decoder->ncolumns++];

	mill_metadata_check(given, attribute);
	column->index = index;
	column->kind = given->kind;
	column->name = pstrdup(NameStr(attribute->attname));
	column->type = mill_type_create(attribute->atttypid, attribute->atttypmod);
	if (column->kind != MILL_COLUMN_FIELD)
		return;
	decoder->layout->format->add(decoder, column);
	if (decoder->layout->format->absent_fields)
		add_default(decoder, column, relation);
}

MillDecoder *
mill_decoder_create(const MillLayout *layout, TupleDesc desc, const Bitmapset *needed)
{
	MillDecoder *decoder = palloc0(sizeof(MillDecoder));
	Relation relation;
	int attribute = -1;

	Assert(layout->ncolumns == desc->natts);
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("streams need a database whose encoding is UTF8"),
				 errdetail("This database's encoding is %s.", GetDatabaseEncodingName()),
				 errhint("For example: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0.")));

	decoder->layout = layout;
	decoder->owner = mill_relation_owner(layout->relid);
	decoder->natts = desc->natts;
	decoder->columns = palloc0(sizeof(MillDecoderColumn) * Max(desc->natts, 1));
	layout->format->open(decoder, desc);

	relation = table_open(layout->relid, AccessShareLock);
	while ((attribute = bms_next_member(needed, attribute)) >= 0)
	{
		if (attribute >= 1 && attribute <= desc->natts &&
			!TupleDescAttr(desc, attribute - 1)->attisdropped)
			add_needed_column(decoder, relation, TupleDescAttr(desc, attribute - 1));
	}
	table_close(relation, NoLock);
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
	MillDecoderColumn *column;
	Datum value;
	bool isnull;
} ComputedDefault;

static void
compute_default(void *arg)
{
	ComputedDefault *computed = arg;

	computed->value = ExecEvalExpr(computed->column->default_expression,
								   computed->decoder->expressions, &computed->isnull);
}

/* A field that is absent: the column's default, which its domain accepts. */
void
mill_take_default(MillDecoder *decoder, MillDecoderColumn *column, Datum *value, bool *isnull)
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

/*
 * No part of a message may be longer than the stream's limit, whichever columns
 * are needed: the gateway may have cut it.
 */
static bool
check_sizes(MillDecoder *decoder, const MillMessage *message, MillDecodeError *error)
{
	static const char *const names[MILL_PARTS] = {"key", "value", "headers"};
	const MillCut *cut = mill_message_cut(message);
	int64 lengths[MILL_PARTS] = {message->key_length, message->value_length,
								 message->headers_length};
	int limit = decoder->layout->max_message_bytes;

	for (int i = 0; i < MILL_PARTS; i++)
	{
		bool is_cut = cut && cut->length[i] > 0;

		/* a part that was cut is bad even if the limit has been raised since */
		if (is_cut)
			lengths[i] = cut->length[i];
		if (!is_cut && (limit <= 0 || lengths[i] <= limit))
			continue;
		mill_bad(error, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
				 "message %s of %lld bytes is larger than the limit of %d bytes", names[i],
				 (long long) lengths[i], limit);
		error->detail =
			"The stream's option \"max_message_bytes\" sets the limit; raise it and read the message again.";
		return false;
	}
	return true;
}

/* A field that is null, which the column's domain may refuse. */
bool
mill_take_null(MillType *type, Datum *value, bool *isnull)
{
	*value = (Datum) 0;
	*isnull = true;
	if (type->class == MILL_TYPE_DOMAIN)
		domain_check(*value, true, type->oid, &type->domain_cache, type->context);
	return true;
}

static bool
decode_column(MillDecoder *decoder, MillDecoderColumn *column, const MillMessage *message,
			  Datum *value, bool *isnull, MillDecodeError *error)
{
	if (column->kind != MILL_COLUMN_FIELD)
		return mill_metadata_value(column->kind, decoder->layout, column->type, message, value,
								   isnull, error);
	*isnull = false;
	return decoder->layout->format->field(decoder, column, message, value, isnull, error);
}

static MillVerdict
decode_columns(MillDecoder *decoder, const MillMessage *message, Datum *values, bool *isnull,
			   MillDecodeError *error)
{
	bool null = message->value_length < 0;
	MillVerdict verdict;

	if (!check_sizes(decoder, message, error))
		return MILL_BAD;
	verdict = null ? MILL_DELETE : decoder->layout->format->read(decoder, message, error);
	if (verdict == MILL_BAD || verdict == MILL_SKIP)
		return verdict;
	for (int i = 0; i < decoder->ncolumns; i++)
	{
		MillDecoderColumn *column = &decoder->columns[i];

		decoder->current = column;
		if (null && column->kind == MILL_COLUMN_FIELD)
			continue;
		if (decode_column(decoder, column, message, &values[column->index], &isnull[column->index],
						  error))
			continue;
		error->detail = error->detail ? psprintf("%s Column \"%s\" of the stream.", error->detail,
												 column->name)
									  : psprintf("Column \"%s\" of the stream.", column->name);
		error->column = column->name;
		return MILL_BAD;
	}
	return verdict;
}

const char *
mill_decoder_column(const MillDecoder *decoder)
{
	return decoder->current ? decoder->current->name : NULL;
}

MillVerdict
mill_decode(MillDecoder *decoder, const MillMessage *message, Datum *values, bool *isnull,
			MillDecodeError *error)
{
	ErrorContextCallback callback;
	MillVerdict verdict;

	memset(values, 0, sizeof(Datum) * decoder->natts);
	memset(isnull, true, sizeof(bool) * decoder->natts);
	memset(error, 0, sizeof(*error));
	decoder->current = NULL;

	callback.callback = column_error_context;
	callback.arg = decoder;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	Assert(message->key_length >= -1 && message->value_length >= -1);
	verdict = decode_columns(decoder, message, values, isnull, error);
	error_context_stack = callback.previous;
	return verdict;
}
