/*
 * format.h
 *		A format of messages, and what decoder and formats share.
 *
 * A format is a MillFormat in a file of its own, and a row of the table in
 * format.c.  It takes a message's value apart and gives one field after the
 * other; keys, metadata, limits and tombstones are the decoder's.
 */
#ifndef MILL_DECODE_FORMAT_H
#define MILL_DECODE_FORMAT_H

#include "decode/type.h"
#include "executor/executor.h"

/* A needed column. */
typedef struct MillDecoderColumn
{
	int index; /* attribute number - 1 */
	MillColumnKind kind;
	int place; /* of its field, as the format counts them */
	const char *name;
	MillType *type;
	ExprState *default_expression; /* NULL: use the value below */
	Datum default_value;
	bool default_isnull;
} MillDecoderColumn;

struct MillDecoder
{
	const MillLayout *layout;
	Oid owner; /* of the table, who wrote the defaults */
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
	char delimiter;					/* if none is given; '\0': the format has none */
	const char *null_string;		/* likewise */
	const char *refused_delimiters; /* those that it cannot have */
	bool one_field;					/* only one column can take the value */
	bool absent_fields;				/* a field may be absent: the column's DEFAULT is prepared */

	/* Once: all columns of the table are known, the needed ones not yet. */
	void (*open)(MillDecoder *decoder, TupleDesc desc);
	/* For each needed column that is a field: set its place. */
	void (*add)(MillDecoder *decoder, MillDecoderColumn *column);
	/* Check a value, which is not null, as a whole, and take it apart. */
	MillVerdict (*read)(MillDecoder *decoder, const MillMessage *message, MillDecodeError *error);
	/* Then the field of a column, as a value of its type. */
	bool (*field)(MillDecoder *decoder, MillDecoderColumn *column, const MillMessage *message,
				  Datum *value, bool *isnull, MillDecodeError *error);
};

extern const MillFormat mill_format_json, mill_format_csv, mill_format_text, mill_format_raw;

/* format.c: the table; NULL if there is none of that name */
extern const MillFormat *mill_format_by_name(const char *name);

/* Raise an error if the options of a layout contradict its format. */
extern void mill_format_check(const MillLayout *layout);

/* decoder.c: for a field that is absent, and one that is null */
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

/* What a record was split into; fields from the max-th on are counted only. */
typedef struct MillRecord
{
	MillField *fields;
	int max;
	bool more;			/* a message may have more than we know */
	const char **names; /* of the columns, by place */
	int *places;		/* by attribute number - 1 */
} MillRecord;

extern void mill_record_open(MillDecoder *decoder, TupleDesc desc);
extern void mill_record_add(MillDecoder *decoder, MillDecoderColumn *column);
extern bool mill_record_field(MillDecoder *decoder, MillDecoderColumn *column,
							  const MillMessage *message, Datum *value, bool *isnull,
							  MillDecodeError *error);
/* A format's way to split a value: the number of fields, or -1 with *error set. */
typedef int (*MillSplit)(MillRecord *record, const char *data, size_t length, char delimiter,
						 const char *null_string, MillDecodeError *error);
extern MillVerdict mill_record_read(MillDecoder *decoder, const MillMessage *message,
									MillSplit split, MillDecodeError *error);
extern void mill_record_store(MillRecord *record, int number, const char *start, size_t length,
							  bool isnull);
/* A record may end with a newline; producers that read lines leave one. */
extern size_t mill_without_newline(const char *data, size_t length);

#endif
