/*
 * ddl.c
 *		Tells managers about commands for which there are no event triggers.
 *
 * Changes of roles and their rights decide which work may run: managers are
 * woken at the commit of such a command.
 *
 * DROP, RENAME, SET TABLESPACE and CREATE DATABASE ... TEMPLATE wait five
 * seconds for other sessions to leave a database.  Managers and workers are
 * such sessions.  They check the database's lock only while they know of such
 * a command, and this hook tells them before the command begins.
 *
 * Then rooms may do what must be done before a command (MillRoom.before_command).
 */
#include "postgres.h"

#include "tcop/utility.h"

#include "core/ddl.h"
#include "core/room.h"
#include "core/slot.h"
#include "core/xact.h"

static ProcessUtility_hook_type previous_hook = NULL;

static bool
needs_a_database(const Node *command)
{
	return IsA(command, DropdbStmt) || IsA(command, CreatedbStmt) ||
		   IsA(command, AlterDatabaseStmt) ||
		   (IsA(command, RenameStmt) &&
			((const RenameStmt *) command)->renameType == OBJECT_DATABASE);
}

static bool
changes_rights(const Node *command)
{
	switch (nodeTag(command))
	{
		case T_AlterRoleStmt:
		case T_DropRoleStmt:
		case T_CreateRoleStmt:
		case T_GrantRoleStmt:
		case T_ReassignOwnedStmt:
		case T_DropOwnedStmt:
			return true;
		case T_GrantStmt:
			return ((const GrantStmt *) command)->objtype == OBJECT_DATABASE;
		default:
			return false;
	}
}

static void
tell_rooms(Node *command)
{
	for (MillKind kind = 1; kind <= mill_room_count(); kind++)
	{
		const MillRoom *room = mill_room_of(kind);

		if (room->before_command)
			room->before_command(command);
	}
}

static void
announce(PlannedStmt *statement, const char *text, bool read_only_tree,
		 ProcessUtilityContext context, ParamListInfo parameters, QueryEnvironment *environment,
		 DestReceiver *receiver, QueryCompletion *completion)
{
	if (needs_a_database(statement->utilityStmt))
		mill_expect_database_ddl();
	if (changes_rights(statement->utilityStmt))
		mill_wake_all_managers_at_commit();
	tell_rooms(statement->utilityStmt);
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
