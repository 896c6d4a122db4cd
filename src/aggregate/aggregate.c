/*
 * aggregate.c
 *		Rows of mill_catalog.aggregate, and acting as an aggregate's owner.
 *
 * The row says that a view is a continuous aggregate and names its relations.
 * To fold, fill or change an aggregate, a transaction takes the aggregate's
 * lock: a heavyweight lock on the identity of the row, which readers and
 * writers never take.  It is taken before the statement that does the work, so
 * that the statement's snapshot sees all earlier work, and held until the end
 * of the transaction.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/internal.h"

bool mill_in_own_ddl = false;

#define AGGREGATE_COLUMNS                                                                          \
	"a.id, a.view, a.base_table, a.definition, a.state_table, a.delta_table,"                      \
	" a.with_indexes, (EXTRACT(epoch FROM a.fold_interval) * 1000)::int4, a.live, a.backfill, a.backfill_until, coalesce(c.relowner, 0), a.relations, a.resting IS NOT NULL, coalesce(a.history_table, 0)"
#define AGGREGATE_FROM " FROM mill_catalog.armed_aggregate a LEFT JOIN pg_class c ON c.oid = a.view"

static List *
oid_list(Datum array)
{
	List *oids = NIL;
	Datum *values;
	int count;

	deconstruct_array(DatumGetArrayTypeP(array), OIDOID, sizeof(Oid), true, TYPALIGN_INT, &values,
					  NULL, &count);
	for (int i = 0; i < count; i++)
		oids = lappend_oid(oids, DatumGetObjectId(values[i]));
	return oids;
}

Datum
mill_oid_array(List *oids)
{
	Datum *values = palloc(sizeof(Datum) * (list_length(oids) + 1));
	ListCell *lc;

	foreach (lc, oids)
		values[foreach_current_index(lc)] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(
		construct_array(values, list_length(oids), OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/* Build a MillAggregate from a row of SPI's result, in the current memory context. */
static MillAggregate *
read_aggregate(int row)
{
	MillAggregate *a = palloc0(sizeof(MillAggregate));
	char *until = mill_text(row, 11);

	a->id = DatumGetInt64(mill_value(row, 1, NULL));
	a->view = DatumGetObjectId(mill_value(row, 2, NULL));
	a->base = DatumGetObjectId(mill_value(row, 3, NULL));
	a->definition = DatumGetObjectId(mill_value(row, 4, NULL));
	a->state = DatumGetObjectId(mill_value(row, 5, NULL));
	a->delta = DatumGetObjectId(mill_value(row, 6, NULL));
	a->with_indexes = DatumGetBool(mill_value(row, 7, NULL));
	a->fold_interval_ms = DatumGetInt32(mill_value(row, 8, NULL));
	a->live = DatumGetBool(mill_value(row, 9, NULL));
	a->backfill = DatumGetBool(mill_value(row, 10, NULL));
	a->backfill_until = until ? pstrdup(until) : NULL;
	a->owner = DatumGetObjectId(mill_value(row, 12, NULL));
	a->relations = oid_list(mill_value(row, 13, NULL));
	a->resting = DatumGetBool(mill_value(row, 14, NULL));
	a->history = DatumGetObjectId(mill_value(row, 15, NULL));
	return a;
}

static List *
read_rows(MillStatement *statement, Datum argument)
{
	List *rows = NIL;
	uint64 count = mill_run(statement, SPI_OK_SELECT, &argument, NULL);

	for (uint64 i = 0; i < count; i++)
		rows = lappend(rows, read_aggregate((int) i));
	return rows;
}

MillAggregate *
mill_aggregate_of_view(Oid view, bool missing_ok)
{
	static MillStatement read = {.sql = "SELECT " AGGREGATE_COLUMNS AGGREGATE_FROM
										" WHERE a.view = $1",
								 .nargs = 1,
								 .types = {OIDOID}};
	List *rows = read_rows(&read, ObjectIdGetDatum(view));

	if (rows == NIL && !missing_ok && get_rel_name(view) == NULL)
		mill_no_such_relation(view);
	if (rows == NIL && !missing_ok)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("\"%s\" is not a continuous aggregate", get_rel_name(view)),
						errhint("Make it one with mill.materialize.")));
	return rows ? linitial(rows) : NULL;
}

MillAggregate *
mill_aggregate_by_id(int64 id)
{
	static MillStatement read = {.sql = "SELECT " AGGREGATE_COLUMNS AGGREGATE_FROM
										" WHERE a.id = $1",
								 .nargs = 1,
								 .types = {INT8OID}};
	List *rows = read_rows(&read, Int64GetDatum(id));

	return rows ? linitial(rows) : NULL;
}

