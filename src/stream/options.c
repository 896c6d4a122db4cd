/*
 * options.c
 *		The options of servers, user mappings, streams and their columns:
 *		checked when they are written, read when they are used.
 *
 * Table and column options are parsed here, by one table of parsers for the
 * validator and for mill_stream_load, so DDL accepts exactly what a scan
 * understands.  Options of servers and user mappings are properties of the
 * client library: only the gateway knows them, and DDL starts one to check
 * them.  The library is never called in this process.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "access/relation.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "decode/format.h"
#include "decode/json_scan.h"
#include "stream/fdw.h"

#define MAX_MESSAGE_BYTES (100 * 1024 * 1024)
#define DEFAULT_MESSAGE_BYTES (1024 * 1024)

/* What is wrong with a value. */
typedef struct OptionProblem
{
	const char *detail; /* a sentence or NULL */
	const char *hint;	/* a sentence with an accepted example */
} OptionProblem;

typedef struct TableOption
{
	const char *name;
	bool (*parse)(MillStream *stream, const char *value, OptionProblem *problem);
} TableOption;

static const char *const on_error_names[] = {"dead_letter", "stop", "skip"};
static const char *const tombstone_names[] = {"skip", "nulls", "dead_letter"};

/* Names by MillColumnKind; the first cannot be given. */
static const char *const metadata_names[] = {NULL,		"key",		 "key_text",
											 "headers", "timestamp", "partition",
											 "offset",	"topic",	 "payload"};

static const char *const column_option_names[] = {"field", "metadata"};

static _Noreturn void refuse_name(const char *name, const char *const *valid, int count);
static _Noreturn void refuse_value(const char *name, const char *value,
								   const OptionProblem *problem);
PG_FUNCTION_INFO_V1(mill_kafka_validator);

/* ---- values ---- */

/* The index of value among names, -1 if it is none of them. */
static int
choose(const char *const *names, int count, const char *value)
{
	for (int i = 0; i < count; i++)
		if (names[i] && strcmp(names[i], value) == 0)
			return i;
	return -1;
}

static bool
parse_topic(MillStream *stream, const char *value, OptionProblem *problem)
{
	size_t length = strlen(value);

	problem->detail = "A topic's name has 1 to 249 letters, digits, dots, underscores and hyphens.";
	problem->hint = "For example: topic 'user_clicks'.";
	if (length == 0 || length > 249 || strcmp(value, ".") == 0 || strcmp(value, "..") == 0)
		return false;
	for (const char *c = value; *c; c++)
		if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
			  *c == '.' || *c == '_' || *c == '-'))
			return false;
	stream->layout.topic = pstrdup(value);
	return true;
}

static bool
parse_format(MillStream *stream, const char *value, OptionProblem *problem)
{
	problem->hint = "Valid values are json, csv, text and raw; for example: format 'json'.";
	stream->layout.format = mill_format_by_name(value);
	return stream->layout.format != NULL;
}

static bool
parse_on_error(MillStream *stream, const char *value, OptionProblem *problem)
{
	int choice = choose(on_error_names, lengthof(on_error_names), value);

	problem
		->hint = "Valid values are dead_letter, stop and skip; for example: on_error 'dead_letter'.";
	stream->on_error = (MillOnError) choice;
	return choice >= 0;
}

static bool
parse_tombstone(MillStream *stream, const char *value, OptionProblem *problem)
{
	int choice = choose(tombstone_names, lengthof(tombstone_names), value);

	problem->hint = "Valid values are skip, nulls and dead_letter; for example: tombstone 'skip'.";
	stream->tombstone = (MillTombstone) choice;
	return choice >= 0;
}

static bool
parse_max_message_bytes(MillStream *stream, const char *value, OptionProblem *problem)
{
	problem->detail = "The limit is from 1 byte to 100 MB.";
	problem->hint = "For example: max_message_bytes '1048576', or '1MB'.";
	return parse_int(value, &stream->layout.max_message_bytes, GUC_UNIT_BYTE, NULL) &&
		   stream->layout.max_message_bytes >= 1 &&
		   stream->layout.max_message_bytes <= MAX_MESSAGE_BYTES;
}

static bool
parse_null(MillStream *stream, const char *value, OptionProblem *problem)
{
	problem->detail = "It cannot contain a line break.";
	problem->hint = "For example: \"null\" 'NULL'.";
	if (strpbrk(value, "\r\n"))
		return false;
	stream->layout.null_string = pstrdup(value);
	return true;
}

