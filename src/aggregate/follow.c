/*
 * follow.c
 *		Event triggers: what DDL on its relations does to an aggregate.
 *
 *	view dropped				-> drop its definition, tables, triggers and row
 *	definition dropped			-> by DROP ... CASCADE of the base table: drop the view too
 *	query of view replaced		-> refused
 *	owner of view changed		-> change the owner of its definition and tables
 *	partition attached			-> create its triggers, add its rows
 *	partition detached			-> subtract its rows, keep them as history, drop its triggers
 *	partition dropped			-> its rows cannot be read any more: the aggregate rests
 *	base table made unsuitable	-> refused, if it cannot be the base table of any aggregate;
 *								   otherwise (row security, triggers off) the aggregate rests
 *
 * They run in the session and transaction of the command, after it, whoever
 * the user is.  So they look only at aggregates that the command's objects
 * belong to, found through our catalog and pg_inherits, not by names; they
 * take no locks that the command does not hold; and they run what a user wrote
 * as its owner.  What must be done before DROP begins core's hook tells us of.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/internal.h"

PG_FUNCTION_INFO_V1(mill_follow_drop);
PG_FUNCTION_INFO_V1(mill_follow_ddl);

static void
require_event(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("this function was not called by an event trigger")));
}

/* The oids in the first column of a statement's result. */
static List *
read_oids(MillStatement *statement)
{
	uint64 rows = mill_run(statement, SPI_OK_SELECT, NULL, NULL);
	List *oids = NIL;

	for (uint64 row = 0; row < rows; row++)
		oids = lappend_oid(oids, DatumGetObjectId(mill_value((int) row, 1, NULL)));
	return oids;
}

/* Our triggers cannot be dropped from a table that has aggregates. */
static void
refuse_dropped_triggers(void)
{
	static MillStatement read = {
		.sql =
			"SELECT to_regclass(quote_ident(o.address_names[1]) || '.' || quote_ident(o.address_names[2]))::oid"
			" FROM pg_event_trigger_dropped_objects() o WHERE o.object_type = 'trigger'"
			" AND to_regclass(quote_ident(o.address_names[1]) || '.' || quote_ident(o.address_names[2])) IS NOT NULL"};
	ListCell *lc;

	foreach (lc, read_oids(&read))
	{
		Oid relid = lfirst_oid(lc);
		ListCell *cell;

		foreach (cell, mill_aggregates_of_base(mill_base_of(relid)))
		{
			MillAggregate *a = lfirst(cell);

			if (!a->resting && list_member_oid(a->relations, relid) &&
				OidIsValid(mill_find_uncaptured(list_make1_oid(relid), true)))
				ereport(ERROR,
						(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
						 errmsg("cannot drop a trigger that continuous aggregate \"%s\" needs",
								get_rel_name(a->view)),
						 errhint("Make it a plain view with mill.dematerialize, or drop it.")));
		}
	}
}

/*
 * DROP VIEW of aggregates is about to begin.  It locks the view, and dropping our triggers
 * the base table: who has written to that may wait for the view.  So lock the
 * base table first, without making others wait for long.
 */
static void
before_drop_view(const DropStmt *drop)
{
	ListCell *lc;

	foreach (lc, drop->objects)
	{
		Oid view = RangeVarGetRelid(makeRangeVarFromNameList(lfirst(lc)), NoLock, true);
		MillAggregate *a = OidIsValid(view) ? mill_aggregate_of_view(view, true) : NULL;

		if (a && (mill_relation_ownercheck(view, GetUserId()) ||
				  mill_schema_ownercheck(get_rel_namespace(view), GetUserId())))
			mill_lock_base_and_view(a->base, AccessExclusiveLock, a->view);
	}
}

