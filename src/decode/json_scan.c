/*
 * json_scan.c
 *		A strict JSON scanner that extracts wanted fields of an object.
 *
 * Pure C, no Postgres header.  It accepts and rejects the same as the server's
 * jsonb type in a UTF-8 database, except for three limits: depth, digits of a
 * number, and digits that an exponent stands for.  They keep a short message
 * from becoming a large value.
 *
 * One pass, no recursion: an explicit stack has a frame for each open
 * container.  Everything is validated, wanted or not.  The only cost of
 * extracting fields is to track the current node in the tree of paths, NULL
 * where nothing below is wanted.
 *
 * No state outlives a call, nothing is allocated, and only the caller's spans
 * and error are written.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "decode/json_lex.h"
#include "decode/json_path.h"
#include "decode/json_scan.h"

typedef struct Frame
{
	const MillPathNode *node; /* NULL: nothing in here is wanted */
	const char *start;
	uint32_t index; /* of the element, in an array */
	bool is_object;
} Frame;

typedef struct Scanner
{
	const char *data;
	const char *end;
	MillJsonSpan *spans;
	MillJsonError *error;
	bool escaped; /* the last string had a backslash */
	int depth;
	Frame stack[MILL_JSON_MAX_DEPTH];
} Scanner;

static const char *
fail_scan(Scanner *scanner, MillJsonFault fault, const char *at, const char *message)
{
	scanner->error->fault = fault;
	scanner->error->position = at - scanner->data;
	scanner->error->message = message;
	return NULL;
}

static inline const char *
skip_space(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	return p;
}

/* Skip an escape; NULL if it is invalid. */
static const char *
scan_escape(Scanner *scanner, const char *p)
{
	const char *end = scanner->end;
	int code;

	if (end - p < 2)
		return fail_scan(scanner, MILL_JSON_SYNTAX, p, "the string is not closed");
	if (p[1] != 'u')
	{
		if (p[1] == '\0' || strchr("\"\\/bfnrt", p[1]) == NULL)
			return fail_scan(scanner, MILL_JSON_SYNTAX, p, "invalid escape sequence");
		return p + 2;
	}
	code = mill_hex_four(p + 2, end);
	if (code < 0)
		return fail_scan(scanner, MILL_JSON_SYNTAX, p,
						 "\"\\u\" must be followed by four hexadecimal digits");
	if (code == 0)
		return fail_scan(scanner, MILL_JSON_ZERO, p, "\\u0000 cannot be converted to text");
	if (code >= 0xDC00 && code <= 0xDFFF)
		return fail_scan(scanner, MILL_JSON_SYNTAX, p,
						 "Unicode low surrogate must follow a high surrogate");
	if (code >= 0xD800 && code <= 0xDBFF)
	{
		p += 6;
		code = end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? mill_hex_four(p + 2, end) : -1;
		if (code < 0xDC00 || code > 0xDFFF)
			return fail_scan(scanner, MILL_JSON_SYNTAX, p,
							 "Unicode high surrogate must be followed by a low surrogate");
	}
	return p + 6;
}

/* Skip a string, p at its opening quote; returns the position after the closing one. */
static inline const char *
scan_string(Scanner *scanner, const char *p)
{
	const char *start = p++;
	const char *end = scanner->end;

	scanner->escaped = false;
	for (;;)
	{
		p = mill_skip_plain(p, end);
		if (p == end)
			return fail_scan(scanner, MILL_JSON_SYNTAX, start, "the string is not closed");
		if (*p == '"')
			return p + 1;
		if (*p == '\\')
		{
			scanner->escaped = true;
			p = scan_escape(scanner, p);
			if (p == NULL)
				return NULL;
			continue;
		}
		if ((unsigned char) *p < 0x20)
			return fail_scan(scanner, MILL_JSON_SYNTAX, p,
							 "a control character in a string must be escaped");

		/* non-ASCII characters come in runs */
		while (p < end && (unsigned char) *p >= 0x80)
		{
			int length = mill_utf8_sequence(p, end);

			if (length == 0)
				return fail_scan(scanner, MILL_JSON_ENCODING, p,
								 "invalid byte sequence for encoding \"UTF8\"");
			p += length;
		}
	}
}

