/*
 * client.c
 *		Requests about topics, before streaming.
 *
 * Each has a deadline.  The library itself keeps waiting for brokers that
 * refuse us or cannot be reached; a user who waits for a SELECT should not.  So
 * the wait is cut into slices and ends early if there is no hope: at once if
 * credentials are refused, after DOWN_GRACE if no broker can be reached.
 * when credentials are refused, after DOWN_GRACE when nothing is reachable.
 */
#include "gateway/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLICE 100
#define PAUSE 20
#define DOWN_GRACE 1500

/* Longest timeout that a request may give, in milliseconds. */
#define TIMEOUT_LIMIT 600000

/* Every request begins with an int32, its timeout; read it as a deadline. */
static bool
take_deadline(MillPayload *request, int64_t *deadline)
{
	int32_t timeout;

	if (request->length < sizeof(timeout))
		return false;
	memcpy(&timeout, request->data, sizeof(timeout));
	request->data += sizeof(timeout);
	request->length -= sizeof(timeout);
	if (timeout < 1)
		timeout = 1;
	*deadline = mill_now() + (timeout > TIMEOUT_LIMIT ? TIMEOUT_LIMIT : timeout);
	return true;
}

/* The shorter of two waits, at least a millisecond. */
static int
shorter_wait(int64_t a, int64_t b)
{
	int64_t wait = a < b ? a : b;

	return wait < 1 ? 1 : (int) wait;
}

/* A broker answered: forget errors from before. */
static void
forget_trouble(MillClient *client)
{
	client->trouble = MILL_TROUBLE_NONE;
	client->last_error[0] = '\0';
}

/* Serve the library's callbacks, which report errors and log lines. */
static void
serve_library(MillClient *client)
{
	while (rd_kafka_poll(client->rk, 0) > 0)
		;
}

/* Is an error with this code worth a retry? */
static bool
is_transient(rd_kafka_resp_err_t code)
{
	switch (code)
	{
		case RD_KAFKA_RESP_ERR__TRANSPORT:
		case RD_KAFKA_RESP_ERR__TIMED_OUT:
		case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
		case RD_KAFKA_RESP_ERR__WAIT_COORD:
		case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
		case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
		case RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH:
		case RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH:
		case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
		case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
		case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
			return true;
		default:
			return false;
	}
}

/* Set the error of brokers that did not answer. */
static bool
set_unanswered(MillClient *client, rd_kafka_resp_err_t code, MillError *error)
{
	if (mill_client_refused(client) || (is_transient(code) && client->last_error[0]))
		mill_client_explain(client, error);
	else
	{
		MillTrouble trouble = mill_trouble_find(code, "", 0);

		mill_trouble_explain(is_transient(code) ? MILL_TROUBLE_UNREACHABLE : trouble, error);
		snprintf(error->detail, sizeof(error->detail), "%s", rd_kafka_err2str(code));
	}
	return false;
}

/* No answer within this slice: is it worth waiting on? */
static bool
is_hopeless(MillClient *client, int64_t started, int64_t deadline)
{
	int64_t now = mill_now();

	/* some errors are returned at once: wait a little before the next slice */
	rd_kafka_poll(client->rk, PAUSE);
	serve_library(client);
	return mill_client_refused(client) || now >= deadline ||
		   (client->all_down && now - started > DOWN_GRACE);
}

/*
 * Metadata of one topic, or of all.  The library's call gives up when no broker
 * gets connected within the slice.  If one is connected but does not answer,
 * the slice was too short for it and is doubled.
 */
static rd_kafka_resp_err_t
ask_metadata(MillClient *client, rd_kafka_topic_t *topic, int64_t deadline,
			 const struct rd_kafka_metadata **metadata)
{
	int64_t started = mill_now();
	int64_t slice = SLICE;

	client->all_down = false;
	for (;;)
	{
		int64_t left = deadline - mill_now();
		rd_kafka_resp_err_t code = rd_kafka_metadata(client->rk, topic == NULL, topic, metadata,
													 shorter_wait(slice, left));

		if (code == RD_KAFKA_RESP_ERR_NO_ERROR && topic != NULL && (*metadata)->topic_cnt == 1 &&
			is_transient((*metadata)->topics[0].err))
		{
			code = (*metadata)->topics[0].err;
			rd_kafka_metadata_destroy(*metadata);
			*metadata = NULL;
		}
		if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
			forget_trouble(client);
		if (!is_transient(code) || is_hopeless(client, started, deadline))
			return code;
		if (code == RD_KAFKA_RESP_ERR__TIMED_OUT)
			slice *= 2;
	}
}

