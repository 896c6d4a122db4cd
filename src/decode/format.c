/*
 * format.c
 *		The table of formats, and which options of a stream they refuse.
 */
#include "postgres.h"

#include "utils/lsyscache.h"

#include "decode/format.h"

static const MillFormat *const formats[] = {&mill_format_json, &mill_format_csv, &mill_format_text,
											&mill_format_raw};

const MillFormat *
mill_format_by_name(const char *name)
{
	for (int i = 0; i < lengthof(formats); i++)
	{
		if (strcmp(formats[i]->name, name) == 0)
			return formats[i];
	}
	return NULL;
}

static void
check_delimiter(const MillLayout *layout)
{
	const MillFormat *format = layout->format;

	if (!format->delimiter && (layout->null_string || layout->delimiter))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" cannot be used with format \"%s\"",
						layout->delimiter ? "delimiter" : "null", format->name),
				 errhint("It belongs to the formats csv and text; for example: format 'csv'.")));
	if (layout->delimiter && strchr(format->refused_delimiters, layout->delimiter))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the delimiter of format \"%s\" cannot be \"%c\"", format->name,
							   layout->delimiter),
						errhint("For example: delimiter ';'.")));
	if (layout->delimiter && layout->null_string && strchr(layout->null_string, layout->delimiter))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the delimiter must not appear in the null string"),
						errhint("For example: delimiter ';', \"null\" 'NULL'.")));
}

/* Column options are checked if the columns are known. */
void
mill_format_check(const MillLayout *layout)
{
	int fields = 0;

	check_delimiter(layout);
	for (int i = 0; i < layout->ncolumns; i++)
		fields += layout->columns[i].kind == MILL_COLUMN_FIELD;
	if (layout->format->one_field && fields > 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("stream \"%s\" of format %s has %d columns for the message's value",
							   get_rel_name(layout->relid), layout->format->name, fields),
						errhint("Keep one, and give the others an option such as metadata 'key'.")));
}
