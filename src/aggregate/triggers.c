/*
 * triggers.c
 *		The triggers of a base table and its partitions, shared by all its aggregates.
 *
 *	statement	INSERT, UPDATE, DELETE, with transition tables
 *	row			INSERT, UPDATE, DELETE, of tables with rows: logical replication's apply
 *				worker fires no statement triggers, nor does a session with
 *				session_replication_role = replica
 *	statement	TRUNCATE, in all sessions; of a partition before, to subtract its rows
 *
 * They are internal, as those of foreign keys: pg_dump leaves them out, \d does not
 * show them, only a superuser can switch them off.  They are known by their function
 * and type; their names have their oids in them.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "core/catalog.h"

#include "aggregate/direct.h"
#include "aggregate/internal.h"

typedef struct TriggerKind
{
	const char *name;
	int16 events;
	bool row;
	char fires;
	char also; /* does as well, as the function looks at the session itself; 0: none */
	bool old_rows, new_rows;
} TriggerKind;

static const TriggerKind kinds[] = {
	{"mill_insert", TRIGGER_TYPE_INSERT, false, TRIGGER_FIRES_ON_ORIGIN, TRIGGER_FIRES_ALWAYS,
	 false, true},
	{"mill_update", TRIGGER_TYPE_UPDATE, false, TRIGGER_FIRES_ON_ORIGIN, TRIGGER_FIRES_ALWAYS, true,
	 true},
	{"mill_delete", TRIGGER_TYPE_DELETE, false, TRIGGER_FIRES_ON_ORIGIN, TRIGGER_FIRES_ALWAYS, true,
	 false},
	{"mill_truncate", TRIGGER_TYPE_TRUNCATE, false, TRIGGER_FIRES_ALWAYS, 0, false, false},
	{"mill_row", TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE, true,
	 TRIGGER_FIRES_ON_REPLICA, TRIGGER_FIRES_ALWAYS, false, false},
};

/* What the trigger of a kind on a relation is in pg_trigger; 0: there is none. */
static int16
type_of(const TriggerKind *kind, Oid relid)
{
	int16 type = kind->events;

	if (kind->row)
		return get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? 0 : type | TRIGGER_TYPE_ROW;
	if (kind->events == TRIGGER_TYPE_TRUNCATE && get_rel_relispartition(relid))
		type |= TRIGGER_TYPE_BEFORE;
	return type;
}

/* mill.maintain_aggregates(), whatever rights the user has; InvalidOid without the extension. */
Oid
mill_trigger_function(void)
{
	oidvector *arguments = buildoidvector(NULL, 0);

	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum("maintain_aggregates"), PointerGetDatum(arguments),
						   ObjectIdGetDatum(get_namespace_oid("mill", true)));
}

/* The tuples of our triggers of a relation, of one type or, with 0, of all. */
static List *
triggers_of(Relation catalog, Oid relid, int16 type)
{
	Oid function = mill_trigger_function();
	List *list = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(catalog, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		if (trigger->tgfoid == function && trigger->tgisinternal &&
			(type == 0 || trigger->tgtype == type))
			list = lappend(list, heap_copytuple(tuple));
	}
	systable_endscan(scan);
	return list;
}

static TriggerTransition *
transition(char *name, bool is_new)
{
	TriggerTransition *rows = makeNode(TriggerTransition);

	rows->name = name;
	rows->isNew = is_new;
	rows->isTable = true;
	return rows;
}

static void
create_trigger(const TriggerKind *kind, Oid relid, int16 type)
{
	CreateTrigStmt *statement = makeNode(CreateTrigStmt);

	statement->trigname = pstrdup(kind->name);
	statement->row = kind->row;
	statement->timing = type & TRIGGER_TYPE_TIMING_MASK;
	statement->events = kind->events;
	if (kind->old_rows)
		statement->transitionRels = lappend(statement->transitionRels,
											transition(MILL_OLD_ROWS, false));
	if (kind->new_rows)
		statement->transitionRels = lappend(statement->transitionRels,
											transition(MILL_NEW_ROWS, true));
	CreateTriggerFiringOn(statement, NULL, relid, InvalidOid, InvalidOid, InvalidOid,
						  mill_trigger_function(), InvalidOid, NULL, true, false, kind->fires);
	CommandCounterIncrement();
}

