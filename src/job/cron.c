/*
 * cron.c
 *		Cron's five fields: text to sets, and local times that match.
 *
 *		field		numbers		names		besides
 *		minute		0 .. 59
 *		hour		0 .. 23
 *		day			1 .. 31					L: the month's last
 *		month		1 .. 12		jan .. dec
 *		weekday		0 .. 7		sun .. sat	5#3: the third Friday; 0 and 7 are Sunday
 *
 * A field is a list of items: *, a, a-b, and each of them with /n; a/n goes on
 * to the field's end, and a range may go over it: 22-4, fri-mon.  Days: those
 * that match either field, if both are restricted; those that match both, if
 * one of them begins with *.  Anything else is refused: other crons differ in
 * how they read it.
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "job/cron.h"

typedef struct Field
{
	const char *name;
	int low;
	int high;				  /* of weekdays 7, which is 0 */
	const char *const *names; /* of low, low + 1, ... */
} Field;

enum
{
	CRON_MINUTE,
	CRON_HOUR,
	CRON_DAY,
	CRON_MONTH,
	CRON_WEEKDAY,
	CRON_FIELDS
};

static const char *const month_names[] = {"jan", "feb", "mar", "apr", "may", "jun", "jul",
										  "aug", "sep", "oct", "nov", "dec", NULL};
static const char *const weekday_names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat", NULL};

static const Field fields[CRON_FIELDS] = {
	{"minute", 0, 59, NULL},
	{"hour", 0, 23, NULL},
	{"day of the month", 1, 31, NULL},
	{"month", 1, 12, month_names},
	{"day of the week", 0, 7, weekday_names},
};

static const struct
{
	const char *name;
	const char *fields;
} macros[] = {
	{"@hourly", "0 * * * *"},	{"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
	{"@weekly", "0 0 * * 0"},	{"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"},
	{"@annually", "0 0 1 1 *"},
};

/* ---- parsing ---- */

typedef struct Parser
{
	const char *text;
	const char *at;
	int field;
	MillCron *cron;
} Parser;

static _Noreturn void
refuse_cron(const Parser *parser, const char *at, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid schedule: \"%s\"", parser->text),
			 parser->field < CRON_FIELDS
				 ? errdetail("In the field \"%s\", at character %d: %s.",
							 fields[parser->field].name, (int) (at - parser->text) + 1, what)
				 : errdetail("At character %d: %s.", (int) (at - parser->text) + 1, what),
			 hint ? errhint("%s", hint)
				  : errhint("The five fields are minute, hour, day, month and weekday, for example "
							"\"30 1 * * mon-fri\"; or one of @hourly, @daily, @weekly, @monthly, "
							"@yearly, \"@every 90 seconds\".")));
}

static bool
is_word_end(char c)
{
	return c == '\0' || c == ' ' || c == '\t' || c == ',' || c == '-' || c == '/' || c == '#';
}

/* A number or name of the field. */
static int
parse_value(Parser *parser)
{
	const Field *field = &fields[parser->field];
	const char *start = parser->at;
	int value = 0;

	if (isdigit((unsigned char) *start))
	{
		while (isdigit((unsigned char) *parser->at))
		{
			value = Min(value * 10 + (*parser->at - '0'), 1000);
			parser->at++;
		}
		if (value < field->low || value > field->high)
			refuse_cron(parser, start,
						psprintf("a number from %d to %d is expected", field->low, field->high),
						NULL);
	}
	else
	{
		int length = 0;

		while (!is_word_end(start[length]))
			length++;
		for (int i = 0; field->names && field->names[i]; i++)
		{
			if (length == 3 && pg_strncasecmp(start, field->names[i], 3) == 0)
			{
				parser->at += 3;
				return field->low + i;
			}
		}
		refuse_cron(parser, start,
					field->names
						? psprintf("a number or one of %s .. %s is expected", field->names[0],
								   field->names[field->high - field->low -
												(parser->field == CRON_WEEKDAY ? 1 : 0)])
						: "a number is expected",
					NULL);
	}
	if (!is_word_end(*parser->at))
		refuse_cron(parser, parser->at, psprintf("unexpected \"%c\" after a number", *parser->at),
					NULL);
	return value;
}

