/*
 * catalog.c
 *		Access to the tables of mill_catalog, as the extension's owner.
 *
 * Users have no rights on these tables: a row in them is an order to a worker.
 * Functions check the user's rights, then act as the extension's owner, with a
 * safe search_path, for the length of one fixed statement.  What a user wrote
 * never runs so, but as himself: see mill_as_owner.
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
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "core/catalog.h"
#include "core/slot.h"

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
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("extension \"pg_mill\" does not exist in this database")));
	return owner;
}

/*
 * Run the function as a role, with a safe search_path.  Settings that it
 * changes, whatever they are, are undone at its end, and the user is restored
 * when it raises an error; settings then come back with the (sub)transaction
 * that whoever catches the error must abort.
 */
static void
act_as(Oid role, int security, void (*function)(void *arg), void *arg)
{
	Oid user_before;
	int security_before;
	int level = NewGUCNestLevel();

	Assert(OidIsValid(role) && function);
	Assert(IsTransactionState());
	GetUserIdAndSecContext(&user_before, &security_before);
	SetUserIdAndSecContext(role, security_before | security);
	PG_TRY();
	{
		if (strcmp(namespace_search_path, MILL_SEARCH_PATH) != 0)
			(void) set_config_option("search_path", MILL_SEARCH_PATH, PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_SAVE, true, 0, false);
		function(arg);
	}
	PG_CATCH();
	{
		SetUserIdAndSecContext(user_before, security_before);
		PG_RE_THROW();
	}
	PG_END_TRY();
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(user_before, security_before);
}

/*
 * Run a function in which user code may run, as the owner of that code; in a
 * transaction.  As REFRESH MATERIALIZED VIEW does, so that nothing outlives
 * it.  A worker whose session belongs to that role has nobody to protect from
 * it, and there a target's deferred triggers, which a restricted operation
 * forbids, must work.
 */
void
mill_as_owner(Oid role, void (*function)(void *arg), void *arg)
{
	bool own_session = mill_my_slot >= 0 && GetSessionUserId() == role && GetUserId() == role;

	act_as(role, own_session ? 0 : SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION,
		   function, arg);
}

/*
 * Run a function as the extension's owner; in a transaction.  Nothing that a
 * user wrote may run in it: no view is planned, no row of a user touched.
 */
void
mill_as_extension(void (*function)(void *arg), void *arg)
{
	act_as(extension_owner(), SECURITY_LOCAL_USERID_CHANGE, function, arg);
}

/* Code of this role is about to be run: by himself? */
void
mill_require_owner(Oid role)
{
	if (GetUserId() != role)
		elog(ERROR, "code of role %u would run as role %u", role, GetUserId());
}

typedef struct Run
{
	MillStatement *statement;
	int expected;
	const Datum *values;
	const char *nulls;
} Run;

static void
run_statement(void *arg)
{
	Run *run = arg;
	MillStatement *statement = run->statement;
	int code;

	if (statement->plan == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(statement->sql, statement->nargs, statement->types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", statement->sql,
				 SPI_result_code_string(SPI_result));
		statement->plan = plan;
	}
	if (statement->latest_snapshot)
		code = SPI_execute_snapshot(statement->plan, (Datum *) run->values, run->nulls,
									GetLatestSnapshot(), InvalidSnapshot, false, true, 0);
	else
		code = SPI_execute_plan(statement->plan, (Datum *) run->values, run->nulls,
								statement->current_snapshot, 0);
	if (code != run->expected)
		elog(ERROR, "unexpected result of \"%s\": %s", statement->sql, SPI_result_code_string(code));
}

/*
 * Run a fixed statement as the extension's owner and return the number of
 * rows.  SPI must be connected; a result is in SPI_tuptable.  Expected is the
 * SPI_OK_ code of the statement.
 */
uint64
mill_run(MillStatement *statement, int expected, const Datum *values, const char *nulls)
{
	Run run = {statement, expected, values, nulls};

	Assert(statement->nargs >= 0 && statement->nargs <= lengthof(statement->types));
	Assert(statement->nargs == 0 || values);
	Assert(!statement->current_snapshot || !statement->latest_snapshot);
	Assert(!statement->current_snapshot || ActiveSnapshotSet());

	mill_as_extension(run_statement, &run);
	return SPI_processed;
}

/* A column (from 1) of a result row as text, NULL if null; in SPI's context. */
char *
mill_text(int row, int column)
{
	Assert(SPI_tuptable && row >= 0 && (uint64) row < SPI_tuptable->numvals);
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

Datum
mill_value(int row, int column, bool *isnull)
{
	bool null;
	Datum value;

	Assert(SPI_tuptable && row >= 0 && (uint64) row < SPI_tuptable->numvals);
	Assert(column >= 1 && column <= SPI_tuptable->tupdesc->natts);
	value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &null);

	if (isnull)
		*isnull = null;
	else if (null)
		elog(ERROR, "unexpected null in column %d", column);
	return value;
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

/* An argument that must not be NULL, by its name. */
void
mill_require_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("argument \"%s\" must not be null", name)));
}

/*
 * Body of a trigger AFTER DELETE FOR EACH ROW: run statements whose one
 * parameter is the id, a bigint, of the row that is gone.  In place of foreign
 * keys; as those do, sees what is committed, whatever the isolation level.
 */
Datum
mill_delete_dependents(FunctionCallInfo fcinfo, MillStatement *deletes, int count)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc desc;
	Datum id;
	bool isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function was not called by a trigger after a row was deleted")));
	desc = RelationGetDescr(trigger->tg_relation);
	id = heap_getattr(trigger->tg_trigtuple, SPI_fnumber(desc, "id"), desc, &isnull);
	Assert(!isnull);
	SPI_connect();
	for (int i = 0; i < count; i++)
		mill_run(&deletes[i], SPI_OK_DELETE, &id, NULL);
	SPI_finish();
	return PointerGetDatum(NULL);
}
