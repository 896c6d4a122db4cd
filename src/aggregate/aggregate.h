/*
 * aggregate.h
 *		A continuous aggregate: its row, its lock, and what is done with it.
 */
#ifndef MILL_AGGREGATE_AGGREGATE_H
#define MILL_AGGREGATE_AGGREGATE_H

#include "core/room.h"
#include "utils/palloc.h"

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
	bool live;			  /* the state table is complete, and the view reads it */
	bool backfill;		  /* a worker fills the state table from existing rows */
	bool resting;		  /* not live, for a reason; nothing is captured, folded or filled */
	char *backfill_until; /* while it is filled: panes at or after this are; NULL: none */
	Oid history;		  /* table of what is kept of partitions that are gone; InvalidOid: none */
	List *relations;	  /* base table and partitions whose changes are captured; oids */
} MillAggregate;

/* Install the hooks of plan.c and merge.c; called once, when the library is loaded. */
extern void mill_plan_init(void);
extern void mill_merge_init(void);

extern const MillRoom mill_fold_room;

/* aggregate.c: rows; SPI must be connected */
extern MillAggregate *mill_aggregate_of_view(Oid view, bool missing_ok);
extern MillAggregate *mill_aggregate_by_id(int64 id);
extern List *mill_aggregates_of_owner(Oid owner);
extern List *mill_aggregates_of_base(Oid base);
extern List *mill_aggregates_among(List *relations);
extern List *mill_aggregates_using(List *relations);
extern List *mill_aggregates_of_partitions(List *relations);
extern void mill_aggregate_set_relations(MillAggregate *a, List *relations);
extern void mill_aggregate_require_owner(const MillAggregate *a);
extern bool mill_aggregate_lock(int64 id, bool wait);
extern bool mill_aggregate_is_locked(int64 id);
extern char *mill_relation_name(Oid relid);
extern bool mill_has_unique_index(Oid relid);
extern bool mill_has_index_on(Oid relid, List *columns);
extern Oid mill_base_of(Oid relid);
extern void mill_execute_ddl(char *sql);
extern uint64 mill_execute(const char *sql, int expected);

#endif
