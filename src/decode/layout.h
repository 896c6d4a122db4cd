/*
 * layout.h
 *		How messages of a topic map to the columns of a table, by the options of
 *		a stream and its columns.
 */
#ifndef MILL_DECODE_LAYOUT_H
#define MILL_DECODE_LAYOUT_H

typedef struct MillFormat MillFormat;

typedef enum MillColumnKind
{
	MILL_COLUMN_FIELD,	  /* from the message's value */
	MILL_COLUMN_KEY,	  /* the key, by the column type's input function;
								 * bytea: the raw bytes */
	MILL_COLUMN_KEY_TEXT, /* the key as text */
	MILL_COLUMN_HEADERS,  /* jsonb array of {"name": ..., "value": ...} */
	MILL_COLUMN_TIMESTAMP,
	MILL_COLUMN_PARTITION,
	MILL_COLUMN_OFFSET,
	MILL_COLUMN_TOPIC,
	MILL_COLUMN_PAYLOAD /* the whole value, bytea */
} MillColumnKind;

typedef struct MillColumn
{
	MillColumnKind kind;
	const char *field; /* a name or path "a.b[0]", or a position; NULL: the
								 * column's own name, or the next position */
} MillColumn;

typedef struct MillLayout
{
	Oid relid; /* the table */
	const char *topic;
	const MillFormat *format;
	int max_message_bytes;	 /* a message with a longer key, value or headers is bad */
	const char *null_string; /* NULL or '\0': the format's default, if it has one */
	char delimiter;
	int ncolumns;		 /* natts of the tuple descriptor */
	MillColumn *columns; /* by attribute number - 1; dropped: undefined */
} MillLayout;

#endif