/* For mill_fold_room: what must be done before DROP begins; the rest is for event triggers. */
void
mill_aggregates_before_command(Node *command)
{
	const DropStmt *drop = (const DropStmt *) command;

	if (!IsA(drop, DropStmt) || mill_in_own_ddl ||
		(drop->removeType != OBJECT_TABLE && drop->removeType != OBJECT_VIEW) ||
		!OidIsValid(mill_extension()))
		return;
	SPI_connect();
	if (drop->removeType == OBJECT_TABLE)
		mill_history_before_drop(drop);
	else
		before_drop_view(drop);
	SPI_finish();
}

/* SQL: mill_catalog.follow_drop(), on sql_drop */
Datum
mill_follow_drop(PG_FUNCTION_ARGS)
{
	static MillStatement read = {
		.sql = "SELECT o.objid FROM pg_event_trigger_dropped_objects() o"
			   " WHERE o.classid = 'pg_catalog.pg_class'::regclass AND o.objsubid = 0"};
	List *dropped;
	ListCell *lc;

	require_event(fcinfo);
	if (mill_in_own_ddl)
		PG_RETURN_NULL();
	SPI_connect();
	dropped = read_oids(&read);
	foreach (lc, mill_aggregates_among(dropped))
	{
		MillAggregate *a = lfirst(lc);

		mill_aggregate_delete(a);
		if (get_rel_name(a->view))
			mill_execute_ddl(psprintf("DROP VIEW %s CASCADE", mill_relation_name(a->view)));
		mill_objects_drop(a);
	}
	refuse_dropped_triggers();
	/* the rows of a dropped partition cannot be read any more */
	foreach (lc, mill_aggregates_of_partitions(dropped))
	{
		MillAggregate *a = lfirst(lc);

		mill_aggregate_rest(a, "a partition was dropped");
		if (OidIsValid(a->history))
			ereport(WARNING,
					(errmsg("\"%s\" lost the rows of a partition", get_rel_name(a->view)),
					 errdetail("Only DROP TABLE of the partition, and DETACH, keep them.")));
	}
	SPI_finish();
	PG_RETURN_NULL();
}

/* The query of a continuous aggregate cannot be replaced. */
static void
refuse_replaced_views(List *relations)
{
	ListCell *lc;

	foreach (lc, mill_aggregates_among(relations))
	{
		MillAggregate *a = lfirst(lc);

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot replace the query of continuous aggregate \"%s\"",
						get_rel_name(a->view)),
				 errhint(
					 "Materialize another view and call mill.replace_aggregate, or call mill.dematerialize first.")));
	}
}

/* Give the definition and the tables to the view's owner. */
static void
follow_owner(const MillAggregate *a)
{
	const char *owner;

	if (a->owner == mill_relation_owner(a->state) && a->owner == mill_relation_owner(a->delta) &&
		a->owner == mill_relation_owner(a->definition))
		return;
	owner = quote_identifier(GetUserNameFromId(a->owner, false));
	mill_execute_ddl(
		psprintf("ALTER VIEW %s OWNER TO %s", mill_relation_name(a->definition), owner));
	mill_execute_ddl(psprintf("ALTER TABLE %s OWNER TO %s", mill_relation_name(a->state), owner));
	mill_execute_ddl(psprintf("ALTER TABLE %s OWNER TO %s", mill_relation_name(a->delta), owner));
	if (OidIsValid(a->history))
		mill_execute_ddl(
			psprintf("ALTER TABLE %s OWNER TO %s", mill_relation_name(a->history), owner));
	mill_invalidate_base(a->base);
}

/* Is this a partition of the table, perhaps with an unfinished DETACH CONCURRENTLY? */
static bool
is_partition_of(Oid relid, Oid base)
{
	return get_rel_relispartition(relid) && mill_base_of(relid) == base;
}

