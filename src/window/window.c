/*
 * window.c
 *		Widths of windows, panes, and the arithmetic of windows.
 *
 * Runs in any backend.  Keeps no state.
 *
 * An event time is converted to a unit (mill_window_unit) and rounded down to
 * the grid of window starts (mill_window_floor); units are converted back to
 * times (mill_window_value).  Division always rounds down, so times before the
 * origin, before 2000 and before Christ are not special.  What is out of the
 * range of its type is an error, never a wrong time.
 */
#include "postgres.h"

#include "window/window.h"
#include "common/int.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

/* 2000-01-03, a Monday, in days since 2000-01-01: the default origin. */
#define DEFAULT_ORIGIN_DAY 2

void
mill_window_out_of_range(MillTimeType type)
{
	ereport(ERROR, (errcode(type == MILL_TIME_BIGINT ? ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
													 : ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
					type == MILL_TIME_BIGINT ? errmsg("bigint out of range")
					: type == MILL_TIME_DATE ? errmsg("date out of range")
											 : errmsg("timestamp out of range")));
}

static char *
interval_text(const Interval *interval)
{
	return DatumGetCString(DirectFunctionCall1(interval_out, PointerGetDatum(interval)));
}

/* The kind of a width; an error, which calls it what, if it mixes kinds or is not above zero. */
static MillWidthKind
width_kind(const Interval *width, const char *what)
{
	if ((width->month != 0) + (width->day != 0) + (width->time != 0) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s \"%s\" mixes months, days and hours", what, interval_text(width)),
				 errdetail("A month has 28 to 31 days, and a day in a time zone 23 to 25 hours."),
				 errhint(
					 "Write it in one of them, for example \"36 hours\", \"1 day\" or \"1 month\".")));
	if (width->month <= 0 && width->day <= 0 && width->time <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be greater than zero", what),
						errhint("Write for example \"5 minutes\" or \"1 day\".")));
	return width->month != 0 ? MILL_WIDTH_MONTHS
		   : width->day != 0 ? MILL_WIDTH_DAYS
							 : MILL_WIDTH_FIXED;
}

/* The kind of a window's width; an error if it mixes kinds or is not above zero. */
MillWidthKind
mill_width_kind(const Interval *size)
{
	return width_kind(size, "window size");
}

static MillWidthKind
common_kind(const Interval *slide, const Interval *size)
{
	MillWidthKind kind = width_kind(size, "window size");

	if (width_kind(slide, "slide") != kind)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("slide \"%s\" and window size \"%s\" are of different kinds",
						interval_text(slide), interval_text(size)),
				 errhint(
					 "Write both in hours and less, both in days, or both in months, for example \"1 hour\" and \"24 hours\".")));
	return kind;
}

static int64
greatest_common_divisor(int64 a, int64 b)
{
	while (b != 0)
	{
		int64 remainder = a % b;

		a = b;
		b = remainder;
	}
	return a;
}

/*
 * The width of panes, such that each pane is either inside or outside of a
 * window.  In the current memory context.
 */
Interval *
mill_pane_width(const Interval *slide, const Interval *size)
{
	Interval *pane = palloc0(sizeof(Interval));

	(void) common_kind(slide, size);
	pane->month = greatest_common_divisor(slide->month, size->month);
	pane->day = greatest_common_divisor(slide->day, size->day);
	pane->time = greatest_common_divisor(slide->time, size->time);
	return pane;
}

static void
check_widths_int(int64 slide, int64 size)
{
	if (slide <= 0 || size <= 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("%s must be greater than zero", size <= 0 ? "window size" : "slide"),
						errhint("Write for example 1000.")));
}

int64
mill_pane_width_int(int64 slide, int64 size)
{
	check_widths_int(slide, size);
	return greatest_common_divisor(slide, size);
}

