/*
 * state_lookup.c
 *		Looks up, once for each call site, what partial states of an aggregate
 *		need: functions, types, initial value, privileges.
 *
 * The checks are those that the executor makes before it runs an aggregate.
 * Results live in the memory context that is current at the call, which must
 * live as long as the call site's fn_extra.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_agg.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "core/compat.h"

#include "aggregate/state.h"

/* Catalog rows of one aggregate during the lookup. */
typedef struct Lookup
{
	HeapTuple aggregate_tuple;
	HeapTuple function_tuple;
	Form_pg_aggregate aggregate;
	Form_pg_proc function;
} Lookup;

static void
refuse_states(Oid oid, const char *reason)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("aggregate %s has no partial states that could be combined",
						   format_procedure(oid)),
					errdetail_internal("%s", reason)));
}

static void
check_kind(Oid oid, const Lookup *lookup)
{
	Form_pg_aggregate form = lookup->aggregate;

	if (form->aggkind != AGGKIND_NORMAL)
		refuse_states(oid, "It is an ordered-set aggregate.");
	if (lookup->function->provariadic == ANYOID)
		refuse_states(oid, "It takes any number of arguments of any types.");
	if (!OidIsValid(form->aggcombinefn))
		refuse_states(oid, "It has no combine function.");
	if (form->aggtranstype == INTERNALOID &&
		(!OidIsValid(form->aggserialfn) || !OidIsValid(form->aggdeserialfn)))
		refuse_states(oid,
					  "Its transition type is internal, and it has no serialize and deserialize functions.");
	if (form->aggtranstype == INTERNALOID && !mill_state_has_check(form->aggdeserialfn))
		refuse_states(oid,
					  "Its transition type is internal, and pg_mill cannot check what its deserialize function would read.");
}

/* As in ExecInitAgg: the aggregate's owner must have EXECUTE on its functions. */
static void
check_component(Oid function, Oid owner)
{
	AclResult result;

	if (!OidIsValid(function))
		return;
	result = mill_function_aclcheck(function, owner, ACL_EXECUTE);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, get_func_name(function));
	InvokeFunctionExecuteHook(function);
}

static void
check_function_rights(Oid oid, const Lookup *lookup)
{
	AclResult result = mill_function_aclcheck(oid, GetUserId(), ACL_EXECUTE);
	Oid owner = lookup->function->proowner;

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_AGGREGATE, get_func_name(oid));
	InvokeFunctionExecuteHook(oid);
	check_component(lookup->aggregate->aggtransfn, owner);
	check_component(lookup->aggregate->aggcombinefn, owner);
	check_component(lookup->aggregate->aggfinalfn, owner);
	if (lookup->aggregate->aggtranstype == INTERNALOID)
	{
		check_component(lookup->aggregate->aggserialfn, owner);
		check_component(lookup->aggregate->aggdeserialfn, owner);
	}
}

static Lookup
open_lookup(Oid oid)
{
	Lookup lookup;

	lookup.function_tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(lookup.function_tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("aggregate with OID %u does not exist", oid)));
	lookup.function = (Form_pg_proc) GETSTRUCT(lookup.function_tuple);
	lookup.aggregate_tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(lookup.aggregate_tuple))
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("function %s is not an aggregate", format_procedure(oid))));
	lookup.aggregate = (Form_pg_aggregate) GETSTRUCT(lookup.aggregate_tuple);
	check_kind(oid, &lookup);
	check_function_rights(oid, &lookup);
	return lookup;
}

static void
close_lookup(Lookup *lookup)
{
	ReleaseSysCache(lookup->aggregate_tuple);
	ReleaseSysCache(lookup->function_tuple);
}

static bool
is_polymorphic(const Form_pg_proc function)
{
	for (int i = 0; i < function->pronargs; i++)
	{
		if (IsPolymorphicType(function->proargtypes.values[i]))
			return true;
	}
	return false;
}

/* The actual type for a declared, perhaps polymorphic one, with these argument types. */
static Oid
resolve_type(const Form_pg_proc function, const Oid *given, Oid type)
{
	Oid declared[FUNC_MAX_ARGS];

	if (!IsPolymorphicType(type))
		return type;
	memcpy(declared, function->proargtypes.values, function->pronargs * sizeof(Oid));
	return enforce_generic_type_consistency(given, declared, function->pronargs, type, false);
}

/* Resolve the actual argument, transition and result types, as the parser does for a call. */
static void
resolve_arguments(StateAggregate *made, const Lookup *lookup, const Oid *given, int count)
{
	Form_pg_proc function = lookup->function;

	if (count != function->pronargs)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("wrong number of arguments for aggregate %s: %d",
							   format_procedure(made->oid), count)));
	made->argument_count = count;
	made->result_type = resolve_type(function, given, function->prorettype);
	for (int i = 0; i < count; i++)
	{
		Oid type = resolve_type(function, given, function->proargtypes.values[i]);

		if (type == ANYOID)
			type = given[i];
		if (!IsBinaryCoercible(given[i], type))
			ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
							errmsg("argument %d of aggregate %s must be of type %s, not %s", i + 1,
								   format_procedure(made->oid), format_type_be(type),
								   format_type_be(given[i])),
							errhint("Write a cast.")));
		made->argument_types[i] = type;
	}
}

