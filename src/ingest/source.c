/*
 * source.c
 *		The query of a pipeline: from its stream, through views, to its target.
 *
 * The source of a pipeline is a stream or a view over one stream.  The query
 * that moves rows is
 *
 *		SELECT (each column of the source, as the target's type), ordinal
 *		FROM source
 *
 * where ordinal is the stream's ctid, passed up through the views: the scan of
 * a batch sets it to the number of the message, so that each row knows the
 * message it comes from, whatever plan was chosen.
 *
 * Where a batch ends must not change the result.  So the query, with views
 * expanded, must be row-wise over the stream: no grouping, DISTINCT, LIMIT,
 * window or set operation above it, not on the nullable side of an outer
 * join, not in a subquery expression, and only once.
 *
 * A plan is kept over many batches.  An invalidation of any relation or
 * function marks all plans invalid; that is rare, and planning is cheap.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_coerce.h"
#include "parser/parse_node.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/lock.h"
#include "core/query.h"
#include "ingest/rights.h"
#include "ingest/source.h"

#define ROWWISE_HINT                                                                               \
	"A pipeline sees its stream in batches. Aggregate or sort the target table instead, for example in a view."

/* Number of invalidations so far; all prepared sources with another number are invalid. */
static uint64 invalidations = 0;
static bool callbacks_registered = false;

/* ---- is the query row-wise? ---- */

static bool
is_stream(const RangeTblEntry *rte)
{
	return rte->rtekind == RTE_RELATION && rte->relkind == RELKIND_FOREIGN_TABLE &&
		   mill_is_stream(rte->relid);
}

/* Collect the streams in a query tree, at any depth. */
static bool
collect_streams(Node *node, void *context)
{
	List **streams = context;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		if (is_stream((RangeTblEntry *) node))
			*streams = lappend_oid(*streams, ((RangeTblEntry *) node)->relid);
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, collect_streams, streams, QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, collect_streams, streams);
}

static void
refuse_source(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the source of a pipeline cannot have %s", what),
			 errdetail("Its result would depend on where a batch ends."), errhint(ROWWISE_HINT)));
}

static void
check_level(const Query *query)
{
	if (query->commandType != CMD_SELECT || query->hasModifyingCTE)
		refuse_source("data-modifying statements");
	if (query->setOperations)
		refuse_source("set operations (UNION, INTERSECT, EXCEPT)");
	if (query->hasAggs || query->groupClause || query->groupingSets || query->havingQual)
		refuse_source("aggregates or GROUP BY");
	if (query->hasWindowFuncs)
		refuse_source("window functions");
	if (query->distinctClause)
		refuse_source("DISTINCT");
	if (query->limitCount || query->limitOffset)
		refuse_source("LIMIT or OFFSET");
	if (query->rowMarks)
		refuse_source("FOR UPDATE or FOR SHARE");
}

/*
 * Check one query level and those below it down to the stream, and add the
 * ordinal as the last column of each.  Returns its column number, or 0 if the
 * stream is not below.
 */
static AttrNumber
add_ordinal(Query *query)
{
	ListCell *lc;
	int rti = 0;
	AttrNumber resno = list_length(query->targetList) + 1;

	foreach (lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);
		AttrNumber attno = 0;
		Var *ordinal;

		rti++;
		if (is_stream(rte))
			attno = SelfItemPointerAttributeNumber;
		else if (rte->rtekind == RTE_SUBQUERY)
			attno = add_ordinal(rte->subquery);
		if (attno == 0)
			continue;

		check_level(query);
		if (mill_is_nullable((Node *) query->jointree, rti, false))
			refuse_source("its stream on the nullable side of an outer join");
		if (rte->rtekind == RTE_SUBQUERY)
			rte->eref->colnames = lappend(rte->eref->colnames, makeString("ordinal"));
		ordinal = makeVar(rti, attno, TIDOID, -1, InvalidOid, 0);
		query->targetList = lappend(query->targetList,
									makeTargetEntry((Expr *) ordinal, resno, "ordinal", false));
		return resno;
	}
	return 0;
}

/* ---- from source to target ---- */

/* SELECT all columns FROM source, analyzed. */
static Query *
select_all(Relation source)
{
	StringInfoData sql;
	TupleDesc desc = RelationGetDescr(source);
	const char *separator = "";
	List *parsed;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			continue;
		appendStringInfo(&sql, "%s%s", separator, quote_identifier(NameStr(att->attname)));
		separator = ", ";
	}
	appendStringInfo(&sql, " FROM %s",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(source)),
												RelationGetRelationName(source)));
	parsed = raw_parser(sql.data, RAW_PARSE_DEFAULT);
	return parse_analyze_fixedparams(linitial_node(RawStmt, parsed), sql.data, NULL, 0, NULL);
}

