/*
 * window_functions.c
 *		Windows as SQL functions: starts, ends, hop.
 *
 * Runs in any backend, parallel workers included.  What a call computes from
 * its widths, origin and zone is cached in the calling expression (fn_extra)
 * and compared at each call: an expression of PL/pgSQL outlives the values of
 * its variables, so arguments cannot be trusted to be stable.
 *
 * mill.tumble is an SQL function that the planner inlines to window_start and
 * window_end_of; for constant fixed widths window_support.c replaces those by
 * fixed_start and fixed_end, which cost as much as date_bin.
 */
#include "postgres.h"

#include "window/window.h"
#include "common/int.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/timestamp.h"

typedef struct WindowCache
{
	bool ready; /* windows match the values below */
	Interval slide;
	Interval size;
	bool has_origin;
	int64 origin;
	pg_tz *zone;
	char *zone_name; /* NULL: the session's zone */
	MillWindows windows;
	/* the last calendar window that was found */
	int64 start;
	int64 end;
} WindowCache;

static inline int64
get_time(FunctionCallInfo fcinfo, int argument, MillTimeType type)
{
	return type == MILL_TIME_DATE ? (int64) PG_GETARG_DATEADT(argument) : PG_GETARG_INT64(argument);
}

static void
refuse_null(FunctionCallInfo fcinfo, int argument, const char *what)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", what)));
}

/* Note which zone is meant, the session's without a name; true if it has changed. */
static bool
note_zone(FunctionCallInfo fcinfo, int argument, WindowCache *cache)
{
	pg_tz *before = cache->zone;

	if (PG_ARGISNULL(argument))
	{
		cache->zone = session_timezone;
		if (cache->zone_name != NULL)
			pfree(cache->zone_name);
		cache->zone_name = NULL;
	}
	else
	{
		text *name = PG_GETARG_TEXT_PP(argument);
		size_t length = VARSIZE_ANY_EXHDR(name);

		if (cache->zone_name != NULL && strlen(cache->zone_name) == length &&
			memcmp(cache->zone_name, VARDATA_ANY(name), length) == 0)
			return false;
		cache->zone = mill_zone_lookup(text_to_cstring(name), false);
		if (cache->zone_name != NULL)
			pfree(cache->zone_name);
		cache->zone_name = MemoryContextStrdup(fcinfo->flinfo->fn_mcxt, text_to_cstring(name));
	}
	return cache->zone != before;
}

static inline bool
same_interval(const Interval *a, const Interval *b)
{
	return a->time == b->time && a->day == b->day && a->month == b->month;
}

/* Copy the widths into the cache; true if they have changed. */
static bool
note_widths(FunctionCallInfo fcinfo, int size_arg, MillTimeType type, WindowCache *cache)
{
	Interval numbers[2];
	Interval *slide = &numbers[0];
	Interval *size = &numbers[1];

	if (type == MILL_TIME_BIGINT)
	{
		memset(numbers, 0, sizeof(numbers));
		slide->time = PG_GETARG_INT64(1);
		size->time = PG_GETARG_INT64(size_arg);
	}
	else
	{
		slide = PG_GETARG_INTERVAL_P(1);
		size = PG_GETARG_INTERVAL_P(size_arg);
	}
	if (same_interval(&cache->slide, slide) && same_interval(&cache->size, size))
		return false;
	cache->slide = *slide;
	cache->size = *size;
	return true;
}

/*
 * The windows described by the arguments after the time: slide (of a hop only),
 * size, origin, time zone (of a timestamptz only).
 */
