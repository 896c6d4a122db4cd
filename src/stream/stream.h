/*
 * stream.h
 *		A stream: a foreign table over a topic, as its options describe it.
 */
#ifndef MILL_STREAM_STREAM_H
#define MILL_STREAM_STREAM_H

#include "datatype/timestamp.h"
#include "gateway/protocol.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

typedef enum MillFormat
{
	MILL_FORMAT_JSON,
	MILL_FORMAT_CSV,
	MILL_FORMAT_TEXT, /* COPY's text format: tabs, backslashes, \N */
	MILL_FORMAT_RAW	  /* one column takes the whole value */
} MillFormat;

/* What to do with a message that cannot be a row. */
typedef enum MillOnError
{
	MILL_ON_ERROR_DEAD_LETTER,
	MILL_ON_ERROR_STOP,
	MILL_ON_ERROR_SKIP
} MillOnError;

/* What a null value is, where it is not a delete (mode => 'upsert'). */
typedef enum MillTombstone
{
	MILL_TOMBSTONE_SKIP,
	MILL_TOMBSTONE_NULLS, /* a row whose fields are all NULL */
	MILL_TOMBSTONE_DEAD_LETTER
} MillTombstone;

typedef enum MillColumnKind
{
	MILL_COLUMN_FIELD,	  /* from the message's value */
	MILL_COLUMN_KEY,	  /* the key, by the column type's input function;
								 * bytea: the raw bytes */
	MILL_COLUMN_KEY_TEXT, /* the key as text */
	MILL_COLUMN_HEADERS,  /* jsonb array of {"name": ..., "value": ...} */
	MILL_COLUMN_TIMESTAMP,
	MILL_COLUMN_PARTITION,
	MILL_COLUMN_OFFSET,
	MILL_COLUMN_TOPIC,
	MILL_COLUMN_PAYLOAD /* the value as it is, bytea */
} MillColumnKind;

typedef struct MillColumn
{
	MillColumnKind kind;
	const char *field; /* JSON: name or path "a.b[0]"; csv and text:
								 * position counting fields in order when NULL */
} MillColumn;

typedef struct MillStream
{
	Oid relid;
	Oid serverid;
	const char *topic;
	MillFormat format;
	MillOnError on_error;
	MillTombstone tombstone;
	int max_message_bytes;	 /* longer keys, values or headers make bad messages */
	const char *null_string; /* csv, text */
	char delimiter;			 /* csv, text */
	int ncolumns;			 /* of the tuple descriptor */
	MillColumn *columns;	 /* by attribute number - 1; dropped: undefined */
} MillStream;

/* The stream's options, parsed, in the current memory context. */
extern MillStream *mill_stream_load(Oid relid);

/*
 * The properties (list of MillProperty) of a server and of the user's mapping
 * on it, and the MILL_ROLE_* flags of that user.
 */
extern List *mill_stream_properties(Oid serverid, Oid userid, int *flags);

/* ---- decoding ---- */

/* Why a message is not a row.  Strings in the context of the decoding call. */
typedef struct MillDecodeError
{
	int sqlerrcode;		 /* as errcode() takes it */
	const char *message; /* lower case, no full stop */
	const char *detail;	 /* sentence or NULL */
	const char *hint;	 /* sentence or NULL */
	const char *column;	 /* of the stream or target, or NULL */
	bool unsettled;		 /* not of decoding: perhaps not the message's fault */
} MillDecodeError;

typedef struct MillDecoder MillDecoder;

/*
 * A decoder for the attributes in needed (attribute numbers, no offset) of
 * the stream's relation; it lives in the current memory context.
 */
extern MillDecoder *mill_decoder_create(const MillStream *stream, TupleDesc desc, const Bitmapset *needed);

/*
 * Decode one message into values and isnull, which have room for all the
 * relation's attributes; those not needed are NULL.  Pass-by-reference values
 * are in the current memory context or point into the message.  A field that
 * is absent takes the stream column's DEFAULT; JSON null is NULL.  A message
 * whose value is null (a tombstone) decodes to NULL fields.  False: the
 * message is bad, *error says why, nothing was allocated that matters.
 * Input functions of types that have no parser of ours may raise an error.
 */
extern bool mill_decode(MillDecoder *decoder, const MillMessage *message,
						Datum *values, bool *isnull, MillDecodeError *error);

/* The column that is being decoded, also when an error was raised; or NULL. */
extern const char *mill_decoder_column(const MillDecoder *decoder);

/* When a message was produced; false if it does not say, or not as a timestamptz can. */
extern bool mill_message_time(const MillMessage *message, TimestampTz *time);

/* Bytes of the first of the encoded headers that fit into limit in whole. */
extern int mill_headers_fitting(const char *encoded, int length, int limit);

/* ---- a scan's messages ---- */

/*
 * Messages that are here already.  While one is bound, a scan of its stream
 * reads it instead of the topic.  A batch lives in its own memory context.
 */
typedef struct MillBatch
{
	Oid stream;				 /* the foreign table it is for */
	MillTombstone tombstone; /* the stream's choice, or NULLS for upsert */
	int count;
	const MillMessage **messages; /* in order of arrival */
	MillDecodeError **errors;	  /* per message: NULL, or why it is bad; set by
								 * the scan, in the batch's context */
	MemoryContext context;
	int first; /* the scan delivers messages [first, last) */
	int last;
	int current;		  /* the one being decoded, for errcontext */
	MillDecoder *decoder; /* at work on it: an error now is that message's */
} MillBatch;

/*
 * Bind a batch to the scans of its stream in this process, NULL for none.
 * The caller unbinds it, after an error too.  A bound scan sets each row's
 * ctid to the ordinal of its message in the batch (block number = ordinal,
 * offset number 1), so that a query can carry it along.
 */
extern MillBatch *mill_bound_batch;

#endif
