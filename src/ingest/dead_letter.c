/*
 * dead_letter.c
 *		Messages that could not become rows: kept as they are, and retried.
 *
 * A dead letter is written in the transaction of the batch that met it, so
 * each bad message is kept exactly once.  mill.retry_dead_letters puts them
 * through the same source and writer, in the caller's transaction but as the
 * pipeline's owner.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/settings.h"
#include "ingest/ingest.h"
#include "ingest/rights.h"

PG_FUNCTION_INFO_V1(mill_retry_dead_letters);
PG_FUNCTION_INFO_V1(mill_delete_dead_letters);

/* So many letters are retried together. */
#define RETRY_BATCH 10000

static Datum
bytes(const char *data, int length)
{
	bytea *result = palloc(length + VARHDRSZ);

	SET_VARSIZE(result, length + VARHDRSZ);
	memcpy(VARDATA(result), data, length);
	return PointerGetDatum(result);
}

/* A part (key, value, headers) of a message as a letter keeps it. */
typedef struct Kept
{
	const char *data;
	int length;							   /* -1: null */
	int64 whole_length;					   /* length of the whole part */
	uint8 sha256[PG_SHA256_DIGEST_LENGTH]; /* of the whole part, if it was cut */
} Kept;

static void
hash(const char *data, int length, uint8 *digest)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	if (context == NULL || pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) data, length) < 0 ||
		pg_cryptohash_final(context, digest, PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "could not compute a hash");
	pg_cryptohash_free(context);
}

/* What to keep of a part: all of it, what the gateway left of it, or a piece cut here. */
static Kept
keep_part(const MillMessage *message, MillPart part, const char *data, int length)
{
	const MillCut *cut = mill_message_cut(message);
	Kept kept = {.data = data, .length = length, .whole_length = length};

	StaticAssertStmt(MILL_SHA256_BYTES == PG_SHA256_DIGEST_LENGTH, "hashes have one length");
	if (cut && cut->length[part] > 0)
	{
		kept.whole_length = cut->length[part];
		memcpy(kept.sha256, cut->sha256[part], sizeof(kept.sha256));
	}
	else if (length > MILL_KEPT_BYTES)
	{
		kept.length = part == MILL_PART_HEADERS
						  ? mill_headers_fitting(data, length, MILL_KEPT_BYTES)
						  : MILL_KEPT_BYTES;
		hash(data, length, kept.sha256);
	}
	return kept;
}

/* The letter's detail: the error's, with length and hash of the parts that were cut. */
static char *
describe_cuts(const Kept *parts, const char *detail)
{
	static const char *const names[MILL_PARTS] = {"key", "value", "headers"};
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, detail ? detail : "");
	for (int i = 0; i < MILL_PARTS; i++)
	{
		if (parts[i].whole_length == parts[i].length)
			continue;
		appendStringInfo(&text, "%sThe %s had %lld bytes, the first %d are kept; the SHA-256 is ",
						 text.len ? " " : "", names[i], (long long) parts[i].whole_length,
						 parts[i].length);
		for (int j = 0; j < PG_SHA256_DIGEST_LENGTH; j++)
			appendStringInfo(&text, "%02x", parts[i].sha256[j]);
		appendStringInfoChar(&text, '.');
	}
	return text.len > 0 ? text.data : NULL;
}

static void
put_text(Datum *values, char *nulls, int i, const char *text)
{
	values[i] = text ? CStringGetTextDatum(text) : (Datum) 0;
	nulls[i] = text ? ' ' : 'n';
}

