/*
 * key_hash.c
 *		key_hash(...): a 64-bit hash of values of any types, consistent with
 *		their equality.
 *
 * It is used to find the group of a row.  Values that are equal by the default
 * equality of their type and by their collation have the same hash (1.0 and
 * 1.00, -0 and 0); NULL is equal to NULL.  Different values may have the same
 * hash, and all values of a type without a hash function do, so the caller
 * must compare the values as well.
 *
 * Runs in any backend.  Stored in generated columns, so it must never change.
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "nodes/primnodes.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "core/compat.h"

PG_FUNCTION_INFO_V1(mill_key_hash);

/* Any odd constants do: for NULL, and for a value of a type without a hash function. */
#define HASH_OF_NULL UINT64CONST(0x9e3779b97f4a7c15)
#define HASH_OF_UNHASHABLE UINT64CONST(0xbf58476d1ce4e5b9)

/* In fn_extra: the call of each argument's hash function, NULL when there is none. */
typedef struct CallSite
{
	int count;
	FunctionCallInfo calls[FLEXIBLE_ARRAY_MEMBER];
} CallSite;

/*
 * The collation of one argument.  The function's own input collation would be
 * derived from all arguments, but in the index and in GROUP BY each column has
 * its own.
 */
static Oid
argument_collation(FmgrInfo *flinfo, int number, Oid type)
{
	Node *expression = flinfo->fn_expr;
	Oid collation = InvalidOid;

	if (expression != NULL && IsA(expression, FuncExpr))
		collation = exprCollation(list_nth(((FuncExpr *) expression)->args, number));
	return OidIsValid(collation) ? collation : get_typcollation(type);
}

static FunctionCallInfo
make_hash_call(FmgrInfo *flinfo, int number)
{
	Oid type = get_fn_expr_argtype(flinfo, number);
	TypeCacheEntry *entry;
	FmgrInfo *function;
	FunctionCallInfo call;

	if (!OidIsValid(type))
		ereport(ERROR,
				(errcode(ERRCODE_INDETERMINATE_DATATYPE),
				 errmsg("could not determine data type of argument %d of key_hash", number + 1)));
	entry = lookup_type_cache(type, TYPECACHE_HASH_EXTENDED_PROC);
	if (!OidIsValid(entry->hash_extended_proc))
		return NULL;
	function = MemoryContextAlloc(flinfo->fn_mcxt, sizeof(FmgrInfo));
	fmgr_info_cxt(entry->hash_extended_proc, function, flinfo->fn_mcxt);
	call = MemoryContextAllocZero(flinfo->fn_mcxt, SizeForFunctionCallInfo(2));
	InitFunctionCallInfoData(*call, function, 2, argument_collation(flinfo, number, type), NULL,
							 NULL);
	call->args[0].isnull = false;
	call->args[1].value = Int64GetDatum(0); /* the seed */
	call->args[1].isnull = false;
	return call;
}

static CallSite *
make_call_site(FunctionCallInfo fcinfo)
{
	CallSite *site;

	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("key_hash does not take its arguments as a VARIADIC array"),
						errhint("Write the values one by one.")));
	site = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt,
							  offsetof(CallSite, calls) + PG_NARGS() * sizeof(FunctionCallInfo));
	site->count = PG_NARGS();
	for (int i = 0; i < site->count; i++)
		site->calls[i] = make_hash_call(fcinfo->flinfo, i);
	fcinfo->flinfo->fn_extra = site;
	return site;
}

Datum
mill_key_hash(PG_FUNCTION_ARGS)
{
	CallSite *site = fcinfo->flinfo->fn_extra;
	uint64 hash = 0;

	if (unlikely(site == NULL))
		site = make_call_site(fcinfo);
	for (int i = 0; i < site->count; i++)
	{
		FunctionCallInfo call = site->calls[i];
		uint64 part;

		if (PG_ARGISNULL(i))
			part = HASH_OF_NULL;
		else if (call == NULL)
			part = HASH_OF_UNHASHABLE;
		else
		{
			call->args[0].value = PG_GETARG_DATUM(i);
			call->isnull = false;
			part = DatumGetUInt64(FunctionCallInvoke(call));
		}
		hash = hash_combine64(hash, part);
	}
	PG_RETURN_INT64((int64) hash);
}
