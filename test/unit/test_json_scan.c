/*
 * test_json_scan.c
 *		The JSON scanner alone, without a server.
 *
 * LINK: src/decode/json_scan.c src/decode/json_path.c
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_corpus.h"
#include "decode/json_scan.h"

#define MAX_SPANS 40

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

/* Compiled paths are never freed one by one: keep them until the end. */
static void *kept[1000];
static int nkept = 0;

static void *
keep(size_t size)
{
	if (nkept == 1000)
		abort();
	return kept[nkept++] = malloc(size);
}

/* What the scanner finds of one path, as text; fails are in angle brackets. */
static const char *
find(const char *path, const char *json)
{
	static const char *const kinds[] = {"<absent>", "null", "true", "false", "", "", "", ""};
	static char result[5000];
	MillJsonPaths *paths = mill_json_paths_create(keep);
	MillJsonSpan span;
	MillJsonError error;
	const char *problem;

	if (mill_json_paths_add(paths, path, &problem) != 0)
		return problem;
	if (!mill_json_scan(paths, json, strlen(json), &span, &error))
		return error.message;
	if (*kinds[span.kind])
		return kinds[span.kind];
	if (span.escaped)
		result[mill_json_unescape(span.start, span.length, result)] = '\0';
	else
		snprintf(result, sizeof(result), "%.*s", (int) span.length, span.start);
	return result;
}

static void
finds(const char *path, const char *json, const char *expected, const char *name)
{
	const char *found = find(path, json);

	if (strcmp(found, expected) != 0)
		printf("# found %s\n", found);
	ok(strcmp(found, expected) == 0, "%s", name);
}

static void
test_corpus(void)
{
	int count;
	CorpusText *texts = read_corpus(&count);

	for (int i = 0; i < count; i++)
	{
		MillJsonSpan value;
		MillJsonError error = {MILL_JSON_SYNTAX, 0, ""};
		char *exact = malloc(texts[i].length ? texts[i].length : 1);
		bool good;

		memcpy(exact, texts[i].text, texts[i].length);
		good = mill_json_check(exact, texts[i].length, &value, &error);
		switch (texts[i].name[0])
		{
			case 'y':
				ok(good, "accepts %s %s", texts[i].name, error.message);
				break;
			case 'n':
				ok(!good && error.fault != MILL_JSON_LIMIT && error.position <= texts[i].length,
				   "refuses %s", texts[i].name);
				break;
			default:
				ok(!good && error.fault == MILL_JSON_LIMIT, "is beyond a limit: %s", texts[i].name);
		}
		free(exact);
	}
	free(texts);
}

/* Every beginning of a valid text is refused, and nothing behind it is read. */
static void
test_cut(void)
{
	const char *text =
		"{\"a\":[1.5e-3,true,false,null,\"x\\u00e9\\ud83d\\ude00\xc3\xa9\xe2\x82\xac\"],\"b\":{\"c\":-0}}";
	size_t length = strlen(text);
	bool good = true;
	MillJsonSpan value;
	MillJsonError error;

	for (size_t n = 0; n < length; n++)
	{
		char *cut = malloc(n ? n : 1);

		memcpy(cut, text, n);
		good &= !mill_json_check(cut, n, &value, &error) && error.position <= n;
		free(cut);
	}
	ok(good && mill_json_check(text, length, &value, &error), "a text cut anywhere is refused");
}

