/*
 * capture.c
 *		Capture: triggers on base tables that append deltas.
 *
 * Each statement that changes a base table appends to the delta table of each
 * aggregate the partial results of the rows that it changed.  This runs in the
 * writer's session and (sub)transaction, at the end of the statement, as the
 * owner of each aggregate.  So a base row and its delta have the same
 * visibility: a snapshot sees both or neither at any isolation level, and
 * rolling back to a savepoint undoes both.
 *
 * One trigger serves all aggregates of a table.  Each session caches the
 * planned statements of the tables that it writes to, until a relation or
 * other object that they name changes.  Most of them run directly (direct.c), the
 * others by SPI.  Nothing else is in memory.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/settings.h"

#include "aggregate/direct.h"
#include "aggregate/internal.h"

PG_FUNCTION_INFO_V1(mill_maintain_aggregates);

/* A state table of at most this many pages is emptied by TRUNCATE of the base table. */
#define SMALL_STATE 256
/* Rows of a partition that comes or goes, collected for one statement. */
#define ROWS_AT_ONCE 100000

/* Values of mill.capture_path. */
#define CAPTURE_DIRECTLY 1
#define CAPTURE_BY_STATEMENT 2

typedef enum Change
{
	CHANGE_INSERT,
	CHANGE_UPDATE,
	CHANGE_DELETE
} Change;
#define CHANGES 3

/* How one aggregate captures the changes of one relation. */
typedef struct Capture
{
	MillAggregate *aggregate;
	char *statements[CHANGES];
	MillDirect *direct[CHANGES]; /* how a statement is run, if it can be run so ... */
	bool direct_tried[CHANGES];
	SPIPlanPtr plans[CHANGES]; /* ... or else */
	MemoryContext context;
} Capture;

/* A cache entry: a relation with our triggers, that is, a base table or a partition. */
typedef struct CapturedRelation
{
	Oid relid; /* hash key */
	bool valid;
	int depth; /* running triggers that use the plans, which must not be freed */
	MemoryContext context;
	List *captures;
	List *relations; /* that the statements name; their invalidation is ours */
} CapturedRelation;

static HTAB *captured_relations = NULL;

static void
forget_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	CapturedRelation *captured;

	hash_seq_init(&status, captured_relations);
	while ((captured = hash_seq_search(&status)) != NULL)
	{
		if (!OidIsValid(relid) || captured->relid == relid ||
			list_member_oid(captured->relations, relid))
			captured->valid = false;
	}
}

/* Functions, types or schemas changed: the statements hold their names as text. */
static void
forget_all(Datum arg, int cache, uint32 hash)
{
	forget_relation((Datum) 0, InvalidOid);
}

