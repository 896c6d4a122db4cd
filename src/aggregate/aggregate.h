/*
 * aggregate.h
 *		A continuous aggregate: its row, its lock, and what is done with it.
 */
#ifndef MILL_AGGREGATE_AGGREGATE_H
#define MILL_AGGREGATE_AGGREGATE_H

#include "core/manager.h"
#include "utils/palloc.h"

#include "aggregate/sql.h"

/* A row of mill_catalog.aggregate. */
typedef struct MillAggregate
{
	int64 id;
	Oid view;
	Oid base;
	Oid definition;
	Oid state;
	Oid delta;
	Oid owner; /* of the view */
	bool with_indexes;
	int fold_interval_ms;
	bool live;			  /* the view reads the state */
	bool backfill;		  /* a worker fills the state of what was there before */
	char *backfill_until; /* panes from here on are filled; NULL: none */
	bool filled;		  /* all are; the view can go live */
	List *relations;	  /* base table and partitions that are followed, as oids */
} MillAggregate;

/* aggregate.c: rows; SPI must be connected */
extern MillAggregate *mill_aggregate_of_view(Oid view, bool missing_ok);
extern MillAggregate *mill_aggregate_by_id(int64 id);
extern List *mill_aggregates_of_owner(Oid owner);
extern List *mill_aggregates_of_base(Oid base);
extern List *mill_aggregates_among(List *relations);
extern List *mill_aggregates_touching(List *relations);
extern List *mill_aggregates_of_partitions(List *relations);
extern void mill_aggregate_set(int64 id, bool live, bool filled, const char *backfill_until);
extern void mill_aggregate_note_relations(int64 id, List *relations);
extern void mill_aggregate_require_owner(const MillAggregate *a);
extern bool mill_aggregate_lock(int64 id, bool wait);
extern MillTables *mill_aggregate_tables(const MillAggregate *a);
extern char *mill_relation_name(Oid relid);
extern Oid mill_base_of(Oid relid);
extern void mill_execute_ddl(char *sql);
extern uint64 mill_execute(const char *sql, int expected);

/* objects.c: tables, views and triggers of an aggregate, as the extension's owner */
extern void mill_objects_create(MillAggregate *a, const MillDefinition *d);
extern void mill_objects_drop(const MillAggregate *a);
extern void mill_view_replace(Oid view, const char *query);
extern void mill_view_make_live(Oid view, const MillAggregate *a, const MillDefinition *d);
extern void mill_aggregate_go_live(MillAggregate *a, const MillDefinition *d);
extern bool mill_has_trigger(Oid relid, const char *name);
extern void mill_triggers_create(Oid base);
extern void mill_triggers_create_on(Oid relid, bool root);
extern void mill_triggers_drop(Oid base);
extern void mill_triggers_drop_on(Oid relid);
extern void mill_base_changed(Oid base);
extern void mill_lock_base_and_view(Oid base, Oid view);

/* fold.c: in a transaction, holding the aggregate's lock */
extern int64 mill_fold(const MillAggregate *a, const MillDefinition *d, bool *more);
extern int64 mill_fill(const MillAggregate *a, const MillDefinition *d, const char *from, const char *until);

/* capture.c */
extern void mill_capture_init(void);
extern void mill_capture_relation(const MillAggregate *a, Oid relid, bool add);

/* fold_worker.c */
extern const MillRoom mill_fold_room;
extern PGDLLEXPORT _Noreturn void mill_fold_main(Datum arg);

/* materialize.c */
extern void mill_aggregate_start(MillAggregate *a, const MillDefinition *d);
extern void mill_aggregate_restart(MillAggregate *a);
extern void mill_aggregate_forget(const MillAggregate *a);

/* follow.c: true while our own commands change what users may not */
extern bool mill_following;

#endif
