/*
 * parse_time.c
 *		Direct parsers: date, timestamp, timestamp with time zone in ISO 8601.
 *
 * YYYY-MM-DD, a T or a blank, HH:MM:SS, a fraction of a second, Z or an
 * offset.  Everything else that the types accept is passed to their input
 * functions.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/formatting.h"
#include "utils/timestamp.h"

#include "decode/type.h"

typedef enum Reading
{
	READ_FINE,
	READ_OUT_OF_RANGE, /* of this form, but not a valid day or time */
	READ_OTHER		   /* not of this form: ask the input function */
} Reading;

typedef struct IsoTime
{
	int year;
	int month;
	int day;
	int hour;
	int minute;
	int second;
	int fraction; /* microseconds */
	bool has_zone;
	int zone; /* seconds east of UTC */
} IsoTime;

/* Read so many digits, -1 if they are not digits; the caller checked the length. */
static inline int
read_digits(const char *p, int count)
{
	int value = 0;

	for (int i = 0; i < count; i++)
	{
		unsigned digit = (unsigned char) (p[i] - '0');

		if (digit > 9)
			return -1;
		value = value * 10 + (int) digit;
	}
	return value;
}

static Reading
read_date(const char *p, size_t length, IsoTime *time)
{
	if (length < 10 || p[4] != '-' || p[7] != '-')
		return READ_OTHER;
	time->year = read_digits(p, 4);
	time->month = read_digits(p + 5, 2);
	time->day = read_digits(p + 8, 2);
	if (time->year < 1 || time->month < 0 || time->day < 0)
		return READ_OTHER;
	if (time->month < 1 || time->month > 12 || time->day < 1 ||
		time->day > day_tab[isleap(time->year)][time->month - 1])
		return READ_OUT_OF_RANGE;
	return READ_FINE;
}

/*
 * Read the digits after the point.  More than six are rounded in floating point,
 * as the input function does.
 */
static const char *
read_fraction(const char *p, const char *end, int *fraction)
{
	const char *digits = p;
	int value = 0;

	for (; p < end && (unsigned char) (*p - '0') < 10 && p - digits < 6; p++)
		value = value * 10 + (*p - '0');
	for (int i = (int) (p - digits); i < 6; i++)
		value *= 10;
	*fraction = value;
	if (p < end && (unsigned char) (*p - '0') < 10)
	{
		char copy[32] = "0.";
		size_t count = 0;

		while (digits + count < end && (unsigned char) (digits[count] - '0') < 10)
			count++;
		if (count > sizeof(copy) - 3)
			return NULL;
		memcpy(copy + 2, digits, count);
		*fraction = (int) rint(strtod(copy, NULL) * 1000000);
		p = digits + count;
	}
	return p;
}

/* Read Z, +hh, +hhmm, +hh:mm, or nothing. */
static bool
read_zone(const char *p, size_t length, IsoTime *time)
{
	int hours;
	int minutes = 0;

	time->has_zone = length > 0;
	time->zone = 0;
	if (length == 0 || (length == 1 && (*p == 'Z' || *p == 'z')))
		return true;
	if (*p != '+' && *p != '-')
		return false;
	if (length != 3 && length != 5 && (length != 6 || p[3] != ':'))
		return false;
	hours = read_digits(p + 1, 2);
	if (length > 3)
		minutes = read_digits(p + length - 2, 2);
	if (hours < 0 || hours > 15 || minutes < 0 || minutes > 59)
		return false;
	time->zone = (hours * 60 + minutes) * 60 * (*p == '-' ? -1 : 1);
	return true;
}

static Reading
read_timestamp(const char *input, size_t length, IsoTime *time)
{
	const char *end = input + length;
	const char *p = input + 19;
	Reading reading;

	if (length < 19 || (input[10] != 'T' && input[10] != ' ') || input[13] != ':' ||
		input[16] != ':')
		return READ_OTHER;
	time->hour = read_digits(input + 11, 2);
	time->minute = read_digits(input + 14, 2);
	time->second = read_digits(input + 17, 2);
	time->fraction = 0;
	if (p < end && *p == '.')
	{
		p = read_fraction(p + 1, end, &time->fraction);
		if (p == NULL)
			return READ_OTHER;
	}
	if (time->hour < 0 || time->minute < 0 || time->second < 0 || !read_zone(p, end - p, time))
		return READ_OTHER;
	reading = read_date(input, length, time);
	if (reading != READ_FINE)
		return reading;
	if (time->hour > 24 || time->minute > 59 || time->second > 60)
		return READ_OUT_OF_RANGE;

	/* 24:00:00 and second 60 are allowed, but rare */
	return time->hour < 24 && time->second < 60 ? READ_FINE : READ_OTHER;
}

