/*
 * consumer.c
 *		The streaming loop.
 *
 * One thread takes messages from the library's queue, one at a time, and
 * writes frames.  It never waits with messages in its hands: when the queue
 * is empty it writes what it has, then waits.  While it is held up in a write
 * the library fills its bounded queue and stops fetching.
 *
 * The client is assigned once and never paused or sought: librdkafka 2.0.2
 * may lose its place then.  So a partition that has come to its assigned end
 * is not taken away; its further messages are dropped here.
 *
 * What the library would skip is an error that ends the stream: a batch that
 * fails its checksum, or of an unknown kind.  The position must never pass a
 * message that was not delivered.
 */
#include "gateway/consumer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/watch.h"

#define WAIT_MS 100
#define HIGH_EVERY 1000

/* Messages between looks at the clock and the queue. */
#define LOOK_EVERY 256

/*
 * A queue that never held more than these messages and bytes since it was
 * last poked cannot have been full, as rules.c keeps its limits above them.
 */
#define POKE_MESSAGES 1000
#define POKE_BYTES (512 * 1024)

typedef struct Partition
{
	int32_t id;
	bool done;	  /* its end was reached and reported */
	int64_t next; /* no message below is delivered */
	int64_t end;  /* -1: none */
	int64_t high; /* as last reported */
} Partition;

typedef struct Stream
{
	MillClient *client;
	MillOutput *out;
	rd_kafka_queue_t *queue;
	Partition *partitions;
	int count;
	int *index; /* by partition id: place in partitions, or -1 */
	int ids;
	MillWatch watch;
	bool down;			 /* DEGRADED or AUTHENTICATION was reported */
	bool refused;		 /* it was AUTHENTICATION */
	int told_partitions; /* last count that was reported */
	bool told_gone;
	bool finished;	/* FATAL was reported */
	bool broken;	/* nobody reads */
	size_t taken;	/* bytes, since it was last poked */
	size_t longest; /* of the queue since it was last poked */
	int64_t next_high;
} Stream;

static void
send_event(Stream *stream, MillEventKind kind, rd_kafka_resp_err_t code, int32_t partition, const char *text)
{
	MillEvent event = {.kind = kind, .error = code, .partition = partition};

	mill_output_begin(stream->out, MILL_REPLY_EVENT);
	mill_output_append(stream->out, &event, sizeof(event));
	mill_output_string(stream->out, text);
	mill_output_end(stream->out);
}

static void
send_refusal(Stream *stream, rd_kafka_resp_err_t code, int32_t partition, const char *text)
{
	char line[1200];

	snprintf(line, sizeof(line), "%s (%s)", text, mill_refusal_hint(stream->client));
	send_event(stream, MILL_EVENT_AUTHENTICATION, code, partition, line);
}

static void
send_end(Stream *stream, const Partition *partition, int64_t position)
{
	struct
	{
		int32_t partition;
		int32_t zero;
		int64_t position;
	} end = {partition->id, 0, position};

	mill_output_frame(stream->out, MILL_REPLY_END, &end, sizeof(end));
}

static void
flush(Stream *stream)
{
	if (!mill_output_flush(stream->out))
		stream->broken = true;
}

static Partition *
find_partition(Stream *stream, int32_t id)
{
	if (id < 0 || id >= stream->ids || stream->index[id] < 0)
		return NULL;
	return &stream->partitions[stream->index[id]];
}

/* ---- messages ---- */

