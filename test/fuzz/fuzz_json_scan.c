/*
 * fuzz_json_scan.c
 *		Throw bytes at the JSON scanner and see that it keeps its word.
 *
 * With clang: -fsanitize=fuzzer,address,undefined, corpus as argument.
 * Without a fuzzing engine, -DFUZZ_DRIVER makes it a program of its own:
 * fuzz_json_scan SEED ROUNDS FILE... changes the files' bytes at random.  An
 * input that breaks a promise aborts; the program prints it first.
 *
 * Promises: a span lies within the input; stepping through what was accepted
 * finds the same spans; unescaping never grows; what is accepted is UTF-8.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream/json_scan.h"

#define REQUIRE(condition)                               \
	do                                                   \
	{                                                    \
		if (!(condition))                                \
		{                                                \
			fprintf(stderr, "not so: %s\n", #condition); \
			abort();                                     \
		}                                                \
	}                                                    \
	while (0)

static const char *const wanted[] = {"a", "user_id", "page", "a.b", "a.b[0]", "x[1].id", "x", "\"\""};

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
		REQUIRE(again.kind == value.kind && again.start == value.start && again.length == value.length);
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
			REQUIRE(other.kind == MILL_JSON_ABSENT || (spans[i].start == other.start && spans[i].length == other.length));
		}
		for (int i = 0; i < WANTED; i++)
			REQUIRE(spans[i].kind == MILL_JSON_ABSENT || (spans[i].start > data && spans[i].start + spans[i].length < data + size));
		REQUIRE(spans[4].kind == MILL_JSON_ABSENT || spans[3].kind == MILL_JSON_ARRAY);
		REQUIRE(spans[3].kind == MILL_JSON_ABSENT || spans[0].kind == MILL_JSON_OBJECT);
		REQUIRE(spans[5].kind == MILL_JSON_ABSENT || spans[6].kind == MILL_JSON_ARRAY);
	}
	else
		REQUIRE(!valid || error.fault == MILL_JSON_NOT_AN_OBJECT);
	free(data);
	return 0;
}

#ifdef FUZZ_DRIVER
#define MAX_TEXT 4096

static uint64_t state;

static uint32_t
draw(uint32_t below)
{
	state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t) (state >> 33) % below;
}

static size_t
mutate(char *text, size_t length)
{
	static const char tokens[] = "{}[]\",:\\u0-+.eE19tfn \n\xc3\xa9\xed\x80";

	for (int changes = 1 + (int) draw(4); changes > 0; changes--)
	{
		size_t at = length > 0 ? draw((uint32_t) length) : 0;

		switch (draw(4))
		{
			case 0:
				if (length > 0)
					text[at] = (char) draw(256);
				break;
			case 1:
				if (length > 0)
					text[at] = tokens[draw(sizeof(tokens) - 1)];
				break;
			case 2:
				if (length < MAX_TEXT)
				{
					memmove(text + at + 1, text + at, length++ - at);
					text[at] = tokens[draw(sizeof(tokens) - 1)];
				}
				break;
			case 3:
				if (length > 0)
					memmove(text + at, text + at + 1, --length - at);
				break;
		}
	}
	return length;
}

int
main(int argc, char **argv)
{
	char text[MAX_TEXT];
	long rounds;
	bool print = argc > 1 && strcmp(argv[1], "--print") == 0;

	argv += print;
	argc -= print;
	if (argc < 4)
	{
		fprintf(stderr, "usage: fuzz_json_scan [--print] SEED ROUNDS FILE...\n");
		return 2;
	}
	state = strtoull(argv[1], NULL, 10);
	rounds = strtol(argv[2], NULL, 10);
	for (long i = 0; i < rounds; i++)
	{
		FILE *file = fopen(argv[3 + draw((uint32_t) argc - 3)], "rb");
		size_t length = file ? fread(text, 1, sizeof(text), file) : 0;

		if (file == NULL)
		{
			perror("fuzz_json_scan");
			return 2;
		}
		fclose(file);
		length = mutate(text, length);

		/* in hexadecimal, as json_verdict reads it */
		for (size_t j = 0; print && j < length; j++)
			printf("%02x", (unsigned char) text[j]);
		if (print)
			putchar('\n');
		LLVMFuzzerTestOneInput((const uint8_t *) text, length);
	}
	if (!print)
		printf("seed %s: %ld inputs\n", argv[1], rounds);
	return 0;
}
#endif