static Timestamp
assemble(const IsoTime *time)
{
	int64 date = date2j(time->year, time->month, time->day) - POSTGRES_EPOCH_JDATE;

	return ((date * 24 + time->hour) * 60 + time->minute) * INT64CONST(60000000) +
		   time->second * INT64CONST(1000000) + time->fraction;
}

/* Round to the type modifier's digits of a second, halves away from zero. */
static Timestamp
round_timestamp(Timestamp value, int32 typmod)
{
	int64 unit = 1;

	if (typmod < 0 || typmod >= MAX_TIMESTAMP_PRECISION)
		return value;
	for (int i = typmod; i < MAX_TIMESTAMP_PRECISION; i++)
		unit *= 10;
	if (value >= 0)
		return (value + unit / 2) / unit * unit;
	return -((-value + unit / 2) / unit * unit);
}

/*
 * Certainly rejected by the input functions: without digits only these words
 * are accepted.
 */
static bool
has_no_time(const char *input, size_t length)
{
	static const char *const words[] = {"now",	 "today",	 "tomorrow", "yesterday",
										"epoch", "infinity", "allballs"};
	char *copy;

	for (size_t i = 0; i < length; i++)
	{
		if (input[i] >= '0' && input[i] <= '9')
			return false;
	}
	copy = asc_tolower(input, length);
	for (int i = 0; i < lengthof(words); i++)
	{
		if (strstr(copy, words[i]) != NULL)
			return false;
	}
	return true;
}

/* Does a number end with an impossible month or day?  Often it is seconds since 1970. */
static bool
is_epoch(const char *input, size_t length)
{
	int month;
	int day;

	if (length < 9 || length > 13 || read_digits(input, 9) < 0 ||
		read_digits(input + 9, (int) length - 9) < 0)
		return false;
	month = read_digits(input + length - 4, 2);
	day = read_digits(input + length - 2, 2);
	return month < 1 || month > 12 || day < 1 || day > 31;
}

static bool
refuse_time(Reading reading, MillType *type, const char *name, const char *input, size_t length,
			Datum *value, MillDecodeError *error)
{
	if (reading == READ_OUT_OF_RANGE || is_epoch(input, length))
		return mill_bad(error, ERRCODE_DATETIME_FIELD_OVERFLOW,
						"date/time field value out of range: \"%s\"", mill_clip(input, length));
	if (has_no_time(input, length))
		return mill_bad(error, ERRCODE_INVALID_DATETIME_FORMAT,
						"invalid input syntax for type %s: \"%s\"", name, mill_clip(input, length));
	return mill_type_input(type, input, length, value, error);
}

static bool
parse_timestamptz(MillType *type, const char *input, size_t length, Datum *value,
				  MillDecodeError *error)
{
	IsoTime time;
	Reading reading = read_timestamp(input, length, &time);
	Timestamp result;

	if (reading != READ_FINE)
		return refuse_time(reading, type, "timestamp with time zone", input, length, value, error);
	result = assemble(&time);
	if (time.has_zone)
		result -= time.zone * INT64CONST(1000000);
	else
	{
		struct pg_tm tm = {0};

		tm.tm_year = time.year;
		tm.tm_mon = time.month;
		tm.tm_mday = time.day;
		tm.tm_hour = time.hour;
		tm.tm_min = time.minute;
		tm.tm_sec = time.second;
		result += DetermineTimeZoneOffset(&tm, session_timezone) * INT64CONST(1000000);
	}
	*value = TimestampTzGetDatum(round_timestamp(result, type->typmod));
	return true;
}

/* a zone is read and ignored, as always with this type */
static bool
parse_timestamp(MillType *type, const char *input, size_t length, Datum *value,
				MillDecodeError *error)
{
	IsoTime time;
	Reading reading = read_timestamp(input, length, &time);

	if (reading != READ_FINE)
		return refuse_time(reading, type, "timestamp", input, length, value, error);
	*value = TimestampGetDatum(round_timestamp(assemble(&time), type->typmod));
	return true;
}

static bool
parse_date(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	IsoTime time;
	Reading reading = length == 10 ? read_date(input, length, &time) : READ_OTHER;

	if (reading != READ_FINE)
		return refuse_time(reading, type, "date", input, length, value, error);
	*value = DateADTGetDatum(date2j(time.year, time.month, time.day) - POSTGRES_EPOCH_JDATE);
	return true;
}

MillParse
mill_time_parser(Oid oid)
{
	switch (oid)
	{
		case TIMESTAMPTZOID:
			return parse_timestamptz;
		case TIMESTAMPOID:
			return parse_timestamp;
		case DATEOID:
			return parse_date;
	}
	return NULL;
}
