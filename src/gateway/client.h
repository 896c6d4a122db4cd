/*
 * client.h
 *		The library's client: made from checked properties, asked questions.
 */
#ifndef MILL_GATEWAY_CLIENT_H
#define MILL_GATEWAY_CLIENT_H

#include <librdkafka/rdkafka.h>

#include "gateway/frames.h"
#include "gateway/policy.h"
#include "gateway/trouble.h"

/*
 * One client.  Its callbacks are served only by the thread that calls the
 * functions below and mill_consume, so that nothing here is locked.
 */
typedef struct MillClient
{
	rd_kafka_t *rk;
	rd_kafka_topic_t *topic; /* of the last METADATA */
	char *topic_name;
	int partitions;
	bool scram; /* authenticates by SCRAM */

	/* What the library complained about last, without secrets. */
	MillTrouble trouble;
	char last_error[1024];
	bool all_down; /* every broker is unreachable */

	/* While streaming, errors and log lines go here. */
	void (*on_error)(void *arg, rd_kafka_resp_err_t code, const char *text);
	void (*on_log)(void *arg, const char *text);
	void *arg;
} MillClient;

/* A request's payload. */
typedef struct MillPayload
{
	const char *data;
	size_t length;
} MillPayload;

extern bool mill_client_configure(MillClient *client, MillPayload request, MillError *error);

extern bool mill_client_metadata(MillClient *client, MillPayload request, MillOutput *out,
								 MillError *error);
extern bool mill_client_watermarks(MillClient *client, MillPayload request, MillOutput *out,
								   MillError *error);
extern bool mill_client_times(MillClient *client, MillPayload request, MillOutput *out,
							  MillError *error);
extern bool mill_client_topics(MillClient *client, MillPayload request, MillOutput *out,
							   MillError *error);

/* Is the trouble such that trying again does not help? */
extern bool mill_client_refused(const MillClient *client);

/* Say what the trouble is that the library complained about last. */
extern void mill_client_explain(const MillClient *client, MillError *error);

/* Blank out every secret that was configured. */
extern void mill_scrub(char *text);

/* Milliseconds since some beginning. */
extern int64_t mill_now(void);

#endif
