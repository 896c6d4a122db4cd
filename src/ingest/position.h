/*
 * position.h
 *		Positions in a topic, as users write them: earliest, latest, a
 *		timestamp, {"partition": offset}.
 */
#ifndef MILL_INGEST_POSITION_H
#define MILL_INGEST_POSITION_H

#include "broker/broker.h"

/* Check a position that a user wrote; returns the form to store. */
extern char *mill_position_check(const char *text);

/* The first partition that a position names and a topic of so many lacks; -1 if none. */
extern int32 mill_position_beyond(const char *position, int count);

/*
 * Resolve a position into the offsets of the given partitions; -1 where it says
 * nothing about one.
 */
extern void mill_position_resolve(const char *position, MillGateway *gateway,
								  const int32 *partitions, int64 *offsets, int count,
								  int timeout_ms);

#endif
