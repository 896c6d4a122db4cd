/*
 * client.h
 *		The library's client: made from checked properties, for requests.
 */
#ifndef MILL_GATEWAY_CLIENT_H
#define MILL_GATEWAY_CLIENT_H

#include <librdkafka/rdkafka.h>

#include "gateway/frames.h"
#include "gateway/policy.h"
#include "gateway/trouble.h"

/*
 * One client.  Its callbacks are served only by the thread that calls the
 * functions below and mill_consume, so there are no locks here.
 */
typedef struct MillClient
{
	rd_kafka_t *rk;
	rd_kafka_topic_t *topic; /* of the last METADATA */
	char *topic_name;
	int partitions;
	bool scram; /* authenticates by SCRAM */

	/* the library's last complaint, without secrets */
	MillTrouble trouble;
	char last_error[1024];
	bool all_down; /* no broker can be reached */

	/* while streaming, errors and log lines are passed on here */
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

/* Is this trouble such that a retry does not help? */
extern bool mill_client_refused(const MillClient *client);

/* Set the error that explains the library's last complaint. */
extern void mill_client_explain(const MillClient *client, MillError *error);

/* Replace every configured secret in a text. */
extern void mill_scrub(char *text);

/* Milliseconds of a monotonic clock. */
extern int64_t mill_now(void);

#endif