/* Skip the exponent of a number whose mantissa has so many digits. */
static const char *
scan_exponent(Scanner *scanner, const char *start, const char *p, ptrdiff_t whole,
			  ptrdiff_t fraction)
{
	const char *end = scanner->end;
	const char *digits;
	bool negative = false;
	ptrdiff_t exponent = 0;

	p++;
	if (p < end && (*p == '+' || *p == '-'))
		negative = *p++ == '-';
	for (digits = p; p < end && mill_is_digit(*p); p++)
	{
		if (exponent <= MILL_JSON_MAX_DIGITS)
			exponent = exponent * 10 + (*p - '0');
	}
	if (p == digits)
		return fail_scan(scanner, MILL_JSON_SYNTAX, p, "invalid number");
	if (p - digits > MILL_JSON_MAX_DIGITS ||
		(negative ? fraction : whole) + exponent > MILL_JSON_MAX_DIGITS)
		return fail_scan(scanner, MILL_JSON_LIMIT, start, "the number has more than 1000 digits");
	return p;
}

/* Skip a number; the caller checks what follows. */
static inline const char *
scan_number(Scanner *scanner, const char *p)
{
	const char *end = scanner->end;
	const char *start = p;
	const char *digits;
	ptrdiff_t whole;
	ptrdiff_t fraction = 0;

	if (*p == '-')
		p++;
	for (digits = p; p < end && mill_is_digit(*p); p++)
		;
	whole = p - digits;
	if (whole == 0 || (whole > 1 && *digits == '0'))
		return fail_scan(scanner, MILL_JSON_SYNTAX, start, "invalid number");
	if (p < end && *p == '.')
	{
		for (digits = ++p; p < end && mill_is_digit(*p); p++)
			;
		fraction = p - digits;
		if (fraction == 0)
			return fail_scan(scanner, MILL_JSON_SYNTAX, start, "invalid number");
	}
	if (p < end && (*p | 0x20) == 'e')
	{
		p = scan_exponent(scanner, start, p, whole, fraction);
		if (p == NULL)
			return NULL;
	}
	if (whole + fraction > MILL_JSON_MAX_DIGITS)
		return fail_scan(scanner, MILL_JSON_LIMIT, start, "the number has more than 1000 digits");
	return p;
}

/* Scan a value that is not a container; returns the position after it. */
static inline const char *
scan_scalar(Scanner *scanner, const char *p, MillJsonKind *kind)
{
	size_t left = scanner->end - p;

	switch (*p)
	{
		case '"':
			*kind = MILL_JSON_STRING;
			return scan_string(scanner, p);
		case '-':
		case '0':
		case '1':
		case '2':
		case '3':
		case '4':
		case '5':
		case '6':
		case '7':
		case '8':
		case '9':
			*kind = MILL_JSON_NUMBER;
			return scan_number(scanner, p);
		case 't':
			*kind = MILL_JSON_TRUE;
			if (left >= 4 && memcmp(p, "true", 4) == 0)
				return p + 4;
			break;
		case 'f':
			*kind = MILL_JSON_FALSE;
			if (left >= 5 && memcmp(p, "false", 5) == 0)
				return p + 5;
			break;
		case 'n':
			*kind = MILL_JSON_NULL;
			if (left >= 4 && memcmp(p, "null", 4) == 0)
				return p + 4;
			break;
	}
	if ((unsigned char) *p >= 0x80 && mill_utf8_sequence(p, scanner->end) == 0)
		return fail_scan(scanner, MILL_JSON_ENCODING, p,
						 "invalid byte sequence for encoding \"UTF8\"");
	return fail_scan(scanner, MILL_JSON_SYNTAX, p, "a JSON value is expected here");
}

/* Set the span of a wanted value, and clear what an earlier duplicate had. */
static inline void
set_span(Scanner *scanner, const MillPathNode *node, MillJsonKind kind, const char *start,
		 const char *end)
{
	int quotes = kind == MILL_JSON_STRING ? 1 : 0;
	MillJsonSpan *span;

	if (node == NULL || node->span_no < 0)
		return;
	span = &scanner->spans[node->span_no];
	span->start = start + quotes;
	span->length = end - start - 2 * quotes;
	span->kind = kind;
	span->escaped = quotes && scanner->escaped;
}

