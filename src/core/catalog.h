/*
 * catalog.h
 *		Access to the tables of mill_catalog, as the extension's owner.
 */
#ifndef MILL_CORE_CATALOG_H
#define MILL_CORE_CATALOG_H

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/elog.h"
#include "utils/timestamp.h"

/* The search_path of our own SQL. */
#define MILL_SEARCH_PATH "pg_catalog, pg_temp"

/*
 * A fixed statement and its kept plan; declared as a static variable.  As core does with
 * its catalogs it sees what is committed and what this transaction did, whatever the
 * isolation level: what an old snapshot does not know exists all the same.
 */
typedef struct MillStatement
{
	const char *sql;
	int nargs;
	Oid types[16];
	bool generic_plan; /* plan once, for any parameters: they say nothing of the rows */
	SPIPlanPtr plan;
} MillStatement;

extern Oid mill_extension(void);
extern Oid mill_function_of_ours(Node *node, const char *name);
extern _Noreturn void mill_no_such_relation(Oid relid);
extern Oid mill_relation_owner(Oid relid);

/*
 * The only ways to act as another role.  mill_as_owner is for what a user
 * wrote: planning or running that user's view, query or default, as the role
 * that owns it, whoever called us, in a security-restricted operation.
 * mill_require_owner checks that a function is called in that way.
 * mill_as_extension is for our own statements, in which nothing that a user
 * wrote is planned or run.
 */
extern void mill_as_owner(Oid role, void (*function)(void *arg), void *arg);
extern void mill_as_extension(void (*function)(void *arg), void *arg);
extern void mill_require_owner(Oid role);

extern uint64 mill_run(MillStatement *statement, int expected, const Datum *values,
					   const char *nulls);
extern char *mill_text(int row, int column);
extern Datum mill_value(int row, int column, bool *isnull);

/* Raise an error if an argument of an SQL function is NULL; its number and name. */
extern void mill_require_argument(FunctionCallInfo fcinfo, int number, const char *name);

/* The body of a trigger AFTER DELETE FOR EACH ROW: statements with the row's id as $1. */
extern Datum mill_delete_dependents(FunctionCallInfo fcinfo, MillStatement *deletes, int count);

#endif
