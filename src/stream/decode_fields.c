/*
 * decode_fields.c
 *		Split a csv or text message into its fields.
 *
 * One message is one record.  As COPY reads a line: csv may have quotes
 * anywhere in a field, a doubled quote stands for one, a quoted field is
 * never null; text has backslash escapes, and is null where the field as it
 * came is the null string.
 */
#include "postgres.h"

#include "stream/decode.h"

/* A record may end with a newline; producers that read lines leave one. */
static size_t
without_newline(const char *data, size_t length)
{
	if (length > 0 && data[length - 1] == '\n')
		length--;
	if (length > 0 && data[length - 1] == '\r')
		length--;
	return length;
}

static void
store(MillField *fields, int number, int max, const char *start, size_t length, bool isnull)
{
	if (number < max)
	{
		fields[number].start = start;
		fields[number].length = length;
		fields[number].isnull = isnull;
	}
}

/*
 * One csv field from p on, unquoted into out, which has room; returns its
 * end: the delimiter or the record's end.  NULL with *error set.
 */
static const char *
read_csv_field(const char *p, const char *end, char delimiter, char **out, bool *quoted, MillDecodeError *error)
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

int
mill_split_csv(const char *data, size_t length, char delimiter, const char *null_string,
			   MillField *fields, int max, MillDecodeError *error)
{
	const char *p = data;
	const char *end = data + without_newline(data, length);
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
		store(fields, count++, max, start, out - start,
			  !quoted && out - start == null_length && memcmp(start, null_string, null_length) == 0);
		if (p == end)
			return count;
		p++;
	}
}

/* ---- text ---- */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* What the escape at p stands for, p behind the backslash; *p moves behind it. */
static char
read_escape(const char **p, const char *end)
{
	static const char letters[] = "bfnrtv";
	static const char meanings[] = "\b\f\n\r\t\v";
	char c = *(*p)++;
	const char *letter = c ? strchr(letters, c) : NULL;
	int value = 0;

	if (letter)
		return meanings[letter - letters];
	if (c >= '0' && c <= '7')
	{
		value = c - '0';
		for (int i = 0; i < 2 && *p < end && **p >= '0' && **p <= '7'; i++)
			value = value * 8 + (*(*p)++ - '0');
		return (char) (value & 0xFF);
	}
	if (c == 'x' && *p < end && hex_digit(**p) >= 0)
	{
		for (int i = 0; i < 2 && *p < end && hex_digit(**p) >= 0; i++)
			value = value * 16 + hex_digit(*(*p)++);
		return (char) value;
	}
	return c;
}

/* One field, unescaped into out; as read_csv_field. */
static const char *
read_text_field(const char *p, const char *end, char delimiter, char **out, MillDecodeError *error)
{
	while (p < end && *p != delimiter)
	{
		if (*p == '\n' || *p == '\r')
		{
			mill_bad(error, ERRCODE_BAD_COPY_FILE_FORMAT, "literal newline found in data");
			error->detail = "A message is one record; a newline in a field is written as \"\\n\".";
			return NULL;
		}
		if (*p == '\\' && end - p > 1)
		{
			p++;
			*(*out)++ = read_escape(&p, end);
		}
		else
			*(*out)++ = *p++;
	}
	return p;
}

int
mill_split_text(const char *data, size_t length, char delimiter, const char *null_string,
				MillField *fields, int max, MillDecodeError *error)
{
	const char *p = data;
	const char *end = data + without_newline(data, length);
	char *buffer = palloc(length + 1);
	char *out = buffer;
	size_t null_length = strlen(null_string);
	int count = 0;

	/* a newline that a backslash quotes is data */
	if (end < data + length && end > data && end[-1] == '\\')
		end = data + length;
	for (;;)
	{
		const char *field = p;
		char *start = out;

		p = read_text_field(p, end, delimiter, &out, error);
		if (p == NULL)
			return -1;
		store(fields, count++, max, start, out - start,
			  p - field == null_length && memcmp(field, null_string, null_length) == 0);
		if (p == end)
			break;
		p++;
	}

	/* octal and hexadecimal escapes can make any byte */
	return mill_check_utf8(buffer, out - buffer, error) ? count : -1;
}
