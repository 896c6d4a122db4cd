/*
 * decoder.h
 *		From the bytes of a message to the values of a row.
 *
 * The door of the room decode, for whoever has messages and wants rows; it
 * writes nothing.  Another format is one more file and a row in format.c.
 */
#ifndef MILL_DECODE_DECODER_H
#define MILL_DECODE_DECODER_H

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "decode/layout.h"
#include "gateway/protocol.h"
#include "nodes/bitmapset.h"

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

typedef enum MillVerdict
{
	MILL_ROW,
	MILL_DELETE, /* of the row with this key: the fields may be NULL */
	MILL_SKIP,	 /* no row, and no fault either */
	MILL_BAD
} MillVerdict;

typedef struct MillDecoder MillDecoder;

/* For the attributes in needed (numbers, no offset); in the current memory context. */
extern MillDecoder *mill_decoder_create(const MillLayout *layout, TupleDesc desc,
										const Bitmapset *needed);

/*
 * Decode one message into values and isnull, which have room for all attributes
 * of the table; those not needed are NULL.  Pass-by-reference values are in the
 * current memory context or point into the message.  BAD: *error says why; input
 * functions of types that have no parser of ours may raise an error instead.
 */
extern MillVerdict mill_decode(MillDecoder *decoder, const MillMessage *message, Datum *values,
							   bool *isnull, MillDecodeError *error);

/* The column that is being decoded, also when an error was raised; or NULL. */
extern const char *mill_decoder_column(const MillDecoder *decoder);

/* When a message was produced; false if it does not say, or not as a timestamptz can. */
extern bool mill_message_time(const MillMessage *message, TimestampTz *time);

/* Bytes of the first of the encoded headers that fit into limit in whole. */
extern int mill_headers_fitting(const char *encoded, int length, int limit);

#endif
