/*
 * client.c
 *		The Postgres side of a mill_gateway.
 *
 * Runs in backends and workers.  The gateway is a child of this process, but
 * the postmaster does not know it, and it does not touch shared memory: however
 * it ends, no other process is disturbed.  Nothing here is durable.
 *
 * Who dies first:
 * - The gateway: we read end of file, reap it, and raise an error that says
 *   how it ended.  One that hangs is silent; it is killed.
 * - The transaction: the reset callback of the memory context that the gateway
 *   was started in kills and reaps it.
 * - This process, in order: an exit callback kills and reaps it.
 * - This process, by SIGKILL: the gateway's standard input closes, and
 *   PR_SET_PDEATHSIG signals it too; it exits with status 0.  Where the
 *   postmaster is process 1, as in a container, it is the postmaster that
 *   reaps the orphan, and would take any other status for a crash.
 *
 * Our ends of the pipes do not block.  We wait on the latch as well, so that a
 * cancel request is handled at once.
 */
#include "postgres.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/compat.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "broker/broker.h"
#include "broker/event.h"
#include "broker/properties.h"
#include "broker/spawn.h"

#define PROGRAM "mill_gateway"

#define READ_SIZE (256 * 1024)

/* Longest valid frame; a longer one means that the stream is corrupt. */
#define FRAME_LIMIT (MaxAllocHugeSize / 4)

/* The gateway's exit status when it is out of memory; see its main.c. */
#define EXIT_NO_MEMORY 71

/* Longest silence of a streaming gateway, which sends ALIVE about once a second. */
#define STREAM_SILENCE_LIMIT 10000

/* An answer may come so much later than the timeout given in the request. */
#define ANSWER_GRACE 10000

/* Timeout of CONFIGURE, which starts the program but contacts no broker. */
#define START_TIMEOUT 20000

/* Of the time between two reads, at most so much counts as silence. */
#define SILENCE_PER_READ 2000

struct MillGateway
{
	dlist_node node; /* in running */
	pid_t pid;		 /* 0 once it was reaped */
	pid_t owner;
	int to;
	int from;
	MemoryContext context;
	MemoryContextCallback callback;
	char *buffer; /* aligned, as palloc gives it */
	Size capacity;
	Size filled;
	Size consumed;		/* of filled: frames that were returned */
	bool ended;			/* end of file was read */
	bool out_of_memory; /* it exceeded its memory limit */

	/* milliseconds; see note_silence */
	int silence_limit; /* longest silence allowed; 0: no limit */
	int silence;
	bool read_nothing; /* the last read found nothing, at read_at */
	instr_time read_at;
};

/* All gateways of this process, for its exit callback. */
static dlist_head running = DLIST_STATIC_INIT(running);

/* ---- starting and ending ---- */

/* Start the program; reserves the two file descriptors that it takes here. */
static void
spawn(MillGateway *gateway)
{
	char path[MAXPGPATH];

	snprintf(path, sizeof(path), "%s/%s", pkglib_path, PROGRAM);
	if (access(path, X_OK) != 0)
		ereport(ERROR,
				(errcode_for_file_access(), errmsg("could not find program \"%s\": %m", path),
				 errhint(
					 "Install pg_mill completely: \"make install\" puts it beside the library.")));

	if (!AcquireExternalFD())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
						errmsg("could not start %s: too many open files", PROGRAM)));
	ReserveExternalFD();

	gateway->pid = mill_gateway_spawn(path, &gateway->to, &gateway->from);
	if (gateway->pid < 0)
	{
		int saved = errno;

		gateway->pid = 0;
		ReleaseExternalFD();
		ReleaseExternalFD();
		errno = saved;
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
						errmsg("could not start %s: %m", PROGRAM)));
	}
}

/*
 * Release all that we hold of a gateway: descriptors, their reservations, the
 * list entry, the process.  Every end of a gateway goes through here, since
 * the exit callback would use a list entry whose memory is long freed.  The
 * process must still be ours to wait for, or be reaped.
 */
static void
release_gateway(MillGateway *gateway)
{
	Assert(gateway->pid != 0 && gateway->owner == MyProcPid);
	close(gateway->to);
	close(gateway->from);
	ReleaseExternalFD();
	ReleaseExternalFD();
	dlist_delete(&gateway->node);
	gateway->pid = 0;
}

