/*
 * protocol.h
 *		The protocol between a Postgres process and its mill_gateway.
 *
 * Both sides run on one machine and come from one build, so everything is in
 * host byte order.  Two pipes: the gateway's standard input carries requests,
 * its standard output replies and events.  A frame is a MillFrame header and
 * a payload; headers and payloads are padded with zeros to multiples of eight
 * bytes, so a reader may use a frame in place.
 *
 * Order: CONFIGURE first; then any number of METADATA, WATERMARKS, TIMES, one
 * outstanding at a time, each answered by its own reply or by ERROR; then at
 * most one ASSIGN, after which the gateway streams until its standard input
 * ends.  There is no way back: for other offsets, start another gateway.
 *
 * Strings are NUL-terminated UTF-8 as the library gave them.
 *
 * This header is the only thing that the extension and the gateway share.  It
 * includes neither Postgres nor librdkafka headers.
 */
#ifndef MILL_PROTOCOL_H
#define MILL_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#define MILL_PROTOCOL_VERSION 2

/* Padded length of n bytes. */
#define MILL_PAD(n) (((n) + 7) & ~((uint64_t) 7))

typedef struct MillFrame
{
	uint32_t length;   /* of the payload, before padding */
	uint8_t type;	   /* MILL_REQUEST_* or MILL_REPLY_* */
	uint8_t version;   /* MILL_PROTOCOL_VERSION */
	uint16_t reserved; /* 0 */
} MillFrame;

/* ---- requests, to the gateway ---- */

/*
 * uint8 flags (MILL_ROLE_*), int32 fetch_bytes, then for each property: uint8
 * location (MILL_IN_*), name, value.  Checks every property against the
 * allow-list and with the library, then creates the client; with
 * MILL_CHECK_ONLY one that connects to nobody and is destroyed at once, to see
 * whether the properties of a server go together.  fetch_bytes, if not 0,
 * lowers how much is fetched at once, whatever the properties say.  Answer: OK
 * or ERROR.
 */
#define MILL_REQUEST_CONFIGURE 'C'

#define MILL_ROLE_SUPERUSER 0x01  /* may use Kerberos, switch checks off */
#define MILL_ROLE_READ_FILES 0x02 /* may name files of the server (*.location) */
#define MILL_CHECK_ONLY 0x04	  /* do not create a client */

#define MILL_IN_SERVER 's'		 /* CREATE SERVER ... OPTIONS */
#define MILL_IN_USER_MAPPING 'u' /* CREATE USER MAPPING ... OPTIONS */

/* int32 timeout_ms, topic.  Answer: METADATA: int32 number of partitions. */
#define MILL_REQUEST_METADATA 'M'

/*
 * int32 timeout_ms, int32 count, then count int32 partitions.  Answer:
 * WATERMARKS with one MillWatermark each, in the same order.
 */
#define MILL_REQUEST_WATERMARKS 'W'

/*
 * int32 timeout_ms, int32 count, then count MillPartitionTime.  Answer: TIMES
 * with one MillPartitionOffset each: the first offset whose timestamp is at
 * or after the time asked for, -1 if there is none.
 */
#define MILL_REQUEST_TIMES 'T'

/* int32 timeout_ms.  Answer: TOPICS: the names, one after the other. */
#define MILL_REQUEST_TOPICS 'L'

/*
 * int32 count, int32 limit, then count MillAssignment.  No answer; DATA, END,
 * HIGH, PARTITIONS, EVENT and ALIVE frames follow until standard input ends.
 * A key, a value, or a message's headers that are longer than both limit and
 * MILL_KEPT_BYTES are cut to MILL_KEPT_BYTES.
 */
#define MILL_REQUEST_ASSIGN 'A'

#define MILL_KEPT_BYTES (1024 * 1024)

/* ---- replies and events, from the gateway ---- */

#define MILL_REPLY_OK 'K'
#define MILL_REPLY_ERROR                                                                           \
	'E' /* SQLSTATE (5 letters), message, detail, hint; each may be empty but the first two */
#define MILL_REPLY_METADATA 'm'
#define MILL_REPLY_WATERMARKS 'w'
#define MILL_REPLY_TIMES 't'
#define MILL_REPLY_TOPICS 'l'

/* MillMessage records, one after the other, each padded. */
#define MILL_REPLY_DATA 'D'

/*
 * int32 partition, int32 zero, int64 position.  The consumer is at the end of
 * the partition (at the last stable offset, when reading committed messages
 * only), and every message before position was delivered or does not exist:
 * position is the next offset to read.  Sent again each time the end is
 * reached, and once for a partition whose assignment has an end, when
 * delivery has come to it.
 */
#define MILL_REPLY_END 'F'

