/*
 * history.c
 *		What a continuous aggregate keeps of partitions that are gone.
 *
 * With mill.retain the partial results of a partition's rows are added to the
 * history table when it is detached or dropped, and the view shows the rows of the
 * base table and those of the history as if they were of one table.  History is not
 * folded, filled or recomputed: it is beside all that, also where the aggregate rests
 * or came with a dump.  What is attached again leaves the history.
 *
 * A dropped table's rows cannot be read any more when event triggers run, so a hook
 * captures them before DROP TABLE begins.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/object.h"
#include "core/xact.h"

#include "aggregate/internal.h"

/* The longest time to keep, so that no date minus it is out of range. */
#define MAX_KEEP_YEARS 1000

PG_FUNCTION_INFO_V1(mill_retain);
PG_FUNCTION_INFO_V1(mill_drop_history);

/* ---- SQL ---- */

static void
set_history(MillAggregate *a, Oid history)
{
	static MillStatement set =
		{.sql = "UPDATE mill_catalog.aggregate SET history_table = nullif($2, 0), keep = NULL WHERE id = $1",
		 .nargs = 2,
		 .types = {INT8OID, OIDOID}};
	Datum values[2] = {Int64GetDatum(a->id), ObjectIdGetDatum(history)};

	mill_run(&set, SPI_OK_UPDATE, values, NULL);
	a->history = history;
	mill_invalidate_base(a->base);
}

static void
set_keep(int64 id, Datum keep, bool forever)
{
	static MillStatement set = {.sql = "UPDATE mill_catalog.aggregate SET keep = $2 WHERE id = $1",
								.nargs = 2,
								.types = {INT8OID, INTERVALOID}};
	Datum values[2] = {Int64GetDatum(id), keep};

	mill_run(&set, SPI_OK_UPDATE, values, forever ? " n" : NULL);
}

/* What is kept of rows that are gone must combine with what others give. */
static void
require_combinable(const MillAggregate *a, const MillDefinition *d)
{
	if (d->window == MILL_WINDOW_SESSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("sessions cannot be retained"),
				 errdetail("A later event may join a session whose events are gone."),
				 errhint("Copy the rows of \"%s\" to a table before they go.",
						 get_rel_name(a->view))));
	if (d->class == MILL_RECOMPUTE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" cannot be retained", get_rel_name(a->view)),
				 errdetail("Columns of class \"recompute\" need the rows themselves."),
				 errhint("See mill.explain_aggregate('%s'); leave these columns to another view.",
						 mill_relation_name(a->view))));
}

static void
check_keep(const MillDefinition *d, const Interval *keep)
{
	int64 length = mill_interval_length(keep);

	if (length <= 0 || keep->month < 0 || keep->day < 0 || keep->time < 0 ||
		keep->month > MAX_KEEP_YEARS * MONTHS_PER_YEAR ||
		length > MAX_KEEP_YEARS * 366 * USECS_PER_DAY)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"keep\" is outside of its range, above zero to %d years",
							   MAX_KEEP_YEARS),
						errhint("For example: keep => '90 days'; NULL keeps forever.")));
	if (d->window == MILL_WINDOW_HOP)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("windows that overlap can only be kept forever"),
						errdetail("Each row is in several of them, of different age."),
						errhint("Use keep => NULL.")));
	if (d->window == MILL_WINDOW_NONE || d->time_type == INT8OID)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("only windows of dates or timestamps have an age"),
						errhint("Use keep => NULL, which keeps forever.")));
}

/* SQL: mill.retain(view, keep) */
Datum
mill_retain(PG_FUNCTION_ARGS)
{
	MillAggregate *a;
	MillDefinition *d;

	mill_require_argument(fcinfo, 0, "view");
	SPI_connect();
	a = mill_aggregate_lock_keeping(PG_GETARG_OID(0), MILL_READERS_OFF);
	d = mill_definition_of(a->definition);
	require_combinable(a, d);
	if (!PG_ARGISNULL(1))
		check_keep(d, PG_GETARG_INTERVAL_P(1));
	if (get_rel_relkind(a->base) != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not a partitioned table", get_rel_name(a->base)),
						errdetail("What is kept are the rows of partitions that go."),
						errhint("Copy the rows of \"%s\" to a table before they are deleted.",
								get_rel_name(a->view))));
	if (!OidIsValid(a->history))
	{
		mill_aggregate_require_no_outer(a);
		set_history(a, mill_history_create(a, d));
		mill_view_let_read(a->view, a, d);
	}
	set_keep(a->id, PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	SPI_finish();
	PG_RETURN_VOID();
}

/* SQL: mill.drop_history(view) */
Datum
mill_drop_history(PG_FUNCTION_ARGS)
{
	MillAggregate *a;
	Oid history;

	SPI_connect();
	a = mill_aggregate_lock_keeping(PG_GETARG_OID(0), MILL_READERS_OFF);
	if (!OidIsValid(a->history))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("\"%s\" keeps no history", get_rel_name(a->view)),
						errhint("mill.retain('%s') lets it.", mill_relation_name(a->view))));
	history = a->history;
	set_history(a, InvalidOid);
	mill_view_let_read(a->view, a, mill_definition_of(a->definition));
	mill_execute_ddl(psprintf("DROP TABLE %s", mill_relation_name(history)));
	SPI_finish();
	PG_RETURN_VOID();
}

/* The history is nowhere else: what would lose it is refused. */
void
mill_require_no_history(const MillAggregate *a)
{
	if (OidIsValid(a->history))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" has the history of partitions that are gone", get_rel_name(a->view)),
				 errhint("mill.drop_history('%s') gives it up.", mill_relation_name(a->view))));
}

