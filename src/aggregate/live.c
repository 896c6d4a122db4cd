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
#include "access/transam.h"
#include "access/visibilitymap.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/internal.h"

PG_FUNCTION_INFO_V1(mill_is_live);

/* So many pages of deltas are read with the state table, whatever the base table has. */
#define FEW_DELTA_PAGES 1000
/* What it costs to combine a page of deltas, in pages that the plain query reads; measured 6. */
#define DELTA_PAGE_COST 4

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
		{.sql = "UPDATE mill_catalog.aggregate SET live = false, backfill_until = NULL, resting = $2, exact_since = pg_current_xact_id() WHERE id = $1",
		 .nargs = 2,
		 .types = {INT8OID, TEXTOID}};
	Datum values[2] = {Int64GetDatum(a->id), CStringGetTextDatum(reason)};

	mill_run(&rest, SPI_OK_UPDATE, values, NULL);
	a->live = false;
	a->backfill_until = NULL;
	a->resting = true;
	mill_invalidate_base(a->base);
	mill_wake_workers_at_commit(mill_room_named("fold"));
}

/*
 * Rows went without a trace for older snapshots: TRUNCATE.  These do not read the
 * state table any more.
 */
void
mill_aggregate_note_truncate(int64 id)
{
	static MillStatement note =
		{.sql = "UPDATE mill_catalog.aggregate SET exact_since = pg_current_xact_id() WHERE id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1] = {Int64GetDatum(id)};

	mill_run(&note, SPI_OK_UPDATE, values, NULL);
}

/*
 * What keeps an aggregate from being live, as text, or NULL: something about its
 * tables that was otherwise when it was made.  Locks and opens none of them; for
 * event triggers and writers.
 */
char *
mill_aggregate_obstacle(const MillAggregate *a)
{
	static MillStatement find =
		{.sql =
			 "WITH RECURSIVE part (relid) AS (SELECT $1 UNION SELECT i.inhrelid FROM pg_inherits i JOIN part p ON p.relid = i.inhparent),"
			 " inner_view (view, definition) AS (SELECT view, definition FROM mill_catalog.armed_aggregate WHERE base_table = $1),"
			 /* what its definition names, and those of the aggregates that it is over */
			 " used (relid) AS (SELECT $2 UNION SELECT d.refobjid FROM used u LEFT JOIN inner_view i ON i.view = u.relid"
			 "   JOIN pg_rewrite r ON r.ev_class = CASE WHEN u.relid = $2 THEN $2 ELSE i.definition END"
			 "   JOIN pg_depend d ON d.objid = r.oid AND d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass)"
			 " SELECT coalesce("
			 "  (SELECT format('%s, which it is over, has another owner', c.oid::regclass) FROM used u JOIN inner_view i ON i.view = u.relid"
			 "    JOIN pg_class c ON c.oid = u.relid WHERE c.relowner <> $3 LIMIT 1),"
			 "  (SELECT format('row security of %s is switched on', c.oid::regclass) FROM used u JOIN pg_class c ON c.oid = u.relid"
			 "    WHERE c.relrowsecurity LIMIT 1),"
			 "  (SELECT format('DETACH PARTITION ... CONCURRENTLY of %s is not finished', i.inhrelid::regclass) FROM part p"
			 "    JOIN pg_inherits i ON i.inhrelid = p.relid WHERE i.inhdetachpending LIMIT 1),"
			 "  (SELECT format('%s is unlogged', c.oid::regclass) FROM part p JOIN pg_class c ON c.oid = p.relid"
			 "    WHERE c.relpersistence = 'u' LIMIT 1),"
			 "  (SELECT format('its owner may not read %s', c.oid::regclass) FROM used u JOIN pg_class c ON c.oid = u.relid"
			 "    WHERE NOT has_any_column_privilege($3, c.oid, 'SELECT') AND c.relkind <> 'S' LIMIT 1),"
			 "  (SELECT format('its owner may not use schema %s', c.relnamespace::regnamespace) FROM used u JOIN pg_class c ON c.oid = u.relid"
			 "    WHERE NOT has_schema_privilege($3, c.relnamespace, 'USAGE') LIMIT 1))",
		 .nargs = 3,
		 .types = {OIDOID, OIDOID, OIDOID}};
	Datum values[3] = {ObjectIdGetDatum(a->base), ObjectIdGetDatum(a->definition),
					   ObjectIdGetDatum(a->owner)};

	mill_run(&find, SPI_OK_SELECT, values, NULL);
	return mill_text(0, 1);
}

#ifdef USE_ASSERT_CHECKING
static bool
keeps_writers_off(Oid relid)
{
	LOCKTAG tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	return mill_holds_lock(&tag, ShareRowExclusiveLock);
}
#endif

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
	char *obstacle;

	Assert(mill_aggregate_is_locked(a->id));
	Assert(keeps_writers_off(a->base));
	mill_run(&begin, SPI_OK_UPDATE, values, NULL);
	a->live = a->resting = false;
	a->backfill_until = NULL;
	mill_aggregate_set_relations(a, find_all_inheritors(a->base, NoLock, NULL));
	mill_triggers_create(a->relations);
	obstacle = mill_aggregate_obstacle(a);
	if (obstacle)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("\"%s\" cannot be live: %s", get_rel_name(a->view), obstacle)));
	switched_off = mill_find_uncaptured(a->relations, false);
	if (OidIsValid(switched_off))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the triggers of \"%s\" are switched off", get_rel_name(switched_off)),
				 errhint("Use ALTER TABLE ... ENABLE TRIGGER ALL.")));
	mill_invalidate_base(a->base);
}

