/*
 * upsert.c
 *		Applies the last change of each key of a batch to a target.
 *
 * Rows are sorted by key and, within a key, latest first (the ordinal grows
 * with arrival); the first row of each key counts, the others are dropped.
 * Then one statement deletes the keys whose last change is a tombstone, and one
 * inserts or updates the others.  Deletes go first, since they may free values
 * of the target's other unique indexes.  Both work in key order, so that
 * workers with the same keys wait for each other instead of deadlocking.
 *
 * Keys are equal by the operators and collations of the target's unique index;
 * for a view or foreign table, by those of the column's type.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/tuplesort.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "write/write_path.h"

#define LIVE "mill_batch"
#define GONE "mill_gone"

typedef struct Key
{
	AttrNumber column; /* of the source */
	Oid less;
	Oid equal;
	Oid collation;
	FmgrInfo same;
} Key;

struct MillUpsert
{
	Relation target;
	const MillWriteSpec *spec;
	TupleDesc desc; /* the source's columns, and a boolean: is it a tombstone? */
	Key *keys;
	Tuplesortstate *sort;
	TupleTableSlot *slot; /* for building rows of desc */
};

/* ---- keys ---- */

/* Which column of the index this key is; -1 if it is not in the index. */
static int
index_position(Relation index, const MillWriteSpec *spec, int key)
{
	for (int i = 0; i < spec->nkeys; i++)
		if (index->rd_index->indkey.values[i] == spec->attnums[spec->keys[key]])
			return i;
	return -1;
}

static bool
index_fits(Relation index, const MillWriteSpec *spec)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisunique || !form->indisvalid || !form->indimmediate ||
		form->indnkeyatts != spec->nkeys || index->rd_rel->relam != BTREE_AM_OID ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return false;
	for (int key = 0; key < spec->nkeys; key++)
		if (index_position(index, spec, key) < 0)
			return false;
	return true;
}

/* The target's unique index on exactly the keys, locked; NULL if there is none. */
static Relation
open_unique_index(Relation target, const MillWriteSpec *spec)
{
	List *oids;
	ListCell *cell;

	if (target->rd_rel->relkind != RELKIND_RELATION &&
		target->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return NULL;
	oids = RelationGetIndexList(target);
	foreach (cell, oids)
	{
		Relation index = index_open(lfirst_oid(cell), AccessShareLock);

		if (index_fits(index, spec))
			return index;
		index_close(index, AccessShareLock);
	}
	return NULL;
}

static void
set_key(MillUpsert *upsert, Relation index, int number)
{
	const MillWriteSpec *spec = upsert->spec;
	Key *key = &upsert->keys[number];
	Form_pg_attribute column;
	Form_pg_attribute source;

	key->column = spec->keys[number] + 1;
	column = TupleDescAttr(RelationGetDescr(upsert->target), spec->attnums[key->column - 1] - 1);
	source = TupleDescAttr(spec->source, key->column - 1);
	if (source->atttypid != column->atttypid)
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("key column \"%s\" is of type %s but the rows have type %s",
							   NameStr(column->attname), format_type_be(column->atttypid),
							   format_type_be(source->atttypid))));

	if (index != NULL)
	{
		int position = index_position(index, spec, number);
		Oid family = index->rd_opfamily[position];
		Oid type = index->rd_opcintype[position];

		key->less = get_opfamily_member(family, type, type, BTLessStrategyNumber);
		key->equal = get_opfamily_member(family, type, type, BTEqualStrategyNumber);
		key->collation = index->rd_indcollation[position];
	}
	else
	{
		TypeCacheEntry *type = lookup_type_cache(column->atttypid,
												 TYPECACHE_LT_OPR | TYPECACHE_EQ_OPR);

		key->less = type->lt_opr;
		key->equal = type->eq_opr;
		key->collation = column->attcollation;
	}
	if (!OidIsValid(key->less) || !OidIsValid(key->equal))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("key column \"%s\" of type %s cannot be ordered",
							   NameStr(column->attname), format_type_be(column->atttypid))));
	fmgr_info(get_opcode(key->equal), &key->same);
}

/* ---- begin, row ---- */

static Tuplesortstate *
begin_sort(MillUpsert *upsert)
{
	int nkeys = upsert->spec->nkeys;
	AttrNumber *columns = palloc_array(AttrNumber, nkeys + 1);
	Oid *operators = palloc_array(Oid, nkeys + 1);
	Oid *collations = palloc0_array(Oid, nkeys + 1);
	bool *nulls_first = palloc0_array(bool, nkeys + 1);

	for (int i = 0; i < nkeys; i++)
	{
		columns[i] = upsert->keys[i].column;
		operators[i] = upsert->keys[i].less;
		collations[i] = upsert->keys[i].collation;
	}
	columns[nkeys] = upsert->spec->source->natts;
	operators[nkeys] = TIDGreaterOperator;
	return tuplesort_begin_heap(upsert->desc, nkeys + 1, columns, operators, collations,
								nulls_first, work_mem, NULL, TUPLESORT_NONE);
}

