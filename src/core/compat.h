/*
 * compat.h
 *		Differences between PostgreSQL 15, 16, 17 and 18 that matter here.
 *
 * The only file that looks at PG_VERSION_NUM.
 */
#ifndef MILL_CORE_COMPAT_H
#define MILL_CORE_COMPAT_H

#include "catalog/pg_class.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_proc.h"
#include "pgstat.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "pg_mill needs PostgreSQL 15 or later"
#endif

/* 16 moved VARDATA and the like out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 17 gives each extension wait events of its own; one is enough for all. */
#define MILL_WAIT_EVENT PG_WAIT_EXTENSION

/* Before 16 this header declares its walkers without prototypes. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include "nodes/nodeFuncs.h"
#pragma GCC diagnostic pop

/*
 * Executor functions that the bulk writer calls.  MillPermissions is the struct
 * that has the privileges needed on a range table entry.
 */
#if PG_VERSION_NUM >= 160000
#define MillPermissions RTEPermissionInfo
#define mill_entry_permissions(entry, list) addRTEPermissionInfo(&(list), entry)
#define mill_check_permissions(entries, list) ((void) ExecCheckPermissions(entries, list, true))
#define mill_root_to_partition_map(partition, estate) ExecGetRootToChildMap(partition, estate)
#define mill_insert_index_tuples(relation, slot, estate)                                           \
	ExecInsertIndexTuples(relation, slot, estate, false, false, NULL, NIL, false)
#else
#define MillPermissions RangeTblEntry
#define mill_entry_permissions(entry, list) ((void) (list), (entry))
#define mill_check_permissions(entries, list) ((void) ExecCheckRTPerms(entries, true))
#define mill_root_to_partition_map(partition, estate) ((partition)->ri_RootToPartitionMap)
#define mill_insert_index_tuples(relation, slot, estate)                                           \
	ExecInsertIndexTuples(relation, slot, estate, false, false, NULL, NIL)
#endif

#if PG_VERSION_NUM >= 180000
#define mill_init_range_table(estate, entries, list)                                               \
	ExecInitRangeTable(estate, entries, list, bms_make_singleton(1))
#elif PG_VERSION_NUM >= 160000
#define mill_init_range_table(estate, entries, list) ExecInitRangeTable(estate, entries, list)
#else
#define mill_init_range_table(estate, entries, list)                                               \
	((void) (list), ExecInitRangeTable(estate, entries))
#endif

/* 18 can return a deferrable primary key, which ON CONFLICT cannot use. */
#if PG_VERSION_NUM >= 180000
#define mill_primary_key_index(rel) RelationGetPrimaryKeyIndex(rel, false)
#else
#define mill_primary_key_index(rel) RelationGetPrimaryKeyIndex(rel)
#endif

#if PG_VERSION_NUM >= 160000
#define mill_relation_ownercheck(relid, role) object_ownercheck(RelationRelationId, relid, role)
#define mill_schema_ownercheck(schema, role) object_ownercheck(NamespaceRelationId, schema, role)
#else
#define mill_relation_ownercheck(relid, role) pg_class_ownercheck(relid, role)
#define mill_schema_ownercheck(schema, role) pg_namespace_ownercheck(schema, role)
#endif

#if PG_VERSION_NUM >= 160000
#define mill_server_aclcheck(server, role, mode)                                                   \
	object_aclcheck(ForeignServerRelationId, server, role, mode)
#else
#define mill_server_aclcheck(server, role, mode) pg_foreign_server_aclcheck(server, role, mode)
#endif

#if PG_VERSION_NUM >= 160000
#define mill_function_aclcheck(function, role, mode)                                               \
	object_aclcheck(ProcedureRelationId, function, role, mode)
#else
#define mill_function_aclcheck(function, role, mode) pg_proc_aclcheck(function, role, mode)
#endif

/*
 * Undo, in place, what 18's parser does to a grouped query: it points grouped
 * columns in target list and HAVING at a range table entry of their own, the
 * last one, where earlier versions repeat the grouped expression.  False, and nothing is
 * changed, if it is not the last one.
 */
#if PG_VERSION_NUM >= 180000
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"

static inline bool
mill_flatten_groups(Query *query)
{
	if (!query->hasGroupRTE)
		return true;
	/* the parser puts it there; who adds others later we do not know */
	if (llast_node(RangeTblEntry, query->rtable)->rtekind != RTE_GROUP)
		return false;
	query->targetList = (List *) flatten_group_exprs(NULL, query, (Node *) query->targetList);
	query->havingQual = flatten_group_exprs(NULL, query, query->havingQual);
	query->rtable = list_delete_last(query->rtable);
	query->hasGroupRTE = false;
	return true;
}
#else
#define mill_flatten_groups(query) ((query) != NULL)
#endif

/* Replace the columns of a range table entry of a query that is not the target of a command. */
#include "rewrite/rewriteManip.h"

