/*
 * json_path.c
 *		Compiles paths of wanted JSON fields; helper functions for strings.
 *
 * Pure C, no Postgres header.  The tree is built once by the process that
 * decodes, lives as long as its allocator's memory, and is only read after that.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "decode/json_lex.h"
#include "decode/json_path.h"
#include "decode/json_scan.h"

MillJsonPaths *
mill_json_paths_create(void *(*alloc)(size_t))
{
	MillJsonPaths *paths = alloc(sizeof(MillJsonPaths));

	memset(paths, 0, sizeof(*paths));
	paths->alloc = alloc;
	paths->root.span_no = -1;
	return paths;
}

int
mill_json_paths_count(const MillJsonPaths *paths)
{
	return paths->count;
}

/* Find or add the child with this name, or with this index if name is NULL. */
static MillPathNode *
get_child(MillJsonPaths *paths, MillPathNode *parent, const char *name, size_t length,
		  uint32_t index)
{
	MillPathNode **list = name ? &parent->buckets[mill_path_bucket(name, length)]
							   : &parent->elements;
	MillPathNode *node;

	for (node = *list; node != NULL; node = node->next)
	{
		if (name ? node->name_length == length && memcmp(node->name, name, length) == 0
				 : node->index == index)
			return node;
	}
	node = paths->alloc(sizeof(MillPathNode));
	memset(node, 0, sizeof(*node));
	if (name)
	{
		char *copy = paths->alloc(length + 1);

		memcpy(copy, name, length);
		copy[length] = '\0';
		node->name = copy;
		node->name_length = length;
	}
	node->index = index;
	node->span_no = -1;
	node->next = *list;
	*list = node;
	parent->has_children = true;
	return node;
}

static int
assign_span(MillJsonPaths *paths, MillPathNode *node)
{
	if (node->span_no < 0)
		node->span_no = paths->count++;
	return node->span_no;
}

int
mill_json_paths_add_name(MillJsonPaths *paths, const char *name, size_t length)
{
	return assign_span(paths, get_child(paths, &paths->root, name, length, 0));
}

/* Parse a name of a path, quoted or not; NULL if it is not well formed. */
static const char *
read_name(MillJsonPaths *paths, const char *p, const char **name, size_t *length)
{
	const char *start = p;
	char *copy;

	if (*p != '"')
	{
		while (*p != '\0' && strchr(".[]\"", *p) == NULL)
			p++;
		*name = start;
		*length = p - start;
		return p > start ? p : NULL;
	}
	copy = paths->alloc(strlen(p));
	*name = copy;
	for (p++; *p != '\0'; p++)
	{
		if (*p == '"' && *++p != '"')
		{
			*length = copy - *name;
			return p;
		}
		*copy++ = *p;
	}
	return NULL;
}

/* Parse an index, p after the opening bracket; NULL if it is not well formed. */
static const char *
read_index(const char *p, uint32_t *index)
{
	const char *start = p;

	*index = 0;
	for (; mill_is_digit(*p) && p - start < 9; p++)
		*index = *index * 10 + (*p - '0');
	return p > start && *p == ']' ? p + 1 : NULL;
}

int
mill_json_paths_add(MillJsonPaths *paths, const char *path, const char **error)
{
	MillPathNode *node = &paths->root;
	const char *p = path;
	int depth = 0;

	*error = NULL;
	while (*error == NULL && (*p != '\0' || depth == 0))
	{
		const char *name = NULL;
		size_t length = 0;
		uint32_t index = 0;

		if (*p == '[' && depth > 0)
		{
			p = read_index(p + 1, &index);
			if (p == NULL)
				*error = "an array index must be digits in brackets";
		}
		else
		{
			if (depth > 0 && *p++ != '.')
				*error = "after a name or an index comes a dot or a bracket";
			else if ((p = read_name(paths, p, &name, &length)) == NULL)
				*error = "a name is empty or its quote is not closed";
		}
		if (*error == NULL && ++depth > MILL_JSON_MAX_DEPTH)
			*error = "the path is too deep";
		if (*error == NULL)
			node = get_child(paths, node, name, length, index);
	}
	return *error ? -1 : assign_span(paths, node);
}