static void
test_paths(void)
{
	finds("a", "{\"a\":1,\"b\":2}", "1", "a number");
	finds("b", "{\"a\":1,\"b\":\"x y\"}", "x y", "a string without its quotes");
	finds("c", "{\"a\":1}", "<absent>", "an absent field");
	finds("a", "{\"a\":null}", "null", "null is not absent");
	finds("a", "{\"a\": [1, {\"b\":2}] }", "[1, {\"b\":2}]", "an array as it is written");
	finds("a", "{\"x\":{\"a\":1}}", "<absent>", "a name deeper down is another");
	finds("a.b[0]", "{\"a\":{\"b\":[7,8]}}", "7", "a path");
	finds("a.b[1].c", "{\"a\":{\"b\":[7,{\"c\":true}]}}", "true", "a path through an array");
	finds("a[1][0]", "{\"a\":[[1],[2,3]]}", "2", "a path through two arrays");
	finds("a[2]", "{\"a\":[1,2]}", "<absent>", "an index beyond the array");
	finds("a.b", "{\"a\":[1]}", "<absent>", "a name in an array");
	finds("a[0]", "{\"a\":{\"0\":1}}", "<absent>", "an index in an object");
	finds("\"a.b\"", "{\"a.b\":1}", "1", "a quoted name");
	finds("\"a\"\"b\".c", "{\"a\\\"b\":{\"c\":5}}", "5", "a quoted name with a quote");
	finds("\"\"", "{\"\":3}", "3", "the empty name");
	finds("", "{}", "a name is empty or its quote is not closed", "an empty path");
	finds("a.", "{}", "a name is empty or its quote is not closed", "a dot at the end");
	finds("a[x]", "{}", "an array index must be digits in brackets", "an index that is none");
	finds("a[1", "{}", "an array index must be digits in brackets", "an open bracket");
	finds("\"a", "{}", "a name is empty or its quote is not closed", "an open quote");
	finds("[0]", "{}", "a name is empty or its quote is not closed", "an index at the top");
	finds("a", "[1]", "the JSON value is not an object", "an array at the top");
	finds("a", " 1 ", "the JSON value is not an object", "a number at the top");
}

