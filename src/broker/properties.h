/*
 * properties.h
 *		The properties that a gateway is given for a server.
 */
#ifndef MILL_BROKER_PROPERTIES_H
#define MILL_BROKER_PROPERTIES_H

#include "nodes/pg_list.h"

/* One property as it goes to the gateway. */
typedef struct MillProperty
{
	char location; /* MILL_IN_SERVER or MILL_IN_USER_MAPPING */
	const char *name;
	const char *value;
} MillProperty;

/*
 * The properties of a server and of the user's mapping on it, a list of
 * MillProperty, and the MILL_ROLE_* flags of that user.
 */
extern List *mill_properties_of(Oid serverid, Oid userid, int *flags);

/*
 * Let a gateway check options (list of DefElem), and raise its error.  A user
 * mapping is checked without its server's options, which may change anyway.
 */
extern void mill_properties_check(List *options, char location);

/* All properties as one text, to be compared; in the current memory context. */
extern char *mill_properties_text(List *properties, int flags);

#endif
