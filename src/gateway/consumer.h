/*
 * consumer.h
 *		Streaming: messages of the assigned partitions, until our input ends.
 */
#ifndef MILL_GATEWAY_CONSUMER_H
#define MILL_GATEWAY_CONSUMER_H

#include "gateway/client.h"

/* Returns only on an error, or when nobody reads (no error is set then). */
extern bool mill_consume(MillClient *client, MillPayload request, MillOutput *out, MillError *error);

#endif