/* Is the value finite?  Infinite times are in no window. */
bool
mill_window_finite(MillTimeType type, int64 value)
{
	switch (type)
	{
		case MILL_TIME_TIMESTAMPTZ:
		case MILL_TIME_TIMESTAMP:
			return !TIMESTAMP_NOT_FINITE(value);
		case MILL_TIME_DATE:
			return !DATE_NOT_FINITE(value);
		case MILL_TIME_BIGINT:
			break;
	}
	return true;
}

/* A value in the unit of its type, as a datum of the type. */
Datum
mill_time_datum(MillTimeType type, int64 value)
{
	return type == MILL_TIME_DATE ? DateADTGetDatum((DateADT) value) : Int64GetDatum(value);
}

/* Is the value in the range of its type? */
bool
mill_window_in_range(MillTimeType type, int64 value)
{
	switch (type)
	{
		case MILL_TIME_TIMESTAMPTZ:
		case MILL_TIME_TIMESTAMP:
			return IS_VALID_TIMESTAMP(value);
		case MILL_TIME_DATE:
			return IS_VALID_DATE(value);
		case MILL_TIME_BIGINT:
			break;
	}
	return true;
}

/* Units of this type in a day. */
static int64
day_units(MillTimeType type)
{
	return type == MILL_TIME_DATE ? 1 : USECS_PER_DAY;
}

static int64
floor_divide(int64 a, int64 b)
{
	return a / b - (a % b < 0);
}

static int64
floor_modulo(int64 a, int64 b)
{
	int64 remainder = a % b;

	return remainder < 0 ? remainder + b : remainder;
}

static int64
width_units(MillTimeType type, MillWidthKind kind, const Interval *width)
{
	int64 units;

	if (kind == MILL_WIDTH_MONTHS)
		return width->month;
	if (kind == MILL_WIDTH_FIXED)
		return width->time;
	if (pg_mul_s64_overflow(width->day, day_units(type), &units))
		mill_window_out_of_range(type);
	return units;
}

/* The month since 2000-01 of a local time or date, and how far into the month it is. */
static int64
month_of(MillTimeType type, int64 local, int64 *passed)
{
	int64 day = floor_divide(local, day_units(type));
	int year;
	int month;
	int day_of_month;

	j2date(day + POSTGRES_EPOCH_JDATE, &year, &month, &day_of_month);
	*passed = local - (day - (day_of_month - 1)) * day_units(type);
	return ((int64) year - 2000) * 12 + month - 1;
}

/* Set the origin's remainder, and return the origin as a unit. */
static int64
set_origin(MillWindows *windows, int64 origin)
{
	int64 month;

	if (!mill_window_finite(windows->type, origin))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("origin of windows must be finite")));
	if (windows->zone != NULL)
		origin = mill_zone_local(windows->zone, origin);
	if (windows->kind == MILL_WIDTH_FIXED)
		return origin;
	if (windows->kind == MILL_WIDTH_DAYS)
	{
		windows->remainder = floor_modulo(origin, day_units(windows->type));
		return origin;
	}
	month = month_of(windows->type, origin, &windows->remainder);
	if (windows->remainder >= 28 * day_units(windows->type))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("origin of windows of months must lie on day 1 to 28 of its month"),
						errdetail("Not every month has the days after."),
						errhint("Use for example the first of the month.")));
	return month;
}

/*
 * Set up windows.  The zone (used for days and months of timestamptz only) must
 * live as long as they do.
 */
void
mill_windows_set(MillWindows *windows, MillTimeType type, const Interval *slide,
				 const Interval *size, const int64 *origin, pg_tz *zone)
{
	int64 unit;

	windows->type = type;
	windows->kind = common_kind(slide, size);
	if (type == MILL_TIME_DATE && windows->kind == MILL_WIDTH_FIXED)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("windows of dates are whole days or months wide"),
						errhint("Write for example \"1 day\" or \"7 days\" or \"1 month\".")));
	windows->slide = width_units(type, windows->kind, slide);
	windows->size = width_units(type, windows->kind, size);
	Assert(windows->slide > 0 && windows->size > 0);
	windows->remainder = 0;
	windows->zone = type == MILL_TIME_TIMESTAMPTZ && windows->kind != MILL_WIDTH_FIXED ? zone
																					   : NULL;
	if (origin != NULL)
		unit = set_origin(windows, *origin);
	else
		unit = windows->kind == MILL_WIDTH_MONTHS ? 0 : DEFAULT_ORIGIN_DAY * day_units(type);
	windows->origin = floor_modulo(unit, windows->slide);
}

