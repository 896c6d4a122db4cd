/*
 * rights.c
 *		Rights on source and target of a pipeline.
 *
 * Checked when a pipeline is created or changed, for an early error.  What
 * counts is core's check, as the pipeline's owner, when a batch is written.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/settings.h"
#include "ingest/rights.h"

/* Check a right on the whole target, or on each of its columns that are written. */
static void
check_column_rights(Oid user, Oid source, Oid target, AclMode right)
{
	AttrNumber attnum = 0;
	char *column;

	if (pg_class_aclcheck(target, user, right) == ACLCHECK_OK)
		return;
	while ((column = get_attname(source, ++attnum, true)) != NULL)
	{
		AttrNumber target_attnum = get_attnum(target, column);

		if (target_attnum != InvalidAttrNumber &&
			pg_attribute_aclcheck(target, target_attnum, user, right) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(target)),
						   get_rel_name(target));
	}
}

void
mill_pipeline_check_rights(Oid user, Oid source, Oid stream, Oid target, bool upsert)
{
	Oid server = GetForeignServerIdByRelId(stream);

	if (mill_server_aclcheck(server, user, ACL_USAGE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FOREIGN_SERVER,
					   GetForeignServer(server)->servername);
	if (pg_class_aclcheck(source, user, ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(source)),
					   get_rel_name(source));
	check_column_rights(user, source, target, ACL_INSERT);
	if (upsert)
	{
		/* ON CONFLICT DO UPDATE reads the columns that it writes */
		check_column_rights(user, source, target, ACL_SELECT);
		check_column_rights(user, source, target, ACL_UPDATE);
		if (pg_class_aclcheck(target, user, ACL_DELETE) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(target)),
						   get_rel_name(target));
	}
}

static void
refuse_superuser(Oid relid, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("a superuser's pipeline cannot %s \"%s\", which belongs to another role", what,
					get_rel_name(relid)),
			 errdetail("What that role wrote would run as superuser."),
			 errhint(
				 "Create the pipeline as that role, give the relation to a superuser, or set mill.superuser_any_target.")));
}

static void check_written(Oid relid);
static void check_read(Oid relid);

/* The relations in a view's own query. */
static List *
relations_of_view(Oid view)
{
	Relation rel = table_open(view, AccessShareLock);
	List *relations = NIL;
	ListCell *lc;

	foreach (lc, get_view_query(rel)->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION && rte->relid != view)
			relations = list_append_unique_oid(relations, rte->relid);
	}
	table_close(rel, NoLock);
	return relations;
}

/* Refuse triggers with another role's function; any role with TRIGGER may have added one. */
static void
check_triggers(Relation rel)
{
	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &rel->trigdesc->triggers[i];
		HeapTuple function = SearchSysCache1(PROCOID, ObjectIdGetDatum(trigger->tgfoid));
		Oid owner = HeapTupleIsValid(function) ? ((Form_pg_proc) GETSTRUCT(function))->proowner
											   : InvalidOid;

		if (HeapTupleIsValid(function))
			ReleaseSysCache(function);
		if (!superuser_arg(owner))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("a superuser's pipeline cannot write into \"%s\", whose trigger \"%s\" calls another role's function",
							RelationGetRelationName(rel), trigger->tgname),
					 errdetail("What that role wrote would run as superuser."),
					 errhint(
						 "Create the pipeline as that role, give the function to a superuser, or set mill.superuser_any_target.")));
	}
}

/* Check the actions of a rule. */
static void
check_action(Relation rel, const Query *action)
{
	int index = 0;
	ListCell *lc;

	foreach (lc, action->rtable)
	{
		const RangeTblEntry *rte = lfirst(lc);

		index++;
		if (rte->rtekind != RTE_RELATION || rte->relid == RelationGetRelid(rel))
			continue;
		if (index == action->resultRelation)
			check_written(rte->relid);
		else
			check_read(rte->relid);
	}
}

/* Check triggers and rules of a relation that is written to. */
static void
check_fired(Oid relid)
{
	Relation rel = table_open(relid, AccessShareLock);

	check_triggers(rel);
	for (int i = 0; rel->rd_rules && i < rel->rd_rules->numLocks; i++)
	{
		const RewriteRule *rule = rel->rd_rules->rules[i];
		ListCell *lc;

		foreach (lc, rule->event == CMD_SELECT ? NIL : rule->actions)
			check_action(rel, lfirst(lc));
	}
	table_close(rel, NoLock);
}

/* Refuse another role's relation, with its defaults and constraints, and what it fires. */
static void
check_relation(Oid relid)
{
	if (!superuser_arg(mill_relation_owner(relid)))
		refuse_superuser(relid, "write into");
	check_fired(relid);
}

/* The same, also for its partitions, or the tables behind a view. */
static void
check_written(Oid relid)
{
	ListCell *lc;

	check_stack_depth();
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
	{
		/* find_all_inheritors includes the relation itself */
		foreach (lc, find_all_inheritors(relid, RowExclusiveLock, NULL))
			check_relation(lfirst_oid(lc));
		return;
	}
	check_relation(relid);
	if (get_rel_relkind(relid) == RELKIND_VIEW)
	{
		foreach (lc, relations_of_view(relid))
			check_written(lfirst_oid(lc));
	}
}

/* Refuse another role's view: its functions run as the reader.  A stream's defaults do not. */
static void
check_read(Oid relid)
{
	ListCell *lc;

	check_stack_depth();
	if (get_rel_relkind(relid) != RELKIND_VIEW)
		return;
	if (!superuser_arg(mill_relation_owner(relid)))
		refuse_superuser(relid, "read");
	foreach (lc, relations_of_view(relid))
		check_read(lfirst_oid(lc));
}

void
mill_pipeline_check_superuser(Oid user, Oid source, Oid target)
{
	if (!superuser_arg(user) || mill_superuser_any_target)
		return;
	check_read(source);
	check_written(target);
}
