/*
 * decode.h
 *		What the files of the decoder share; its door is in stream.h.
 */
#ifndef MILL_STREAM_DECODE_H
#define MILL_STREAM_DECODE_H

#include "fmgr.h"
#include "stream/json_scan.h"
#include "stream/stream.h"

typedef struct MillType MillType;

/*
 * Text (UTF-8, without a zero byte, not terminated) to a value as the type's
 * input function would; false with *error set, or an error raised.
 */
typedef bool (*MillParse)(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error);

typedef enum MillTypeClass
{
	MILL_TYPE_SCALAR,
	MILL_TYPE_JSON, /* json and jsonb: takes the JSON value itself */
	MILL_TYPE_ARRAY,
	MILL_TYPE_COMPOSITE,
	MILL_TYPE_DOMAIN
} MillTypeClass;

/* A type and how to make values of it; lives as long as its decoder. */
struct MillType
{
	Oid oid;
	int32 typmod;
	MillTypeClass class;
	MillParse parse;
	FmgrInfo input;
	Oid ioparam;
	MillType *inner; /* of an array its elements', of a domain its base */
	int16 inner_length;
	bool inner_by_value;
	char inner_align;
	void *domain_cache;
	MemoryContext context;
	TupleDesc desc;		   /* of a composite */
	MillType **attributes; /* NULL where dropped */
};

/* A field of a csv or text message. */
typedef struct MillField
{
	const char *start;
	size_t length;
	bool isnull;
} MillField;

/* decode_type.c: types, and the errors of all parsers */
extern MillType *mill_type_create(Oid oid, int32 typmod);
extern bool mill_type_input(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error);
extern bool mill_bad(MillDecodeError *error, int sqlerrcode, const char *format, ...) pg_attribute_printf(3, 4);
extern bool mill_bad_syntax(MillDecodeError *error, const char *type, const char *input, size_t length);
extern bool mill_bad_range(MillDecodeError *error, const char *type, const char *input, size_t length);
extern bool mill_bad_json(MillDecodeError *error, const MillJsonError *fault, const char *data, size_t length);
extern bool mill_check_utf8(const char *input, size_t length, MillDecodeError *error);
extern char *mill_clip(const char *input, size_t length);

/* decode_scalar.c, decode_text.c, decode_time.c: the direct parser of a type, NULL if there is none */
extern MillParse mill_scalar_parser(Oid oid, int32 typmod);
extern MillParse mill_text_parser(Oid oid);
extern MillParse mill_time_parser(Oid oid);

/* decode_json.c: a JSON value to a value of the type */
extern bool mill_type_json(MillType *type, const MillJsonSpan *span, Datum *value, bool *isnull, MillDecodeError *error);
extern bool mill_json_to_type(MillType *type, const char *json, size_t length, Datum *value);

/*
 * decode_fields.c: split a message; at most max fields are stored, all are
 * counted; -1 with *error set.
 */
extern int mill_split_csv(const char *data, size_t length, char delimiter, const char *null_string,
						  MillField *fields, int max, MillDecodeError *error);
extern int mill_split_text(const char *data, size_t length, char delimiter, const char *null_string,
						   MillField *fields, int max, MillDecodeError *error);

/* decode_metadata.c */
extern void mill_metadata_check(const MillColumn *column, Form_pg_attribute attribute);
extern bool mill_metadata_value(MillColumnKind kind, const MillStream *stream, MillType *type,
								const MillMessage *message, Datum *value, bool *isnull, MillDecodeError *error);

#endif