/* Subtract the rows of detached partitions, which the command still has locked. */
static void
follow_detached(const MillAggregate *a)
{
	ListCell *lc;

	foreach (lc, a->relations)
	{
		Oid relid = lfirst_oid(lc);

		if (relid == a->base || get_rel_name(relid) == NULL || is_partition_of(relid, a->base))
			continue;
		if (OidIsValid(a->history) && get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
			mill_capture_relation(a, relid, MILL_KEEP);
		if (!a->resting && get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
			mill_capture_relation(a, relid, MILL_SUBTRACT);
		mill_triggers_drop_on(relid);
	}
}

/* Create the triggers of attached partitions, and add their rows. */
static void
follow_attached(const MillAggregate *a, List *relations)
{
	ListCell *lc;

	foreach (lc, relations)
	{
		Oid relid = lfirst_oid(lc);

		if (list_member_oid(a->relations, relid))
			continue;
		mill_triggers_create_on(relid);
		mill_history_forget(a, relid);
		if (!a->resting && get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
			mill_capture_relation(a, relid, MILL_ADD);
	}
}

/*
 * If the aggregate cannot be live any more let the command pass, and lay it to rest.
 * Somebody may have switched triggers off: what is written is not captured any more.
 * Or on again, and then perhaps not as they were.
 */
static void
follow_obstacles(MillAggregate *a)
{
	char *obstacle = mill_aggregate_obstacle(a);
	Oid relid;

	mill_triggers_create(a->relations);
	relid = mill_find_uncaptured(a->relations, true);
	if (!a->resting && obstacle)
		mill_aggregate_rest(a, obstacle);
	else if (!a->resting && OidIsValid(relid))
		mill_aggregate_rest(a, psprintf("its triggers on \"%s\" were switched off",
										get_rel_name(relid)));
	/* the worker waits for them */
	mill_wake_workers_at_commit(mill_room_named("fold"));
}

/* Handle what the command did to the partitions of a base table. */
static void
follow_partitions(MillAggregate *a)
{
	List *relations = find_all_inheritors(a->base, NoLock, NULL);
	ListCell *lc;

	follow_detached(a);
	follow_attached(a, relations);
	foreach (lc, a->relations)
	{
		if (is_partition_of(lfirst_oid(lc), a->base))
			relations = list_append_unique_oid(relations, lfirst_oid(lc));
	}
	if (list_length(relations) != list_length(a->relations) ||
		list_difference_oid(relations, a->relations) != NIL)
		mill_aggregate_set_relations(a, relations);
}

/* SQL: mill_catalog.follow_ddl(), on ddl_command_end of commands for tables and views */
Datum
mill_follow_ddl(PG_FUNCTION_ARGS)
{
	static MillStatement any = {.sql = "SELECT FROM mill_catalog.aggregate LIMIT 1"};
	static MillStatement replaced = {
		.sql = "SELECT c.objid FROM pg_event_trigger_ddl_commands() c"
			   " WHERE c.classid = 'pg_catalog.pg_class'::regclass AND c.command_tag = 'CREATE VIEW'"};
	static MillStatement touched = {
		.sql = "WITH RECURSIVE touched (relid) AS (SELECT c.objid FROM pg_event_trigger_ddl_commands() c"
			   "  WHERE c.classid = 'pg_catalog.pg_class'::regclass"
			   "  UNION SELECT i.inhparent FROM pg_inherits i JOIN touched t ON t.relid = i.inhrelid)"
			   " SELECT relid FROM touched"};
	List *relations;
	ListCell *lc;

	require_event(fcinfo);
	if (mill_in_own_ddl)
		PG_RETURN_NULL();
	SPI_connect();
	if (mill_run(&any, SPI_OK_SELECT, NULL, NULL) > 0)
	{
		refuse_replaced_views(read_oids(&replaced));
		relations = read_oids(&touched);
		foreach (lc, mill_aggregates_using(relations))
		{
			MillAggregate *a = lfirst(lc);

			if (list_member_oid(relations, a->view))
				mill_check_view(a->view);
			mill_check_base(a->base);
			follow_owner(a);
			follow_partitions(a);
			follow_obstacles(a);
		}
	}
	SPI_finish();
	PG_RETURN_NULL();
}