#if PG_VERSION_NUM >= 180000
#define mill_replace_vars(query, rti, rte, columns)                                                \
	ReplaceVarsFromTargetList((Node *) (query), rti, 0, rte, columns, 0, REPLACEVARS_REPORT_ERROR, \
							  0, NULL)
#else
#define mill_replace_vars(query, rti, rte, columns)                                                \
	ReplaceVarsFromTargetList((Node *) (query), rti, 0, rte, columns, REPLACEVARS_REPORT_ERROR, 0, \
							  NULL)
#endif

/*
 * Take out of a copy of a view's query what 15 has in front of its range table: entries for
 * OLD and NEW, which make it name the table before each column when it is written.
 */
#if PG_VERSION_NUM < 160000
static inline void
mill_drop_rule_entries(Query *query)
{
	if (list_length(query->rtable) < 2 ||
		strcmp(((RangeTblEntry *) linitial(query->rtable))->eref->aliasname, "old") != 0 ||
		strcmp(((RangeTblEntry *) lsecond(query->rtable))->eref->aliasname, "new") != 0)
		return;
	query->rtable = list_copy_tail(query->rtable, 2);
	OffsetVarNodes((Node *) query, -2, 0);
}
#else
#define mill_drop_rule_entries(query) ((void) (query))
#endif

/* Run a query to its end, once. */
#if PG_VERSION_NUM >= 180000
#define mill_executor_run(query) ExecutorRun(query, ForwardScanDirection, 0)
#else
#define mill_executor_run(query) ExecutorRun(query, ForwardScanDirection, 0, true)
#endif

/* Run a portal to its end, at top level, for no client. */
#if PG_VERSION_NUM >= 180000
#define mill_portal_run(portal, completion)                                                        \
	PortalRun(portal, FETCH_ALL, true, None_Receiver, None_Receiver, completion)
#else
#define mill_portal_run(portal, completion)                                                        \
	PortalRun(portal, FETCH_ALL, true, true, None_Receiver, None_Receiver, completion)
#endif

/* The process of a lock's holder; NULL if it has ended or is a prepared transaction. */
#if PG_VERSION_NUM >= 170000
#define mill_holder_process(holder) ProcNumberGetProc((holder).procNumber)
#else
#define mill_holder_process(holder) BackendIdGetProc((holder).backendId)
#endif

#if PG_VERSION_NUM >= 170000
#define mill_holds_lock(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define mill_holds_lock(tag, mode) LockHeldByMe(tag, mode)
#endif

/* A base relation's foreign path without order, parameters or outer path. */
#if PG_VERSION_NUM >= 180000
#define mill_create_foreignscan_path(root, rel, rows, startup, total, outer)                       \
	create_foreignscan_path(root, rel, NULL, rows, 0, startup, total, NIL, outer, NULL, NIL, NIL)
#elif PG_VERSION_NUM >= 170000
#define mill_create_foreignscan_path(root, rel, rows, startup, total, outer)                       \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, NIL, outer, NULL, NIL, NIL)
#else
#define mill_create_foreignscan_path(root, rel, rows, startup, total, outer)                       \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, NIL, outer, NULL, NIL)
#endif

/* The role with whose rights a foreign scan reads: a view's owner, or the user. */
#if PG_VERSION_NUM >= 160000
#define mill_scan_check_as(node) (((ForeignScan *) (node)->ss.ps.plan)->checkAsUser)
#else
#define mill_scan_check_as(node)                                                                   \
	(exec_rt_fetch(((Scan *) (node)->ss.ps.plan)->scanrelid, (node)->ss.ps.state)->checkAsUser)
#endif
#define mill_scan_user(node)                                                                       \
	(OidIsValid(mill_scan_check_as(node)) ? mill_scan_check_as(node) : GetUserId())

/* EXPLAIN's properties moved to headers of their own. */
#if PG_VERSION_NUM >= 180000
#define MILL_EXPLAIN_HEADERS 1
#endif

/*
 * Call a type's input function; false if it reports an error without raising it
 * (16 and later), with code, message and detail set.
 */
#if PG_VERSION_NUM >= 160000
#include "fmgr.h"
#include "nodes/miscnodes.h"

static inline bool
mill_input_safely(FmgrInfo *function, char *text, Oid ioparam, int32 typmod, Datum *value,
				  int *sqlerrcode, const char **message, const char **detail)
{
	ErrorSaveContext saved = {.type = T_ErrorSaveContext};

	saved.details_wanted = true;
	if (InputFunctionCallSafe(function, text, ioparam, typmod, (Node *) &saved, value))
		return true;
	*sqlerrcode = saved.error_data->sqlerrcode;
	*message = saved.error_data->message;
	*detail = saved.error_data->detail;
	return false;
}
#else
#define mill_input_safely(function, text, ioparam, typmod, value, sqlerrcode, message, detail)     \
	(*(value) = InputFunctionCall(function, text, ioparam, typmod), true)
#endif

#endif
