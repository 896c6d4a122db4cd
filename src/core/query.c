/*
 * query.c
 *		Questions about query trees that several rooms have.
 */
#include "postgres.h"

#include "nodes/primnodes.h"

#include "core/query.h"

bool
mill_is_nullable(Node *node, int rti, bool nullable)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblRef))
		return nullable && ((RangeTblRef *) node)->rtindex == rti;
	if (IsA(node, FromExpr))
	{
		ListCell *lc;

		foreach (lc, ((FromExpr *) node)->fromlist)
		{
			if (mill_is_nullable(lfirst(lc), rti, nullable))
				return true;
		}
		return false;
	}
	if (IsA(node, JoinExpr))
	{
		JoinExpr *join = (JoinExpr *) node;
		bool left = join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL;
		bool right = join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL;

		return mill_is_nullable(join->larg, rti, nullable || left) ||
			   mill_is_nullable(join->rarg, rti, nullable || right);
	}
	return false;
}
