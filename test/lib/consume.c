/*
 * consume.c
 *		What is in a topic, by librdkafka alone: the tests' second opinion.
 *
 *	kafka_tool consume -b BROKERS -t TOPIC [-u]
 *
 * Reads every partition from its beginning to the end that it had when we came
 * and prints partition, offset, timestamp (ms), key and value in COPY's text
 * format.  Only committed messages, unless -u.  Ends with status 1 if nothing
 * comes for two minutes.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kafka_tool.h"

static int
assign_all(rd_kafka_t *rk, const char *topic)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *handle = rd_kafka_topic_new(rk, topic, NULL);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
	rd_kafka_resp_err_t err = rd_kafka_metadata(rk, 0, handle, &metadata, 60000);
	int partitions;

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		err = metadata->topics[0].err;
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		fail(topic, rd_kafka_err2str(err));
	partitions = metadata->topics[0].partition_cnt;
	for (int i = 0; i < partitions; i++)
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(handle);
	err = rd_kafka_assign(rk, list);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		fail(topic, rd_kafka_err2str(err));
	rd_kafka_topic_partition_list_destroy(list);
	return partitions;
}

static void
print_message(const rd_kafka_message_t *m)
{
	printf("%d\t%lld\t%lld\t", m->partition, (long long) m->offset,
		   (long long) rd_kafka_message_timestamp(m, NULL));
	put_escaped(stdout, m->key, m->key_len);
	putchar('\t');
	put_escaped(stdout, m->payload, m->len);
	putchar('\n');
}

static void
read_to_end(rd_kafka_t *rk, int partitions)
{
	int64_t deadline = now_ms() + 120000;

	while (partitions > 0)
	{
		rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 200);

		if (m == NULL && now_ms() > deadline)
			fail("consume", "nothing came for two minutes");
		if (m == NULL)
			continue;
		if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			partitions--;
		else if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			print_message(m);
			deadline = now_ms() + 120000;
		}
		else if (m->err != RD_KAFKA_RESP_ERR__TRANSPORT &&
				 m->err != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
			fail("consume", rd_kafka_message_errstr(m));
		rd_kafka_message_destroy(m);
	}
}

int
consume_main(ClientSettings *settings, int argc, char **argv)
{
	const char *topic = NULL;
	const char *isolation = "read_committed";
	rd_kafka_t *rk;
	int opt;

	while ((opt = getopt(argc, argv, "b:X:t:u")) != -1)
	{
		if (client_option(settings, opt, optarg))
			continue;
		if (opt == 't')
			topic = optarg;
		else if (opt == 'u')
			isolation = "read_uncommitted";
		else
			return 2;
	}
	if (topic == NULL)
		fail("usage", "kafka_tool consume -b BROKERS -t TOPIC [-u]");
	default_setting(settings, "isolation.level", isolation);
	default_setting(settings, "group.id", "kafka_tool");
	default_setting(settings, "enable.auto.commit", "false");
	default_setting(settings, "enable.partition.eof", "true");
	default_setting(settings, "auto.offset.reset", "error");
	rk = new_client(RD_KAFKA_CONSUMER, client_conf(settings));
	rd_kafka_poll_set_consumer(rk);
	read_to_end(rk, assign_all(rk, topic));
	rd_kafka_consumer_close(rk);
	rd_kafka_destroy(rk);
	return fflush(stdout) == 0 ? 0 : 1;
}
