/*
 * config.c
 *		Makes a client from properties.
 *
 * Each property must pass the allow-list, then the library's own check of its
 * value; then our own settings are made.  Texts of the library may quote a
 * value, so they are not passed on for secrets, and every text that leaves this
 * program is searched for the secrets that it was given.
 */
#define _GNU_SOURCE
#include "gateway/client.h"

#include <openssl/x509.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/*
 * Our settings, in this order: first those that a user may change, applied
 * before the user's, then those that are fixed, applied after.
 *
 * Memory: there is one queue for all partitions.  It holds up to 16 MB of
 * fetched messages plus what one fetch brings beyond; the library adds a few
 * hundred bytes to each message, which the limit on messages bounds.
 *
 * Latency: a fetch is answered as soon as there is one byte, but a partition
 * that is not part of the running fetch waits until that ends: 100 ms.
 *
 * A broker that is back is noticed within reconnect.backoff.max.ms.
 */
static const char *const defaults[][2] =
	{{"isolation.level", "read_committed"},
	 {"client.id", "pg_mill"},
	 {"queued.min.messages", "30000"},
	 {"queued.max.messages.kbytes", "16384"},
	 {"fetch.max.bytes", "8388608"},
	 {"fetch.min.bytes", "1"},
	 /* also what zstd may unpack to */
	 {"receive.message.max.bytes", "268435456"},
	 {"fetch.wait.max.ms", "100"},
	 {"fetch.error.backoff.ms", "100"},
	 {"reconnect.backoff.ms", "100"},
	 {"reconnect.backoff.max.ms", "2000"},
	 {"topic.metadata.refresh.interval.ms", "30000"},
	 {"topic.metadata.propagation.max.ms", "5000"},
	 {"socket.keepalive.enable", "true"},
	 /* a broker that closes the connection at once expects TLS or SASL */
	 {"log.connection.close", "true"},
	 {NULL, NULL}};

static const char *const fixed[][2] = {
	/* assign() needs a group's name, but no group is joined and nothing committed */
	{"group.id", "pg_mill"},
	{"enable.auto.commit", "false"},
	{"enable.auto.offset.store", "false"},
	{"auto.offset.reset", "error"},
	{"enable.partition.eof", "true"},
	{"check.crcs", "true"},
	{"allow.auto.create.topics", "false"},
	{"max.poll.interval.ms", "86400000"},
	{"log.queue", "true"},
	{"log_level", "4"},
	{NULL, NULL}};

/* Settings that only newer libraries have; others are used without them. */
static const char *const optional[][2] = {{"fetch.queue.backoff.ms", "5"}, /* 2.2: else one second */
										  {"enable.metrics.push",
										   "false"}, /* 2.5: tell brokers nothing */
										  {"group.protocol", "classic"},			/* 2.4 */
										  {"client.dns.lookup", "use_all_dns_ips"}, /* 2.2 */
										  {NULL, NULL}};

/* Secrets given so far, never freed; shorter values would replace ordinary words. */
#define SECRET_SHORTEST 4
static char **secrets;
static int secret_count;

/* OpenSSL's verdict on the last certificate that it refused. */
static atomic_int certificate_error;

int64_t
mill_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void
remember_secret(const char *value)
{
	if (strlen(value) < SECRET_SHORTEST)
		return;
	secrets = mill_allocate(secrets, (secret_count + 1) * sizeof(char *));
	secrets[secret_count] = mill_allocate(NULL, strlen(value) + 1);
	strcpy(secrets[secret_count++], value);
}

void
mill_scrub(char *text)
{
	for (int i = 0; i < secret_count; i++)
	{
		char *found = text;

		while ((found = strstr(found, secrets[i])) != NULL)
			memset(found, '*', strlen(secrets[i]));
	}
}

/* Is it certain that a retry does not help? */
static bool
is_refusal(MillTrouble trouble)
{
	return trouble >= MILL_TROUBLE_CERTIFICATE;
}