static bool
parse_delimiter(MillStream *stream, const char *value, OptionProblem *problem)
{
	problem->detail = "It is a single one-byte character, and no line break.";
	problem->hint = "For example: delimiter ';'.";
	if (strlen(value) != 1 || strpbrk(value, "\r\n") || IS_HIGHBIT_SET(value[0]))
		return false;
	stream->layout.delimiter = value[0];
	return true;
}

static const TableOption table_options[] = {
	{"topic", parse_topic},
	{"format", parse_format},
	{"on_error", parse_on_error},
	{"tombstone", parse_tombstone},
	{"max_message_bytes", parse_max_message_bytes},
	{"null", parse_null},
	{"delimiter", parse_delimiter},
};

/* ---- errors ---- */

/*
 * Refuse an option's name, with the most similar valid name as hint, or all of
 * them if none is similar.
 */
static void
refuse_name(const char *name, const char *const *valid, int count)
{
	StringInfoData list;
	const char *nearest = NULL;
	int best = 5;

	initStringInfo(&list);
	for (int i = 0; i < count; i++)
	{
		int distance;

		appendStringInfo(&list, "%s%s", i ? ", " : "", valid[i]);
		if (strlen(name) > NAMEDATALEN)
			continue;
		distance = varstr_levenshtein_less_equal(name, strlen(name), valid[i], strlen(valid[i]), 1,
												 1, 1, best, true);
		if (distance < best && distance <= Max(strlen(name), strlen(valid[i])) / 2)
		{
			best = distance;
			nearest = valid[i];
		}
	}

	ereport(ERROR, (errcode(ERRCODE_FDW_INVALID_OPTION_NAME), errmsg("invalid option \"%s\"", name),
					nearest		? errhint("Perhaps you meant the option \"%s\".", nearest)
					: count > 0 ? errhint("Valid options in this context are: %s.", list.data)
								: errhint("There are no valid options in this context.")));
}

static void
refuse_value(const char *name, const char *value, const OptionProblem *problem)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid value for option \"%s\": \"%s\"", name, value),
					problem->detail ? errdetail("%s", problem->detail) : 0,
					problem->hint ? errhint("%s", problem->hint) : 0));
}

/* ---- tables ---- */

/* Parse a stream's table options into stream, which has the defaults. */
static void
parse_table_options(MillStream *stream, List *options)
{
	ListCell *cell;

	stream->layout.topic = NULL;
	stream->layout.format = &mill_format_json;
	stream->on_error = MILL_ON_ERROR_DEAD_LETTER;
	stream->tombstone = MILL_TOMBSTONE_SKIP;
	stream->layout.max_message_bytes = DEFAULT_MESSAGE_BYTES;
	stream->layout.null_string = NULL;
	stream->layout.delimiter = '\0';

	foreach (cell, options)
	{
		DefElem *option = lfirst_node(DefElem, cell);
		OptionProblem problem = {NULL, NULL};
		const char *value = defGetString(option);
		const char *names[lengthof(table_options)];
		int i;

		for (i = 0; i < lengthof(table_options); i++)
		{
			names[i] = table_options[i].name;
			if (strcmp(names[i], option->defname) == 0)
				break;
		}
		if (i == lengthof(table_options))
			refuse_name(option->defname, names, lengthof(table_options));
		if (!table_options[i].parse(stream, value, &problem))
			refuse_value(option->defname, value, &problem);
	}
}

/* Check what depends on several options. */
static void
check_table_options(const MillStream *stream)
{
	if (stream->layout.topic == NULL)
		ereport(ERROR, (errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
						errmsg("option \"topic\" is required for a stream"),
						errhint("For example: OPTIONS (topic 'user_clicks').")));
	mill_format_check(&stream->layout);
}

/* ---- columns ---- */

/* A column's name as a path, quoted if it would be parsed as more than a name. */
static char *
name_as_path(const char *name)
{
	StringInfoData path;

	if (strpbrk(name, ".[]\"") == NULL)
		return pstrdup(name);
	initStringInfo(&path);
	appendStringInfoChar(&path, '"');
	for (const char *c = name; *c; c++)
	{
		if (*c == '"')
			appendStringInfoChar(&path, '"');
		appendStringInfoChar(&path, *c);
	}
	appendStringInfoChar(&path, '"');
	return path.data;
}

