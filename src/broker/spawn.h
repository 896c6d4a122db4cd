/*
 * spawn.h
 *		Forks a server process and executes the gateway, with pipes between them.
 */
#ifndef MILL_BROKER_SPAWN_H
#define MILL_BROKER_SPAWN_H

/*
 * Limit on the address space of a gateway.  Its queue is bounded, but a
 * compressed batch is not: gzip and lz4 batches unpack to any size that the
 * producer chose, and the library has no limit for that.  1 GB is enough for
 * any ordinary batch; a larger one ends the gateway and not the server.
 */
#define MILL_GATEWAY_SPACE ((int64) 1024 * 1024 * 1024)

/*
 * Start the program; our ends of the pipes do not block.  Returns its pid, or
 * -1 with errno set and nothing left open.
 */
extern pid_t mill_gateway_spawn(const char *path, int *to, int *from);

#endif
