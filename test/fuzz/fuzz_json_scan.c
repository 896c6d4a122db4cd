/*
 * fuzz_json_scan.c
 *		Throw bytes at the JSON scanner and see that it keeps its word.
 *
 * fuzz_json_scan SEED SECONDS changes the corpus at random, in an order that
 * the seed fixes.  Built by clang with -fsanitize=fuzzer -DLIBFUZZER it has
 * no main of its own and takes libFuzzer's arguments.
 *
 * Promises: a span lies within the input; stepping through what was accepted
 * finds the same spans; unescaping never grows; what is accepted is UTF-8.
 *
 * LINK: src/decode/json_scan.c src/decode/json_path.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef LIBFUZZER
#include "json_corpus.h"
#endif
#include "decode/json_scan.h"

#define REQUIRE(condition)                                                                         \
	do                                                                                             \
	{                                                                                              \
		if (!(condition))                                                                          \
		{                                                                                          \
			fprintf(stderr, "not so: %s\n", #condition);                                           \
			abort();                                                                               \
		}                                                                                          \
	}                                                                                              \
	while (0)

static const char *const wanted[] = {"a",	   "user_id", "page", "a.b",
									 "a.b[0]", "x[1].id", "x",	  "\"\""};

#define WANTED ((int) (sizeof(wanted) / sizeof(wanted[0])))

/* The paths live as long as the program; a leak checker must see who has them. */
static void *
keep(size_t size)
{
	static void *kept[64];
	static int count = 0;

	REQUIRE(count < 64);
	return kept[count++] = malloc(size);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void
check_string(const MillJsonSpan *string)
{
	char *out = malloc(string->length + 1);
	size_t length = mill_json_unescape(string->start, string->length, out);

	REQUIRE(length <= string->length);
	REQUIRE(mill_utf8_prefix(out, length) == length);
	REQUIRE(mill_json_equals(string, out, length));
	REQUIRE(string->escaped || length == string->length);
	free(out);
}

/* Every value in a container is valid on its own and is what it is said to be. */
static void
check_members(const MillJsonSpan *container, int depth)
{
	const char *position = NULL;
	const char *end = container->start + container->length;
	MillJsonSpan key;
	MillJsonSpan value;

	while (mill_json_next(container, &position, &key, &value))
	{
		int quote = value.kind == MILL_JSON_STRING;
		MillJsonSpan again;
		MillJsonError error;

		REQUIRE(value.start > container->start && value.start + value.length <= end);
		REQUIRE(mill_json_check(value.start - quote, value.length + 2 * quote, &again, &error));
		REQUIRE(again.kind == value.kind && again.start == value.start &&
				again.length == value.length);
		REQUIRE(again.escaped == value.escaped);
		if (container->kind == MILL_JSON_OBJECT)
			check_string(&key);
		if (value.kind == MILL_JSON_STRING)
			check_string(&value);
		if (value.kind >= MILL_JSON_OBJECT && depth < 3)
			check_members(&value, depth + 1);
	}
}

/* The last value of a top-level name, found by stepping. */
static MillJsonSpan
find_by_stepping(const MillJsonSpan *top, const char *name)
{
	const char *position = NULL;
	MillJsonSpan found = {.kind = MILL_JSON_ABSENT};
	MillJsonSpan key;
	MillJsonSpan value;

	while (mill_json_next(top, &position, &key, &value))
	{
		if (mill_json_equals(&key, name, strlen(name)))
			found = value;
	}
	return found;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static MillJsonPaths *paths = NULL;
	char *data = malloc(size + 1);
	MillJsonSpan spans[WANTED];
	MillJsonSpan top;
	MillJsonError error;
	const char *message;
	bool valid;

	if (paths == NULL)
	{
		paths = mill_json_paths_create(keep);
		for (int i = 0; i < WANTED; i++)
			REQUIRE(mill_json_paths_add(paths, wanted[i], &message) == i);
	}

	/* no byte behind it, so that the sanitizer sees a read too far */
	data = realloc(data, size ? size : 1);
	memcpy(data, bytes, size);
	valid = mill_json_check(data, size, &top, &error);
	REQUIRE(valid || error.position <= size);
	if (valid)
	{
		REQUIRE(mill_utf8_prefix(data, size) == size);
		if (top.kind >= MILL_JSON_OBJECT)
			check_members(&top, 0);
		else if (top.kind == MILL_JSON_STRING)
			check_string(&top);
	}
	if (mill_json_scan(paths, data, size, spans, &error))
	{
		REQUIRE(valid && top.kind == MILL_JSON_OBJECT);
		for (int i = 0; i < 3; i++)
		{
			MillJsonSpan other = find_by_stepping(&top, wanted[i]);

			REQUIRE(spans[i].kind == other.kind);
			REQUIRE(other.kind == MILL_JSON_ABSENT ||
					(spans[i].start == other.start && spans[i].length == other.length));
		}
		for (int i = 0; i < WANTED; i++)
			REQUIRE(spans[i].kind == MILL_JSON_ABSENT ||
					(spans[i].start > data && spans[i].start + spans[i].length < data + size));
		REQUIRE(spans[4].kind == MILL_JSON_ABSENT || spans[3].kind == MILL_JSON_ARRAY);
		REQUIRE(spans[3].kind == MILL_JSON_ABSENT || spans[0].kind == MILL_JSON_OBJECT);
		REQUIRE(spans[5].kind == MILL_JSON_ABSENT || spans[6].kind == MILL_JSON_ARRAY);
	}
	else
		REQUIRE(!valid || error.fault == MILL_JSON_NOT_AN_OBJECT);
	free(data);
	return 0;
}

#ifndef LIBFUZZER
int
main(int argc, char **argv)
{
	char text[CORPUS_TEXT];
	int count;
	CorpusText *texts;
	uint64_t state;
	time_t end;
	long rounds = 0;

	if (argc != 3)
	{
		fprintf(stderr, "usage: fuzz_json_scan SEED SECONDS\n");
		return 2;
	}
	texts = read_corpus(&count);
	state = strtoull(argv[1], NULL, 10);
	end = time(NULL) + strtol(argv[2], NULL, 10);
	for (int i = 0; i < count; i++)
		LLVMFuzzerTestOneInput((const uint8_t *) texts[i].text, texts[i].length);
	do
	{
		for (int i = 0; i < 1000; i++)
		{
			size_t length = draw_text(&state, texts, count, text);

			LLVMFuzzerTestOneInput((const uint8_t *) text, length);
		}
		rounds += 1000;
	}
	while (time(NULL) < end);
	printf("seed %s: %ld inputs\n", argv[1], rounds);
	free(texts);
	return 0;
}
#endif
