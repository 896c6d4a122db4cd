/*
 * insert.c
 *		The executor path for appending: rows are kept in a tuplestore, then
 *		inserted by one INSERT.
 *
 * For all targets that INSERT accepts and the bulk path does not.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "write/write_path.h"

#define BATCH "mill_batch"

struct MillInsert
{
	Relation target;
	const MillWriteSpec *spec;
	Tuplestorestate *rows;
	uint64 count;
};

MillInsert *
mill_insert_begin(Relation target, const MillWriteSpec *spec)
{
	MillInsert *insert = palloc0_object(MillInsert);

	insert->target = target;
	insert->spec = spec;
	insert->rows = tuplestore_begin_heap(false, false, work_mem);
	return insert;
}

void
mill_insert_row(MillInsert *insert, TupleTableSlot *row)
{
	CHECK_FOR_INTERRUPTS();
	tuplestore_puttupleslot(insert->rows, row);
	insert->count++;
}

uint64
mill_insert_end(MillInsert *insert)
{
	StringInfoData sql;
	uint64 changed;

	initStringInfo(&sql);
	mill_statement_insert(&sql, insert->target, insert->spec, BATCH);
	changed = mill_statement_run(sql.data, BATCH,
								 mill_statement_desc(insert->target, insert->spec, 0), insert->rows,
								 insert->count, false);
	tuplestore_end(insert->rows);
	return changed;
}
