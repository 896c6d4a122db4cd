/*
 * properties.c
 *		The properties that a gateway is given for a server: the options of the
 *		server and of the user mapping.
 *
 * They are properties of the client library.  Only the gateway knows them; DDL
 * starts one to check them.  The library is never called in this process.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "broker/broker.h"
#include "broker/properties.h"

/* The MILL_ROLE_* flags of a user. */
static int
role_flags(Oid userid)
{
	int flags = 0;

	if (superuser_arg(userid))
		flags |= MILL_ROLE_SUPERUSER;
	if (has_privs_of_role(userid, ROLE_PG_READ_SERVER_FILES))
		flags |= MILL_ROLE_READ_FILES;
	return flags;
}

static List *
add_properties(List *properties, List *options, char location)
{
	ListCell *cell;

	foreach (cell, options)
	{
		DefElem *option = lfirst_node(DefElem, cell);
		MillProperty *property = palloc(sizeof(MillProperty));

		property->location = location;
		property->name = option->defname;
		property->value = defGetString(option);
		properties = lappend(properties, property);
	}
	return properties;
}

void
mill_properties_check(List *options, char location)
{
	MemoryContext context;
	MemoryContext old;

	if (options == NIL)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "check of client properties",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	mill_gateway_end(mill_gateway_start(add_properties(NIL, options, location),
										role_flags(GetUserId()) | MILL_CHECK_ONLY, 0));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * The flags are those of the user, except that files may also be read with the
 * rights of the server's owner, who named ssl.ca.location for all users; what a
 * user mapping names was checked by DDL against the rights of whoever wrote it.
 * What only superusers may do depends on the user alone: otherwise the server's
 * Kerberos ticket could be used by those without credentials of their own.
 */
List *
mill_properties_of(Oid serverid, Oid userid, int *flags)
{
	ForeignServer *server = GetForeignServer(serverid);
	List *properties = add_properties(NIL, server->options, MILL_IN_SERVER);
	HeapTuple mapping;

	*flags = role_flags(userid) | (role_flags(server->owner) & MILL_ROLE_READ_FILES);

	mapping = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(userid),
							  ObjectIdGetDatum(serverid));
	if (!HeapTupleIsValid(mapping))
		mapping = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
								  ObjectIdGetDatum(serverid));
	if (HeapTupleIsValid(mapping))
	{
		bool isnull;
		Datum options = SysCacheGetAttr(USERMAPPINGUSERSERVER, mapping,
										Anum_pg_user_mapping_umoptions, &isnull);

		if (!isnull)
			properties = add_properties(properties, untransformRelOptions(options),
										MILL_IN_USER_MAPPING);
		ReleaseSysCache(mapping);
	}
	return properties;
}

/* In one text, in the current memory context. */
char *
mill_properties_text(List *properties, int flags)
{
	StringInfoData text;
	ListCell *cell;

	initStringInfo(&text);
	appendStringInfo(&text, "%d", flags);
	foreach (cell, properties)
	{
		const MillProperty *property = lfirst(cell);

		appendStringInfo(&text, "\n%c\x1f%s\x1f%s", property->location, property->name,
						 property->value);
	}
	return text.data;
}
