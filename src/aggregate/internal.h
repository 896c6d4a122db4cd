/*
 * internal.h
 *		What the files of this room share: the objects of an aggregate, its
 *		capture, fold and fill.
 */
#ifndef MILL_AGGREGATE_INTERNAL_H
#define MILL_AGGREGATE_INTERNAL_H

#include "aggregate/aggregate.h"
#include "aggregate/sql.h"

extern Datum mill_oid_array(List *oids);
extern void mill_aggregate_require_no_outer(const MillAggregate *a);
extern MillTables *mill_aggregate_tables(const MillAggregate *a);

/* live.c */
extern void mill_aggregate_set_progress(MillAggregate *a, bool live, const char *backfill_until);
extern void mill_aggregate_rest(MillAggregate *a, const char *reason);
extern void mill_aggregate_note_truncate(int64 id);
extern char *mill_aggregate_obstacle(const MillAggregate *a);
extern void mill_aggregate_begin_fill(MillAggregate *a);

/* What a query over an aggregate reads. */
typedef enum MillReading
{
	MILL_READS_PLAIN, /* the definition */
	MILL_READS_STATE, /* the state table, and hardly a delta */
	MILL_READS_DELTAS /* the state table, and many */
} MillReading;

extern MillReading mill_reading_now(Oid state);
extern uint64 mill_pages_now(Oid relid, bool recent);
extern void mill_examine_state(Oid state, void (*function)(void *arg), void *arg);

/* objects.c: tables and views of an aggregate, as the extension's owner */
extern MillDefinition *mill_objects_create(MillAggregate *a);
extern void mill_objects_complete(const MillAggregate *a, const MillDefinition *d);
extern Oid mill_history_create(const MillAggregate *a, const MillDefinition *d);
extern void mill_objects_drop(const MillAggregate *a);
extern void mill_objects_rename(const MillAggregate *a, Oid view);
extern char *mill_query_of_view(Oid view);
extern void mill_view_replace(Oid view, const char *query);
extern void mill_view_let_read(Oid view, const MillAggregate *a, const MillDefinition *d);
extern void mill_invalidate_base(Oid base);
extern void mill_lock_base_and_view(Oid base, LOCKMODE mode, Oid view);
extern bool mill_try_lock_base(Oid base);

/* Whom to keep off the base table and the view while one has an aggregate's lock. */
typedef enum MillKeepOff
{
	MILL_NOBODY_OFF,
	MILL_WRITERS_OFF,
	MILL_READERS_OFF /* and writers; the base table's triggers may be dropped */
} MillKeepOff;
extern MillAggregate *mill_aggregate_lock_keeping(Oid view, MillKeepOff off);

/* triggers.c */
extern Oid mill_trigger_function(void);
extern void mill_triggers_create(List *relations);
extern void mill_triggers_create_on(Oid relid);
extern Oid mill_find_uncaptured(List *relations, bool or_missing);
extern void mill_triggers_drop(Oid base);
extern void mill_triggers_drop_on(Oid relid);

/* fold.c: in a transaction, holding the aggregate's lock */
extern int64 mill_fold(const MillAggregate *a, const MillDefinition *d, bool *more,
					   MemoryContext errors, ErrorData **failed);
extern int64 mill_fill(const MillAggregate *a, const MillDefinition *d, const char *from,
					   const char *until);

/* capture.c */
typedef enum MillCaptureAs
{
	MILL_ADD,
	MILL_SUBTRACT,
	MILL_KEEP /* in the history table */
} MillCaptureAs;
extern void mill_capture_relation(const MillAggregate *a, Oid relid, MillCaptureAs as);

/* history.c */
extern void mill_require_no_history(const MillAggregate *a);
extern void mill_history_before_drop(const DropStmt *drop);
extern void mill_history_adopt(const MillAggregate *a);
extern void mill_history_forget(const MillAggregate *a, Oid relid);
extern void mill_history_expire(const MillAggregate *a, const MillDefinition *d);

/* follow.c */
extern void mill_aggregates_before_command(Node *command);

/* fold_worker.c */
extern PGDLLEXPORT _Noreturn void mill_fold_main(Datum arg);

/* materialize.c */
extern void mill_aggregate_delete(const MillAggregate *a);
extern void mill_aggregates_arm(bool refill);

/* aggregate.c: true while our own commands change what users may not */
extern bool mill_in_own_ddl;

#endif
