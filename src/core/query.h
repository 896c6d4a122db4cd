/*
 * query.h
 *		Questions about query trees that several rooms have.
 */
#ifndef MILL_CORE_QUERY_H
#define MILL_CORE_QUERY_H

#include "nodes/nodes.h"

/*
 * Is range table entry rti on the nullable side of an outer join in this join
 * tree?  Pass nullable = false at the top.
 */
extern bool mill_is_nullable(Node *node, int rti, bool nullable);

#endif
