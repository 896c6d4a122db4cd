/*
 * merge.c
 *		MERGE over partitioned tables: an executor hook.
 *
 * A MERGE whose only action is UPDATE may move rows between partitions.  Core
 * collects them as deleted and inserted rows, but then fires only the UPDATE
 * statement triggers.  For tables with our triggers, make it fire all three.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/executor.h"
#include "utils/rel.h"

#include "aggregate/internal.h"

static ExecutorStart_hook_type previous_executor_start = NULL;

static bool
has_our_triggers(const TriggerDesc *triggers)
{
	Oid function = triggers ? mill_trigger_function() : InvalidOid;

	for (int i = 0; OidIsValid(function) && i < triggers->numtriggers; i++)
	{
		if (triggers->triggers[i].tgfoid == function)
			return true;
	}
	return false;
}

static void
fire_all_triggers_of_merge(PlanState *plan)
{
	ModifyTableState *merge = (ModifyTableState *) plan;
	Relation target;

	if (plan == NULL || !IsA(plan, ModifyTableState) || merge->operation != CMD_MERGE)
		return;
	target = merge->rootResultRelInfo->ri_RelationDesc;
	if ((merge->mt_merge_subcommands & MERGE_UPDATE) == 0 ||
		target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE || !has_our_triggers(target->trigdesc))
		return;
	merge->mt_merge_subcommands |= MERGE_INSERT | MERGE_DELETE;
}

static void
executor_start(QueryDesc *query, int flags)
{
	ListCell *lc;

	if (previous_executor_start)
		previous_executor_start(query, flags);
	else
		standard_ExecutorStart(query, flags);
	if (flags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	fire_all_triggers_of_merge(query->planstate);
	foreach (lc, query->estate->es_auxmodifytables)
		fire_all_triggers_of_merge(lfirst(lc));
}

/* Called once, from _PG_init. */
void
mill_merge_init(void)
{
	previous_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
}
