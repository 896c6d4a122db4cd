/*
 * offsets.c
 *		The next offset to read of each partition, and the fence around it.
 *
 * mill_catalog.pipeline_offset has one row per partition.  A batch locks the
 * rows of its partitions where they have the offsets that the worker expects,
 * and advances them in the same transaction.  If two workers have the same
 * messages, one waits for the other's commit, finds the offset changed, and
 * applies nothing.
 *
 * After mill.seek a row has -1 - offset, until the next worker at its start
 * resolves the new position into an offset.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/xact.h"
#include "ingest/ingest.h"
#include "ingest/position.h"

#define ANSWER_TIMEOUT 10000

static Datum
int4_array(Datum *values, int count)
{
	return PointerGetDatum(construct_array(values, count, INT4OID, 4, true, TYPALIGN_INT));
}

static Datum
int8_array(Datum *values, int count)
{
	return PointerGetDatum(
		construct_array(values, count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* ---- when a worker starts ---- */

/* What the broker reports about all partitions of the topic. */
typedef struct TopicOffsets
{
	int count;
	MillWatermark *marks;
	int64 *start; /* offset of the start position; -1: none is given */
} TopicOffsets;

static void
ask_broker(MillIngest *ingest, TopicOffsets *topic)
{
	int32 *partitions = palloc0(sizeof(int32) * (ingest->topic_partitions + 1));

	topic->count = ingest->topic_partitions;
	topic->marks = palloc0(sizeof(MillWatermark) * (topic->count + 1));
	topic->start = palloc0(sizeof(int64) * (topic->count + 1));
	for (int i = 0; i < topic->count; i++)
		topic->marks[i].partition = partitions[i] = i;
	mill_gateway_watermarks(ingest->gateway, topic->marks, topic->count, ANSWER_TIMEOUT);
	for (int i = 0; i < topic->count; i++)
	{
		if (topic->marks[i].error != 0)
			ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE),
							errmsg("could not get the offsets of topic \"%s\", partition %d",
								   ingest->source->stream->layout.topic, i),
							errdetail("The broker's error code is %d.", topic->marks[i].error)));
	}
	if (!ingest->pipeline->start_resolved)
		mill_position_resolve(ingest->pipeline->start, ingest->gateway, partitions, topic->start,
							  topic->count, ANSWER_TIMEOUT);
}

/*
 * Set the offsets of partitions: of all where a start position is to be
 * resolved, else of new partitions, which start at their beginning.
 */
static void
start_partitions(MillIngest *ingest, const TopicOffsets *topic, bool resolve)
{
	static MillStatement insert =
		{.sql = "INSERT INTO mill_catalog.pipeline_offset AS o (pipeline_id, partition, next_offset)"
				" SELECT $1, n.partition, CASE WHEN $4 AND n.start >= 0 THEN n.start ELSE n.low END"
				" FROM unnest($2, $3, $5) AS n (partition, low, start)"
				" ON CONFLICT (pipeline_id, partition) DO NOTHING",
		 .nargs = 5,
		 .types = {INT8OID, INT4ARRAYOID, INT8ARRAYOID, BOOLOID, INT8ARRAYOID}};
	static MillStatement forget =
		{.sql = "DELETE FROM mill_catalog.pipeline_offset o USING mill_catalog.pipeline p"
				" WHERE o.pipeline_id = $1 AND p.id = $1 AND (p.topic <> $2 OR p.server <> $3)",
		 .nargs = 3,
		 .types = {INT8OID, TEXTOID, TEXTOID}};
	static MillStatement move =
		{.sql =
			 "UPDATE mill_catalog.pipeline_offset o SET next_offset = CASE WHEN n.start >= 0 THEN n.start ELSE b.before END,"
			 " last_message_ms = CASE WHEN n.start >= 0 THEN NULL ELSE last_message_ms END,"
			 " offsets_skipped = offsets_skipped + CASE WHEN n.start > b.before THEN n.start - b.before ELSE 0 END"
			 " FROM unnest($2, $3) AS n (partition, start),"
			 " LATERAL (SELECT CASE WHEN x.next_offset < 0 THEN -1 - x.next_offset ELSE x.next_offset END AS before"
			 "  FROM mill_catalog.pipeline_offset x WHERE x.pipeline_id = $1 AND x.partition = n.partition) b"
			 " WHERE o.pipeline_id = $1 AND o.partition = n.partition",
		 .nargs = 3,
		 .types = {INT8OID, INT4ARRAYOID, INT8ARRAYOID}};
	static MillStatement resolved =
		{.sql =
			 "UPDATE mill_catalog.pipeline SET start_resolved = true, topic = $2, server = $3, stream = $4 WHERE id = $1"
			 " AND (NOT start_resolved OR topic IS DISTINCT FROM $2 OR server IS DISTINCT FROM $3 OR stream <> $4)",
		 .nargs = 4,
		 .types = {INT8OID, TEXTOID, TEXTOID, REGCLASSOID}};
	Datum *partitions = palloc(sizeof(Datum) * (topic->count + 1));
	Datum *lows = palloc(sizeof(Datum) * (topic->count + 1));
	Datum *starts = palloc(sizeof(Datum) * (topic->count + 1));
	Datum id = Int64GetDatum(ingest->pipeline->id);
	Datum topic_name = CStringGetTextDatum(ingest->source->stream->layout.topic);
	Datum server_name = CStringGetTextDatum(ingest->server_name);
	Datum partition_array;
	Datum start_array;

	for (int i = 0; i < topic->count; i++)
	{
		partitions[i] = Int32GetDatum(i);
		lows[i] = Int64GetDatum(topic->marks[i].low);
		starts[i] = Int64GetDatum(topic->start[i]);
	}
	partition_array = int4_array(partitions, topic->count);
	start_array = int8_array(starts, topic->count);

	/* offsets that are stored for another topic are forgotten */
	if (resolve)
	{
		mill_run(&forget, SPI_OK_DELETE, (Datum[]){id, topic_name, server_name}, NULL);
		mill_run(&move, SPI_OK_UPDATE, (Datum[]){id, partition_array, start_array}, NULL);
	}
	mill_run(&insert, SPI_OK_INSERT,
			 (Datum[]){id, partition_array, int8_array(lows, topic->count), BoolGetDatum(resolve),
					   start_array},
			 NULL);
	mill_run(&resolved, SPI_OK_UPDATE,
			 (Datum[]){id, topic_name, server_name,
					   ObjectIdGetDatum(ingest->source->stream->layout.relid)},
			 NULL);
}