/* MillWatermark records, about once a second while streaming, if changed. */
#define MILL_REPLY_HIGH 'H'

/* int32 number of partitions; when it differs from what was assigned. */
#define MILL_REPLY_PARTITIONS 'P'

/* MillEvent, then strings as in ERROR: SQLSTATE, message, detail, hint. */
#define MILL_REPLY_EVENT 'X'

/*
 * Empty; about once a second while streaming, from the thread that streams: a
 * gateway that sends nothing for much longer, to a reader who reads, hangs.
 */
#define MILL_REPLY_ALIVE 'V'

typedef struct MillWatermark
{
	int32_t partition;
	int32_t error; /* librdkafka's code, 0 for none */
	int64_t low;   /* first available offset */
	int64_t high;  /* offset after the last message (last stable
								 * offset from WATERMARKS when reading
								 * committed; broker's high watermark from
								 * HIGH) */
} MillWatermark;

typedef struct MillPartitionTime
{
	int32_t partition;
	int32_t zero;
	int64_t time_ms; /* milliseconds since 1970 UTC */
} MillPartitionTime;

typedef struct MillPartitionOffset
{
	int32_t partition;
	int32_t error;
	int64_t offset; /* -1: no such message */
} MillPartitionOffset;

typedef struct MillAssignment
{
	int32_t partition;
	int32_t zero;
	int64_t start; /* first offset to deliver */
	int64_t end;   /* deliver only offsets below; -1: no end */
} MillAssignment;

typedef enum MillEventKind
{
	MILL_EVENT_DEGRADED = 1, /* brokers or leader unreachable; the client
								 * keeps trying */
	MILL_EVENT_RECOVERED,	 /* after DEGRADED or REFUSED: the leaders of
								 * all our partitions answer */
	MILL_EVENT_REFUSED,		 /* credentials or TLS; keeps trying */
	MILL_EVENT_FORBIDDEN,	 /* no right to read the topic or the partition */
	MILL_EVENT_OUT_OF_RANGE, /* partition's offset is not on the broker */
	MILL_EVENT_TOPIC_GONE,	 /* topic or partition unknown to the broker */
	MILL_EVENT_FATAL,		 /* the client cannot go on */
	MILL_EVENT_LOG			 /* a line of the library's log */
} MillEventKind;

typedef struct MillEvent
{
	int32_t kind;	   /* MillEventKind */
	int32_t error;	   /* librdkafka's code */
	int32_t partition; /* -1: not about one */
	int32_t zero;
} MillEvent;

typedef struct MillMessage
{
	uint32_t size; /* of the whole record, padded */
	int32_t partition;
	int64_t offset;
	int64_t timestamp_ms;	/* since 1970 UTC; -1: none */
	int32_t key_length;		/* -1: null key */
	int32_t value_length;	/* -1: null value, a tombstone */
	int32_t headers_length; /* bytes of encoded headers */
	int16_t timestamp_type; /* 0 none, 1 create time, 2 log append time */
	uint16_t flags;			/* MILL_MESSAGE_* */
							/* key, value, headers follow */
} MillMessage;

#define MILL_MESSAGE_CUT 0x0001 /* a MillCut follows the headers, padded */

/*
 * Encoded headers, each, unaligned: uint32 length of the name, name, int32
 * length of the value (-1: null), value.  In the message's order; names may
 * repeat.
 */

/* What was cut from a message: the parts' lengths and hashes before that. */
typedef enum MillPart
{
	MILL_PART_KEY,
	MILL_PART_VALUE,
	MILL_PART_HEADERS, /* encoded; cut behind the last that fits in whole */
	MILL_PARTS
} MillPart;

#define MILL_SHA256_BYTES 32

typedef struct MillCut
{
	int64_t length[MILL_PARTS];					   /* 0: not cut */
	uint8_t sha256[MILL_PARTS][MILL_SHA256_BYTES]; /* of the whole part */
} MillCut;

static inline const char *
mill_message_key(const MillMessage *m)
{
	return (const char *) (m + 1);
}

static inline const char *
mill_message_value(const MillMessage *m)
{
	return mill_message_key(m) + (m->key_length > 0 ? m->key_length : 0);
}

static inline const char *
mill_message_headers(const MillMessage *m)
{
	return mill_message_value(m) + (m->value_length > 0 ? m->value_length : 0);
}

/* NULL if nothing was cut. */
static inline const MillCut *
mill_message_cut(const MillMessage *m)
{
	size_t before = (size_t) (mill_message_headers(m) - (const char *) m) + m->headers_length;

	return m->flags & MILL_MESSAGE_CUT ? (const MillCut *) ((const char *) m + MILL_PAD(before))
									   : NULL;
}

#endif