bool
mill_client_refused(const MillClient *client)
{
	return is_refusal(client->trouble);
}

void
mill_client_explain(const MillClient *client, MillError *error)
{
	mill_trouble_explain(client->trouble, error);
	snprintf(error->detail, sizeof(error->detail), "%s", client->last_error);

	/* librdkafka issue 4895: its nonce is not what the standard requires */
	if (client->trouble == MILL_TROUBLE_CREDENTIALS && client->scram &&
		rd_kafka_version() < 0x02060100 && strstr(client->last_error, "handshake") == NULL)
		snprintf(error->hint, sizeof(error->hint),
				 "librdkafka %s cannot use SCRAM with Kafka 4; build mill_gateway with 2.6.1 or later, "
				 "or use PLAIN over TLS, if user name and password are right.",
				 rd_kafka_version_str());
}

/*
 * Remember OpenSSL's verdict on a broker's certificate, without changing it,
 * because the library's text is the same for all of them.  Called by threads of
 * the library.
 */
static int
note_certificate(rd_kafka_t *rk, const char *broker_name, int32_t broker_id, int *x509_error,
				 int depth, const char *data, size_t size, char *text, size_t text_size,
				 void *opaque)
{
	(void) rk;
	(void) broker_name;
	(void) broker_id;
	(void) depth;
	(void) data;
	(void) size;
	(void) opaque;
	if (*x509_error == 0)
		return 1;
	atomic_store(&certificate_error, *x509_error);
	snprintf(text, text_size, "%s", X509_verify_cert_error_string(*x509_error));
	return 0;
}

