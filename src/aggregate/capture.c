/*
 * capture.c
 *		The triggers of base tables: append partial results of each statement.
 *
 * They run in the writer's session and (sub)transaction, at the end of his
 * statement, as the owner of each aggregate.  A base row and its delta thus
 * share visibility: any snapshot has both or neither, whatever the isolation
 * level, and a savepoint that is rolled back takes both.
 *
 * One trigger serves all aggregates of a table.  Each session remembers the
 * statements of the tables that it writes to, planned, until something that
 * they name changes.  Nothing else is kept in memory; nothing is flushed later.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
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

#include "aggregate/internal.h"

PG_FUNCTION_INFO_V1(mill_maintain_aggregates);

typedef enum Change
{
	CHANGE_INSERT,
	CHANGE_UPDATE,
	CHANGE_DELETE
} Change;
#define CHANGES 3

/* How one aggregate follows one relation. */
typedef struct Follower
{
	MillAggregate *aggregate;
	char *statements[CHANGES];
	SPIPlanPtr plans[CHANGES];
} Follower;

/* A relation with triggers: the base table or a partition of it. */
typedef struct Captured
{
	Oid relid; /* hash key */
	bool valid;
	int depth; /* triggers that are using the plans */
	MemoryContext context;
	List *followers;
	List *relations; /* that the statements name */
} Captured;

static HTAB *captured_relations = NULL;

static void
forget_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	Captured *captured;

	hash_seq_init(&status, captured_relations);
	while ((captured = hash_seq_search(&status)) != NULL)
	{
		if (!OidIsValid(relid) || captured->relid == relid ||
			list_member_oid(captured->relations, relid))
			captured->valid = false;
	}
}

/* Functions, types or schemas changed: their names are in the statements. */
static void
forget_all(Datum arg, int cache, uint32 hash)
{
	forget_relation((Datum) 0, InvalidOid);
}

static void
remember_nothing_yet(void)
{
	HASHCTL control = {.keysize = sizeof(Oid),
					   .entrysize = sizeof(Captured),
					   .hcxt = TopMemoryContext};

	captured_relations = hash_create("pg_mill captured relations", 32, &control,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, forget_all, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_all, (Datum) 0);
}

static void
release(Captured *captured)
{
	ListCell *lc;

	foreach (lc, captured->followers)
	{
		Follower *follower = lfirst(lc);

		for (int i = 0; i < CHANGES; i++)
		{
			if (follower->plans[i])
				SPI_freeplan(follower->plans[i]);
		}
	}
	captured->followers = NIL;
	captured->relations = NIL;
	if (captured->context)
		MemoryContextDelete(captured->context);
	captured->context = NULL;
}

typedef struct NewFollower
{
	MillAggregate *aggregate;
	Captured *captured;
} NewFollower;