/* "/n", if it is there; 1 otherwise. */
static int
parse_step(Parser *parser, bool *given)
{
	const Field *field = &fields[parser->field];
	const char *start;
	int step = 0;

	*given = *parser->at == '/';
	if (!*given)
		return 1;
	start = ++parser->at;
	while (isdigit((unsigned char) *parser->at))
	{
		step = Min(step * 10 + (*parser->at - '0'), 1000);
		parser->at++;
	}
	if (step < 1 || step > field->high)
		refuse_cron(parser, start, psprintf("a step from 1 to %d is expected", field->high), NULL);
	return step;
}

/* A value that matches; 7 is Sunday. */
static void
add_value(Parser *parser, uint64 *set, int value)
{
	*set |= UINT64CONST(1) << (parser->field == CRON_WEEKDAY ? value % 7 : value);
}

/* From a on by steps to b, over the field's end if b comes before a. */
static void
add_range(Parser *parser, uint64 *set, int a, int b, int step)
{
	const Field *field = &fields[parser->field];
	int count = parser->field == CRON_WEEKDAY ? 7 : field->high - field->low + 1;

	if (a > b)
		b += count;
	for (int i = a; i <= b; i += step)
		add_value(parser, set, i > field->high ? i - count : i);
}

/* The weekday's "#n", if it is there. */
static bool
parse_nth(Parser *parser, int weekday)
{
	const char *start;

	if (parser->field != CRON_WEEKDAY || *parser->at != '#')
		return false;
	start = ++parser->at;
	if (*start < '1' || *start > '5')
		refuse_cron(parser, start, "a number from 1 to 5 is expected: which one in its month", NULL);
	parser->at++;
	parser->cron->nth[weekday % 7] |= 1 << (*start - '0');
	return true;
}

static void
parse_item(Parser *parser, uint64 *set)
{
	const Field *field = &fields[parser->field];
	const char *start = parser->at;
	bool stepped;
	int a, b, step;

	if (*start == '*')
	{
		parser->at++;
		step = parse_step(parser, &stepped);
		/* of weekdays 7 is 0 once more */
		add_range(parser, set, field->low, parser->field == CRON_WEEKDAY ? 6 : field->high, step);
		return;
	}
	if (parser->field == CRON_DAY && (*start == 'L' || *start == 'l') && is_word_end(start[1]))
	{
		parser->at++;
		parser->cron->last_day = true;
		return;
	}
	a = b = parse_value(parser);
	if (parse_nth(parser, a))
		return;
	if (*parser->at == '-')
	{
		parser->at++;
		b = parse_value(parser);
		step = parse_step(parser, &stepped);
	}
	else
	{
		step = parse_step(parser, &stepped);
		if (stepped)
			b = parser->field == CRON_WEEKDAY ? Max(a, 6) : field->high;
	}
	add_range(parser, set, a, b, step);
}

static void
parse_field(Parser *parser, uint64 *set, bool *all)
{
	*set = 0;
	*all = *parser->at == '*';
	for (;;)
	{
		if (*parser->at == '\0' || *parser->at == ' ' || *parser->at == '\t')
			refuse_cron(parser, parser->at, "something is missing here", NULL);
		parse_item(parser, set);
		if (*parser->at != ',')
			break;
		parser->at++;
	}
	if (*parser->at != '\0' && *parser->at != ' ' && *parser->at != '\t')
		refuse_cron(parser, parser->at, psprintf("unexpected \"%c\"", *parser->at), NULL);
}

static void
skip_blanks(Parser *parser)
{
	while (*parser->at == ' ' || *parser->at == '\t')
		parser->at++;
}

/* The five fields that a macro stands for. */
static const char *
fields_of_macro(Parser *parser)
{
	for (int i = 0; i < lengthof(macros); i++)
	{
		if (pg_strcasecmp(parser->at, macros[i].name) == 0)
			return macros[i].fields;
	}
	parser->field = CRON_FIELDS;
	refuse_cron(parser, parser->at, "this is no macro of ours", NULL);
}

/* Is there any day of the 400 years after which the calendar repeats? */
static bool
ever_fires(const MillCron *cron)
{
	return mill_cron_local(cron, 0) != DT_NOEND;
}

