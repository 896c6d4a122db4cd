/*
 * layout.h
 *		How the messages of a topic lie in the columns of a table: what the
 *		options of a stream and of its columns say.
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
	MILL_COLUMN_PAYLOAD /* the value as it is, bytea */
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
	int max_message_bytes;	 /* longer keys, values or headers make bad messages */
	const char *null_string; /* NULL or '\0': the format's own, if it has one */
	char delimiter;
	int ncolumns;		 /* of the tuple descriptor */
	MillColumn *columns; /* by attribute number - 1; dropped: undefined */
} MillLayout;

#endif