/* Bytes of the encoded headers; *list stays the library's. */
static size_t
measure_headers(const rd_kafka_message_t *message, rd_kafka_headers_t **list)
{
	const char *name;
	const void *value;
	size_t length;
	size_t total = 0;

	if (rd_kafka_message_headers(message, list) != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		*list = NULL;
		return 0;
	}
	for (size_t i = 0; rd_kafka_header_get_all(*list, i, &name, &value, &length) == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		total += 2 * sizeof(uint32_t) + strlen(name) + (value ? length : 0);
	return total;
}

static char *
put(char *to, const void *from, size_t length)
{
	if (length > 0)
		memcpy(to, from, length);
	return to + length;
}

static char *
put_headers(char *to, const rd_kafka_headers_t *list)
{
	const char *name;
	const void *value;
	size_t length;

	for (size_t i = 0; rd_kafka_header_get_all(list, i, &name, &value, &length) == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
	{
		uint32_t name_length = (uint32_t) strlen(name);
		int32_t value_length = value ? (int32_t) length : -1;

		to = put(to, &name_length, sizeof(name_length));
		to = put(to, name, name_length);
		to = put(to, &value_length, sizeof(value_length));
		to = put(to, value, value ? length : 0);
	}
	return to;
}

/* Append the message to the open frame. */
static void
send_message(Stream *stream, const rd_kafka_message_t *message)
{
	rd_kafka_timestamp_type_t type;
	rd_kafka_headers_t *headers;
	MillMessage head = {.partition = message->partition, .offset = message->offset};
	size_t value_length = message->payload ? message->len : 0;
	size_t key_length = message->key ? message->key_len : 0;
	size_t headers_length = measure_headers(message, &headers);
	size_t size = sizeof(head) + key_length + value_length + headers_length;
	char *to;

	head.timestamp_ms = rd_kafka_message_timestamp(message, &type);
	head.timestamp_type = type == RD_KAFKA_TIMESTAMP_CREATE_TIME ? 1 : type == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME ? 2
																												  : 0;
	if (head.timestamp_type == 0)
		head.timestamp_ms = -1;
	head.key_length = message->key ? (int32_t) key_length : -1;
	head.value_length = message->payload ? (int32_t) value_length : -1;
	head.headers_length = (int32_t) headers_length;
	head.size = (uint32_t) MILL_PAD(size);

	mill_output_begin(stream->out, MILL_REPLY_DATA);
	to = mill_output_reserve(stream->out, head.size);
	to = put(to, &head, sizeof(head));
	to = put(to, message->key, key_length);
	to = put(to, message->payload, value_length);
	if (headers != NULL)
		to = put_headers(to, headers);
	memset(to, 0, head.size - size);
}

/* A message: deliver it, or see that its partition's end is behind us. */
static void
take_message(Stream *stream, const rd_kafka_message_t *message)
{
	Partition *partition = find_partition(stream, message->partition);

	if (partition == NULL || partition->done || message->offset < partition->next)
		return;
	if (partition->end >= 0 && message->offset >= partition->end)
	{
		partition->done = true;
		send_end(stream, partition, partition->end);
		return;
	}
	partition->next = message->offset + 1;
	send_message(stream, message);
	if (partition->next == partition->end)
	{
		partition->done = true;
		send_end(stream, partition, partition->end);
	}
}

/* The end of a partition, for now. */
static void
take_end(Stream *stream, const rd_kafka_message_t *message)
{
	Partition *partition = find_partition(stream, message->partition);

	if (partition == NULL || partition->done)
		return;
	if (message->offset > partition->next)
		partition->next = message->offset;
	if (partition->end >= 0 && partition->next >= partition->end)
	{
		partition->done = true;
		send_end(stream, partition, partition->end);
		return;
	}
	send_end(stream, partition, partition->next);
}

/* ---- errors ---- */

static void
stop(Stream *stream, rd_kafka_resp_err_t code, int32_t partition, const char *text)
{
	send_event(stream, MILL_EVENT_FATAL, code, partition, text);
	stream->finished = true;
}

/* An error of one partition, or of a fetch. */
static void
take_error(Stream *stream, const rd_kafka_message_t *message)
{
	Partition *partition = find_partition(stream, message->partition);
	int32_t id = message->rkt ? message->partition : -1;
	char text[768];

	if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
	{
		take_end(stream, message);
		return;
	}
	if (partition != NULL && partition->done)
		return;
	snprintf(text, sizeof(text), "%s", rd_kafka_message_errstr(message));
	mill_scrub(text);
	switch (message->err)
	{
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			send_event(stream, MILL_EVENT_OUT_OF_RANGE, message->err, id, text);
			break;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			send_event(stream, MILL_EVENT_TOPIC_GONE, message->err, id, text);
			break;
		case RD_KAFKA_RESP_ERR__BAD_MSG:
		case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
		case RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED:
		case RD_KAFKA_RESP_ERR__UNDERFLOW:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR__INVALID_ARG:
			stop(stream, message->err, id, text);
			break;
		default:
			if (mill_is_refusal(message->err))
				send_refusal(stream, message->err, id, text);
			else
				mill_watch_suspect(&stream->watch);
			break;
	}
}

/* The library's errors about the whole client; called while we poll. */
static void
client_error(void *arg, rd_kafka_resp_err_t code, const char *text)
{
	Stream *stream = arg;
	char reason[512];

	if (code == RD_KAFKA_RESP_ERR__FATAL)
	{
		code = rd_kafka_fatal_error(stream->client->rk, reason, sizeof(reason));
		mill_scrub(reason);
		stop(stream, code, -1, reason);
		return;
	}
	if (mill_is_refusal(code) && !stream->refused)
	{
		stream->down = stream->refused = true;
		send_refusal(stream, code, -1, text);
	}
	mill_watch_suspect(&stream->watch);
}

static void
client_log(void *arg, const char *text)
{
	send_event(arg, MILL_EVENT_LOG, 0, -1, text);
}

/* ---- the loop ---- */

/* Pass on what the watching thread found out. */
static void
report_watch(Stream *stream)
{
	bool down;
	bool certain;
	bool gone;
	int32_t missing;
	int partitions;

	pthread_mutex_lock(&stream->watch.lock);
	certain = stream->watch.suspected == stream->watch.probed;
	down = stream->watch.down;
	partitions = stream->watch.partitions;
	gone = stream->watch.gone;
	missing = stream->watch.missing;
	pthread_mutex_unlock(&stream->watch.lock);

	if (down && !stream->down)
	{
		MillClient *client = stream->client;

		stream->down = true;
		send_event(stream, MILL_EVENT_DEGRADED, client->last_code, -1,
				   client->last_error[0] ? client->last_error : "the partitions' leaders do not answer");
	}
	else if (!down && stream->down && certain)
	{
		stream->down = stream->refused = stream->client->refused = false;
		stream->client->last_error[0] = '\0';
		send_event(stream, MILL_EVENT_RECOVERED, 0, -1, "the partitions' leaders answer again");
	}
	if (gone && !stream->told_gone)
	{
		stream->told_gone = true;
		send_event(stream, MILL_EVENT_TOPIC_GONE, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, missing,
				   rd_kafka_err2str(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART));
	}
	if (partitions > 0 && partitions != stream->told_partitions)
	{
		int32_t count = partitions;

		stream->told_partitions = partitions;
		mill_output_frame(stream->out, MILL_REPLY_PARTITIONS, &count, sizeof(count));
	}
}

/* High watermarks that moved, as the last fetches brought them. */
static void
report_high(Stream *stream)
{
	bool any = false;

	for (int i = 0; i < stream->count; i++)
	{
		Partition *partition = &stream->partitions[i];
		MillWatermark mark = {.partition = partition->id};

		if (rd_kafka_get_watermark_offsets(stream->client->rk, stream->client->topic_name, partition->id,
										   &mark.low, &mark.high) != RD_KAFKA_RESP_ERR_NO_ERROR ||
			mark.high < 0 || mark.high == partition->high)
			continue;
		partition->high = mark.high;
		if (!any)
			mill_output_begin(stream->out, MILL_REPLY_HIGH);
		any = true;
		mill_output_append(stream->out, &mark, sizeof(mark));
	}
	if (any)
		mill_output_end(stream->out);
}

/* What is due from time to time. */
static void
look_around(Stream *stream)
{
	size_t length = rd_kafka_queue_length(stream->queue);
	int64_t now = mill_now();

	if (length > stream->longest)
		stream->longest = length;
	if (length < stream->longest / 2 && (stream->longest >= POKE_MESSAGES || stream->taken >= POKE_BYTES))
	{
		if (rd_kafka_version() < 0x02020000)
			mill_watch_poke(&stream->watch);
		stream->longest = length;
		stream->taken = 0;
	}
	report_watch(stream);
	if (now >= stream->next_high)
	{
		stream->next_high = now + HIGH_EVERY;
		report_high(stream);
	}
}

/* Take one message or error, waiting this long.  False: there was none. */
static bool
take_next(Stream *stream, int timeout_ms)
{
	rd_kafka_message_t *message = rd_kafka_consumer_poll(stream->client->rk, timeout_ms);

	if (message == NULL)
		return false;
	if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		stream->taken += message->len;
		take_message(stream, message);
	}
	else
		take_error(stream, message);
	rd_kafka_message_destroy(message);
	return true;
}

static void
run(Stream *stream)
{
	int taken = 0;

	while (!stream->broken && !stream->finished)
	{
		if (take_next(stream, 0))
		{
			bool full = stream->out->used >= MILL_OUTPUT_FLUSH;

			if (++taken % LOOK_EVERY == 0 || full)
				look_around(stream);
			if (full)
				flush(stream);
			continue;
		}
		look_around(stream);
		flush(stream);
		if (!stream->broken)
			take_next(stream, WAIT_MS);
	}
	flush(stream);
}

/* Read the assignment into the stream and the library's list. */
static bool
prepare(Stream *stream, MillPayload request, rd_kafka_topic_partition_list_t **list)
{
	MillClient *client = stream->client;
	int32_t *ids;
	int32_t count;

	if (client->topic == NULL || request.length < 2 * sizeof(int32_t))
		return false;
	memcpy(&count, request.data, sizeof(count));
	request.data += 2 * sizeof(int32_t);
	request.length -= 2 * sizeof(int32_t);
	if (count < 0 || request.length / sizeof(MillAssignment) < (size_t) count)
		return false;

	*list = rd_kafka_topic_partition_list_new(count);
	stream->count = count;
	stream->partitions = mill_allocate(NULL, (count + 1) * sizeof(Partition));
	ids = mill_allocate(NULL, (count + 1) * sizeof(int32_t));
	for (int i = 0; i < count; i++)
	{
		MillAssignment assignment;

		memcpy(&assignment, request.data + i * sizeof(assignment), sizeof(assignment));
		if (assignment.partition < 0 || assignment.partition > 1000000 || assignment.start < 0)
			return false;
		stream->partitions[i] = (Partition){assignment.partition, false, assignment.start, assignment.end, -1};
		ids[i] = assignment.partition;
		if (assignment.partition >= stream->ids)
			stream->ids = assignment.partition + 1;
		/* an empty range is at its end already */
		if (assignment.end >= 0 && assignment.start >= assignment.end)
		{
			stream->partitions[i].done = true;
			send_end(stream, &stream->partitions[i], assignment.end);
		}
		else
			rd_kafka_topic_partition_list_add(*list, client->topic_name, assignment.partition)->offset = assignment.start;
	}
	stream->index = mill_allocate(NULL, (stream->ids + 1) * sizeof(int));
	memset(stream->index, -1, (stream->ids + 1) * sizeof(int));
	for (int i = 0; i < count; i++)
		stream->index[ids[i]] = i;
	stream->watch = (MillWatch){.rk = client->rk, .topic = client->topic, .topic_name = client->topic_name, .assigned = ids, .count = count};
	return true;
}

bool
mill_consume(MillClient *client, MillPayload request, MillOutput *out, MillError *error)
{
	Stream stream = {.client = client, .out = out, .told_partitions = client->partitions};
	rd_kafka_topic_partition_list_t *list = NULL;
	rd_kafka_resp_err_t code;

	if (!prepare(&stream, request, &list))
	{
		mill_error_set(error, "08P01", "malformed request to mill_gateway", NULL, NULL);
		return false;
	}
	rd_kafka_poll_set_consumer(client->rk);
	stream.queue = rd_kafka_queue_get_consumer(client->rk);
	client->on_error = client_error;
	client->on_log = client_log;
	client->arg = &stream;
	client->last_error[0] = '\0';
	mill_watch_start(&stream.watch);

	code = rd_kafka_assign(client->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		stop(&stream, code, -1, rd_kafka_err2str(code));
	run(&stream);

	/* After a fatal event there is nothing to do but wait to be ended. */
	while (!stream.broken)
		pause();
	return true;
}