void
mill_windows_set_int(MillWindows *windows, int64 slide, int64 size, int64 origin)
{
	check_widths_int(slide, size);
	windows->type = MILL_TIME_BIGINT;
	windows->kind = MILL_WIDTH_FIXED;
	windows->slide = slide;
	windows->size = size;
	windows->origin = floor_modulo(origin, slide);
	windows->remainder = 0;
	windows->zone = NULL;
}

/*
 * The unit in which a finite event time is.  A window contains the time if
 * start <= unit < start + size.
 */
int64
mill_window_unit(const MillWindows *windows, int64 value)
{
	int64 month;
	int64 passed;

	if (windows->zone != NULL)
		value = mill_zone_reached(windows->zone, value);
	if (windows->kind != MILL_WIDTH_MONTHS)
		return value;
	month = month_of(windows->type, value, &passed);
	return passed < windows->remainder ? month - 1 : month;
}

/*
 * The unit of a window's start.  In a zone a day may begin after its local
 * midnight, if that does not exist.
 */
int64
mill_window_start_unit(const MillWindows *windows, int64 start)
{
	int64 unit = mill_window_unit(windows, start);

	if (windows->zone != NULL && windows->kind == MILL_WIDTH_DAYS)
		unit -= floor_modulo(unit - windows->remainder, USECS_PER_DAY);
	return unit;
}

/* The last window start at or before a unit. */
int64
mill_window_floor(const MillWindows *windows, int64 unit)
{
	int64 since = floor_modulo(unit, windows->slide) - windows->origin;

	if (since < 0)
		since += windows->slide;
	if (pg_sub_s64_overflow(unit, since, &unit))
		mill_window_out_of_range(windows->type);
	return unit;
}

/* The local time or date at which a month begins, plus the origin's day and time. */
static int64
month_begin(const MillWindows *windows, int64 month)
{
	int64 year = floor_divide(month, 12) + 2000;
	int64 begin;

	month = floor_modulo(month, 12) + 1;
	if (year < JULIAN_MINYEAR || year > JULIAN_MAXYEAR ||
		!IS_VALID_JULIAN((int) year, (int) month, 1))
		mill_window_out_of_range(windows->type);
	begin = (int64) date2j(year, month, 1) - POSTGRES_EPOCH_JDATE;
	if (pg_mul_s64_overflow(begin, day_units(windows->type), &begin) ||
		pg_add_s64_overflow(begin, windows->remainder, &begin))
		mill_window_out_of_range(windows->type);
	return begin;
}

/* The time at which start + more begins, both units: a window's start, or its end. */
int64
mill_window_value(const MillWindows *windows, int64 unit, int64 plus)
{
	int64 value;

	if (pg_add_s64_overflow(unit, plus, &unit))
		mill_window_out_of_range(windows->type);
	value = windows->kind == MILL_WIDTH_MONTHS ? month_begin(windows, unit) : unit;
	if (windows->zone != NULL)
	{
		/* the zone's arithmetic needs a margin */
		if (value < MIN_TIMESTAMP - 2 * USECS_PER_DAY || value > END_TIMESTAMP + 2 * USECS_PER_DAY)
			mill_window_out_of_range(windows->type);
		value = mill_zone_first(windows->zone, value);
	}
	if (!mill_window_in_range(windows->type, value))
		mill_window_out_of_range(windows->type);
	return value;
}
