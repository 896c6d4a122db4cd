/*
 * type.c
 *		Types of the decoder: which parser makes values of a type.
 *
 * Runs in any process that scans a stream.  A MillType is made once per decoder
 * and reads the catalog then; making values does not.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "core/compat.h"
#include "decode/type.h"

static bool
parse_domain(MillType *type, const char *input, size_t length, Datum *value, MillDecodeError *error)
{
	if (!type->inner->parse(type->inner, input, length, value, error))
		return false;
	domain_check(*value, false, type->oid, &type->domain_cache, type->context);
	return true;
}

static MillParse
find_parser(Oid oid, int32 typmod)
{
	MillParse parse = mill_scalar_parser(oid, typmod);

	if (parse == NULL)
		parse = mill_text_parser(oid);
	if (parse == NULL)
		parse = mill_time_parser(oid);
	return parse ? parse : mill_type_input;
}

static void
add_attributes(MillType *type)
{
	TupleDesc desc = lookup_rowtype_tupdesc_copy(type->oid, type->typmod);

	type->class = MILL_TYPE_COMPOSITE;
	type->desc = desc;
	type->attributes = palloc0(sizeof(MillType *) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (!attribute->attisdropped)
			type->attributes[i] = mill_type_create(attribute->atttypid, attribute->atttypmod);
	}
}

/* In the current memory context.  Recursion is finite, because types are not cyclic. */
MillType *
mill_type_create(Oid oid, int32 typmod)
{
	MillType *type = palloc0(sizeof(MillType));
	Oid function;
	Oid element = get_element_type(oid);

	check_stack_depth();
	type->oid = oid;
	type->typmod = typmod;
	type->context = CurrentMemoryContext;
	type->class = MILL_TYPE_SCALAR;
	getTypeInputInfo(oid, &function, &type->ioparam);
	fmgr_info(function, &type->input);
	type->parse = find_parser(oid, typmod);

	if (oid == JSONOID || oid == JSONBOID)
		type->class = MILL_TYPE_JSON;
	else if (OidIsValid(element))
	{
		type->class = MILL_TYPE_ARRAY;
		type->inner = mill_type_create(element, typmod);
		get_typlenbyvalalign(element, &type->inner_length, &type->inner_by_value,
							 &type->inner_align);
	}
	else if (get_typtype(oid) == TYPTYPE_DOMAIN)
	{
		int32 base_typmod = typmod;
		Oid base = getBaseTypeAndTypmod(oid, &base_typmod);

		type->class = MILL_TYPE_DOMAIN;
		type->inner = mill_type_create(base, base_typmod);
		type->parse = parse_domain;
	}
	else if (get_typtype(oid) == TYPTYPE_COMPOSITE)
		add_attributes(type);
	return type;
}
