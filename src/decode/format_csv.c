/*
 * format_csv.c
 *		Format csv: one message is one record, as COPY reads a line of its format csv.
 *
 * Quotes may be anywhere in a field, a doubled quote is one quote, a quoted
 * field is never null.
 */
#include "postgres.h"

#include "decode/format.h"

/*
 * Read one csv field at p, unquoted into out, which has enough space; returns
 * its end: the delimiter or the record's end.  NULL with *error set on failure.
 */
static const char *
read_csv_field(const char *p, const char *end, char delimiter, char **out, bool *quoted,
			   MillDecodeError *error)
{
	bool inside = false;

	*quoted = false;
	for (; p < end; p++)
	{
		if (*p == '"')
		{
			if (inside && end - p > 1 && p[1] == '"')
				*(*out)++ = *p++;
			else
			{
				inside = !inside;
				*quoted = true;
			}
			continue;
		}
		if (!inside)
		{
			if (*p == delimiter)
				return p;
			if (*p == '\n' || *p == '\r')
			{
				mill_bad(error, ERRCODE_BAD_COPY_FILE_FORMAT, "unquoted newline found in data");
				error->detail = "A message is one record; a newline in a field must be in quotes.";
				return NULL;
			}
		}
		*(*out)++ = *p;
	}
	if (inside)
	{
		mill_bad(error, ERRCODE_BAD_COPY_FILE_FORMAT, "unterminated CSV quoted field");
		return NULL;
	}
	return end;
}

/* Split a record; the number of fields, or -1 with *error set. */
static int
split_csv(MillRecord *record, const char *data, size_t length, char delimiter,
		  const char *null_string, MillDecodeError *error)
{
	const char *p = data;
	const char *end = data + mill_without_newline(data, length);
	char *out = palloc(length + 1);
	size_t null_length = strlen(null_string);
	int count = 0;

	for (;;)
	{
		char *start = out;
		bool quoted;

		p = read_csv_field(p, end, delimiter, &out, &quoted, error);
		if (p == NULL)
			return -1;
		mill_record_store(record, count++, start, out - start,
						  !quoted && out - start == null_length &&
							  memcmp(start, null_string, null_length) == 0);
		if (p == end)
			return count;
		p++;
	}
}

static MillVerdict
read_csv(MillDecoder *decoder, const MillMessage *message, MillDecodeError *error)
{
	return mill_record_read(decoder, message, split_csv, error);
}

const MillFormat mill_format_csv = {
	.name = "csv",
	.delimiter = ',',
	.null_string = "",
	.refused_delimiters = "\"",
	.open = mill_record_open,
	.add = mill_record_add,
	.read = read_csv,
	.field = mill_record_field,
};