/* All aggregates of this owner, in the order of their ids. */
List *
mill_aggregates_of_owner(Oid owner)
{
	static MillStatement read = {.sql = "SELECT " AGGREGATE_COLUMNS AGGREGATE_FROM
										" WHERE c.relowner = $1 ORDER BY a.id",
								 .nargs = 1,
								 .types = {OIDOID}};

	return read_rows(&read, ObjectIdGetDatum(owner));
}

/* The aggregates whose view or definition is among these relations, which may be dropped. */
List *
mill_aggregates_among(List *relations)
{
	static MillStatement read =
		{.sql = "SELECT " AGGREGATE_COLUMNS AGGREGATE_FROM
				" WHERE a.view = ANY ($1) OR a.definition = ANY ($1) ORDER BY a.id",
		 .nargs = 1,
		 .types = {OIDARRAYOID}};

	return read_rows(&read, mill_oid_array(relations));
}

/*
 * The aggregates that use one of these relations as view, definition or base table, or
 * are over one that does.
 */
List *
mill_aggregates_using(List *relations)
{
	static MillStatement read =
		{.sql =
			 "SELECT " AGGREGATE_COLUMNS AGGREGATE_FROM
			 " WHERE a.id IN (WITH RECURSIVE uses (id, view, base_table) AS ("
			 "  SELECT u.id, u.view, u.base_table FROM mill_catalog.armed_aggregate u"
			 "   WHERE u.view = ANY ($1) OR u.definition = ANY ($1) OR u.base_table = ANY ($1)"
			 /* tables that are looked up */
			 "   OR EXISTS (SELECT FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid AND d.classid = 'pg_rewrite'::regclass"
			 "    WHERE r.ev_class = u.definition AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY ($1))"
			 /* a table with aggregates of its own may have become a partition of one of them */
			 "   OR EXISTS (SELECT FROM pg_partition_ancestors(u.base_table) x WHERE x.relid = ANY ($1))"
			 "  UNION SELECT o.id, o.view, o.base_table FROM uses i JOIN mill_catalog.armed_aggregate o ON o.base_table = i.base_table"
			 "   AND EXISTS (SELECT FROM pg_rewrite r JOIN pg_depend d ON d.objid = r.oid AND d.classid = 'pg_rewrite'::regclass"
			 "    WHERE r.ev_class = o.definition AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.view))"
			 " SELECT id FROM uses) ORDER BY a.id",
		 .nargs = 1,
		 .types = {OIDARRAYOID}};

	return read_rows(&read, mill_oid_array(relations));
}

/* The aggregates that capture one of these relations as a partition; it may be dropped. */
List *
mill_aggregates_of_partitions(List *relations)
{
	static MillStatement read =
		{.sql = "SELECT " AGGREGATE_COLUMNS AGGREGATE_FROM
				" WHERE a.relations && $1 AND a.base_table = ANY (a.relations) ORDER BY a.id",
		 .nargs = 1,
		 .types = {OIDARRAYOID}};

	return read_rows(&read, mill_oid_array(relations));
}

/*
 * The base table that this relation is or is a partition of, including a
 * partition whose DETACH CONCURRENTLY is not finished.
 */
Oid
mill_base_of(Oid relid)
{
	while (get_rel_relispartition(relid))
		relid = get_partition_parent(relid, true);
	return relid;
}

/*
 * Reads with the latest snapshot, not with the transaction's: a writer with an
 * old snapshot must capture changes for aggregates that were made since.
 */
List *
mill_aggregates_of_base(Oid base)
{
	static MillStatement read = {.sql = "SELECT " AGGREGATE_COLUMNS AGGREGATE_FROM
										" WHERE a.base_table = $1 ORDER BY a.id",
								 .nargs = 1,
								 .types = {OIDOID}};

	return read_rows(&read, ObjectIdGetDatum(base));
}

/* An aggregate over this one is kept from the rows below, by what this one's query is now. */
void
mill_aggregate_require_no_outer(const MillAggregate *a)
{
	static MillStatement find =
		{.sql = "SELECT o.view::regclass::text FROM mill_catalog.armed_aggregate o JOIN pg_rewrite r ON r.ev_class = o.definition"
				" JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass"
				" WHERE d.refobjid = $1 AND o.base_table = $2 ORDER BY o.id LIMIT 1",
		 .nargs = 2,
		 .types = {OIDOID, OIDOID}};
	Datum values[2] = {ObjectIdGetDatum(a->view), ObjectIdGetDatum(a->base)};

	if (mill_run(&find, SPI_OK_SELECT, values, NULL) == 0)
		return;
	ereport(ERROR, (errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					errmsg("continuous aggregate \"%s\" is over \"%s\"", mill_text(0, 1),
						   get_rel_name(a->view)),
					errhint("First call mill.dematerialize('%s').", mill_text(0, 1))));
}

