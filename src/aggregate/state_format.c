/*
 * state_format.c
 *		The bytes of a stored partial state.
 *
 *	byte 0		version of this format
 *	byte 1		flags (state.h)
 *	byte 2		major version of the server for an internal transition type, else 0
 *	byte 3		0
 *	bytes 4-7	CRC-32C of all others, most significant byte first
 *	then, with MILL_PARTIAL_TYPES or MILL_PARTIAL_COLLATION: length of the names
 *	(2 bytes, most significant first) and the names
 *	the rest	what the serialize or the binary output function returned
 *
 * The format of serialize functions of internal types is only meant for the
 * processes of one server, so another major version must not read it.  The
 * checksum detects disk errors and hand-made values; it has no key, so it is no
 * protection against forgery.  The payload is checked by state_check.c for
 * internal types, and by the type's binary input function for others.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "port/pg_bswap.h"
#include "port/pg_crc32c.h"

#include "core/compat.h"

#include "aggregate/state.h"

#define FORMAT_VERSION 1
#define FIXED_LENGTH 8
#define CHECKSUM_AT 4
#define NAMED(flags) (((flags) & (MILL_PARTIAL_TYPES | MILL_PARTIAL_COLLATION)) != 0)
#define KNOWN_FLAGS                                                                                \
	(MILL_PARTIAL_INTERNAL | MILL_PARTIAL_NULL | MILL_PARTIAL_TYPES | MILL_PARTIAL_COLLATION |     \
	 MILL_PARTIAL_DEFAULT_COLLATION)
#define THIS_MAJOR (PG_MAJORVERSION_NUM)

/* Does not return. */
void
mill_state_damaged(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED), errmsg("stored aggregate state is damaged"),
			 errdetail_internal("%s", detail), errhint("Run mill.refresh to compute it anew.")));
}

static pg_crc32c
checksum(const char *bytes, int length)
{
	pg_crc32c crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, bytes, CHECKSUM_AT);
	COMP_CRC32C(crc, bytes + FIXED_LENGTH, length - FIXED_LENGTH);
	FIN_CRC32C(crc);
	return crc;
}

/* The result is in the current memory context. */
bytea *
mill_state_write(const StateHeader *header, bool is_null, const char *payload, int length)
{
	int names = NAMED(header->flags) ? 2 + header->names_length : 0;
	Size total = (Size) FIXED_LENGTH + names + length;
	bytea *state = palloc(VARHDRSZ + total);
	char *to = VARDATA(state);
	pg_crc32c crc;

	SET_VARSIZE(state, VARHDRSZ + total);
	to[0] = FORMAT_VERSION;
	to[1] = header->flags | (is_null ? MILL_PARTIAL_NULL : 0);
	to[2] = (header->flags & MILL_PARTIAL_INTERNAL) ? THIS_MAJOR : 0;
	to[3] = 0;
	if (names > 0)
	{
		to[FIXED_LENGTH] = header->names_length >> 8;
		to[FIXED_LENGTH + 1] = header->names_length & 0xff;
		memcpy(to + FIXED_LENGTH + 2, header->names, header->names_length);
	}
	memcpy(to + FIXED_LENGTH + names, payload, length);
	crc = pg_hton32(checksum(to, total));
	memcpy(to + CHECKSUM_AT, &crc, sizeof(crc));
	return state;
}

static void
check_fixed_part(const char *from, int length)
{
	pg_crc32c crc;

	if (length < FIXED_LENGTH)
		mill_state_damaged("It is shorter than its header.");
	if (from[0] != FORMAT_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("stored aggregate state has format %d, which this version of pg_mill does not know",
						(uint8) from[0]),
				 errhint("Run mill.refresh to compute it anew.")));
	memcpy(&crc, from + CHECKSUM_AT, sizeof(crc));
	if (pg_ntoh32(crc) != checksum(from, length))
		mill_state_damaged("The checksum does not match.");
	if ((from[1] & ~KNOWN_FLAGS) != 0 || from[3] != 0)
		mill_state_damaged("The header has unknown flags.");
	if ((from[1] & MILL_PARTIAL_INTERNAL) != 0 && (uint8) from[2] != THIS_MAJOR)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("aggregate state was stored by another major version of PostgreSQL"),
						errdetail("It was stored by version %d, this is version %d.",
								  (uint8) from[2], THIS_MAJOR),
						errhint("Run mill.refresh to compute it anew.")));
}

/*
 * Check the bytes and split them.  The header's names point into the state;
 * the payload is a copy in the current memory context, with a spare byte,
 * because binary input functions write one past the value that they read.  Its
 * data has space for a varlena header before it, at a palloc'd address.
 */
void
mill_state_read(bytea *state, StateHeader *header, StringInfo payload)
{
	const char *from = VARDATA_ANY(state);
	int length = VARSIZE_ANY_EXHDR(state);
	int at = FIXED_LENGTH;

	check_fixed_part(from, length);
	header->flags = from[1];
	header->names = NULL;
	header->names_length = 0;
	if (NAMED(header->flags))
	{
		if (length < at + 2)
			mill_state_damaged("It ends within its header.");
		header->names_length = (uint8) from[at] << 8 | (uint8) from[at + 1];
		at += 2;
		if (header->names_length > length - at ||
			(header->names_length > 0 && from[at + header->names_length - 1] != '\0'))
			mill_state_damaged("It ends within its header.");
		header->names = from + at;
		at += header->names_length;
	}
	if ((header->flags & MILL_PARTIAL_NULL) != 0 && length > at)
		mill_state_damaged("It is NULL, and has a value.");
	payload->len = payload->maxlen = length - at;
	payload->cursor = 0;
	payload->data = (char *) palloc(VARHDRSZ + payload->len + 1) + VARHDRSZ;
	memcpy(payload->data, from + at, payload->len);
	payload->data[payload->len] = '\0';
	SET_VARSIZE(payload->data - VARHDRSZ, VARHDRSZ + payload->len);
}

/* Are states with these headers of the same transition type and collation? */
bool
mill_state_same_header(const StateHeader *a, const StateHeader *b)
{
	return ((a->flags ^ b->flags) & ~MILL_PARTIAL_NULL) == 0 &&
		   a->names_length == b->names_length &&
		   (a->names_length == 0 || memcmp(a->names, b->names, a->names_length) == 0);
}
