/*
 * consumer.c
 *		The streaming loop.
 *
 * One thread takes messages from the library's queue, one at a time, and
 * writes frames.  It never waits with messages that are not written: when the
 * queue is empty it first writes what it has.  While a write blocks, the
 * library fills its bounded queue and stops fetching.
 *
 * The client is assigned once and never paused or sought, because librdkafka
 * 2.0.2 may lose its position then.  So a partition that has come to its
 * assigned end stays assigned, and its further messages are dropped here.
 *
 * About once a second an ALIVE frame is written, also between other frames, and
 * by this thread, so that a loop that hangs is silent.
 *
 * Where the library would skip messages (a batch with a wrong checksum or of an
 * unknown kind) the stream ends with an error: the position must never pass a
 * message that was not delivered.
 */
#include "gateway/consumer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/encode.h"
#include "gateway/watch.h"

#define WAIT_MS 100
#define HIGH_EVERY 1000
#define ALIVE_EVERY 1000

/* Check the clock and the queue after so many messages. */
#define CHECK_EVERY 256

/*
 * A queue that never held more messages and bytes than these since the last
 * poke cannot have been full: rules.c keeps its limits above them.
 */
#define POKE_MESSAGES 1000
#define POKE_BYTES (512 * 1024)

typedef struct Partition
{
	int32_t id;
	bool done;	  /* its end was reached and reported */
	int64_t next; /* lower offsets are not delivered */
	int64_t end;  /* assigned end; -1: none */
	int64_t high; /* as last reported */
} Partition;

typedef struct Stream
{
	MillClient *client;
	MillOutput *out;
	rd_kafka_queue_t *queue;
	Partition *partitions;
	int count;
	int *index; /* by partition number: index in partitions, or -1 */
	int ids;
	MillWatch watch;
	size_t limit;			 /* on a message's parts */
	bool down;				 /* DEGRADED or REFUSED was reported */
	bool refused;			 /* it was REFUSED */
	bool forbidden;			 /* FORBIDDEN was reported */
	int partitions_reported; /* as last reported */
	bool gone_reported;
	bool finished;	/* FATAL was reported */
	bool broken;	/* nobody reads */
	size_t taken;	/* bytes taken since the last poke */
	size_t longest; /* longest queue since the last poke */
	int64_t next_high;
	int64_t next_alive;
} Stream;

static void
send_event(Stream *stream, MillEventKind kind, rd_kafka_resp_err_t code, int32_t partition,
		   const MillError *what)
{
	MillEvent event = {.kind = kind, .error = code, .partition = partition};

	mill_output_begin(stream->out, MILL_REPLY_EVENT);
	mill_output_append(stream->out, &event, sizeof(event));
	mill_output_string(stream->out, what->sqlstate);
	mill_output_string(stream->out, what->message);
	mill_output_string(stream->out, what->detail);
	mill_output_string(stream->out, what->hint);
	mill_output_end(stream->out);
}

/* Send an event that has only a text of the library. */
static void
send_text(Stream *stream, MillEventKind kind, rd_kafka_resp_err_t code, int32_t partition,
		  const char *text)
{
	MillError what = {0};

	snprintf(what.message, sizeof(what.message), "%s", text);
	send_event(stream, kind, code, partition, &what);
}

