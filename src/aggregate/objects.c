/*
 * objects.c
 *		The relations that make a view live.
 *
 *	mill_data."v$def"		definition: the user's query as a real view, so that Postgres
 *							tracks what it depends on, and a dump has its text
 *	mill_data."v$state"		state table: merged partial results, one row for each group
 *	mill_data."v$delta"		delta table: partial results of single statements, not folded yet
 *	v itself, whose query is replaced by one over state and delta table or, while
 *	the aggregate is not live, over the definition
 *
 * They are ordinary objects of the view's owner, not members of the extension:
 * pg_dump dumps them.  They are created as the extension's owner, who has CREATE on
 * mill_data, after the user's rights were checked.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/resowner.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "core/catalog.h"
#include "core/compat.h"
#include "core/xact.h"

#include "aggregate/internal.h"

/* "<view>$<what>", or with the view's schema in front if that is taken. */
static char *
choose_name(Oid view, const char *what)
{
	Oid schema = get_namespace_oid("mill_data", false);
	char *stem = get_rel_name(view);

	for (int try = 0;; try++)
	{
		int limit = NAMEDATALEN - 1 - (int) strlen(what) - 1;
		char *name;

		stem[pg_mbcliplen(stem, (int) strlen(stem), limit)] = '\0';
		name = psprintf("%s$%s", stem, what);
		if (!OidIsValid(get_relname_relid(name, schema)))
			return name;
		if (try > 100)
			elog(ERROR, "could not find a name for %s", what);
		stem = try == 0 ? psprintf("%s.%s", get_namespace_name(get_rel_namespace(view)),
								   get_rel_name(view))
						: psprintf("%d.%s", try, get_rel_name(view));
	}
}

static Oid
created_relation(const char *name)
{
	return get_relname_relid(name, get_namespace_oid("mill_data", false));
}

static void
change_owner(const char *kind, Oid relid, Oid owner)
{
	mill_execute_ddl(psprintf("ALTER %s %s OWNER TO %s", kind, mill_relation_name(relid),
							  quote_identifier(GetUserNameFromId(owner, false))));
}

/* Create the state table's indexes: on the group, on its hash, and one for each key. */
static void
create_indexes(const MillAggregate *a, const MillDefinition *d)
{
	const char *state = mill_relation_name(a->state);
	const char *time = d->window == MILL_WINDOW_SESSION ? ", first_at" : "";
	ListCell *lc;

	mill_execute_ddl(psprintf("CREATE UNIQUE INDEX ON %s (%s%s) NULLS NOT DISTINCT", state,
							  mill_sql_group(d, ""), time));
	mill_execute_ddl(psprintf("CREATE INDEX ON %s (key_hash)", state));
	if (!a->with_indexes || d->window == MILL_WINDOW_NONE || d->window == MILL_WINDOW_SESSION)
		return;
	foreach (lc, d->keys)
		mill_execute_ddl(psprintf("CREATE INDEX ON %s (%s, pane)", state,
								  quote_identifier(((MillTypedExpr *) lfirst(lc))->name)));
}

/* Texts for an aggregate's objects, deparsed as its owner, all names qualified. */
typedef struct Texts
{
	const MillAggregate *aggregate;
	const MillDefinition *d;
	char *query;
	char *columns;
} Texts;

static void
write_columns(void *arg)
{
	Texts *texts = arg;

	texts->columns = mill_sql_columns(texts->d);
}

typedef struct ViewQuery
{
	Oid view;
	char *text;
} ViewQuery;

static void
write_query(void *arg)
{
	ViewQuery *query = arg;
	Relation rel = table_open(query->view, AccessShareLock);

	query->text = pg_get_querydef(copyObject(get_view_query(rel)), false);
	table_close(rel, NoLock);
}

/* The query of a view as it is, also where it would be refused now. */
char *
mill_query_of_view(Oid view)
{
	ViewQuery query = {view, NULL};

	mill_as_owner(mill_relation_owner(view), write_query, &query);
	return query.text;
}

/*
 * Create definition, state table and delta table of an aggregate whose view is
 * set, and set their oids in it.  Returns what the definition computes: the view's query
 * may say the same otherwise, such as a key twice.
 */