MillUpsert *
mill_upsert_begin(Relation target, const MillWriteSpec *spec)
{
	MillUpsert *upsert = palloc0_object(MillUpsert);
	Relation index = open_unique_index(target, spec);

	upsert->target = target;
	upsert->spec = spec;
	upsert->keys = palloc0_array(Key, spec->nkeys);
	for (int i = 0; i < spec->nkeys; i++)
		set_key(upsert, index, i);
	if (index != NULL)
		index_close(index, NoLock);

	upsert->desc = mill_statement_desc(target, spec, 1);
	TupleDescInitEntry(upsert->desc, upsert->desc->natts, "is_tombstone", BOOLOID, -1, 0);
	upsert->slot = MakeSingleTupleTableSlot(upsert->desc, &TTSOpsVirtual);
	upsert->sort = begin_sort(upsert);
	return upsert;
}

static void
refuse_null_key(MillUpsert *upsert, const Key *key, bool is_tombstone)
{
	Form_pg_attribute column = TupleDescAttr(RelationGetDescr(upsert->target),
											 upsert->spec->attnums[key->column - 1] - 1);

	ereport(ERROR,
			(errcode(ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("key column \"%s\" is null", NameStr(column->attname)),
			 errdetail(
				 "A row that is inserted, updated or deleted by its key needs all columns of the key."),
			 is_tombstone
				 ? errhint(
					   "The message is a tombstone: it has no value, so the key must come from metadata 'key' of the stream.")
				 : 0,
			 errtablecol(upsert->target, upsert->spec->attnums[key->column - 1])));
}

void
mill_upsert_row(MillUpsert *upsert, TupleTableSlot *row)
{
	const MillWriteSpec *spec = upsert->spec;
	int natts = spec->source->natts;
	TupleTableSlot *slot = upsert->slot;
	bool is_tombstone;

	CHECK_FOR_INTERRUPTS();
	if (row->tts_isnull[natts - 1])
		elog(ERROR, "a row has no ordinal");
	is_tombstone = spec->is_delete != NULL &&
				   spec->is_delete((ItemPointer) DatumGetPointer(row->tts_values[natts - 1]),
								   spec->batch);
	for (int i = 0; i < spec->nkeys; i++)
		if (row->tts_isnull[upsert->keys[i].column - 1])
			refuse_null_key(upsert, &upsert->keys[i], is_tombstone);

	ExecClearTuple(slot);
	memcpy(slot->tts_values, row->tts_values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, row->tts_isnull, natts * sizeof(bool));
	slot->tts_values[natts] = BoolGetDatum(is_tombstone);
	slot->tts_isnull[natts] = false;
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(upsert->sort, slot);
}

/* ---- end ---- */

static bool
same_key(MillUpsert *upsert, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < upsert->spec->nkeys; i++)
	{
		Key *key = &upsert->keys[i];
		bool isnull;

		if (!DatumGetBool(FunctionCall2Coll(&key->same, key->collation,
											slot_getattr(a, key->column, &isnull),
											slot_getattr(b, key->column, &isnull))))
			return false;
	}
	return true;
}

/* Distribute the first row of each key to the two stores; counts rows in each. */
static void
pick_last_changes(MillUpsert *upsert, Tuplestorestate *live, uint64 *nlive, Tuplestorestate *gone,
				  uint64 *ngone)
{
	TupleTableSlot *row = MakeSingleTupleTableSlot(upsert->desc, &TTSOpsMinimalTuple);
	TupleTableSlot *last = MakeSingleTupleTableSlot(upsert->desc, &TTSOpsMinimalTuple);

	tuplesort_performsort(upsert->sort);
	while (tuplesort_gettupleslot(upsert->sort, true, true, row, NULL))
	{
		TupleTableSlot *other = last;
		bool isnull;

		CHECK_FOR_INTERRUPTS();
		if (!TTS_EMPTY(last) && same_key(upsert, last, row))
			continue;
		if (DatumGetBool(slot_getattr(row, upsert->desc->natts, &isnull)))
		{
			tuplestore_puttupleslot(gone, row);
			(*ngone)++;
		}
		else
		{
			tuplestore_puttupleslot(live, row);
			(*nlive)++;
		}
		last = row;
		row = other;
	}
	ExecDropSingleTupleTableSlot(row);
	ExecDropSingleTupleTableSlot(last);
	tuplesort_end(upsert->sort);
}

static const char *
column_name(MillUpsert *upsert, int column)
{
	return quote_identifier(NameStr(
		TupleDescAttr(RelationGetDescr(upsert->target), upsert->spec->attnums[column] - 1)->attname));
}

/* The index's equality operator and collation for a key, written out in full. */
static void
append_key_equality(MillUpsert *upsert, StringInfo sql, const Key *key)
{
	HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(key->equal));
	Form_pg_operator operator;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", key->equal);
	operator=(Form_pg_operator) GETSTRUCT(tuple);
	appendStringInfo(sql, "t.%s OPERATOR(%s.%s) g.c%d", column_name(upsert, key->column - 1),
					 quote_identifier(get_namespace_name(operator->oprnamespace)),
					 NameStr(operator->oprname), key->column);
	ReleaseSysCache(tuple);
	if (OidIsValid(key->collation))
		appendStringInfo(sql, " COLLATE %s", generate_collation_name(key->collation));
}