/* Add an aggregate with its statements to those that follow a relation. */
static void
add_follower(void *arg)
{
	MillAggregate *aggregate = ((NewFollower *) arg)->aggregate;
	Captured *captured = ((NewFollower *) arg)->captured;
	MillTables *tables = mill_aggregate_tables(aggregate);
	MillDefinition *d = mill_definition(aggregate->definition);
	char *insert = mill_sql_insert(d, tables, "mill_new");
	char *update = mill_sql_update(d, tables);
	char *delete = mill_sql_delete(d, tables, "mill_old");
	MemoryContext before = MemoryContextSwitchTo(captured->context);
	Follower *follower = palloc0(sizeof(Follower));
	ListCell *lc;

	follower->aggregate = palloc(sizeof(MillAggregate));
	*follower->aggregate = *aggregate;
	follower->statements[CHANGE_INSERT] = pstrdup(insert);
	follower->statements[CHANGE_UPDATE] = pstrdup(update);
	follower->statements[CHANGE_DELETE] = pstrdup(delete);
	captured->followers = lappend(captured->followers, follower);
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
 * What follows a relation.  The lock that the writer holds on it, and the
 * stronger one that materialize takes, make sure that the answer is current.
 */
static Captured *
capture_of(Oid relid)
{
	Captured *captured;
	bool found;
	ListCell *lc;

	if (captured_relations == NULL)
		remember_nothing_yet();
	captured = hash_search(captured_relations, &relid, HASH_ENTER, &found);
	if (!found)
		memset((char *) captured + sizeof(Oid), 0, sizeof(Captured) - sizeof(Oid));
	if (captured->valid || captured->depth > 0)
		return captured;

	release(captured);
	captured->context = AllocSetContextCreate(TopMemoryContext, "pg_mill captured relation",
											  ALLOCSET_SMALL_SIZES);
	/* Set first: what changes while we look makes it false again. */
	captured->valid = true;
	PG_TRY();
	{
		foreach (lc, mill_aggregates_of_base(mill_base_of(relid)))
		{
			NewFollower follower = {lfirst(lc), captured};

			mill_as_owner(follower.aggregate->owner, add_follower, &follower);
		}
	}
	PG_CATCH();
	{
		captured->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	return captured;
}

static void
add_context(void *arg)
{
	char *name = get_rel_name(((MillAggregate *) arg)->view);

	errcontext("maintaining continuous aggregate \"%s\"", name ? name : "?");
}

/* A change that an aggregate is about to follow. */
typedef struct Following
{
	Follower *follower;
	Change change;
} Following;

static void
append_deltas(void *arg)
{
	Follower *follower = ((Following *) arg)->follower;
	Change change = ((Following *) arg)->change;
	int code;

	if (follower->plans[change] == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(follower->statements[change], 0, NULL);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", follower->statements[change],
				 SPI_result_code_string(SPI_result));
		follower->plans[change] = plan;
	}
	code = SPI_execute_plan(follower->plans[change], NULL, NULL, false, 0);
	if (code != SPI_OK_INSERT)
		elog(ERROR, "unexpected result of \"%s\": %s", follower->statements[change],
			 SPI_result_code_string(code));
}

/* Run one statement of an aggregate over the registered transition tables. */
static void
follow(Follower *follower, Change change)
{
	ErrorContextCallback context = {.previous = error_context_stack,
									.callback = add_context,
									.arg = follower->aggregate};
	Following following = {follower, change};

	error_context_stack = &context;
	mill_as_owner(follower->aggregate->owner, append_deltas, &following);
	error_context_stack = context.previous;
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

/* All aggregates follow a change; a side without rows is NULL. */
static void
capture(Relation rel, Change change, Tuplestorestate *old, Tuplestorestate *new)
{
	Captured *captured;
	ListCell *lc;

	SPI_connect();
	captured = capture_of(RelationGetRelid(rel));
	if (captured->followers)
	{
		if (old)
			register_rows("mill_old", RelationGetRelid(rel), old);
		if (new)
			register_rows("mill_new", RelationGetRelid(rel), new);
		captured->depth++;
		PG_TRY();
		{
			foreach (lc, captured->followers)
				follow(lfirst(lc), change);
		}
		PG_FINALLY();
		{
			captured->depth--;
		}
		PG_END_TRY();
		mill_wake_workers_at_commit(&mill_fold_room);
	}
	SPI_finish();
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
	capture(trigger->tg_relation,
			TRIGGER_FIRED_BY_INSERT(event)	 ? CHANGE_INSERT
			: TRIGGER_FIRED_BY_UPDATE(event) ? CHANGE_UPDATE
											 : CHANGE_DELETE,
			old, new);
}

/* A row that replication's apply worker changed. */
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
	capture(trigger->tg_relation,
			old == NULL	  ? CHANGE_INSERT
			: new == NULL ? CHANGE_DELETE
						  : CHANGE_UPDATE,
			old_rows, new_rows);
	if (old_rows)
		tuplestore_end(old_rows);
	if (new_rows)
		tuplestore_end(new_rows);
}

/* A relation whose rows come or go all at once. */
typedef struct WholeRelation
{
	const MillAggregate *aggregate;
	Oid relid;
	bool add;
} WholeRelation;

static void
capture_whole(void *arg)
{
	const WholeRelation *whole = arg;
	const MillAggregate *a = whole->aggregate;
	MillDefinition *d = mill_definition(a->definition);
	const char *statement = (whole->add ? mill_sql_insert
										: mill_sql_delete)(d, mill_aggregate_tables(a),
														   mill_relation_name(whole->relid));
	SPIPlanPtr plan = SPI_prepare(statement, 0, NULL);

	if (plan == NULL || SPI_execute_snapshot(plan, NULL, NULL, GetLatestSnapshot(), InvalidSnapshot,
											 false, true, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not execute \"%s\": %s", statement, SPI_result_code_string(SPI_result));
}

/*
 * All rows of a relation come to a base table, or go from it, at once: a
 * partition that is attached, detached, or about to be truncated.  The latest
 * snapshot, as the lock that the caller holds has made all others finish.
 * SPI must be connected.
 */
void
mill_capture_relation(const MillAggregate *a, Oid relid, bool add)
{
	WholeRelation whole = {a, relid, add};

	mill_as_owner(a->owner, capture_whole, &whole);
	mill_wake_workers_at_commit(&mill_fold_room);
}

static void
empty_aggregate(void *arg)
{
	const MillAggregate *a = arg;

	mill_execute(psprintf("TRUNCATE %s, %s", mill_relation_name(a->delta),
						  mill_relation_name(a->state)),
				 SPI_OK_UTILITY);
}

static void
capture_truncate(Relation rel)
{
	ListCell *lc;

	/* the triggers of its own partitions tell of all the rows */
	if (rel->rd_rel->relispartition && rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		return;
	SPI_connect();
	foreach (lc, mill_aggregates_of_base(mill_base_of(RelationGetRelid(rel))))
	{
		MillAggregate *a = lfirst(lc);

		if (rel->rd_rel->relispartition)
			mill_capture_relation(a, RelationGetRelid(rel), false);
		else
			/* The whole base table is empty, for all snapshots. */
			mill_as_owner(a->owner, empty_aggregate, a);
	}
	SPI_finish();
}

/* SQL: mill.maintain_aggregates(), the function of all our triggers. */
Datum
mill_maintain_aggregates(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function mill.maintain_aggregates was not called by a trigger")));
	if (TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		capture_row(trigger);
	else if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		capture_truncate(trigger->tg_relation);
	else
		capture_statement(trigger);
	/* AFTER triggers return nothing, which is not the same as NULL. */
	PG_RETURN_POINTER(NULL);
}