/* The library's error callback, for what concerns the whole client. */
static void
error_callback(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
	MillClient *client = opaque;
	int verdict = atomic_load(&certificate_error);
	MillTrouble trouble = mill_trouble_find(code, reason, verdict);

	(void) rk;
	/* no group is joined, so errors of a group's coordinator do not matter */
	if (code == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
		code == RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE)
		return;
	if (code == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
		client->all_down = true;

	/*
	 * While streaming we have been connected: a broker that closes a
	 * connection early is stopping or starting, and the settings are right.
	 */
	if (client->on_error != NULL && !is_refusal(trouble))
	{
		trouble = MILL_TROUBLE_UNREACHABLE;
		if (!is_refusal(client->trouble))
			client->trouble = MILL_TROUBLE_NONE;
	}

	/* keep the earlier complaint: it says more than "all brokers are down" */
	if ((code != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || client->last_error[0] == '\0') &&
		trouble >= client->trouble)
	{
		bool certificate = trouble >= MILL_TROUBLE_CERTIFICATE &&
						   trouble <= MILL_TROUBLE_CERTIFICATE_TIME;

		client->trouble = trouble;
		snprintf(client->last_error, sizeof(client->last_error), "%s%s%s",
				 certificate && verdict ? X509_verify_cert_error_string(verdict) : "",
				 certificate && verdict ? ": " : "", reason);
		mill_scrub(client->last_error);
	}
	if (client->on_error != NULL)
		client->on_error(client->arg, code, client->last_error);
}

static void
log_callback(const rd_kafka_t *rk, int level, const char *facility, const char *line)
{
	MillClient *client = rd_kafka_opaque(rk);
	char text[1024];

	/* failed connections also arrive in the error callback */
	if (level > 4 || client->on_log == NULL || strcmp(facility, "FAIL") == 0)
		return;
	snprintf(text, sizeof(text), "%s: %s", facility, line);
	mill_scrub(text);
	client->on_log(client->arg, text);
}

/* Set a property that the policy allows; the library checks its value. */
static bool
set_property(rd_kafka_conf_t *conf, const MillRule *rule, const char *name, const char *value,
			 MillError *error)
{
	char text[512];
	char message[200];
	rd_kafka_conf_res_t result = rd_kafka_conf_set(conf, rule->name, value, text, sizeof(text));

	if (result == RD_KAFKA_CONF_OK)
		return true;
	mill_scrub(text);
	if (result == RD_KAFKA_CONF_UNKNOWN)
	{
		snprintf(message, sizeof(message), "option \"%s\" is not available", name);
		snprintf(text, sizeof(text), "librdkafka %s does not have it.", rd_kafka_version_str());
		mill_error_set(error, "HV00D", message, text, NULL);
		return false;
	}
	snprintf(message, sizeof(message), "invalid value for option \"%s\"", name);
	mill_error_set(error, "22023", message, rule->flags & MILL_RULE_SECRET ? NULL : text, NULL);
	return false;
}

/* Set one of our own settings, which cannot fail because of a user. */
static void
set_ours(rd_kafka_conf_t *conf, const char *const settings[][2], bool may_lack)
{
	char text[512];

	for (int i = 0; settings[i][0] != NULL; i++)
	{
		if (rd_kafka_conf_set(conf, settings[i][0], settings[i][1], text, sizeof(text)) !=
				RD_KAFKA_CONF_OK &&
			!may_lack)
		{
			fprintf(stderr, "mill_gateway: %s\n", text);
			_Exit(70);
		}
	}
}

/* Read a string of the payload, which must end within it. */
static const char *
take_string(MillPayload *rest)
{
	const char *result = rest->data;
	const char *end = memchr(rest->data, '\0', rest->length);

	if (end == NULL)
		return NULL;
	rest->length -= end + 1 - rest->data;
	rest->data = end + 1;
	return result;
}

/*
 * The configuration that a property is set in.  Those that are only to be
 * checked go to one that is not used: properties for producers and, where no
 * client is to connect, addresses, files, and halves of pairs.
 */
static rd_kafka_conf_t *
choose_configuration(const MillRule *rule, int flags, rd_kafka_conf_t *conf, rd_kafka_conf_t *unused)
{
	static const char *const left_out[] = {"bootstrap.servers",		"ssl.certificate.pem",
										   "ssl.key.pem",			"ssl.key.password",
										   "ssl.keystore.password", NULL};

	if (rule->flags & MILL_RULE_PRODUCER)
		return unused;
	if (!(flags & MILL_CHECK_ONLY))
		return conf;
	if ((rule->flags & (MILL_RULE_FILES | MILL_RULE_SUPER)) ||
		strncmp(rule->name, "sasl.oauthbearer", 16) == 0)
		return unused;
	for (int i = 0; left_out[i] != NULL; i++)
	{
		if (strcmp(rule->name, left_out[i]) == 0)
			return unused;
	}
	return conf;
}

/* Are these the properties of a server, not only of a user mapping? */
static bool
is_server(MillPayload request)
{
	return request.length > 0 && *request.data == MILL_IN_SERVER;
}

/* Check and set all properties of the payload. */
static bool
set_properties(rd_kafka_conf_t *conf, rd_kafka_conf_t *unused, int flags, MillPayload rest,
			   MillError *error)
{
	const MillRule **seen = NULL;
	char *locations = NULL;
	int count = 0;
	bool ok = true;

	while (ok && rest.length > 0)
	{
		char location = *rest.data++;
		const char *name;
		const char *value;
		const MillRule *rule;
		char message[200];

		rest.length--;
		name = take_string(&rest);
		value = name ? take_string(&rest) : NULL;
		if (value == NULL)
		{
			ok = mill_error_malformed(error);
			break;
		}
		rule = mill_policy_find(name);
		if (rule != NULL && (rule->flags & MILL_RULE_SECRET))
			remember_secret(value);
		ok = mill_policy_check(flags, location, name, value, &rule, error);
		for (int i = 0; ok && i < count; i++)
		{
			if (seen[i] != rule || locations[i] != location)
				continue;
			snprintf(message, sizeof(message), "option \"%s\" is given more than once", rule->name);
			mill_error_set(error, "42601", message, "One of its names is an alias of the other.",
						   NULL);
			ok = false;
		}
		seen = mill_allocate(seen, (count + 1) * sizeof(*seen));
		locations = mill_allocate(locations, count + 1);
		seen[count] = rule;
		locations[count++] = location;
		ok = ok && set_property(choose_configuration(rule, flags, conf, unused), rule, name, value,
								error);
	}
	free(seen);
	free(locations);
	return ok;
}

/* Read the value of a property into a buffer of this size; empty if it is not set. */
static void
get_property(const rd_kafka_conf_t *conf, const char *name, char *value, size_t size)
{
	if (rd_kafka_conf_get(conf, name, value, &size) != RD_KAFKA_CONF_OK)
		value[0] = '\0';
}

/* Check what depends on several properties. */
static bool
check_combination(MillClient *client, const rd_kafka_conf_t *conf, int flags, MillError *error)
{
	char protocol[32];
	char mechanism[64];
	size_t size = 0;

	if (rd_kafka_conf_get(conf, "bootstrap.servers", NULL, &size) != RD_KAFKA_CONF_OK || size <= 1)
	{
		mill_error_set(error, "HV00J", "option \"bootstrap.servers\" is missing", NULL,
					   "Set it on the server: ALTER SERVER ... OPTIONS (ADD \"bootstrap.servers\" 'host:9092').");
		return false;
	}
	get_property(conf, "security.protocol", protocol, sizeof(protocol));
	get_property(conf, "sasl.mechanisms", mechanism, sizeof(mechanism));
	client->scram = strncasecmp(protocol, "sasl", 4) == 0 && strncasecmp(mechanism, "SCRAM", 5) == 0;

	/* the library's default mechanism is Kerberos, with the machine's ticket */
	if (strncasecmp(protocol, "sasl", 4) == 0 && strcasecmp(mechanism, "GSSAPI") == 0 &&
		!(flags & MILL_ROLE_SUPERUSER))
	{
		mill_error_set(error, "HV00J", "option \"sasl.mechanism\" is missing",
					   "Without it the client would use Kerberos, which only superusers may.",
					   "Set it on the server to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.");
		return false;
	}
	return true;
}

/* The value of a numeric property. */
static int64_t
get_number(const rd_kafka_conf_t *conf, const char *name)
{
	char value[32];

	get_property(conf, name, value, sizeof(value));
	return strtoll(value, NULL, 10);
}

static void
lower_limit(rd_kafka_conf_t *conf, const char *name, int64_t limit)
{
	char text[512];
	char value[32];

	if (get_number(conf, name) <= limit)
		return;
	snprintf(value, sizeof(value), "%lld", (long long) limit);
	rd_kafka_conf_set(conf, name, value, text, sizeof(text));
}

/*
 * Fetch less at once, after a gateway exceeded its memory limit, since the size
 * that an answer unpacks to is not known before.  The broker always sends at
 * least one whole batch.  The library requires fetch.max.bytes to be at least
 * message.max.bytes, and that at least 1000; the least sizes of the queue are
 * in rules.c.
 */
static void
lower_fetch(rd_kafka_conf_t *conf, int32_t fetch_bytes)
{
	int64_t limit = fetch_bytes > 1000 ? fetch_bytes : 1000;

	lower_limit(conf, "fetch.message.max.bytes", limit);
	lower_limit(conf, "message.max.bytes", limit);
	lower_limit(conf, "fetch.max.bytes", limit);
	lower_limit(conf, "queued.max.messages.kbytes", 1024);
	lower_limit(conf, "queued.min.messages", 1000);
}

/* Make a client; takes over conf. */
static rd_kafka_t *
create_client(MillClient *client, rd_kafka_conf_t *conf, MillError *error)
{
	char text[512];
	char verify[8];
	rd_kafka_t *rk;

	set_ours(conf, fixed, false);
	rd_kafka_conf_set_opaque(conf, client);
	rd_kafka_conf_set_error_cb(conf, error_callback);
	rd_kafka_conf_set_log_cb(conf, log_callback);
	get_property(conf, "enable.ssl.certificate.verification", verify, sizeof(verify));
	if (strcmp(verify, "true") == 0)
		rd_kafka_conf_set_ssl_cert_verify_cb(conf, note_certificate);

	rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof(text));
	if (rk == NULL)
	{
		rd_kafka_conf_destroy(conf);
		mill_scrub(text);
		mill_error_set(error, "22023", "the server's options do not make a Kafka client", text,
					   NULL);
		return NULL;
	}
	rd_kafka_set_log_queue(rk, NULL);
	return rk;
}