/*
 * Cast each column to the type of the target's column of that name, as INSERT
 * would; one error names all that do not fit.
 */
static AttrNumber *
match_columns(Query *query, Relation source, Relation target)
{
	AttrNumber *attnums = palloc(sizeof(AttrNumber) * list_length(query->targetList));
	ParseState *pstate = make_parsestate(NULL);
	StringInfoData problems;
	ListCell *lc;
	int n = 0;

	initStringInfo(&problems);
	foreach (lc, query->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		AttrNumber attnum = get_attnum(RelationGetRelid(target), entry->resname);
		Form_pg_attribute att;
		Node *expr;

		if (attnum <= 0)
		{
			appendStringInfo(&problems, "%sColumn \"%s\" does not exist in the target.",
							 problems.len ? "\n" : "", entry->resname);
			continue;
		}
		att = TupleDescAttr(RelationGetDescr(target), attnum - 1);
		if (att->attgenerated)
		{
			appendStringInfo(&problems, "%sColumn \"%s\" is a generated column in the target.",
							 problems.len ? "\n" : "", entry->resname);
			continue;
		}
		expr = coerce_to_target_type(pstate, (Node *) entry->expr, exprType((Node *) entry->expr),
									 att->atttypid, att->atttypmod, COERCION_ASSIGNMENT,
									 COERCE_IMPLICIT_CAST, -1);
		if (expr == NULL)
		{
			appendStringInfo(&problems,
							 "%sColumn \"%s\" is of type %s in the source and %s in the target.",
							 problems.len ? "\n" : "", entry->resname,
							 format_type_be(exprType((Node *) entry->expr)),
							 format_type_be(att->atttypid));
			continue;
		}
		entry->expr = (Expr *) expr;
		attnums[n++] = attnum;
	}
	free_parsestate(pstate);
	if (problems.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the columns of \"%s\" do not fit into \"%s\"",
						RelationGetRelationName(source), RelationGetRelationName(target)),
				 errdetail_internal("%s", problems.data),
				 errhint(
					 "Columns are matched by name; a view can rename, cast or leave out columns.")));
	return attnums;
}

/* Open the unique index that upsert uses. */
static Relation
open_key_index(Relation target, Oid key_index)
{
	Relation index;

	if (target->rd_rel->relkind != RELKIND_RELATION &&
		target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("mode \"upsert\" needs a table, and \"%s\" is not one",
							   RelationGetRelationName(target))));
	if (!OidIsValid(key_index))
		key_index = mill_primary_key_index(target);
	if (!OidIsValid(key_index))
		ereport(ERROR, (errcode(ERRCODE_INVALID_TABLE_DEFINITION),
						errmsg("mode \"upsert\" needs a primary key, and \"%s\" has none",
							   RelationGetRelationName(target)),
						errhint("Add a primary key, or name a unique index: key_index => '...'.")));
	index = index_open(key_index, AccessShareLock);
	if (index->rd_index->indrelid != RelationGetRelid(target) || !index->rd_index->indisunique ||
		!index->rd_index->indimmediate || !index->rd_index->indisvalid ||
		RelationGetIndexExpressions(index) != NIL || RelationGetIndexPredicate(index) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("index \"%s\" cannot be the key of \"%s\"", RelationGetRelationName(index),
						RelationGetRelationName(target)),
				 errdetail(
					 "It must be a unique, valid and immediate index of the target on plain columns, without WHERE.")));
	return index;
}

/* Find the key's columns among those of the source. */
static void
find_key_columns(MillWriteSpec *spec, Relation target, Oid key_index)
{
	Relation index = open_key_index(target, key_index);

	spec->nkeys = index->rd_index->indnkeyatts;
	spec->keys = palloc(sizeof(int) * spec->nkeys);
	for (int k = 0; k < spec->nkeys; k++)
	{
		AttrNumber attnum = index->rd_index->indkey.values[k];

		spec->keys[k] = -1;
		for (int i = 0; i < spec->ncolumns; i++)
		{
			if (spec->attnums[i] == attnum)
				spec->keys[k] = i;
		}
		if (spec->keys[k] < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("key column \"%s\" of \"%s\" is not among the columns of the source",
							get_attname(RelationGetRelid(target), attnum, false),
							RelationGetRelationName(target))));
	}
	index_close(index, NoLock);
}

