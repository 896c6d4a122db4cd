/*
 * fdw_range.c
 *		Which offsets of which partitions a scan of a topic reads, and the
 *		gateway that reads them.
 *
 * The end of each partition is asked for once and kept over rescans, so that a
 * query sees one state of the topic however its plan reads it.  Everything else
 * is asked again on each rescan: retention may have moved the beginnings, and
 * parameters may have changed.
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "utils/array.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "stream/fdw.h"

/* Timeout of the brokers for one answer. */
#define ANSWER_TIMEOUT_MS 30000

#define UNIX_EPOCH_USECS ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* The intersection of the pushed-down conditions, evaluated. */
typedef struct Bounds
{
	bool nothing; /* no row can satisfy them */
	int64 start;
	int64 end;
	int64 time_ms;		  /* first timestamp; -1: any */
	int64 low_partition;  /* first ... */
	int64 high_partition; /* ... and last */
	List *partitions;	  /* int64 arrays of = ANY conditions */
} Bounds;

typedef struct Int64Array
{
	int count;
	int64 *items;
} Int64Array;

const char *
mill_fdw_condition_name(MillColumnKind kind)
{
	switch (kind)
	{
		case MILL_COLUMN_PARTITION:
			return "partition";
		case MILL_COLUMN_OFFSET:
			return "offset";
		default:
			return "timestamp";
	}
}

/* ---- the conditions' values ---- */

static int64
integer_value(Datum value, Oid type)
{
	switch (type)
	{
		case INT2OID:
			return DatumGetInt16(value);
		case INT4OID:
			return DatumGetInt32(value);
		case INT8OID:
			return DatumGetInt64(value);
	}
	elog(ERROR, "unexpected type %u in a condition on a partition or offset", type);
}

/* Narrow [*low, *high], both inclusive, by a comparison with value. */
static void
narrow(Bounds *bounds, int64 *low, int64 *high, int strategy, int64 value)
{
	if ((strategy == BTGreaterStrategyNumber && value == PG_INT64_MAX) ||
		(strategy == BTLessStrategyNumber && value == PG_INT64_MIN))
	{
		bounds->nothing = true;
		return;
	}
	if (strategy == BTGreaterStrategyNumber)
		*low = Max(*low, value + 1);
	if (strategy == BTGreaterEqualStrategyNumber || strategy == BTEqualStrategyNumber)
		*low = Max(*low, value);
	if (strategy == BTLessStrategyNumber)
		*high = Min(*high, value - 1);
	if (strategy == BTLessEqualStrategyNumber || strategy == BTEqualStrategyNumber)
		*high = Min(*high, value);
	if (*low > *high)
		bounds->nothing = true;
}

static void
add_partitions(Bounds *bounds, Datum value, Oid type)
{
	ArrayType *array = DatumGetArrayTypeP(value);
	Oid element = get_element_type(type);
	Int64Array *allowed = palloc(sizeof(Int64Array));
	int16 length;
	bool by_value;
	char align;
	Datum *items;
	bool *nulls;
	int count;

	get_typlenbyvalalign(element, &length, &by_value, &align);
	deconstruct_array(array, element, length, by_value, align, &items, &nulls, &count);
	allowed->count = 0;
	allowed->items = palloc(sizeof(int64) * Max(count, 1));
	for (int i = 0; i < count; i++)
		if (!nulls[i])
			allowed->items[allowed->count++] = integer_value(items[i], element);
	bounds->partitions = lappend(bounds->partitions, allowed);
}

/*
 * Raise the first timestamp.  Messages have milliseconds; rounding down is
 * close enough and loses none.
 */
static void
narrow_time(Bounds *bounds, Datum value, Oid type)
{
	TimestampTz time;
	int64 ms;

	if (type == DATEOID)
		time = date2timestamptz_opt_overflow(DatumGetDateADT(value), NULL);
	else if (type == TIMESTAMPOID)
		time = timestamp2timestamptz_opt_overflow(DatumGetTimestamp(value), NULL);
	else
		time = DatumGetTimestampTz(value);

	if (TIMESTAMP_IS_NOEND(time))
		bounds->nothing = true;
	/* messages have no negative times, and to the broker those have special meanings */
	if (TIMESTAMP_NOT_FINITE(time) || time < -UNIX_EPOCH_USECS)
		return;
	ms = (time + UNIX_EPOCH_USECS) / 1000;
	bounds->time_ms = Max(bounds->time_ms, ms);
}

