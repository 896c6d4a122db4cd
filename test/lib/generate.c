/*
 * generate.c
 *		The messages of the test producer: a click log made from a seed, or lines
 *		of standard input.
 *
 * Message number SEQ of a seed is always the same, whatever came before it: its
 * random numbers are a hash of (seed, seq).  So a test can make the stream anew
 * and compare.
 *
 *	clicks	{"user_id":17,"page":"/product/42","timestamp":"...Z","seq":SEQ}
 *	events	{"id":SEQ,"user_id":...,"page":"...","timestamp":"...Z","amount":12.34}
 *			(about 113 bytes, the five columns of the benchmark)
 *	lines	each line is a value
 *	fields	each line is PARTITION, KEY, HEADERS, VALUE, separated by tabs:
 *			PARTITION may be empty (the key decides); \N is a null key or value;
 *			HEADERS is name=value,name=value (a name alone: a null value; name=*N:
 *			N letters a); \t \n
 *			\r \0 \\ and \xHH stand for bytes in KEY and VALUE, \*N; for the
 *			letter a N times
 *
 * The key of clicks and events is user_id.  Bad messages carry their seq too.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kafka_tool.h"

static uint64_t
mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* Takes the next random number below limit. */
static uint32_t
draw(uint64_t *state, uint32_t limit)
{
	*state = mix(*state);
	return (uint32_t) ((*state >> 32) * limit >> 32);
}

static bool
chance(uint64_t *state, double percent)
{
	return draw(state, 1000000) < percent * 10000;
}

/* ISO 8601 with milliseconds, in UTC; strftime would take half of the generator's time. */
static void
format_time(int64_t ms, char *out, size_t size)
{
	static int64_t cached_minute = -1;
	static char prefix[32];
	int64_t minute = ms / 60000;
	int rest = (int) (ms % 60000);

	if (minute != cached_minute)
	{
		time_t seconds = minute * 60;
		struct tm tm;

		gmtime_r(&seconds, &tm);
		strftime(prefix, sizeof(prefix), "%Y-%m-%dT%H:%M:", &tm);
		cached_minute = minute;
	}
	snprintf(out, size, "%s%02d.%03dZ", prefix, rest / 1000, rest % 1000);
}

static void
make_page(uint64_t *state, char *out, size_t size)
{
	static const char *const pages[] = {"/", "/search", "/cart", "/checkout", "/account", "/help"};

	if (draw(state, 10) < 7)
		snprintf(out, size, "/product/%u", draw(state, 500) + 1);
	else
		snprintf(out, size, "%s", pages[draw(state, 6)]);
}

/* What really comes along: cut off, another program's output, wrong types, broken text. */
static int
make_bad(uint64_t *state, int64_t seq, char *out, size_t size)
{
	static const char *const kinds[] = {
		"{\"user_id\":7,\"page\":\"/product/3\",\"seq\":%lld,\"timest",
		"<html><body>502 Bad Gateway (request %lld)</body></html>",
		"{\"user_id\":\"n/a\",\"page\":\"/cart\",\"timestamp\":\"2026-01-01T00:00:00Z\",\"seq\":%lld}",
		"{\"user_id\":8,\"page\":\"/help\",\"timestamp\":\"the day before\",\"seq\":%lld}",
		"{\"user_id\":9,\"page\":\"/se\xff\xferch\",\"timestamp\":\"2026-01-01T00:00:00Z\",\"seq\":%lld}",
		"{\"user_id\":10,\"page\":\"/\\u0000\",\"timestamp\":\"2026-01-01T00:00:00Z\",\"seq\":%lld}",
		"{\"user_id\":99999999999999999999,\"page\":\"/\",\"timestamp\":\"2026-01-01T00:00:00Z\",\"seq\":%lld}",
	};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	return snprintf(out, size, kinds[draw(state, sizeof(kinds) / sizeof(kinds[0]))],
					(long long) seq);
#pragma GCC diagnostic pop
}

