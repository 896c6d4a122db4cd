/*
 * missing_fields.c
 *		Fields that a stream names but no message has.
 *
 * PostgreSQL folds an unquoted column userId to userid; then the field is
 * absent in every message, which is no error, and the column NULL.  So the
 * worker looks at its first messages.  If a field is never there, but a key
 * that differs only in case, underscores or hyphens is, the reason of the
 * worker state says so.
 *
 * Only in the worker's memory; started anew with each plan of the source.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "decode/format.h"
#include "decode/json_scan.h"
#include "ingest/ingest.h"

/* How many messages to look at, of one batch and in all. */
#define MESSAGES_PER_BATCH 100
#define MESSAGES_IN_ALL 1000

struct MillFields
{
	MemoryContext context;
	int count;
	const char **names;
	bool *seen;
	char **like; /* a key that was there, spelt differently */
	int missing; /* not seen yet */
	int64 messages;
};

MillFields *
mill_fields_create(const MillStream *stream)
{
	MillFields *fields;

	if (stream->layout.format != &mill_format_json)
		return NULL;
	fields = palloc0(sizeof(MillFields));
	fields->context = CurrentMemoryContext;
	fields->names = palloc0(sizeof(char *) * stream->layout.ncolumns);
	fields->seen = palloc0(sizeof(bool) * stream->layout.ncolumns);
	fields->like = palloc0(sizeof(char *) * stream->layout.ncolumns);
	for (int i = 0; i < stream->layout.ncolumns; i++)
	{
		const MillColumn *column = &stream->layout.columns[i];

		/* paths are skipped, unless they are a single name */
		if (column->kind == MILL_COLUMN_FIELD && column->field &&
			strpbrk(column->field, ".[]\"") == NULL)
			fields->names[fields->count++] = column->field;
	}
	fields->missing = fields->count;
	return fields;
}

/* Are these names equal except for case, underscores and hyphens? */
static bool
is_similar(const MillJsonSpan *key, const char *name)
{
	const char *k = key->start;
	const char *end = k + key->length;

	for (;;)
	{
		while (k < end && (*k == '_' || *k == '-'))
			k++;
		while (*name == '_' || *name == '-')
			name++;
		if (k == end || *name == '\0')
			return k == end && *name == '\0';
		if (pg_tolower((unsigned char) *k++) != pg_tolower((unsigned char) *name++))
			return false;
	}
}

static void
check_key(MillFields *fields, const MillJsonSpan *key)
{
	for (int i = 0; i < fields->count; i++)
	{
		if (fields->seen[i])
			continue;
		if (mill_json_equals(key, fields->names[i], strlen(fields->names[i])))
		{
			fields->seen[i] = true;
			fields->missing--;
		}
		else if (fields->like[i] == NULL && !key->escaped && is_similar(key, fields->names[i]))
		{
			MemoryContext old = MemoryContextSwitchTo(fields->context);

			fields->like[i] = pnstrdup(key->start, Min(key->length, NAMEDATALEN));
			MemoryContextSwitchTo(old);
		}
	}
}

/* Look at the messages of a batch; true if what mill_fields_reason says may have changed. */
bool
mill_fields_check(MillFields *fields, const MillBatch *batch)
{
	int count = Min(batch->count, MESSAGES_PER_BATCH);

	if (fields == NULL || count == 0 || fields->missing == 0 || fields->messages >= MESSAGES_IN_ALL)
		return false;
	for (int i = 0; i < count; i++)
	{
		const MillMessage *message = batch->messages[i];
		MillJsonSpan value, key, item;
		MillJsonError fault;
		const char *position = NULL;

		if (message->value_length < 0 || message->flags != 0 ||
			!mill_json_check(mill_message_value(message), message->value_length, &value, &fault) ||
			value.kind != MILL_JSON_OBJECT)
			continue;
		fields->messages++;
		while (mill_json_next(&value, &position, &key, &item))
			check_key(fields, &key);
	}
	return true;
}

/* 'field "userid" was in none of 7 messages; "userId" was', or NULL; palloc'd. */
char *
mill_fields_reason(const MillFields *fields)
{
	StringInfoData text;

	if (fields == NULL)
		return NULL;
	initStringInfo(&text);
	for (int i = 0; i < fields->count; i++)
	{
		if (!fields->seen[i] && fields->like[i])
			appendStringInfo(&text, "%sfield \"%s\" was in none of %lld messages; \"%s\" was",
							 text.len ? "; " : "", fields->names[i], (long long) fields->messages,
							 fields->like[i]);
	}
	return text.len > 0 ? text.data : NULL;
}
