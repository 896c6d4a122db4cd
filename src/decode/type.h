/*
 * type.h
 *		Values of a type from text or JSON, for the formats.
 */
#ifndef MILL_DECODE_TYPE_H
#define MILL_DECODE_TYPE_H

#include "catalog/pg_attribute.h"
#include "decode/decoder.h"
#include "decode/json_scan.h"
#include "fmgr.h"

typedef struct MillType MillType;

/*
 * Convert a text (UTF-8, without zero byte, not terminated) to a value as the
 * type's input function would; false with *error set, or raises an error.
 */
typedef bool (*MillParse)(MillType *type, const char *input, size_t length, Datum *value,
						  MillDecodeError *error);

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
	MillType *inner; /* element type of an array, base type of a domain */
	int16 inner_length;
	bool inner_by_value;
	char inner_align;
	void *domain_cache;
	MemoryContext context;
	TupleDesc desc;		   /* of a composite */
	MillType **attributes; /* NULL where dropped */
};

/* type.c */
extern MillType *mill_type_create(Oid oid, int32 typmod);

/* type_input.c: used by all parsers */
extern bool mill_type_input(MillType *type, const char *input, size_t length, Datum *value,
							MillDecodeError *error);
extern bool mill_bad(MillDecodeError *error, int sqlerrcode, const char *format, ...)
	pg_attribute_printf(3, 4);
extern bool mill_bad_syntax(MillDecodeError *error, const char *type, const char *input,
							size_t length);
extern bool mill_bad_range(MillDecodeError *error, const char *type, const char *input,
						   size_t length);
extern bool mill_bad_json(MillDecodeError *error, const MillJsonError *fault, const char *data,
						  size_t length);
extern bool mill_check_utf8(const char *input, size_t length, MillDecodeError *error);
extern char *mill_clip(const char *input, size_t length);

/* parse_scalar.c, parse_text.c, parse_time.c: the parser of a type, NULL if there is none */
extern MillParse mill_scalar_parser(Oid oid, int32 typmod);
extern MillParse mill_text_parser(Oid oid);
extern MillParse mill_time_parser(Oid oid);

/* json_value.c: convert a JSON value to a value of the type */
extern bool mill_type_json(MillType *type, const MillJsonSpan *span, Datum *value, bool *isnull,
						   MillDecodeError *error);
extern bool mill_json_to_type(MillType *type, const char *json, size_t length, Datum *value);

/* metadata.c */
extern void mill_metadata_check(const MillColumn *column, Form_pg_attribute attribute);
extern bool mill_metadata_value(MillColumnKind kind, const MillLayout *layout, MillType *type,
								const MillMessage *message, Datum *value, bool *isnull,
								MillDecodeError *error);

#endif
