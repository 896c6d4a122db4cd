/*
 * consumer.h
 *		Streams messages of the assigned partitions until standard input ends.
 */
#ifndef MILL_GATEWAY_CONSUMER_H
#define MILL_GATEWAY_CONSUMER_H

#include "gateway/client.h"

/* Returns only on an error, or without one if nobody reads our output. */
extern bool mill_consume(MillClient *client, MillPayload request, MillOutput *out, MillError *error);

#endif
