/*
 * direct.h
 *		Capture statements whose executor is started once a session.
 */
#ifndef MILL_AGGREGATE_DIRECT_H
#define MILL_AGGREGATE_DIRECT_H

#include "access/tupdesc.h"
#include "utils/tuplestore.h"

/* The names of the transition tables in statements of capture. */
#define MILL_NEW_ROWS "mill_new"
#define MILL_OLD_ROWS "mill_old"

typedef struct MillDirect MillDirect;

/*
 * Start the plan of a capture statement, an INSERT into the delta table, over
 * rows of the given columns.  NULL if it must go through SPI: it reads other tables,
 * may run other people's code, or the delta table is not as we made it.  In a
 * transaction, as the aggregate's owner, with the transition tables of this
 * change; those that the statement does not name are NULL.  What is returned
 * lives in a context below parent, and outlives the transaction.
 */
extern MillDirect *mill_direct_start(const char *statement, Oid delta, TupleDesc row,
									 Tuplestorestate *old, Tuplestorestate *new,
									 MemoryContext parent);

/*
 * Write the deltas of a change; false, and nothing is written, if the delta table
 * is no longer as we made it.  No user's code is run, so it does not matter
 * who the current user is.  After an error it is broken, and must be ended and started anew.
 */
extern bool mill_direct_run(MillDirect *d, Tuplestorestate *old, Tuplestorestate *new);
extern bool mill_direct_is_broken(const MillDirect *d);
extern void mill_direct_end(MillDirect *d);

#endif
