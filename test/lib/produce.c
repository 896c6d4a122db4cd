/*
 * produce.c
 *		The test producer: idempotent, acks=all, patient, and it keeps the account
 *		that the tests hold against the product.
 *
 *	kafka_tool produce -b BROKERS -t TOPIC [options]
 *		-n COUNT	messages (1000); 0: until the input ends or SIGTERM comes
 *		-g KIND		clicks (default), events, lines, fields: see generate.c; lines
 *					and fields read standard input to its end unless -n says less
 *		-s SEED		-S FIRST	seed (1) and the number of the first message (0)
 *		-u USERS	how many different keys (1000)
 *		-B PERCENT	of bad messages; -L PERCENT: of late ones
 *		-c START	event time of message 0: ms since 1970, or now (2026-01-01)
 *		-i STEP		ms of event time between two messages (10)
 *		-p PARTITION	all messages there; otherwise the key's hash decides
 *		-r RATE		messages per second at most
 *		-T MS		timestamp of each message, in ms since 1970 (the clock's)
 *		-x ID		transactional, with this transactional.id; commits every
 *					-C messages (1000); every -A-th transaction is aborted (0: none)
 *		-H			die with the last transaction open
 *		-l FILE		the account, see below; appended to
 *
 * The account has one line for each message whose fate is known, in COPY's text
 * format: partition, offset, seq, flag, key.  The flag is ok, bad (the generator
 * spoilt it) or aborted (its transaction was; offset -1 if it never arrived).
 * A message that the brokers did not acknowledge within ten minutes may or may
 * not be in the topic: flag unknown, and exit status 1.  Lines are written when
 * the outcome is certain, for transactions after the commit, and are on disk
 * before the program ends.  If the program is killed, acknowledged messages of the
 * last 0.2 s may be missing.
 *
 * The last line on stdout: produced=N ok=N bad=N aborted=N unknown=N rate=N/s
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kafka_tool.h"

/* The account's view of a message of the transaction that is open. */
typedef struct Pending
{
	int32_t partition;
	int64_t offset;
	int64_t seq;
	bool bad;
	char *key;
	size_t key_len;
} Pending;

typedef struct Producer
{
	rd_kafka_t *rk;
	const char *topic;
	int64_t count;
	int64_t first;
	int64_t rate;
	int64_t timestamp;		 /* 0: the clock's */
	const char *transaction; /* NULL: none */
	int64_t commit_every;
	int64_t abort_every;
	bool hang;
	FILE *log;
	int64_t synced_at;
	bool open; /* a transaction is */
	int64_t transactions;
	int64_t in_transaction;
	Pending *pending;
	size_t pending_used;
	size_t pending_size;
	int64_t produced, ok, bad, aborted, unknown;
} Producer;

static volatile sig_atomic_t stopping = 0;

static void
stop(int signo)
{
	stopping = 1;
}

static void
write_account(Producer *p, int32_t partition, int64_t offset, int64_t seq, const char *flag,
			  const char *key, size_t key_len)
{
	if (p->log == NULL)
		return;
	fprintf(p->log, "%d\t%lld\t%lld\t%s\t", partition, (long long) offset, (long long) seq, flag);
	put_escaped(p->log, key, key_len);
	putc('\n', p->log);
}

static void
sync_account(Producer *p)
{
	if (p->log != NULL && (fflush(p->log) != 0 || fdatasync(fileno(p->log)) != 0))
		fail("could not write the account", strerror(errno));
	p->synced_at = now_ms();
}

static void
keep_pending(Producer *p, const rd_kafka_message_t *message, int64_t seq, bool bad)
{
	Pending *new;

	if (p->pending_used == p->pending_size)
	{
		p->pending_size = p->pending_size ? p->pending_size * 2 : 1024;
		p->pending = realloc(p->pending, p->pending_size * sizeof(Pending));
	}
	new = &p->pending[p->pending_used++];
	new->partition = message->partition;
	new->offset = message->err ? -1 : message->offset;
	new->seq = seq;
	new->bad = bad;
	new->key_len = message->key_len;
	new->key = message->key ? memcpy(malloc(message->key_len + 1), message->key, message->key_len)
							: NULL;
}

static void
delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
	Producer *p = opaque;
	int64_t seq = (intptr_t) message->_private >> 1;
	bool bad = (intptr_t) message->_private & 1;

	if (p->transaction != NULL)
	{
		keep_pending(p, message, seq, bad);
		return;
	}
	if (message->err)
	{
		p->unknown++;
		fprintf(stderr, "kafka_tool: message %lld: %s\n", (long long) seq,
				rd_kafka_err2str(message->err));
		write_account(p, message->partition, -1, seq, "unknown", message->key, message->key_len);
		return;
	}
	if (bad)
		p->bad++;
	else
		p->ok++;
	write_account(p, message->partition, message->offset, seq, bad ? "bad" : "ok", message->key,
				  message->key_len);
}

