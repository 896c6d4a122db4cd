/*
 * decoder.h
 *		Decodes the bytes of a message into the values of a row.
 *
 * The public header of the room; it only reads.  Another format needs one more
 * file and a row in format.c.
 */
#ifndef MILL_DECODE_DECODER_H
#define MILL_DECODE_DECODER_H

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "decode/layout.h"
#include "gateway/protocol.h"
#include "nodes/bitmapset.h"

/* Why a message is bad.  Strings are in the memory context of the decoding call. */
typedef struct MillDecodeError
{
	int sqlerrcode;		 /* as errcode() takes it */
	const char *message; /* lower case, no full stop */
	const char *detail;	 /* sentence or NULL */
	const char *hint;	 /* sentence or NULL */
	const char *column;	 /* of the stream or target, or NULL */
	bool undecided;		 /* not from decoding: perhaps the pipeline is to blame */
} MillDecodeError;

typedef enum MillVerdict
{
	MILL_ROW,
	MILL_DELETE, /* a delete of the row with this key; its fields may be NULL */
	MILL_SKIP,	 /* no row, and no error */
	MILL_BAD
} MillVerdict;

typedef struct MillDecoder MillDecoder;

/* For the needed attributes (set of attribute numbers); in the current memory context. */
extern MillDecoder *mill_decoder_create(const MillLayout *layout, TupleDesc desc,
										const Bitmapset *needed);

/*
 * Decode one message into values and isnull, which have space for all
 * attributes of the table; those not needed become NULL.  Pass-by-reference
 * values are in the current memory context or point into the message.  BAD:
 * *error is set; types without a parser of ours may raise an error instead.
 */
extern MillVerdict mill_decode(MillDecoder *decoder, const MillMessage *message, Datum *values,
							   bool *isnull, MillDecodeError *error);

/* The column being decoded, also after an error was raised; or NULL. */
extern const char *mill_decoder_column(const MillDecoder *decoder);

/* A message's timestamp; false if it has none, or none in the range of timestamptz. */
extern bool mill_message_time(const MillMessage *message, TimestampTz *time);

/* Length of those encoded headers that fit completely into limit bytes. */
extern int mill_headers_fitting(const char *encoded, int length, int limit);

#endif