/* No right to read the topic; if it is granted later, another gateway is needed. */
static void
send_forbidden(Stream *stream, int32_t partition, const char *text)
{
	MillError what = {0};

	if (stream->forbidden)
		return;
	stream->forbidden = true;
	mill_trouble_forbidden(stream->client->topic_name, &what);
	snprintf(what.detail, sizeof(what.detail), "%s", text);
	send_event(stream, MILL_EVENT_FORBIDDEN, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
			   partition, &what);
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
stream_partition(Stream *stream, int32_t id)
{
	if (id < 0 || id >= stream->ids || stream->index[id] < 0)
		return NULL;
	return &stream->partitions[stream->index[id]];
}

/* ---- messages ---- */

/* Deliver a message, unless it is past its partition's assigned end. */
static void
take_message(Stream *stream, const rd_kafka_message_t *message)
{
	Partition *partition = stream_partition(stream, message->partition);

	if (partition == NULL || partition->done || message->offset < partition->next)
		return;
	if (partition->end >= 0 && message->offset >= partition->end)
	{
		partition->done = true;
		send_end(stream, partition, partition->end);
		return;
	}
	partition->next = message->offset + 1;
	mill_encode_message(stream->out, message, stream->limit);
	if (partition->next == partition->end)
	{
		partition->done = true;
		send_end(stream, partition, partition->end);
	}
}

/* The end of a partition was reached, for now. */
static void
note_end(Stream *stream, const rd_kafka_message_t *message)
{
	Partition *partition = stream_partition(stream, message->partition);

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
	MillError what = {0};

	snprintf(what.message, sizeof(what.message), "%s", text);
	if (code == RD_KAFKA_RESP_ERR__BAD_COMPRESSION)
		snprintf(what.hint, sizeof(what.hint),
				 "The batch is damaged, or unpacks to more than \"receive.message.max.bytes\"; "
				 "a pipeline goes on behind it after mill.seek.");
	send_event(stream, MILL_EVENT_FATAL, code, partition, &what);
	stream->finished = true;
}

/* Handle an error of one partition or one fetch. */
static void
take_error(Stream *stream, const rd_kafka_message_t *message)
{
	Partition *partition = stream_partition(stream, message->partition);
	int32_t id = message->rkt ? message->partition : -1;
	char text[768];

	if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
	{
		note_end(stream, message);
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
			send_text(stream, MILL_EVENT_OUT_OF_RANGE, message->err, id, text);
			break;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			send_text(stream, MILL_EVENT_TOPIC_GONE, message->err, id, text);
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
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			/* reported once for each partition; its end is never reported */
			send_forbidden(stream, id, text);
			break;
		default:
			mill_watch_suspect(&stream->watch);
			break;
	}
}

/* The library's errors about the whole client; called while polling. */
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
	if (code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
		send_forbidden(stream, -1, text);
	else if (mill_client_refused(stream->client) && !stream->refused)
	{
		MillError what = {0};

		stream->down = stream->refused = true;
		mill_client_explain(stream->client, &what);
		send_event(stream, MILL_EVENT_REFUSED, code, -1, &what);
	}
	mill_watch_suspect(&stream->watch);
}

static void
client_log(void *arg, const char *text)
{
	send_text(arg, MILL_EVENT_LOG, 0, -1, text);
}

/* ---- the loop ---- */

/* Report that some leader does not answer or, if certain, that all answer again. */
static void
report_down(Stream *stream, bool down, bool certain)
{
	MillClient *client = stream->client;
	MillError what = {0};

	if (down && !stream->down)
	{
		stream->down = true;
		mill_client_explain(client, &what);
		if (client->last_error[0] == '\0')
		{
			mill_trouble_explain(MILL_TROUBLE_UNREACHABLE, &what);
			snprintf(what.detail, sizeof(what.detail), "the partitions' leaders do not answer");
		}
		send_event(stream, MILL_EVENT_DEGRADED, RD_KAFKA_RESP_ERR__TRANSPORT, -1, &what);
	}
	else if (!down && stream->down && certain && !stream->forbidden)
	{
		stream->down = stream->refused = false;
		client->trouble = MILL_TROUBLE_NONE;
		client->last_error[0] = '\0';
		send_text(stream, MILL_EVENT_RECOVERED, 0, -1, "the partitions' leaders answer again");
	}
}

/* Report what the watching thread found out. */
static void
report_watch(Stream *stream)
{
	bool down;
	bool certain;
	bool forbidden;
	bool gone;
	int32_t missing;
	int partitions;

	pthread_mutex_lock(&stream->watch.lock);
	certain = stream->watch.suspected == stream->watch.probed;
	down = stream->watch.down;
	forbidden = stream->watch.forbidden;
	partitions = stream->watch.partitions;
	gone = stream->watch.gone;
	missing = stream->watch.missing;
	pthread_mutex_unlock(&stream->watch.lock);

	if (forbidden)
		send_forbidden(stream, -1, rd_kafka_err2str(RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED));
	report_down(stream, down, certain);
	if (gone && !stream->gone_reported)
	{
		stream->gone_reported = true;
		send_text(stream, MILL_EVENT_TOPIC_GONE, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, missing,
				  rd_kafka_err2str(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART));
	}
	if (partitions > 0 && partitions != stream->partitions_reported)
	{
		int32_t count = partitions;

		stream->partitions_reported = partitions;
		mill_output_frame(stream->out, MILL_REPLY_PARTITIONS, &count, sizeof(count));
	}
}

/* Report high watermarks that changed; the last fetches brought them. */
static void
report_high(Stream *stream)
{
	bool any = false;

	for (int i = 0; i < stream->count; i++)
	{
		Partition *partition = &stream->partitions[i];
		MillWatermark mark = {.partition = partition->id};

		if (rd_kafka_get_watermark_offsets(stream->client->rk, stream->client->topic_name,
										   partition->id, &mark.low,
										   &mark.high) != RD_KAFKA_RESP_ERR_NO_ERROR ||
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

/* Do what is due periodically. */
static void
run_periodic(Stream *stream)
{
	size_t length = rd_kafka_queue_length(stream->queue);
	int64_t now = mill_now();

	if (length > stream->longest)
		stream->longest = length;
	if (length < stream->longest / 2 &&
		(stream->longest >= POKE_MESSAGES || stream->taken >= POKE_BYTES))
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
	if (now >= stream->next_alive)
	{
		stream->next_alive = now + ALIVE_EVERY;
		mill_output_frame(stream->out, MILL_REPLY_ALIVE, NULL, 0);
	}
}

/* Take one message or error, waiting at most this long.  False: there was none. */
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
run_stream(Stream *stream)
{
	int taken = 0;

	while (!stream->broken && !stream->finished)
	{
		if (take_next(stream, 0))
		{
			bool full = stream->out->used >= MILL_OUTPUT_FLUSH;

			if (++taken % CHECK_EVERY == 0 || full)
				run_periodic(stream);
			if (full)
				flush(stream);
			continue;
		}
		run_periodic(stream);
		flush(stream);
		if (!stream->broken)
			take_next(stream, WAIT_MS);
	}
	flush(stream);
}

/* Read the assignment into the stream and the library's list. */
static bool
prepare_stream(Stream *stream, MillPayload request, rd_kafka_topic_partition_list_t **list)
{
	MillClient *client = stream->client;
	int32_t *ids;
	int32_t count;
	int32_t limit;

	if (client->topic == NULL || request.length < 2 * sizeof(int32_t))
		return false;
	memcpy(&count, request.data, sizeof(count));
	memcpy(&limit, request.data + sizeof(count), sizeof(limit));
	request.data += 2 * sizeof(int32_t);
	request.length -= 2 * sizeof(int32_t);
	if (count < 0 || limit < 0 || request.length / sizeof(MillAssignment) < (size_t) count)
		return false;

	*list = rd_kafka_topic_partition_list_new(count);
	stream->limit = limit;
	stream->count = count;
	stream->partitions = mill_allocate(NULL, (count + 1) * sizeof(Partition));
	ids = mill_allocate(NULL, (count + 1) * sizeof(int32_t));
	for (int i = 0; i < count; i++)
	{
		MillAssignment assignment;

		memcpy(&assignment, request.data + i * sizeof(assignment), sizeof(assignment));
		if (assignment.partition < 0 || assignment.partition > 1000000 || assignment.start < 0)
			return false;
		stream->partitions[i] = (Partition){assignment.partition, false, assignment.start,
											assignment.end, -1};
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
			rd_kafka_topic_partition_list_add(*list, client->topic_name, assignment.partition)
				->offset = assignment.start;
	}
	stream->index = mill_allocate(NULL, (stream->ids + 1) * sizeof(int));
	memset(stream->index, -1, (stream->ids + 1) * sizeof(int));
	for (int i = 0; i < count; i++)
		stream->index[ids[i]] = i;
	stream->watch = (MillWatch){.rk = client->rk,
								.topic = client->topic,
								.topic_name = client->topic_name,
								.assigned = ids,
								.count = count};
	return true;
}

bool
mill_consume(MillClient *client, MillPayload request, MillOutput *out, MillError *error)
{
	Stream stream = {.client = client, .out = out, .partitions_reported = client->partitions};
	rd_kafka_topic_partition_list_t *list = NULL;
	rd_kafka_resp_err_t code;

	if (!prepare_stream(&stream, request, &list))
		return mill_error_malformed(error);
	rd_kafka_poll_set_consumer(client->rk);
	stream.queue = rd_kafka_queue_get_consumer(client->rk);
	client->on_error = client_error;
	client->on_log = client_log;
	client->arg = &stream;
	client->trouble = MILL_TROUBLE_NONE;
	client->last_error[0] = '\0';
	mill_watch_start(&stream.watch);

	code = rd_kafka_assign(client->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		stop(&stream, code, -1, rd_kafka_err2str(code));
	run_stream(&stream);

	/* after a fatal event only wait to be ended */
	while (!stream.broken)
		pause();
	return true;
}
