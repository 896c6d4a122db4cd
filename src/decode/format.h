/*
 * format.h
 *		A format of messages; shared by the decoder and the formats.
 *
 * A format is a MillFormat in a file of its own, and a row in the table in
 * format.c.  It splits a message's value into fields; keys, metadata, limits
 * and tombstones are handled by the decoder.
 */
#ifndef MILL_DECODE_FORMAT_H
#define MILL_DECODE_FORMAT_H

#include "decode/type.h"
#include "executor/executor.h"

/* A column that is needed. */
typedef struct MillDecoderColumn
{
	int index; /* attribute number - 1 */
	MillColumnKind kind;
	int field_no; /* number of its field, as the format counts them */
	const char *name;
	MillType *type;
	ExprState *default_expression; /* NULL: use the value below */
	Datum default_value;
	bool default_isnull;
} MillDecoderColumn;

struct MillDecoder
{
	const MillLayout *layout;
	Oid owner; /* of the table; defaults run as this role */
	int natts;
	MillDecoderColumn *columns;
	int ncolumns;
	const MillDecoderColumn *current; /* being decoded, for the error context */
	ExprContext *expressions;
	void *format_data; /* the format's own */
};

struct MillFormat
{
	const char *name;
	bool named_fields;				/* a field is a name or path, not a position */
	char delimiter;					/* default; '\0': the format has no delimiters */
	const char *null_string;		/* default; NULL: the format has none */
	const char *refused_delimiters; /* delimiters that are refused */
	bool one_field;					/* the value is one field, for one column */
	bool absent_fields;				/* a field may be absent, and the column's DEFAULT be used */

	/* Once: all columns of the table are known, the needed ones not yet. */
	void (*open)(MillDecoder *decoder, TupleDesc desc);
	/* For each needed column that is a field: set its field_no. */
	void (*add)(MillDecoder *decoder, MillDecoderColumn *column);
	/* Check a whole value, which is not null, and split it. */
	MillVerdict (*read)(MillDecoder *decoder, const MillMessage *message, MillDecodeError *error);
	/* After that: the field of a column, as a value of the column's type. */
	bool (*field)(MillDecoder *decoder, MillDecoderColumn *column, const MillMessage *message,
				  Datum *value, bool *isnull, MillDecodeError *error);
};

extern const MillFormat mill_format_json, mill_format_csv, mill_format_text, mill_format_raw;

/* format.c: the format of this name; NULL if there is none */
extern const MillFormat *mill_format_by_name(const char *name);

/* Raise an error if the options of a layout do not fit its format. */
extern void mill_format_check(const MillLayout *layout);

/* decoder.c: the value of a field that is absent, and of one that is null */
extern void mill_take_default(MillDecoder *decoder, MillDecoderColumn *column, Datum *value,
							  bool *isnull);
extern bool mill_take_null(MillType *type, Datum *value, bool *isnull);

/* ---- records of fields one after the other: record.c ---- */

/* A field of a record. */
typedef struct MillField
{
	const char *start;
	size_t length;
	bool isnull;
} MillField;

/* What a record was split into; fields from the max-th on are only counted. */
typedef struct MillRecord
{
	MillField *fields;
	int max;
	bool more;			/* a message may have more fields than columns */
	const char **names; /* names of columns, by field_no */
	int *field_nos;		/* by attribute number - 1 */
} MillRecord;

extern void mill_record_open(MillDecoder *decoder, TupleDesc desc);
extern void mill_record_add(MillDecoder *decoder, MillDecoderColumn *column);
extern bool mill_record_field(MillDecoder *decoder, MillDecoderColumn *column,
							  const MillMessage *message, Datum *value, bool *isnull,
							  MillDecodeError *error);
/* A format's function to split a value: the number of fields, or -1 with *error set. */
typedef int (*MillSplit)(MillRecord *record, const char *data, size_t length, char delimiter,
						 const char *null_string, MillDecodeError *error);
extern MillVerdict mill_record_read(MillDecoder *decoder, const MillMessage *message,
									MillSplit split, MillDecodeError *error);
extern void mill_record_store(MillRecord *record, int number, const char *start, size_t length,
							  bool isnull);
/* The end without a final newline, which producers that read lines leave. */
extern size_t mill_without_newline(const char *data, size_t length);

#endif