/* The node of a key, p at its opening quote; returns the position after the colon. */
static inline const char *
scan_key(Scanner *scanner, const Frame *frame, const char *p, const MillPathNode **node)
{
	const MillPathNode *child = NULL;
	const char *start = p;

	if (p == scanner->end || *p != '"')
		return fail_scan(scanner, MILL_JSON_SYNTAX, p, "a key in double quotes is expected here");
	p = scan_string(scanner, p);
	if (p == NULL)
		return NULL;
	if (frame->node != NULL)
	{
		MillJsonSpan key = {start + 1, p - start - 2, MILL_JSON_STRING, scanner->escaped};

		if (key.escaped)
			child = mill_path_escaped_child(frame->node, &key);
		else
		{
			child = frame->node->buckets[mill_path_bucket(key.start, key.length)];
			while (child != NULL && (child->name_length != key.length ||
									 !mill_same_bytes(child->name, key.start, key.length)))
				child = child->next;
		}
		if (child != NULL && child->has_children)
			mill_path_void(child, scanner->spans);
	}
	*node = child;
	p = skip_space(p, scanner->end);
	if (p == scanner->end || *p != ':')
		return fail_scan(scanner, MILL_JSON_SYNTAX, p, "\":\" is expected here");
	return p + 1;
}

/*
 * Scan one value with all that is in it; node is its node in the tree of paths.
 * Returns the position after it, or NULL with an error.
 */
static const char *
scan_value(Scanner *scanner, const char *p, const MillPathNode *node, MillJsonKind *top)
{
	const char *end = scanner->end;
	MillJsonKind kind;
	const char *start;
	Frame *frame = NULL;

value:
	p = skip_space(p, end);
	if (p == end)
		return fail_scan(scanner, MILL_JSON_SYNTAX, p, "the input ends too early");
	start = p;
	if (*p != '{' && *p != '[')
	{
		p = scan_scalar(scanner, p, &kind);
		if (p == NULL)
			return NULL;
		goto finished;
	}

	if (scanner->depth == MILL_JSON_MAX_DEPTH)
		return fail_scan(scanner, MILL_JSON_LIMIT, p, "the value is nested deeper than 64 levels");
	frame = &scanner->stack[scanner->depth++];
	frame->is_object = *p == '{';
	frame->node = node;
	frame->start = start;
	frame->index = 0;
	p = skip_space(p + 1, end);
	if (p < end && *p == (frame->is_object ? '}' : ']'))
		goto close;

member:
	if (frame->is_object)
	{
		p = scan_key(scanner, frame, p, &node);
		if (p == NULL)
			return NULL;
	}
	else
		node = frame->node && frame->node->elements ? mill_path_element(frame->node, frame->index++)
													: NULL;
	goto value;

close:
	kind = frame->is_object ? MILL_JSON_OBJECT : MILL_JSON_ARRAY;
	node = frame->node;
	start = frame->start;
	frame = --scanner->depth > 0 ? frame - 1 : NULL;
	p++;

finished:
	set_span(scanner, node, kind, start, p);
	if (frame == NULL)
	{
		*top = kind;
		return p;
	}
	p = skip_space(p, end);
	if (p < end && *p == ',')
	{
		p = skip_space(p + 1, end);
		goto member;
	}
	if (p < end && *p == (frame->is_object ? '}' : ']'))
		goto close;
	if (p == end)
		return fail_scan(scanner, MILL_JSON_SYNTAX, p, "the input ends too early");
	return fail_scan(scanner, MILL_JSON_SYNTAX, p,
					 "a comma or the closing bracket is expected here");
}

/* Scan a whole text: one value with white space around it. */
static bool
scan_text(Scanner *scanner, const MillPathNode *root, const char *data, size_t length,
		  MillJsonKind *kind)
{
	const char *p;

	scanner->data = data;
	scanner->end = data + length;
	scanner->depth = 0;
	p = scan_value(scanner, data, root, kind);
	if (p == NULL)
		return false;
	p = skip_space(p, scanner->end);
	if (p < scanner->end)
		fail_scan(scanner, MILL_JSON_SYNTAX, p, "something follows the JSON value");
	return p == scanner->end;
}