/*
 * Kill a gateway if it still runs, reap it, release it.  Returns its wait
 * status; 0 if it was released before or belongs to the process that forked us.
 */
static int
finish(MillGateway *gateway)
{
	pid_t pid = gateway->pid;
	int status = 0;

	if (pid == 0 || gateway->owner != MyProcPid)
		return 0;
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	release_gateway(gateway);
	return status;
}

static void
finish_all(int code, Datum arg)
{
	dlist_mutable_iter it;

	dlist_foreach_modify (it, &running)
		finish(dlist_container(MillGateway, node, it.cur));
}

static void
finish_callback(void *arg)
{
	finish(arg);
}

void
mill_gateway_end(MillGateway *gateway)
{
	finish(gateway);
}

/*
 * The other end of the pipe is closed.  The gateway closes it only by exiting,
 * so wait for that, and raise an error that says how it ended.
 */
static void
raise_gone(MillGateway *gateway)
{
	int status = 0;
	pid_t pid = gateway->pid;
	pid_t ended;

	if (pid == 0)
		ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("kafka gateway was ended")));
	for (int i = 0; (ended = waitpid(pid, &status, WNOHANG)) == 0 && i < 100; i++)
		pg_usleep(1000L);
	if (ended == pid)
		release_gateway(gateway);
	else
		status = finish(gateway);

	/* the library aborts when it is out of memory, our code exits */
	gateway->out_of_memory = (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) ||
							 (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NO_MEMORY);
	if (gateway->out_of_memory)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("kafka gateway came to its memory limit of %d MB",
						(int) (MILL_GATEWAY_SPACE / (1024 * 1024))),
				 errdetail(
					 "Compressed messages that are fetched together unpack to more than that."),
				 errhint(
					 "Set \"fetch.message.max.bytes\" on the server to a smaller size, for example '50000'.")));
	if (WIFSIGNALED(status))
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE), errmsg("kafka gateway ended unexpectedly"),
				 errdetail("It was terminated by signal %d: %s.", WTERMSIG(status),
						   pg_strsignal(WTERMSIG(status)))));
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE), errmsg("kafka gateway ended unexpectedly"),
			 WEXITSTATUS(status) == 127
				 ? errdetail(
					   "The program could not be executed, or a library that it needs is missing.")
				 : errdetail("It exited with status %d.", WEXITSTATUS(status))));
}

bool
mill_gateway_out_of_memory(MillGateway *gateway)
{
	return gateway->out_of_memory;
}

/* ---- waiting, reading, writing ---- */

/* Wait for one of these events on the descriptor, for the latch, or for the timeout. */
static int
wait_for(int fd, int events, long timeout_ms)
{
	int happened;

	happened = WaitLatchOrSocket(MyLatch,
								 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | events |
									 (timeout_ms >= 0 ? WL_TIMEOUT : 0),
								 fd, timeout_ms, MILL_WAIT_EVENT);
	if (happened & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return happened;
}

bool
mill_gateway_wait(MillGateway *gateway, long timeout_ms)
{
	if (gateway->pid == 0)
		return true; /* mill_gateway_next raises the error */
	return (wait_for(gateway->from, WL_SOCKET_READABLE, timeout_ms) & WL_SOCKET_READABLE) != 0;
}

/* Is a whole frame here?  *whole is its length if its header is here. */
static bool
have_frame(MillGateway *gateway, Size *whole)
{
	Size here = gateway->filled - gateway->consumed;
	const MillFrame *frame = (const MillFrame *) (gateway->buffer + gateway->consumed);

	*whole = 0;
	if (here < sizeof(MillFrame))
		return false;
	if (frame->version != MILL_PROTOCOL_VERSION)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("%s speaks version %d of the protocol, not %d", PROGRAM,
							   frame->version, MILL_PROTOCOL_VERSION),
						errhint("Install the library and %s from one build, and restart the server.",
								PROGRAM)));
	*whole = sizeof(MillFrame) + MILL_PAD(frame->length);
	if (*whole > FRAME_LIMIT)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("frame of %zu bytes from %s is too long", *whole, PROGRAM)));
	return here >= *whole;
}

/*
 * Make space to read READ_SIZE, or the remainder of a long frame.  What was not
 * consumed moves to the beginning, so that it is aligned.
 */