/* Writes the account of the transaction that has just ended. */
static void
settle(Producer *p, bool committed)
{
	for (size_t i = 0; i < p->pending_used; i++)
	{
		Pending *m = &p->pending[i];

		if (!committed)
			p->aborted++;
		else if (m->bad)
			p->bad++;
		else
			p->ok++;
		write_account(p, m->partition, m->offset, m->seq,
					  !committed ? "aborted"
					  : m->bad	 ? "bad"
								 : "ok",
					  m->key, m->key_len);
		free(m->key);
	}
	p->pending_used = 0;
	p->in_transaction = 0;
	p->open = false;
	sync_account(p);
}

/* Repeats a step of the transaction protocol while the library says that it may be repeated. */
static bool
insist(Producer *p, const char *what, rd_kafka_error_t *(*step)(rd_kafka_t *, int) )
{
	for (;;)
	{
		rd_kafka_error_t *error = step(p->rk, 60000);
		bool retriable, abortable;

		if (error == NULL)
			return true;
		retriable = rd_kafka_error_is_retriable(error);
		abortable = rd_kafka_error_txn_requires_abort(error);
		if (!retriable && !abortable)
			fail(what, rd_kafka_error_string(error));
		fprintf(stderr, "kafka_tool: %s: %s\n", what, rd_kafka_error_string(error));
		rd_kafka_error_destroy(error);
		if (!retriable)
			return false;
	}
}

static void
abort_transaction(Producer *p)
{
	if (!insist(p, "abort", rd_kafka_abort_transaction))
		fail("abort", "refused");
	settle(p, false);
}

static void
begin_transaction(Producer *p)
{
	rd_kafka_error_t *error = rd_kafka_begin_transaction(p->rk);

	if (error != NULL)
		fail("begin", rd_kafka_error_string(error));
	p->open = true;
	p->transactions++;
}

static void
end_transaction(Producer *p)
{
	/* what is to be aborted shall have been in the topic: wait until it is */
	rd_kafka_flush(p->rk, 600000);
	if (p->abort_every > 0 && p->transactions % p->abort_every == 0)
		abort_transaction(p);
	else if (insist(p, "commit", rd_kafka_commit_transaction))
		settle(p, true);
	else
		abort_transaction(p);
}

static rd_kafka_resp_err_t
enqueue(Producer *p, TestMessage *m, int64_t seq)
{
	rd_kafka_vu_t v[8];
	int n = 0;
	rd_kafka_error_t *error;
	rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

	v[n].vtype = RD_KAFKA_VTYPE_TOPIC;
	v[n++].u.cstr = p->topic;
	v[n].vtype = RD_KAFKA_VTYPE_PARTITION;
	v[n++].u.i32 = m->partition;
	v[n].vtype = RD_KAFKA_VTYPE_VALUE;
	v[n].u.mem.ptr = m->value;
	v[n++].u.mem.size = m->value_len;
	v[n].vtype = RD_KAFKA_VTYPE_KEY;
	v[n].u.mem.ptr = m->key;
	v[n++].u.mem.size = m->key_len;
	v[n].vtype = RD_KAFKA_VTYPE_OPAQUE;
	v[n++].u.ptr = (void *) (intptr_t) (seq << 1 | m->bad);
	v[n].vtype = RD_KAFKA_VTYPE_MSGFLAGS;
	v[n++].u.i = RD_KAFKA_MSG_F_COPY;
	if (p->timestamp != 0)
	{
		v[n].vtype = RD_KAFKA_VTYPE_TIMESTAMP;
		v[n++].u.i64 = p->timestamp;
	}
	if (m->headers != NULL)
	{
		v[n].vtype = RD_KAFKA_VTYPE_HEADERS;
		v[n++].u.headers = m->headers;
	}
	error = rd_kafka_produceva(p->rk, v, n);
	if (error != NULL)
	{
		code = rd_kafka_error_code(error);
		rd_kafka_error_destroy(error);
	}
	return code;
}

/* Hands the message to the library, waiting for room in its queue. */
static void
send_message(Producer *p, TestMessage *m, int64_t seq)
{
	for (;;)
	{
		rd_kafka_resp_err_t code;

		if (p->transaction != NULL && !p->open)
			begin_transaction(p);
		code = enqueue(p, m, seq);
		if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		else if (code == RD_KAFKA_RESP_ERR__QUEUE_FULL)
			rd_kafka_poll(p->rk, 10);
		else if (p->open && code == RD_KAFKA_RESP_ERR__STATE)
			abort_transaction(p);
		else
			fail("could not produce", rd_kafka_err2str(code));
	}
	p->produced++;
	if (p->transaction != NULL && ++p->in_transaction >= p->commit_every)
		end_transaction(p);
}

/* Delivery reports, the account's sync every 0.2 s, and the limit of the rate. */
static void
pace(Producer *p, int64_t started_at)
{
	if (p->rate > 0)
	{
		int64_t due = started_at + p->produced * 1000 / p->rate;

		while (!stopping && now_ms() < due)
			rd_kafka_poll(p->rk, (int) (due - now_ms() > 100 ? 100 : due - now_ms()));
	}
	if (p->rate > 0 || p->produced % 64 == 0)
	{
		rd_kafka_poll(p->rk, 0);
		if (now_ms() - p->synced_at > 200)
			sync_account(p);
	}
}

