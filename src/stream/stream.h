/*
 * stream.h
 *		A stream: a foreign table over a topic, as its options describe it.
 *
 * The door of the room stream, for whoever works with streams by other means
 * than SELECT; batch.h lets a query read messages that are here already.
 */
#ifndef MILL_STREAM_STREAM_H
#define MILL_STREAM_STREAM_H

#include "decode/decoder.h"

/* What to do with a message that cannot be a row. */
typedef enum MillOnError
{
	MILL_ON_ERROR_DEAD_LETTER,
	MILL_ON_ERROR_STOP,
	MILL_ON_ERROR_SKIP
} MillOnError;

/* What a delete is, such as a null value, where rows are only appended. */
typedef enum MillTombstone
{
	MILL_TOMBSTONE_SKIP,
	MILL_TOMBSTONE_NULLS, /* a row whose fields are all NULL */
	MILL_TOMBSTONE_DEAD_LETTER
} MillTombstone;

typedef struct MillStream
{
	MillLayout layout;
	Oid serverid;
	MillOnError on_error;
	MillTombstone tombstone;
} MillStream;

/* Is this foreign table one? */
extern bool mill_is_stream(Oid relid);

/* Its options, parsed, in the current memory context. */
extern MillStream *mill_stream_load(Oid relid);

#endif
