/*
 * rules.c
 *		The table of client properties.
 *
 * An allow-list: other properties are refused, so one that a newer library adds
 * is not available until somebody has examined it.  Refused properties are
 * listed only to explain why.
 *
 * The ranges bound a gateway's memory and its response times: the library's own
 * limits would let one stream queue 2 GB, or wait for hours.
 */
#include "gateway/policy.h"

#define KB INT64_C(1024)
#define MB (1024 * KB)

#define SERVER(name)                                                                               \
	{                                                                                              \
		name, 0, MILL_ALLOWED_IN_SERVER, 0, 0, 0, 0                                                \
	}
#define NUMBER(name, min, max)                                                                     \
	{                                                                                              \
		name, 0, MILL_ALLOWED_IN_SERVER, 0, min, max, 0                                            \
	}
#define EITHER(name)                                                                               \
	{                                                                                              \
		name, 0, MILL_ALLOWED_IN_BOTH, 0, 0, 0, 0                                                  \
	}
#define MAPPING(name)                                                                              \
	{                                                                                              \
		name, 0, MILL_ALLOWED_IN_MAPPING, 0, 0, 0, 0                                               \
	}
#define SECRET(name)                                                                               \
	{                                                                                              \
		name, 0, MILL_ALLOWED_IN_MAPPING, MILL_RULE_SECRET, 0, 0, 0                                \
	}
#define FILES(name)                                                                                \
	{                                                                                              \
		name, 0, MILL_ALLOWED_IN_BOTH, MILL_RULE_FILES, 0, 0, 0                                    \
	}
#define SUPER(name)                                                                                \
	{                                                                                              \
		name, 0, MILL_ALLOWED_IN_BOTH, MILL_RULE_SUPER, 0, 0, 0                                    \
	}
#define WEAKEN(name, safe)                                                                         \
	{                                                                                              \
		name, 0, MILL_ALLOWED_IN_SERVER, MILL_RULE_WEAKEN, 0, 0, safe                              \
	}
#define PRODUCER(name)                                                                             \
	{                                                                                              \
		name, 0, MILL_ALLOWED_IN_SERVER, MILL_RULE_PRODUCER, 0, 0, 0                               \
	}
#define ALIAS(name, canonical)                                                                     \
	{                                                                                              \
		name, canonical, 0, 0, 0, 0, 0                                                             \
	}
#define OURS(name)                                                                                 \
	{                                                                                              \
		name, 0, 0, MILL_RULE_OURS, 0, 0, 0                                                        \
	}
#define NEVER(name, why)                                                                           \
	{                                                                                              \
		name, 0, 0, MILL_RULE_NEVER, 0, 0, why                                                     \
	}

#define CODE "It would load code or run a command on the server's machine."
#define POINTER "It takes a pointer, which no text can be."
#define TESTING "It is there to test the library."
#define HISTORIC "It is deprecated, or for brokers that are long gone."
#define DISK "It would write files on the server's machine."
#define LOGS "The gateway's log goes to mill.errors and the server's log."
#define CLOUD "It would lend out the identity of the server's machine."
#define UNSAFE "It would accept what nobody has signed."