static void
make_space(MillGateway *gateway, Size whole)
{
	Size need = Max(whole, READ_SIZE) + READ_SIZE;

	if (gateway->consumed > 0)
	{
		memmove(gateway->buffer, gateway->buffer + gateway->consumed,
				gateway->filled - gateway->consumed);
		gateway->filled -= gateway->consumed;
		gateway->consumed = 0;
	}
	/* a buffer that grew for one long frame shrinks again */
	if (gateway->capacity < need || (gateway->capacity > 4 * need && gateway->filled <= need))
	{
		gateway->buffer = repalloc_huge(gateway->buffer, need);
		gateway->capacity = need;
	}
}

/* From now on the gateway must send something within this time. */
static void
expect_within(MillGateway *gateway, int silence_limit)
{
	gateway->silence_limit = silence_limit;
	gateway->silence = 0;
	gateway->read_nothing = false;
}

/*
 * A read found nothing.  Only the time between reads counts as silence, and of
 * each interval only a part: if this process was busy, or the machine was
 * suspended, nothing is known about the gateway.  The clock is monotonic, so
 * setting the time changes nothing.
 */
static void
note_silence(MillGateway *gateway)
{
	instr_time now;
	instr_time since;

	if (gateway->silence_limit == 0)
		return;
	INSTR_TIME_SET_CURRENT(now);
	if (gateway->read_nothing)
	{
		since = now;
		INSTR_TIME_SUBTRACT(since, gateway->read_at);
		gateway->silence += Min((int64) INSTR_TIME_GET_MILLISEC(since), SILENCE_PER_READ);
	}
	gateway->read_nothing = true;
	gateway->read_at = now;
	if (gateway->silence < gateway->silence_limit)
		return;
	finish(gateway);
	ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE), errmsg("kafka gateway does not respond"),
					errdetail("It gave no sign of life for %d seconds and was ended.",
							  gateway->silence / 1000)));
}

int
mill_gateway_silence(MillGateway *gateway)
{
	return gateway->silence;
}

const MillFrame *
mill_gateway_next(MillGateway *gateway)
{
	Size whole;

	for (;;)
	{
		ssize_t n;

		if (have_frame(gateway, &whole))
		{
			const MillFrame *frame = (const MillFrame *) (gateway->buffer + gateway->consumed);

			gateway->consumed += whole;
			if (frame->type == MILL_REPLY_ALIVE)
				continue;
			return frame;
		}
		if (gateway->pid == 0 || gateway->ended)
			raise_gone(gateway);
		make_space(gateway, whole);
		n = read(gateway->from, gateway->buffer + gateway->filled,
				 gateway->capacity - gateway->filled);
		if (n > 0)
		{
			gateway->filled += n;
			gateway->silence = 0;
			gateway->read_nothing = false;
		}
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		{
			note_silence(gateway);
			return NULL;
		}
		else if (n == 0 || errno != EINTR)
		{
			gateway->ended = true;
			return NULL;
		}
	}
}

/* Write a whole request, however long. */
static void
send_request(MillGateway *gateway, uint8 type, const void *payload, Size length)
{
	StringInfoData request;
	MillFrame frame = {.length = length, .type = type, .version = MILL_PROTOCOL_VERSION};
	Size sent = 0;

	if (gateway->pid == 0)
		raise_gone(gateway);
	expect_within(gateway, START_TIMEOUT);
	initStringInfo(&request);
	appendBinaryStringInfo(&request, (const char *) &frame, sizeof(frame));
	appendBinaryStringInfo(&request, payload, length);
	while (request.len % 8 != 0)
		appendStringInfoChar(&request, '\0');

	while (sent < request.len)
	{
		ssize_t n = write(gateway->to, request.data + sent, request.len - sent);

		if (n > 0)
			sent += n;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		{
			note_silence(gateway);
			wait_for(gateway->to, WL_SOCKET_WRITEABLE, 1000L);
		}
		else if (errno != EINTR)
			raise_gone(gateway);
	}
	/* the request may hold a password */
	explicit_bzero(request.data, request.len);
	pfree(request.data);
}

/* ---- answers ---- */

