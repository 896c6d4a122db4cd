/*
 * stream.h
 *		A stream: a foreign table over a topic, as its options describe it.
 *
 * The public header of the room, for other ways to use streams than SELECT.
 * See also batch.h, which lets a query read messages in memory.
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

/* What a delete (a null value) becomes where rows are only appended. */
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

/* Is this foreign table a stream? */
extern bool mill_is_stream(Oid relid);

/* The stream's options, parsed, in the current memory context. */
extern MillStream *mill_stream_load(Oid relid);

#endif
