/*
 * report.c
 *		SQL functions that report on continuous aggregates: whether a result is
 *		right, how it is kept, what is not folded yet.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/internal.h"

PG_FUNCTION_INFO_V1(mill_verify);
PG_FUNCTION_INFO_V1(mill_explain_aggregate);
PG_FUNCTION_INFO_V1(mill_definition_text);
PG_FUNCTION_INFO_V1(mill_aggregate_figures);

/* Relative difference allowed between sums of the same floats in different order. */
#define FLOAT8_TOLERANCE "1e-9"
#define FLOAT4_TOLERANCE "1e-4"

static bool
is_float(Oid type)
{
	return type == FLOAT4OID || type == FLOAT8OID;
}

/* Column lists of both sides; types without equality are compared as text. */
static char *
comparable_columns(TupleDesc desc)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < desc->natts; i++)
	{
		Oid type = TupleDescAttr(desc, i)->atttypid;
		bool ordered = OidIsValid(lookup_type_cache(type, TYPECACHE_LT_OPR)->lt_opr);

		appendStringInfo(&text, "%sr.c%d%s AS c%d", i ? ", " : "", i + 1, ordered ? "" : "::text",
						 i + 1);
	}
	return text.data;
}

/* c1, c2, ... */
static char *
numbered_columns(TupleDesc desc)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < desc->natts; i++)
		appendStringInfo(&text, "%sc%d", i ? ", " : "", i + 1);
	return text.data;
}

/* Condition: rows x and y differ by rounding alone.  "false" without float columns. */
static char *
rounding_condition(TupleDesc desc)
{
	StringInfoData text;
	bool floats = false;

	initStringInfo(&text);
	for (int i = 0; i < desc->natts; i++)
	{
		Oid type = TupleDescAttr(desc, i)->atttypid;
		char *x = psprintf("x.c%d", i + 1);
		char *y = psprintf("y.c%d", i + 1);

		if (!OidIsValid(lookup_type_cache(type, TYPECACHE_LT_OPR)->lt_opr))
			type = TEXTOID;
		appendStringInfo(&text, "%s(%s", i ? " AND " : "", mill_equality(x, y, type));
		if (is_float(type))
		{
			floats = true;
			appendStringInfo(&text, " OR abs(%s - %s) <= %s * greatest(abs(%s), abs(%s))", x, y,
							 type == FLOAT4OID ? FLOAT4_TOLERANCE : FLOAT8_TOLERANCE, x, y);
		}
		appendStringInfoChar(&text, ')');
	}
	return floats ? text.data : "false";
}

/* Expression {"name": value, ...} of a row with columns c1, c2, ... and the view's names. */
static char *
json_of_row(TupleDesc desc)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "jsonb_build_object(");
	for (int i = 0; i < desc->natts; i++)
		appendStringInfo(&text, "%s%s, x.c%d", i ? ", " : "",
						 quote_literal_cstr(NameStr(TupleDescAttr(desc, i)->attname)), i + 1);
	appendStringInfoChar(&text, ')');
	return text.data;
}

/* The query of verify: both results and their differences, in one snapshot. */
static char *
verify_query(const MillAggregate *a)
{
	Relation rel = table_open(a->view, AccessShareLock);
	TupleDesc desc = RelationGetDescr(rel);
	const char *names = numbered_columns(desc);
	const char *columns = comparable_columns(desc);
	const char *rounding = rounding_condition(desc);
	const char *json = json_of_row(desc);
	MillTables *t = mill_aggregate_tables(a);
	const char *view = mill_relation_name(a->view);

	table_close(rel, NoLock);
	/* the rows of its history are gone, so there is nothing to compare that with */
	if (t->history)
	{
		t->history = NULL;
		view = psprintf("(%s)", mill_sql_view(mill_definition(a->definition), t));
	}
	return psprintf("WITH a AS MATERIALIZED (SELECT %s FROM %s r(%s)),\n"
					"d AS MATERIALIZED (SELECT %s FROM %s r(%s)),\n"
					"only_a AS MATERIALIZED (TABLE a EXCEPT ALL TABLE d),\n"
					"only_d AS MATERIALIZED (TABLE d EXCEPT ALL TABLE a)\n"
					"SELECT 'aggregate', %s FROM only_a x WHERE NOT EXISTS (SELECT FROM only_d y WHERE %s)\n"
					"UNION ALL\n"
					"SELECT 'definition', %s FROM only_d x WHERE NOT EXISTS (SELECT FROM only_a y WHERE %s)",
					columns, view, names, columns, mill_relation_name(a->definition), names, json,
					rounding, json, rounding);
}