/* Let a trigger fire as its kind says, as ALTER TABLE ... ENABLE does. */
static void
set_firing(Relation catalog, HeapTuple tuple, char fires)
{
	Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

	trigger->tgenabled = fires;
	CatalogTupleUpdate(catalog, &tuple->t_self, tuple);
	CacheInvalidateRelcacheByRelid(trigger->tgrelid);
	CommandCounterIncrement();
}

/* Does a trigger fire when one of its kind should? */
static bool
fires_rightly(const TriggerKind *kind, HeapTuple tuple)
{
	char fires = ((Form_pg_trigger) GETSTRUCT(tuple))->tgenabled;

	return fires == kind->fires || fires == kind->also;
}

/*
 * Create the triggers that one relation lacks, a base table or a partition, and let
 * them fire when they should, but for those that somebody switched off.  The caller
 * has it locked against writers.
 */
void
mill_triggers_create_on(Oid relid)
{
	Relation catalog = table_open(TriggerRelationId, RowExclusiveLock);

	for (int i = 0; i < lengthof(kinds); i++)
	{
		int16 type = type_of(&kinds[i], relid);
		List *found = type ? triggers_of(catalog, relid, type) : NIL;

		if (type && found == NIL)
			create_trigger(&kinds[i], relid, type);
		else if (type)
		{
			HeapTuple tuple = linitial(found);

			if (((Form_pg_trigger) GETSTRUCT(tuple))->tgenabled != TRIGGER_DISABLED &&
				!fires_rightly(&kinds[i], tuple))
				set_firing(catalog, tuple, kinds[i].fires);
		}
	}
	table_close(catalog, RowExclusiveLock);
}

/* The same for those of some relations that exist. */
void
mill_triggers_create(List *relations)
{
	ListCell *lc;

	foreach (lc, relations)
	{
		if (get_rel_name(lfirst_oid(lc)))
			mill_triggers_create_on(lfirst_oid(lc));
	}
}

/* Does a relation lack a trigger, or one that fires when it should? */
static bool
is_uncaptured(Relation catalog, Oid relid, bool or_missing)
{
	for (int i = 0; i < lengthof(kinds); i++)
	{
		int16 type = type_of(&kinds[i], relid);
		List *found = type ? triggers_of(catalog, relid, type) : NIL;

		if (type != 0 && (found ? !fires_rightly(&kinds[i], linitial(found)) : or_missing))
			return true;
	}
	return false;
}

/*
 * The first of some relations, those that exist, whose triggers are switched off
 * or, if that is asked, missing; InvalidOid: there is none.
 */
Oid
mill_find_uncaptured(List *relations, bool or_missing)
{
	Relation catalog = table_open(TriggerRelationId, AccessShareLock);
	Oid found = InvalidOid;
	ListCell *lc;

	foreach (lc, relations)
	{
		if (!OidIsValid(found) && get_rel_name(lfirst_oid(lc)) &&
			is_uncaptured(catalog, lfirst_oid(lc), or_missing))
			found = lfirst_oid(lc);
	}
	table_close(catalog, AccessShareLock);
	return found;
}

/* Drop our triggers of one relation. */
void
mill_triggers_drop_on(Oid relid)
{
	Relation catalog = table_open(TriggerRelationId, RowExclusiveLock);
	ListCell *lc;

	foreach (lc, triggers_of(catalog, relid, 0))
	{
		ObjectAddress trigger;

		ObjectAddressSet(trigger, TriggerRelationId,
						 ((Form_pg_trigger) GETSTRUCT((HeapTuple) lfirst(lc)))->oid);
		performDeletion(&trigger, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	}
	table_close(catalog, RowExclusiveLock);
	CommandCounterIncrement();
}

void
mill_triggers_drop(Oid base)
{
	ListCell *lc;

	foreach (lc, find_all_inheritors(base, NoLock, NULL))
		mill_triggers_drop_on(lfirst_oid(lc));
}
