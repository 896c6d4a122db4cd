/*
 * json_value.c
 *		Converts a JSON value to a value of a type, including arrays and composites.
 *
 * As jsonb_populate_record does: an array column takes a JSON array, a
 * composite column a JSON object, by attribute names; both also take a JSON
 * string, for their input function.  All other types take the value's text.
 * The JSON was validated, so its depth is limited.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "decode/type.h"

/* A json or jsonb value from its text, which is valid. */
bool
mill_json_to_type(MillType *type, const char *json, size_t length, Datum *value)
{
	if (type->oid == JSONOID)
		*value = PointerGetDatum(cstring_to_text_with_len(json, (int) length));
	else
		*value = DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(json, length)));
	return true;
}

/* ---- arrays ---- */

typedef struct ArrayBuild
{
	MillType *element;
	Datum *values;
	bool *nulls;
	int count;
	int capacity;
	int ndims; /* 0 until the first element that is not an array */
	int dims[MAXDIM];
	MillDecodeError *error;
} ArrayBuild;

static bool
add_element(ArrayBuild *build, const MillJsonSpan *span)
{
	if (build->count == build->capacity)
	{
		build->capacity = build->capacity ? build->capacity * 2 : 16;
		build->values = build->values ? repalloc(build->values, build->capacity * sizeof(Datum))
									  : palloc(build->capacity * sizeof(Datum));
		build->nulls = build->nulls ? repalloc(build->nulls, build->capacity * sizeof(bool))
									: palloc(build->capacity * sizeof(bool));
	}
	if (!mill_type_json(build->element, span, &build->values[build->count],
						&build->nulls[build->count], build->error))
		return false;
	build->count++;
	return true;
}

/*
 * Add the elements of a JSON array at this depth, the outermost being 1.  The
 * number of dimensions is known at the first element that is not an array, or
 * at the end of the first array; all others must have the same.
 */
static bool
add_array(ArrayBuild *build, const MillJsonSpan *array, int depth)
{
	const char *position = NULL;
	MillJsonSpan item;
	int count = 0;

	if (depth > MAXDIM)
		return mill_bad(build->error, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						"number of array dimensions exceeds the maximum allowed (%d)", MAXDIM);
	while (mill_json_next(array, &position, NULL, &item))
	{
		bool nested = item.kind == MILL_JSON_ARRAY && (build->ndims == 0 || depth < build->ndims);

		if (!nested && build->ndims == 0)
			build->ndims = depth;
		if (!nested && depth < build->ndims)
		{
			mill_bad(build->error, ERRCODE_INVALID_TEXT_REPRESENTATION, "expected JSON array");
			build->error->detail = "Sub-arrays of a multidimensional array must have the same depth.";
			return false;
		}
		if (nested ? !add_array(build, &item, depth + 1) : !add_element(build, &item))
			return false;
		count++;
	}
	if (build->ndims == 0)
		build->ndims = depth;
	if (build->dims[depth - 1] < 0)
		build->dims[depth - 1] = count;
	if (build->dims[depth - 1] != count)
	{
		mill_bad(build->error, ERRCODE_INVALID_TEXT_REPRESENTATION, "malformed JSON array");
		build->error
			->detail = "Multidimensional arrays must have sub-arrays with matching dimensions.";
		return false;
	}
	return true;
}

static bool
make_array(MillType *type, const MillJsonSpan *span, Datum *value, MillDecodeError *error)
{
	ArrayBuild build = {.element = type->inner, .error = error};
	int bounds[MAXDIM];

	for (int i = 0; i < MAXDIM; i++)
	{
		build.dims[i] = -1;
		bounds[i] = 1;
	}
	if (!add_array(&build, span, 1))
		return false;
	*value = PointerGetDatum(construct_md_array(build.values, build.nulls, build.ndims, build.dims,
												bounds, type->inner->oid, type->inner_length,
												type->inner_by_value, type->inner_align));
	return true;
}

/* ---- composites ---- */

static bool
make_composite(MillType *type, const MillJsonSpan *object, Datum *value, MillDecodeError *error)
{
	int natts = type->desc->natts;
	MillJsonSpan *spans = palloc0(sizeof(MillJsonSpan) * natts);
	Datum *values = palloc0(sizeof(Datum) * natts);
	bool *nulls = palloc(sizeof(bool) * natts);
	const char *position = NULL;
	MillJsonSpan key;
	MillJsonSpan item;

	/* the last of equal keys wins */
	while (mill_json_next(object, &position, &key, &item))
	{
		for (int i = 0; i < natts; i++)
		{
			const char *name = NameStr(TupleDescAttr(type->desc, i)->attname);

			if (type->attributes[i] && mill_json_equals(&key, name, strlen(name)))
				spans[i] = item;
		}
	}
	for (int i = 0; i < natts; i++)
	{
		nulls[i] = true;
		if (type->attributes[i] &&
			!mill_type_json(type->attributes[i], &spans[i], &values[i], &nulls[i], error))
			return false;
	}
	*value = HeapTupleGetDatum(heap_form_tuple(type->desc, values, nulls));
	return true;
}

/* ---- any type ---- */

/* The text of a value, as ->> gives it. */
static bool
parse_span(MillType *type, const MillJsonSpan *span, Datum *value, MillDecodeError *error)
{
	const char *input = span->start;
	size_t length = span->length;

	if (unlikely(span->escaped))
	{
		char *copy = palloc(length + 1);

		length = mill_json_unescape(input, length, copy);
		input = copy;
	}
	return type->parse(type, input, length, value, error);
}

static bool
parse_domain_span(MillType *type, const MillJsonSpan *span, Datum *value, bool *isnull,
				  MillDecodeError *error)
{
	if (!mill_type_json(type->inner, span, value, isnull, error))
		return false;
	domain_check(*value, *isnull, type->oid, &type->domain_cache, type->context);
	return true;
}

/* an absent attribute is NULL: only columns have defaults */
bool
mill_type_json(MillType *type, const MillJsonSpan *span, Datum *value, bool *isnull,
			   MillDecodeError *error)
{
	int quote = span->kind == MILL_JSON_STRING ? 1 : 0;

	if (type->class == MILL_TYPE_DOMAIN)
		return parse_domain_span(type, span, value, isnull, error);
	*isnull = span->kind == MILL_JSON_NULL || span->kind == MILL_JSON_ABSENT;
	if (*isnull)
	{
		*value = (Datum) 0;
		return true;
	}
	if (type->class == MILL_TYPE_SCALAR || (quote && type->class != MILL_TYPE_JSON))
		return parse_span(type, span, value, error);
	switch (type->class)
	{
		case MILL_TYPE_JSON:
			return mill_json_to_type(type, span->start - quote, span->length + 2 * quote, value);
		case MILL_TYPE_ARRAY:
			if (span->kind == MILL_JSON_ARRAY)
				return make_array(type, span, value, error);
			return mill_bad(error, ERRCODE_INVALID_TEXT_REPRESENTATION, "expected JSON array");
		default:
			if (span->kind == MILL_JSON_OBJECT)
				return make_composite(type, span, value, error);
			return mill_bad(error, ERRCODE_INVALID_TEXT_REPRESENTATION, "expected JSON object");
	}
}