/*
 * Has the table, or one of its partitions, a partition whose DETACH CONCURRENTLY is
 * not finished?  Nobody tells us when that begins, and a query leaves it out.
 */
static bool
has_pending_detach(Oid relid)
{
	bool pending = false;
	PartitionDesc partitions;
	Relation rel;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return false;
	rel = table_open(relid, AccessShareLock);
	partitions = RelationGetPartitionDesc(rel, false);
	pending = partitions->detached_exist;
	for (int i = 0; i < partitions->nparts && !pending; i++)
	{
		if (!partitions->is_leaf[i])
			pending = has_pending_detach(partitions->oids[i]);
	}
	table_close(rel, NoLock);
	return pending;
}

/* A column of an aggregate's row, 0 if it is null. */
static Datum
column_of(Relation rel, HeapTuple row, const char *name)
{
	bool isnull;
	Datum value = heap_getattr(row, get_attnum(RelationGetRelid(rel), name), RelationGetDescr(rel),
							   &isnull);

	return isnull ? (Datum) 0 : value;
}

/* The row of a state table's aggregate in a snapshot, if it is live in this database; or NULL. */
static HeapTuple
live_row(Relation rel, Oid state, Snapshot snapshot)
{
	Oid index = get_relname_relid("aggregate_state_table_key", RelationGetNamespace(rel));
	HeapTuple row = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, get_attnum(RelationGetRelid(rel), "state_table"), BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(state));
	scan = systable_beginscan(rel, index, OidIsValid(index), snapshot, 1, &key);
	while (row == NULL && (tuple = systable_getnext(scan)) != NULL)
	{
		if (DatumGetBool(column_of(rel, tuple, "live")) &&
			DatumGetInt64(column_of(rel, tuple, "armed_system")) == (int64) GetSystemIdentifier() &&
			DatumGetObjectId(column_of(rel, tuple, "armed_database")) == MyDatabaseId)
			row = heap_copytuple(tuple);
	}
	systable_endscan(scan);
	return row;
}

/* Does a snapshot see a transaction?  It is committed, and stored as xid8; 0: there is none. */
static bool
sees_transaction(Snapshot snapshot, uint64 stored)
{
	FullTransactionId xid = FullTransactionIdFromU64(stored);

	/* so long ago that its number may mean another one */
	if (stored == 0 || U64FromFullTransactionId(ReadNextFullTransactionId()) - stored > INT_MAX / 2)
		return true;
	return !XidInMVCCSnapshot(XidFromFullTransactionId(xid), snapshot);
}

/*
 * What a query was answered.  It asks several times, at any time while it runs, and
 * must get one answer, though partitions may be attached meanwhile.
 */
typedef struct Answer
{
	Oid state; /* hash key */
	TimestampTz statement;
	TransactionId xmin, xmax;
	uint32 running;
	CommandId command;
	Oid examined;
	bool live;
} Answer;

static HTAB *answers = NULL;

/* The only state table that is read, even if that is slow; InvalidOid: each as it is. */
static Oid examined = InvalidOid;