static void
compare(void *arg)
{
	/* the caller's snapshot for both sides */
	if (SPI_execute(verify_query(arg), true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not compare \"%s\" with its definition",
			 get_rel_name(((MillAggregate *) arg)->view));
}

/* Groups of which more rows were taken away than there were, if this snapshot may read the state. */
static void
find_negative(void *arg)
{
	const MillAggregate *a = arg;

	if (SPI_execute(mill_sql(mill_definition(a->definition), mill_aggregate_tables(a),
							 "SELECT 'state', to_jsonb(n) FROM (SELECT $group, sum(row_count) AS row_count\n"
							 " FROM (SELECT $group, row_count FROM $state UNION ALL SELECT $group, row_count FROM $delta) u\n"
							 " GROUP BY $group HAVING sum(row_count) < 0) n WHERE mill.is_live($table::regclass)",
							 "table", quote_literal_cstr(mill_relation_name(a->state)), MILL_END),
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the state of \"%s\"", get_rel_name(a->view));
}

/* Comparing the plain query with itself would find nothing. */
static void
compare_state(void *arg)
{
	mill_examine_state(((MillAggregate *) arg)->state, compare, arg);
}

static void
find_negative_state(void *arg)
{
	mill_examine_state(((MillAggregate *) arg)->state, find_negative, arg);
}

/* Return SPI's result as the function's result. */
static void
return_rows(ReturnSetInfo *result)
{
	for (uint64 row = 0; row < SPI_processed; row++)
		tuplestore_puttuple(result->setResult, SPI_tuptable->vals[row]);
}

/*
 * A relation whose changes are not captured; InvalidOid: there is none.  DDL may have
 * changed which they are while we waited for its lock: then the aggregate's row is another one.
 */
static Oid
uncaptured(const MillAggregate *a)
{
	Oid found = mill_find_uncaptured(a->relations, true);

	if (!OidIsValid(found))
		return InvalidOid;
	a = mill_aggregate_by_id(a->id);
	return a && a->live ? mill_find_uncaptured(a->relations, true) : InvalidOid;
}

/* That as one more row. */
static void
report_triggers(const MillAggregate *a, ReturnSetInfo *result)
{
	static MillStatement row =
		{.sql = "SELECT 'triggers'::text, jsonb_build_object('uncaptured', $1::regclass)",
		 .nargs = 1,
		 .types = {OIDOID}};
	Datum values[1] = {ObjectIdGetDatum(uncaptured(a))};

	if (!OidIsValid(DatumGetObjectId(values[0])))
		return;
	mill_run(&row, SPI_OK_SELECT, values, NULL);
	return_rows(result);
}

/*
 * Lock what an aggregate reads: then nobody changes, until the end of the transaction, what it
 * is.  One over another aggregate does not name its base table.
 */
static void
lock_tables(const MillAggregate *a)
{
	Relation rel;

	LockRelationOid(a->base, AccessShareLock);
	rel = table_open(a->definition, AccessShareLock);
	AcquireRewriteLocks(copyObject(get_view_query(rel)), true, false);
	table_close(rel, NoLock);
}

/*
 * SQL: mill.verify(view) returns found_in, row_data of each row that differs, and of
 * whatever else is not as it should be
 */
Datum
mill_verify(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MillAggregate *a;

	InitMaterializedSRF(fcinfo, 0);
	SPI_connect();
	a = mill_aggregate_of_view(PG_GETARG_OID(0), false);
	mill_aggregate_require_owner(a);
	lock_tables(a);
	/* whose lock we waited for may have laid it to rest */
	a = mill_aggregate_of_view(PG_GETARG_OID(0), false);
	if (!a->live)
	{
		ereport(NOTICE, (errmsg("\"%s\" is not live: it is its definition", get_rel_name(a->view))));
		SPI_finish();
		return (Datum) 0;
	}
	if (OidIsValid(a->history))
		ereport(NOTICE, (errmsg("the history of \"%s\" is not compared: its rows are gone",
								get_rel_name(a->view))));
	mill_as_owner(a->owner, compare_state, a);
	return_rows(result);
	mill_as_owner(a->owner, find_negative_state, a);
	return_rows(result);
	report_triggers(a, result);
	SPI_finish();
	return (Datum) 0;
}

/* What an output column is computed from. */
typedef struct Ingredients
{
	const MillDefinition *d;
	List *stored; /* names of columns */
	int class;	  /* worst of its aggregates, -1 for none */
} Ingredients;

static bool
collect(Node *node, void *context)
{
	Ingredients *in = context;
	ListCell *lc, *cell;

	if (node == NULL)
		return false;
	foreach (lc, in->d->measures)
	{
		MillMeasure *m = lfirst(lc);

		if (!equal(m->call, node))
			continue;
		in->class = Max(in->class, (int) m->class);
		if (m->accumulators == NIL)
			in->stored = list_append_unique(in->stored,
											makeString(in->d->window == MILL_WINDOW_SESSION &&
															   strcmp(m->final, "row_count") != 0
														   ? "last_at"
														   : "row_count"));
		foreach (cell, m->accumulators)
			in->stored = list_append_unique(in->stored,
											makeString(
												((MillAccumulator *) lfirst(cell))->column.name));
		return false;
	}
	foreach (lc, in->d->keys)
	{
		MillTypedExpr *key = lfirst(lc);

		if (!in->d->made_key && equal(key->expr, node))
		{
			in->stored = list_append_unique(in->stored, makeString(key->name));
			return false;
		}
	}
	if (IsA(node, Var) && in->d->window_rti && ((Var *) node)->varno == in->d->window_rti)
		in->stored = list_append_unique(in->stored,
										makeString(in->d->window == MILL_WINDOW_SESSION ? "first_at"
																						: "pane"));
	return expression_tree_walker(node, collect, in);
}

static Datum
array_of_names(List *names)
{
	Datum *values = palloc(sizeof(Datum) * (list_length(names) + 1));
	ListCell *lc;

	foreach (lc, names)
		values[foreach_current_index(lc)] = CStringGetTextDatum(strVal(lfirst(lc)));
	return PointerGetDatum(
		construct_array(values, list_length(names), TEXTOID, -1, false, TYPALIGN_INT));
}

/* Describe the window; NULL without one. */
static char *
describe_panes(const MillDefinition *d)
{
	switch (d->window)
	{
		case MILL_WINDOW_NONE:
			return NULL;
		case MILL_WINDOW_SESSION:
			return psprintf("fragments of sessions, gap %s", mill_constant(d->size));
		case MILL_WINDOW_TUMBLE:
			return psprintf("one pane for each window of %s", mill_constant(d->size));
		case MILL_WINDOW_HOP:
			if (d->by_window)
				return psprintf("one pane for each window of %s every %s", mill_constant(d->size),
								mill_constant(d->slide));
			return psprintf("panes of %s, windows of %s every %s", mill_constant(d->pane),
							mill_constant(d->size), mill_constant(d->slide));
	}
	return NULL;
}

typedef struct Explanation
{
	Oid definition;
	MillDefinition *d;
	char *panes;
} Explanation;

static void
read_explanation(void *arg)
{
	Explanation *e = arg;

	e->d = mill_definition(e->definition);
	e->panes = describe_panes(e->d);
}

/* SQL: mill.explain_aggregate(view), also before it is materialized */
Datum
mill_explain_aggregate(PG_FUNCTION_ARGS)
{
	static const char *const classes[] = {"invertible", "insert-only", "recompute"};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid view = PG_GETARG_OID(0);
	Explanation e = {0};
	MillAggregate *a;
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	mill_check_view(view);
	if (pg_class_aclcheck(view, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_VIEW, get_rel_name(view));
	SPI_connect();
	a = mill_aggregate_of_view(view, true);
	e.definition = a ? a->definition : view;
	mill_as_owner(mill_relation_owner(e.definition), read_explanation, &e);
	foreach (lc, e.d->query->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		Ingredients in = {e.d, NIL, -1};
		Datum values[4];
		bool nulls[4] = {false, false, false, e.panes == NULL};

		if (entry->resjunk)
			continue;
		collect((Node *) entry->expr, &in);
		values[0] = CStringGetTextDatum(entry->resname);
		values[1] = CStringGetTextDatum(in.class >= 0 ? classes[in.class] : "group");
		values[2] = array_of_names(in.stored);
		values[3] = e.panes ? CStringGetTextDatum(e.panes) : (Datum) 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	SPI_finish();
	return (Datum) 0;
}

static void
read_figures(void *arg)
{
	Oid delta = *(Oid *) arg;

	if (SPI_execute(psprintf("SELECT count(*), pg_table_size(%u), min(written_at), count(DISTINCT key_hash) FILTER (WHERE stale),\n"
							 " CASE WHEN pg_table_size(%u) > 67108864 + 1000 * count(*) THEN\n"
							 "  (SELECT format('process %%s has held a snapshot since %%s: folded deltas cannot be removed, and reads slow down', s.pid, s.xact_start)\n"
							 "   FROM pg_stat_activity s WHERE s.backend_xmin IS NOT NULL AND s.xact_start < now() - interval '1 minute'\n"
							 "   ORDER BY s.xact_start LIMIT 1) END\n"
							 "FROM %s",
							 delta, delta, mill_relation_name(delta)),
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read \"%s\"", get_rel_name(delta));
}

/*
 * SQL: mill_catalog.aggregate_figures(state, delta): how much is in the delta
 * table, and what keeps its dead rows from being vacuumed.  Used by the view
 * mill.aggregates only, which shows users their own: nobody has USAGE on the
 * schema.  No row if somebody has the delta table locked.
 */
Datum
mill_aggregate_figures(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid delta = PG_GETARG_OID(0);

	InitMaterializedSRF(fcinfo, 0);
	/* a view that tells of trouble must not wait for it: TRUNCATE has the table locked until it commits */
	if (!ConditionalLockRelationOid(delta, AccessShareLock) || get_rel_name(delta) == NULL)
		return (Datum) 0;
	SPI_connect();
	mill_as_extension(read_figures, &delta);
	return_rows(result);
	SPI_finish();
	return (Datum) 0;
}

/*
 * SQL: mill.definition(view): the query that a continuous aggregate keeps the result
 * of, as its author wrote it, or that of any other view.  As pg_get_viewdef, for everybody.
 */
Datum
mill_definition_text(PG_FUNCTION_ARGS)
{
	static MillStatement find =
		{.sql = "SELECT coalesce((SELECT definition FROM mill_catalog.aggregate_view WHERE view = $1), $1)",
		 .nargs = 1,
		 .types = {OIDOID}};
	Datum values[1] = {PG_GETARG_DATUM(0)};
	Oid definition;

	if (get_rel_name(PG_GETARG_OID(0)) == NULL)
		mill_no_such_relation(PG_GETARG_OID(0));
	if (get_rel_relkind(PG_GETARG_OID(0)) != RELKIND_VIEW)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not a view", get_rel_name(PG_GETARG_OID(0)))));
	SPI_connect();
	mill_run(&find, SPI_OK_SELECT, values, NULL);
	definition = DatumGetObjectId(mill_value(0, 1, NULL));
	SPI_finish();
	PG_RETURN_DATUM(
		DirectFunctionCall2(pg_get_viewdef_ext, ObjectIdGetDatum(definition), BoolGetDatum(true)));
}
