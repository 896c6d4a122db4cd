/*
 * client.h
 *		The library's client: made from checked properties, asked questions.
 */
#ifndef MILL_GATEWAY_CLIENT_H
#define MILL_GATEWAY_CLIENT_H

#include <librdkafka/rdkafka.h>

#include "gateway/frames.h"
#include "gateway/policy.h"

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
	rd_kafka_resp_err_t last_code;
	char last_error[768];
	bool refused;  /* it was about authentication or TLS */
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

extern bool mill_client_metadata(MillClient *client, MillPayload request, MillOutput *out, MillError *error);
extern bool mill_client_watermarks(MillClient *client, MillPayload request, MillOutput *out, MillError *error);
extern bool mill_client_times(MillClient *client, MillPayload request, MillOutput *out, MillError *error);
extern bool mill_client_topics(MillClient *client, MillPayload request, MillOutput *out, MillError *error);

/* Is this code about credentials, certificates or rights? */
extern bool mill_is_refusal(rd_kafka_resp_err_t code);

/* The hint that goes with refused credentials; empty if there is none. */
extern const char *mill_refusal_hint(const MillClient *client);

/* Blank out every secret that was configured. */
extern void mill_scrub(char *text);

/* Milliseconds since some beginning. */
extern int64_t mill_now(void);

#endif
