/*
 * materialize.c
 *		SQL functions that make a view a continuous aggregate, and plain again.
 *
 * They run in the caller's session and transaction.  The base table is locked
 * against writers while triggers are created, and while it is aggregated if it
 * is small.  A large table is filled by a worker later; until the aggregate is
 * live the view is the plain query, so its result is right at any time.
 *
 * Order of locks, everywhere: base table and partitions, view, the
 * aggregate's lock, its tables.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "access/table.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/object.h"
#include "core/compat.h"
#include "core/slot.h"
#include "core/xact.h"

#include "aggregate/internal.h"

/* The row of an aggregate that came with a copy of the database; the state table's name follows. */
#define OF_COPY                                                                                    \
	"(SELECT o.id FROM mill_catalog.aggregate o"                                                   \
	" WHERE NOT EXISTS (SELECT FROM mill_catalog.armed_aggregate h WHERE h.id = o.id) AND o.state_name = "

/* A base table of at most this many pages is aggregated at once. */
#define SMALL_TABLE 1024

PG_FUNCTION_INFO_V1(mill_materialize);
PG_FUNCTION_INFO_V1(mill_aggregate_deleted);
PG_FUNCTION_INFO_V1(mill_dematerialize);
PG_FUNCTION_INFO_V1(mill_replace_aggregate);
PG_FUNCTION_INFO_V1(mill_fold_now);
PG_FUNCTION_INFO_V1(mill_refresh);

/* These functions must see all rows that are committed when they have their locks. */
static void
require_read_committed(const char *function)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run in a transaction of isolation level REPEATABLE READ or SERIALIZABLE",
						function),
				 errhint("Call it in a transaction of its own.")));
}

static bool
is_small(Oid base)
{
	BlockNumber pages = 0;
	ListCell *lc;

	foreach (lc, find_all_inheritors(base, AccessShareLock, NULL))
	{
		Relation rel = table_open(lfirst_oid(lc), NoLock);

		if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
			pages += RelationGetNumberOfBlocks(rel);
		table_close(rel, NoLock);
	}
	return pages <= SMALL_TABLE;
}

/* Insert the row of an aggregate, or take over one that came with a copy of the database. */
static void
insert_row(MillAggregate *a, Datum fold_interval)
{
	static MillStatement insert =
		{.sql =
			 "WITH of_copy AS (UPDATE mill_catalog.aggregate c SET view = $1, base_table = $2, definition = $3, state_table = $4,"
			 "   delta_table = $5, with_indexes = $6, fold_interval = $7, backfill = $8, history_table = nullif($9, 0), live = false, resting = NULL, exact_since = NULL,"
			 "   armed_system = mill_catalog.system_identifier(), armed_database = mill_catalog.database_oid()"
			 "  WHERE c.id = " OF_COPY
			 "(SELECT relname FROM pg_class WHERE oid = $4) ORDER BY o.id DESC LIMIT 1) RETURNING id),"
			 " inserted AS (INSERT INTO mill_catalog.aggregate (view, base_table, definition, state_table, delta_table, state_name,"
			 "   with_indexes, fold_interval, backfill, history_table, live)"
			 "  SELECT $1, $2, $3, $4, $5, c.relname, $6, $7, $8, nullif($9, 0), false FROM pg_class c"
			 "  WHERE c.oid = $4 AND NOT EXISTS (SELECT FROM of_copy) RETURNING id)"
			 " INSERT INTO mill_catalog.aggregate_progress (aggregate_id) SELECT id FROM of_copy UNION ALL SELECT id FROM inserted"
			 " ON CONFLICT (aggregate_id) DO UPDATE SET behind = false RETURNING aggregate_id",
		 .nargs = 9,
		 .types = {OIDOID, OIDOID, OIDOID, OIDOID, OIDOID, BOOLOID, INTERVALOID, BOOLOID, OIDOID}};
	Datum values[9] = {ObjectIdGetDatum(a->view),
					   ObjectIdGetDatum(a->base),
					   ObjectIdGetDatum(a->definition),
					   ObjectIdGetDatum(a->state),
					   ObjectIdGetDatum(a->delta),
					   BoolGetDatum(a->with_indexes),
					   fold_interval,
					   BoolGetDatum(a->backfill),
					   ObjectIdGetDatum(a->history)};

	mill_run(&insert, SPI_OK_INSERT_RETURNING, values, NULL);
	a->id = DatumGetInt64(mill_value(0, 1, NULL));
}