MillDefinition *
mill_objects_create(MillAggregate *a)
{
	char *names[3] = {choose_name(a->view, "def"), choose_name(a->view, "state"),
					  choose_name(a->view, "delta")};
	Texts texts = {.aggregate = a};
	MillDefinition *d;

	mill_execute_ddl(psprintf("CREATE VIEW mill_data.%s AS %s", quote_identifier(names[0]),
							  mill_query_of_view(a->view)));
	CommandCounterIncrement();
	a->definition = created_relation(names[0]);
	change_owner("VIEW", a->definition, a->owner);
	CommandCounterIncrement();
	texts.d = d = mill_definition_of(a->definition);
	mill_as_owner(a->owner, write_columns, &texts);
	/* fillfactor: frequently updated groups get HOT updates */
	mill_execute_ddl(psprintf("CREATE TABLE mill_data.%s (%s) WITH (fillfactor = 70)",
							  quote_identifier(names[1]), texts.columns));
	mill_execute_ddl(
		psprintf("CREATE TABLE mill_data.%s (%s, stale boolean NOT NULL DEFAULT false, removed boolean NOT NULL DEFAULT false, written_at timestamptz NOT NULL DEFAULT now())"
				 " WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0,"
				 " autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0)",
				 quote_identifier(names[2]), texts.columns));
	CommandCounterIncrement();
	a->state = created_relation(names[1]);
	a->delta = created_relation(names[2]);
	create_indexes(a, d);
	change_owner("TABLE", a->state, a->owner);
	change_owner("TABLE", a->delta, a->owner);
	return d;
}

/* Create the table of what is kept of partitions that are gone. */
Oid
mill_history_create(const MillAggregate *a, const MillDefinition *d)
{
	char *name = choose_name(a->view, "history");
	Texts texts = {.aggregate = a, .d = d};
	Oid history;

	mill_as_owner(a->owner, write_columns, &texts);
	mill_execute_ddl(psprintf("CREATE TABLE mill_data.%s (%s, of_table oid NOT NULL)",
							  quote_identifier(name), texts.columns));
	CommandCounterIncrement();
	history = created_relation(name);
	if (d->window != MILL_WINDOW_NONE)
		mill_execute_ddl(psprintf("CREATE INDEX ON mill_data.%s (pane)", quote_identifier(name)));
	change_owner("TABLE", history, a->owner);
	return history;
}

/* Create what a copy of an aggregate's tables may lack: indexes. */
void
mill_objects_complete(const MillAggregate *a, const MillDefinition *d)
{
	if (!mill_has_unique_index(a->state))
		create_indexes(a, d);
}

/* Drop what mill_objects_create made, as far as it still exists. */
void
mill_objects_drop(const MillAggregate *a)
{
	if (get_rel_name(a->definition))
		mill_execute_ddl(psprintf("DROP VIEW %s", mill_relation_name(a->definition)));
	if (get_rel_name(a->state))
		mill_execute_ddl(psprintf("DROP TABLE %s", mill_relation_name(a->state)));
	if (get_rel_name(a->delta))
		mill_execute_ddl(psprintf("DROP TABLE %s", mill_relation_name(a->delta)));
	if (OidIsValid(a->history) && get_rel_name(a->history))
		mill_execute_ddl(psprintf("DROP TABLE %s", mill_relation_name(a->history)));
}

/* Name an aggregate's objects after another view, which takes it over. */
void
mill_objects_rename(const MillAggregate *a, Oid view)
{
	mill_execute_ddl(psprintf("ALTER VIEW %s RENAME TO %s", mill_relation_name(a->definition),
							  quote_identifier(choose_name(view, "def"))));
	mill_execute_ddl(psprintf("ALTER TABLE %s RENAME TO %s", mill_relation_name(a->state),
							  quote_identifier(choose_name(view, "state"))));
	mill_execute_ddl(psprintf("ALTER TABLE %s RENAME TO %s", mill_relation_name(a->delta),
							  quote_identifier(choose_name(view, "delta"))));
	CommandCounterIncrement();
}

/* The view's WITH (...), which CREATE OR REPLACE VIEW would drop. */
static char *
view_options(Oid view)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(view));
	StringInfoData text;
	ListCell *lc;
	bool isnull;
	Datum options;

	initStringInfo(&text);
	options = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	if (!isnull)
	{
		foreach (lc, untransformRelOptions(options))
		{
			DefElem *option = lfirst(lc);

			appendStringInfo(&text, "%s%s = %s", text.len ? ", " : " WITH (",
							 quote_identifier(option->defname),
							 option->arg ? quote_literal_cstr(strVal(option->arg)) : "true");
		}
		appendStringInfoChar(&text, ')');
	}
	ReleaseSysCache(tuple);
	return text.data;
}