static WindowCache *
find_windows(FunctionCallInfo fcinfo, MillTimeType type, bool hop)
{
	WindowCache *cache = fcinfo->flinfo->fn_extra;
	int size_arg = hop ? 2 : 1;
	bool has_origin = !PG_ARGISNULL(size_arg + 1);
	int64 origin = has_origin ? get_time(fcinfo, size_arg + 1, type) : 0;

	if (cache == NULL)
		fcinfo->flinfo->fn_extra = cache = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
																  sizeof(WindowCache));
	refuse_null(fcinfo, 1, hop ? "slide" : "window size");
	refuse_null(fcinfo, size_arg, "window size");
	if (note_widths(fcinfo, size_arg, type, cache))
		cache->ready = false;
	if (type == MILL_TIME_TIMESTAMPTZ && note_zone(fcinfo, size_arg + 2, cache))
		cache->ready = false;
	if (cache->ready && cache->has_origin == has_origin && cache->origin == origin)
		return cache;

	cache->ready = false;
	if (type == MILL_TIME_BIGINT)
		mill_windows_set_int(&cache->windows, cache->slide.time, cache->size.time, origin);
	else
		mill_windows_set(&cache->windows, type, &cache->slide, &cache->size,
						 has_origin ? &origin : NULL, cache->zone);
	cache->has_origin = has_origin;
	cache->origin = origin;
	cache->start = cache->end = 0;
	cache->ready = true;
	return cache;
}

/*
 * The start or the end of the window that contains a time.  The last calendar
 * window is cached, because events come roughly in the order of their times.
 */
static Datum
window_around(FunctionCallInfo fcinfo, MillTimeType type, bool end)
{
	WindowCache *cache;
	int64 value;
	int64 unit;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	cache = find_windows(fcinfo, type, false);
	value = get_time(fcinfo, 0, type);
	if (!mill_window_finite(type, value))
		PG_RETURN_NULL();
	if (cache->windows.kind == MILL_WIDTH_FIXED)
	{
		unit = mill_window_floor(&cache->windows, value);
		return mill_time_datum(type, mill_window_value(&cache->windows, unit,
													   end ? cache->windows.size : 0));
	}
	if (value < cache->start || value >= cache->end)
	{
		cache->end = PG_INT64_MIN;
		unit = mill_window_floor(&cache->windows, mill_window_unit(&cache->windows, value));
		cache->start = mill_window_value(&cache->windows, unit, 0);
		cache->end = mill_window_value(&cache->windows, unit, cache->windows.size);
	}
	return mill_time_datum(type, end ? cache->end : cache->start);
}

/* The end of the window that starts at a time, on the grid or, as of a hop, not. */
static Datum
window_end(FunctionCallInfo fcinfo, MillTimeType type)
{
	WindowCache *cache;
	int64 value;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	cache = find_windows(fcinfo, type, false);
	value = get_time(fcinfo, 0, type);
	if (!mill_window_finite(type, value))
		PG_RETURN_NULL();
	if (value != cache->start || value >= cache->end)
	{
		cache->end = PG_INT64_MIN;
		cache->start = value;
		cache->end = mill_window_value(&cache->windows,
									   mill_window_start_unit(&cache->windows, value),
									   cache->windows.size);
	}
	return mill_time_datum(type, cache->end);
}