static void
test_keys(void)
{
	finds("a", "{\"a\":1,\"a\":2}", "2", "the last of equal keys");
	finds("a", "{\"a\":1,\"\\u0061\":2}", "2", "the last of equal keys, one escaped");
	finds("a", "{\"a\":1,\"a\":null}", "null", "the last of equal keys, null");
	finds("a.b", "{\"a\":{\"b\":1},\"a\":{\"c\":2}}", "<absent>",
		  "a later object replaces the whole earlier");
	finds("a.b", "{\"a\":{\"b\":1},\"a\":3}", "<absent>", "a later number replaces an object");
	finds("a.b.c", "{\"a\":{\"b\":{\"c\":1},\"b\":{}}}", "<absent>",
		  "a later object replaces the earlier, nested");
	finds("a[0].b", "{\"a\":[{\"b\":1}],\"\\u0061\":[{}]}", "<absent>",
		  "a later array replaces the whole earlier");
	finds("a.b", "{\"a\":3,\"a\":{\"b\":1}}", "1", "a later object replaces a number");
	finds("user_id", "{\"user_ie\":1,\"user_id \":2,\"user_i\":3,\"user_id\":4}", "4",
		  "keys that are nearly equal");
	finds("abcdefghijklmnop",
		  "{\"abcdefghijklmnoq\":1,\"bbcdefghijklmnop\":2,\"abcdefghijklmnop\":3}", "3",
		  "long keys that are nearly equal");
	finds("a\nb", "{\"a\\nb\":1}", "1", "a key with an escape");
	finds("\xc3\xa9\xf0\x9f\x98\x80", "{\"\\u00e9\\ud83d\\ude00\":1}", "1",
		  "a key with escaped letters");
	finds("\xc3\xa9", "{\"\xc3\xa9\":1}", "1", "a key in UTF-8");
	finds("s", "{\"s\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20ac\\ud83d\\ude00\"}",
		  "\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "every escape");
}

static void
test_many(void)
{
	MillJsonPaths *paths = mill_json_paths_create(keep);
	MillJsonSpan spans[MAX_SPANS];
	MillJsonError error;
	char json[MAX_SPANS * 24] = "{";
	char name[16];
	bool good = true;

	for (int i = 0; i < MAX_SPANS; i++)
	{
		int n = snprintf(name, sizeof(name), "column_%d", i);

		good &= mill_json_paths_add_name(paths, name, n) == i;
		snprintf(json + strlen(json), 24, "%s\"column_%d\":%d", i ? "," : "", MAX_SPANS - 1 - i, i);
	}
	strcat(json, "}");
	good &= mill_json_paths_add_name(paths, "column_3", 8) == 3 &&
			mill_json_paths_count(paths) == MAX_SPANS;
	ok(good, "the same name has the same span");
	good = mill_json_scan(paths, json, strlen(json), spans, &error);
	for (int i = 0; good && i < MAX_SPANS; i++)
		good = spans[i].kind == MILL_JSON_NUMBER && atoi(spans[i].start) == MAX_SPANS - 1 - i;
	ok(good, "%d fields in another order", MAX_SPANS);
	ok(mill_json_scan(paths, "{}", 2, spans, &error) && spans[0].kind == MILL_JSON_ABSENT,
	   "nothing is left of the text before");
}

static void
test_next(void)
{
	const char
		*json = " { \"a\" : [ 1 , \"]\\\"\" , [ ] ] , \"b\\n\" : { \"}\" : 1.5 } , \"c\":null} ";
	const char *position = NULL;
	MillJsonSpan top;
	MillJsonSpan key;
	MillJsonSpan value;
	MillJsonSpan array;
	MillJsonError error;
	int count = 0;

	ok(mill_json_check(json, strlen(json), &top, &error) && top.kind == MILL_JSON_OBJECT,
	   "an object to step through");
	ok(mill_json_next(&top, &position, &key, &array) && array.kind == MILL_JSON_ARRAY &&
		   mill_json_equals(&key, "a", 1),
	   "its array");
	ok(mill_json_next(&top, &position, &key, &value) && value.kind == MILL_JSON_OBJECT &&
		   mill_json_equals(&key, "b\n", 2) && value.length == 13,
	   "its object");
	ok(mill_json_next(&top, &position, &key, &value) && value.kind == MILL_JSON_NULL, "its null");
	ok(!mill_json_next(&top, &position, &key, &value), "its end");
	position = NULL;
	while (mill_json_next(&array, &position, NULL, &value))
		count++;
	ok(count == 3 && value.kind == MILL_JSON_ARRAY && value.length == 3, "three elements");
	position = NULL;
	ok(!mill_json_next(&value, &position, NULL, &key), "an empty array");
}

static void
test_errors(void)
{
	static const struct
	{
		const char *json;
		MillJsonFault fault;
		size_t position;
	} cases[] = {
		{"", MILL_JSON_SYNTAX, 0},
		{"{\"a\":tru}", MILL_JSON_SYNTAX, 5},
		{"{\"a\":1}x", MILL_JSON_SYNTAX, 7},
		{"{\"a\":\"\\u0000\"}", MILL_JSON_ZERO, 6},
		{"{\"a\":\"xy\xff\"}", MILL_JSON_ENCODING, 8},
		{"{\"a\":\"12345678\n\"}", MILL_JSON_SYNTAX, 14},
		{"{\"a\":1e1000}", MILL_JSON_LIMIT, 5},
		{" [1]", MILL_JSON_NOT_AN_OBJECT, 1},
	};
	MillJsonPaths *paths = mill_json_paths_create(keep);
	MillJsonSpan span;
	MillJsonError error;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		ok(!mill_json_scan(paths, cases[i].json, strlen(cases[i].json), &span, &error) &&
			   error.fault == cases[i].fault && error.position == cases[i].position,
		   "fault %d at byte %zu: %s", (int) cases[i].fault, cases[i].position, error.message);
}

static void
test_utf8(void)
{
	ok(mill_utf8_prefix("abc", 3) == 3 && mill_utf8_prefix("", 0) == 0, "ASCII is UTF-8");
	ok(mill_utf8_prefix("abcdefgh\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80zz", 19) == 19,
	   "sequences of two to four bytes");
	ok(mill_utf8_prefix("abcdefghi\0k", 11) == 9, "a zero byte is not text");
	ok(mill_utf8_prefix("abcdefghijk\xc3", 12) == 11, "a sequence cut off");
	ok(mill_utf8_prefix("\xed\xa0\x80", 3) == 0 && mill_utf8_prefix("\xc0\x80", 2) == 0,
	   "surrogates, overlong sequences");
}

int
main(void)
{
	test_corpus();
	test_cut();
	test_paths();
	test_keys();
	test_many();
	test_next();
	test_errors();
	test_utf8();
	while (nkept > 0)
		free(kept[--nkept]);
	printf("1..%d\n", tests);
	return failures > 0;
}