/* Why a user's position does not exist in this topic, or NULL. */
static char *
position_mismatch(const MillIngest *ingest, const TopicOffsets *topic)
{
	const char *name = ingest->source->stream->layout.topic;
	int32 beyond = mill_position_beyond(ingest->pipeline->start, topic->count);

	if (beyond >= 0)
		return psprintf("topic \"%s\" has no partition %d, which the start position names: its %d partitions count from 0;"
						" call mill.seek with another position",
						name, beyond, topic->count);
	for (int i = 0; i < topic->count; i++)
	{
		if (topic->start[i] > topic->marks[i].high)
			return psprintf("topic \"%s\", partition %d ends at offset %lld, before offset %lld of the start position;"
							" call mill.seek with another position",
							name, i, (long long) topic->marks[i].high, (long long) topic->start[i]);
	}
	return NULL;
}

/* Why a stored offset does not fit the topic, or NULL. */
static char *
offset_mismatch(const char *topic, const MillPartition *p)
{
	if (p->stored < p->low)
		return psprintf("topic \"%s\", partition %d: offsets %lld to %lld (%lld messages or fewer) were removed by retention"
						" before they were read; call mill.seek to go on without them",
						topic, p->partition, (long long) p->stored, (long long) p->low - 1,
						(long long) (p->low - p->stored));
	if (p->stored > p->high)
		return psprintf("topic \"%s\", partition %d ends at offset %lld, before the stored offset %lld;"
						" it was truncated or created again; call mill.seek to go on",
						topic, p->partition, (long long) p->high, (long long) p->stored);
	return NULL;
}

/* Load this worker's partitions; returns why they do not fit the topic, or NULL. */
static char *
load_partitions(MillIngest *ingest, const TopicOffsets *topic)
{
	static MillStatement read =
		{.sql = "SELECT partition, next_offset, coalesce(last_message_ms, -1) FROM mill_catalog.pipeline_offset"
				" WHERE pipeline_id = $1 AND partition % $2 = $3 ORDER BY partition",
		 .nargs = 3,
		 .types = {INT8OID, INT4OID, INT4OID}};
	Datum values[3] = {Int64GetDatum(ingest->pipeline->id),
					   Int32GetDatum(ingest->pipeline->workers), Int32GetDatum(ingest->worker_no)};
	uint64 rows = mill_run(&read, SPI_OK_SELECT, values, NULL);

	ingest->partitions = MemoryContextAllocZero(ingest->source_parent,
												sizeof(MillPartition) * (rows + 1));
	ingest->npartitions = 0;
	for (uint64 row = 0; row < rows; row++)
	{
		MillPartition *p = &ingest->partitions[ingest->npartitions++];
		char *reason;

		p->partition = DatumGetInt32(mill_value(row, 1, NULL));
		p->stored = p->position = DatumGetInt64(mill_value(row, 2, NULL));
		if (p->partition >= topic->count)
			return psprintf("topic \"%s\" has %d partitions, and partition %d was read before; it was created again;"
							" drop the pipeline and create it anew",
							ingest->source->stream->layout.topic, topic->count, p->partition);
		p->last_ms = DatumGetInt64(mill_value(row, 3, NULL));
		p->low = topic->marks[p->partition].low;
		p->high = topic->marks[p->partition].high;
		p->moved = true;
		reason = offset_mismatch(ingest->source->stream->layout.topic, p);
		if (reason)
			return reason;
	}
	return NULL;
}