/* Store the base table and the partitions whose rows are counted; they changed in this transaction. */
void
mill_aggregate_set_relations(MillAggregate *a, List *relations)
{
	static MillStatement note =
		{.sql = "UPDATE mill_catalog.aggregate SET relations = $2, exact_since = pg_current_xact_id() WHERE id = $1",
		 .nargs = 2,
		 .types = {INT8OID, OIDARRAYOID}};
	Datum values[2] = {Int64GetDatum(a->id), mill_oid_array(relations)};

	mill_run(&note, SPI_OK_UPDATE, values, NULL);
	a->relations = relations;
}

void
mill_aggregate_require_owner(const MillAggregate *a)
{
	if (!mill_relation_ownercheck(a->view, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, get_rel_name(a->view));
}

/* The lock that serializes fold, fill and DDL of one aggregate. */
static LOCKTAG
lock_of(int64 id)
{
	LOCKTAG tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId,
					   get_relname_relid("aggregate", get_namespace_oid("mill_catalog", false)),
					   (Oid) id, 0);
	return tag;
}

/* Held until the end of the transaction.  Without wait, false if it is not free. */
bool
mill_aggregate_lock(int64 id, bool wait)
{
	LOCKTAG tag = lock_of(id);

	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/* For assertions: does this transaction hold the aggregate's lock? */
bool
mill_aggregate_is_locked(int64 id)
{
	LOCKTAG tag = lock_of(id);

	return mill_holds_lock(&tag, ExclusiveLock);
}

/* Does an index of the relation begin with one of these columns, and hold all rows? */
bool
mill_has_index_on(Oid relid, List *columns)
{
	Relation rel = table_open(relid, AccessShareLock);
	ListCell *lc;
	bool found = false;

	foreach (lc, RelationGetIndexList(rel))
	{
		HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;

		if (!HeapTupleIsValid(tuple))
			continue;
		index = (Form_pg_index) GETSTRUCT(tuple);
		found |= index->indisvalid && list_member_int(columns, index->indkey.values[0]) &&
				 heap_attisnull(tuple, Anum_pg_index_indpred, NULL);
		ReleaseSysCache(tuple);
	}
	table_close(rel, NoLock);
	return found;
}

bool
mill_has_unique_index(Oid relid)
{
	Relation rel = table_open(relid, AccessShareLock);
	ListCell *lc;
	bool found = false;

	foreach (lc, RelationGetIndexList(rel))
	{
		HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));

		found |= HeapTupleIsValid(tuple) && ((Form_pg_index) GETSTRUCT(tuple))->indisunique;
		if (HeapTupleIsValid(tuple))
			ReleaseSysCache(tuple);
	}
	table_close(rel, NoLock);
	return found;
}

/* A relation's name for SQL, qualified and quoted. */
char *
mill_relation_name(Oid relid)
{
	char *name = get_rel_name(relid);

	if (name == NULL)
		mill_no_such_relation(relid);
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}

MillTables *
mill_aggregate_tables(const MillAggregate *a)
{
	MillTables *t = palloc(sizeof(MillTables));

	t->base = mill_relation_name(a->base);
	t->definition = mill_relation_name(a->definition);
	t->state = mill_relation_name(a->state);
	t->delta = mill_relation_name(a->delta);
	t->history = OidIsValid(a->history) ? mill_relation_name(a->history) : NULL;
	return t;
}

static void
execute_utility(void *arg)
{
	mill_execute(arg, SPI_OK_UTILITY);
}

/* Run DDL on an aggregate's objects as the extension's owner; our event triggers ignore it. */
void
mill_execute_ddl(char *sql)
{
	bool before = mill_in_own_ddl;

	mill_in_own_ddl = true;
	PG_TRY();
	{
		mill_as_extension(execute_utility, sql);
	}
	PG_FINALLY();
	{
		mill_in_own_ddl = before;
	}
	PG_END_TRY();
}

/* Run a statement once, with a snapshot of its own; SPI must be connected. */
uint64
mill_execute(const char *sql, int expected)
{
	int code = SPI_execute(sql, false, 0);

	if (code != expected)
		elog(ERROR, "unexpected result of \"%s\": %s", sql, SPI_result_code_string(code));
	return SPI_processed;
}
