/*
 * fdw.h
 *		Shared by the files of the foreign data wrapper: how a plan stores its
 *		pushed-down conditions, and the state of a running scan.
 */
#ifndef MILL_STREAM_FDW_H
#define MILL_STREAM_FDW_H

#include "broker/broker.h"
#include "broker/event.h"
#include "broker/properties.h"
#include "nodes/execnodes.h"
#include "nodes/pathnodes.h"
#include "stream/batch.h"

/*
 * The members of a plan's fdw_private.  None depends on a batch, so one plan
 * serves scans of the topic and of bound batches.
 */
enum
{
	MILL_PLAN_ATTRIBUTES, /* integer list: the attributes to decode */
	MILL_PLAN_CONDITIONS  /* a list of three integers per entry of fdw_exprs:
								 * MillColumnKind, btree strategy, 1 for = ANY */
};

/* The range that a scan reads of one partition. */
typedef struct MillRange
{
	int32 partition;
	int64 start; /* first offset */
	int64 end;	 /* offset after the last */
	bool ended;	 /* everything below end was delivered */
} MillRange;

typedef struct MillScan
{
	MillStream *stream;
	MillDecoder *decoder; /* NULL in EXPLAIN without ANALYZE */
	Oid userid;			  /* user whose user mapping is used */
	List *conditions;	  /* of the plan ... */
	List *values;		  /* ... and the ExprState of each */
	MemoryContext row;	  /* for the values of one row */
	bool opened;

	/* bound: messages in memory */
	MillBatch *batch; /* set by mill_stream_bind */
	int ordinal;

	/* not bound: the topic; reading is the gateway's memory context */
	MemoryContext reading;
	MillGateway *gateway;
	int npartitions;
	int64 *fixed_end; /* per partition, -1: not asked yet; kept over rescans */
	MillRange *ranges;
	int nranges;
	int running;	/* number of ranges not ended */
	const char *at; /* next message in the frame */
	const char *frame_end;
	MillGatewayEvent *connection_event; /* last event about the connection, or NULL */
	TimestampTz disconnected_since;
	TimestampTz short_since; /* a partition ended before its end, or 0 */

	const MillMessage *message; /* being decoded, for errcontext */
	int64 messages;
	int64 skipped;
} MillScan;

extern void mill_fdw_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid relid);
extern void mill_fdw_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid);
extern ForeignScan *mill_fdw_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path,
								  List *tlist, List *clauses, Plan *outer);

extern void mill_fdw_begin(ForeignScanState *node, int eflags);
extern TupleTableSlot *mill_fdw_iterate(ForeignScanState *node);
extern void mill_fdw_rescan(ForeignScanState *node);
extern void mill_fdw_end(ForeignScanState *node);

/*
 * Start a gateway for the scan and ask it for the ranges to read.  Starts
 * nothing if there is nothing to read.
 */
extern void mill_fdw_open_topic(ForeignScanState *node, MillScan *scan);
extern void mill_fdw_close_topic(MillScan *scan);
extern const char *mill_fdw_condition_name(MillColumnKind kind);

extern List *mill_fdw_import(ImportForeignSchemaStmt *stmt, Oid serverid);

#endif
