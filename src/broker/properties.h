/*
 * properties.h
 *		What a gateway is told about a server.
 */
#ifndef MILL_BROKER_PROPERTIES_H
#define MILL_BROKER_PROPERTIES_H

#include "nodes/pg_list.h"

/* One property as it goes to the gateway. */
typedef struct MillProperty
{
	char place; /* MILL_IN_SERVER or MILL_IN_USER_MAPPING */
	const char *name;
	const char *value;
} MillProperty;

/*
 * The properties of a server and of the user's mapping on it, a list of
 * MillProperty, and the MILL_ROLE_* flags of that user.
 */
extern List *mill_properties_of(Oid serverid, Oid userid, int *flags);

/*
 * Let a gateway look at options (list of DefElem): it raises what is wrong.  A
 * user mapping is checked without its server's options, which may change anyway.
 */
extern void mill_properties_check(List *options, char place);

/* All of it in one text, which differs if anything does; in the current memory context. */
extern char *mill_properties_text(List *properties, int flags);

#endif