const MillRule mill_rules[] = {
	/* addresses */
	SERVER("bootstrap.servers"),
	ALIAS("metadata.broker.list", "bootstrap.servers"),
	SERVER("client.id"),
	SERVER("client.rack"),
	SERVER("client.dns.lookup"),
	SERVER("broker.address.family"),
	NUMBER("broker.address.ttl", 0, 86400000),
	SERVER("isolation.level"),

	/* authentication and encryption */
	SERVER("security.protocol"),
	EITHER("sasl.mechanism"),
	ALIAS("sasl.mechanisms", "sasl.mechanism"),
	MAPPING("sasl.username"),
	SECRET("sasl.password"),
	SERVER("sasl.oauthbearer.method"),
	MAPPING("sasl.oauthbearer.client.id"),
	SECRET("sasl.oauthbearer.client.secret"),
	SECRET("sasl.oauthbearer.config"),
	EITHER("sasl.oauthbearer.scope"),
	EITHER("sasl.oauthbearer.extensions"),
	SUPER("sasl.oauthbearer.token.endpoint.url"),
	SUPER("sasl.kerberos.service.name"),
	SUPER("sasl.kerberos.principal"),
	{"sasl.kerberos.keytab", 0, MILL_ALLOWED_IN_BOTH, MILL_RULE_SUPER | MILL_RULE_FILES, 0, 0, 0},
	{"sasl.kerberos.min.time.before.relogin", 0, MILL_ALLOWED_IN_SERVER, MILL_RULE_SUPER, 0,
	 86400000, 0},
	SERVER("ssl.ca.pem"),
	EITHER("ssl.certificate.pem"),
	SECRET("ssl.key.pem"),
	SECRET("ssl.key.password"),
	SECRET("ssl.keystore.password"),
	SERVER("https.ca.pem"),
	FILES("ssl.ca.location"),
	FILES("ssl.crl.location"),
	FILES("ssl.certificate.location"),
	FILES("ssl.key.location"),
	FILES("ssl.keystore.location"),
	FILES("https.ca.location"),
	WEAKEN("enable.ssl.certificate.verification", "true"),
	WEAKEN("ssl.endpoint.identification.algorithm", "https"),
	SUPER("ssl.cipher.suites"),
	SUPER("ssl.curves.list"),
	SUPER("ssl.sigalgs.list"),

	/* sizes and times */
	NUMBER("message.max.bytes", 1000, 64 * MB),
	NUMBER("receive.message.max.bytes", 1000, 256 * MB),
	NUMBER("fetch.max.bytes", 1, 64 * MB),
	NUMBER("fetch.message.max.bytes", 1, 16 * MB),
	ALIAS("max.partition.fetch.bytes", "fetch.message.max.bytes"),
	NUMBER("fetch.min.bytes", 1, MB),
	NUMBER("fetch.wait.max.ms", 10, 5000),
	NUMBER("fetch.error.backoff.ms", 10, 10000),
	NUMBER("fetch.queue.backoff.ms", 1, 1000),
	NUMBER("queued.min.messages", 1000, 100000),
	NUMBER("queued.max.messages.kbytes", 1024, 65536),
	NUMBER("socket.timeout.ms", 1000, 300000),
	NUMBER("socket.connection.setup.timeout.ms", 1000, 120000),
	NUMBER("socket.send.buffer.bytes", 0, 16 * MB),
	NUMBER("socket.receive.buffer.bytes", 0, 16 * MB),
	SERVER("socket.keepalive.enable"),
	SERVER("socket.nagle.disable"),
	NUMBER("socket.max.fails", 0, 100),
	NUMBER("connections.max.idle.ms", 0, 86400000),
	NUMBER("reconnect.backoff.ms", 10, 10000),
	NUMBER("reconnect.backoff.max.ms", 10, 60000),
	NUMBER("topic.metadata.refresh.interval.ms", 1000, 300000),
	NUMBER("topic.metadata.refresh.fast.interval.ms", 10, 60000),
	NUMBER("topic.metadata.propagation.max.ms", 100, 60000),
	SERVER("topic.metadata.refresh.sparse"),
	NUMBER("metadata.max.age.ms", 1000, 900000),
	SERVER("log.connection.close"),

	/* for producers */
	PRODUCER("compression.type"),
	ALIAS("compression.codec", "compression.type"),
	PRODUCER("compression.level"),
	PRODUCER("partitioner"),
	{"linger.ms", 0, MILL_ALLOWED_IN_SERVER, MILL_RULE_PRODUCER, 0, 10000, 0},
	ALIAS("queue.buffering.max.ms", "linger.ms"),

	/* set by pg_mill */
	OURS("group.id"),
	OURS("group.instance.id"),
	OURS("group.protocol"),
	OURS("group.protocol.type"),
	OURS("group.remote.assignor"),
	OURS("partition.assignment.strategy"),
	OURS("session.timeout.ms"),
	OURS("heartbeat.interval.ms"),
	OURS("coordinator.query.interval.ms"),
	OURS("max.poll.interval.ms"),
	OURS("enable.auto.commit"),
	OURS("auto.commit.enable"),
	OURS("auto.commit.interval.ms"),
	OURS("enable.auto.offset.store"),
	OURS("auto.offset.reset"),
	OURS("allow.auto.create.topics"),
	OURS("enable.partition.eof"),
	OURS("check.crcs"),
	OURS("consume.callback.max.messages"),
	OURS("transactional.id"),
	OURS("transaction.timeout.ms"),
	OURS("enable.idempotence"),
	OURS("enable.gapless.guarantee"),
	OURS("acks"),
	OURS("request.required.acks"),
	OURS("request.timeout.ms"),
	OURS("retries"),
	OURS("message.send.max.retries"),
	OURS("retry.backoff.ms"),
	OURS("retry.backoff.max.ms"),
	OURS("max.in.flight"),
	OURS("max.in.flight.requests.per.connection"),
	OURS("message.timeout.ms"),
	OURS("delivery.timeout.ms"),
	OURS("delivery.report.only.error"),
	OURS("queuing.strategy"),
	OURS("queue.buffering.max.messages"),
	OURS("queue.buffering.max.kbytes"),
	OURS("queue.buffering.backpressure.threshold"),
	OURS("batch.num.messages"),
	OURS("batch.size"),
	OURS("sticky.partitioning.linger.ms"),
	OURS("message.copy.max.bytes"),
	OURS("statistics.interval.ms"),
	OURS("enable.metrics.push"),
	OURS("log_level"),
	OURS("log.queue"),
	OURS("log.thread.name"),
	OURS("enabled_events"),
	OURS("enable.random.seed"),

	/* never allowed */
	NEVER("plugin.library.paths", CODE),
	NEVER("interceptors", POINTER),
	NEVER("ssl.engine.location", CODE),
	NEVER("ssl.engine.id", CODE),
	NEVER("ssl_engine_callback_data", POINTER),
	NEVER("ssl.providers", CODE),
	NEVER("sasl.kerberos.kinit.cmd", CODE),
	NEVER("ssl_key", POINTER),
	NEVER("ssl_certificate", POINTER),
	NEVER("ssl_ca", POINTER),
	NEVER("opaque", POINTER),
	NEVER("default_topic_conf", POINTER),
	NEVER("msg_order_cmp", POINTER),
	NEVER("ssl.ca.certificate.stores", "It is for Windows."),
	NEVER("test.mock.num.brokers", TESTING),
	NEVER("test.mock.broker.rtt", TESTING),
	NEVER("offset.store.path", DISK),
	NEVER("offset.store.method", DISK),
	NEVER("offset.store.sync.interval.ms", DISK),
	NEVER("internal.termination.signal", "It would let one stream's client send signals."),
	NEVER("enable.sasl.oauthbearer.unsecure.jwt", UNSAFE),
	NEVER("sasl.oauthbearer.metadata.authentication.type", CLOUD),
	NEVER("debug", LOGS),
	NEVER("topic.blacklist", "A stream names its topic."),
	NEVER("broker.version.fallback", HISTORIC),
	NEVER("api.version.request", HISTORIC),
	NEVER("api.version.request.timeout.ms", HISTORIC),
	NEVER("api.version.fallback.ms", HISTORIC),
	NEVER("socket.blocking.max.ms", HISTORIC),
	NEVER("reconnect.backoff.jitter.ms", HISTORIC),
	NEVER("topic.metadata.refresh.fast.cnt", HISTORIC),
	NEVER("produce.offset.report", HISTORIC),
	NEVER("builtin.features", "It tells what the library can do."),
};

const int mill_rule_count = sizeof(mill_rules) / sizeof(mill_rules[0]);
