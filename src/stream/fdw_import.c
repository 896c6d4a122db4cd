/*
 * fdw_import.c
 *		IMPORT FOREIGN SCHEMA: a stream for each topic of a server.
 *
 * Nothing is known about the contents of topics, so the streams have the format
 * raw: the value as text, and the metadata.  Runs in the backend of the
 * command, with a gateway that ends with it.
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "stream/fdw.h"

/* The remote schema's name, which stands for all topics, since Kafka has no schemas. */
#define REMOTE_SCHEMA "kafka"

#define ANSWER_TIMEOUT_MS 30000

/*
 * Is the topic to be imported?  Kafka's internal topics (__consumer_offsets and
 * the like) only by name.
 */
static bool
is_wanted(const char *table, ImportForeignSchemaStmt *stmt)
{
	if (stmt->list_type != FDW_IMPORT_SCHEMA_LIMIT_TO && strncmp(table, "__", 2) == 0)
		return false;
	return IsImportableForeignTable(table, stmt);
}

static char *
create_command(const char *table, const char *topic, const char *server)
{
	StringInfoData command;

	initStringInfo(&command);
	appendStringInfo(&command,
					 "CREATE FOREIGN TABLE %s ("
					 "value pg_catalog.text, "
					 "kafka_key pg_catalog.text OPTIONS (metadata 'key_text'), "
					 "kafka_headers pg_catalog.jsonb OPTIONS (metadata 'headers'), "
					 "kafka_timestamp pg_catalog.timestamptz OPTIONS (metadata 'timestamp'), "
					 "kafka_partition pg_catalog.int4 OPTIONS (metadata 'partition'), "
					 "kafka_offset pg_catalog.int8 OPTIONS (metadata 'offset')"
					 ") SERVER %s OPTIONS (topic %s, format 'raw')",
					 quote_identifier(table), quote_identifier(server), quote_literal_cstr(topic));
	return command.data;
}

List *
mill_fdw_import(ImportForeignSchemaStmt *stmt, Oid serverid)
{
	List *commands = NIL;
	List *properties;
	ListCell *cell;
	MillGateway *gateway;
	int flags;

	if (strcmp(stmt->remote_schema, REMOTE_SCHEMA) != 0)
		ereport(ERROR, (errcode(ERRCODE_FDW_SCHEMA_NOT_FOUND),
						errmsg("schema \"%s\" is not present on foreign server \"%s\"",
							   stmt->remote_schema, stmt->server_name),
						errhint("Topics have no schemas; use the name \"%s\" for all of them.",
								REMOTE_SCHEMA)));
	if (stmt->options != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", linitial_node(DefElem, stmt->options)->defname),
				 errhint("There are no valid options in this context.")));

	properties = mill_properties_of(serverid, GetUserId(), &flags);
	gateway = mill_gateway_start(properties, flags, 0);
	foreach (cell, mill_gateway_topics(gateway, ANSWER_TIMEOUT_MS))
	{
		const char *topic = lfirst(cell);

		/* the table's name, truncated as the parser does it */
		char *table = pnstrdup(topic, pg_mbcliplen(topic, strlen(topic), NAMEDATALEN - 1));

		if (is_wanted(table, stmt))
			commands = lappend(commands, create_command(table, topic, stmt->server_name));
	}
	mill_gateway_end(gateway);
	return commands;
}
