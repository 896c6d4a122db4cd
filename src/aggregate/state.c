/*
 * state.c
 *		Partial states: the transition value of any aggregate that has a combine
 *		function, as a value that can be stored.
 *
 *	partial_state(aggregate, arguments ...)	rows to a partial state
 *	combine_state(aggregate, state)			partial states to a partial state
 *	final_state(aggregate, state, type)		a partial state to the result
 *
 * The first two are aggregates themselves.  They call the named aggregate's
 * functions inside their own, under the same Agg node, where those find the
 * memory context of their group.  What the executor does around an aggregate
 * (strict functions, initial values, ownership of transition values) is done
 * here in the same way, as any difference would be a wrong result.
 *
 * Runs in any backend.  Nothing is kept beyond the query.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/memutils.h"
#include "utils/regproc.h"

#include "aggregate/state.h"

PG_FUNCTION_INFO_V1(mill_partial_state_add);
PG_FUNCTION_INFO_V1(mill_combine_state_add);
PG_FUNCTION_INFO_V1(mill_state_bytes);
PG_FUNCTION_INFO_V1(mill_final_state);

/* The transition value of a group, in its aggregate memory context. */
typedef struct PartialState
{
	StateAggregate *aggregate; /* lives as long as the query */
	Datum value;
	bool is_null;
	bool no_value; /* no initial value, and no input yet */
} PartialState;

/* In fn_extra. */
typedef struct CallSite
{
	StateAggregate *aggregates; /* normally one */
	AggState *node;				/* for final_state, which runs under none */
} CallSite;

static CallSite *
call_site(FunctionCallInfo fcinfo)
{
	if (fcinfo->flinfo->fn_extra == NULL)
		fcinfo->flinfo->fn_extra = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(CallSite));
	return fcinfo->flinfo->fn_extra;
}

static Oid
aggregate_argument(FunctionCallInfo fcinfo, int number)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("the aggregate must not be null")));
	return PG_GETARG_OID(number);
}

/* Add an aggregate to those that the call site has looked up. */
static StateAggregate *
remember_aggregate(CallSite *site, StateAggregate *made)
{
	made->next = site->aggregates;
	site->aggregates = made;
	return made;
}

static StateAggregate *
find_by_arguments(FunctionCallInfo fcinfo, Oid oid)
{
	CallSite *site = call_site(fcinfo);
	StateAggregate *found = site->aggregates;
	Oid types[FUNC_MAX_ARGS];
	MemoryContext old;

	while (found != NULL && found->oid != oid)
		found = found->next;
	if (found != NULL)
		return found;
	if (get_fn_expr_variadic(fcinfo->flinfo))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("partial_state does not take its arguments as a VARIADIC array"),
						errhint("Write the aggregate's arguments one by one.")));
	for (int i = 2; i < PG_NARGS(); i++)
		types[i - 2] = get_fn_expr_argtype(fcinfo->flinfo, i);
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	found = mill_state_by_arguments(oid, types, PG_NARGS() - 2, PG_GET_COLLATION());
	MemoryContextSwitchTo(old);
	return remember_aggregate(site, found);
}

static StateAggregate *
find_by_header(FunctionCallInfo fcinfo, Oid oid, const StateHeader *header)
{
	CallSite *site = call_site(fcinfo);
	StateAggregate *found = site->aggregates;
	MemoryContext old;

	while (found != NULL && (found->oid != oid || found->no_header ||
							 !mill_state_same_header(&found->header, header)))
		found = found->next;
	if (found != NULL)
		return found;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	found = mill_state_by_header(oid, header);
	MemoryContextSwitchTo(old);
	return remember_aggregate(site, found);
}

static StateAggregate *
find_by_result(FunctionCallInfo fcinfo, Oid oid, Oid result_type)
{
	CallSite *site = call_site(fcinfo);
	StateAggregate *found = site->aggregates;
	MemoryContext old;

	while (found != NULL && (found->oid != oid || !found->no_header))
		found = found->next;
	if (found != NULL)
		return found;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	found = mill_state_by_result(oid, result_type, PG_GET_COLLATION());
	MemoryContextSwitchTo(old);
	return remember_aggregate(site, found);
}

/* The memory context of the group; an error unless called by an aggregate. */
static MemoryContext
group_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate function called in non-aggregate context");
	return context;
}

/* The transition state in argument 0, or a new one for the group's first row. */
static PartialState *
group_state(FunctionCallInfo fcinfo, StateAggregate *aggregate, MemoryContext context)
{
	PartialState *state;
	MemoryContext old;

	if (!PG_ARGISNULL(0))
	{
		state = (PartialState *) PG_GETARG_POINTER(0);
		if (state->aggregate != aggregate)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg(
						 "states of different aggregates, types or collations cannot be combined")));
		return state;
	}
	old = MemoryContextSwitchTo(context);
	state = palloc0(sizeof(PartialState));
	state->aggregate = aggregate;
	state->is_null = state->no_value = aggregate->initial_is_null;
	if (!aggregate->initial_is_null)
		state->value = datumCopy(aggregate->initial, aggregate->state_by_value,
								 aggregate->state_length);
	MemoryContextSwitchTo(old);
	return state;
}

