/*
 * rights.c
 *		Who may bring what where.
 *
 * Looked at when a pipeline is made or changed, for a message in time; and by
 * core when a batch is written, as the owner, for good.
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

/* A right on the whole target, or on each of its columns that come. */
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
		/* ON CONFLICT DO UPDATE reads what it writes. */
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

/* The relations that a view's own query names. */
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

/* A trigger may be anybody's who was granted TRIGGER. */
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

/* What a rule does instead, or besides. */
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

/* Triggers and rules of a relation that is written to. */
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

/* Defaults, checks, triggers and rules run for whatever a row is written to. */
static void
check_relation(Oid relid)
{
	if (!superuser_arg(mill_relation_owner(relid)))
		refuse_superuser(relid, "write into");
	check_fired(relid);
}

/* ... which partitions and the tables behind views are, too. */
static void
check_written(Oid relid)
{
	ListCell *lc;

	check_stack_depth();
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
	{
		/* with itself */
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

/* A view's functions run as the reader; a stream's defaults do not. */
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