void
mill_cron_parse(const char *text, MillCron *cron)
{
	Parser parser = {.text = text, .at = text, .cron = cron};
	const char *day_field = text;
	uint64 sets[CRON_FIELDS];
	bool all[CRON_FIELDS];

	memset(cron, 0, sizeof(*cron));
	skip_blanks(&parser);
	if (*parser.at == '@')
		parser.at = fields_of_macro(&parser);
	for (parser.field = 0; parser.field < CRON_FIELDS; parser.field++)
	{
		skip_blanks(&parser);
		if (*parser.at == '\0')
			refuse_cron(&parser, parser.at, "the field is missing", NULL);
		if (parser.field == CRON_DAY)
			day_field = parser.at;
		parse_field(&parser, &sets[parser.field], &all[parser.field]);
	}
	skip_blanks(&parser);
	if (*parser.at != '\0')
		refuse_cron(&parser, parser.at, "there are more than five fields",
					"Seconds and years are not supported; for seconds: \"@every 10 seconds\".");
	cron->minutes = sets[CRON_MINUTE];
	cron->hours = (uint32) sets[CRON_HOUR];
	cron->days = (uint32) sets[CRON_DAY];
	cron->months = (uint16) sets[CRON_MONTH];
	cron->weekdays = (uint8) sets[CRON_WEEKDAY];
	cron->all_days = all[CRON_DAY];
	cron->all_weekdays = all[CRON_WEEKDAY];
	cron->wildcard = all[CRON_MINUTE] || all[CRON_HOUR];
	if (!ever_fires(cron))
	{
		parser.field = CRON_DAY;
		refuse_cron(&parser, day_field, "no month has such a day", "The schedule would never fire.");
	}
}

/* ---- local times ---- */

static int
days_in_month(int year, int month)
{
	return day_tab[isleap(year)][month - 1];
}

static bool
matches_day(const MillCron *cron, int julian)
{
	int year, month, day;
	int weekday = j2day(julian);
	bool by_day, by_weekday;

	j2date(julian, &year, &month, &day);
	if (!(cron->months & (1 << month)))
		return false;
	by_day = (cron->days & ((uint32) 1 << day)) != 0 ||
			 (cron->last_day && day == days_in_month(year, month));
	by_weekday = (cron->weekdays & (1 << weekday)) != 0 ||
				 (cron->nth[weekday] & (1 << ((day - 1) / 7 + 1))) != 0;
	if (cron->all_days || cron->all_weekdays)
		return by_day && by_weekday;
	return by_day || by_weekday;
}

/* The first minute of the day from this one on that matches, -1 if there is none. */
static int
matching_minute(const MillCron *cron, int from)
{
	for (int hour = from / 60; hour < 24; hour++, from = hour * 60)
	{
		if (!(cron->hours & ((uint32) 1 << hour)))
			continue;
		for (int minute = from % 60; minute < 60; minute++)
		{
			if (cron->minutes & (UINT64CONST(1) << minute))
				return hour * 60 + minute;
		}
	}
	return -1;
}

Timestamp
mill_cron_local(const MillCron *cron, Timestamp from)
{
	int64 minutes = from / USECS_PER_MINUTE - (from % USECS_PER_MINUTE < 0);
	int64 day;
	int minute;

	/* the first whole minute from there on */
	if (minutes * USECS_PER_MINUTE < from)
		minutes++;
	day = minutes / (HOURS_PER_DAY * MINS_PER_HOUR) -
		  (minutes % (HOURS_PER_DAY * MINS_PER_HOUR) < 0);
	minute = (int) (minutes - day * (HOURS_PER_DAY * MINS_PER_HOUR));
	/* The calendar repeats after 400 years: 146,097 days, whole weeks. */
	for (int i = 0; i <= 146097; i++, day++, minute = 0)
	{
		int found;

		if (day + POSTGRES_EPOCH_JDATE < 0 || day + POSTGRES_EPOCH_JDATE >= TIMESTAMP_END_JULIAN)
			break;
		if (!matches_day(cron, (int) day + POSTGRES_EPOCH_JDATE))
			continue;
		found = matching_minute(cron, minute);
		if (found >= 0)
			return (day * (HOURS_PER_DAY * MINS_PER_HOUR) + found) * USECS_PER_MINUTE;
	}
	return DT_NOEND;
}