static rd_kafka_t *
connect_producer(Producer *p, ClientSettings *settings)
{
	rd_kafka_conf_t *conf;

	default_setting(settings, "enable.idempotence", "true");
	default_setting(settings, "acks", "all");
	/* more of them, and a leader that dies, can make librdkafka before 2.3 end
	 * with "out of order sequence number" (its issue 4438) */
	default_setting(settings, "max.in.flight.requests.per.connection", "1");
	if (p->transaction != NULL)
	{
		default_setting(settings, "transactional.id", p->transaction);
		default_setting(settings, "transaction.timeout.ms", "60000");
		/* the library insists that a message gives up before its transaction */
		default_setting(settings, "message.timeout.ms",
						get_setting(settings, "transaction.timeout.ms"));
	}
	default_setting(settings, "message.timeout.ms", "600000");
	conf = client_conf(settings);
	rd_kafka_conf_set_dr_msg_cb(conf, delivered);
	rd_kafka_conf_set_opaque(conf, p);
	return new_client(RD_KAFKA_PRODUCER, conf);
}

static int
report(Producer *p, int64_t started_at)
{
	int64_t ms = now_ms() - started_at;

	printf("produced=%lld ok=%lld bad=%lld aborted=%lld unknown=%lld rate=%lld/s\n",
		   (long long) p->produced, (long long) p->ok, (long long) p->bad, (long long) p->aborted,
		   (long long) p->unknown, (long long) (p->produced * 1000 / (ms > 0 ? ms : 1)));
	fflush(stdout);
	return p->unknown > 0 ? 1 : 0;
}

static int
produce_all(Producer *p, ClientSettings *settings, const GeneratorSettings *generator)
{
	TestMessage message;
	int64_t started_at;

	p->rk = connect_producer(p, settings);
	if (p->transaction != NULL)
		insist(p, "init transactions", rd_kafka_init_transactions);
	started_at = p->synced_at = now_ms();
	for (int64_t i = 0; !stopping && (p->count == 0 || i < p->count); i++)
	{
		if (!next_message(generator, p->first + i, &message))
			break;
		send_message(p, &message, p->first + i);
		pace(p, started_at);
	}
	rd_kafka_flush(p->rk, 600000);
	if (p->hang)
	{
		report(p, started_at);
		_exit(0);
	}
	if (p->open)
		end_transaction(p);
	sync_account(p);
	rd_kafka_destroy(p->rk);
	return report(p, started_at);
}

static bool
generator_option(GeneratorSettings *g, int opt, const char *arg)
{
	switch (opt)
	{
		case 'g':
			g->kind = arg;
			return true;
		case 's':
			g->seed = strtoull(arg, NULL, 10);
			return true;
		case 'u':
			g->users = atoi(arg);
			return true;
		case 'B':
			g->bad_percent = atof(arg);
			return true;
		case 'L':
			g->late_percent = atof(arg);
			return true;
		case 'c':
			g->start = strcmp(arg, "now") == 0 ? -1 : atoll(arg);
			return true;
		case 'i':
			g->step = atoll(arg);
			return true;
		case 'p':
			g->partition = atoi(arg);
			return true;
	}
	return false;
}

static bool
producer_option(Producer *p, int opt, const char *arg)
{
	switch (opt)
	{
		case 't':
			p->topic = arg;
			return true;
		case 'n':
			p->count = atoll(arg);
			return true;
		case 'S':
			p->first = atoll(arg);
			return true;
		case 'r':
			p->rate = atoll(arg);
			return true;
		case 'T':
			p->timestamp = atoll(arg);
			return true;
		case 'x':
			p->transaction = arg;
			return true;
		case 'C':
			p->commit_every = atoll(arg);
			return true;
		case 'A':
			p->abort_every = atoll(arg);
			return true;
		case 'H':
			p->hang = true;
			return true;
		case 'l':
			p->log = fopen(arg, "a");
			if (p->log == NULL)
				fail(arg, strerror(errno));
			return true;
	}
	return false;
}

int
produce_main(ClientSettings *settings, int argc, char **argv)
{
	Producer p = {.count = -1, .commit_every = 1000};
	GeneratorSettings g = {.kind = "clicks",
						   .seed = 1,
						   .users = 1000,
						   .start = INT64_C(1767225600000),
						   .step = 10,
						   .partition = RD_KAFKA_PARTITION_UA};
	struct sigaction action = {.sa_handler = stop}; /* no SA_RESTART: ends a read, too */
	int opt;

	while ((opt = getopt(argc, argv, "b:X:t:n:g:s:S:u:B:L:c:i:p:r:T:x:C:A:Hl:")) != -1)
		if (!client_option(settings, opt, optarg) && !generator_option(&g, opt, optarg) &&
			!producer_option(&p, opt, optarg))
			return 2;
	if (p.topic == NULL || optind != argc || strchr("celf", g.kind[0]) == NULL)
		fail("usage", "kafka_tool produce -b BROKERS -t TOPIC [options]");
	if (p.count < 0)
		p.count = g.kind[0] == 'l' || g.kind[0] == 'f' ? 0 : 1000;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	return produce_all(&p, settings, &g);
}
