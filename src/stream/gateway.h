/*
 * gateway.h
 *		The Postgres side of a mill_gateway: start it, ask it, read from it.
 */
#ifndef MILL_STREAM_GATEWAY_H
#define MILL_STREAM_GATEWAY_H

#include "gateway/protocol.h"
#include "nodes/pg_list.h"

typedef struct MillGateway MillGateway;

/* One property as it goes to the gateway. */
typedef struct MillProperty
{
	char place; /* MILL_IN_SERVER or MILL_IN_USER_MAPPING */
	const char *name;
	const char *value;
} MillProperty;

/*
 * Start a gateway, in the current memory context: when that is reset or
 * deleted, on an error too, the gateway is ended and reaped.  Properties is a
 * list of MillProperty; flags are MILL_ROLE_* and MILL_CHECK_ONLY.  Raises
 * what the gateway objects to.
 */
extern MillGateway *mill_gateway_start(List *properties, int flags);
extern void mill_gateway_end(MillGateway *gateway);

/* The requests of protocol.h; each waits, interruptibly, and may ereport. */
extern int mill_gateway_partitions(MillGateway *gateway, const char *topic, int timeout_ms);
extern void mill_gateway_watermarks(MillGateway *gateway, MillWatermark *marks, int count, int timeout_ms);
extern void mill_gateway_times(MillGateway *gateway, const MillPartitionTime *times,
							   MillPartitionOffset *offsets, int count, int timeout_ms);
extern List *mill_gateway_topics(MillGateway *gateway, int timeout_ms);
extern void mill_gateway_assign(MillGateway *gateway, const MillAssignment *assignments, int count);

/*
 * The next frame if a whole one is here, else NULL; never blocks.  The frame
 * and its payload stay valid until the next call.  Raises an error if the
 * gateway is gone.
 */
extern const MillFrame *mill_gateway_next(MillGateway *gateway);
#define mill_frame_payload(frame) ((const char *) ((frame) + 1))

/*
 * Wait until there is something to read, the latch is set (it is reset and
 * interrupts are served) or timeout_ms is over (-1: no limit).  True if there
 * is something to read.
 */
extern bool mill_gateway_wait(MillGateway *gateway, long timeout_ms);

extern int mill_gateway_pid(MillGateway *gateway);

#endif