/* All windows that contain a time, by their start. */
static Datum
hop(FunctionCallInfo fcinfo, MillTimeType type)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	const MillWindows *windows;
	int64 value;
	int64 unit;
	int64 last;
	int64 count;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (PG_ARGISNULL(0))
		return (Datum) 0;
	windows = &find_windows(fcinfo, type, true)->windows;
	value = get_time(fcinfo, 0, type);
	if (!mill_window_finite(type, value))
		return (Datum) 0;
	unit = mill_window_unit(windows, value);
	last = mill_window_floor(windows, unit);
	/* slide > size: the time may be between two windows */
	if (unit - last >= windows->size)
		return (Datum) 0;
	count = (windows->size - 1 - (unit - last)) / windows->slide;
	for (; count >= 0; count--)
	{
		bool nulls[2] = {false, false};
		Datum values[2];
		int64 start;

		CHECK_FOR_INTERRUPTS();
		start = mill_window_value(windows, last, -count * windows->slide);
		values[0] = mill_time_datum(type, start);
		values[1] = mill_time_datum(type, mill_window_value(windows, last,
															windows->size - count * windows->slide));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

#define WINDOW_FUNCTIONS(name, type)                                                               \
	PG_FUNCTION_INFO_V1(mill_window_start_##name);                                                 \
	Datum mill_window_start_##name(PG_FUNCTION_ARGS)                                               \
	{                                                                                              \
		return window_around(fcinfo, type, false);                                                 \
	}                                                                                              \
	PG_FUNCTION_INFO_V1(mill_window_end_of_##name);                                                \
	Datum mill_window_end_of_##name(PG_FUNCTION_ARGS)                                              \
	{                                                                                              \
		return window_around(fcinfo, type, true);                                                  \
	}                                                                                              \
	PG_FUNCTION_INFO_V1(mill_window_end_##name);                                                   \
	Datum mill_window_end_##name(PG_FUNCTION_ARGS)                                                 \
	{                                                                                              \
		return window_end(fcinfo, type);                                                           \
	}                                                                                              \
	PG_FUNCTION_INFO_V1(mill_hop_##name);                                                          \
	Datum mill_hop_##name(PG_FUNCTION_ARGS)                                                        \
	{                                                                                              \
		return hop(fcinfo, type);                                                                  \
	}                                                                                              \
	extern Datum mill_hop_##name(PG_FUNCTION_ARGS)

WINDOW_FUNCTIONS(timestamptz, MILL_TIME_TIMESTAMPTZ);
WINDOW_FUNCTIONS(timestamp, MILL_TIME_TIMESTAMP);
WINDOW_FUNCTIONS(date, MILL_TIME_DATE);
WINDOW_FUNCTIONS(bigint, MILL_TIME_BIGINT);

/*
 * fixed_start and fixed_end (time, width, origin): what the planner makes of
 * calls with fixed widths.  The width is above zero and the origin in [0,
 * width).  For both timestamp types, which have the same representation, and
 * bigint.
 */
static inline Datum
fixed_bound(FunctionCallInfo fcinfo, MillTimeType type, bool end)
{
	int64 value = PG_GETARG_INT64(0);
	int64 width = PG_GETARG_INT64(1);
	int64 since;

	if (type == MILL_TIME_TIMESTAMP && TIMESTAMP_NOT_FINITE(value))
		PG_RETURN_NULL();
	if (unlikely(width <= 0))
		mill_window_out_of_range(type);
	since = value % width;
	if (since < 0)
		since += width;
	since -= PG_GETARG_INT64(2);
	if (since < 0)
		since += width;
	if (unlikely(pg_sub_s64_overflow(value, since, &value) ||
				 (end && pg_add_s64_overflow(value, width, &value)) ||
				 (type == MILL_TIME_TIMESTAMP && !IS_VALID_TIMESTAMP(value))))
		mill_window_out_of_range(type);
	PG_RETURN_INT64(value);
}

PG_FUNCTION_INFO_V1(mill_fixed_start_timestamp);
Datum
mill_fixed_start_timestamp(PG_FUNCTION_ARGS)
{
	return fixed_bound(fcinfo, MILL_TIME_TIMESTAMP, false);
}

PG_FUNCTION_INFO_V1(mill_fixed_end_timestamp);
Datum
mill_fixed_end_timestamp(PG_FUNCTION_ARGS)
{
	return fixed_bound(fcinfo, MILL_TIME_TIMESTAMP, true);
}

PG_FUNCTION_INFO_V1(mill_fixed_start_bigint);
Datum
mill_fixed_start_bigint(PG_FUNCTION_ARGS)
{
	return fixed_bound(fcinfo, MILL_TIME_BIGINT, false);
}

PG_FUNCTION_INFO_V1(mill_fixed_end_bigint);
Datum
mill_fixed_end_bigint(PG_FUNCTION_ARGS)
{
	return fixed_bound(fcinfo, MILL_TIME_BIGINT, true);
}

/* Can a time be in a window?  It must be finite; the functions are strict, so not NULL. */
PG_FUNCTION_INFO_V1(mill_is_finite_timestamp);
Datum
mill_is_finite_timestamp(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMP(0)));
}

PG_FUNCTION_INFO_V1(mill_is_finite_date);
Datum
mill_is_finite_date(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(!DATE_NOT_FINITE(PG_GETARG_DATEADT(0)));
}
