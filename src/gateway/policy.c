/*
 * policy.c
 *		Checks properties by the table in rules.c.
 *
 * Everything is decided by the canonical name, and before the library gets the
 * property, because some have effects as soon as they are set.
 */
#define _GNU_SOURCE
#include "gateway/policy.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "gateway/protocol.h"

#define NAME_LIMIT 64

/* SQLSTATEs: invalid option name, insufficient privilege, invalid value. */
#define STATE_NAME "HV00D"
#define STATE_PRIVILEGE "42501"
#define STATE_VALUE "22023"

void
mill_error_set(MillError *error, const char *sqlstate, const char *message, const char *detail,
			   const char *hint)
{
	snprintf(error->sqlstate, sizeof(error->sqlstate), "%s", sqlstate);
	snprintf(error->message, sizeof(error->message), "%s", message);
	snprintf(error->detail, sizeof(error->detail), "%s", detail ? detail : "");
	snprintf(error->hint, sizeof(error->hint), "%s", hint ? hint : "");
}

/* Set the error of a request that violates protocol.h; returns false, for the caller to return. */
bool
mill_error_malformed(MillError *error)
{
	mill_error_set(error, "08P01", "malformed request to mill_gateway", NULL, NULL);
	return false;
}

/* The rule with this name, which may be an alias. */
static const MillRule *
find_rule(const char *name)
{
	for (int i = 0; i < mill_rule_count; i++)
	{
		if (strcmp(mill_rules[i].name, name) == 0)
			return &mill_rules[i];
	}
	return NULL;
}

const MillRule *
mill_policy_find(const char *name)
{
	const MillRule *rule = find_rule(name);

	return rule != NULL && rule->canonical != NULL ? find_rule(rule->canonical) : rule;
}

static int
least_of(int a, int b)
{
	return a < b ? a : b;
}

/* Levenshtein distance of two names; the longer one has at most NAME_LIMIT characters. */
static int
distance(const char *a, const char *b)
{
	int row[NAME_LIMIT + 1];
	int length = (int) strlen(b);

	for (int j = 0; j <= length; j++)
		row[j] = j;
	for (int i = 1; a[i - 1] != '\0'; i++)
	{
		int diagonal = row[0];

		row[0] = i;
		for (int j = 1; j <= length; j++)
		{
			int above = row[j];
			int change = diagonal + (tolower((unsigned char) a[i - 1]) != b[j - 1]);

			row[j] = least_of(change, least_of(above, row[j - 1]) + 1);
			diagonal = above;
		}
	}
	return row[length];
}

const char *
mill_policy_nearest(const char *name)
{
	const char *nearest = NULL;
	int best;

	if (strlen(name) > NAME_LIMIT)
		return NULL;
	best = (int) strlen(name) / 3 + 2;
	for (int i = 0; i < mill_rule_count; i++)
	{
		const MillRule *rule = &mill_rules[i];
		int d;

		if (rule->canonical != NULL || (rule->flags & (MILL_RULE_OURS | MILL_RULE_NEVER)))
			continue;
		d = distance(name, rule->name);
		if (d < best)
		{
			best = d;
			nearest = rule->name;
		}
	}
	return nearest;
}

/* Refuse names that are unknown, set by pg_mill, or never allowed. */
static bool
name_allowed(const MillRule *rule, const char *name, MillError *error)
{
	char message[200];
	char hint[200] = "";
	const char *nearest;
	size_t length = strlen(name);

	if (rule == NULL && length > 4 && strcmp(name + length - 3, "_cb") == 0)
	{
		snprintf(message, sizeof(message), "option \"%.80s\" is not allowed", name);
		mill_error_set(error, STATE_NAME, message, "It takes a pointer, which no text can be.",
					   NULL);
		return false;
	}
	if (rule == NULL)
	{
		nearest = mill_policy_nearest(name);
		snprintf(message, sizeof(message), "invalid option \"%.80s\"", name);
		if (nearest != NULL)
			snprintf(hint, sizeof(hint), "Perhaps you meant the option \"%s\".", nearest);
		mill_error_set(error, STATE_NAME, message, NULL, hint);
		return false;
	}
	if (rule->flags & MILL_RULE_OURS)
	{
		snprintf(message, sizeof(message), "option \"%s\" cannot be set", name);
		mill_error_set(error, STATE_NAME, message,
					   "pg_mill sets it itself: offsets and delivery are in its own tables.",
					   "Leave the option out.");
		return false;
	}
	if (rule->flags & MILL_RULE_NEVER)
	{
		snprintf(message, sizeof(message), "option \"%s\" is not allowed", name);
		mill_error_set(error, STATE_NAME, message, rule->note, NULL);
		return false;
	}
	return true;
}

