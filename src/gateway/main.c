/*
 * main.c
 *		mill_gateway: Kafka's client library, in a process of its own.
 *
 * A Postgres process starts this program with pipes as standard input and
 * output and speaks protocol.h over them.  It takes nothing from arguments or
 * environment, and stores nothing: whenever it ends, only messages that
 * can be fetched again are lost.  So it ends by _exit(), without closing
 * connections, as soon as its parent's end of a pipe closes, on SIGTERM, and
 * when nobody reads its output.
 *
 * Exit status: 0 the parent is gone, 64 called by hand, 70 unusable library,
 * 71 out of memory, 76 invalid request.
 */
#define _GNU_SOURCE
#include "gateway/consumer.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define EXIT_USAGE 64
#define EXIT_PROTOCOL 76

/* Stacks count against the limit on address space, and each broker has a thread. */
#define THREAD_STACK (1024 * 1024)

/* SIGTERM: the parent is gone or wants us to end. */
static void
exit_normally(int signal_number)
{
	(void) signal_number;
	_exit(0);
}

/* A thread that ends the program when the other end of standard input closes. */
static void *
watch_parent(void *arg)
{
	struct pollfd input = {.fd = STDIN_FILENO, .events = 0};

	(void) arg;
	for (;;)
	{
		if (poll(&input, 1, -1) > 0 && (input.revents & (POLLHUP | POLLERR | POLLNVAL)))
			_exit(0);
	}
	return NULL;
}

static void
set_up_process(void)
{
	pthread_attr_t attributes;
	pthread_t thread;

	/* a broker that closes its connection during a TLS write must not end us */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, exit_normally);

	/* Each further arena reserves 64 MB of address space. */
	mallopt(M_ARENA_MAX, 2);

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, THREAD_STACK);
	pthread_setattr_default_np(&attributes);
	pthread_attr_destroy(&attributes);
	if (pthread_create(&thread, NULL, watch_parent, NULL) != 0)
		_exit(MILL_EXIT_NO_MEMORY);
	pthread_detach(thread);
}

static void
send_error(MillOutput *out, MillError *error)
{
	mill_scrub(error->message);
	mill_scrub(error->detail);
	mill_scrub(error->hint);
	mill_output_begin(out, MILL_REPLY_ERROR);
	mill_output_string(out, error->sqlstate);
	mill_output_string(out, error->message);
	mill_output_string(out, error->detail);
	mill_output_string(out, error->hint);
	mill_output_end(out);
}

/* Handle a request; false with an error if it fails. */
static bool
serve_request(MillClient *client, uint8_t type, MillPayload payload, MillOutput *out,
			  MillError *error)
{
	switch (type)
	{
		case MILL_REQUEST_CONFIGURE:
			if (!mill_client_configure(client, payload, error))
				return false;
			mill_output_frame(out, MILL_REPLY_OK, NULL, 0);
			return true;
		case MILL_REQUEST_METADATA:
			return mill_client_metadata(client, payload, out, error);
		case MILL_REQUEST_WATERMARKS:
			return mill_client_watermarks(client, payload, out, error);
		case MILL_REQUEST_TIMES:
			return mill_client_times(client, payload, out, error);
		case MILL_REQUEST_TOPICS:
			return mill_client_topics(client, payload, out, error);
		case MILL_REQUEST_ASSIGN:
			return mill_consume(client, payload, out, error);
		default:
			mill_error_set(error, "08P01", "unknown request to mill_gateway", NULL, NULL);
			return false;
	}
}

int
main(int argc, char **argv)
{
	static MillClient client;
	static MillError error;
	MillInput in = {.fd = STDIN_FILENO};
	MillOutput out = {.fd = STDOUT_FILENO};
	MillFrame frame;
	const char *payload;
	MillInputResult result;

	(void) argv;
	if (argc > 1 || isatty(STDIN_FILENO))
	{
		fprintf(stderr,
				"mill_gateway (librdkafka %s, protocol %d) is started by PostgreSQL with the pg_mill extension\n",
				rd_kafka_version_str(), MILL_PROTOCOL_VERSION);
		return EXIT_USAGE;
	}
	set_up_process();
	while ((result = mill_input_next(&in, &frame, &payload)) == MILL_INPUT_FRAME)
	{
		MillPayload request = {payload, frame.length};

		if (!serve_request(&client, frame.type, request, &out, &error))
			send_error(&out, &error);
		if (!mill_output_flush(&out))
			break;
	}
	_exit(result == MILL_INPUT_INVALID ? EXIT_PROTOCOL : 0);
}
