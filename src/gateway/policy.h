/*
 * policy.h
 *		Which client properties a user may set, where, and to what.
 *
 * Pure: no client, no I/O.  What passes here goes on to the library, which
 * checks the value itself.
 */
#ifndef MILL_GATEWAY_POLICY_H
#define MILL_GATEWAY_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An answer of the kind ERROR, ready to be sent. */
typedef struct MillError
{
	char sqlstate[6];
	char message[1200];
	char detail[1200];
	char hint[512];
} MillError;

/* What a property needs, beside its place. */
#define MILL_RULE_SECRET 0x01	/* never shown */
#define MILL_RULE_FILES 0x02	/* names a file of the server's machine */
#define MILL_RULE_SUPER 0x04	/* superusers only */
#define MILL_RULE_WEAKEN 0x08	/* superusers only, but for the safe value */
#define MILL_RULE_PRODUCER 0x10 /* checked, but of no use to a consumer */
#define MILL_RULE_OURS 0x20		/* pg_mill sets it */
#define MILL_RULE_NEVER 0x40	/* nobody may set it */

/* Where it may stand. */
#define MILL_PLACE_SERVER 0x01
#define MILL_PLACE_MAPPING 0x02
#define MILL_PLACE_BOTH 0x03

typedef struct MillRule
{
	const char *name;
	const char *canonical; /* for an alias: the name that stands for it */
	int places;
	int flags;
	int64_t min; /* a number in this range, unless both are 0 */
	int64_t max;
	const char *note; /* the safe value, or why it cannot be set */
} MillRule;

extern const MillRule mill_rules[];
extern const int mill_rule_count;

extern const MillRule *mill_policy_find(const char *name);

/*
 * True if a user with these flags (MILL_ROLE_*) may have this property in
 * this place (MILL_IN_*).  *rule is then its rule, of the canonical name.
 */
extern bool mill_policy_check(int flags, char place, const char *name, const char *value,
							  const MillRule **rule, MillError *error);

/* The allowed name that is most like this one, NULL if none is. */
extern const char *mill_policy_nearest(const char *name);

/* Fill in an error; detail and hint may be NULL. */
extern void mill_error_set(MillError *error, const char *sqlstate, const char *message,
						   const char *detail, const char *hint);
extern bool mill_error_malformed(MillError *error);

#endif