bool
mill_json_scan(const MillJsonPaths *paths, const char *data, size_t length, MillJsonSpan *spans,
			   MillJsonError *error)
{
	Scanner scanner;
	MillJsonKind kind;

	for (int i = 0; i < paths->count; i++)
		spans[i].kind = MILL_JSON_ABSENT;
	scanner.spans = spans;
	scanner.error = error;
	if (!scan_text(&scanner, paths->count > 0 ? &paths->root : NULL, data, length, &kind))
		return false;
	if (kind != MILL_JSON_OBJECT)
	{
		fail_scan(&scanner, MILL_JSON_NOT_AN_OBJECT, skip_space(data, scanner.end),
				  "the JSON value is not an object");
		return false;
	}
	return true;
}

bool
mill_json_check(const char *data, size_t length, MillJsonSpan *value, MillJsonError *error)
{
	Scanner scanner;
	MillPathNode node = {.span_no = 0};

	scanner.spans = value;
	scanner.error = error;
	return scan_text(&scanner, &node, data, length, &value->kind);
}

/* The position after the validated string whose opening quote is at p. */
static const char *
skip_string(const char *p, const char *end, bool *escaped)
{
	*escaped = false;
	for (p++; *p != '"' && p < end; p++)
	{
		if (*p == '\\')
		{
			*escaped = true;
			p++;
		}
	}
	return p + 1;
}

static MillJsonKind
kind_by_first(char c)
{
	switch (c)
	{
		case '"':
			return MILL_JSON_STRING;
		case '{':
			return MILL_JSON_OBJECT;
		case '[':
			return MILL_JSON_ARRAY;
		case 't':
			return MILL_JSON_TRUE;
		case 'f':
			return MILL_JSON_FALSE;
		case 'n':
			return MILL_JSON_NULL;
	}
	return MILL_JSON_NUMBER;
}

/* The span of the validated value at p; returns the position after it. */
static const char *
skip_value(const char *p, const char *end, MillJsonSpan *value)
{
	int depth = 0;
	bool escaped;

	value->start = p;
	value->kind = kind_by_first(*p);
	value->escaped = false;
	if (value->kind == MILL_JSON_STRING)
	{
		p = skip_string(p, end, &value->escaped);
		value->start++;
		value->length = p - 1 - value->start;
		return p;
	}
	while (p < end)
	{
		if (*p == '"')
		{
			p = skip_string(p, end, &escaped);
			continue;
		}
		if (depth == 0 && strchr(",]} \n\r\t", *p) != NULL)
			break;
		if (*p == '{' || *p == '[')
			depth++;
		else if ((*p == '}' || *p == ']') && --depth == 0)
		{
			p++;
			break;
		}
		p++;
	}
	value->length = p - value->start;
	return p;
}

bool
mill_json_next(const MillJsonSpan *container, const char **position, MillJsonSpan *key,
			   MillJsonSpan *value)
{
	const char *end = container->start + container->length;
	const char *p = *position ? *position : container->start;

	/* at the opening brace, or after a value */
	p = *position ? skip_space(p, end) : p;
	if (p >= end || *p == '}' || *p == ']')
		return false;
	p = skip_space(p + 1, end);
	if (p >= end || *p == '}' || *p == ']')
		return false;
	if (container->kind == MILL_JSON_OBJECT)
	{
		p = skip_value(p, end, key);
		p = skip_space(p, end);
		p = skip_space(p + 1, end);
	}
	*position = skip_value(p, end, value);
	return true;
}

size_t
mill_utf8_prefix(const char *data, size_t length)
{
	const char *p = data;
	const char *end = data + length;

	while (p < end)
	{
		while (end - p >= 8)
		{
			uint64_t word = mill_load_eight(p);

			if ((((word - MILL_LOW_BITS) & ~word) | word) & MILL_HIGH_BITS)
				break;
			p += 8;
		}
		while (p < end && (unsigned char) (*p - 1) < 0x7F)
			p++;
		while (p < end && (unsigned char) *p >= 0x80)
		{
			int n = mill_utf8_sequence(p, end);

			if (n == 0)
				return p - data;
			p += n;
		}
		if (p < end && *p == '\0')
			break;
	}
	return p - data;
}
