/*
 * live.c
 *		Whether an aggregate is live, that is, whether its view reads the state table.
 *
 *	live		the state table is complete but for the deltas that wait
 *	filling		writers capture, the state table is being computed
 *	resting		for a reason that its row says; nobody captures
 *
 * All of it is in the aggregate's row, and each query finds there, in its own
 * snapshot, what holds for it: the view has both queries, over the state table and
 * over the base table.  So whenever anything is in doubt the aggregate is laid to
 * rest; its results are right all the same.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/internal.h"

PG_FUNCTION_INFO_V1(mill_is_live);

/*
 * Store how far an aggregate is: live, which says that the state table is complete,
 * or filled down to a pane.  If it was laid to rest meanwhile, it stays so.
 */
void
mill_aggregate_set_progress(MillAggregate *a, bool live, const char *backfill_until)
{
	static MillStatement set =
		{.sql = "UPDATE mill_catalog.aggregate SET live = $2, backfill_until = $3 WHERE id = $1 AND resting IS NULL",
		 .nargs = 3,
		 .types = {INT8OID, BOOLOID, TEXTOID}};
	Datum values[3] = {Int64GetDatum(a->id), BoolGetDatum(live),
					   backfill_until ? CStringGetTextDatum(backfill_until) : (Datum) 0};

	Assert(mill_aggregate_is_locked(a->id));
	if (mill_run(&set, SPI_OK_UPDATE, values, backfill_until ? NULL : "  n") == 0)
		return;
	a->live = live;
	a->backfill_until = backfill_until ? pstrdup(backfill_until) : NULL;
}

/*
 * Lay an aggregate to rest, because its state table may not be right: the view is
 * its definition from the commit of this transaction on.  A worker fills it anew,
 * unless it was made with backfill => false.  Anybody may call this at any time.
 */
void
mill_aggregate_rest(MillAggregate *a, const char *reason)
{
	static MillStatement rest =
		{.sql = "UPDATE mill_catalog.aggregate SET live = false, backfill_until = NULL, resting = $2 WHERE id = $1",
		 .nargs = 2,
		 .types = {INT8OID, TEXTOID},
		 .latest_snapshot = true};
	Datum values[2] = {Int64GetDatum(a->id), CStringGetTextDatum(reason)};

	mill_run(&rest, SPI_OK_UPDATE, values, NULL);
	a->live = false;
	a->backfill_until = NULL;
	a->resting = true;
	mill_invalidate_base(a->base);
	mill_wake_workers_at_commit(mill_room_named("fold"));
}

/*
 * From now on writers capture, and the state table can be filled.  The caller has
 * the lock that keeps writers off the base table, and the aggregate's lock.
 */
void
mill_aggregate_begin_fill(MillAggregate *a)
{
	static MillStatement begin =
		{.sql = "UPDATE mill_catalog.aggregate SET live = false, backfill_until = NULL, resting = NULL WHERE id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1] = {Int64GetDatum(a->id)};
	Oid switched_off;

	Assert(mill_aggregate_is_locked(a->id));
	Assert(CheckRelationOidLockedByMe(a->base, ShareRowExclusiveLock, true));
	mill_run(&begin, SPI_OK_UPDATE, values, NULL);
	a->live = a->resting = false;
	a->backfill_until = NULL;
	mill_aggregate_set_relations(a->id, find_all_inheritors(a->base, NoLock, NULL));
	mill_triggers_create(a->base);
	switched_off = mill_find_uncaptured(find_all_inheritors(a->base, NoLock, NULL), false);
	if (OidIsValid(switched_off))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the triggers of \"%s\" are switched off", get_rel_name(switched_off)),
				 errhint("Use ALTER TABLE ... ENABLE TRIGGER ALL.")));
	mill_invalidate_base(a->base);
}

static Datum
column_of(Relation rel, HeapTuple tuple, const char *name)
{
	bool isnull;

	return heap_getattr(tuple, get_attnum(RelationGetRelid(rel), name), RelationGetDescr(rel),
						&isnull);
}

/*
 * SQL: mill.is_live(state): is the aggregate live in the query's own snapshot?  A
 * query that is older than the filling of the state table must not read it.  In a copy of the
 * database no aggregate is, until mill.arm().
 */
Datum
mill_is_live(PG_FUNCTION_ARGS)
{
	Oid state = PG_GETARG_OID(0);
	Relation rel = table_open(get_relname_relid("aggregate",
												get_namespace_oid("mill_catalog", false)),
							  AccessShareLock);
	AttrNumber state_column = get_attnum(RelationGetRelid(rel), "state_table");
	Oid index = get_relname_relid("aggregate_state_table_key", RelationGetNamespace(rel));
	bool live = false;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, state_column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(state));
	scan = systable_beginscan(rel, index, OidIsValid(index), GetActiveSnapshot(), 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
		live |= DatumGetBool(column_of(rel, tuple, "live")) &&
				DatumGetInt64(column_of(rel, tuple, "armed_system")) ==
					(int64) GetSystemIdentifier() &&
				DatumGetObjectId(column_of(rel, tuple, "armed_database")) == MyDatabaseId;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	PG_RETURN_BOOL(live);
}
