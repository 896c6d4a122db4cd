/*
 * session.c
 *		Sessions: runs of events, each within a gap of the one before.
 *
 * Runs in any backend.  mill.session_start is a window function: it reads a
 * partition in the order of the event time and keeps where the current session
 * began in the partition's memory.  mill.session_end is an aggregate whose
 * state is the end itself; its transition function is here.
 *
 * A day of a gap has 24 hours; months have no fixed length and are refused.
 */
#include "postgres.h"

#include "window/window.h"
#include "common/int.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/timestamp.h"
#include "windowapi.h"

typedef struct SessionState
{
	bool open; /* an event has been seen */
	int64 start;
	int64 last;
} SessionState;

static int64
time_of(Datum value, MillTimeType type)
{
	return type == MILL_TIME_DATE ? (int64) DatumGetDateADT(value) : DatumGetInt64(value);
}

/* A gap in the unit of the time type: microseconds, days, or plain numbers. */
static int64
gap_units(Datum gap, MillTimeType type)
{
	Interval *interval;
	int64 units;

	if (type == MILL_TIME_BIGINT)
		units = DatumGetInt64(gap);
	else
	{
		interval = DatumGetIntervalP(gap);
		if (interval->month != 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("gap of sessions must not have months"),
							errdetail("A month is 28 to 31 days long."),
							errhint("Write for example \"30 minutes\" or \"30 days\".")));
		if (pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &units) ||
			pg_add_s64_overflow(units, interval->time, &units))
			ereport(ERROR, (errcode(ERRCODE_INTERVAL_FIELD_OVERFLOW),
							errmsg("gap of sessions out of range")));
		if (type == MILL_TIME_DATE)
		{
			if (units % USECS_PER_DAY != 0)
				ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
								errmsg("gap of sessions of dates must be whole days"),
								errhint("Write for example \"1 day\".")));
			units /= USECS_PER_DAY;
		}
	}
	if (units <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("gap of sessions must be greater than zero"),
				 errhint("Write for example %s.", type == MILL_TIME_BIGINT ? "1000"
												  : type == MILL_TIME_DATE ? "\"1 day\""
																		   : "\"30 minutes\"")));
	return units;
}

static void
refuse_null_gap(bool null)
{
	if (null)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("gap of sessions must not be null")));
}

/* SQL: the time of the first event of the session that the current row is in. */
static Datum
session_start(FunctionCallInfo fcinfo, MillTimeType type)
{
	WindowObject window = PG_WINDOW_OBJECT();
	SessionState *state = WinGetPartitionLocalMemory(window, sizeof(SessionState));
	bool null;
	Datum gap_datum = WinGetFuncArgCurrent(window, 1, &null);
	int64 gap;
	int64 at;
	int64 distance;
	Datum at_datum;

	refuse_null_gap(null);
	gap = gap_units(gap_datum, type);
	WinSetMarkPosition(window, WinGetCurrentPosition(window));
	at_datum = WinGetFuncArgCurrent(window, 0, &null);
	if (null || !mill_window_finite(type, time_of(at_datum, type)))
		PG_RETURN_NULL();
	at = time_of(at_datum, type);
	if (state->open && at < state->last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events of a session must come in ascending order"),
				 errhint(
					 "ORDER BY the event time: mill.session_start(ts, gap) OVER (PARTITION BY user_id ORDER BY ts).")));
	if (!state->open || pg_sub_s64_overflow(at, state->last, &distance) || distance >= gap)
		state->start = at;
	state->last = at;
	state->open = true;
	return mill_time_datum(type, state->start);
}

/* Transition function: the later of the state and the event's time plus the gap. */
static Datum
session_end(FunctionCallInfo fcinfo, MillTimeType type)
{
	int64 end;

	refuse_null_gap(PG_ARGISNULL(2));
	if (PG_ARGISNULL(1) || !mill_window_finite(type, time_of(PG_GETARG_DATUM(1), type)))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		return PG_GETARG_DATUM(0);
	}
	if (pg_add_s64_overflow(time_of(PG_GETARG_DATUM(1), type), gap_units(PG_GETARG_DATUM(2), type),
							&end) ||
		!mill_window_in_range(type, end))
		mill_window_out_of_range(type);
	if (!PG_ARGISNULL(0))
		end = Max(end, time_of(PG_GETARG_DATUM(0), type));
	return mill_time_datum(type, end);
}

#define SESSION_FUNCTIONS(name, type)                                                              \
	PG_FUNCTION_INFO_V1(mill_session_start_##name);                                                \
	Datum mill_session_start_##name(PG_FUNCTION_ARGS)                                              \
	{                                                                                              \
		return session_start(fcinfo, type);                                                        \
	}                                                                                              \
	PG_FUNCTION_INFO_V1(mill_session_end_##name);                                                  \
	Datum mill_session_end_##name(PG_FUNCTION_ARGS)                                                \
	{                                                                                              \
		return session_end(fcinfo, type);                                                          \
	}                                                                                              \
	extern Datum mill_session_end_##name(PG_FUNCTION_ARGS)

/* for timestamp and timestamptz, which have the same representation */
SESSION_FUNCTIONS(timestamp, MILL_TIME_TIMESTAMP);
SESSION_FUNCTIONS(date, MILL_TIME_DATE);
SESSION_FUNCTIONS(bigint, MILL_TIME_BIGINT);
