/*
 * json_scan.h
 *		A strict JSON scanner that extracts wanted fields of an object.
 *
 * Independent of Postgres, so that it can be tested alone, or used in another
 * program.
 */
#ifndef MILL_DECODE_JSON_SCAN_H
#define MILL_DECODE_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MILL_JSON_MAX_DEPTH 64
#define MILL_JSON_MAX_DIGITS 1000

typedef enum MillJsonKind
{
	MILL_JSON_ABSENT,
	MILL_JSON_NULL,
	MILL_JSON_TRUE,
	MILL_JSON_FALSE,
	MILL_JSON_NUMBER,
	MILL_JSON_STRING,
	MILL_JSON_OBJECT,
	MILL_JSON_ARRAY
} MillJsonKind;

/* Where a value is in the input; of a string, the part between the quotes. */
typedef struct MillJsonSpan
{
	const char *start;
	size_t length;
	MillJsonKind kind;
	bool escaped; /* a string with backslashes: see mill_json_unescape */
} MillJsonSpan;

typedef enum MillJsonFault
{
	MILL_JSON_SYNTAX,
	MILL_JSON_ENCODING,		/* not UTF-8 */
	MILL_JSON_ZERO,			/* \u0000, which text cannot hold */
	MILL_JSON_LIMIT,		/* too deep, or too long a number */
	MILL_JSON_NOT_AN_OBJECT /* valid, but of another kind */
} MillJsonFault;

typedef struct MillJsonError
{
	MillJsonFault fault;
	size_t position; /* of the offending byte */
	const char *message;
} MillJsonError;

/*
 * The wanted fields, compiled once.  Memory comes from alloc, which must not
 * fail, and is not freed individually.  Each add returns the number of the
 * field's span, the same for the same path, or -1 with *error set.  A path is
 * names and array indexes: a.b[0]; a name in double quotes may contain any
 * character, a doubled quote is one quote.
 */
typedef struct MillJsonPaths MillJsonPaths;

extern MillJsonPaths *mill_json_paths_create(void *(*alloc)(size_t));
extern int mill_json_paths_add(MillJsonPaths *paths, const char *path, const char **error);
extern int mill_json_paths_add_name(MillJsonPaths *paths, const char *name, size_t length);
extern int mill_json_paths_count(const MillJsonPaths *paths);

/*
 * Validate the whole input, which must be an object, and find the wanted
 * fields; spans has space for all of them.  Of duplicate keys the last one
 * counts, with all that is in it.
 */
extern bool mill_json_scan(const MillJsonPaths *paths, const char *data, size_t length,
						   MillJsonSpan *spans, MillJsonError *error);

/* Validate a value of any kind and set its span. */
extern bool mill_json_check(const char *data, size_t length, MillJsonSpan *value,
							MillJsonError *error);

/*
 * Iterate over a validated object or array.  Begin with *position NULL; key may
 * be NULL for an array.  False at the end.
 */
extern bool mill_json_next(const MillJsonSpan *container, const char **position, MillJsonSpan *key,
						   MillJsonSpan *value);

/* Unescape a validated string into out, not longer than it; returns the length. */
extern size_t mill_json_unescape(const char *string, size_t length, char *out);

/* Is a validated string, escaped or not, equal to this name? */
extern bool mill_json_equals(const MillJsonSpan *string, const char *name, size_t length);

/* How many bytes at the beginning are valid UTF-8 without U+0000? */
extern size_t mill_utf8_prefix(const char *data, size_t length);

#endif