static void
check_fold_interval(const Interval *interval)
{
	int64 span = mill_interval_length(interval);

	if (span < 0 || span > USECS_PER_HOUR)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"fold_interval\" is outside of its range 0 .. 1 hour"),
						errhint("For example: fold_interval => '1 second'.")));
}

/* The user must own the view and have TRIGGER on the base table. */
static void
check_rights(Oid view, Oid base)
{
	AclResult result;

	if (!mill_relation_ownercheck(view, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_VIEW, get_rel_name(view));
	if (!OidIsValid(base))
		return;
	result = pg_class_aclcheck(base, GetUserId(), ACL_TRIGGER);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(base));
}

/*
 * Fill a new aggregate, or leave it to a worker if the base table is large.  The
 * caller holds a lock that keeps writers off the table.
 */
static void
start_fill(MillAggregate *a, const MillDefinition *d)
{
	/* nobody sees the row before we commit, but mill_fill requires the lock */
	(void) mill_aggregate_lock(a->id, true);
	mill_aggregate_begin_fill(a);
	if (is_small(a->base))
	{
		mill_fill(a, d, NULL, NULL);
		mill_aggregate_set_progress(a, true, NULL);
	}
	else if (!a->backfill)
		ereport(NOTICE,
				(errmsg("\"%s\" stays a plain view until it is filled", get_rel_name(a->view)),
				 errhint("Call mill.refresh('%s').", get_rel_name(a->view))));
	mill_wake_workers_at_commit(mill_room_named("fold"));
}

/* The relations in FROM besides the base table. */
static List *
lookups_of(const MillDefinition *d)
{
	List *relids = NIL;
	int rti = 0;
	ListCell *lc;

	foreach (lc, d->base_level->rtable)
	{
		const RangeTblEntry *rte = lfirst(lc);

		if (++rti != d->base_rti && rte->rtekind == RTE_RELATION && rte->inFromCl)
			relids = lappend_oid(relids, rte->relid);
	}
	return relids;
}

/* A joined view or table must not have rows of the base table in it, which would arrive on both sides. */
static void
refuse_base_in_lookups(const MillDefinition *d)
{
	static MillStatement find =
		{.sql =
			 "WITH RECURSIVE family (relid) AS (SELECT $2 UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON f.relid = i.inhparent),"
			 " used (lookup, relid) AS (SELECT l, l FROM unnest($1) l"
			 "  UNION SELECT u.lookup, d.refobjid FROM used u JOIN pg_rewrite r ON r.ev_class = u.relid JOIN pg_depend d ON d.objid = r.oid"
			 "   AND d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class)"
			 " SELECT u.lookup::regclass::text FROM used u JOIN family f USING (relid) LIMIT 1",
		 .nargs = 2,
		 .types = {OIDARRAYOID, OIDOID}};
	Datum values[2] = {mill_oid_array(lookups_of(d)), ObjectIdGetDatum(d->base)};

	if (mill_run(&find, SPI_OK_SELECT, values, NULL) > 0)
		mill_refuse(psprintf("a join with \"%s\", which has rows of the base table in it",
							 mill_text(0, 1)),
					"Only rows of one side arrive at a time.");
}

/* What the inner aggregate keeps of rows that are gone cannot be computed from rows. */
static void
refuse_history_below(const MillAggregate *a)
{
	static MillStatement find =
		{.sql =
			 "SELECT i.view::regclass::text FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid"
			 " JOIN mill_catalog.armed_aggregate i ON i.view = d.refobjid AND d.refclassid = 'pg_class'::regclass"
			 " WHERE r.ev_class = $1 AND i.base_table = $2 AND i.history_table IS NOT NULL LIMIT 1",
		 .nargs = 2,
		 .types = {OIDOID, OIDOID}};
	Datum values[2] = {ObjectIdGetDatum(a->view), ObjectIdGetDatum(a->base)};

	if (mill_run(&find, SPI_OK_SELECT, values, NULL) > 0)
		mill_refuse(psprintf("a view over \"%s\", which keeps a history", mill_text(0, 1)),
					"Let the outermost view retain what is to be kept.");
}

