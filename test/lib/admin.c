/*
 * admin.c
 *		Topics, by librdkafka's Admin API: milliseconds instead of a JVM's second.
 *
 *	kafka_tool create-topic NAME [PARTITIONS [REPLICAS [CONFIG=VALUE ...]]]
 *	kafka_tool delete-topic NAME
 *	kafka_tool add-partitions NAME TOTAL
 *	kafka_tool delete-records NAME PARTITION OFFSET		those before OFFSET
 *	kafka_tool config NAME CONFIG=VALUE ...				replaces the topic's settings
 *	kafka_tool offsets NAME								partition, low, high, leader
 *
 * The first three return when a client sees the result: every partition has a
 * leader, or the topic is gone.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kafka_tool.h"

#define TIMEOUT_MS 60000

typedef struct Admin
{
	rd_kafka_t *rk;
	rd_kafka_queue_t *queue;
	rd_kafka_AdminOptions_t *options;
} Admin;

static void
check_topics(const char *what, const rd_kafka_topic_result_t **topics, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (rd_kafka_topic_result_error(topics[i]))
			fail(what, rd_kafka_topic_result_error_string(topics[i])
						   ? rd_kafka_topic_result_error_string(topics[i])
						   : rd_kafka_err2str(rd_kafka_topic_result_error(topics[i])));
}

/* Waits for the answer to the request just sent. */
static void
await_result(const Admin *a, const char *what)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(a->queue, TIMEOUT_MS + 1000);
	const rd_kafka_topic_result_t **topics = NULL;
	size_t count = 0;

	if (event == NULL)
		fail(what, "no answer");
	if (rd_kafka_event_error(event))
		fail(what, rd_kafka_event_error_string(event));
	if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_CREATETOPICS_RESULT)
		topics = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event),
													 &count);
	else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DELETETOPICS_RESULT)
		topics = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event),
													 &count);
	else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT)
		topics = rd_kafka_CreatePartitions_result_topics(rd_kafka_event_CreatePartitions_result(
															 event),
														 &count);
	check_topics(what, topics, count);
	if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_ALTERCONFIGS_RESULT)
	{
		const rd_kafka_ConfigResource_t **resources =
			rd_kafka_AlterConfigs_result_resources(rd_kafka_event_AlterConfigs_result(event),
												   &count);

		for (size_t i = 0; i < count; i++)
			if (rd_kafka_ConfigResource_error(resources[i]))
				fail(what, rd_kafka_ConfigResource_error_string(resources[i]));
	}
	else if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DELETERECORDS_RESULT)
	{
		const rd_kafka_topic_partition_list_t *list = rd_kafka_DeleteRecords_result_offsets(
			rd_kafka_event_DeleteRecords_result(event));

		for (int i = 0; i < list->cnt; i++)
			if (list->elems[i].err)
				fail(what, rd_kafka_err2str(list->elems[i].err));
	}
	rd_kafka_event_destroy(event);
}

/* How many partitions of the topic have a leader; -1: there is no such topic. */
static int
count_leaders(const Admin *a, const char *name)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err = rd_kafka_metadata(a->rk, 1, NULL, &metadata, TIMEOUT_MS);
	int found = -1;

	if (err)
		fail("metadata", rd_kafka_err2str(err));
	for (int i = 0; i < metadata->topic_cnt; i++)
	{
		if (strcmp(metadata->topics[i].topic, name) != 0)
			continue;
		found = 0;
		for (int j = 0; j < metadata->topics[i].partition_cnt; j++)
			found += metadata->topics[i].partitions[j].leader >= 0;
	}
	rd_kafka_metadata_destroy(metadata);
	return found;
}

static void
nap(int64_t deadline, const char *name)
{
	struct timespec ts = {.tv_nsec = 20000000};

	if (now_ms() > deadline)
		fail(name, "not settled within a minute");
	nanosleep(&ts, NULL);
}

/* A leader that has just been named may not know of it yet. */
static void
watermarks(const Admin *a, const char *name, int partition, int64_t *low, int64_t *high)
{
	int64_t deadline = now_ms() + TIMEOUT_MS;
	rd_kafka_resp_err_t err;

	while ((err = rd_kafka_query_watermark_offsets(a->rk, name, partition, low, high,
												   TIMEOUT_MS)) != 0)
	{
		if (err != RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION &&
			err != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE &&
			err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART && err != RD_KAFKA_RESP_ERR__TRANSPORT)
			fail(name, rd_kafka_err2str(err));
		nap(deadline, name);
	}
}

static void
await_leaders(const Admin *a, const char *name, int wanted)
{
	int64_t deadline = now_ms() + TIMEOUT_MS;
	int64_t low, high;

	while (count_leaders(a, name) != wanted)
		nap(deadline, name);
	for (int i = 0; i < wanted; i++)
		watermarks(a, name, i, &low, &high);
}