/* Store topic and server that the offsets are of, to be compared with the source later. */
static void
remember_topic(MillIngest *ingest)
{
	MemoryContext old = MemoryContextSwitchTo(ingest->source_parent);

	ingest->pipeline->topic = pstrdup(ingest->source->stream->layout.topic);
	ingest->pipeline->server = pstrdup(ingest->server_name);
	ingest->pipeline->stream = ingest->source->stream->layout.relid;
	ingest->pipeline->start_resolved = true;
	MemoryContextSwitchTo(old);
}

bool
mill_offsets_load(MillIngest *ingest)
{
	TopicOffsets topic;
	MillPipeline *now;
	char *failure;
	bool resolve = !ingest->pipeline->start_resolved;

	/* ask before the transaction: no locks are held during network requests */
	ask_broker(ingest, &topic);

	mill_xact_begin("loading offsets");
	SPI_connect();
	now = mill_pipeline_by_id(ingest->pipeline->id, true);
	if (now == NULL || now->version != ingest->pipeline->version)
	{
		SPI_finish();
		mill_xact_commit();
		return false;
	}
	resolve &= !now->start_resolved;
	failure = resolve ? position_mismatch(ingest, &topic) : NULL;
	if (failure == NULL)
	{
		start_partitions(ingest, &topic, resolve);
		failure = load_partitions(ingest, &topic);
	}
	if (failure)
		mill_pipeline_fail(ingest->pipeline->id, failure);
	SPI_finish();
	mill_xact_commit();
	if (failure == NULL)
		remember_topic(ingest);
	return failure == NULL;
}

/* ---- with each batch ---- */

/* What a range of messages, or an end that was reached, does to each partition. */
typedef struct Move
{
	bool moved;
	int64 next;
	int64 read;
	TimestampTz last_event_at; /* 0: unknown */
	int64 last_message_ms;	   /* of message next - 1, -1 if there is none */
	bool deletes;			   /* there is a delete among them */
} Move;

static Move *
collect_moves(const MillIngest *ingest, int first, int last)
{
	Move *moves = palloc0(sizeof(Move) * (ingest->npartitions + 1));

	for (int i = first; i < last; i++)
	{
		const MillMessage *message = ingest->batch.messages[i];
		Move *move = &moves[message->partition / ingest->pipeline->workers];
		TimestampTz time;

		Assert(message->partition / ingest->pipeline->workers < ingest->npartitions);
		Assert(message->offset + 1 > move->next);

		move->moved = true;
		move->next = message->offset + 1;
		move->read++;
		move->last_message_ms = message->timestamp_ms;
		move->deletes |= ingest->batch.deletes[i];
		if (mill_message_time(message, &time))
			move->last_event_at = move->last_event_at == 0 ? time : Max(move->last_event_at, time);
	}
	/* with the last piece also store the position after the last message */
	for (int i = 0; last == ingest->batch.count && i < ingest->npartitions; i++)
	{
		if (ingest->partitions[i].moved || moves[i].moved)
		{
			if (!moves[i].moved && ingest->partitions[i].position == ingest->partitions[i].stored)
				moves[i].last_message_ms = ingest->partitions[i].last_ms;
			else if (!moves[i].moved || moves[i].next != ingest->partitions[i].position)
				moves[i].last_message_ms = -1;
			moves[i].moved = true;
			moves[i].next = ingest->partitions[i].position;
		}
	}
	return moves;
}

