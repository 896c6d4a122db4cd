/*
 * catalog.h
 *		Access to the tables of mill_catalog, as the extension's owner.
 */
#ifndef MILL_CORE_CATALOG_H
#define MILL_CORE_CATALOG_H

#include "executor/spi.h"
#include "utils/elog.h"
#include "utils/timestamp.h"

/* Where our SQL looks for functions and operators. */
#define MILL_SEARCH_PATH "pg_catalog, pg_temp"

/* Who we were before mill_become or mill_become_owner. */
typedef struct MillIdentity
{
	Oid user;
	int security;
	int guc_level; /* 0: search_path was safe already */
} MillIdentity;

/* A fixed statement and its kept plan; one static variable each. */
typedef struct MillStatement
{
	const char *sql;
	int nargs;
	Oid types[16];
	bool current_snapshot; /* run in the active snapshot, see no change of our own */
	SPIPlanPtr plan;
} MillStatement;

extern Oid mill_extension(void);
extern Oid mill_relation_owner(Oid relid);
extern void mill_become(Oid role, MillIdentity *before);
extern void mill_become_owner(MillIdentity *before);
extern void mill_become_again(const MillIdentity *before);
extern uint64 mill_run(MillStatement *statement, int expected, const Datum *values, const char *nulls);
extern char *mill_text(int row, int column);
extern Datum mill_value(int row, int column, bool *isnull);

extern void mill_error_record(const char *kind, int64 object_id, const ErrorData *error, TimestampTz retry_at);

#endif