/* Convert the gateway's text for this database. */
static char *
to_server(const char *text)
{
	char *copy = pstrdup(text);

	if (!pg_verify_mbstr(PG_UTF8, copy, strlen(copy), true))
	{
		for (char *c = copy; *c != '\0'; c++)
		{
			if (IS_HIGHBIT_SET(*c))
				*c = '?';
		}
	}
	return pg_any_to_server(copy, strlen(copy), PG_UTF8);
}

/* The next string in a payload; the empty string after the last. */
static char *
next_string(const char **at, const char *end)
{
	const char *text = *at;
	const char *zero = text < end ? memchr(text, '\0', end - text) : NULL;

	if (zero == NULL)
		return pstrdup("");
	*at = zero + 1;
	return to_server(text);
}

/* The strings of an ERROR or EVENT: SQLSTATE, message, detail, hint. */
static void
read_texts(const char *at, const char *end, MillGatewayEvent *texts)
{
	char *state = next_string(&at, end);

	texts->sqlerrcode = 0;
	if (strlen(state) == 5)
		texts->sqlerrcode = MAKE_SQLSTATE(state[0], state[1], state[2], state[3], state[4]);
	texts->message = next_string(&at, end);
	texts->detail = next_string(&at, end);
	texts->hint = next_string(&at, end);
	if (texts->detail[0] == '\0')
		texts->detail = NULL;
	if (texts->hint[0] == '\0')
		texts->hint = NULL;
}

MillGatewayEvent
mill_gateway_event(const MillFrame *frame)
{
	const MillEvent *event = (const MillEvent *) mill_frame_payload(frame);
	MillGatewayEvent result = {.kind = event->kind, .partition = event->partition};

	read_texts((const char *) (event + 1), mill_frame_payload(frame) + frame->length, &result);
	return result;
}

void
mill_gateway_raise(const MillGatewayEvent *event, int sqlerrcode)
{
	ereport(ERROR, (errcode(event->sqlerrcode ? event->sqlerrcode : sqlerrcode),
					errmsg_internal("%s", event->message),
					event->detail ? errdetail_internal("%s", event->detail) : 0,
					event->hint ? errhint("%s", event->hint) : 0));
}

/* Wait for the answer to a request, for at most this long. */
static const MillFrame *
receive_reply(MillGateway *gateway, uint8 type, Size shortest, int timeout_ms)
{
	const MillFrame *frame;

	expect_within(gateway, timeout_ms + ANSWER_GRACE);
	while ((frame = mill_gateway_next(gateway)) == NULL)
		mill_gateway_wait(gateway, 1000L);
	expect_within(gateway, 0);
	if (frame->type == MILL_REPLY_ERROR)
	{
		MillGatewayEvent texts = {0};

		read_texts(mill_frame_payload(frame), mill_frame_payload(frame) + frame->length, &texts);
		mill_gateway_raise(&texts, ERRCODE_FDW_ERROR);
	}
	if (frame->type != type || frame->length < shortest)
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("unexpected answer of type %d and %u bytes from %s", frame->type,
							   frame->length, PROGRAM)));
	return frame;
}

/* ---- requests ---- */

MillGateway *
mill_gateway_start(List *properties, int flags, int fetch_bytes)
{
	static bool exit_registered = false;
	MillGateway *gateway = palloc0(sizeof(MillGateway));
	StringInfoData request;
	int32 fetch = fetch_bytes;
	ListCell *cell;

	gateway->owner = MyProcPid;
	gateway->context = CurrentMemoryContext;
	gateway->capacity = 2 * READ_SIZE;
	gateway->buffer = palloc(gateway->capacity);
	initStringInfo(&request);
	appendStringInfoChar(&request, (char) flags);
	appendBinaryStringInfo(&request, (const char *) &fetch, sizeof(fetch));
	foreach (cell, properties)
	{
		const MillProperty *property = lfirst(cell);
		char *name = pg_server_to_any(property->name, strlen(property->name), PG_UTF8);
		char *value = pg_server_to_any(property->value, strlen(property->value), PG_UTF8);

		appendStringInfoChar(&request, property->location);
		appendBinaryStringInfo(&request, name, strlen(name) + 1);
		appendBinaryStringInfo(&request, value, strlen(value) + 1);
	}

	if (!exit_registered)
		on_proc_exit(finish_all, 0);
	exit_registered = true;
	spawn(gateway);
	dlist_push_head(&running, &gateway->node);
	gateway->callback.func = finish_callback;
	gateway->callback.arg = gateway;
	MemoryContextRegisterResetCallback(gateway->context, &gateway->callback);

	/*
	 * End the gateway when it refuses, and not only with its memory context: a
	 * caller may catch the error and run on for long.
	 */
	PG_TRY();
	{
		send_request(gateway, MILL_REQUEST_CONFIGURE, request.data, request.len);
		receive_reply(gateway, MILL_REPLY_OK, 0, START_TIMEOUT);
	}
	PG_CATCH();
	{
		finish(gateway);
		PG_RE_THROW();
	}
	PG_END_TRY();
	explicit_bzero(request.data, request.len);
	pfree(request.data);
	return gateway;
}