bool
mill_client_metadata(MillClient *client, MillPayload request, MillOutput *out, MillError *error)
{
	const struct rd_kafka_metadata *metadata = NULL;
	rd_kafka_resp_err_t code;
	int64_t deadline;
	int32_t count;
	char message[320];

	if (client->rk == NULL || !take_deadline(&request, &deadline) || request.length < 2 ||
		memchr(request.data, '\0', request.length) == NULL)
		return mill_error_malformed(error);

	if (client->topic != NULL)
		rd_kafka_topic_destroy(client->topic);
	client->topic_name = mill_allocate(client->topic_name, strlen(request.data) + 1);
	strcpy(client->topic_name, request.data);
	client->topic = rd_kafka_topic_new(client->rk, client->topic_name, NULL);
	if (client->topic == NULL)
	{
		snprintf(message, sizeof(message), "invalid topic name \"%.249s\"", client->topic_name);
		mill_error_set(error, "HV00R", message, rd_kafka_err2str(rd_kafka_last_error()), NULL);
		return false;
	}

	code = ask_metadata(client, client->topic, deadline, &metadata);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		return set_unanswered(client, code, error);
	code = metadata->topic_cnt == 1 ? metadata->topics[0].err
									: RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	count = metadata->topic_cnt == 1 ? metadata->topics[0].partition_cnt : 0;
	rd_kafka_metadata_destroy(metadata);

	if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC || code == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION)
	{
		snprintf(message, sizeof(message), "topic \"%.249s\" does not exist", client->topic_name);
		mill_error_set(error, "HV00R", message, NULL, NULL);
		return false;
	}
	if (code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
	{
		mill_trouble_forbidden(client->topic_name, error);
		return false;
	}
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		return set_unanswered(client, code, error);
	client->partitions = count;
	mill_output_frame(out, MILL_REPLY_METADATA, &count, sizeof(count));
	return true;
}

/* One round of requests for offsets.  Errors that are not transient are set in the list. */
static rd_kafka_resp_err_t
ask_offsets(MillClient *client, rd_kafka_topic_partition_list_t *list, int64_t deadline)
{
	int64_t started = mill_now();
	int64_t slice = 1000;
	int64_t *asked = mill_allocate(NULL, list->cnt * sizeof(int64_t));
	rd_kafka_resp_err_t code;

	client->all_down = false;
	for (int i = 0; i < list->cnt; i++)
		asked[i] = list->elems[i].offset;
	for (;;)
	{
		int64_t left = deadline - mill_now();

		code = rd_kafka_offsets_for_times(client->rk, list, shorter_wait(slice, left));
		if (!is_transient(code) || is_hopeless(client, started, deadline))
			break;
		if (code == RD_KAFKA_RESP_ERR__TIMED_OUT)
			slice *= 2;
		for (int i = 0; i < list->cnt; i++)
			list->elems[i].offset = asked[i];
	}
	free(asked);
	return code;
}

/*
 * Offsets for times, one request to each leader.  If one partition's answer is
 * an error the library reports that for all; then each partition is asked for
 * separately.  The list comes back in its order, with an error where there is one.
 */
static rd_kafka_resp_err_t
find_offsets(MillClient *client, rd_kafka_topic_partition_list_t *list, int64_t deadline)
{
	rd_kafka_topic_partition_list_t *copy = rd_kafka_topic_partition_list_copy(list);
	rd_kafka_resp_err_t code = ask_offsets(client, copy, deadline);
	bool alone = code != RD_KAFKA_RESP_ERR_NO_ERROR && !is_transient(code);

	for (int i = 0; i < list->cnt && (alone || code == RD_KAFKA_RESP_ERR_NO_ERROR); i++)
	{
		rd_kafka_topic_partition_t *one = &list->elems[i];

		if (alone)
		{
			rd_kafka_topic_partition_list_t *single = rd_kafka_topic_partition_list_new(1);

			rd_kafka_topic_partition_list_add(single, one->topic, one->partition)
				->offset = one->offset;
			one->err = ask_offsets(client, single, deadline);
			one->offset = single->elems[0].offset;
			rd_kafka_topic_partition_list_destroy(single);
		}
		else
		{
			one->err = copy->elems[i].err;
			one->offset = copy->elems[i].offset;
		}
	}
	rd_kafka_topic_partition_list_destroy(copy);
	return alone ? RD_KAFKA_RESP_ERR_NO_ERROR : code;
}

/* The int32 count after the deadline, if the payload has so many items. */
static bool
take_count(MillClient *client, MillPayload *request, size_t item, int32_t *count)
{
	if (client->rk == NULL || client->topic == NULL || request->length < sizeof(*count))
		return false;
	memcpy(count, request->data, sizeof(*count));
	request->data += sizeof(*count);
	request->length -= sizeof(*count);
	return *count >= 0 && request->length / item >= (size_t) *count;
}