/*
 * Check that a server's properties go together, which only a client can tell.
 * This one has no address to connect to.  Left out are files, since a dump may
 * be restored without them, and what a user mapping may add.
 */
static bool
check_together(MillClient *client, rd_kafka_conf_t *conf, MillError *error)
{
	char protocol[32];
	char mechanism[64];
	char text[512];
	size_t size = 0;
	bool tls;
	bool sasl;
	rd_kafka_t *rk;

	get_property(conf, "security.protocol", protocol, sizeof(protocol));
	get_property(conf, "sasl.mechanisms", mechanism, sizeof(mechanism));
	/* certificates are read only where TLS is used */
	tls = strcasestr(protocol, "ssl") != NULL ||
		  (rd_kafka_conf_get(conf, "ssl.ca.pem", NULL, &size) == RD_KAFKA_CONF_OK && size > 1);
	/* other mechanisms need more properties, or act at once */
	sasl = strncasecmp(protocol, "sasl", 4) == 0 &&
		   (strcasecmp(mechanism, "PLAIN") == 0 || strncasecmp(mechanism, "SCRAM", 5) == 0);
	snprintf(protocol, sizeof(protocol), "%s%s", sasl ? "sasl_" : "", tls ? "ssl" : "plaintext");
	rd_kafka_conf_set(conf, "security.protocol", protocol, text, sizeof(text));
	rd_kafka_conf_set(conf, "sasl.username", "nobody", text, sizeof(text));
	rd_kafka_conf_set(conf, "sasl.password", "nothing", text, sizeof(text));

	rk = create_client(client, conf, error);
	if (rk == NULL)
		return false;
	rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	return true;
}