/* Does this look like JSONPath, a JSON Pointer or a wildcard? */
static bool
is_foreign_path(const char *path)
{
	return strncmp(path, "$.", 2) == 0 || strncmp(path, "$[", 2) == 0 || strcmp(path, "$") == 0 ||
		   path[0] == '/' || (path[0] != '"' && strchr(path, '*') != NULL);
}

/* Parse one column's options; field stays NULL if it is not given. */
static void
parse_column_options(MillColumn *column, List *options)
{
	ListCell *cell;
	OptionProblem problem = {NULL, NULL};

	column->kind = MILL_COLUMN_FIELD;
	column->field = NULL;
	foreach (cell, options)
	{
		DefElem *option = lfirst_node(DefElem, cell);
		const char *value = defGetString(option);

		if (strcmp(option->defname, "field") == 0)
		{
			const char *fault;

			problem.detail = "A field is a name, or a path of names and subscripts.";
			problem.hint = "For example: field 'user_id', or field 'orders[0].price'; "
						   "a name with other signs in double quotes: field '\"user.id\"'.";
			if (mill_json_paths_add(mill_json_paths_create(palloc), value, &fault) < 0)
				refuse_value("field", value, &problem);
			if (is_foreign_path(value))
			{
				problem.hint =
					"Paths begin with a name and have no $, / or *: field 'user.id' for $.user.id or /user/id; "
					"a name with such signs in double quotes: field '\"$.a\"'.";
				refuse_value("field", value, &problem);
			}
			column->field = pstrdup(value);
		}
		else if (strcmp(option->defname, "metadata") == 0)
		{
			int kind = choose(metadata_names, lengthof(metadata_names), value);

			problem.hint =
				"Valid values are key, key_text, headers, timestamp, partition, offset, topic and payload; "
				"for example: metadata 'offset'.";
			if (kind < 0)
				refuse_value("metadata", value, &problem);
			column->kind = (MillColumnKind) kind;
		}
		else
			refuse_name(option->defname, column_option_names, lengthof(column_option_names));
	}

	if (column->field && column->kind != MILL_COLUMN_FIELD)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"field\" and \"metadata\" cannot be used for the same column"),
				 errhint(
					 "A column comes from the message's value or from its metadata; for example: OPTIONS (metadata 'offset').")));
}

/*
 * The validator of the foreign data wrapper.  Arguments: options as text[], and
 * the catalog they are for.  Core passes all options that the object would have.
 */
Datum
mill_kafka_validator(PG_FUNCTION_ARGS)
{
	List *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid catalog = PG_GETARG_OID(1);
	MillStream stream = {0};
	MillColumn column;

	switch (catalog)
	{
		case ForeignServerRelationId:
			mill_properties_check(options, MILL_IN_SERVER);
			break;
		case UserMappingRelationId:
			mill_properties_check(options, MILL_IN_USER_MAPPING);
			break;
		case ForeignTableRelationId:
			parse_table_options(&stream, options);
			check_table_options(&stream);
			break;
		case AttributeRelationId:
			parse_column_options(&column, options);
			break;
		default:
			if (options != NIL)
				refuse_name(linitial_node(DefElem, options)->defname, NULL, 0);
	}
	PG_RETURN_VOID();
}

/* ---- streams ---- */

static void
load_columns(MillStream *stream, TupleDesc desc)
{
	stream->layout.ncolumns = desc->natts;
	stream->layout.columns = palloc0(sizeof(MillColumn) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		MillColumn *column = &stream->layout.columns[i];

		if (attribute->attisdropped)
			continue;
		parse_column_options(column,
							 GetForeignColumnOptions(stream->layout.relid, attribute->attnum));
		if (column->kind == MILL_COLUMN_FIELD && column->field == NULL &&
			stream->layout.format->named_fields)
			column->field = name_as_path(NameStr(attribute->attname));
	}
}

MillStream *
mill_stream_load(Oid relid)
{
	Relation relation = relation_open(relid, AccessShareLock);
	MillStream *stream = palloc0(sizeof(MillStream));

	stream->layout.relid = relid;
	stream->serverid = GetForeignTable(relid)->serverid;
	parse_table_options(stream, GetForeignTable(relid)->options);
	load_columns(stream, RelationGetDescr(relation));
	check_table_options(stream);
	if (stream->layout.delimiter == '\0')
		stream->layout.delimiter = stream->layout.format->delimiter;
	if (stream->layout.null_string == NULL)
		stream->layout.null_string = stream->layout.format->null_string;
	relation_close(relation, AccessShareLock);
	return stream;
}
