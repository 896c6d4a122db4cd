/*
 * window.h
 *		Windows over time: widths, panes, and which windows contain a time.
 *
 * Windows are [k * slide, k * slide + size) from an origin, for each integer k.
 * They are counted in units: microseconds (local ones for days in a zone), days
 * of a date, months, or plain numbers.
 */
#ifndef MILL_WINDOW_WINDOW_H
#define MILL_WINDOW_WINDOW_H

#include "datatype/timestamp.h"
#include "nodes/parsenodes.h"
#include "pgtime.h"
#include "window/zone.h"
typedef enum MillWidthKind
{
	MILL_WIDTH_FIXED, /* hours and less: of fixed length */
	MILL_WIDTH_DAYS,  /* days and weeks, of 23 to 25 hours in a zone */
	MILL_WIDTH_MONTHS /* months and years */
} MillWidthKind;

typedef enum MillTimeType
{
	MILL_TIME_TIMESTAMPTZ,
	MILL_TIME_TIMESTAMP,
	MILL_TIME_DATE,
	MILL_TIME_BIGINT
} MillTimeType;

typedef struct MillWindows
{
	MillTimeType type;
	MillWidthKind kind;
	int64 slide;
	int64 size;
	int64 origin;	 /* in [0, slide): offset of the grid of window starts */
	int64 remainder; /* how far the origin is into its day (or month) */
	pg_tz *zone;	 /* set if units are local time */
} MillWindows;

extern void mill_window_plan_init(void);
extern FuncExpr *mill_window_call(const RangeTblEntry *rte, const char *name);
extern MillWidthKind mill_width_kind(const Interval *size);
extern Interval *mill_pane_width(const Interval *slide, const Interval *size);
extern int64 mill_pane_width_int(int64 slide, int64 size);
extern _Noreturn void mill_window_out_of_range(MillTimeType type);
extern Datum mill_time_datum(MillTimeType type, int64 value);
extern bool mill_window_in_range(MillTimeType type, int64 value);
extern bool mill_window_finite(MillTimeType type, int64 value);
extern void mill_windows_set(MillWindows *windows, MillTimeType type, const Interval *slide,
							 const Interval *size, const int64 *origin, pg_tz *zone);
extern void mill_windows_set_int(MillWindows *windows, int64 slide, int64 size, int64 origin);
extern int64 mill_window_unit(const MillWindows *windows, int64 value);
extern int64 mill_window_start_unit(const MillWindows *windows, int64 start);
extern int64 mill_window_floor(const MillWindows *windows, int64 unit);
extern int64 mill_window_value(const MillWindows *windows, int64 unit, int64 plus);

#endif
