/*
 * format_text.c
 *		Format text: one message is one record, as COPY reads a line of its format text.
 *
 * Backslash escapes; null if the field, before unescaping, is the null string.
 */
#include "postgres.h"

#include "decode/format.h"
#include "decode/json_lex.h"

/* The byte of an escape, *p after its backslash; moves *p past it. */
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
	if (c == 'x' && *p < end && mill_hex_digit(**p) >= 0)
	{
		for (int i = 0; i < 2 && *p < end && mill_hex_digit(**p) >= 0; i++)
			value = value * 16 + mill_hex_digit(*(*p)++);
		return (char) value;
	}
	return c;
}

/* Read one field, unescaped into out; as read_csv_field. */
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

/* Split a record; the number of fields, or -1 with *error set. */
static int
split_text(MillRecord *record, const char *data, size_t length, char delimiter,
		   const char *null_string, MillDecodeError *error)
{
	const char *p = data;
	const char *end = data + mill_without_newline(data, length);
	char *buffer = palloc(length + 1);
	char *out = buffer;
	size_t null_length = strlen(null_string);
	int count = 0;

	/* a newline that is quoted by a backslash is data */
	if (end < data + length && end > data && end[-1] == '\\')
		end = data + length;
	for (;;)
	{
		const char *field = p;
		char *start = out;

		p = read_text_field(p, end, delimiter, &out, error);
		if (p == NULL)
			return -1;
		mill_record_store(record, count++, start, out - start,
						  p - field == null_length && memcmp(field, null_string, null_length) == 0);
		if (p == end)
			break;
		p++;
	}

	/* octal and hexadecimal escapes can produce any byte */
	return mill_check_utf8(buffer, out - buffer, error) ? count : -1;
}

static MillVerdict
read_text(MillDecoder *decoder, const MillMessage *message, MillDecodeError *error)
{
	return mill_record_read(decoder, message, split_text, error);
}

const MillFormat mill_format_text = {
	.name = "text",
	.delimiter = '\t',
	.null_string = "\\N",
	.refused_delimiters = "\\.abcdefghijklmnopqrstuvwxyz0123456789",
	.open = mill_record_open,
	.add = mill_record_add,
	.read = read_text,
	.field = mill_record_field,
};