/*
 * Copy a by-reference transition value into the group's memory context, unless
 * it is an expanded object that lives there already, and free the previous one.
 */
static Datum
keep_value(const PartialState *state, Datum value, bool is_null, MemoryContext context)
{
	const StateAggregate *aggregate = state->aggregate;

	if (is_null)
		value = (Datum) 0;
	else if (!DatumIsReadWriteExpandedObject(value, false, aggregate->state_length) ||
			 MemoryContextGetParent(DatumGetEOHP(value)->eoh_context) != context)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		value = datumCopy(value, false, aggregate->state_length);
		MemoryContextSwitchTo(old);
	}
	if (!state->is_null)
	{
		if (DatumIsReadWriteExpandedObject(state->value, false, aggregate->state_length))
			DeleteExpandedObject(state->value);
		else
			pfree(DatumGetPointer(state->value));
	}
	return value;
}

/* Call the transition or combine function; arguments from 1 on are set. */
static void
advance_state(PartialState *state, FunctionCallInfo call, MemoryContext context)
{
	const StateAggregate *aggregate = state->aggregate;
	Datum value;

	if (call->flinfo->fn_strict)
	{
		for (int i = 1; i < call->nargs; i++)
		{
			if (call->args[i].isnull)
				return;
		}
		if (state->no_value)
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			state->value = datumCopy(call->args[1].value, aggregate->state_by_value,
									 aggregate->state_length);
			state->is_null = state->no_value = false;
			MemoryContextSwitchTo(old);
			return;
		}
		if (state->is_null)
			return;
	}
	call->args[0].value = state->value;
	call->args[0].isnull = state->is_null;
	call->isnull = false;
	value = FunctionCallInvoke(call);
	if (!aggregate->state_by_value && DatumGetPointer(value) != DatumGetPointer(state->value))
		value = keep_value(state, value, call->isnull, context);
	state->value = value;
	state->is_null = call->isnull;
}

/* partial_state's transition: (state, aggregate, arguments ...). */
Datum
mill_partial_state_add(PG_FUNCTION_ARGS)
{
	MemoryContext context = group_context(fcinfo);
	StateAggregate *aggregate = find_by_arguments(fcinfo, aggregate_argument(fcinfo, 1));
	PartialState *state = group_state(fcinfo, aggregate, context);
	FunctionCallInfo call = aggregate->transition;

	for (int i = 1; i < call->nargs; i++)
		call->args[i] = fcinfo->args[i + 1];
	call->context = fcinfo->context;
	advance_state(state, call, context);
	PG_RETURN_POINTER(state);
}

/*
 * Read a serialized transition value, in the current memory context, as if
 * called by the given node.  The bytes are not trusted.
 */
static Datum
read_value(StateAggregate *aggregate, StringInfo payload, Node *node, bool *is_null)
{
	Datum value;

	*is_null = false;
	if (aggregate->state_type == INTERNALOID)
	{
		LOCAL_FCINFO(call, 2);

		mill_state_check(aggregate->read.fn_oid, payload);
		InitFunctionCallInfoData(*call, &aggregate->read, 2, InvalidOid, node, NULL);
		call->args[0].value = PointerGetDatum(payload->data - VARHDRSZ);
		call->args[0].isnull = false;
		call->args[1].value = (Datum) 0;
		call->args[1].isnull = false;
		value = FunctionCallInvoke(call);
		*is_null = call->isnull;
		return value;
	}
	value = ReceiveFunctionCall(&aggregate->read, payload, aggregate->receive_ioparam, -1);
	if (payload->cursor != payload->len)
		mill_state_damaged("There are bytes left behind the transition value.");
	return value;
}