const MillPathNode *
mill_path_escaped_child(const MillPathNode *node, const MillJsonSpan *key)
{
	for (int i = 0; i < MILL_PATH_BUCKETS; i++)
	{
		const MillPathNode *child;

		for (child = node->buckets[i]; child != NULL; child = child->next)
		{
			if (mill_json_equals(key, child->name, child->name_length))
				return child;
		}
	}
	return NULL;
}

const MillPathNode *
mill_path_element(const MillPathNode *node, uint32_t index)
{
	const MillPathNode *child;

	for (child = node->elements; child != NULL && child->index != index; child = child->next)
		;
	return child;
}

/* Recursion is limited by the length of paths. */
void
mill_path_void(const MillPathNode *node, MillJsonSpan *spans)
{
	const MillPathNode *child;

	for (int i = -1; i < MILL_PATH_BUCKETS; i++)
	{
		for (child = i < 0 ? node->elements : node->buckets[i]; child != NULL; child = child->next)
		{
			if (child->span_no >= 0)
				spans[child->span_no].kind = MILL_JSON_ABSENT;
			if (child->has_children)
				mill_path_void(child, spans);
		}
	}
}

static int
encode_utf8(uint32_t code, char *out)
{
	if (code < 0x80)
	{
		out[0] = (char) code;
		return 1;
	}
	if (code < 0x800)
	{
		out[0] = (char) (0xC0 | (code >> 6));
		out[1] = (char) (0x80 | (code & 0x3F));
		return 2;
	}
	if (code < 0x10000)
	{
		out[0] = (char) (0xE0 | (code >> 12));
		out[1] = (char) (0x80 | ((code >> 6) & 0x3F));
		out[2] = (char) (0x80 | (code & 0x3F));
		return 3;
	}
	out[0] = (char) (0xF0 | (code >> 18));
	out[1] = (char) (0x80 | ((code >> 12) & 0x3F));
	out[2] = (char) (0x80 | ((code >> 6) & 0x3F));
	out[3] = (char) (0x80 | (code & 0x3F));
	return 4;
}

/* The character of the escape at *p, a backslash; moves *p past it. */
static int
unescape_one(const char **p, const char *end, char *out)
{
	char c = (*p)[1];
	uint32_t code;

	*p += 2;
	switch (c)
	{
		case 'b':
			*out = '\b';
			return 1;
		case 'f':
			*out = '\f';
			return 1;
		case 'n':
			*out = '\n';
			return 1;
		case 'r':
			*out = '\r';
			return 1;
		case 't':
			*out = '\t';
			return 1;
		case 'u':
			code = mill_hex_four(*p, end);
			*p += 4;
			if (code >= 0xD800 && code <= 0xDBFF)
			{
				/* the scanner has checked that the second surrogate follows */
				code = 0x10000 + ((code & 0x3FF) << 10) + (mill_hex_four(*p + 2, end) & 0x3FF);
				*p += 6;
			}
			return encode_utf8(code, out);
		default:
			*out = c;
			return 1;
	}
}

size_t
mill_json_unescape(const char *string, size_t length, char *out)
{
	const char *p = string;
	const char *end = string + length;
	char *start = out;

	while (p < end)
	{
		const char *next = memchr(p, '\\', end - p);
		size_t plain = (next ? next : end) - p;

		memcpy(out, p, plain);
		out += plain;
		p += plain;
		if (next)
			out += unescape_one(&p, end, out);
	}
	return out - start;
}

bool
mill_json_equals(const MillJsonSpan *string, const char *name, size_t length)
{
	const char *p = string->start;
	const char *end = p + string->length;
	const char *name_end = name + length;

	if (!string->escaped)
		return string->length == length && memcmp(p, name, length) == 0;
	while (p < end)
	{
		char character[4] = {*p};
		int n = 1;

		if (*p == '\\')
			n = unescape_one(&p, end, character);
		else
			p++;
		if (name_end - name < n || memcmp(character, name, n) != 0)
			return false;
		name += n;
	}
	return name == name_end;
}
