/*
 * position.h
 *		Positions in a topic, as users write them: earliest, latest, a
 *		timestamp, {"partition": offset}.
 */
#ifndef MILL_INGEST_POSITION_H
#define MILL_INGEST_POSITION_H

#include "broker/broker.h"

/* Check what a user wrote; returns the form to store. */
extern char *mill_position_check(const char *text);

/* The first partition that a position names and a topic of so many lacks; -1 if none. */
extern int32 mill_position_beyond(const char *position, int count);

/*
 * The offsets a position means for partitions first .. first + count - 1, -1
 * where it says nothing about a partition.
 */
extern void mill_position_resolve(const char *position, MillGateway *gateway,
								  const int32 *partitions, int64 *offsets, int count,
								  int timeout_ms);

#endif