static void
create_capture_cache(void)
{
	HASHCTL control = {.keysize = sizeof(Oid),
					   .entrysize = sizeof(CapturedRelation),
					   .hcxt = TopMemoryContext};

	captured_relations = hash_create("pg_mill captured relations", 32, &control,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(AMOPOPID, forget_all, (Datum) 0);
}

static void
release_captures(CapturedRelation *captured)
{
	ListCell *lc;

	foreach (lc, captured->captures)
	{
		Capture *capture = lfirst(lc);

		for (int i = 0; i < CHANGES; i++)
		{
			if (capture->plans[i])
				SPI_freeplan(capture->plans[i]);
		}
	}
	captured->captures = NIL;
	captured->relations = NIL;
	if (captured->context)
		MemoryContextDelete(captured->context);
	captured->context = NULL;
}

typedef struct NewCapture
{
	MillAggregate *aggregate;
	CapturedRelation *captured;
} NewCapture;

/* Add an aggregate with its statements to a relation's cache entry. */
static void
add_capture(void *arg)
{
	MillAggregate *aggregate = ((NewCapture *) arg)->aggregate;
	CapturedRelation *captured = ((NewCapture *) arg)->captured;
	MillTables *tables = mill_aggregate_tables(aggregate);
	MillDefinition *d = mill_definition(aggregate->definition);
	char *insert = mill_sql_insert(d, tables, MILL_NEW_ROWS);
	char *update = mill_sql_update(d, tables);
	char *delete = mill_sql_delete(d, tables, MILL_OLD_ROWS);
	MemoryContext before = MemoryContextSwitchTo(captured->context);
	Capture *capture = palloc0(sizeof(Capture));
	ListCell *lc;

	capture->aggregate = palloc(sizeof(MillAggregate));
	*capture->aggregate = *aggregate;
	capture->context = captured->context;
	capture->statements[CHANGE_INSERT] = pstrdup(insert);
	capture->statements[CHANGE_UPDATE] = pstrdup(update);
	capture->statements[CHANGE_DELETE] = pstrdup(delete);
	captured->captures = lappend(captured->captures, capture);
	captured->relations = lappend_oid(captured->relations, aggregate->base);
	captured->relations = lappend_oid(captured->relations, aggregate->view);
	captured->relations = lappend_oid(captured->relations, aggregate->definition);
	captured->relations = lappend_oid(captured->relations, aggregate->delta);
	foreach (lc, d->base_level->rtable)
		captured->relations = lappend_oid(captured->relations,
										  ((RangeTblEntry *) lfirst(lc))->relid);
	MemoryContextSwitchTo(before);
}

/*
 * The valid cache entry of a relation.  The lock that the writer holds on the
 * relation conflicts with the one that materialize takes, so the list of
 * aggregates is current.
 */
static CapturedRelation *
captured_relation(Oid relid)
{
	CapturedRelation *captured;
	bool found;
	ListCell *lc;

	if (captured_relations == NULL)
		create_capture_cache();
	captured = hash_search(captured_relations, &relid, HASH_ENTER, &found);
	if (!found)
		memset((char *) captured + sizeof(Oid), 0, sizeof(CapturedRelation) - sizeof(Oid));
	if (captured->valid || captured->depth > 0)
		return captured;

	release_captures(captured);
	captured->context = AllocSetContextCreate(TopMemoryContext, "pg_mill captured relation",
											  ALLOCSET_SMALL_SIZES);
	/* Set before the lookup: an invalidation that arrives meanwhile clears it again. */
	captured->valid = true;
	SPI_connect();
	PG_TRY();
	{
		foreach (lc, mill_aggregates_of_base(mill_base_of(relid)))
		{
			NewCapture capture = {lfirst(lc), captured};
			char *obstacle;

			if (capture.aggregate->resting)
				continue;
			/* rights and row security are changed without a word to us */
			obstacle = mill_aggregate_obstacle(capture.aggregate);
			if (obstacle)
			{
				mill_aggregate_rest(capture.aggregate, obstacle);
				continue;
			}
			mill_as_owner(capture.aggregate->owner, add_capture, &capture);
		}
	}
	PG_CATCH();
	{
		captured->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	SPI_finish();
	return captured;
}

static void
add_context(void *arg)
{
	char *name = get_rel_name(((MillAggregate *) arg)->view);

	errcontext("maintaining continuous aggregate \"%s\"", name ? name : "?");
}

/* One change of a relation that an aggregate is to capture; a side without rows is NULL. */
typedef struct CapturedChange
{
	Capture *capture;
	Change change;
	Relation rel;
	Tuplestorestate *old, *new;
} CapturedChange;

static void
start_direct(void *arg)
{
	CapturedChange *c = arg;
	Capture *capture = c->capture;

	capture->direct[c->change] = mill_direct_start(capture->statements[c->change],
												   capture->aggregate->delta,
												   RelationGetDescr(c->rel), c->old, c->new,
												   capture->context);
	capture->direct_tried[c->change] = true;
}

/* The statement, as SPI tells it: it has the expression that failed. */
static void
add_statement(void *arg)
{
	errcontext("SQL statement \"%s\"", (const char *) arg);
}

static bool
run_directly(CapturedChange *c)
{
	ErrorContextCallback context = {.previous = error_context_stack,
									.callback = add_statement,
									.arg = c->capture->statements[c->change]};
	bool done;

	error_context_stack = &context;
	done = mill_direct_run(c->capture->direct[c->change], c->old, c->new);
	error_context_stack = context.previous;
	return done;
}

/* Append the deltas without a new executor; false if that cannot be done. */
static bool
capture_directly(CapturedChange *c)
{
	MillDirect **direct = &c->capture->direct[c->change];

	if (mill_capture_path == CAPTURE_BY_STATEMENT)
		return false;
	if (*direct && mill_direct_is_broken(*direct))
	{
		mill_direct_end(*direct);
		*direct = NULL;
		c->capture->direct_tried[c->change] = false;
	}
	if (!c->capture->direct_tried[c->change])
		mill_as_owner(c->capture->aggregate->owner, start_direct, c);
	if (*direct && run_directly(c))
		return true;
	if (mill_capture_path == CAPTURE_DIRECTLY)
		elog(ERROR, "cannot be captured directly: %s", c->capture->statements[c->change]);
	return false;
}

/* Run the statement by SPI, to which the transition tables are registered. */
static void
append_deltas(void *arg)
{
	Capture *capture = ((CapturedChange *) arg)->capture;
	Change change = ((CapturedChange *) arg)->change;
	int code;

	if (capture->plans[change] == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(capture->statements[change], 0, NULL);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", capture->statements[change],
				 SPI_result_code_string(SPI_result));
		capture->plans[change] = plan;
	}
	code = SPI_execute_plan(capture->plans[change], NULL, NULL, false, 0);
	if (code != SPI_OK_INSERT)
		elog(ERROR, "unexpected result of \"%s\": %s", capture->statements[change],
			 SPI_result_code_string(code));
}

static void
register_rows(const char *name, Oid relid, Tuplestorestate *rows)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));
	int code;

	relation->md.name = pstrdup(name);
	relation->md.reliddesc = relid;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = (double) tuplestore_tuple_count(rows);
	relation->reldata = rows;
	code = SPI_register_relation(relation);
	if (code != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register \"%s\": %s", name, SPI_result_code_string(code));
}

