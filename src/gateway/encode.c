/*
 * encode.c
 *		Encodes the library's messages as MillMessage.
 *
 * Long parts are cut here, not by the reader: a message of a few hundred
 * kilobytes may unpack to hundreds of megabytes, which must only take memory of
 * this process, not of a server process.  The hash of the whole part is sent
 * too, so that the message can be identified later.
 */
#include "gateway/encode.h"

#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>

/* How much of each part is sent. */
typedef struct Parts
{
	size_t whole[MILL_PARTS];
	size_t kept[MILL_PARTS];
	rd_kafka_headers_t *headers; /* the library's, NULL if there are none */
	size_t headers_kept;		 /* how many are sent */
} Parts;

typedef struct Header
{
	const char *name;
	const void *value; /* NULL: null */
	size_t value_length;
} Header;

/* The i-th header; false if there are fewer. */
static bool
get_header(const rd_kafka_headers_t *list, size_t i, Header *header)
{
	return rd_kafka_header_get_all(list, i, &header->name, &header->value, &header->value_length) ==
		   RD_KAFKA_RESP_ERR_NO_ERROR;
}

static size_t
header_size(const Header *header)
{
	return 2 * sizeof(uint32_t) + strlen(header->name) + (header->value ? header->value_length : 0);
}

/* Decide what is sent of each part; of long headers, those that fit completely. */
static void
measure_headers(const rd_kafka_message_t *message, size_t longest, Parts *parts)
{
	Header header;
	size_t fitting = 0;
	size_t fitting_count = 0;
	size_t count;

	if (rd_kafka_message_headers(message, &parts->headers) != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		parts->headers = NULL;
		return;
	}
	for (count = 0; get_header(parts->headers, count, &header); count++)
	{
		parts->whole[MILL_PART_HEADERS] += header_size(&header);
		if (fitting_count == count && parts->whole[MILL_PART_HEADERS] <= MILL_KEPT_BYTES)
		{
			fitting = parts->whole[MILL_PART_HEADERS];
			fitting_count = count + 1;
		}
	}
	parts->kept[MILL_PART_HEADERS] = parts->whole[MILL_PART_HEADERS] > longest
										 ? fitting
										 : parts->whole[MILL_PART_HEADERS];
	parts->headers_kept = parts->whole[MILL_PART_HEADERS] > longest ? fitting_count : count;
}

static char *
put(char *to, const void *from, size_t length)
{
	if (length > 0)
		memcpy(to, from, length);
	return to + length;
}

/* Encode one header: fixed words, then name and value. */
static char *
put_header(char *to, const Header *header)
{
	uint32_t name_length = (uint32_t) strlen(header->name);
	int32_t value_length = header->value ? (int32_t) header->value_length : -1;

	to = put(to, &name_length, sizeof(name_length));
	to = put(to, header->name, name_length);
	to = put(to, &value_length, sizeof(value_length));
	return put(to, header->value, header->value ? header->value_length : 0);
}

/* The hash of all headers as they would be encoded. */
static void
hash_headers(const rd_kafka_headers_t *list, uint8_t *sha256)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	Header header;

	if (context == NULL || !EVP_DigestInit_ex(context, EVP_sha256(), NULL))
		_exit(MILL_EXIT_NO_MEMORY);
	for (size_t i = 0; get_header(list, i, &header); i++)
	{
		uint32_t name_length = (uint32_t) strlen(header.name);
		int32_t value_length = header.value ? (int32_t) header.value_length : -1;

		EVP_DigestUpdate(context, &name_length, sizeof(name_length));
		EVP_DigestUpdate(context, header.name, name_length);
		EVP_DigestUpdate(context, &value_length, sizeof(value_length));
		if (header.value != NULL)
			EVP_DigestUpdate(context, header.value, header.value_length);
	}
	EVP_DigestFinal_ex(context, sha256, NULL);
	EVP_MD_CTX_free(context);
}

static void
describe_cut(const rd_kafka_message_t *message, const Parts *parts, MillCut *cut)
{
	memset(cut, 0, sizeof(*cut));
	for (int i = 0; i < MILL_PARTS; i++)
	{
		if (parts->kept[i] == parts->whole[i])
			continue;
		cut->length[i] = (int64_t) parts->whole[i];
		if (i == MILL_PART_HEADERS)
			hash_headers(parts->headers, cut->sha256[i]);
		else if (!EVP_Digest(i == MILL_PART_KEY ? message->key : message->payload, parts->whole[i],
							 cut->sha256[i], NULL, EVP_sha256(), NULL))
			_exit(MILL_EXIT_NO_MEMORY);
	}
}

static MillMessage
describe(const rd_kafka_message_t *message, const Parts *parts)
{
	MillMessage head = {.partition = message->partition,
						.offset = message->offset,
						.timestamp_ms = -1};
	rd_kafka_timestamp_type_t type;
	int64_t timestamp = rd_kafka_message_timestamp(message, &type);

	if (type == RD_KAFKA_TIMESTAMP_CREATE_TIME)
		head.timestamp_type = 1;
	else if (type == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME)
		head.timestamp_type = 2;
	if (head.timestamp_type != 0)
		head.timestamp_ms = timestamp;
	head.key_length = message->key ? (int32_t) parts->kept[MILL_PART_KEY] : -1;
	head.value_length = message->payload ? (int32_t) parts->kept[MILL_PART_VALUE] : -1;
	head.headers_length = (int32_t) parts->kept[MILL_PART_HEADERS];
	for (int i = 0; i < MILL_PARTS; i++)
	{
		if (parts->kept[i] != parts->whole[i])
			head.flags = MILL_MESSAGE_CUT;
	}
	return head;
}

void
mill_encode_message(MillOutput *out, const rd_kafka_message_t *message, size_t limit)
{
	size_t longest = limit > MILL_KEPT_BYTES ? limit : MILL_KEPT_BYTES;
	Parts parts = {
		.whole = {message->key ? message->key_len : 0, message->payload ? message->len : 0, 0}};
	MillMessage head;
	size_t size;
	char *start;
	char *to;
	Header header;

	measure_headers(message, longest, &parts);
	for (int i = MILL_PART_KEY; i <= MILL_PART_VALUE; i++)
		parts.kept[i] = parts.whole[i] > longest ? MILL_KEPT_BYTES : parts.whole[i];
	head = describe(message, &parts);
	size = MILL_PAD(sizeof(head) + parts.kept[MILL_PART_KEY] + parts.kept[MILL_PART_VALUE] +
					parts.kept[MILL_PART_HEADERS]);
	head.size = (uint32_t) (size + (head.flags & MILL_MESSAGE_CUT ? sizeof(MillCut) : 0));

	mill_output_begin(out, MILL_REPLY_DATA);
	start = to = mill_output_reserve(out, head.size);
	to = put(to, &head, sizeof(head));
	to = put(to, message->key, parts.kept[MILL_PART_KEY]);
	to = put(to, message->payload, parts.kept[MILL_PART_VALUE]);
	for (size_t i = 0; i < parts.headers_kept && get_header(parts.headers, i, &header); i++)
		to = put_header(to, &header);
	memset(to, 0, start + size - to);
	if (head.flags & MILL_MESSAGE_CUT)
	{
		MillCut cut;

		describe_cut(message, &parts, &cut);
		put(start + size, &cut, sizeof(cut));
	}
}