/* The header of this aggregate's states, from which a reader finds types and collation. */
static void
make_header(StateAggregate *made, const Lookup *lookup)
{
	StringInfoData names;

	initStringInfo(&names);
	made->header.flags = 0;
	if (made->state_type == INTERNALOID)
		made->header.flags |= MILL_PARTIAL_INTERNAL;
	if (is_polymorphic(lookup->function))
	{
		made->header.flags |= MILL_PARTIAL_TYPES;
		for (int i = 0; i < made->argument_count; i++)
		{
			appendStringInfoString(&names, format_type_be_qualified(made->argument_types[i]));
			appendStringInfoChar(&names, '\0');
		}
	}
	if (made->collation == DEFAULT_COLLATION_OID)
		made->header.flags |= MILL_PARTIAL_DEFAULT_COLLATION;
	else if (OidIsValid(made->collation))
	{
		HeapTuple tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(made->collation));

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for collation %u", made->collation);
		made->header.flags |= MILL_PARTIAL_COLLATION;
		appendStringInfoString(&names, get_namespace_name(
										   ((Form_pg_collation) GETSTRUCT(tuple))->collnamespace));
		appendStringInfoChar(&names, '\0');
		appendStringInfoString(&names, NameStr(((Form_pg_collation) GETSTRUCT(tuple))->collname));
		appendStringInfoChar(&names, '\0');
		ReleaseSysCache(tuple);
	}
	made->header.names = names.data;
	made->header.names_length = names.len;
}

/* A FunctionCallInfo with space for its arguments; argument 0 is the transition value. */
static FunctionCallInfo
make_call(Oid function, Expr *expression, int nargs, Oid collation)
{
	FmgrInfo *info = palloc(sizeof(FmgrInfo));
	FunctionCallInfo call = palloc0(SizeForFunctionCallInfo(nargs));

	fmgr_info(function, info);
	fmgr_info_set_expr((Node *) expression, info);
	InitFunctionCallInfoData(*call, info, nargs, collation, NULL, NULL);
	return call;
}

static void
make_calls(StateAggregate *made, const Lookup *lookup)
{
	Form_pg_aggregate form = lookup->aggregate;
	Oid two_states[2] = {made->state_type, made->state_type};
	int extra = form->aggfinalextra ? made->argument_count : 0;
	Expr *expression;

	build_aggregate_transfn_expr(made->argument_types, made->argument_count, 0,
								 OidIsValid(lookup->function->provariadic), made->state_type,
								 made->collation, form->aggtransfn, InvalidOid, &expression, NULL);
	made->transition = make_call(form->aggtransfn, expression, made->argument_count + 1,
								 made->collation);

	build_aggregate_transfn_expr(two_states, 2, 0, false, made->state_type, made->collation,
								 form->aggcombinefn, InvalidOid, &expression, NULL);
	made->combine = make_call(form->aggcombinefn, expression, 2, made->collation);
	if (made->combine->flinfo->fn_strict && made->state_type == INTERNALOID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("combine function with transition type %s must not be declared STRICT",
						format_type_be(made->state_type))));

	if (!OidIsValid(form->aggfinalfn))
		return;
	build_aggregate_finalfn_expr(made->argument_types, extra + 1, made->state_type,
								 made->result_type, made->collation, form->aggfinalfn, &expression);
	made->final = make_call(form->aggfinalfn, expression, extra + 1, made->collation);
	for (int i = 1; i <= extra; i++)
		made->final->args[i].isnull = true;
}

static void
make_transport(StateAggregate *made, const Lookup *lookup)
{
	Form_pg_aggregate form = lookup->aggregate;
	Expr *expression;
	Oid function;
	bool is_varlena;

	if (made->state_type == INTERNALOID)
	{
		build_aggregate_serialfn_expr(form->aggserialfn, &expression);
		fmgr_info(form->aggserialfn, &made->write);
		fmgr_info_set_expr((Node *) expression, &made->write);
		build_aggregate_deserialfn_expr(form->aggdeserialfn, &expression);
		fmgr_info(form->aggdeserialfn, &made->read);
		fmgr_info_set_expr((Node *) expression, &made->read);
		return;
	}
	getTypeBinaryOutputInfo(made->state_type, &function, &is_varlena);
	fmgr_info(function, &made->write);
	getTypeBinaryInputInfo(made->state_type, &function, &made->receive_ioparam);
	fmgr_info(function, &made->read);
}

static void
make_initial(StateAggregate *made, const Lookup *lookup)
{
	Datum written = SysCacheGetAttr(AGGFNOID, lookup->aggregate_tuple, Anum_pg_aggregate_agginitval,
									&made->initial_is_null);
	Oid input;
	Oid ioparam;

	if (made->initial_is_null)
		return;
	getTypeInputInfo(made->state_type, &input, &ioparam);
	made->initial = OidInputFunctionCall(input, TextDatumGetCString(written), ioparam, -1);
}