/* Is one of these partitions not ours to read? */
static bool
is_forbidden(const MillClient *client, const rd_kafka_topic_partition_list_t *list, MillError *error)
{
	for (int i = 0; i < list->cnt; i++)
	{
		if (list->elems[i].err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
		{
			mill_trouble_forbidden(client->topic_name, error);
			return true;
		}
	}
	return false;
}

bool
mill_client_watermarks(MillClient *client, MillPayload request, MillOutput *out, MillError *error)
{
	rd_kafka_topic_partition_list_t *low;
	rd_kafka_topic_partition_list_t *high;
	rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
	bool forbidden;
	int64_t deadline;
	int32_t count;

	if (!take_deadline(&request, &deadline) ||
		!take_count(client, &request, sizeof(int32_t), &count))
		return mill_error_malformed(error);

	/* "Times" of the protocol: the beginning, and the end, which is the last
	 * stable offset if only committed messages are read. */
	low = rd_kafka_topic_partition_list_new(count);
	high = rd_kafka_topic_partition_list_new(count);
	for (int i = 0; i < count; i++)
	{
		int32_t partition;

		memcpy(&partition, request.data + i * sizeof(partition), sizeof(partition));
		rd_kafka_topic_partition_list_add(low, client->topic_name, partition)
			->offset = RD_KAFKA_OFFSET_BEGINNING;
		rd_kafka_topic_partition_list_add(high, client->topic_name, partition)
			->offset = RD_KAFKA_OFFSET_END;
	}
	if (count > 0)
		code = find_offsets(client, low, deadline);
	if (count > 0 && code == RD_KAFKA_RESP_ERR_NO_ERROR)
		code = find_offsets(client, high, deadline);
	forbidden = is_forbidden(client, low, error) || is_forbidden(client, high, error);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR && !forbidden)
	{
		mill_output_begin(out, MILL_REPLY_WATERMARKS);
		for (int i = 0; i < count; i++)
		{
			MillWatermark mark = {.partition = low->elems[i].partition,
								  .error = low->elems[i].err ? low->elems[i].err
															 : high->elems[i].err,
								  .low = low->elems[i].offset,
								  .high = high->elems[i].offset};

			if (mark.error != 0)
				mark.low = mark.high = -1;

			mill_output_append(out, &mark, sizeof(mark));
		}
		mill_output_end(out);
	}
	rd_kafka_topic_partition_list_destroy(low);
	rd_kafka_topic_partition_list_destroy(high);
	return !forbidden && (code == RD_KAFKA_RESP_ERR_NO_ERROR || set_unanswered(client, code, error));
}

bool
mill_client_times(MillClient *client, MillPayload request, MillOutput *out, MillError *error)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
	int64_t deadline;
	int32_t count;

	if (!take_deadline(&request, &deadline) ||
		!take_count(client, &request, sizeof(MillPartitionTime), &count))
		return mill_error_malformed(error);

	list = rd_kafka_topic_partition_list_new(count);
	for (int i = 0; i < count; i++)
	{
		MillPartitionTime time;

		memcpy(&time, request.data + i * sizeof(time), sizeof(time));
		/* negative times have special meanings in Kafka's protocol */
		rd_kafka_topic_partition_list_add(list, client->topic_name, time.partition)
			->offset = time.time_ms < 0 ? 0 : time.time_ms;
	}
	if (count > 0)
		code = find_offsets(client, list, deadline);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		mill_output_begin(out, MILL_REPLY_TIMES);
		for (int i = 0; i < count; i++)
		{
			MillPartitionOffset offset = {.partition = list->elems[i].partition,
										  .error = list->elems[i].err,
										  .offset = list->elems[i].offset < 0
														? -1
														: list->elems[i].offset};

			mill_output_append(out, &offset, sizeof(offset));
		}
		mill_output_end(out);
	}
	rd_kafka_topic_partition_list_destroy(list);
	return code == RD_KAFKA_RESP_ERR_NO_ERROR || set_unanswered(client, code, error);
}

/* All topics except internal ones, whose names begin with two underscores. */
bool
mill_client_topics(MillClient *client, MillPayload request, MillOutput *out, MillError *error)
{
	const struct rd_kafka_metadata *metadata = NULL;
	rd_kafka_resp_err_t code;
	int64_t deadline;

	if (client->rk == NULL || !take_deadline(&request, &deadline))
		return mill_error_malformed(error);
	code = ask_metadata(client, NULL, deadline, &metadata);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		return set_unanswered(client, code, error);
	mill_output_begin(out, MILL_REPLY_TOPICS);
	for (int i = 0; i < metadata->topic_cnt; i++)
	{
		if (strncmp(metadata->topics[i].topic, "__", 2) != 0)
			mill_output_string(out, metadata->topics[i].topic);
	}
	mill_output_end(out);
	rd_kafka_metadata_destroy(metadata);
	return true;
}
