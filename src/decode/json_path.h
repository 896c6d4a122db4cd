/*
 * json_path.h
 *		The tree of compiled paths (json_scan.h), for the scanner.
 */
#ifndef MILL_DECODE_JSON_PATH_H
#define MILL_DECODE_JSON_PATH_H

#include "decode/json_scan.h"

#define MILL_PATH_BUCKETS 32

/* A wanted value, or one on the path to it. */
typedef struct MillPathNode
{
	const char *name; /* NULL: an array element */
	size_t name_length;
	uint32_t index;			   /* of the array element */
	int span_no;			   /* -1 if it is only on a path */
	bool has_children;		   /* something below is wanted */
	struct MillPathNode *next; /* in the parent's bucket, or elements */
	struct MillPathNode *elements;
	struct MillPathNode *buckets[MILL_PATH_BUCKETS];
} MillPathNode;

struct MillJsonPaths
{
	void *(*alloc)(size_t);
	int count;
	MillPathNode root;
};

/* Number of buckets, enough for the names that one object has. */
static inline unsigned
mill_path_bucket(const char *name, size_t length)
{
	unsigned hash = (unsigned) length;

	if (length > 0)
		hash += (unsigned char) name[0] * 5 + (unsigned char) name[length - 1] * 3 +
				(unsigned char) name[length / 2];
	return hash % MILL_PATH_BUCKETS;
}

/* The child of a node by name or index, or NULL. */
extern const MillPathNode *mill_path_escaped_child(const MillPathNode *node,
												   const MillJsonSpan *key);
extern const MillPathNode *mill_path_element(const MillPathNode *node, uint32_t index);

/* Clear the spans of all nodes below a node. */
extern void mill_path_void(const MillPathNode *node, MillJsonSpan *spans);

#endif