/* ---- views that came with a copy of the database ---- */

/* Find the relations that a view reads as an aggregate's; false if it reads none, and is an ordinary view. */
static bool
find_relations(MillAggregate *a)
{
	static MillStatement find =
		{.sql =
			 "SELECT v.definition, v.state_table, v.delta_table, (SELECT a.view::regclass::text FROM mill_catalog.armed_aggregate a"
			 "  WHERE a.state_table = v.state_table), coalesce(v.history_table, 0) FROM mill_catalog.aggregate_view v WHERE v.view = $1",
		 .nargs = 1,
		 .types = {OIDOID}};
	Datum values[1] = {ObjectIdGetDatum(a->view)};
	bool no_definition, no_state, no_delta;

	if (mill_run(&find, SPI_OK_SELECT, values, NULL) == 0)
		return false;
	a->definition = DatumGetObjectId(mill_value(0, 1, &no_definition));
	a->state = DatumGetObjectId(mill_value(0, 2, &no_state));
	a->delta = DatumGetObjectId(mill_value(0, 3, &no_delta));
	a->history = DatumGetObjectId(mill_value(0, 5, NULL));
	a->owner = mill_relation_owner(a->view);
	if (mill_text(0, 4))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("\"%s\" reads the tables of continuous aggregate \"%s\"",
							   get_rel_name(a->view), mill_text(0, 4)),
						errhint("Create it from mill.definition('%s'), and materialize that.",
								mill_text(0, 4))));
	if (no_definition || no_state || no_delta || mill_relation_owner(a->definition) != a->owner ||
		mill_relation_owner(a->state) != a->owner || mill_relation_owner(a->delta) != a->owner ||
		(OidIsValid(a->history) && mill_relation_owner(a->history) != a->owner))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" reads the tables of a continuous aggregate that is not its own",
						get_rel_name(a->view)),
				 errhint("Create the view anew from its query, and materialize that.")));
	return true;
}

/*
 * Make a view, of which find_relations found the relations, an aggregate of this
 * database.  Without refill the state table is trusted as it is.
 */
static void
adopt(MillAggregate *a, Datum fold_interval, bool refill)
{
	MillDefinition *d = mill_definition_of(a->definition);

	a->base = d->base;
	check_rights(a->view, a->base);
	mill_lock_base_and_view(a->base, ShareRowExclusiveLock, InvalidOid);
	mill_objects_complete(a, d);
	insert_row(a, fold_interval);
	mill_history_adopt(a);
	if (refill)
		start_fill(a, d);
	else
	{
		(void) mill_aggregate_lock(a->id, true);
		mill_aggregate_begin_fill(a);
		mill_aggregate_set_progress(a, true, NULL);
	}
}

typedef struct Arming
{
	Oid view;
	bool refill;
} Arming;