/* The last answer about a state table; is it for this query? */
static Answer *
find_answer(Oid state, Snapshot snapshot, bool *is_ours)
{
	HASHCTL control = {.keysize = sizeof(Oid),
					   .entrysize = sizeof(Answer),
					   .hcxt = TopMemoryContext};
	Answer *answer;
	bool found;

	if (answers == NULL)
		answers = hash_create("pg_mill live aggregates", 32, &control,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	answer = hash_search(answers, &state, HASH_ENTER, &found);
	*is_ours = found && answer->statement == GetCurrentStatementStartTimestamp() &&
			   answer->xmin == snapshot->xmin && answer->xmax == snapshot->xmax &&
			   answer->running == snapshot->xcnt && answer->command == snapshot->curcid &&
			   answer->examined == examined;
	/* in case of an error before there is an answer */
	if (!*is_ours)
		answer->statement = 0;
	return answer;
}

/*
 * Pages of a relation and its partitions, all of them, or only those that may have rows
 * which not everybody sees yet; 0 if it is not known because of somebody's lock.
 */
uint64
mill_pages_now(Oid relid, bool recent)
{
	uint64 pages = 0;
	ListCell *lc;

	foreach (lc, find_all_inheritors(relid, NoLock, NULL))
	{
		Relation rel;
		BlockNumber all_visible = 0;

		/* the order of locks is the query's own; this is not the place to wait */
		if (!ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock))
			return 0;
		rel = try_table_open(lfirst_oid(lc), NoLock);
		if (rel && RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
		{
			if (recent)
				visibilitymap_count(rel, &all_visible, NULL);
			pages += RelationGetNumberOfBlocks(rel) - all_visible;
		}
		if (rel)
			table_close(rel, NoLock);
		UnlockRelationOid(lfirst_oid(lc), AccessShareLock);
	}
	return pages;
}

/*
 * What to read of an aggregate that is live, by what waits to be folded: the plain query where
 * that is faster.  All give the same.  Pages that the fold has emptied do not count once
 * they have been vacuumed.
 */
static MillReading
fastest_reading(Oid base, Oid delta)
{
	uint64 waiting = mill_pages_now(delta, true);
	uint64 plain;

	if (waiting <= FEW_DELTA_PAGES)
		return MILL_READS_STATE;
	plain = mill_pages_now(base, false);
	return plain > 0 && waiting * DELTA_PAGE_COST > plain ? MILL_READS_PLAIN : MILL_READS_DELTAS;
}

static MillReading
find_reading(Oid state, Snapshot snapshot)
{
	Relation rel = table_open(get_relname_relid("aggregate",
												get_namespace_oid("mill_catalog", false)),
							  AccessShareLock);
	HeapTuple latest;
	MillReading reading = MILL_READS_PLAIN;
	bool is_right;

	/* the latest row is found by the snapshot of catalogs, which is always the newest */
	is_right = live_row(rel, state, snapshot) && (latest = live_row(rel, state, NULL)) != NULL &&
			   sees_transaction(snapshot, DatumGetUInt64(column_of(rel, latest, "exact_since"))) &&
			   !has_pending_detach(DatumGetObjectId(column_of(rel, latest, "base_table")));
	if (is_right)
		reading = fastest_reading(DatumGetObjectId(column_of(rel, latest, "base_table")),
								  DatumGetObjectId(column_of(rel, latest, "delta_table")));
	/* what is examined is read, even if that is slow */
	if (is_right && examined == state && reading == MILL_READS_PLAIN)
		reading = MILL_READS_DELTAS;
	table_close(rel, AccessShareLock);
	return reading;
}

/*
 * SQL: mill.is_live(state): does the query read the state table, in its own snapshot?
 * One that is older than its filling must not, nor one that is older than something
 * that the base table's rows do not remember, such as TRUNCATE.  In a copy of the
 * database no aggregate is live, until mill.arm().  Nor does it where that would be slower.
 */
Datum
mill_is_live(PG_FUNCTION_ARGS)
{
	Oid state = PG_GETARG_OID(0);
	Snapshot snapshot = GetActiveSnapshot();
	bool is_ours;
	Answer *answer = find_answer(state, snapshot, &is_ours);

	if (!is_ours)
	{
		answer->live = (!OidIsValid(examined) || examined == state) &&
					   find_reading(state, snapshot) != MILL_READS_PLAIN;
		answer->xmin = snapshot->xmin;
		answer->xmax = snapshot->xmax;
		answer->running = snapshot->xcnt;
		answer->command = snapshot->curcid;
		answer->examined = examined;
		answer->statement = GetCurrentStatementStartTimestamp();
	}
	PG_RETURN_BOOL(answer->live);
}

/* What would a query read that begins now? */
MillReading
mill_reading_now(Oid state)
{
	return ActiveSnapshotSet() ? find_reading(state, GetActiveSnapshot()) : MILL_READS_PLAIN;
}

/*
 * Run a function in whose queries this aggregate, if it is live, is read from its state
 * table even if that is slow, and all others are plain: what it is compared with must
 * not come from the state of one that it is over.
 */
void
mill_examine_state(Oid state, void (*function)(void *arg), void *arg)
{
	Assert(OidIsValid(state) && !OidIsValid(examined));
	examined = state;
	PG_TRY();
	{
		function(arg);
	}
	PG_FINALLY();
	{
		examined = InvalidOid;
	}
	PG_END_TRY();
}
