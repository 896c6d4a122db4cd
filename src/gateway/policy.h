/*
 * policy.h
 *		Which client properties a user may set, where, and to what.
 *
 * Pure: no client, no I/O.  What is accepted here goes to the library, which
 * checks the value itself.
 */
#ifndef MILL_GATEWAY_POLICY_H
#define MILL_GATEWAY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The contents of an ERROR reply. */
typedef struct MillError
{
	char sqlstate[6];
	char message[1200];
	char detail[1200];
	char hint[512];
} MillError;

/* Properties of a rule. */
#define MILL_RULE_SECRET 0x01	/* never shown */
#define MILL_RULE_FILES 0x02	/* names a file on the server's machine */
#define MILL_RULE_SUPER 0x04	/* superusers only */
#define MILL_RULE_WEAKEN 0x08	/* superusers only, except for the safe value */
#define MILL_RULE_PRODUCER 0x10 /* checked, but of no use to a consumer */
#define MILL_RULE_OURS 0x20		/* set by pg_mill itself */
#define MILL_RULE_NEVER 0x40	/* nobody may set it */

/* Where the property may be set. */
#define MILL_ALLOWED_IN_SERVER 0x01
#define MILL_ALLOWED_IN_MAPPING 0x02
#define MILL_ALLOWED_IN_BOTH 0x03

typedef struct MillRule
{
	const char *name;
	const char *canonical; /* for an alias: the canonical name */
	int allowed_in;
	int flags;
	int64_t min; /* range of a number; both 0: not a number */
	int64_t max;
	const char *note; /* the safe value, or why it cannot be set */
} MillRule;

extern const MillRule mill_rules[];
extern const int mill_rule_count;

extern const MillRule *mill_policy_find(const char *name);

/*
 * Check whether a user with these flags (MILL_ROLE_*) may set this property
 * here (MILL_IN_*).  *rule is then the rule of the canonical name.
 */
extern bool mill_policy_check(int flags, char location, const char *name, const char *value,
							  const MillRule **rule, MillError *error);

/* The allowed name that is most similar to this one, NULL if none is similar. */
extern const char *mill_policy_nearest(const char *name);

/* Set an error; detail and hint may be NULL. */
extern void mill_error_set(MillError *error, const char *sqlstate, const char *message,
						   const char *detail, const char *hint);
extern bool mill_error_malformed(MillError *error);

#endif
