/*
 * encode.h
 *		Encodes the library's messages as MillMessage.
 */
#ifndef MILL_GATEWAY_ENCODE_H
#define MILL_GATEWAY_ENCODE_H

#include <librdkafka/rdkafka.h>

#include "gateway/frames.h"

/*
 * Append the message to the open frame of messages, or to a new one.  Parts
 * longer than both limit and MILL_KEPT_BYTES are cut.
 */
extern void mill_encode_message(MillOutput *out, const rd_kafka_message_t *message, size_t limit);

#endif