static Bounds
evaluate_conditions(ForeignScanState *node, const MillScan *scan)
{
	ExprContext *econtext = node->ss.ps.ps_ExprContext;
	Bounds bounds = {false, 0, PG_INT64_MAX, -1, 0, PG_INT32_MAX, NIL};
	int64 last_offset = PG_INT64_MAX;
	ListCell *condition_cell;
	ListCell *value_cell;

	forboth (condition_cell, scan->conditions, value_cell, scan->values)
	{
		List *condition = lfirst(condition_cell); /* of integers */
		ExprState *state = lfirst_node(ExprState, value_cell);
		Oid type = getBaseType(exprType((Node *) state->expr));
		int strategy = lsecond_int(condition);
		bool isnull;
		Datum value = ExecEvalExprSwitchContext(state, econtext, &isnull);

		if (isnull)
			bounds.nothing = true;
		else if (lthird_int(condition))
			add_partitions(&bounds, value, type);
		else if (linitial_int(condition) == MILL_COLUMN_PARTITION)
			narrow(&bounds, &bounds.low_partition, &bounds.high_partition, strategy,
				   integer_value(value, type));
		else if (linitial_int(condition) == MILL_COLUMN_OFFSET)
			narrow(&bounds, &bounds.start, &last_offset, strategy, integer_value(value, type));
		else
			narrow_time(&bounds, value, type);
	}
	if (last_offset < PG_INT64_MAX)
		bounds.end = last_offset + 1;
	return bounds;
}

static bool
partition_wanted(const Bounds *bounds, int32 partition)
{
	ListCell *cell;

	if (partition < bounds->low_partition || partition > bounds->high_partition)
		return false;
	foreach (cell, bounds->partitions)
	{
		Int64Array *allowed = lfirst(cell);
		int i;

		for (i = 0; i < allowed->count && allowed->items[i] != partition; i++)
			;
		if (i == allowed->count)
			return false;
	}
	return true;
}

/* ---- ranges ---- */

/*
 * Ask for the beginnings and ends of the count partitions in scan->ranges,
 * narrow them by bounds, and remove those with nothing to read.
 */
static void
bound_ranges(MillScan *scan, const Bounds *bounds, int count)
{
	MillWatermark *marks = palloc0(sizeof(MillWatermark) * count);
	int kept = 0;

	for (int i = 0; i < count; i++)
		marks[i].partition = scan->ranges[i].partition;
	mill_gateway_watermarks(scan->gateway, marks, count, ANSWER_TIMEOUT_MS);

	for (int i = 0; i < count; i++)
	{
		int32 partition = marks[i].partition;
		MillRange range = {partition, Max(marks[i].low, bounds->start), 0, false};

		if (marks[i].error != 0)
			ereport(ERROR, (errcode(ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION),
							errmsg("could not get the offsets of topic \"%s\", partition %d",
								   scan->stream->layout.topic, partition),
							errdetail("The client library's error code is %d.", marks[i].error)));
		if (scan->fixed_end[partition] < 0)
			scan->fixed_end[partition] = marks[i].high;
		range.end = Min(scan->fixed_end[partition], bounds->end);
		if (range.start < range.end)
			scan->ranges[kept++] = range;
	}
	scan->nranges = kept;
}