/* The message's bytes stay valid until the next call. */
static bool
make_click(const GeneratorSettings *settings, int64_t seq, TestMessage *message)
{
	static char key[32];
	static char value[512];
	char page[64];
	char at[64];
	uint64_t state = mix(settings->seed ^ mix((uint64_t) seq));
	uint32_t user = draw(&state, settings->users) + 1;
	int64_t ms = settings->start < 0 ? now_ms() : settings->start + seq * settings->step;

	message->bad = chance(&state, settings->bad_percent);
	if (chance(&state, settings->late_percent))
		ms -= 60000 + (int64_t) draw(&state, 3600000);
	make_page(&state, page, sizeof(page));
	format_time(ms, at, sizeof(at));
	if (message->bad)
		message->value_len = make_bad(&state, seq, value, sizeof(value));
	else if (settings->kind[0] == 'c')
		message->value_len =
			snprintf(value, sizeof(value),
					 "{\"user_id\":%u,\"page\":\"%s\",\"timestamp\":\"%s\",\"seq\":%lld}", user,
					 page, at, (long long) seq);
	else
		message->value_len =
			snprintf(value, sizeof(value),
					 "{\"id\":%lld,\"user_id\":%u,\"page\":\"%s\",\"timestamp\":\"%s\",\"amount\":%u.%02u}",
					 (long long) seq, user, page, at, draw(&state, 1000), draw(&state, 100));
	message->value = value;
	message->key = key;
	message->key_len = snprintf(key, sizeof(key), "%u", user);
	return true;
}

/*
 * Undoes the escapes; NULL for \N.  The result is in *room, which grows as
 * needed and stays the caller's.
 */
static char *
unescape(const char *text, size_t *len, char **room)
{
	size_t size = strlen(text) + 1;
	char *to;

	if (strcmp(text, "\\N") == 0)
		return NULL;
	for (const char *from = strstr(text, "\\*"); from != NULL; from = strstr(from + 2, "\\*"))
		size += strtoul(from + 2, NULL, 10);
	*room = to = realloc(*room, size);
	if (to == NULL)
		fail("no memory for a message", text);
	for (const char *from = text; *from != '\0'; from++)
	{
		if (*from != '\\' || from[1] == '\0')
			*to++ = *from;
		else if (*++from == 'x')
		{
			char hex[3] = {from[1], from[1] ? from[2] : '\0', '\0'};

			*to++ = (char) strtol(hex, NULL, 16);
			from += strlen(hex);
		}
		else if (*from == '*')
		{
			char *end;
			size_t count = strtoul(from + 1, &end, 10);

			memset(to, 'a', count);
			to += count;
			from = *end == ';' ? end : end - 1;
		}
		else
			*to++ = *from == 't'   ? '\t'
					: *from == 'n' ? '\n'
					: *from == 'r' ? '\r'
					: *from == '0' ? '\0'
								   : *from;
	}
	*len = to - *room;
	return *room;
}

static rd_kafka_headers_t *
parse_headers(char *text)
{
	rd_kafka_headers_t *headers;
	char *save = NULL;

	if (text[0] == '\0')
		return NULL;
	headers = rd_kafka_headers_new(8);
	for (char *name = strtok_r(text, ",", &save); name != NULL; name = strtok_r(NULL, ",", &save))
	{
		char *value = strchr(name, '=');

		if (value != NULL)
			*value++ = '\0';
		if (value != NULL && value[0] == '*')
		{
			size_t count = strtoul(value + 1, NULL, 10);
			char *letters = malloc(count + 1);

			memset(letters, 'a', count);
			rd_kafka_header_add(headers, name, -1, letters, (ssize_t) count);
			free(letters);
			continue;
		}
		rd_kafka_header_add(headers, name, -1, value, value ? (ssize_t) strlen(value) : 0);
	}
	return headers;
}

/* The message's bytes stay valid until the next call. */
static bool
read_line(const GeneratorSettings *settings, TestMessage *message)
{
	static char *line = NULL;
	static size_t size = 0;
	static char *key = NULL;
	static char *value = NULL;
	ssize_t len = getline(&line, &size, stdin);
	char *field[4];
	char *rest = line;

	if (len < 0)
		return false;
	if (len > 0 && line[len - 1] == '\n')
		line[--len] = '\0';
	if (settings->kind[0] == 'l')
	{
		message->value = line;
		message->value_len = len;
		return true;
	}
	for (int i = 0; i < 4; i++)
	{
		field[i] = i < 3 ? strsep(&rest, "\t") : rest;
		if (field[i] == NULL)
			fail("a line of fields needs PARTITION, KEY, HEADERS, VALUE", line);
	}
	if (field[0][0] != '\0')
		message->partition = atoi(field[0]);
	message->key = unescape(field[1], &message->key_len, &key);
	message->headers = parse_headers(field[2]);
	message->value = unescape(field[3], &message->value_len, &value);
	return true;
}

/* Makes message number seq; false when the input has ended. */
bool
next_message(const GeneratorSettings *settings, int64_t seq, TestMessage *message)
{
	memset(message, 0, sizeof(*message));
	message->partition = settings->partition;
	if (settings->kind[0] == 'l' || settings->kind[0] == 'f')
		return read_line(settings, message);
	return make_click(settings, seq, message);
}
