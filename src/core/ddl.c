/*
 * ddl.c
 *		Announces commands that need a database for themselves.
 *
 * DROP, RENAME, SET TABLESPACE and CREATE DATABASE ... TEMPLATE wait five
 * seconds for other sessions to leave a database.  Managers and workers are such
 * sessions; they look at the database's lock only while they know of such a
 * command, which this hook tells them before it begins.  It does nothing else,
 * and cannot fail.
 */
#include "postgres.h"

#include "tcop/utility.h"

#include "core/ddl.h"
#include "core/slot.h"

static ProcessUtility_hook_type previous_hook = NULL;

static bool
needs_a_database(const Node *command)
{
	return IsA(command, DropdbStmt) || IsA(command, CreatedbStmt) ||
		   IsA(command, AlterDatabaseStmt) ||
		   (IsA(command, RenameStmt) &&
			((const RenameStmt *) command)->renameType == OBJECT_DATABASE);
}

static void
announce(PlannedStmt *statement, const char *text, bool read_only_tree,
		 ProcessUtilityContext context, ParamListInfo parameters, QueryEnvironment *environment,
		 DestReceiver *receiver, QueryCompletion *completion)
{
	if (needs_a_database(statement->utilityStmt))
		mill_expect_database_ddl();
	if (previous_hook)
		previous_hook(statement, text, read_only_tree, context, parameters, environment, receiver,
					  completion);
	else
		standard_ProcessUtility(statement, text, read_only_tree, context, parameters, environment,
								receiver, completion);
}

/* Called once, from _PG_init, when preloaded. */
void
mill_ddl_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = announce;
}
