/*
 * query.h
 *		What is asked of query trees by several rooms.
 */
#ifndef MILL_CORE_QUERY_H
#define MILL_CORE_QUERY_H

#include "nodes/nodes.h"

/*
 * In a join tree, is range table entry rti on a side of an outer join that may
 * be made up of NULLs?  Nullable is false at the top.
 */
extern bool mill_is_nullable(Node *node, int rti, bool nullable);

#endif