static void
capture_by_statement(CapturedChange *c)
{
	SPI_connect();
	if (c->old)
		register_rows(MILL_OLD_ROWS, RelationGetRelid(c->rel), c->old);
	if (c->new)
		register_rows(MILL_NEW_ROWS, RelationGetRelid(c->rel), c->new);
	mill_as_owner(c->capture->aggregate->owner, append_deltas, c);
	SPI_finish();
}

/* Append one aggregate's deltas of a change. */
static void
run_capture(CapturedChange *c)
{
	ErrorContextCallback context = {.previous = error_context_stack,
									.callback = add_context,
									.arg = c->capture->aggregate};

	error_context_stack = &context;
	if (!capture_directly(c))
		capture_by_statement(c);
	error_context_stack = context.previous;
}

/* Append the deltas of all aggregates of a relation; a side without rows is NULL. */
static void
capture_change(Relation rel, Change change, Tuplestorestate *old, Tuplestorestate *new)
{
	CapturedRelation *captured = captured_relation(RelationGetRelid(rel));
	ListCell *lc;

	if (captured->captures == NIL)
		return;
	captured->depth++;
	PG_TRY();
	{
		foreach (lc, captured->captures)
		{
			CapturedChange c = {lfirst(lc), change, rel, old, new};

			run_capture(&c);
		}
	}
	PG_FINALLY();
	{
		captured->depth--;
	}
	PG_END_TRY();
	mill_wake_workers_at_commit(mill_room_named("fold"));
}

static void
capture_statement(TriggerData *trigger)
{
	Tuplestorestate *old = trigger->tg_oldtable;
	Tuplestorestate *new = trigger->tg_newtable;
	TriggerEvent event = trigger->tg_event;

	if ((old == NULL || tuplestore_tuple_count(old) == 0) &&
		(new == NULL || tuplestore_tuple_count(new) == 0))
		return;
	capture_change(trigger->tg_relation,
				   TRIGGER_FIRED_BY_INSERT(event)	? CHANGE_INSERT
				   : TRIGGER_FIRED_BY_UPDATE(event) ? CHANGE_UPDATE
													: CHANGE_DELETE,
				   old, new);
}

/* A row changed by logical replication's apply worker or a replica session. */
static void
capture_row(TriggerData *trigger)
{
	TriggerEvent event = trigger->tg_event;
	HeapTuple old = TRIGGER_FIRED_BY_INSERT(event) ? NULL : trigger->tg_trigtuple;
	HeapTuple new = TRIGGER_FIRED_BY_INSERT(event)	 ? trigger->tg_trigtuple
					: TRIGGER_FIRED_BY_UPDATE(event) ? trigger->tg_newtuple
													 : NULL;
	Tuplestorestate *old_rows = NULL;
	Tuplestorestate *new_rows = NULL;

	if (old)
		tuplestore_puttuple(old_rows = tuplestore_begin_heap(true, false, work_mem), old);
	if (new)
		tuplestore_puttuple(new_rows = tuplestore_begin_heap(true, false, work_mem), new);
	capture_change(trigger->tg_relation,
				   old == NULL	 ? CHANGE_INSERT
				   : new == NULL ? CHANGE_DELETE
								 : CHANGE_UPDATE,
				   old_rows, new_rows);
	if (old_rows)
		tuplestore_end(old_rows);
	if (new_rows)
		tuplestore_end(new_rows);
}

/* Run a statement with the latest snapshot, whatever the transaction's isolation level. */
static void
execute_latest(const char *sql, int expected)
{
	SPIPlanPtr plan = SPI_prepare(sql, 0, NULL);

	if (plan == NULL || SPI_execute_snapshot(plan, NULL, NULL, GetLatestSnapshot(), InvalidSnapshot,
											 false, true, 0) != expected)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(SPI_result));
}

/* Rows of a relation as one change; argument of capture_rows. */
typedef struct RowsOfRelation
{
	const MillAggregate *aggregate;
	Oid relid;
	MillCaptureAs as;
} RowsOfRelation;