/* Replace a view's query by another with the same columns; all else is kept. */
void
mill_view_replace(Oid view, const char *query)
{
	StringInfoData names;
	Relation rel = table_open(view, AccessShareLock);

	/* the view's current column names, which may differ from the query's */
	initStringInfo(&names);
	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
		appendStringInfo(&names, "%s%s", i ? ", " : "",
						 quote_identifier(
							 NameStr(TupleDescAttr(RelationGetDescr(rel), i)->attname)));
	table_close(rel, NoLock);

	mill_execute_ddl(psprintf("CREATE OR REPLACE VIEW %s (%s)%s AS %s", mill_relation_name(view),
							  names.data, view_options(view), query));
}

static void
write_view_query(void *arg)
{
	Texts *texts = arg;

	texts->query = mill_sql_view(texts->d, mill_aggregate_tables(texts->aggregate));
}

/* Let a view read an aggregate, its own or one that it takes over, whenever that is live. */
void
mill_view_let_read(Oid view, const MillAggregate *a, const MillDefinition *d)
{
	Texts texts = {.aggregate = a, .d = d};

	mill_as_owner(a->owner, write_view_query, &texts);
	mill_view_replace(view, texts.query);
}

/* Invalidate what all sessions have cached about the aggregates of a table. */
void
mill_invalidate_base(Oid base)
{
	ListCell *lc;

	foreach (lc, find_all_inheritors(base, NoLock, NULL))
		CacheInvalidateRelcacheByRelid(lfirst_oid(lc));
}

typedef struct BaseAndView
{
	Oid base;
	LOCKMODE mode;
	Oid view;
} BaseAndView;

static void
lock_both(void *arg)
{
	BaseAndView *both = arg;

	/* the base table first, so that no partition is added after we listed them */
	LockRelationOid(both->base, both->mode);
	(void) find_all_inheritors(both->base, both->mode, NULL);
	if (OidIsValid(both->view))
		LockRelationOid(both->view, AccessExclusiveLock);
}

/*
 * Try to get the locks, waiting half a second for each; false, holding none,
 * if that was not enough.  Others wait longer (deadlock_timeout) before they
 * look for a deadlock, so nobody gets a deadlock error because of us.
 */
static bool
try_lock_base_and_view(Oid base, LOCKMODE mode, Oid view)
{
	BaseAndView both = {base, mode, view};
	int patience = LockTimeout > 0 ? Min(LockTimeout, 500) : 500;
	int level = NewGUCNestLevel();
	ErrorData *error;

	(void) set_config_option("lock_timeout", psprintf("%d", patience), PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	error = mill_try(lock_both, &both, CurrentMemoryContext, true);
	if (error && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	AtEOXact_GUC(false, level);
	return error == NULL;
}

/* Try once to keep writers off the base table, after those under way. */
bool
mill_try_lock_base(Oid base)
{
	return try_lock_base_and_view(base, ShareRowExclusiveLock, InvalidOid);
}

/*
 * Wait until no transaction that wrote to the base table or read the view, if one is
 * given, is running, and block new ones until we commit.  While we wait, new ones queue
 * behind us only for half a second, then run for a second before we try again.  The
 * user's lock_timeout ends this, too.
 */
void
mill_lock_base_and_view(Oid base, LOCKMODE mode, Oid view)
{
	TimestampTz began = GetCurrentTimestamp();

	LockRelationOid(base, AccessShareLock);
	while (!try_lock_base_and_view(base, mode, view))
	{
		if (LockTimeout > 0 && TimestampDifferenceExceeds(began, GetCurrentTimestamp(), LockTimeout))
			ereport(ERROR, (errcode(ERRCODE_LOCK_NOT_AVAILABLE),
							errmsg("canceling statement due to lock timeout")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000,
						 MILL_WAIT_EVENT);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * The aggregate of a view that the user owns, with its lock held, and before it that of its
 * base table, which keeps others off until the end of the transaction.
 */
MillAggregate *
mill_aggregate_lock_keeping(Oid view, MillKeepOff off)
{
	MillAggregate *a = mill_aggregate_of_view(view, false);

	mill_aggregate_require_owner(a);
	if (off == MILL_NOBODY_OFF)
		LockRelationOid(a->base, AccessShareLock);
	else
		mill_lock_base_and_view(a->base,
								off == MILL_WRITERS_OFF ? ShareRowExclusiveLock
														: AccessExclusiveLock,
								off == MILL_WRITERS_OFF ? InvalidOid : a->view);
	mill_aggregate_lock(a->id, true);
	/* it may have changed while we waited */
	return mill_aggregate_of_view(view, false);
}
