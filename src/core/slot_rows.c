/*
 * slot_rows.c
 *		Slots as rows, for the views mill.workers and others.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/room.h"
#include "core/slot.h"

PG_FUNCTION_INFO_V1(mill_slots);

const char *
mill_state_name(MillState state)
{
	switch (state)
	{
		case MILL_STATE_STARTING:
			return "starting";
		case MILL_STATE_RUNNING:
			return "running";
		case MILL_STATE_IDLE:
			return "idle";
		case MILL_STATE_DEGRADED:
			return "degraded";
		case MILL_STATE_FAILED:
			return "failed";
		case MILL_STATE_WAITING:
			return "waiting for a slot";
	}
	return "unknown";
}

static void
put_slot(ReturnSetInfo *result, const MillSlotInfo *slot)
{
	const MillRoom *room = mill_room_of(slot->kind);
	Datum values[10];
	bool nulls[10] = {false};

	values[0] = CStringGetTextDatum(room ? room->kind : "manager");
	values[1] = Int64GetDatum(slot->object_id);
	values[2] = Int32GetDatum(slot->worker_no);
	values[3] = ObjectIdGetDatum(slot->owner);
	nulls[3] = !OidIsValid(slot->owner);
	values[4] = Int32GetDatum(slot->pid);
	nulls[4] = slot->pid == 0;
	values[5] = CStringGetTextDatum(mill_state_name(slot->state));
	values[6] = CStringGetTextDatum(slot->reason);
	nulls[6] = slot->reason[0] == '\0';
	values[7] = TimestampTzGetDatum(slot->since);
	values[8] = Int32GetDatum(slot->failures);
	values[9] = TimestampTzGetDatum(slot->retry_at);
	nulls[9] = slot->retry_at == 0;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * SQL: mill_catalog.slots(): the slots of this database.  Used by views only,
 * which show users their own: nobody has USAGE on the schema.
 */
Datum
mill_slots(PG_FUNCTION_ARGS)
{
	MillSlotInfo info;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; mill_has_workers() && i < mill_slots_used(); i++)
	{
		if (mill_slot_get(i, &info) && info.database == MyDatabaseId)
			put_slot((ReturnSetInfo *) fcinfo->resultinfo, &info);
	}
	return (Datum) 0;
}