static void
arm(void *arg)
{
	static MillStatement options =
		{.sql = "SELECT o.with_indexes, o.backfill, o.fold_interval FROM mill_catalog.aggregate o WHERE o.id = " OF_COPY
				"(SELECT relname FROM pg_class WHERE oid = $1) ORDER BY o.id DESC LIMIT 1)",
		 .nargs = 1,
		 .types = {OIDOID}};
	Arming *arming = arg;
	MillAggregate a = {.view = arming->view, .with_indexes = true, .backfill = true};
	Datum fold_interval = DirectFunctionCall3(interval_in, CStringGetDatum("1 second"),
											  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	Datum values[1];

	if (!find_relations(&a))
		return;
	values[0] = ObjectIdGetDatum(a.state);
	if (mill_run(&options, SPI_OK_SELECT, values, NULL) > 0)
	{
		a.with_indexes = DatumGetBool(mill_value(0, 1, NULL));
		a.backfill = DatumGetBool(mill_value(0, 2, NULL));
		fold_interval = datumCopy(mill_value(0, 3, NULL), false, sizeof(Interval));
	}
	adopt(&a, fold_interval, arming->refill);
}

/* For mill.arm: adopt all views of aggregates that came with a copy; a warning for each that cannot be. */
void
mill_aggregates_arm(bool refill)
{
	static MillStatement find = {
		.sql =
			"SELECT v.view FROM mill_catalog.aggregate_view v"
			" WHERE NOT EXISTS (SELECT FROM mill_catalog.armed_aggregate a WHERE a.view = v.view) ORDER BY 1"};
	uint64 rows = mill_run(&find, SPI_OK_SELECT, NULL, NULL);
	Arming *arming = palloc(sizeof(Arming) * (rows + 1));

	if (rows > 0)
		require_read_committed("mill.arm");
	for (uint64 row = 0; row < rows; row++)
		arming[row] = (Arming){DatumGetObjectId(mill_value(row, 1, NULL)), refill};
	for (uint64 row = 0; row < rows; row++)
	{
		ErrorData *error = mill_try(arm, &arming[row], CurrentMemoryContext, true);

		if (error)
			ereport(WARNING, (errcode(error->sqlerrcode),
							  errmsg("\"%s\" stays a plain view: %s",
									 get_rel_name(arming[row].view), error->message),
							  errhint("Then call mill.materialize('%s').",
									  mill_relation_name(arming[row].view))));
	}
}

/* Tell of the index without which recomputing groups takes the whole table. */
static void
advise_index(const MillAggregate *a, const MillDefinition *d)
{
	const char *columns = mill_wanted_index(d);

	if (columns == NULL)
		return;
	ereport(NOTICE,
			(errmsg("%s of \"%s\" will make \"%s\" read the whole table",
					d->class == MILL_RECOMPUTE ? "changes" : "updates and deletes",
					get_rel_name(a->base), get_rel_name(a->view)),
			 errhint("With an index it reads the changed groups alone; create it, then make the view live: CREATE INDEX ON %s (%s);",
					 mill_relation_name(a->base), columns)));
}

/*
 * SQL: mill.materialize(view, backfill, with_indexes, fold_interval)
 */
Datum
mill_materialize(PG_FUNCTION_ARGS)
{
	MillAggregate a = {0};
	MillDefinition *d;

	mill_require_argument(fcinfo, 0, "view");
	mill_require_argument(fcinfo, 1, "backfill");
	mill_require_argument(fcinfo, 2, "with_indexes");
	mill_require_argument(fcinfo, 3, "fold_interval");
	check_fold_interval(PG_GETARG_INTERVAL_P(3));
	mill_require_preload();
	require_read_committed("mill.materialize");
	a.view = PG_GETARG_OID(0);
	a.backfill = PG_GETARG_BOOL(1);
	a.with_indexes = PG_GETARG_BOOL(2);

	mill_check_view(a.view);
	check_rights(a.view, InvalidOid);
	SPI_connect();
	if (mill_aggregate_of_view(a.view, true))
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						errmsg("\"%s\" is a continuous aggregate already", get_rel_name(a.view)),
						errhint("To change what it computes, use mill.replace_aggregate.")));
	if (find_relations(&a))
	{
		adopt(&a, PG_GETARG_DATUM(3), true);
		SPI_finish();
		PG_RETURN_VOID();
	}
	a.base = mill_definition_of(a.view)->base;
	check_rights(a.view, a.base);
	mill_lock_base_and_view(a.base, ShareRowExclusiveLock, a.view);
	/* read it again: with these locks it cannot change any more */
	d = mill_definition_of(a.view);
	a.owner = mill_relation_owner(a.view);
	refuse_base_in_lookups(d);
	refuse_history_below(&a);
	if (d->has_lookups)
		ereport(NOTICE,
				(errmsg("the base table of \"%s\" is \"%s\"; other tables are looked up when its rows arrive",
						get_rel_name(a.view), get_rel_name(a.base)),
				 errhint("When they change, mill.refresh computes the aggregate anew.")));

	advise_index(&a, d);

	d = mill_objects_create(&a);
	mill_view_let_read(a.view, &a, d);
	insert_row(&a, PG_GETARG_DATUM(3));
	start_fill(&a, d);
	SPI_finish();
	PG_RETURN_VOID();
}

