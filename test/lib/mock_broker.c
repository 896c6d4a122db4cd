/*
 * mock_broker.c
 *		A Kafka cluster for demos and quick tests, without Kafka: librdkafka's mock
 *		cluster in a process of its own.
 *
 *	mock_broker [-d] [-b BROKERS] [TOPIC=PARTITIONS ...]
 *
 * Prints its bootstrap.servers as the first line on stdout, then runs until its
 * standard input ends or SIGTERM or SIGINT comes, so that it never outlives
 * the test that holds the other end of the pipe.  With -d it does not look at
 * its input and runs until the signal.  BROKERS is 1 unless given; a topic that
 * is not named is created with 4 partitions when somebody first asks for it.
 *
 * Lines on its input are commands; each is answered by "ok" or by what is
 * wrong with it:
 *
 *	topic NAME PARTITIONS		create a topic
 *	down BROKER | up BROKER		refuse connections; take them again
 *	leader TOPIC PARTITION BROKER	move a leader
 *	error TOPIC CODE		answer requests for the topic with this error code
 *						of the protocol; 0 ends it
 *
 * Everything is in memory and gone when the process ends.  Limits to know of
 * the mock cluster: it keeps 5 MiB or 100,000 messages a partition and forgets
 * older ones, deletes no topic and no record, does not hide aborted
 * transactions, and listens on 127.0.0.1 on ports that it chooses.  It does not
 * recognize a message that is sent again: "down" in the middle of production
 * can leave one in the topic twice, which an idempotent producer's account
 * knows once.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

static rd_kafka_mock_cluster_t *cluster;

static void
die(const char *what, const char *detail)
{
	fprintf(stderr, "mock_broker: %s: %s\n", what, detail);
	exit(1);
}

/* The handle that owns the cluster's thread; no message goes through it. */
static rd_kafka_t *
start_cluster(int brokers)
{
	char error[256];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk;

	rd_kafka_conf_set(conf, "log_level", "2", error, sizeof(error));
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (rk == NULL)
		die("could not start", error);
	cluster = rd_kafka_mock_cluster_new(rk, brokers);
	if (cluster == NULL)
		die("could not start", "no mock cluster");
	return rk;
}

static const char *
create_topic(const char *name, int partitions)
{
	rd_kafka_resp_err_t err = rd_kafka_mock_topic_create(cluster, name, partitions, 1);

	return err ? rd_kafka_err2str(err) : "ok";
}

static const char *
run_command(const char *line)
{
	char topic[256];
	int a, b;
	rd_kafka_resp_err_t err;

	if (sscanf(line, "topic %255s %d", topic, &a) == 2)
		return create_topic(topic, a);
	else if (sscanf(line, "down %d", &a) == 1)
		err = rd_kafka_mock_broker_set_down(cluster, a);
	else if (sscanf(line, "up %d", &a) == 1)
		err = rd_kafka_mock_broker_set_up(cluster, a);
	else if (sscanf(line, "leader %255s %d %d", topic, &a, &b) == 3)
		err = rd_kafka_mock_partition_set_leader(cluster, topic, a, b);
	else if (sscanf(line, "error %255s %d", topic, &a) == 2)
	{
		rd_kafka_mock_topic_set_error(cluster, topic, a);
		err = RD_KAFKA_RESP_ERR_NO_ERROR;
	}
	else
		return "unknown command";
	return err ? rd_kafka_err2str(err) : "ok";
}

/* Runs the whole lines that have arrived; false at end of input. */
static bool
read_commands(void)
{
	static char buffer[1024];
	static size_t used = 0;
	ssize_t n = read(STDIN_FILENO, buffer + used, sizeof(buffer) - 1 - used);
	char *end;

	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0)
		return false;
	used += n;
	buffer[used] = '\0';
	while ((end = strchr(buffer, '\n')) != NULL)
	{
		*end++ = '\0';
		puts(run_command(buffer));
		used -= end - buffer;
		memmove(buffer, end, used + 1);
	}
	fflush(stdout);
	return used < sizeof(buffer) - 1;
}

/* Blocks the signals that end us, before librdkafka starts threads that would inherit them. */
static int
watch_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static void
run(int signals, bool read_input)
{
	struct pollfd fds[2] = {{.fd = signals, .events = POLLIN},
							{.fd = read_input ? STDIN_FILENO : -1, .events = POLLIN}};

	for (;;)
	{
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			die("poll", strerror(errno));
		if (fds[0].revents)
			return;
		if (fds[1].revents && !read_commands())
			return;
	}
}

int
main(int argc, char **argv)
{
	int brokers = 1, opt, signals;
	bool read_input = true;
	rd_kafka_t *rk;

	while ((opt = getopt(argc, argv, "b:d")) != -1)
	{
		if (opt == 'b')
			brokers = atoi(optarg);
		else if (opt == 'd')
			read_input = false;
		else
			return 2;
	}
	signals = watch_signals();
	rk = start_cluster(brokers);
	for (int i = optind; i < argc; i++)
	{
		char *partitions = strchr(argv[i], '=');
		const char *result;

		if (partitions != NULL)
			*partitions++ = '\0';
		result = create_topic(argv[i], partitions ? atoi(partitions) : 4);
		if (strcmp(result, "ok") != 0)
			die(argv[i], result);
	}
	puts(rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);
	run(signals, read_input);
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(rk);
	return 0;
}
