/*
 * catalog.c
 *		Access to the tables of mill_catalog, as the extension's owner.
 *
 * Users have no rights on these tables: a row in them is an order to a worker.
 * Functions check the user's rights, then become the extension's owner, with a
 * safe search_path, for the length of one fixed statement.  An error on the way
 * restores the user with the (sub)transaction that it aborts.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "core/catalog.h"

PG_FUNCTION_INFO_V1(mill_system_identifier);

/* The extension's oid, InvalidOid if the database lacks it. */
Oid
mill_extension(void)
{
	return get_extension_oid("pg_mill", true);
}

/* The owner of a relation that exists. */
Oid
mill_relation_owner(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static Oid
extension_owner(void)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	Oid owner = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("pg_mill"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (!OidIsValid(owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"pg_mill\" does not exist in this database")));
	return owner;
}

/* Take on a role with a safe search_path. */
static void
become(Oid role, int security, MillIdentity *before)
{
	GetUserIdAndSecContext(&before->user, &before->security);
	SetUserIdAndSecContext(role, before->security | security);
	before->guc_level = 0;
	if (strcmp(namespace_search_path, MILL_SEARCH_PATH) != 0)
	{
		before->guc_level = NewGUCNestLevel();
		(void) set_config_option("search_path", MILL_SEARCH_PATH, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	}
}

/*
 * Become the extension's owner until mill_become_again; in a transaction.
 * Nothing that a user wrote may run in between.
 */
void
mill_become_owner(MillIdentity *before)
{
	become(extension_owner(), SECURITY_LOCAL_USERID_CHANGE, before);
}

/*
 * Become the owner of an object until mill_become_again, to run what he wrote:
 * as REFRESH MATERIALIZED VIEW does, so that nothing outlives the statement.
 */
void
mill_become(Oid role, MillIdentity *before)
{
	become(role, SECURITY_RESTRICTED_OPERATION, before);
}

void
mill_become_again(const MillIdentity *before)
{
	if (before->guc_level)
		AtEOXact_GUC(false, before->guc_level);
	SetUserIdAndSecContext(before->user, before->security);
}

/*
 * Run a fixed statement as the extension's owner and return the number of
 * rows.  SPI must be connected; a result is in SPI_tuptable.  Expected is the
 * SPI_OK_ code of the statement.
 */
uint64
mill_run(MillStatement *statement, int expected, const Datum *values, const char *nulls)
{
	MillIdentity before;
	int code;

	mill_become_owner(&before);
	if (statement->plan == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(statement->sql, statement->nargs, statement->types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", statement->sql, SPI_result_code_string(SPI_result));
		statement->plan = plan;
	}
	code = SPI_execute_plan(statement->plan, (Datum *) values, nulls, statement->current_snapshot, 0);
	if (code != expected)
		elog(ERROR, "unexpected result of \"%s\": %s", statement->sql, SPI_result_code_string(code));
	mill_become_again(&before);
	return SPI_processed;
}

/* A column (from 1) of a result row as text, NULL if null; in SPI's context. */
char *
mill_text(int row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

Datum
mill_value(int row, int column, bool *isnull)
{
	bool null;
	Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &null);

	if (isnull)
		*isnull = null;
	else if (null)
		elog(ERROR, "unexpected null in column %d", column);
	return value;
}

/*
 * Write down an error where its owner can read it: mill.errors.  In a
 * transaction of its own, after the failed one was aborted.  The same error
 * again only moves the time and counts.
 */
void
mill_error_record(const char *kind, int64 object_id, const ErrorData *error, TimestampTz retry_at)
{
	static MillStatement repeat = {
		.sql = "UPDATE mill_catalog.error SET at = clock_timestamp(), retry_at = $8,"
			   "  occurrences = occurrences + 1, detail = $5, context = $7"
			   " WHERE id = (SELECT max(e.id) FROM mill_catalog.error e"
			   "   WHERE e.object_kind = $1 AND e.object_id = $2)"
			   "  AND sqlstate = $3 AND message = $4"
			   "  AND hint IS NOT DISTINCT FROM $6",
		.nargs = 8,
		.types = {TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};
	static MillStatement insert = {
		.sql = "INSERT INTO mill_catalog.error (object_kind, object_id, sqlstate, message, detail, hint, context, retry_at)"
			   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
		.nargs = 8,
		.types = {TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};
	static MillStatement prune = {
		.sql = "DELETE FROM mill_catalog.error WHERE object_kind = $1 AND object_id = $2"
			   " AND id <= (SELECT e.id FROM mill_catalog.error e"
			   "  WHERE e.object_kind = $1 AND e.object_id = $2"
			   "  ORDER BY e.id DESC OFFSET 100 LIMIT 1)",
		.nargs = 2,
		.types = {TEXTOID, INT8OID}};
	const char *texts[8] = {kind, NULL, unpack_sql_state(error->sqlerrcode), error->message,
							error->detail, error->hint, error->context, NULL};
	Datum values[8];
	char nulls[8];

	for (int i = 0; i < 8; i++)
	{
		values[i] = texts[i] ? CStringGetTextDatum(texts[i]) : (Datum) 0;
		nulls[i] = texts[i] ? ' ' : 'n';
	}
	values[1] = Int64GetDatum(object_id);
	nulls[1] = ' ';
	values[7] = TimestampTzGetDatum(retry_at);
	nulls[7] = retry_at ? ' ' : 'n';

	SPI_connect();
	if (mill_run(&repeat, SPI_OK_UPDATE, values, nulls) == 0)
	{
		mill_run(&insert, SPI_OK_INSERT, values, nulls);
		mill_run(&prune, SPI_OK_DELETE, values, NULL);
	}
	SPI_finish();
}

/*
 * SQL: mill_catalog.system_identifier().  Rows remember it, so that a copy of
 * the database elsewhere does not take itself for the original.
 */
Datum
mill_system_identifier(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) GetSystemIdentifier());
}
