/*
 * json_lex.h
 *		The tokens of JSON: what json_scan.c and json_path.c share.
 *
 * Inline, because function calls for each token would take a third of the time.
 */
#ifndef MILL_DECODE_JSON_LEX_H
#define MILL_DECODE_JSON_LEX_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define MILL_LOW_BITS UINT64_C(0x0101010101010101)
#define MILL_HIGH_BITS UINT64_C(0x8080808080808080)

static inline bool
mill_is_digit(char c)
{
	return (unsigned char) (c - '0') < 10;
}

/* Load eight bytes, the first one lowest, on machines of either byte order. */
static inline uint64_t
mill_load_eight(const char *p)
{
	uint64_t word;

	memcpy(&word, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	word = __builtin_bswap64(word);
#endif
	return word;
}

/*
 * Skip plain string content: no quote, backslash or control character, and
 * ASCII.  Reads eight bytes at a time.  The bit tests may be wrong above the
 * first byte that they find, never below, and only the first is used.
 */
static inline const char *
mill_skip_plain(const char *p, const char *end)
{
	while (end - p >= 8)
	{
		uint64_t word = mill_load_eight(p);
		uint64_t quote = word ^ (MILL_LOW_BITS * '"');
		uint64_t backslash = word ^ (MILL_LOW_BITS * '\\');
		uint64_t stop = ((quote - MILL_LOW_BITS) & ~quote) |
						((backslash - MILL_LOW_BITS) & ~backslash) |
						((word - MILL_LOW_BITS * 0x20) & ~word) | word;

		stop &= MILL_HIGH_BITS;
		if (stop != 0)
			return p + (__builtin_ctzll(stop) >> 3);
		p += 8;
	}
	while (p < end && *p != '"' && *p != '\\' && (unsigned char) *p >= 0x20 &&
		   (unsigned char) *p < 0x80)
		p++;
	return p;
}

/*
 * Length of the UTF-8 sequence at p, whose first byte is 0x80 or above; 0 if it
 * is incomplete, overlong, a surrogate or above U+10FFFF.
 */
static inline int
mill_utf8_sequence(const char *p, const char *end)
{
	const unsigned char *s = (const unsigned char *) p;
	size_t left = end - p;

#define MILL_CONTINUES(c) (((c) &0xC0) == 0x80)
	if (s[0] < 0xC2 || s[0] > 0xF4 || left < 2 || !MILL_CONTINUES(s[1]))
		return 0;
	if (s[0] < 0xE0)
		return 2;
	if (left < 3 || !MILL_CONTINUES(s[2]))
		return 0;
	if (s[0] < 0xF0)
		return (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ? 0 : 3;
	if (left < 4 || !MILL_CONTINUES(s[3]))
		return 0;
	return (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F) ? 0 : 4;
#undef MILL_CONTINUES
}

/* A hexadecimal digit's value, -1 if it is none. */
static inline int
mill_hex_digit(char c)
{
	if (mill_is_digit(c))
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hexadecimal digits as a number, -1 if they are not. */
static inline int
mill_hex_four(const char *p, const char *end)
{
	int value = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		int digit = mill_hex_digit(p[i]);

		if (digit < 0)
			return -1;
		value = value * 16 + digit;
	}
	return value;
}

/* Not memcmp: names are short, and most differ within the first eight bytes. */
static inline bool
mill_same_bytes(const char *a, const char *b, size_t length)
{
	while (length >= 8)
	{
		uint64_t x;
		uint64_t y;

		memcpy(&x, a, 8);
		memcpy(&y, b, 8);
		if (x != y)
			return false;
		a += 8;
		b += 8;
		length -= 8;
	}
	while (length > 0 && *a == *b)
	{
		a++;
		b++;
		length--;
	}
	return length == 0;
}

#endif