void
mill_dead_letter_write(int64 pipeline, const MillStream *stream, const MillMessage *message,
					   const MillDecodeError *error)
{
	static MillStatement insert =
		{.sql = "INSERT INTO mill_catalog.dead_letter (pipeline_id, topic, partition, kafka_offset, key, value, headers,"
				" timestamp_ms, timestamp_type, truncated, sqlstate, message, detail, produced_at, hint, column_name)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
		 .nargs = 16,
		 .types = {INT8OID, TEXTOID, INT4OID, INT8OID, BYTEAOID, BYTEAOID, BYTEAOID, INT8OID,
				   INT4OID, BOOLOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID}};
	Kept parts[MILL_PARTS] = {keep_part(message, MILL_PART_KEY, mill_message_key(message),
										message->key_length),
							  keep_part(message, MILL_PART_VALUE, mill_message_value(message),
										message->value_length),
							  keep_part(message, MILL_PART_HEADERS, mill_message_headers(message),
										message->headers_length)};
	const char *detail = describe_cuts(parts, error->detail);
	bool cut = false;
	Datum values[16] = {0};
	char nulls[17] = "                ";
	TimestampTz produced_at;

	values[0] = Int64GetDatum(pipeline);
	values[1] = CStringGetTextDatum(stream->layout.topic);
	values[2] = Int32GetDatum(message->partition);
	values[3] = Int64GetDatum(message->offset);
	for (int i = 0; i < MILL_PARTS; i++)
	{
		if (parts[i].length >= 0)
			values[4 + i] = bytes(parts[i].data, parts[i].length);
		else
			nulls[4 + i] = 'n';
		cut = cut || parts[i].whole_length != parts[i].length;
	}
	values[7] = Int64GetDatum(message->timestamp_ms);
	values[8] = Int32GetDatum(message->timestamp_type);
	values[9] = BoolGetDatum(cut);
	values[10] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[11] = CStringGetTextDatum(error->message);
	put_text(values, nulls, 12, detail);
	if (mill_message_time(message, &produced_at))
		values[13] = TimestampTzGetDatum(produced_at);
	else
		nulls[13] = 'n';
	put_text(values, nulls, 14, error->hint);
	put_text(values, nulls, 15, error->column);
	mill_run(&insert, SPI_OK_INSERT, values, nulls);
}

/* ---- retry ---- */

/* A bytea column of a result row: its bytes, and its length or -1. */
static const char *
bytes_of(int row, int column, int32 *length)
{
	bool isnull;
	Datum value = mill_value(row, column, &isnull);
	bytea *data;

	*length = -1;
	if (isnull)
		return NULL;
	data = DatumGetByteaPP(value);
	*length = VARSIZE_ANY_EXHDR(data);
	return VARDATA_ANY(data);
}

/* Build a message as the gateway would deliver it from a row of the result. */
static MillMessage *
rebuild_message(MemoryContext context, int row)
{
	int32 key_length;
	int32 value_length;
	int32 headers_length;
	const char *key = bytes_of(row, 4, &key_length);
	const char *value = bytes_of(row, 5, &value_length);
	const char *headers = bytes_of(row, 6, &headers_length);
	Size size = MILL_PAD(sizeof(MillMessage) + Max(key_length, 0) + Max(value_length, 0) +
						 Max(headers_length, 0));
	MillMessage *message = MemoryContextAllocZero(context, size);

	message->size = size;
	message->partition = DatumGetInt32(mill_value(row, 2, NULL));
	message->offset = DatumGetInt64(mill_value(row, 3, NULL));
	message->timestamp_ms = DatumGetInt64(mill_value(row, 7, NULL));
	message->timestamp_type = DatumGetInt32(mill_value(row, 8, NULL));
	message->key_length = key_length;
	message->value_length = value_length;
	message->headers_length = Max(headers_length, 0);
	if (key_length > 0)
		memcpy((char *) mill_message_key(message), key, key_length);
	if (value_length > 0)
		memcpy((char *) mill_message_value(message), value, value_length);
	if (headers_length > 0)
		memcpy((char *) mill_message_headers(message), headers, headers_length);
	return message;
}

/* Build the guard of a letter, for an upsert's target, from a row of the result. */
static MillGuard
read_guard(int row, TransactionId begun)
{
	MillGuard guard = {0};
	int64 written_by = DatumGetInt64(mill_value(row, 9, &guard.known));

	guard.known = !guard.known;
	guard.before = (TransactionId) written_by;
	guard.begun = begun;
	guard.deletes_since = DatumGetInt64(mill_value(row, 10, NULL)) >= written_by;
	/* too old to be compared with a row's xmin */
	if (guard.known &&
		U64FromFullTransactionId(ReadNextFullTransactionId()) - (uint64) written_by > PG_INT32_MAX)
		guard.known = false;
	return guard;
}

