/*
 * test_gateway.c
 *		The gateway without a broker: which properties it allows, its frames, and
 *		the program itself over pipes.
 *
 * By hand, from the top of the tree after "make mill_gateway":
 *	gcc -std=gnu11 -g -Isrc -o /tmp/test_gateway test/unit/test_gateway.c \
 *		src/gateway/{policy,rules,frames,trouble}.c -lrdkafka -lpthread && /tmp/test_gateway
 *
 * MILL_GATEWAY names another program than ./mill_gateway.
 *
 * LINK: src/gateway/rules.c -lrdkafka -lpthread
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>

#include "gateway/frames.h"
#include "gateway/policy.h"
#include "gateway/trouble.h"

#define SUPER MILL_ROLE_SUPERUSER
#define READER MILL_ROLE_READ_FILES
#define SERVER MILL_IN_SERVER
#define MAPPING MILL_IN_USER_MAPPING

/* How long the program may take for anything, in milliseconds. */
#define DEADLINE 20000

static int tests = 0;
static int failures = 0;

static void
ok(bool good, const char *format, ...)
{
	va_list args;

	printf("%s %d - ", good ? "ok" : "not ok", ++tests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	failures += !good;
}

/* ---- policy ---- */

typedef struct PolicyCase
{
	char location;
	const char *name;
	const char *value;
	int flags;
	const char *sqlstate; /* "" if allowed */
} PolicyCase;

static const PolicyCase policy_cases[] =
	{{SERVER, "bootstrap.servers", "a:9092,b:9092", 0, ""},
	 {SERVER, "metadata.broker.list", "a:9092", 0, ""},
	 {MAPPING, "bootstrap.servers", "a:9092", SUPER, "HV00D"},
	 {SERVER, "bootstrap.servers", "", 0, "22023"},
	 {SERVER, "bootstrap.servers", "a:9092\nb", 0, "22023"},
	 {SERVER, "bootstrap.servers", "http://a:9092", 0, "22023"},
	 {SERVER, "metadata.broker.list", "a:9092,SSL://b:9092", SUPER, "22023"},
	 {SERVER, "bootstrap.servers ", "a:9092", 0, "HV00D"},
	 {SERVER, "Bootstrap.Servers", "a:9092", 0, "HV00D"},
	 {SERVER, "", "x", SUPER, "HV00D"},
	 {SERVER, "security.protocol", "plaintext", 0, ""},
	 {SERVER, "security.protocol", "sasl_ssl", 0, ""},
	 {SERVER, "sasl.mechanism", "PLAIN", 0, ""},
	 {MAPPING, "sasl.mechanisms", "SCRAM-SHA-512", 0, ""},
	 {SERVER, "sasl.mechanism", "GSSAPI", 0, "42501"},
	 {SERVER, "sasl.mechanisms", "gssapi", 0, "42501"},
	 {SERVER, "sasl.mechanism", "GSSAPI", SUPER, ""},
	 {MAPPING, "sasl.username", "alice", 0, ""},
	 {SERVER, "sasl.username", "alice", SUPER, "HV00D"},
	 {MAPPING, "sasl.password", "x", 0, ""},
	 {SERVER, "sasl.password", "x", SUPER, "HV00D"},
	 {SERVER, "ssl.key.pem", "x", SUPER, "HV00D"},
	 {MAPPING, "ssl.key.pem", "-----BEGIN\nx\n", 0, ""},
	 {SERVER, "ssl.ca.pem", "-----BEGIN\nx\n", 0, ""},
	 {SERVER, "ssl.ca.location", "/etc/ca.pem", 0, "42501"},
	 {SERVER, "ssl.ca.location", "/etc/ca.pem", READER, ""},
	 {SERVER, "ssl.ca.location", "/etc/ca.pem", SUPER, ""},
	 {MAPPING, "ssl.key.location", "/etc/key.pem", 0, "42501"},
	 {MAPPING, "ssl.keystore.location", "/etc/key.p12", READER, ""},
	 {SERVER, "sasl.kerberos.principal", "x", READER, "42501"},
	 {SERVER, "sasl.kerberos.keytab", "/x", READER, "42501"},
	 {SERVER, "sasl.kerberos.service.name", "kafka", SUPER, ""},
	 {SERVER, "sasl.oauthbearer.token.endpoint.url", "http://169.254.169.254/", READER, "42501"},
	 {SERVER, "enable.ssl.certificate.verification", "false", READER, "42501"},
	 {SERVER, "enable.ssl.certificate.verification", "0", 0, "42501"},
	 {SERVER, "enable.ssl.certificate.verification", "true", 0, ""},
	 {SERVER, "enable.ssl.certificate.verification", "false", SUPER, ""},
	 {SERVER, "ssl.endpoint.identification.algorithm", "none", 0, "42501"},
	 {SERVER, "ssl.endpoint.identification.algorithm", "https", 0, ""},
	 {SERVER, "ssl.cipher.suites", "NULL", 0, "42501"},
	 {SERVER, "isolation.level", "read_uncommitted", 0, ""},
	 {SERVER, "client.id", "me", 0, ""},
	 {SERVER, "fetch.wait.max.ms", "50", 0, ""},
	 {SERVER, "fetch.wait.max.ms", "5001", SUPER, "22023"},
	 {SERVER, "fetch.wait.max.ms", "9", 0, "22023"},
	 {SERVER, "fetch.wait.max.ms", "50ms", 0, "22023"},
	 {SERVER, "fetch.wait.max.ms", "99999999999999999999", 0, "22023"},
	 {SERVER, "max.partition.fetch.bytes", "1000000000", 0, "22023"},
	 {SERVER, "queued.max.messages.kbytes", "2097151", SUPER, "22023"},
	 {SERVER, "queued.min.messages", "10000000", SUPER, "22023"},
	 {SERVER, "receive.message.max.bytes", "2147483647", SUPER, "22023"},
	 {SERVER, "compression.type", "zstd", 0, ""},
	 {SERVER, "group.id", "x", SUPER, "HV00D"},
	 {SERVER, "enable.auto.commit", "true", SUPER, "HV00D"},
	 {SERVER, "auto.commit.enable", "true", SUPER, "HV00D"},
	 {SERVER, "auto.commit.enable ", "true", SUPER, "HV00D"},
	 {SERVER, "auto.offset.reset", "latest", SUPER, "HV00D"},
	 {SERVER, "check.crcs", "false", SUPER, "HV00D"},
	 {SERVER, "debug", "all", SUPER, "HV00D"},
	 {0, NULL, NULL, 0, NULL}};

/* Nobody gets these through, a superuser with all rights included. */
static const char *const never[] = {"plugin.library.paths",
									"interceptors",
									"ssl.engine.location",
									"ssl.engine.id",
									"ssl.providers",
									"ssl_engine_callback_data",
									"sasl.kerberos.kinit.cmd",
									"ssl_key",
									"ssl_certificate",
									"ssl_ca",
									"opaque",
									"default_topic_conf",
									"test.mock.num.brokers",
									"test.mock.broker.rtt",
									"offset.store.path",
									"offset.store.method",
									"offset.store.sync.interval.ms",
									"internal.termination.signal",
									"enable.random.seed",
									"enabled_events",
									"log.queue",
									"log.thread.name",
									"enable.sasl.oauthbearer.unsecure.jwt",
									"sasl.oauthbearer.metadata.authentication.type",
									"error_cb",
									"log_cb",
									"open_cb",
									"connect_cb",
									"resolve_cb",
									"ssl.certificate.verify_cb",
									"oauthbearer_token_refresh_cb",
									"background_event_cb",
									"ut_handle_ProduceResponse",
									"topic.blacklist",
									"a.property.of.tomorrow",
									NULL};

static void
test_policy(void)
{
	const MillRule *rule;

	for (const PolicyCase *c = policy_cases; c->name != NULL; c++)
	{
		MillError error = {0};
		bool allowed = mill_policy_check(c->flags, c->location, c->name, c->value, &rule, &error);

		ok(allowed == (c->sqlstate[0] == '\0') && strcmp(error.sqlstate, c->sqlstate) == 0,
		   "%s %s = \"%.20s\", flags %d: %s", c->location == SERVER ? "server" : "mapping", c->name,
		   strchr(c->value, '\n') ? "..." : c->value, c->flags,
		   allowed ? "allowed" : error.sqlstate);
	}
	for (int i = 0; never[i] != NULL; i++)
	{
		MillError error = {0};

		ok(!mill_policy_check(SUPER | READER, SERVER, never[i], "1", &rule, &error) &&
			   !mill_policy_check(SUPER | READER, MAPPING, never[i], "1", &rule, &error),
		   "never: %s (%s)", never[i], error.message);
	}
}

static void
test_hints(void)
{
	static const char *const typos[][2] = {{"bootstrap.server", "bootstrap.servers"},
										   {"sasl.mecanism", "sasl.mechanism"},
										   {"sasl.pasword", "sasl.password"},
										   {"BOOTSTRAP.SERVERS", "bootstrap.servers"},
										   {"isolation_level", "isolation.level"},
										   {"wxyz", NULL},
										   {NULL, NULL}};

	for (int i = 0; typos[i][0] != NULL; i++)
	{
		const char *nearest = mill_policy_nearest(typos[i][0]);

		ok(typos[i][1] ? nearest && strcmp(nearest, typos[i][1]) == 0 : !nearest,
		   "nearest to %s: %s", typos[i][0], nearest ? nearest : "none");
	}
}

/* Every property that this library knows was thought about. */
static void
test_library(void)
{
	FILE *file = tmpfile();
	char line[4096];
	int unknown = 0;
	int known = 0;

	rd_kafka_conf_properties_show(file);
	rewind(file);
	while (fgets(line, sizeof(line), file))
	{
		size_t length = strcspn(line, " |");

		if (strstr(line, " | ") == NULL || strncmp(line, "Property", 8) == 0 || line[0] == '-')
			continue;
		line[length] = '\0';
		if (mill_policy_find(line) != NULL || (length > 3 && strcmp(line + length - 3, "_cb") == 0))
			known++;
		else
		{
			unknown++;
			printf("# not in the table, so refused: %s\n", line);
		}
	}
	fclose(file);
	ok(known > 100, "the library's list of properties was read: %d", known);
	/* A newer library may have more; they are refused until they are listed. */
	ok(unknown == 0 || rd_kafka_version() > 0x020002ff,
	   "librdkafka %s: %d properties are not in the table", rd_kafka_version_str(), unknown);
	for (int i = 0; i < mill_rule_count; i++)
	{
		for (int j = 0; j < i; j++)
		{
			if (strcmp(mill_rules[i].name, mill_rules[j].name) == 0)
				ok(false, "%s is listed twice", mill_rules[i].name);
		}
		if (mill_rules[i].canonical != NULL &&
			(mill_policy_find(mill_rules[i].name) == NULL ||
			 mill_policy_find(mill_rules[i].name)->canonical != NULL))
			ok(false, "%s is an alias of nothing", mill_rules[i].name);
	}
}

/* ---- trouble ---- */

/* Texts as librdkafka 2.0.2 and OpenSSL 3 give them; a part of the message that they become. */
static const struct
{
	int code;
	const char *text;
	int certificate_error;
	const char *sqlstate;
	const char *message;
	const char *hint;
} trouble_cases[] =
	{{RD_KAFKA_RESP_ERR__TRANSPORT,
	  "a:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
	  0, "08001", "could not reach", ""},
	 {RD_KAFKA_RESP_ERR__TRANSPORT,
	  "a:1/bootstrap: Disconnected while requesting ApiVersion: might be caused by incorrect security.protocol configuration (connecting to a SSL listener?) or broker version is < 0.10 (see api.version.request) (after 0ms in state APIVERSION_QUERY)",
	  0, "08P01", "wants TLS", "security.protocol"},
	 {RD_KAFKA_RESP_ERR__BAD_MSG,
	  "a:1/bootstrap: Receive failed: Invalid response size 352518912 (0..100000000): increase receive.message.max.bytes",
	  0, "08P01", "wants TLS", "security.protocol"},
	 {RD_KAFKA_RESP_ERR__BAD_MSG,
	  "a:1/bootstrap: Receive failed: Invalid response size 1213486160 (0..100000000): increase receive.message.max.bytes",
	  0, "08P01", "does not speak Kafka", "bootstrap.servers"},
	 {RD_KAFKA_RESP_ERR__SSL,
	  "ssl://a:1/bootstrap: SSL handshake failed: error:0A000126:SSL routines::unexpected eof while reading (after 1ms in state SSL_HANDSHAKE)",
	  0, "08P01", "does not speak TLS", "security.protocol"},
	 {RD_KAFKA_RESP_ERR__TRANSPORT,
	  "ssl://a:1/bootstrap: Disconnected: verify that security.protocol is correctly configured, broker might require SASL authentication (after 0ms in state UP)",
	  0, "08P01", "SASL", "security.protocol"},
	 {RD_KAFKA_RESP_ERR__AUTHENTICATION,
	  "sasl_plaintext://a:1/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state: broker's supported mechanisms:  (after 0ms in state AUTH_HANDSHAKE)",
	  0, "08P01", "takes no authentication", "security.protocol"},
	 {RD_KAFKA_RESP_ERR__AUTHENTICATION,
	  "sasl_ssl://a:1/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512 (after 1ms in state AUTH_HANDSHAKE)",
	  0, "28000", "mechanism", "sasl.mechanism"},
	 {RD_KAFKA_RESP_ERR__AUTHENTICATION,
	  "sasl_ssl://a:1/bootstrap: SASL authentication error: Authentication failed: Invalid username or password (after 303ms in state AUTH_REQ)",
	  0, "28000", "authenticate", "sasl.password"},
	 {RD_KAFKA_RESP_ERR__SSL,
	  "ssl://a:1/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified, verify that ssl.ca.location is correctly configured",
	  20, "08004", "could not be verified", "ssl.ca.pem"},
	 {RD_KAFKA_RESP_ERR__SSL,
	  "ssl://a:1/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified",
	  62, "08004", "another name", "ssl.endpoint.identification.algorithm"},
	 {RD_KAFKA_RESP_ERR__SSL,
	  "ssl://a:1/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified",
	  64, "08004", "another name", "bootstrap.servers"},
	 {RD_KAFKA_RESP_ERR__SSL,
	  "ssl://a:1/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker certificate could not be verified",
	  10, "08004", "expired", ""},
	 {RD_KAFKA_RESP_ERR__SSL,
	  "ssl://a:1/bootstrap: SSL handshake failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: client SSL authentication might be required",
	  0, "08004", "refused", "ssl.certificate.pem"},
	 {RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
	  "Fetch from broker 1 failed: Broker: Topic authorization failed", 0, "42501",
	  "permission denied", "access lists"},
	 {0, NULL, 0, NULL, NULL, NULL}};

static void
test_trouble(void)
{
	MillError error;

	for (int i = 0; trouble_cases[i].text != NULL; i++)
	{
		mill_trouble_explain(mill_trouble_find(trouble_cases[i].code, trouble_cases[i].text,
											   trouble_cases[i].certificate_error),
							 &error);
		ok(strcmp(error.sqlstate, trouble_cases[i].sqlstate) == 0 &&
			   strstr(error.message, trouble_cases[i].message) &&
			   strstr(error.hint, trouble_cases[i].hint),
		   "A9: %s %s: %.60s", error.sqlstate, error.message, trouble_cases[i].text);
	}
	mill_trouble_forbidden("clicks", &error);
	ok(strcmp(error.sqlstate, "42501") == 0 &&
		   strstr(error.message, "permission denied for topic \"clicks\"") &&
		   !strstr(error.hint, "password"),
	   "A2: rights are told from credentials: %s (%s)", error.message, error.hint);
}

/* ---- frames ---- */

typedef struct Feed
{
	int fd;
	const char *data;
	size_t length;
	size_t step;
} Feed;

/* Writes its data in small steps, so that the reader sees partial frames. */
static void *
feed(void *arg)
{
	Feed *f = arg;

	for (size_t at = 0; at < f->length;)
	{
		size_t left = f->length - at;
		ssize_t n = write(f->fd, f->data + at, left < f->step ? left : f->step);

		if (n < 0)
			break;
		at += n;
	}
	close(f->fd);
	return NULL;
}

/* Frames of all lengths 0 to 40 and one long one, written in steps. */
static void
test_frames(size_t step)
{
	char *path = strdup("/tmp/test_gateway.XXXXXX");
	MillOutput out = {.fd = mkstemp(path)};
	MillInput in = {0};
	MillFrame frame;
	const char *payload;
	static char text[300000];
	char *data;
	size_t length;
	int ends[2];
	pthread_t thread;
	Feed f;
	bool good = true;

	memset(text, 'x', sizeof(text));
	for (int i = 0; i <= 40; i++)
		mill_output_frame(&out, MILL_REPLY_TOPICS, text, i);
	mill_output_frame(&out, MILL_REPLY_TOPICS, text, sizeof(text));
	mill_output_begin(&out, MILL_REPLY_DATA);
	mill_output_append(&out, text, 16);
	mill_output_begin(&out, MILL_REPLY_DATA);
	mill_output_append(&out, text, 8);
	mill_output_begin(&out, MILL_REPLY_END);
	mill_output_append(&out, text, 16);
	good = mill_output_flush(&out) && out.used == 0;
	length = lseek(out.fd, 0, SEEK_CUR);
	data = malloc(length);
	good = good && pread(out.fd, data, length, 0) == (ssize_t) length && length % 8 == 0;
	unlink(path);
	close(out.fd);

	if (pipe(ends) < 0)
		exit(1);
	f = (Feed){ends[1], data, length, step};
	pthread_create(&thread, NULL, feed, &f);
	in.fd = ends[0];
	for (int i = 0; i <= 41 && good; i++)
	{
		size_t expected = i <= 40 ? i : sizeof(text);

		good = mill_input_next(&in, &frame, &payload) == MILL_INPUT_FRAME &&
			   frame.length == expected && frame.type == MILL_REPLY_TOPICS &&
			   ((uintptr_t) payload) % 8 == 0 && memcmp(payload, text, expected) == 0;
		for (size_t j = expected; j < MILL_PAD(expected); j++)
			good = good && payload[j] == 0;
	}
	good = good && mill_input_next(&in, &frame, &payload) == MILL_INPUT_FRAME &&
		   frame.type == MILL_REPLY_DATA && frame.length == 24;
	good = good && mill_input_next(&in, &frame, &payload) == MILL_INPUT_FRAME &&
		   frame.type == MILL_REPLY_END && frame.length == 16;
	good = good && mill_input_next(&in, &frame, &payload) == MILL_INPUT_END;
	close(ends[0]);
	pthread_join(thread, NULL);
	ok(good, "frames survive a pipe in steps of %zu bytes", step);
	free(data);
	free(in.data);
	free(out.data);
	free(path);
}

/* What is not a frame is noticed. */
static void
test_invalid(const char *what, const void *bytes, size_t length, MillInputResult expected)
{
	MillInput in = {0};
	MillFrame frame;
	const char *payload;
	int ends[2];

	if (pipe(ends) < 0 || write(ends[1], bytes, length) != (ssize_t) length)
		exit(1);
	close(ends[1]);
	in.fd = ends[0];
	ok(mill_input_next(&in, &frame, &payload) == expected, "%s is noticed", what);
	close(ends[0]);
	free(in.data);
}

/* ---- the program ---- */

typedef struct Program
{
	pid_t pid; /* 0 once it was waited for */
	int status;
	int to;
	int from;
	MillOutput out;
	MillInput in;
} Program;

static Program
start(void)
{
	const char *name = getenv("MILL_GATEWAY") ? getenv("MILL_GATEWAY") : "./mill_gateway";
	Program program = {0};
	int to[2];
	int from[2];

	if (pipe(to) < 0 || pipe(from) < 0)
		exit(1);
	program.pid = fork();
	if (program.pid == 0)
	{
		dup2(to[0], 0);
		dup2(from[1], 1);
		for (int i = 3; i < 64; i++)
			close(i);
		execl(name, "mill_gateway", (char *) NULL);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	program.to = program.out.fd = to[1];
	program.from = program.in.fd = from[0];
	return program;
}

/*
 * The exit status, -1 if it did not end in time, or by a signal.  May be asked
 * again.
 */
static int
wait_end(Program *program)
{
	int status;

	if (program->pid == 0)
		return program->status;
	program->status = -1;
	for (int waited = 0; waited < DEADLINE; waited += 10)
	{
		if (waitpid(program->pid, &status, WNOHANG) == program->pid)
		{
			program->pid = 0;
			program->status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
			return program->status;
		}
		poll(NULL, 0, 10);
	}
	kill(program->pid, SIGKILL);
	waitpid(program->pid, &status, 0);
	program->pid = 0;
	return -1;
}

/* Close everything; its exit status. */
static int
stop(Program *program)
{
	int status;

	close(program->to);
	status = wait_end(program);
	close(program->from);
	free(program->out.data);
	free(program->in.data);
	return status;
}

/* Wait for the next frame; its type, 0 if there is none. */
static int
answer(Program *program, const char **payload, size_t *length)
{
	struct pollfd from = {.fd = program->from, .events = POLLIN};
	MillFrame frame;

	if (program->in.filled == program->in.consumed && poll(&from, 1, DEADLINE) <= 0)
		return 0;
	if (mill_input_next(&program->in, &frame, payload) != MILL_INPUT_FRAME)
		return 0;
	*length = frame.length;
	return frame.type;
}

/*
 * Send CONFIGURE with these properties (location, name, value, ..., NULL).  The
 * answer's type; text is the strings of an ERROR, joined by "|".
 */
static int
configure(Program *program, int flags, const char *const *properties, char *text, size_t size)
{
	uint8_t byte = flags;
	int32_t fetch_bytes = 0;
	const char *payload;
	size_t length = 0;
	int type;

	mill_output_begin(&program->out, MILL_REQUEST_CONFIGURE);
	mill_output_append(&program->out, &byte, 1);
	mill_output_append(&program->out, &fetch_bytes, sizeof(fetch_bytes));
	for (int i = 0; properties[i] != NULL; i += 3)
	{
		mill_output_append(&program->out, properties[i], 1);
		mill_output_string(&program->out, properties[i + 1]);
		mill_output_string(&program->out, properties[i + 2]);
	}
	mill_output_flush(&program->out);
	type = answer(program, &payload, &length);
	text[0] = '\0';
	for (size_t i = 0; i + 1 < length && i + 1 < size; i++)
	{
		text[i] = payload[i] ? payload[i] : '|';
		text[i + 1] = '\0';
	}
	return type;
}

typedef struct ProgramCase
{
	int flags;
	const char *properties[13];
	const char *expected; /* part of the error; NULL: OK */
} ProgramCase;

static const ProgramCase program_cases[] =
	{{MILL_CHECK_ONLY, {NULL}, NULL},
	 {MILL_CHECK_ONLY,
	  {"s", "bootstrap.servers", "127.0.0.1:1", "s", "security.protocol", "SASL_SSL", NULL},
	  NULL},
	 {MILL_CHECK_ONLY, {"s", "compression.type", "zstd", "s", "linger.ms", "5", NULL}, NULL},
	 {MILL_CHECK_ONLY,
	  {"s", "compression.type", "brotli", NULL},
	  "22023|invalid value for option \"compression.type\"|Invalid value"},
	 {MILL_CHECK_ONLY,
	  {"s", "isolation.level", "dirty", NULL},
	  "22023|invalid value for option \"isolation.level\"|Invalid value"},
	 {MILL_CHECK_ONLY,
	  {"s", "bootstrap.server", "x", NULL},
	  "Perhaps you meant the option \"bootstrap.servers\"."},
	 {MILL_CHECK_ONLY,
	  {"s", "bootstrap.servers", "x", "s", "metadata.broker.list", "y", NULL},
	  "42601|"},
	 {MILL_CHECK_ONLY,
	  {"s", "sasl.mechanism", "PLAIN", "u", "sasl.mechanisms", "SCRAM-SHA-256", NULL},
	  NULL},
	 {MILL_CHECK_ONLY, {"s", "test.mock.num.brokers", "3", NULL}, "HV00D|"},
	 {MILL_CHECK_ONLY,
	  {"s", "fetch.max.bytes", "20000", NULL},
	  "22023|the server's options do not make a Kafka client|`fetch.max.bytes` must be >= `message.max.bytes`"},
	 {MILL_CHECK_ONLY,
	  {"s", "fetch.max.bytes", "20000", "s", "message.max.bytes", "20000", NULL},
	  NULL},
	 {MILL_CHECK_ONLY, {"s", "receive.message.max.bytes", "1000", NULL}, "22023|"},
	 {MILL_CHECK_ONLY,
	  {"s", "ssl.ca.pem", "junk", NULL},
	  "22023|the server's options do not make a Kafka client|failed to read certificate #0 from ssl.ca.pem"},
	 {MILL_CHECK_ONLY,
	  {"s", "security.protocol", "sasl_ssl", "s", "sasl.mechanism", "SCRAM-SHA-512", NULL},
	  NULL},
	 {MILL_CHECK_ONLY,
	  {"s", "security.protocol", "sasl_ssl", "s", "sasl.mechanism", "SCRAM-MD17", NULL},
	  "22023|"},
	 {MILL_CHECK_ONLY, {"u", "ssl.certificate.pem", "junk", NULL}, NULL},
	 {0, {"s", "client.id", "x", NULL}, "HV00J|option \"bootstrap.servers\" is missing"},
	 {0,
	  {"s", "bootstrap.servers", "127.0.0.1:1", "s", "security.protocol", "sasl_ssl", NULL},
	  "HV00J|option \"sasl.mechanism\" is missing"},
	 {0,
	  {"s", "bootstrap.servers", "127.0.0.1:1", "s", "security.protocol", "ssl", "s", "ssl.ca.pem",
	   "no certificate", NULL},
	  "22023|"},
	 {0, {NULL}, NULL}};

static void
test_program(void)
{
	Program program = start();
	char text[4096];
	const char *payload;
	size_t length;
	int32_t timeout = 3000;
	static const char *const secret[] = {"s", "bootstrap.servers", "127.0.0.1:1",
										 "u", "ssl.key.pem",	   "canary-4711",
										 "s", "security.protocol", "ssl",
										 NULL};
	static const char *const misplaced[] = {"s", "sasl.password", "canary-4711", NULL};
	static const char *const nobody[] = {"s", "bootstrap.servers", "127.0.0.1:1", NULL};

	for (const ProgramCase *c = program_cases; c->properties[0] != NULL || c->flags != 0; c++)
	{
		int type = configure(&program, c->flags, c->properties, text, sizeof(text));

		ok(c->expected ? type == MILL_REPLY_ERROR && strstr(text, c->expected)
					   : type == MILL_REPLY_OK,
		   "program: %s: %s", c->properties[0] ? c->properties[1] : "nothing",
		   type == MILL_REPLY_OK ? "OK" : text);
	}
	ok(configure(&program, 0, secret, text, sizeof(text)) == MILL_REPLY_ERROR &&
		   !strstr(text, "canary"),
	   "no secret in an error: %s", text);
	ok(configure(&program, 0, misplaced, text, sizeof(text)) == MILL_REPLY_ERROR &&
		   !strstr(text, "canary"),
	   "no secret in an error about its place: %s", text);

	mill_output_frame(&program.out, MILL_REQUEST_TOPICS, &timeout, sizeof(timeout));
	mill_output_flush(&program.out);
	ok(answer(&program, &payload, &length) == MILL_REPLY_ERROR && strcmp(payload, "08P01") == 0,
	   "a question before there is a client is an error");

	ok(configure(&program, 0, nobody, text, sizeof(text)) == MILL_REPLY_OK,
	   "a client for a broker that is not there");
	mill_output_frame(&program.out, MILL_REQUEST_TOPICS, &timeout, sizeof(timeout));
	mill_output_flush(&program.out);
	ok(answer(&program, &payload, &length) == MILL_REPLY_ERROR && strcmp(payload, "08001") == 0 &&
		   memmem(payload, length, "refused", 7) != NULL,
	   "it cannot be reached: %s", payload + 6);
	ok(stop(&program) == 0, "the program ends when its input does");
}

/* Says that it lives while it streams, also when there is nothing to stream from. */
static void
test_alive(void)
{
	static const char *const nobody[] = {"s", "bootstrap.servers", "127.0.0.1:1", NULL};
	struct
	{
		int32_t count;
		int32_t limit;
		MillAssignment assignment;
	} assign = {1, 1000, {.partition = 0, .start = 0, .end = -1}};
	char text[4096];
	const char *payload;
	size_t length;
	int32_t timeout = 100;
	int alive = 0;
	Program program = start();

	configure(&program, 0, nobody, text, sizeof(text));
	mill_output_begin(&program.out, MILL_REQUEST_METADATA);
	mill_output_append(&program.out, &timeout, sizeof(timeout));
	mill_output_string(&program.out, "clicks");
	mill_output_flush(&program.out);
	answer(&program, &payload, &length);
	mill_output_frame(&program.out, MILL_REQUEST_ASSIGN, &assign, sizeof(assign));
	mill_output_flush(&program.out);
	for (int type = 1; type != 0 && alive < 3;)
	{
		type = answer(&program, &payload, &length);
		alive += type == MILL_REPLY_ALIVE;
	}
	ok(alive == 3, "S20: without a broker it says that it lives");
	ok(stop(&program) == 0, "S20: and ends when its input does");
}

/* Ends at once, whatever it is doing: here, waiting for a broker. */
static void
test_end(void)
{
	static const char *const nobody[] = {"s", "bootstrap.servers", "127.0.0.1:1", NULL};
	char text[4096];
	int32_t timeout = 600000;
	Program program = start();

	configure(&program, 0, nobody, text, sizeof(text));
	mill_output_frame(&program.out, MILL_REQUEST_TOPICS, &timeout, sizeof(timeout));
	mill_output_flush(&program.out);
	ok(stop(&program) == 0, "end of input ends a request that waits");

	program = start();
	configure(&program, 0, nobody, text, sizeof(text));
	kill(program.pid, SIGTERM);
	ok(wait_end(&program) == 0, "SIGTERM ends it, well");
	stop(&program);

	program = start();
	if (write(program.to, "this is not a frame.....", 24) != 24)
		exit(1);
	ok(wait_end(&program) == 76, "a request that is no frame ends it with a status of its own");
	stop(&program);
}

int
main(void)
{
	MillFrame wrong_version = {.type = MILL_REQUEST_CONFIGURE, .version = MILL_PROTOCOL_VERSION + 1};
	MillFrame too_long = {.length = MILL_REQUEST_LIMIT + 1,
						  .type = MILL_REQUEST_CONFIGURE,
						  .version = MILL_PROTOCOL_VERSION};
	MillFrame cut = {.length = 100,
					 .type = MILL_REQUEST_CONFIGURE,
					 .version = MILL_PROTOCOL_VERSION};

	setvbuf(stdout, NULL, _IONBF, 0);
	signal(SIGPIPE, SIG_IGN);
	test_policy();
	test_hints();
	test_library();
	test_trouble();
	test_frames(1);
	test_frames(7);
	test_frames(1000000);
	test_invalid("another version", &wrong_version, sizeof(MillFrame), MILL_INPUT_INVALID);
	test_invalid("a request that is too long", &too_long, sizeof(MillFrame), MILL_INPUT_INVALID);
	test_invalid("end of file in a header", &cut, 3, MILL_INPUT_END);
	test_invalid("end of file in a payload", &cut, sizeof(MillFrame), MILL_INPUT_END);
	test_program();
	test_alive();
	test_end();
	printf("1..%d\n", tests);
	return failures > 0;
}