/* SQL: mill_catalog.aggregate_deleted(), AFTER DELETE on mill_catalog.aggregate. */
Datum
mill_aggregate_deleted(PG_FUNCTION_ARGS)
{
	static MillStatement deletes[] =
		{{.sql = "DELETE FROM mill_catalog.aggregate_progress WHERE aggregate_id = $1",
		  .nargs = 1,
		  .types = {INT8OID}},
		 {.sql = "DELETE FROM mill_catalog.error WHERE object_kind = 'aggregate' AND object_id = $1",
		  .nargs = 1,
		  .types = {INT8OID}}};

	return mill_delete_dependents(fcinfo, deletes, lengthof(deletes));
}

static void
delete_row(int64 id)
{
	static MillStatement delete = {.sql = "DELETE FROM mill_catalog.aggregate WHERE id = $1",
								   .nargs = 1,
								   .types = {INT8OID}};
	Datum value = Int64GetDatum(id);

	mill_run(&delete, SPI_OK_DELETE, &value, NULL);
}

/* Delete the row of an aggregate, and the base table's triggers if it was the last. */
void
mill_aggregate_delete(const MillAggregate *a)
{
	delete_row(a->id);
	if (get_rel_name(a->base))
	{
		if (mill_aggregates_of_base(a->base) == NIL)
			mill_triggers_drop(a->base);
		mill_invalidate_base(a->base);
	}
}

/* Give the view its plain query again. */
static void
make_plain(const MillAggregate *a)
{
	mill_view_replace(a->view, mill_query_of_view(a->definition));
}

/* SQL: mill.dematerialize(view) */
Datum
mill_dematerialize(PG_FUNCTION_ARGS)
{
	MillAggregate *a;

	SPI_connect();
	a = mill_aggregate_lock_keeping(PG_GETARG_OID(0), MILL_READERS_OFF);
	mill_aggregate_require_no_outer(a);
	mill_require_no_history(a);
	make_plain(a);
	mill_aggregate_delete(a);
	mill_objects_drop(a);
	SPI_finish();
	PG_RETURN_VOID();
}

/* SQL: mill.fold(view) returns the number of deltas that were merged */
Datum
mill_fold_now(PG_FUNCTION_ARGS)
{
	MillAggregate *a;
	MillDefinition *d;
	ErrorData *failed;
	int64 folded = 0;
	bool more;

	require_read_committed("mill.fold");
	SPI_connect();
	a = mill_aggregate_lock_keeping(PG_GETARG_OID(0), MILL_NOBODY_OFF);
	/* while it rests there is nothing to fold, and its definition may be refused */
	more = !a->resting;
	d = more ? mill_definition_of(a->definition) : NULL;
	if (more)
		mill_history_expire(a, d);
	while (more)
		folded += mill_fold(a, d, &more, CurrentMemoryContext, &failed);
	SPI_finish();
	PG_RETURN_INT64(folded);
}

/* A bound of mill.refresh as text, whatever its type. */
static char *
bound_argument(FunctionCallInfo fcinfo, int number)
{
	Oid output;
	bool varlena;

	if (PG_NARGS() <= number || PG_ARGISNULL(number))
		return NULL;
	getTypeOutputInfo(get_fn_expr_argtype(fcinfo->flinfo, number), &output, &varlena);
	return OidOutputFunctionCall(output, PG_GETARG_DATUM(number));
}

static void
require_no_obstacle(const MillAggregate *a)
{
	char *obstacle = mill_aggregate_obstacle(a);

	if (obstacle)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("\"%s\" cannot be refreshed: %s", get_rel_name(a->view), obstacle)));
}

