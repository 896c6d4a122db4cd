/*
 * catalog.c
 *		Access to the tables of mill_catalog, as the extension's owner.
 *
 * Users have no rights on these tables, because workers do what their rows
 * say.  Functions check the user's rights, then act as the extension's owner,
 * with a safe search_path, for one fixed statement.  What a user wrote never
 * runs like that, but as its owner: see mill_as_owner.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "core/catalog.h"
#include "core/slot.h"

PG_FUNCTION_INFO_V1(mill_system_identifier);

/* The extension's oid; InvalidOid if this database does not have it. */
Oid
mill_extension(void)
{
	return get_extension_oid("pg_mill", true);
}

/*
 * The function's oid if the node calls mill.<name>, else InvalidOid.  Also asked by planner
 * hooks, so in databases without the extension, where others may have such a function.
 */
Oid
mill_function_of_ours(Node *node, const char *name)
{
	Oid function = InvalidOid;
	Oid extension;
	char *called;
	char *schema;

	if (node && IsA(node, FuncExpr))
		function = ((FuncExpr *) node)->funcid;
	else if (node && IsA(node, WindowFunc))
		function = ((WindowFunc *) node)->winfnoid;
	else if (node && IsA(node, Aggref))
		function = ((Aggref *) node)->aggfnoid;
	/* it may be dropped meanwhile: the planner does not lock functions */
	called = OidIsValid(function) ? get_func_name(function) : NULL;
	if (called == NULL || strcmp(called, name) != 0)
		return InvalidOid;
	schema = get_namespace_name(get_func_namespace(function));
	if (schema == NULL || strcmp(schema, "mill") != 0)
		return InvalidOid;
	extension = mill_extension();
	return OidIsValid(extension) && getExtensionOfObject(ProcedureRelationId, function) == extension
			   ? function
			   : InvalidOid;
}

/* Raise the error of a regclass that is none, as it comes of a number. */
_Noreturn void
mill_no_such_relation(Oid relid)
{
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
					errmsg("relation with OID %u does not exist", relid)));
}

/* The owner of a relation, which must exist. */
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
 * Run the function as a role, with a safe search_path.  At its end all settings
 * that it changed are restored.  If it raises an error the user is restored
 * here, and the settings by the abort of the (sub)transaction that whoever
 * catches the error must do.
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
 * Run a function that may run user code, as the owner of that code; in a
 * transaction.  Like REFRESH MATERIALIZED VIEW it is a security-restricted
 * operation, so that the code leaves nothing behind in the session.  Not in a
 * worker whose session belongs to that role, where there is nobody to protect
 * and a target's deferred triggers, which the restriction forbids, must work.
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
 * user wrote may run in it: it plans no view and touches no user's row.
 */
void
mill_as_extension(void (*function)(void *arg), void *arg)
{
	act_as(extension_owner(), SECURITY_LOCAL_USERID_CHANGE, function, arg);
}

/* Check that we act as this role, whose code is about to run. */
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
		SPIPlanPtr plan = SPI_prepare_cursor(statement->sql, statement->nargs, statement->types,
											 statement->generic_plan ? CURSOR_OPT_GENERIC_PLAN : 0);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare \"%s\": %s", statement->sql,
				 SPI_result_code_string(SPI_result));
		statement->plan = plan;
	}
	code = SPI_execute_snapshot(statement->plan, (Datum *) run->values, run->nulls,
								GetLatestSnapshot(), InvalidSnapshot, false, true, 0);
	if (code != run->expected)
		elog(ERROR, "unexpected result of \"%s\": %s", statement->sql, SPI_result_code_string(code));
}

/*
 * Run a fixed statement as the extension's owner and return the number of
 * rows.  SPI must be connected; a result is in SPI_tuptable.  Expected is the
 * statement's SPI_OK_ code.
 */
uint64
mill_run(MillStatement *statement, int expected, const Datum *values, const char *nulls)
{
	Run run = {statement, expected, values, nulls};

	Assert(statement->nargs >= 0 && statement->nargs <= lengthof(statement->types));
	Assert(statement->nargs == 0 || values);

	mill_as_extension(run_statement, &run);
	return SPI_processed;
}

/* A column (from 1) of a result row as text, NULL if null; in SPI's memory context. */
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
 * SQL: mill_catalog.system_identifier().  Pipelines store it, so that a copy of
 * the database on another server is recognized as one.
 */
Datum
mill_system_identifier(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) GetSystemIdentifier());
}

/* Raise an error if this argument of an SQL function is NULL. */
void
mill_require_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("argument \"%s\" must not be null", name)));
}

/*
 * The body of a trigger AFTER DELETE FOR EACH ROW: run statements whose only
 * parameter is the bigint id of the deleted row.  Replaces foreign keys, and
 * like those sees what is committed, whatever the isolation level.
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