/* combine_state's transition: (state, aggregate, stored state). */
Datum
mill_combine_state_add(PG_FUNCTION_ARGS)
{
	MemoryContext context = group_context(fcinfo);
	Oid oid = aggregate_argument(fcinfo, 1);
	StateHeader header;
	StringInfoData payload;
	StateAggregate *aggregate;
	PartialState *state;
	FunctionCallInfo call;

	if (PG_ARGISNULL(2))
	{
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	mill_state_read(PG_GETARG_BYTEA_PP(2), &header, &payload);
	aggregate = find_by_header(fcinfo, oid, &header);
	state = group_state(fcinfo, aggregate, context);
	call = aggregate->combine;
	call->context = fcinfo->context;
	call->args[1].value = (Datum) 0;
	call->args[1].isnull = true;
	if ((header.flags & MILL_PARTIAL_NULL) == 0)
		call->args[1].value = read_value(aggregate, &payload, fcinfo->context,
										 &call->args[1].isnull);
	advance_state(state, call, context);
	PG_RETURN_POINTER(state);
}

/*
 * The final function of both: the transition value as bytes.  NULL is the
 * partial state of no rows.  A NULL transition value is that too, unless there
 * is an initial value, which no rows would have.
 */
Datum
mill_state_bytes(PG_FUNCTION_ARGS)
{
	PartialState *state = PG_ARGISNULL(0) ? NULL : (PartialState *) PG_GETARG_POINTER(0);
	StateAggregate *aggregate;
	LOCAL_FCINFO(call, 1);
	bytea *payload;

	group_context(fcinfo);
	if (state == NULL || (state->is_null && state->aggregate->initial_is_null))
		PG_RETURN_NULL();
	aggregate = state->aggregate;
	if (state->is_null)
		PG_RETURN_BYTEA_P(mill_state_write(&aggregate->header, true, "", 0));
	InitFunctionCallInfoData(*call, &aggregate->write, 1, InvalidOid, fcinfo->context, NULL);
	if (aggregate->state_type != INTERNALOID)
		call->context = NULL;
	call->args[0].value = MakeExpandedObjectReadOnly(state->value, false, aggregate->state_length);
	call->args[0].isnull = false;
	payload = DatumGetByteaPP(FunctionCallInvoke(call));
	if (call->isnull)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(mill_state_write(&aggregate->header, false, VARDATA_ANY(payload),
									   VARSIZE_ANY_EXHDR(payload)));
}

/*
 * An AggState to call support functions with.  They look only at its memory
 * contexts, and may register a callback with it.
 */
static AggState *
make_node(FunctionCallInfo fcinfo)
{
	CallSite *site = call_site(fcinfo);
	MemoryContext old;

	if (site->node != NULL)
		return site->node;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	site->node = makeNode(AggState);
	site->node->curaggcontext = CreateStandaloneExprContext();
	site->node->tmpcontext = CreateStandaloneExprContext();
	MemoryContextSwitchTo(old);
	return site->node;
}

/* The transition value of argument 1 of final_state, in the current memory context. */
static StateAggregate *
load_state(FunctionCallInfo fcinfo, Node *node, Oid result_type, Datum *value, bool *is_null)
{
	Oid oid = aggregate_argument(fcinfo, 0);
	StateAggregate *aggregate;
	StateHeader header;
	StringInfoData payload;

	*value = (Datum) 0;
	*is_null = true;
	if (PG_ARGISNULL(1))
	{
		aggregate = find_by_result(fcinfo, oid, result_type);
		*is_null = aggregate->initial_is_null;
		if (!*is_null)
			*value = datumCopy(aggregate->initial, aggregate->state_by_value,
							   aggregate->state_length);
		return aggregate;
	}
	mill_state_read(PG_GETARG_BYTEA_PP(1), &header, &payload);
	aggregate = find_by_header(fcinfo, oid, &header);
	if ((header.flags & MILL_PARTIAL_NULL) == 0)
		*value = read_value(aggregate, &payload, node, is_null);
	return aggregate;
}

static Datum
finalize(StateAggregate *aggregate, Node *node, Datum value, bool is_null, bool *result_is_null)
{
	FunctionCallInfo call = aggregate->final;
	Datum result;

	*result_is_null = is_null;
	if (call == NULL)
		return value;
	*result_is_null = true;
	if (call->flinfo->fn_strict && (is_null || call->nargs > 1))
		return (Datum) 0;
	call->context = node;
	call->args[0].value = is_null
							  ? value
							  : MakeExpandedObjectReadOnly(value, false, aggregate->state_length);
	call->args[0].isnull = is_null;
	call->isnull = false;
	result = FunctionCallInvoke(call);
	*result_is_null = call->isnull;
	return result;
}

/* final_state(aggregate, state, a NULL of the result's type) */
Datum
mill_final_state(PG_FUNCTION_ARGS)
{
	AggState *node = make_node(fcinfo);
	Oid result_type = get_fn_expr_argtype(fcinfo->flinfo, 2);
	MemoryContext old = MemoryContextSwitchTo(node->curaggcontext->ecxt_per_tuple_memory);
	StateAggregate *aggregate;
	Datum value;
	bool is_null;

	if (!OidIsValid(result_type))
		elog(ERROR, "could not determine the result type of final_state");
	aggregate = load_state(fcinfo, (Node *) node, result_type, &value, &is_null);
	if (aggregate->result_type != result_type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("aggregate %s returns type %s, not %s", format_procedure(aggregate->oid),
						format_type_be(aggregate->result_type), format_type_be(result_type)),
				 errhint("Write NULL::%s as the third argument.",
						 format_type_be(aggregate->result_type))));
	value = finalize(aggregate, (Node *) node, value, is_null, &is_null);
	MemoryContextSwitchTo(old);
	if (!is_null)
		value = datumCopy(value, aggregate->result_by_value, aggregate->result_length);
	/* also runs what the final function registered */
	ReScanExprContext(node->curaggcontext);
	ReScanExprContext(node->tmpcontext);
	if (is_null)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(value);
}