/* Raise the beginnings of ranges to the first message at or after a time. */
static void
bound_ranges_by_time(MillScan *scan, int64 time_ms)
{
	MillPartitionTime *times = palloc0(sizeof(MillPartitionTime) * scan->nranges);
	MillPartitionOffset *offsets = palloc0(sizeof(MillPartitionOffset) * scan->nranges);
	int kept = 0;

	for (int i = 0; i < scan->nranges; i++)
	{
		times[i].partition = scan->ranges[i].partition;
		times[i].time_ms = time_ms;
	}
	mill_gateway_times(scan->gateway, times, offsets, scan->nranges, ANSWER_TIMEOUT_MS);

	for (int i = 0; i < scan->nranges; i++)
	{
		MillRange range = scan->ranges[i];

		/* without an answer the whole range is read; the rows are filtered anyway */
		if (offsets[i].error == 0)
		{
			if (offsets[i].offset < 0)
				continue;
			range.start = Max(range.start, offsets[i].offset);
		}
		if (range.start < range.end)
			scan->ranges[kept++] = range;
	}
	scan->nranges = kept;
}

static void
assign_ranges(MillScan *scan)
{
	MillAssignment *assignments = palloc0(sizeof(MillAssignment) * scan->nranges);

	for (int i = 0; i < scan->nranges; i++)
	{
		assignments[i].partition = scan->ranges[i].partition;
		assignments[i].start = scan->ranges[i].start;
		assignments[i].end = scan->ranges[i].end;
	}
	mill_gateway_assign(scan->gateway, assignments, scan->nranges,
						scan->stream->layout.max_message_bytes);
	scan->running = scan->nranges;
}

/*
 * Ask how many partitions the topic has, once in a query, and allocate a range
 * for each.  query is the memory context for what outlives a rescan.
 */
static void
find_partitions(MillScan *scan, MemoryContext query)
{
	if (scan->fixed_end != NULL)
		return;
	scan->npartitions = mill_gateway_partitions(scan->gateway, scan->stream->layout.topic,
												ANSWER_TIMEOUT_MS);
	scan->fixed_end = MemoryContextAlloc(query, sizeof(int64) * Max(scan->npartitions, 1));
	scan->ranges = MemoryContextAllocZero(query, sizeof(MillRange) * Max(scan->npartitions, 1));
	for (int i = 0; i < scan->npartitions; i++)
		scan->fixed_end[i] = -1;
}

void
mill_fdw_open_topic(ForeignScanState *node, MillScan *scan)
{
	MemoryContext query = node->ss.ps.state->es_query_cxt;
	MemoryContext old;
	Bounds bounds;
	List *properties;
	int flags;
	int count = 0;

	scan->nranges = scan->running = 0;
	scan->at = scan->frame_end = NULL;
	scan->connection_event = NULL;
	scan->short_since = 0;
	scan->reading = AllocSetContextCreate(query, "stream scan", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(scan->reading);

	bounds = evaluate_conditions(node, scan);
	if (!bounds.nothing)
	{
		properties = mill_properties_of(scan->stream->serverid, scan->userid, &flags);
		scan->gateway = mill_gateway_start(properties, flags, 0);

		/* the gateway must know its topic before other requests */
		if (scan->fixed_end != NULL)
			(void) mill_gateway_partitions(scan->gateway, scan->stream->layout.topic,
										   ANSWER_TIMEOUT_MS);
		find_partitions(scan, query);
		for (int32 partition = 0; partition < scan->npartitions; partition++)
			if (partition_wanted(&bounds, partition))
				scan->ranges[count++].partition = partition;

		if (count > 0)
			bound_ranges(scan, &bounds, count);
		if (scan->nranges > 0 && bounds.time_ms >= 0)
			bound_ranges_by_time(scan, bounds.time_ms);
		if (scan->nranges > 0)
			assign_ranges(scan);
	}

	MemoryContextSwitchTo(old);
	if (scan->running == 0)
		mill_fdw_close_topic(scan);
}

/* End the gateway if there is one; the ranges are kept, for EXPLAIN. */
void
mill_fdw_close_topic(MillScan *scan)
{
	if (scan->gateway)
		mill_gateway_end(scan->gateway);
	scan->gateway = NULL;
	if (scan->reading)
		MemoryContextDelete(scan->reading);
	scan->reading = NULL;
	scan->running = 0;
	scan->at = scan->frame_end = NULL;
	scan->connection_event = NULL;
	scan->short_since = 0;
}
