/*
 * position.c
 *		Positions in a topic, as users write them: earliest, latest, a
 *		timestamp, or offsets by partition.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/formatting.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "ingest/position.h"

#define POSITION_HINT                                                                              \
	"Write earliest, latest, a timestamp such as 2024-03-01 00:00+01, or offsets such as {\"0\": 1500, \"1\": 1620}."

/* A number from 0 to max in digits alone; -1 for anything else. */
static int64
whole_number(const char *digits, int64 max)
{
	int64 number;

	if (digits[0] == '\0' || digits[strspn(digits, "0123456789")] != '\0' || strlen(digits) > 18)
		return -1;
	number = strtoi64(digits, NULL, 10);
	return number <= max ? number : -1;
}

static int64
offset_of(const JsonbValue *value)
{
	if (value->type != jbvNumeric)
		return -1;
	return whole_number(numeric_normalize(value->val.numeric), PG_INT64_MAX);
}

/* Call the function for each partition of {"partition": offset, ...}. */
static void
each_offset(const char *written, void (*function)(int32 partition, int64 offset, void *arg),
			void *arg)
{
	Jsonb *json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(written)));
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbIteratorToken token;
	JsonbValue value;
	int64 partition = -1;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			partition = whole_number(pnstrdup(value.val.string.val, value.val.string.len),
									 PG_INT32_MAX);
		else if (token == WJB_VALUE)
		{
			int64 offset = offset_of(&value);

			if (partition < 0 || offset < 0)
				ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
								errmsg("invalid offsets: \"%s\"", written),
								errdetail("Partitions and offsets are whole numbers from 0 on."),
								errhint(POSITION_HINT)));
			function((int32) partition, offset, arg);
		}
	}
}

static void
ignore_offset(int32 partition, int64 offset, void *arg)
{
}

char *
mill_position_check(const char *written)
{
	Datum time;
	char *result;

	if (pg_strcasecmp(written, "earliest") == 0 || pg_strcasecmp(written, "latest") == 0)
		return asc_tolower(written, strlen(written));
	if (written[strspn(written, " \t\n")] == '{')
	{
		each_offset(written, ignore_offset, NULL);
		return pstrdup(written + strspn(written, " \t\n"));
	}
	if (written[strcspn(written, "0123456789")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid position in a topic: \"%s\"", written), errhint(POSITION_HINT)));
	/* numbers and lists are not times: refuse them here, with a hint */
	if (written[strspn(written, "0123456789 ")] == '\0' || written[0] == '[')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid position in a topic: \"%s\"", written), errhint(POSITION_HINT)));
	time = DirectFunctionCall3(timestamptz_in, CStringGetDatum(written),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	result = palloc(MAXDATELEN + 1);
	return JsonEncodeDateTime(result, time, TIMESTAMPTZOID, NULL);
}

typedef struct WantedOffsets
{
	const int32 *partitions;
	int64 *offsets;
	int count;
} WantedOffsets;

static void
take_offset(int32 partition, int64 offset, void *arg)
{
	WantedOffsets *wanted = arg;

	for (int i = 0; i < wanted->count; i++)
	{
		if (wanted->partitions[i] == partition)
			wanted->offsets[i] = offset;
	}
}

typedef struct Beyond
{
	int count;
	int32 partition;
} Beyond;

static void
find_beyond(int32 partition, int64 offset, void *arg)
{
	Beyond *beyond = arg;

	if (partition >= beyond->count && beyond->partition < 0)
		beyond->partition = partition;
}

int32
mill_position_beyond(const char *position, int count)
{
	Beyond beyond = {count, -1};

	if (position[0] == '{')
		each_offset(position, find_beyond, &beyond);
	return beyond.partition;
}

/* The first offsets at or after a time; a partition's end where there are none. */
static void
resolve_time(const char *position, MillGateway *gateway, const MillWatermark *marks,
			 const int32 *partitions, int64 *offsets, int count, int timeout_ms)
{
	MillPartitionTime *times = palloc0(sizeof(MillPartitionTime) * count);
	MillPartitionOffset *found = palloc0(sizeof(MillPartitionOffset) * count);
	TimestampTz time = DatumGetTimestampTz(
		DirectFunctionCall3(timestamptz_in, CStringGetDatum(position), ObjectIdGetDatum(InvalidOid),
							Int32GetDatum(-1)));
	int64 epoch = (int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000;

	for (int i = 0; i < count; i++)
	{
		times[i].partition = partitions[i];
		/* Kafka counts milliseconds: round up, so that nothing earlier is read */
		times[i].time_ms = (int64) ceil(time / 1000.0) + epoch;
	}
	mill_gateway_times(gateway, times, found, count, timeout_ms);
	for (int i = 0; i < count; i++)
		offsets[i] = found[i].offset >= 0 ? found[i].offset : marks[i].high;
}

void
mill_position_resolve(const char *position, MillGateway *gateway, const int32 *partitions,
					  int64 *offsets, int count, int timeout_ms)
{
	MillWatermark *marks = palloc0(sizeof(MillWatermark) * count);
	bool latest = strcmp(position, "latest") == 0;

	for (int i = 0; i < count; i++)
		marks[i].partition = partitions[i];
	mill_gateway_watermarks(gateway, marks, count, timeout_ms);

	if (position[0] == '{')
	{
		WantedOffsets wanted = {partitions, offsets, count};

		for (int i = 0; i < count; i++)
			offsets[i] = -1;
		each_offset(position, take_offset, &wanted);
	}
	else if (latest || strcmp(position, "earliest") == 0)
	{
		for (int i = 0; i < count; i++)
			offsets[i] = latest ? marks[i].high : marks[i].low;
	}
	else
		resolve_time(position, gateway, marks, partitions, offsets, count, timeout_ms);
}
