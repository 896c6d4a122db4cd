/*
 * record.c
 *		Messages that are records of fields one after the other: which field
 *		each column has.
 */
#include "postgres.h"

#include "access/htup_details.h"

#include "decode/format.h"

/* A field's position from the text of the option, counted from 0. */
static int
field_position(const char *field, const char *name)
{
	char *end;
	long position;

	errno = 0;
	position = strtol(field, &end, 10);
	if (errno != 0 || *field < '0' || *field > '9' || *end != '\0' || position < 1 ||
		position > MaxTupleAttributeNumber)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid field \"%s\" for column \"%s\"", field, name),
				 errdetail("The field of a csv or text message is its position, from 1 to %d.",
						   MaxTupleAttributeNumber),
				 errhint("For example: field '3'.")));
	return (int) position - 1;
}

/*
 * Assign fields to columns: the given position, or the one after the previous
 * column's.  Only if no position is given do the columns determine the number
 * of fields.
 */
void
mill_record_open(MillDecoder *decoder, TupleDesc desc)
{
	MillRecord *record = palloc0(sizeof(MillRecord));
	int next = 0;

	record->names = palloc0(sizeof(char *) * (MaxTupleAttributeNumber + desc->natts));
	record->field_nos = palloc0(sizeof(int) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		const MillColumn *column = &decoder->layout->columns[i];
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);

		if (TupleDescAttr(desc, i)->attisdropped || column->kind != MILL_COLUMN_FIELD)
			continue;
		if (column->field)
		{
			next = field_position(column->field, name);
			record->more = true;
		}
		record->names[next] = pstrdup(name);
		record->field_nos[i] = next++;
		record->max = Max(record->max, next);
	}
	record->fields = palloc0(sizeof(MillField) * Max(record->max, 1));
	decoder->format_data = record;
}

void
mill_record_add(MillDecoder *decoder, MillDecoderColumn *column)
{
	column->field_no = ((MillRecord *) decoder->format_data)->field_nos[column->index];
}

size_t
mill_without_newline(const char *data, size_t length)
{
	if (length > 0 && data[length - 1] == '\n')
		length--;
	if (length > 0 && data[length - 1] == '\r')
		length--;
	return length;
}

void
mill_record_store(MillRecord *record, int number, const char *start, size_t length, bool isnull)
{
	if (number < record->max)
	{
		record->fields[number].start = start;
		record->fields[number].length = length;
		record->fields[number].isnull = isnull;
	}
}

/* Does a record with so many fields (-1: *error is set) fit the columns? */
static MillVerdict
check_fields(const MillDecoder *decoder, int count, size_t length, MillDecodeError *error)
{
	const MillRecord *record = decoder->format_data;

	if (count < 0)
		return MILL_BAD;
	if (record->max == 0 && count == 1 && length == 0)
		return MILL_ROW;
	if (count < record->max)
	{
		/* find the first missing field that has a column */
		while (record->names[count] == NULL)
			count++;
		mill_bad(error, ERRCODE_BAD_COPY_FILE_FORMAT, "missing data for column \"%s\"",
				 record->names[count]);
		return MILL_BAD;
	}
	if (count > record->max && !record->more)
	{
		mill_bad(error, ERRCODE_BAD_COPY_FILE_FORMAT, "extra data after last expected column");
		return MILL_BAD;
	}
	return MILL_ROW;
}

MillVerdict
mill_record_read(MillDecoder *decoder, const MillMessage *message, MillSplit split,
				 MillDecodeError *error)
{
	const MillLayout *layout = decoder->layout;
	const char *data = mill_message_value(message);
	size_t length = message->value_length;
	int count;

	if (!mill_check_utf8(data, length, error))
		return MILL_BAD;
	count = split(decoder->format_data, data, length, layout->delimiter, layout->null_string, error);
	return check_fields(decoder, count, length, error);
}

bool
mill_record_field(MillDecoder *decoder, MillDecoderColumn *column, const MillMessage *message,
				  Datum *value, bool *isnull, MillDecodeError *error)
{
	const MillField *field = &((MillRecord *) decoder->format_data)->fields[column->field_no];

	Assert(column->field_no < ((MillRecord *) decoder->format_data)->max);
	if (field->isnull)
		return mill_take_null(column->type, value, isnull);
	return column->type->parse(column->type, field->start, field->length, value, error);
}
