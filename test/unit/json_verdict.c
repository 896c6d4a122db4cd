/*
 * json_verdict.c
 *		Our scanner's word on JSON texts, for comparison with the server's.
 *
 * Reads one text a line from standard input, in hexadecimal, and prints for
 * each a line: ok, bad, or limit for what is valid or not but beyond a limit
 * of the scanner's own.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream/json_scan.h"

static int
hex_digit(char c)
{
	const char *digits = "0123456789abcdef";
	const char *found = c ? strchr(digits, c | 0x20) : NULL;

	return found ? (int) (found - digits) : -1;
}

int
main(void)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t length;

	while ((length = getline(&line, &size, stdin)) >= 0)
	{
		MillJsonSpan value;
		MillJsonError error;
		size_t n = 0;
		char *text;

		while (length > 0 && line[length - 1] == '\n')
			length--;

		/* a copy of exact size, for the address sanitizer */
		text = malloc(length / 2 + 1);
		for (ssize_t i = 0; i + 1 < length; i += 2)
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