static void
capture_rows(void *arg)
{
	const RowsOfRelation *rows = arg;
	const MillAggregate *a = rows->aggregate;
	MillDefinition *d = mill_definition(a->definition);
	MillTables *t = mill_aggregate_tables(a);
	const char *statement = rows->as == MILL_ADD ? mill_sql_insert(d, t, MILL_NEW_ROWS)
							: rows->as == MILL_SUBTRACT
								? mill_sql_delete(d, t, MILL_OLD_ROWS)
								: mill_sql_keep(d, t, MILL_OLD_ROWS, rows->relid);

	execute_latest(statement, SPI_OK_INSERT);
}

/* Capture what was collected, as if one statement had inserted or deleted it. */
static void
capture_collected(const MillAggregate *a, Oid relid, Tuplestorestate *store, MillCaptureAs as)
{
	const char *name = as == MILL_ADD ? MILL_NEW_ROWS : MILL_OLD_ROWS;
	RowsOfRelation rows = {a, relid, as};
	ErrorContextCallback context = {.previous = error_context_stack,
									.callback = add_context,
									.arg = unconstify(MillAggregate *, a)};

	error_context_stack = &context;
	register_rows(name, relid, store);
	mill_as_owner(a->owner, capture_rows, &rows);
	SPI_unregister_relation(name);
	error_context_stack = context.previous;
	tuplestore_clear(store);
}

/*
 * Add or subtract all rows of a relation, or keep them as history: a partition that was
 * attached, was detached, or is about to be truncated or dropped.  They are read as the
 * table's content, as triggers get it: the aggregate's owner needs no rights on the
 * partition's name.
 * Reads with the latest snapshot; the lock that the caller holds guarantees that
 * all other writers have finished.  SPI must be connected.
 */
void
mill_capture_relation(const MillAggregate *a, Oid relid, MillCaptureAs as)
{
	Relation rel = table_open(relid, NoLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	Tuplestorestate *store = tuplestore_begin_heap(true, false, work_mem);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		tuplestore_puttupleslot(store, slot);
		if (tuplestore_tuple_count(store) >= ROWS_AT_ONCE)
			capture_collected(a, relid, store, as);
	}
	if (tuplestore_tuple_count(store) > 0)
		capture_collected(a, relid, store, as);
	tuplestore_end(store);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	mill_wake_workers_at_commit(mill_room_named("fold"));
}

static void
empty_aggregate(void *arg)
{
	const MillAggregate *a = arg;

	execute_latest(psprintf("DELETE FROM %s", mill_relation_name(a->delta)), SPI_OK_DELETE);
	execute_latest(psprintf("DELETE FROM %s", mill_relation_name(a->state)), SPI_OK_DELETE);
}

/*
 * The whole base table is empty, for all snapshots.  TRUNCATE of state and delta
 * table would lock them against readers, who may have them locked and wait for
 * the base table: a deadlock.  Deleting many rows takes long, so let the worker do it.
 */
static void
capture_empty_base(MillAggregate *a)
{
	Relation rel = table_open(a->state, AccessShareLock);
	bool small = RelationGetNumberOfBlocks(rel) <= SMALL_STATE;

	table_close(rel, NoLock);
	if (small)
	{
		mill_aggregate_note_truncate(a->id);
		mill_as_owner(a->owner, empty_aggregate, a);
	}
	else
		mill_aggregate_rest(a, "the table was truncated");
}

static void
capture_truncate(Relation rel)
{
	Oid base = mill_base_of(RelationGetRelid(rel));
	ListCell *lc;

	/* its leaf partitions have triggers of their own, which capture all rows */
	if (rel->rd_rel->relispartition && rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return;
	SPI_connect();
	foreach (lc, mill_aggregates_of_base(base))
	{
		MillAggregate *a = lfirst(lc);

		if (a->resting)
			continue;
		/* who has the base table locked may wait for this partition, which TRUNCATE has locked first */
		if (rel->rd_rel->relispartition && !ConditionalLockRelationOid(base, AccessShareLock))
			mill_aggregate_rest(a, "a partition was truncated while the table was locked");
		else if (rel->rd_rel->relispartition)
		{
			mill_aggregate_note_truncate(a->id);
			mill_capture_relation(a, RelationGetRelid(rel), MILL_SUBTRACT);
		}
		else
			capture_empty_base(a);
	}
	SPI_finish();
}

/* SQL: mill.maintain_aggregates(), the function of all capture triggers. */
Datum
mill_maintain_aggregates(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	bool replica = SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
	bool for_row;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function mill.maintain_aggregates was not called by a trigger")));
	/* one of both, whatever a superuser did to the triggers: a change is captured once */
	for_row = TRIGGER_FIRED_FOR_ROW(trigger->tg_event);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		capture_truncate(trigger->tg_relation);
	else if (for_row && replica)
		capture_row(trigger);
	else if (!for_row && !replica)
		capture_statement(trigger);
	/* an AFTER trigger returns a null pointer, not an SQL NULL */
	PG_RETURN_POINTER(NULL);
}