/* ---- partitions ---- */

static void
forget_rows(void *arg)
{
	mill_execute(arg, SPI_OK_DELETE);
}

static void
forget_tables(void *arg)
{
	mill_execute(arg, SPI_OK_UPDATE);
}

/* A partition was attached: its rows are counted again, and are history no more. */
void
mill_history_forget(const MillAggregate *a, Oid relid)
{
	if (OidIsValid(a->history))
		mill_as_owner(a->owner, forget_rows,
					  psprintf("DELETE FROM %s WHERE of_table = %u", mill_relation_name(a->history),
							   relid));
}

/* In a copy of the database the oids of tables mean others, or nothing. */
void
mill_history_adopt(const MillAggregate *a)
{
	if (OidIsValid(a->history))
		mill_as_owner(a->owner, forget_tables,
					  psprintf("UPDATE %s SET of_table = 0", mill_relation_name(a->history)));
}

/* Keep the rows of a table that is about to be dropped, and take it out of the aggregate. */
static void
keep_dropped(MillAggregate *a, List *dropped)
{
	List *relations = NIL;
	ListCell *lc;

	foreach (lc, a->relations)
	{
		Oid relid = lfirst_oid(lc);

		if (!list_member_oid(dropped, relid))
		{
			relations = lappend_oid(relations, relid);
			continue;
		}
		if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
			continue;
		mill_capture_relation(a, relid, MILL_KEEP);
		if (!a->resting)
			mill_capture_relation(a, relid, MILL_SUBTRACT);
	}
	mill_aggregate_set_relations(a, relations);
}

static bool
keeps_history(Oid base)
{
	ListCell *lc;

	foreach (lc, mill_aggregates_of_base(base))
	{
		if (OidIsValid(((MillAggregate *) lfirst(lc))->history))
			return true;
	}
	return false;
}

/*
 * A table is about to be dropped by this user, who may do so.  If it is a partition, lock
 * it and what it is a partition of, in the order in which DROP does.
 */
static void
before_drop(Oid relid)
{
	Oid base = mill_base_of(relid);
	ListCell *lc;

	if (base == relid || !keeps_history(base))
		return;
	LockRelationOid(get_partition_parent(relid, true), AccessExclusiveLock);
	LockRelationOid(relid, AccessExclusiveLock);
	/* it may have been detached, or dropped, while we waited */
	if (!get_rel_relispartition(relid) || mill_base_of(relid) != base)
		return;
	foreach (lc, mill_aggregates_of_base(base))
	{
		MillAggregate *a = lfirst(lc);

		if (OidIsValid(a->history) && list_member_oid(a->relations, relid))
			keep_dropped(a, find_all_inheritors(relid, AccessExclusiveLock, NULL));
	}
}

/* The tables of DROP TABLE that this user may drop. */
static List *
tables_to_drop(const DropStmt *drop)
{
	List *tables = NIL;
	ListCell *lc;

	foreach (lc, drop->objects)
	{
		Oid relid = RangeVarGetRelid(makeRangeVarFromNameList(lfirst(lc)), NoLock, true);

		if (OidIsValid(relid) && get_rel_relispartition(relid) &&
			(mill_relation_ownercheck(relid, GetUserId()) ||
			 mill_schema_ownercheck(get_rel_namespace(relid), GetUserId())))
			tables = list_append_unique_oid(tables, relid);
	}
	return tables;
}

/* DROP TABLE is about to begin.  SPI must be connected. */
void
mill_history_before_drop(const DropStmt *drop)
{
	ListCell *lc;

	foreach (lc, tables_to_drop(drop))
		before_drop(lfirst_oid(lc));
}

/* ---- age ---- */

typedef struct Expiry
{
	const MillAggregate *aggregate;
	const MillDefinition *d;
	Datum keep;
} Expiry;

static void
delete_expired(void *arg)
{
	const Expiry *expiry = arg;
	const MillDefinition *d = expiry->d;
	Oid types[2] = {TIMESTAMPTZOID, INTERVALOID};
	Datum values[2] = {TimestampTzGetDatum(mill_now()), expiry->keep};
	const char *type = format_type_be(d->time_type);
	char *sql =
		mill_sql(d, mill_aggregate_tables(expiry->aggregate),
				 "DELETE FROM $history WHERE mill.window_end(pane$pane_args) <= least($now,\n"
				 " greatest((SELECT max(pane) FROM $state), (SELECT max(pane) FROM $history))) - $2",
				 "pane_args", d->pane_args, "now",
				 d->time_type == TIMESTAMPTZOID ? pstrdup("$1")
												: psprintf("($1 AT TIME ZONE 'UTC')::%s", type),
				 MILL_END);

	if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete expired history");
}

/*
 * Delete what is older than is to be kept.  Age is counted from now, or from the newest
 * window if that is earlier: a clock that jumps ahead deletes nothing.  The caller
 * holds the aggregate's lock; SPI must be connected.
 */
void
mill_history_expire(const MillAggregate *a, const MillDefinition *d)
{
	static MillStatement read = {.sql = "SELECT keep FROM mill_catalog.aggregate WHERE id = $1",
								 .nargs = 1,
								 .types = {INT8OID}};
	Expiry expiry = {.aggregate = a, .d = d};
	Datum id = Int64GetDatum(a->id);
	bool forever;

	Assert(mill_aggregate_is_locked(a->id));
	if (!OidIsValid(a->history) || mill_run(&read, SPI_OK_SELECT, &id, NULL) == 0)
		return;
	expiry.keep = mill_value(0, 1, &forever);
	if (!forever)
		mill_as_owner(a->owner, delete_expired, &expiry);
}