/* SQL: mill.refresh(view [, from, until]) returns the number of groups */
Datum
mill_refresh(PG_FUNCTION_ARGS)
{
	char *from = bound_argument(fcinfo, 1);
	char *until = bound_argument(fcinfo, 2);
	MillAggregate *a;
	MillDefinition *d;
	int64 groups;
	bool resting;

	mill_require_argument(fcinfo, 0, "view");
	require_read_committed("mill.refresh");
	SPI_connect();
	resting = mill_aggregate_of_view(PG_GETARG_OID(0), false)->resting;
	a = mill_aggregate_lock_keeping(PG_GETARG_OID(0), resting ? MILL_WRITERS_OFF : MILL_NOBODY_OFF);
	if (a->resting && (from || until))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" rests, and can be refreshed as a whole only", get_rel_name(a->view)),
				 errhint("Refresh all of it: mill.refresh('%s').", get_rel_name(a->view))));
	if (a->resting && !resting)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
						errmsg("\"%s\" was laid to rest just now", get_rel_name(a->view)),
						errhint("Try again.")));
	if (a->resting)
		mill_aggregate_begin_fill(a);
	else
		require_no_obstacle(a);
	d = mill_definition_of(a->definition);
	if ((from || until) && d->window != MILL_WINDOW_TUMBLE && d->window != MILL_WINDOW_HOP)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" cannot be refreshed in part", get_rel_name(a->view)),
				 errdetail("Only aggregates over tumbling or hopping windows have parts by time."),
				 errhint("Refresh all of it: mill.refresh('%s').", get_rel_name(a->view))));
	groups = mill_fill(a, d, from, until);
	if (!a->live && from == NULL && until == NULL)
		/* all panes are filled and all deltas gone: the state table is complete */
		mill_aggregate_set_progress(a, true, NULL);
	SPI_finish();
	PG_RETURN_INT64(groups);
}

static void
swap_rows(const MillAggregate *old, const MillAggregate *new)
{
	static MillStatement update =
		{.sql = "UPDATE mill_catalog.aggregate SET view = $2, state_name = $3 WHERE id = $1",
		 .nargs = 3,
		 .types = {INT8OID, OIDOID, NAMEOID}};
	NameData name;
	Datum values[3] = {Int64GetDatum(new->id), ObjectIdGetDatum(old->view)};

	namestrcpy(&name, get_rel_name(new->state));
	values[2] = NameGetDatum(&name);
	delete_row(old->id);
	mill_run(&update, SPI_OK_UPDATE, values, NULL);
}

static int
columns_of_view(Oid view)
{
	Relation rel = table_open(view, NoLock);
	int columns = RelationGetNumberOfAttributes(rel);

	table_close(rel, NoLock);
	return columns;
}

/* SQL: mill.replace_aggregate(view, new_view) */
Datum
mill_replace_aggregate(PG_FUNCTION_ARGS)
{
	MillAggregate *old, *new;
	MillDefinition *d;
	const char *view;

	SPI_connect();
	old = mill_aggregate_lock_keeping(PG_GETARG_OID(0), MILL_READERS_OFF);
	new = mill_aggregate_lock_keeping(PG_GETARG_OID(1), MILL_READERS_OFF);
	if (old->id == new->id)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("cannot replace \"%s\" with itself", get_rel_name(old->view))));
	if (!new->live)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" is not live", get_rel_name(new->view)),
				 errhint("Wait until mill.aggregates shows it live; it says there why it is not.")));
	if (old->owner != new->owner)
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("\"%s\" and \"%s\" have different owners", get_rel_name(old->view),
							   get_rel_name(new->view))));
	if (columns_of_view(old->view) != columns_of_view(new->view))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("\"%s\" and \"%s\" have different numbers of columns",
						get_rel_name(old->view), get_rel_name(new->view)),
				 errhint(
					 "A new column needs a new view: materialize it, drop the old one, and rename it.")));
	mill_aggregate_require_no_outer(old);
	mill_aggregate_require_no_outer(new);
	mill_require_no_history(old);
	mill_require_no_history(new);
	d = mill_definition_of(new->definition);
	view = mill_relation_name(new->view);
	mill_view_let_read(old->view, new, d);
	mill_execute_ddl(psprintf("DROP VIEW %s", view));
	mill_objects_drop(old);
	mill_objects_rename(new, old->view);
	swap_rows(old, new);
	if (old->base != new->base && mill_aggregates_of_base(old->base) == NIL)
		mill_triggers_drop(old->base);
	mill_invalidate_base(old->base);
	mill_invalidate_base(new->base);
	SPI_finish();
	PG_RETURN_VOID();
}