static void
create_topic(const Admin *a, int argc, char **argv)
{
	char error[512];
	int partitions = argc > 1 ? atoi(argv[1]) : 1;
	rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(argv[0], partitions,
													   argc > 2 ? atoi(argv[2]) : 1, error,
													   sizeof(error));

	if (topic == NULL)
		fail(argv[0], error);
	for (int i = 3; i < argc; i++)
	{
		char *value = strchr(argv[i], '=');

		if (value == NULL)
			fail("wanted CONFIG=VALUE", argv[i]);
		*value++ = '\0';
		rd_kafka_NewTopic_set_config(topic, argv[i], value);
	}
	rd_kafka_CreateTopics(a->rk, &topic, 1, a->options, a->queue);
	await_result(a, argv[0]);
	await_leaders(a, argv[0], partitions);
}

static void
delete_topic(const Admin *a, const char *name)
{
	rd_kafka_DeleteTopic_t *topic = rd_kafka_DeleteTopic_new(name);

	rd_kafka_DeleteTopics(a->rk, &topic, 1, a->options, a->queue);
	await_result(a, name);
	await_leaders(a, name, -1);
}

static void
add_partitions(const Admin *a, const char *name, int total)
{
	char error[512];
	rd_kafka_NewPartitions_t *new = rd_kafka_NewPartitions_new(name, total, error, sizeof(error));

	if (new == NULL)
		fail(name, error);
	rd_kafka_CreatePartitions(a->rk, &new, 1, a->options, a->queue);
	await_result(a, name);
	await_leaders(a, name, total);
}

static void
delete_records(const Admin *a, const char *name, int partition, int64_t offset)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_DeleteRecords_t *request;

	rd_kafka_topic_partition_list_add(list, name, partition)->offset = offset;
	request = rd_kafka_DeleteRecords_new(list);
	rd_kafka_DeleteRecords(a->rk, &request, 1, a->options, a->queue);
	await_result(a, name);
}

static void
configure_topic(const Admin *a, int argc, char **argv)
{
	rd_kafka_ConfigResource_t *resource = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC,
																	  argv[0]);

	for (int i = 1; i < argc; i++)
	{
		char *value = strchr(argv[i], '=');

		if (value == NULL)
			fail("wanted CONFIG=VALUE", argv[i]);
		*value++ = '\0';
		rd_kafka_ConfigResource_set_config(resource, argv[i], value);
	}
	rd_kafka_AlterConfigs(a->rk, &resource, 1, a->options, a->queue);
	await_result(a, argv[0]);
}

static void
print_offsets(const Admin *a, const char *name)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *handle = rd_kafka_topic_new(a->rk, name, NULL);
	rd_kafka_resp_err_t err = rd_kafka_metadata(a->rk, 0, handle, &metadata, TIMEOUT_MS);

	if (!err)
		err = metadata->topics[0].err;
	if (err)
		fail(name, rd_kafka_err2str(err));
	for (int i = 0; i < metadata->topics[0].partition_cnt; i++)
	{
		int64_t low, high;
		struct rd_kafka_metadata_partition *p = &metadata->topics[0].partitions[i];

		watermarks(a, name, p->id, &low, &high);
		printf("%d\t%lld\t%lld\t%d\n", p->id, (long long) low, (long long) high, p->leader);
	}
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(handle);
}

static int
run_admin(const Admin *a, const char *command, int argc, char **argv)
{
	if (strcmp(command, "create-topic") == 0 && argc >= 1)
		create_topic(a, argc, argv);
	else if (strcmp(command, "delete-topic") == 0 && argc == 1)
		delete_topic(a, argv[0]);
	else if (strcmp(command, "add-partitions") == 0 && argc == 2)
		add_partitions(a, argv[0], atoi(argv[1]));
	else if (strcmp(command, "delete-records") == 0 && argc == 3)
		delete_records(a, argv[0], atoi(argv[1]), atoll(argv[2]));
	else if (strcmp(command, "config") == 0 && argc >= 2)
		configure_topic(a, argc, argv);
	else if (strcmp(command, "offsets") == 0 && argc == 1)
		print_offsets(a, argv[0]);
	else
	{
		fprintf(stderr, "kafka_tool: unknown command or wrong arguments: %s\n", command);
		return 2;
	}
	return 0;
}

int
admin_main(const ClientSettings *settings, int argc, char **argv)
{
	ClientSettings mine = *settings;
	char error[512];
	Admin a;
	int opt, status;

	while ((opt = getopt(argc, argv, "b:X:")) != -1)
		if (!client_option(&mine, opt, optarg))
			return 2;
	a.rk = new_client(RD_KAFKA_PRODUCER, client_conf(&mine));
	a.queue = rd_kafka_queue_new(a.rk);
	a.options = rd_kafka_AdminOptions_new(a.rk, RD_KAFKA_ADMIN_OP_ANY);
	rd_kafka_AdminOptions_set_request_timeout(a.options, TIMEOUT_MS, error, sizeof(error));
	status = run_admin(&a, argv[0], argc - optind, argv + optind);
	rd_kafka_AdminOptions_destroy(a.options);
	rd_kafka_queue_destroy(a.queue);
	rd_kafka_destroy(a.rk);
	return status;
}