static void
check_kinds(Relation source, Relation target)
{
	if (source->rd_rel->relkind != RELKIND_FOREIGN_TABLE && source->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a stream or a view of one", RelationGetRelationName(source)),
				 errhint(
					 "A stream is a foreign table on a server of the foreign data wrapper kafka.")));
	switch (target->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_VIEW:
		case RELKIND_FOREIGN_TABLE:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"%s\" cannot be the target of a pipeline",
							RelationGetRelationName(target)),
					 errdetail(
						 "A target is a table, a partitioned table, an updatable view or a foreign table.")));
	}
	if (target->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is a temporary table, which no other session can see",
							   RelationGetRelationName(target))));
}

/* MillWriteSpec.is_delete: the ordinal identifies the row's message. */
static bool
is_delete(ItemPointer ordinal, void *batch)
{
	Assert(ItemPointerGetBlockNumber(ordinal) < ((MillBatch *) batch)->count);
	return ((MillBatch *) batch)->deletes[ItemPointerGetBlockNumber(ordinal)];
}

/* In mode upsert a tombstone is a delete, else what the stream's option says. */
void
mill_source_init_batch(const MillSource *source, MillBatch *batch)
{
	batch->stream = source->stream->layout.relid;
	batch->tombstone = source->spec.upsert ? MILL_TOMBSTONE_NULLS : source->stream->tombstone;
}

static void
count_invalidation(Datum arg, Oid relid)
{
	invalidations++;
}

static void
count_syscache_invalidation(Datum arg, int cacheid, uint32 hashvalue)
{
	invalidations++;
}

/* A source, and the number of invalidations when its plan was made. */
typedef struct PreparedSource
{
	MillSource source;
	uint64 seen;
} PreparedSource;

MillSource *
mill_source_prepare(MemoryContext parent, Oid owner, Oid source_oid, Oid target_oid, bool upsert,
					Oid key_index)
{
	MemoryContext context = AllocSetContextCreate(parent, "pg_mill source", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	PreparedSource *prepared = palloc0(sizeof(PreparedSource));
	MillSource *result = &prepared->source;
	Relation source;
	Relation target;
	List *streams = NIL;
	Query *query;

	mill_require_owner(owner);
	mill_lock_relation(source_oid, AccessShareLock);
	mill_lock_relation(target_oid, AccessShareLock);
	source = relation_open(source_oid, NoLock);
	target = relation_open(target_oid, NoLock);
	if (!callbacks_registered)
	{
		CacheRegisterRelcacheCallback(count_invalidation, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, count_syscache_invalidation, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, count_syscache_invalidation, (Datum) 0);
		CacheRegisterSyscacheCallback(FOREIGNSERVEROID, count_syscache_invalidation, (Datum) 0);
		CacheRegisterSyscacheCallback(USERMAPPINGOID, count_syscache_invalidation, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, count_syscache_invalidation, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHOID, count_syscache_invalidation, (Datum) 0);
		CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, count_syscache_invalidation, (Datum) 0);
		callbacks_registered = true;
	}
	prepared->seen = invalidations;

	check_kinds(source, target);
	mill_pipeline_check_superuser(owner, source_oid, target_oid);
	query = select_all(source);
	result->context = context;
	result->spec.target = target_oid;
	result->spec.ncolumns = list_length(query->targetList);
	result->spec.attnums = match_columns(query, source, target);
	result->spec.upsert = upsert;
	result->spec.is_delete = is_delete;
	if (upsert)
		find_key_columns(&result->spec, target, key_index);

	query = linitial_node(Query, QueryRewrite(query));
	collect_streams((Node *) query, &streams);
	if (list_length(streams) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the source of a pipeline must read one stream once, and \"%s\" reads %d",
						RelationGetRelationName(source), list_length(streams)),
				 errhint("Give each stream a pipeline of its own.")));
	if (add_ordinal(query) == 0)
		refuse_source("its stream in a subquery expression or a WITH query");
	result->stream = mill_stream_load(linitial_oid(streams));
	result->spec.source = BlessTupleDesc(ExecCleanTypeFromTL(query->targetList));
	result->plan = pg_plan_query(query, "pg_mill source", CURSOR_OPT_NO_SCROLL, NULL);

	relation_close(source, NoLock);
	relation_close(target, NoLock);
	MemoryContextSwitchTo(old);
	return result;
}

bool
mill_source_is_valid(const MillSource *source)
{
	return ((const PreparedSource *) source)->seen == invalidations;
}

bool
mill_source_lock(MillSource *source)
{
	ListCell *lc;

	Assert(IsTransactionState());
	mill_lock_relation(source->spec.target, RowExclusiveLock);
	foreach (lc, source->plan->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION)
			mill_lock_relation(rte->relid, rte->rellockmode);
	}
	AcceptInvalidationMessages();
	return mill_source_is_valid(source);
}