/* Read and lock the next letters after an id, into the batch; also their ids and guards. */
static int64 *
read_letters(int64 pipeline, int64 after, MillBatch *batch, TransactionId begun, MillGuard **guards)
{
	static MillStatement read =
		{.sql =
			 "SELECT id, partition, kafka_offset, key, value, headers,"
			 " timestamp_ms, timestamp_type, written_by::text::int8,"
			 " coalesce((SELECT max(o.deleted_by::text::int8) FROM mill_catalog.pipeline_offset o WHERE o.pipeline_id = $1), 0)"
			 " FROM mill_catalog.dead_letter WHERE pipeline_id = $1 AND id > $2 AND NOT truncated ORDER BY id LIMIT $3 FOR UPDATE",
		 .nargs = 3,
		 .types = {INT8OID, INT8OID, INT4OID}};
	Datum values[3] = {Int64GetDatum(pipeline), Int64GetDatum(after), Int32GetDatum(RETRY_BATCH)};
	int count = mill_run(&read, SPI_OK_SELECT, values, NULL);
	int64 *ids = MemoryContextAlloc(batch->context, sizeof(int64) * (count + 1));

	*guards = MemoryContextAlloc(batch->context, sizeof(MillGuard) * (count + 1));
	batch->count = count;
	batch->messages = MemoryContextAlloc(batch->context, sizeof(*batch->messages) * (count + 1));
	batch->errors = MemoryContextAllocZero(batch->context, sizeof(*batch->errors) * (count + 1));
	batch->deletes = MemoryContextAllocZero(batch->context, sizeof(bool) * (count + 1));
	for (int i = 0; i < count; i++)
	{
		ids[i] = DatumGetInt64(mill_value(i, 1, NULL));
		batch->messages[i] = rebuild_message(batch->context, i);
		(*guards)[i] = read_guard(i, begun);
	}
	return ids;
}

/* Delete letters that became rows, store in the others the new error; returns how many became rows. */
static int64
finish_letters(const MillBatch *batch, const int64 *ids)
{
	static MillStatement remove = {.sql = "DELETE FROM mill_catalog.dead_letter WHERE id = $1",
								   .nargs = 1,
								   .types = {INT8OID}};
	static MillStatement keep =
		{.sql = "UPDATE mill_catalog.dead_letter SET retried_at = clock_timestamp(), sqlstate = $2, message = $3, detail = $4,"
				" hint = $5, column_name = $6 WHERE id = $1",
		 .nargs = 6,
		 .types = {INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}};
	int64 gone = 0;

	for (int i = 0; i < batch->count; i++)
	{
		const MillDecodeError *error = batch->errors[i];
		Datum values[6] = {Int64GetDatum(ids[i])};
		char nulls[7] = "      ";

		if (error == NULL)
		{
			gone += mill_run(&remove, SPI_OK_DELETE, values, NULL);
			continue;
		}
		values[1] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
		values[2] = CStringGetTextDatum(error->message);
		put_text(values, nulls, 3, error->detail);
		put_text(values, nulls, 4, error->hint);
		put_text(values, nulls, 5, error->column);
		mill_run(&keep, SPI_OK_UPDATE, values, nulls);
	}
	return gone;
}

/* Tell the user about letters of which a part was cut, so that they cannot be retried. */
static void
report_cut(int64 pipeline)
{
	static MillStatement count =
		{.sql = "SELECT count(*) FROM mill_catalog.dead_letter WHERE pipeline_id = $1 AND truncated",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum id = Int64GetDatum(pipeline);
	int64 cut;

	mill_run(&count, SPI_OK_SELECT, &id, NULL);
	cut = DatumGetInt64(mill_value(0, 1, NULL));
	if (cut > 0)
		ereport(NOTICE,
				(errmsg_plural("%lld dead letter is cut and cannot be retried",
							   "%lld dead letters are cut and cannot be retried", cut,
							   (long long) cut),
				 errhint(
					 "Raise the stream's option \"max_message_bytes\" and read them again from the topic, with mill.seek.")));
}

/* Arguments of a retry, which runs as the pipeline's owner. */
typedef struct Retry
{
	const MillPipeline *pipeline;
	MillSource *source;
	MillBatch batch;
	MillGuard *guards; /* NULL: no guards */
} Retry;

static void
prepare_letters(void *arg)
{
	Retry *retry = arg;
	const MillPipeline *p = retry->pipeline;

	retry->source = mill_source_prepare(CurrentMemoryContext, p->owner, p->source, p->target,
										p->upsert, mill_pipeline_key_index(p));
	mill_pipeline_check_rights(p->owner, p->source, retry->source->stream->layout.relid, p->target,
							   p->upsert);
}

static void
apply_letters(void *arg)
{
	Retry *retry = arg;

	/* deferred triggers do not run in a security-restricted operation: make them immediate */
	AfterTriggerSetState(makeNode(ConstraintsSetStmt));
	if (retry->guards == NULL)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		mill_apply_isolated(retry->source, &retry->batch, 0, retry->batch.count);
		PopActiveSnapshot();
		return;
	}
	/* one by one, in order, because each has a guard of its own */
	for (int i = 0; i < retry->batch.count; i++)
	{
		retry->source->spec.guard = &retry->guards[i];
		PushActiveSnapshot(GetTransactionSnapshot());
		mill_apply_isolated(retry->source, &retry->batch, i, i + 1);
		PopActiveSnapshot();
	}
}

