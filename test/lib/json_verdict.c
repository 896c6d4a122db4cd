/*
 * json_verdict.c
 *		Our scanner's word on JSON texts, for comparison with the server's.
 *
 *	json_verdict
 *		Reads one text a line from standard input, in hexadecimal, and prints
 *		for each a line: ok, bad, or limit for what is beyond a limit of the
 *		scanner's own, whether it is valid or not.
 *	json_verdict --texts SEED COUNT
 *		Prints such lines: the corpus, then COUNT random changes to it.
 *
 * The comparison is: for each text, convert_from(decode(text, 'hex'),
 * 'UTF8')::jsonb succeeds if and only if the word is ok, but for limit.
 *
 * LINK: src/decode/json_scan.c src/decode/json_path.c
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json_corpus.h"
#include "decode/json_scan.h"

static void
print_text(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		printf("%02x", (unsigned char) text[i]);
	putchar('\n');
}

static int
print_texts(uint64_t seed, long rounds)
{
	int count;
	CorpusText *texts = read_corpus(&count);
	char text[CORPUS_TEXT];

	for (int i = 0; i < count; i++)
		print_text(texts[i].text, texts[i].length);
	for (long i = 0; i < rounds; i++)
	{
		size_t length = draw_text(&seed, texts, count, text);

		print_text(text, length);
	}
	free(texts);
	return 0;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return (c | 0x20) - 'a' + 10;
}

int
main(int argc, char **argv)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t length;

	if (argc == 4 && strcmp(argv[1], "--texts") == 0)
		return print_texts(strtoull(argv[2], NULL, 10), strtol(argv[3], NULL, 10));
	while ((length = getline(&line, &size, stdin)) >= 0)
	{
		MillJsonSpan value;
		MillJsonError error;
		size_t n = 0;
		char *text = malloc((size_t) length / 2 + 1);

		for (ssize_t i = 0; i + 1 < length && line[i] != '\n'; i += 2)
			text[n++] = (char) (hex_digit(line[i]) * 16 + hex_digit(line[i + 1]));
		if (mill_json_check(text, n, &value, &error))
			puts("ok");
		else
			puts(error.fault == MILL_JSON_LIMIT ? "limit" : "bad");
		free(text);
	}
	free(line);
	return 0;
}