int
mill_gateway_partitions(MillGateway *gateway, const char *topic, int timeout_ms)
{
	StringInfoData request;
	int32 timeout = timeout_ms;
	int32 count;
	char *name = pg_server_to_any(topic, strlen(topic), PG_UTF8);

	initStringInfo(&request);
	appendBinaryStringInfo(&request, (const char *) &timeout, sizeof(timeout));
	appendBinaryStringInfo(&request, name, strlen(name) + 1);
	send_request(gateway, MILL_REQUEST_METADATA, request.data, request.len);
	pfree(request.data);
	memcpy(&count,
		   mill_frame_payload(
			   receive_reply(gateway, MILL_REPLY_METADATA, sizeof(count), timeout_ms)),
		   sizeof(count));
	return count;
}

/* Send a timeout, a count and count items; receive count items. */
static void
exchange(MillGateway *gateway, uint8 request_type, const void *items, Size item, uint8 reply_type,
		 void *answers, Size answer, int count, int timeout_ms)
{
	StringInfoData request;
	int32 head[2] = {timeout_ms, count};

	initStringInfo(&request);
	appendBinaryStringInfo(&request, (const char *) head, sizeof(head));
	appendBinaryStringInfo(&request, items, item * count);
	send_request(gateway, request_type, request.data, request.len);
	pfree(request.data);
	memcpy(answers,
		   mill_frame_payload(receive_reply(gateway, reply_type, answer * count, timeout_ms)),
		   answer * count);
}

/* The caller sets the partition of each mark. */
void
mill_gateway_watermarks(MillGateway *gateway, MillWatermark *marks, int count, int timeout_ms)
{
	int32 *partitions = palloc(sizeof(int32) * Max(count, 1));

	for (int i = 0; i < count; i++)
		partitions[i] = marks[i].partition;
	exchange(gateway, MILL_REQUEST_WATERMARKS, partitions, sizeof(int32), MILL_REPLY_WATERMARKS,
			 marks, sizeof(MillWatermark), count, timeout_ms);
	pfree(partitions);
}

void
mill_gateway_times(MillGateway *gateway, const MillPartitionTime *times,
				   MillPartitionOffset *offsets, int count, int timeout_ms)
{
	exchange(gateway, MILL_REQUEST_TIMES, times, sizeof(MillPartitionTime), MILL_REPLY_TIMES,
			 offsets, sizeof(MillPartitionOffset), count, timeout_ms);
}

/* A list of palloc'd strings. */
List *
mill_gateway_topics(MillGateway *gateway, int timeout_ms)
{
	int32 timeout = timeout_ms;
	const MillFrame *frame;
	const char *at;
	const char *end;
	List *topics = NIL;

	send_request(gateway, MILL_REQUEST_TOPICS, &timeout, sizeof(timeout));
	frame = receive_reply(gateway, MILL_REPLY_TOPICS, 0, timeout_ms);
	at = mill_frame_payload(frame);
	end = at + frame->length;
	while (at < end)
		topics = lappend(topics, next_string(&at, end));
	return topics;
}

void
mill_gateway_assign(MillGateway *gateway, const MillAssignment *assignments, int count, int limit)
{
	StringInfoData request;
	int32 head[2] = {count, limit};

	initStringInfo(&request);
	appendBinaryStringInfo(&request, (const char *) head, sizeof(head));
	appendBinaryStringInfo(&request, (const char *) assignments, sizeof(MillAssignment) * count);
	send_request(gateway, MILL_REQUEST_ASSIGN, request.data, request.len);
	pfree(request.data);
	expect_within(gateway, STREAM_SILENCE_LIMIT);
}