/*
 * Lock out the pipeline's batches: what they write is newer than any letter,
 * and the guards must see it.
 */
static void
lock_offsets(int64 pipeline)
{
	static MillStatement lock =
		{.sql = "SELECT FROM mill_catalog.pipeline_offset WHERE pipeline_id = $1 ORDER BY partition FOR UPDATE",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum id = Int64GetDatum(pipeline);

	mill_run(&lock, SPI_OK_SELECT, &id, NULL);
}

/*
 * SQL: mill.retry_dead_letters(pipeline, force).  In mode upsert a letter is
 * late: unless forced, it does not change a row that is newer than itself.
 */
Datum
mill_retry_dead_letters(PG_FUNCTION_ARGS)
{
	Retry retry = {0};
	MillBatch *batch = &retry.batch;
	int64 *ids;
	MillGuard *guards;
	TransactionId begun;
	int64 after = 0;
	int64 gone = 0;
	bool guarded;

	mill_require_argument(fcinfo, 0, "pipeline");
	mill_require_argument(fcinfo, 1, "force");
	SPI_connect();
	retry.pipeline = mill_pipeline_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	guarded = retry.pipeline->upsert && !PG_GETARG_BOOL(1);
	if (guarded)
		lock_offsets(retry.pipeline->id);
	begun = ReadNextTransactionId();
	SPI_finish();
	mill_pipeline_check_relations(retry.pipeline);
	mill_as_owner(retry.pipeline->owner, prepare_letters, &retry);
	mill_source_init_batch(retry.source, batch);
	batch->context = AllocSetContextCreate(CurrentMemoryContext, "pg_mill dead letters",
										   ALLOCSET_DEFAULT_SIZES);

	do
	{
		MemoryContextReset(batch->context);
		SPI_connect();
		ids = read_letters(retry.pipeline->id, after, batch, begun, &guards);
		retry.guards = guarded ? guards : NULL;
		SPI_finish();
		if (batch->count == 0)
			break;
		after = ids[batch->count - 1];
		mill_as_owner(retry.pipeline->owner, apply_letters, &retry);
		SPI_connect();
		gone += finish_letters(batch, ids);
		SPI_finish();
	}
	while (batch->count == RETRY_BATCH);
	SPI_connect();
	report_cut(retry.pipeline->id);
	SPI_finish();
	PG_RETURN_INT64(gone);
}

/*
 * SQL: mill.delete_dead_letters(pipeline [, id]).
 */
Datum
mill_delete_dead_letters(PG_FUNCTION_ARGS)
{
	static MillStatement delete =
		{.sql = "DELETE FROM mill_catalog.dead_letter WHERE pipeline_id = $1 AND id = coalesce($2, id)",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	Datum values[2];
	int64 gone;

	mill_require_argument(fcinfo, 0, "pipeline");
	SPI_connect();
	values[0] = Int64GetDatum(mill_pipeline_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)))->id);
	values[1] = PG_GETARG_DATUM(1);
	gone = mill_run(&delete, SPI_OK_DELETE, values, PG_ARGISNULL(1) ? " n" : NULL);
	SPI_finish();
	PG_RETURN_INT64(gone);
}