/* Look up everything else, once argument types and collation are known. */
static StateAggregate *
complete_aggregate(StateAggregate *made, Lookup *lookup)
{
	made->state_type = resolve_aggregate_transtype(made->oid, lookup->aggregate->aggtranstype,
												   made->argument_types, made->argument_count);
	get_typlenbyval(made->state_type, &made->state_length, &made->state_by_value);
	get_typlenbyval(made->result_type, &made->result_length, &made->result_by_value);
	make_header(made, lookup);
	make_calls(made, lookup);
	make_transport(made, lookup);
	make_initial(made, lookup);
	close_lookup(lookup);
	return made;
}

/* The aggregate as called with arguments of these types and with this collation. */
StateAggregate *
mill_state_by_arguments(Oid oid, const Oid *types, int count, Oid collation)
{
	StateAggregate *made = palloc0(sizeof(StateAggregate));
	Lookup lookup = open_lookup(oid);

	made->oid = oid;
	made->collation = collation;
	resolve_arguments(made, &lookup, types, count);
	complete_aggregate(made, &lookup);
	/* the first input becomes the transition value; strictness may have changed since */
	if (made->transition->flinfo->fn_strict && made->initial_is_null &&
		(count == 0 || !IsBinaryCoercible(made->argument_types[0], made->state_type)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("aggregate %s needs to have compatible input type and transition type",
						format_procedure(oid))));
	return made;
}

/* Take the next name from a header's names. */
static const char *
next_name(const char **names, const char *end)
{
	const char *name = *names;

	if (name >= end)
		mill_state_damaged("A name is missing in its header.");
	*names += strlen(name) + 1;
	return name;
}

static Oid
type_by_name(const char *name)
{
	Oid type = DatumGetObjectId(DirectFunctionCall1(regtypein, CStringGetDatum(name)));

	if (!OidIsValid(type) || get_typtype(type) == TYPTYPE_PSEUDO)
		mill_state_damaged("Its header names no type of a value.");
	return type;
}

/* The aggregate as it was called to make the states with this header. */
StateAggregate *
mill_state_by_header(Oid oid, const StateHeader *header)
{
	StateAggregate *made = palloc0(sizeof(StateAggregate));
	Lookup lookup = open_lookup(oid);
	const char *names = header->names;
	const char *end = names + header->names_length;
	int count = lookup.function->pronargs;
	Oid given[FUNC_MAX_ARGS];

	made->oid = oid;
	memcpy(given, lookup.function->proargtypes.values, count * sizeof(Oid));
	if (header->flags & MILL_PARTIAL_TYPES)
	{
		for (int i = 0; i < count; i++)
			given[i] = type_by_name(next_name(&names, end));
	}
	if (header->flags & MILL_PARTIAL_COLLATION)
	{
		char *schema = pstrdup(next_name(&names, end));
		char *name = pstrdup(next_name(&names, end));

		made->collation = get_collation_oid(list_make2(makeString(schema), makeString(name)), false);
	}
	else if (header->flags & MILL_PARTIAL_DEFAULT_COLLATION)
		made->collation = DEFAULT_COLLATION_OID;
	if (((header->flags & MILL_PARTIAL_TYPES) != 0) != is_polymorphic(lookup.function))
		mill_state_damaged("It is a state of another aggregate.");
	resolve_arguments(made, &lookup, given, count);
	complete_aggregate(made, &lookup);
	/* the header may be written differently: names spelt in another way, or left over */
	if (!mill_state_same_header(&made->header, header))
		ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
						errmsg("stored state is not one of aggregate %s", format_procedure(oid)),
						errhint("Run mill.refresh to compute it anew.")));
	return made;
}

/*
 * The aggregate as it must have been called to return this type, for a group
 * that has no partial state.
 */
StateAggregate *
mill_state_by_result(Oid oid, Oid result_type, Oid collation)
{
	StateAggregate *made = palloc0(sizeof(StateAggregate));
	Lookup lookup = open_lookup(oid);
	Form_pg_proc function = lookup.function;
	Oid returned = function->prorettype;

	made->oid = oid;
	made->collation = OidIsValid(collation) ? collation : DEFAULT_COLLATION_OID;
	made->no_header = true;
	made->argument_count = function->pronargs;
	for (int i = 0; i < function->pronargs; i++)
	{
		Oid type = function->proargtypes.values[i];

		if (IsPolymorphicType(type) && IsPolymorphicType(returned))
		{
			Oid declared = returned;

			type = enforce_generic_type_consistency(&result_type, &declared, 1, type, false);
		}
		made->argument_types[i] = type;
	}
	made->result_type = IsPolymorphicType(returned) ? result_type : returned;
	if (!IsPolymorphicType(returned) && is_polymorphic(function) &&
		(IsPolymorphicType(lookup.aggregate->aggtranstype) || lookup.aggregate->aggfinalextra))
		ereport(ERROR,
				(errcode(ERRCODE_INDETERMINATE_DATATYPE),
				 errmsg("could not determine the argument types of aggregate %s without a state",
						format_procedure(oid))));
	return complete_aggregate(made, &lookup);
}
