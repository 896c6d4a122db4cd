/*
 * spawn.h
 *		From a server process to a gateway, with pipes between them.
 */
#ifndef MILL_BROKER_SPAWN_H
#define MILL_BROKER_SPAWN_H

/*
 * Address space of a gateway.  Its queue is bounded, but a compressed batch
 * is not: gzip and lz4 batches unpack to whatever the producer chose, and the
 * library has no limit for that.  1 GB leaves room for any honest batch; what
 * needs more ends the gateway and not the server.
 */
#define MILL_GATEWAY_SPACE ((int64) 1024 * 1024 * 1024)

/*
 * Start the program; our ends of the pipes do not block.  Its pid, or -1 with
 * errno set and nothing left open.
 */
extern pid_t mill_gateway_spawn(const char *path, int *to, int *from);

#endif
