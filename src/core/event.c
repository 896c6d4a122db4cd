/*
 * event.c
 *		What was done to objects and what became of them, for mill.events.
 *
 * An event commits with what it tells of.  Each new one makes room: a few of the
 * oldest go that are too many or too old, unless another transaction is at them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/event.h"

PG_FUNCTION_INFO_V1(mill_note_event);

static void
prune_events(void)
{
	static MillStatement statement =
		{.sql = "DELETE FROM mill_catalog.event WHERE id IN (SELECT e.id FROM mill_catalog.event e"
				"  WHERE e.id IN (SELECT o.id FROM mill_catalog.event o ORDER BY o.id LIMIT 10)"
				"  AND (e.at < $1 - interval '30 days' OR e.id <= (SELECT max(n.id) FROM mill_catalog.event n) - 10000)"
				"  FOR UPDATE SKIP LOCKED)",
		 .nargs = 1,
		 .types = {TIMESTAMPTZOID}};
	Datum values[1] = {TimestampTzGetDatum(mill_now())};

	mill_run(&statement, SPI_OK_DELETE, values, NULL);
}

/* Who did it: the role of the session, whatever functions he went through. */
static Datum
acting_role(void)
{
	char *name = GetUserNameFromId(GetOuterUserId(), true);

	return CStringGetTextDatum(name ? name : "");
}

void
mill_event_note(const char *kind, int64 object_id, const char *object, Oid owner, const char *event,
				const char *detail)
{
	static MillStatement statement =
		{.sql = "INSERT INTO mill_catalog.event (at, object_kind, object_id, object, owner, event, role, detail)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb)",
		 .nargs = 8,
		 .types = {TIMESTAMPTZOID, TEXTOID, INT8OID, TEXTOID, REGROLEOID, TEXTOID, TEXTOID,
				   TEXTOID}};
	Datum values[8] = {TimestampTzGetDatum(mill_now()),
					   CStringGetTextDatum(kind),
					   Int64GetDatum(object_id),
					   CStringGetTextDatum(object),
					   ObjectIdGetDatum(owner),
					   CStringGetTextDatum(event),
					   acting_role(),
					   detail ? CStringGetTextDatum(detail) : (Datum) 0};

	mill_run(&statement, SPI_OK_INSERT, values, detail ? "        " : "       n");
	prune_events();
}

/* The statement of the trigger, for one table; its parameters are of that table's row type. */
typedef struct RowEvent
{
	Oid row_type;
	const char *kind;
	Datum old_row, new_row; /* 0: none */
} RowEvent;

static void
insert_row_event(void *arg)
{
	/* What of a row changed and means something; and what that is called. */
	static const char sql[] =
		"INSERT INTO mill_catalog.event (at, object_kind, object_id, object, owner, event, role, detail)"
		" SELECT $1, $2, (r.j->>'id')::bigint, coalesce(r.j->>'name', CASE WHEN n.j IS NULL THEN l.object END, ((r.j->>'view')::oid)::regclass::text),"
		"  coalesce((r.j->>'owner')::regrole, (SELECT c.relowner FROM pg_class c WHERE c.oid = (r.j->>'view')::oid), l.owner, 0::regrole),"
		"  CASE WHEN o.j IS NULL THEN 'created' WHEN n.j IS NULL THEN 'dropped'"
		"   WHEN d.j ? 'failure' THEN CASE WHEN n.j->>'failure' IS NULL THEN 'recovered' ELSE 'failed' END"
		"   WHEN d.j ? 'enabled' THEN CASE WHEN (n.j->>'enabled')::boolean THEN 'resumed' ELSE 'paused' END"
		"   WHEN d.j ? 'live' AND (n.j->>'live')::boolean THEN 'filled'"
		"   WHEN d.j ? 'resting' THEN 'laid to rest'"
		"   WHEN d.j ? 'armed_database' OR d.j ? 'armed_system' THEN 'armed'"
		"   WHEN d.j ? 'start_resolved' AND NOT (n.j->>'start_resolved')::boolean THEN 'sought'"
		"   ELSE 'altered' END,"
		"  $5, CASE WHEN n.j IS NOT NULL AND o.j IS NOT NULL THEN nullif(d.j - '{enabled,armed_database,armed_system,start_resolved,live}'::text[], '{}') END"
		" FROM (SELECT to_jsonb($3) AS j) o, (SELECT to_jsonb($4) AS j) n,"
		"  LATERAL (SELECT coalesce(n.j, o.j) AS j) r"
		/* a view that is gone has neither name nor owner */
		"  LEFT JOIN LATERAL (SELECT e.object, e.owner FROM mill_catalog.event e WHERE e.object_kind = $2"
		"   AND e.object_id = (r.j->>'id')::bigint ORDER BY e.id DESC LIMIT 1) l ON true,"
		"  LATERAL (SELECT coalesce(jsonb_object_agg(x.key, x.value), '{}') AS j FROM jsonb_each(n.j) x"
		"   WHERE x.value IS DISTINCT FROM o.j->x.key AND x.key <> ALL ('{version,state_at,mark,fetch_bytes,topic,server,backfill,backfill_until,relations,base_table,state_table,delta_table,exact_since}')"
		/* a start position that became offsets is no event */
		"   AND NOT (x.key = 'start_resolved' AND x.value = 'true')) d"
		" WHERE o.j IS NULL OR n.j IS NULL OR d.j <> '{}'";
	RowEvent *event = arg;
	Oid types[5] = {TIMESTAMPTZOID, TEXTOID, event->row_type, event->row_type, TEXTOID};
	Datum values[5] = {TimestampTzGetDatum(mill_now()), CStringGetTextDatum(event->kind),
					   event->old_row, event->new_row, acting_role()};
	char nulls[] = "     ";

	if (event->old_row == 0)
		nulls[2] = 'n';
	if (event->new_row == 0)
		nulls[3] = 'n';
	if (SPI_execute_with_args(sql, lengthof(types), types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not note an event");
}

/*
 * SQL: mill_catalog.note_event(), FOR EACH ROW AFTER INSERT, UPDATE, DELETE on a
 * table of objects; its argument is their kind.
 */
Datum
mill_note_event(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	RowEvent event = {0};
	TupleDesc desc;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs != 1)
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("this function was not called by a trigger of ours")));
	desc = RelationGetDescr(trigger->tg_relation);
	event.kind = trigger->tg_trigger->tgargs[0];
	event.row_type = RelationGetForm(trigger->tg_relation)->reltype;
	if (!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		event.old_row = heap_copy_tuple_as_datum(trigger->tg_trigtuple, desc);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		event.new_row = heap_copy_tuple_as_datum(trigger->tg_trigtuple, desc);
	else if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		event.new_row = heap_copy_tuple_as_datum(trigger->tg_newtuple, desc);
	SPI_connect();
	mill_as_extension(insert_row_event, &event);
	prune_events();
	SPI_finish();
	return PointerGetDatum(NULL);
}