/* Refuse a property of a server on a user mapping, and the reverse. */
static bool
location_allowed(const MillRule *rule, char location, const char *name, MillError *error)
{
	int here = location == MILL_IN_USER_MAPPING ? MILL_ALLOWED_IN_MAPPING : MILL_ALLOWED_IN_SERVER;
	char message[200];
	char hint[200];

	if (rule->allowed_in & here)
		return true;
	if (here == MILL_ALLOWED_IN_SERVER)
	{
		snprintf(message, sizeof(message), "option \"%s\" is not allowed on a server", name);
		snprintf(hint, sizeof(hint),
				 "Credentials belong in a user mapping: "
				 "CREATE USER MAPPING ... OPTIONS (\"%s\" '...').",
				 rule->name);
	}
	else
	{
		snprintf(message, sizeof(message), "option \"%s\" is not allowed in a user mapping", name);
		snprintf(hint, sizeof(hint),
				 "Set it on the server: ALTER SERVER ... OPTIONS (ADD \"%s\" '...').", rule->name);
	}
	mill_error_set(error, STATE_NAME, message, NULL, hint);
	return false;
}

/* Is Kerberos among these mechanisms? */
static bool
is_kerberos(const MillRule *rule, const char *value)
{
	return strcmp(rule->name, "sasl.mechanism") == 0 && strcasestr(value, "GSSAPI") != NULL;
}

/* Refuse what the user's role does not allow. */
static bool
role_allowed(const MillRule *rule, int flags, const char *name, const char *value, MillError *error)
{
	char message[200];

	if (flags & MILL_ROLE_SUPERUSER)
		return true;
	if (is_kerberos(rule, value))
	{
		mill_error_set(error, STATE_PRIVILEGE, "permission denied to use Kerberos",
					   "Only superusers may use the server machine's Kerberos credentials.",
					   "Use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.");
		return false;
	}
	if ((rule->flags & MILL_RULE_SUPER) ||
		((rule->flags & MILL_RULE_WEAKEN) && strcasecmp(value, rule->note) != 0))
	{
		snprintf(message, sizeof(message), "permission denied to set option \"%s\"", name);
		mill_error_set(error, STATE_PRIVILEGE, message,
					   rule->flags & MILL_RULE_WEAKEN
						   ? "Only superusers may switch certificate checks off."
						   : "Only superusers may set this option.",
					   NULL);
		return false;
	}
	if ((rule->flags & MILL_RULE_FILES) && !(flags & MILL_ROLE_READ_FILES))
	{
		snprintf(message, sizeof(message), "permission denied to set option \"%s\"", name);
		mill_error_set(error, STATE_PRIVILEGE, message,
					   "Only members of pg_read_server_files may name files of the server's machine.",
					   "The options ending in .pem take the text itself.");
		return false;
	}
	return true;
}

/* Refuse an address with a scheme; security.protocol is used for that. */
static bool
address_allowed(const MillRule *rule, const char *name, const char *value, MillError *error)
{
	char message[200];

	if (strcmp(rule->name, "bootstrap.servers") != 0 || strstr(value, "://") == NULL)
		return true;
	snprintf(message, sizeof(message), "invalid value for option \"%s\": \"%.80s\"", name, value);
	mill_error_set(error, STATE_VALUE, message,
				   "It is a list of addresses, host:port, and takes no protocol.",
				   "For example: \"bootstrap.servers\" 'kafka1:9092,kafka2:9092'; for TLS set \"security.protocol\".");
	return false;
}

/* Refuse values that are empty, not printable, or out of range. */
static bool
value_allowed(const MillRule *rule, const char *name, const char *value, MillError *error)
{
	bool is_text = strstr(rule->name, ".pem") != NULL;
	char message[200];
	char detail[100];
	char *end;
	long long number;

	if (value[0] == '\0')
	{
		snprintf(message, sizeof(message), "option \"%s\" must not be empty", name);
		mill_error_set(error, STATE_VALUE, message, NULL, NULL);
		return false;
	}
	for (const char *c = value; *c != '\0' && !is_text; c++)
	{
		if (!iscntrl((unsigned char) *c))
			continue;
		snprintf(message, sizeof(message), "option \"%s\" must not contain control characters",
				 name);
		mill_error_set(error, STATE_VALUE, message, NULL, NULL);
		return false;
	}
	if (rule->min == 0 && rule->max == 0)
		return true;

	errno = 0;
	number = strtoll(value, &end, 10);
	if (*end != '\0' || end == value)
	{
		snprintf(message, sizeof(message), "invalid value for option \"%s\": \"%.80s\"", name,
				 value);
		snprintf(detail, sizeof(detail), "It must be a number from %lld to %lld.",
				 (long long) rule->min, (long long) rule->max);
		mill_error_set(error, STATE_VALUE, message, detail, NULL);
		return false;
	}
	if (errno == ERANGE || number < rule->min || number > rule->max)
	{
		snprintf(message, sizeof(message), "value %.40s of option \"%s\" is out of range", value,
				 name);
		snprintf(detail, sizeof(detail), "The range is %lld to %lld.", (long long) rule->min,
				 (long long) rule->max);
		mill_error_set(error, STATE_VALUE, message, detail, NULL);
		return false;
	}
	return true;
}

bool
mill_policy_check(int flags, char location, const char *name, const char *value,
				  const MillRule **rule, MillError *error)
{
	*rule = mill_policy_find(name);
	return name_allowed(*rule, name, error) && location_allowed(*rule, location, name, error) &&
		   role_allowed(*rule, flags, name, value, error) &&
		   value_allowed(*rule, name, value, error) && address_allowed(*rule, name, value, error);
}
