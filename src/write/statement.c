/*
 * statement.c
 *		Runs a statement over rows in a tuplestore through the executor.
 *
 * The statement reads the rows as an ephemeral relation, as triggers read
 * transition tables.  So whatever INSERT can do (views, rules, row security,
 * foreign tables) is done by the executor itself, as the current user.
 *
 * A few plans are kept for the life of the process, found by the statement's
 * text and the types of its rows; the plan cache replans them when the target
 * or the user's rights change.  The text has the target's current name, so a
 * renamed target gets a new plan.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/resowner.h"

#include "write/write_path.h"

#define MAX_PLANS 16

typedef struct KeptPlan
{
	char *key;
	SPIPlanPtr plan;
} KeptPlan;

/* Most recently used last; in TopMemoryContext. */
static KeptPlan kept_plans[MAX_PLANS];
static int nkept_plans;

TupleDesc
mill_statement_desc(Relation target, const MillWriteSpec *spec, int extra)
{
	int natts = spec->source->natts;
	TupleDesc desc = CreateTemplateTupleDesc(natts + extra);

	for (int i = 0; i < natts; i++)
	{
		char name[NAMEDATALEN];

		TupleDescCopyEntry(desc, i + 1, spec->source, i + 1);
		snprintf(name, sizeof(name), "c%d", i + 1);
		namestrcpy(&TupleDescAttr(desc, i)->attname, name);
		if (i < spec->ncolumns)
		{
			Form_pg_attribute column = TupleDescAttr(RelationGetDescr(target), spec->attnums[i] - 1);

			if (column->atttypid == TupleDescAttr(desc, i)->atttypid)
				TupleDescInitEntryCollation(desc, i + 1, column->attcollation);
		}
	}
	return desc;
}

void
mill_statement_insert(StringInfo sql, Relation target, const MillWriteSpec *spec, const char *batch)
{
	appendStringInfo(sql, "INSERT INTO %s AS t",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(target)),
												RelationGetRelationName(target)));
	for (int i = 0; i < spec->ncolumns; i++)
		appendStringInfo(sql, "%s%s%s", i == 0 ? " (" : ", ",
						 quote_identifier(NameStr(
							 TupleDescAttr(RelationGetDescr(target), spec->attnums[i] - 1)->attname)),
						 i == spec->ncolumns - 1 ? ")" : "");
	appendStringInfoString(sql, " SELECT");
	for (int i = 0; i < spec->ncolumns; i++)
		appendStringInfo(sql, "%sc%d", i == 0 ? " " : ", ", i + 1);
	appendStringInfo(sql, " FROM %s", batch);
}

static char *
plan_key(const char *sql, TupleDesc desc)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfoString(&key, sql);
	for (int i = 0; i < desc->natts; i++)
		appendStringInfo(&key, " %u,%d,%u", TupleDescAttr(desc, i)->atttypid,
						 TupleDescAttr(desc, i)->atttypmod, TupleDescAttr(desc, i)->attcollation);
	return key.data;
}

static void
keep_plan(const char *key, SPIPlanPtr plan)
{
	KeptPlan kept;

	kept.key = MemoryContextStrdup(TopMemoryContext, key);
	kept.plan = plan;
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep a plan");

	if (nkept_plans == MAX_PLANS)
	{
		SPI_freeplan(kept_plans[0].plan);
		pfree(kept_plans[0].key);
		memmove(kept_plans, kept_plans + 1, --nkept_plans * sizeof(KeptPlan));
	}
	kept_plans[nkept_plans++] = kept;
}

static SPIPlanPtr
get_plan(const char *sql, TupleDesc desc)
{
	char *key = plan_key(sql, desc);
	SPIPlanPtr plan;

	for (int i = 0; i < nkept_plans; i++)
		if (strcmp(kept_plans[i].key, key) == 0)
			return kept_plans[i].plan;

	plan = SPI_prepare(sql, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	keep_plan(key, plan);
	return plan;
}

/*
 * Make or remake the plan so that it looks up the target's rows by index, one
 * for each row of the batch.  That is right for small batches and large ones,
 * and on small tables that grow, and it locks rows in the batch's order, so
 * that two workers do not deadlock.  The settings apply to planning only.
 */
static void
plan_by_index(SPIPlanPtr plan)
{
	static const char *const others[] = {"enable_hashjoin",	  "enable_mergejoin", "enable_seqscan",
										 "enable_bitmapscan", "enable_material",  "enable_memoize"};
	int level = NewGUCNestLevel();
	CachedPlan *cached;

	for (int i = 0; i < lengthof(others); i++)
		(void) set_config_option(others[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
								 true, 0, false);
	cached = SPI_plan_get_cached_plan(plan);
	if (cached != NULL)
		ReleaseCachedPlan(cached, CurrentResourceOwner);
	AtEOXact_GUC(true, level);
}

/* Run the statement; leaves SPI connected, with the result. */
static void
run_with_rows(const char *sql, const char *batch, TupleDesc desc, Tuplestorestate *rows,
			  double count, bool by_index)
{
	EphemeralNamedRelation relation = palloc0_object(EphemeralNamedRelationData);
	SPIPlanPtr plan;
	int result;

	relation->md.name = pstrdup(batch);
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = count;
	relation->reldata = rows;

	SPI_connect();
	result = SPI_register_relation(relation);
	if (result != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register rows: %s", SPI_result_code_string(result));
	plan = get_plan(sql, desc);
	if (by_index)
		plan_by_index(plan);
	result = SPI_execute_plan(plan, NULL, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql, SPI_result_code_string(result));
}

uint64
mill_statement_run(const char *sql, const char *batch, TupleDesc desc, Tuplestorestate *rows,
				   double count, bool by_index)
{
	uint64 changed;

	run_with_rows(sql, batch, desc, rows, count, by_index);
	changed = SPI_processed;
	SPI_finish();
	return changed;
}

void
mill_statement_each(const char *sql, const char *batch, TupleDesc desc, Tuplestorestate *rows,
					void (*function)(HeapTuple row, TupleDesc desc, void *arg), void *arg)
{
	run_with_rows(sql, batch, desc, rows, 1, true);
	for (uint64 i = 0; i < SPI_processed; i++)
		function(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, arg);
	SPI_finish();
}