/* Condition: a row of the target has the key of row g. */
static void
append_keys(MillUpsert *upsert, StringInfo sql)
{
	for (int i = 0; i < upsert->spec->nkeys; i++)
	{
		appendStringInfoString(sql, i == 0 ? "" : " AND ");
		append_key_equality(upsert, sql, &upsert->keys[i]);
	}
}

/* like INSERT, use a table without its children */
static char *
target_name(MillUpsert *upsert)
{
	Relation target = upsert->target;

	return psprintf("%s%s", target->rd_rel->relkind == RELKIND_RELATION ? "ONLY " : "",
					quote_qualified_identifier(get_namespace_name(RelationGetNamespace(target)),
											   RelationGetRelationName(target)));
}

/* ---- a message that is late ---- */

typedef struct LateRow
{
	const MillGuard *guard;
	bool is_tombstone;
} LateRow;

static void
refuse_late(const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the message is late: %s", why),
			 errdetail("Applying it now could bring an older value, or a delete, over a newer one."),
			 errhint(
				 "Write it all the same with mill.retry_dead_letters(..., force => true), or give it up with mill.delete_dead_letters.")));
}

/*
 * Called with the target's row of the key, if any, to compare its xmin.  Rows
 * written by this transaction since the retry began are of older letters.
 */
static void
check_late_row(HeapTuple row, TupleDesc desc, void *arg)
{
	const LateRow *late = arg;
	bool absent;
	TransactionId xmin = DatumGetTransactionId(SPI_getbinval(row, desc, 1, &absent));

	if (absent)
	{
		if (!late->is_tombstone && (!late->guard->known || late->guard->deletes_since))
			refuse_late("its key is not in the target, and may have been deleted since");
		return;
	}
	if (TransactionIdIsCurrentTransactionId(xmin) &&
		TransactionIdFollowsOrEquals(xmin, late->guard->begun))
		return;
	if (!late->guard->known ||
		(TransactionIdIsNormal(xmin) && !TransactionIdPrecedes(xmin, late->guard->before)))
		refuse_late("a row with its key was written since, or may have been");
}

static void
check_late(MillUpsert *upsert, const char *name, Tuplestorestate *rows, bool is_tombstone)
{
	LateRow late = {upsert->spec->guard, is_tombstone};
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT t.xmin FROM %s AS g LEFT JOIN %s AS t ON ", name,
					 target_name(upsert));
	append_keys(upsert, &sql);
	mill_statement_each(sql.data, name, upsert->desc, rows, check_late_row, &late);
	tuplestore_rescan(rows);
}

static uint64
delete_gone(MillUpsert *upsert, Tuplestorestate *gone, uint64 count)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "DELETE FROM %s AS t USING " GONE " AS g WHERE ", target_name(upsert));
	append_keys(upsert, &sql);
	return mill_statement_run(sql.data, GONE, upsert->desc, gone, count, true);
}

static uint64
upsert_live(MillUpsert *upsert, Tuplestorestate *live, uint64 count)
{
	const MillWriteSpec *spec = upsert->spec;
	Bitmapset *keys = NULL;
	StringInfoData sql;
	bool first = true;

	initStringInfo(&sql);
	mill_statement_insert(&sql, upsert->target, spec, LIVE);
	appendStringInfoString(&sql, " ON CONFLICT (");
	for (int i = 0; i < spec->nkeys; i++)
	{
		appendStringInfo(&sql, "%s%s", i == 0 ? "" : ", ", column_name(upsert, spec->keys[i]));
		keys = bms_add_member(keys, spec->keys[i]);
	}
	appendStringInfoString(&sql, ") DO ");
	for (int i = 0; i < spec->ncolumns; i++)
	{
		if (bms_is_member(i, keys))
			continue;
		appendStringInfo(&sql, "%s%s = EXCLUDED.%s", first ? "UPDATE SET " : ", ",
						 column_name(upsert, i), column_name(upsert, i));
		first = false;
	}
	if (first)
		appendStringInfoString(&sql, "NOTHING");
	return mill_statement_run(sql.data, LIVE, upsert->desc, live, count, false);
}

uint64
mill_upsert_end(MillUpsert *upsert)
{
	Tuplestorestate *live = tuplestore_begin_heap(false, false, work_mem);
	Tuplestorestate *gone = tuplestore_begin_heap(false, false, work_mem);
	uint64 nlive = 0;
	uint64 ngone = 0;
	uint64 changed = 0;

	pick_last_changes(upsert, live, &nlive, gone, &ngone);
	if (upsert->spec->guard)
	{
		check_late(upsert, GONE, gone, true);
		check_late(upsert, LIVE, live, false);
	}
	if (ngone > 0)
		changed += delete_gone(upsert, gone, ngone);
	if (nlive > 0)
		changed += upsert_live(upsert, live, nlive);
	tuplestore_end(gone);
	tuplestore_end(live);
	return changed;
}