bool
mill_offsets_lock(MillIngest *ingest, int first, int last)
{
	static MillStatement lock =
		{.sql = "SELECT FROM mill_catalog.pipeline_offset o"
				" JOIN unnest($3, $4) AS b (partition, next_offset) ON b.partition = o.partition AND b.next_offset = o.next_offset"
				" JOIN mill_catalog.pipeline p ON p.id = o.pipeline_id"
				" WHERE o.pipeline_id = $1 AND p.version = $2 ORDER BY o.partition FOR UPDATE OF o",
		 .nargs = 4,
		 .types = {INT8OID, INT8OID, INT4ARRAYOID, INT8ARRAYOID}};
	Move *moves = collect_moves(ingest, first, last);
	Datum *partitions = palloc(sizeof(Datum) * (ingest->npartitions + 1));
	Datum *stored = palloc(sizeof(Datum) * (ingest->npartitions + 1));
	Datum values[4];
	int count = 0;

	/* without the extension there is nothing to lock */
	if (!OidIsValid(mill_extension()))
		return false;
	for (int i = 0; i < ingest->npartitions; i++)
	{
		if (!moves[i].moved)
			continue;
		partitions[count] = Int32GetDatum(ingest->partitions[i].partition);
		stored[count++] = Int64GetDatum(ingest->partitions[i].stored);
	}
	values[0] = Int64GetDatum(ingest->pipeline->id);
	values[1] = Int64GetDatum(ingest->pipeline->version);
	values[2] = int4_array(partitions, count);
	values[3] = int8_array(stored, count);
	return mill_run(&lock, SPI_OK_SELECT, values, NULL) == count;
}

void
mill_offsets_store(MillIngest *ingest, int first, int last, const MillTally *tally)
{
	/*
	 * The rate is a moving average over about two seconds: with dt since the
	 * last commit, r := r e^(-dt/2) + (n / dt) (1 - e^(-dt/2)).  Very small
	 * values become 0, because float8 raises an error on underflow and
	 * statistics must not fail a batch.
	 */
	static MillStatement store =
		{.sql =
			 "UPDATE mill_catalog.pipeline_offset SET next_offset = $3, rows_read = rows_read + $4, low_offset = $5,"
			 " last_message_ms = $11, deleted_by = CASE WHEN $12 THEN pg_current_xact_id() ELSE deleted_by END,"
			 " high_offset = $6, last_event_at = coalesce($7, last_event_at), rows_written = rows_written + $8,"
			 " rows_skipped = rows_skipped + $9, dead_letters = dead_letters + $10,"
			 " last_commit_at = CASE WHEN $4 > 0 THEN clock_timestamp() ELSE last_commit_at END,"
			 " rows_per_second = (SELECT CASE WHEN rows_per_second > 1e-6 THEN rows_per_second * exp(-dt / 2) ELSE 0 END"
			 "   + $4 / dt * (1 - exp(-dt / 2))"
			 "  FROM (SELECT least(greatest(extract(epoch FROM clock_timestamp() - coalesce(last_commit_at, '2000-01-01'))::float8,"
			 "   1e-3), 100) AS dt) d)"
			 " WHERE pipeline_id = $1 AND partition = $2",
		 .nargs = 12,
		 .types = {INT8OID, INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID,
				   INT8OID, INT8OID, INT8OID, BOOLOID}};
	Move *moves = collect_moves(ingest, first, last);
	MillTally counted = *tally;

	for (int i = 0; i < ingest->npartitions; i++)
	{
		MillPartition *p = &ingest->partitions[i];
		Datum values[12];
		char nulls[13] = "            ";

		if (!moves[i].moved)
			continue;
		values[0] = Int64GetDatum(ingest->pipeline->id);
		values[1] = Int32GetDatum(p->partition);
		values[2] = Int64GetDatum(moves[i].next);
		values[3] = Int64GetDatum(moves[i].read);
		values[4] = Int64GetDatum(p->low);
		values[5] = Int64GetDatum(Max(p->high, moves[i].next));
		values[6] = TimestampTzGetDatum(moves[i].last_event_at);
		if (moves[i].last_event_at == 0)
			nulls[6] = 'n';
		/* which partition a row came from is unknown: count them on the first one */
		values[7] = Int64GetDatum(counted.written);
		values[8] = Int64GetDatum(counted.skipped);
		values[9] = Int64GetDatum(counted.dead);
		values[10] = Int64GetDatum(moves[i].last_message_ms);
		if (moves[i].last_message_ms < 0)
			nulls[10] = 'n';
		values[11] = BoolGetDatum(ingest->pipeline->upsert && moves[i].deletes);
		/* an offset only grows; mill.seek goes through the start position */
		Assert(moves[i].next >= p->stored);
		p->last_ms = moves[i].last_message_ms;
		memset(&counted, 0, sizeof(counted));
		mill_run(&store, SPI_OK_UPDATE, values, nulls);
	}
}

void
mill_offsets_committed(MillIngest *ingest, int last)
{
	for (int i = 0; i < last; i++)
	{
		const MillMessage *message = ingest->batch.messages[i];
		MillPartition *p = &ingest->partitions[message->partition / ingest->pipeline->workers];

		Assert(p->partition == message->partition);
		p->stored = message->offset + 1;
	}
	if (last < ingest->batch.count)
		return;
	for (int i = 0; i < ingest->npartitions; i++)
	{
		ingest->partitions[i].stored = ingest->partitions[i].position;
		ingest->partitions[i].moved = false;
	}
}
