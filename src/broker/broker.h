/*
 * broker.h
 *		The Postgres side of a mill_gateway: start it, ask it, read from it.
 *
 * The public header of the room.  One gateway serves one reader.  What it is
 * given is in properties.h, what it reports about its connection in event.h.
 */
#ifndef MILL_BROKER_BROKER_H
#define MILL_BROKER_BROKER_H

#include "gateway/protocol.h"
#include "nodes/pg_list.h"

typedef struct MillGateway MillGateway;

/*
 * Start a gateway, in the current memory context: when that is reset or
 * deleted, on an error too, the gateway is ended and reaped.  Properties is a
 * list of MillProperty; flags are MILL_ROLE_* and MILL_CHECK_ONLY; fetch_bytes,
 * if not 0, lowers how much is fetched at once.  Raises the gateway's errors
 * about the properties.
 */
extern MillGateway *mill_gateway_start(List *properties, int flags, int fetch_bytes);
extern void mill_gateway_end(MillGateway *gateway);

/* The requests of protocol.h; each waits, interruptibly, and may ereport. */
extern int mill_gateway_partitions(MillGateway *gateway, const char *topic, int timeout_ms);
extern void mill_gateway_watermarks(MillGateway *gateway, MillWatermark *marks, int count,
									int timeout_ms);
extern void mill_gateway_times(MillGateway *gateway, const MillPartitionTime *times,
							   MillPartitionOffset *offsets, int count, int timeout_ms);
extern List *mill_gateway_topics(MillGateway *gateway, int timeout_ms);

/* Start streaming; parts of messages longer than limit bytes may be cut, see protocol.h. */
extern void mill_gateway_assign(MillGateway *gateway, const MillAssignment *assignments, int count,
								int limit);

/*
 * The next frame if a whole one is here, else NULL; never blocks.  The frame
 * and its payload stay valid until the next call.  After the gateway has ended,
 * NULL is returned once, so that what was read can be used; then an error is
 * raised, as it is when the gateway has been silent for too long.
 */
extern const MillFrame *mill_gateway_next(MillGateway *gateway);
#define mill_frame_payload(frame) ((const char *) ((frame) + 1))

/*
 * Wait until there is something to read (true), the latch is set (it is reset
 * and interrupts are served) or timeout_ms is over (-1: no limit).
 */
extern bool mill_gateway_wait(MillGateway *gateway, long timeout_ms);

/* For how many milliseconds has the gateway been silent: no frame, not even ALIVE? */
extern int mill_gateway_silence(MillGateway *gateway);

/* Did the gateway end because it exceeded its memory limit? */
extern bool mill_gateway_out_of_memory(MillGateway *gateway);

#endif
