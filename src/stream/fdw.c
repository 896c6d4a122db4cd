/*
 * fdw.c
 *		The foreign data wrapper "kafka": its handler and EXPLAIN.
 *
 * A scan reads either the topic, through a gateway of its own that ends with
 * the query, or a batch that the caller has bound (mill_stream_bind).  It runs
 * in the process that runs the query, a backend or an ingest worker, and stores
 * nothing: if that process dies, only the gateway ends, when its pipe closes.
 *
 * Streams cannot be modified, so there are no modify callbacks, and core
 * refuses.  There is no ANALYZE either: a sample of a topic says little about
 * what is read from it next.
 */
#include "postgres.h"

#include "commands/explain.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"

#include "core/compat.h"
#ifdef MILL_EXPLAIN_HEADERS
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif
#include "stream/fdw.h"

PG_FUNCTION_INFO_V1(mill_kafka_handler);

/* The ranges as "0: 0..100, 1: 5..7", ends exclusive. */
static char *
ranges_text(const MillScan *scan)
{
	StringInfoData buffer;

	initStringInfo(&buffer);
	for (int i = 0; i < scan->nranges; i++)
		appendStringInfo(&buffer, "%s%d: %lld..%lld", i ? ", " : "", scan->ranges[i].partition,
						 (long long) scan->ranges[i].start, (long long) scan->ranges[i].end);
	return scan->nranges > 0 ? buffer.data : "none";
}

/*
 * The conditions on partitions, or those on offsets, that were pushed down, as
 * text: "partition = 0 AND partition = ANY ($1)"; "all" if there are none.
 */
static char *
conditions_text(ForeignScanState *node, const MillScan *scan, bool partitions, ExplainState *es)
{
	static const char *const operators[] = {NULL, "<", "<=", "=", ">=", ">"};
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	StringInfoData buffer;
	ListCell *condition_cell;
	ListCell *value_cell;
	List *context = set_deparse_context_plan(es->deparse_cxt, node->ss.ps.plan, NIL);

	initStringInfo(&buffer);
	forboth (condition_cell, scan->conditions, value_cell, plan->fdw_exprs)
	{
		List *condition = lfirst(condition_cell); /* of integers */
		MillColumnKind kind = linitial_int(condition);
		char *value;

		if ((kind == MILL_COLUMN_PARTITION) != partitions)
			continue;
		value = deparse_expression((Node *) lfirst(value_cell), context, false, false);
		appendStringInfo(&buffer, "%s%s %s ", buffer.len > 0 ? " AND " : "",
						 mill_fdw_condition_name(kind), operators[lsecond_int(condition)]);
		appendStringInfo(&buffer, lthird_int(condition) ? "ANY (%s)" : "%s", value);
	}
	return buffer.len > 0 ? buffer.data : "all";
}

static void
explain_scan(ForeignScanState *node, ExplainState *es)
{
	MillScan *scan = (MillScan *) node->fdw_state;

	ExplainPropertyText("Kafka Topic", scan->stream->layout.topic, es);
	ExplainPropertyText("Kafka Partitions", conditions_text(node, scan, true, es), es);
	if (es->analyze && scan->opened && scan->batch == NULL)
		ExplainPropertyText("Kafka Offsets", ranges_text(scan), es);
	else
		ExplainPropertyText("Kafka Offsets", conditions_text(node, scan, false, es), es);
	if (es->analyze)
		ExplainPropertyInteger("Kafka Messages", NULL, scan->messages, es);
}

bool
mill_is_stream(Oid relid)
{
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(
		GetForeignServer(GetForeignTable(relid)->serverid)->fdwid);

	return OidIsValid(wrapper->fdwhandler) &&
		   GetFdwRoutine(wrapper->fdwhandler)->IterateForeignScan == mill_fdw_iterate;
}

Datum
mill_kafka_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = mill_fdw_rel_size;
	routine->GetForeignPaths = mill_fdw_paths;
	routine->GetForeignPlan = mill_fdw_plan;
	routine->BeginForeignScan = mill_fdw_begin;
	routine->IterateForeignScan = mill_fdw_iterate;
	routine->ReScanForeignScan = mill_fdw_rescan;
	routine->EndForeignScan = mill_fdw_end;
	routine->ExplainForeignScan = explain_scan;
	routine->ImportForeignSchema = mill_fdw_import;
	PG_RETURN_POINTER(routine);
}