bool
mill_client_configure(MillClient *client, MillPayload request, MillError *error)
{
	rd_kafka_conf_t *conf;
	rd_kafka_conf_t *unused;
	int32_t fetch_bytes;
	int flags;
	bool ok;

	if (request.length < 1 + sizeof(fetch_bytes) || client->rk != NULL)
		return mill_error_malformed(error);
	flags = (uint8_t) *request.data;
	memcpy(&fetch_bytes, request.data + 1, sizeof(fetch_bytes));
	request.data += 1 + sizeof(fetch_bytes);
	request.length -= 1 + sizeof(fetch_bytes);

	conf = rd_kafka_conf_new();
	unused = rd_kafka_conf_new();
	set_ours(conf, defaults, false);
	set_ours(conf, optional, true);
	ok = set_properties(conf, unused, flags, request, error);
	rd_kafka_conf_destroy(unused);
	if (!ok || ((flags & MILL_CHECK_ONLY) && !is_server(request)) ||
		(!(flags & MILL_CHECK_ONLY) && !check_combination(client, conf, flags, error)))
	{
		rd_kafka_conf_destroy(conf);
		return ok && (flags & MILL_CHECK_ONLY);
	}
	if (flags & MILL_CHECK_ONLY)
		return check_together(client, conf, error);
	if (fetch_bytes > 0)
		lower_fetch(conf, fetch_bytes);
	client->rk = create_client(client, conf, error);
	return client->rk != NULL;
}
