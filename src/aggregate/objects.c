/*
 * objects.c
 *		The relations and triggers that make a view live.
 *
 *	mill_data."v$def"		the user's query as a real view: Postgres tracks what it
 *							depends on, and a dump keeps its text
 *	mill_data."v$state"		merged partial results, one row for each group
 *	mill_data."v$delta"		partial results of single statements, appended by writers
 *	triggers of the base table and its partitions, shared by all its aggregates
 *	v itself, replaced by a query over state and delta
 *
 * They are ordinary objects of the view's owner, not members of the extension:
 * pg_dump writes them out, data first and triggers last, so that a restore
 * counts nothing twice.  All are made by the extension's owner, who may create
 * in mill_data, after the user's rights were checked.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
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

#include "aggregate/internal.h"

/* "<view>$<what>", or with the view's schema in front if that is taken. */
static char *
choose_name(Oid view, const char *what)
{
	Oid schema = get_namespace_oid("mill_data", false);
	char *stem = get_rel_name(view);

	for (int try = 0;; try++)
	{
		int room = NAMEDATALEN - 1 - (int) strlen(what) - 1;
		char *name;

		stem[pg_mbcliplen(stem, (int) strlen(stem), room)] = '\0';
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
created(const char *name)
{
	return get_relname_relid(name, get_namespace_oid("mill_data", false));
}

static void
give_to(const char *kind, Oid relid, Oid owner)
{
	mill_execute_ddl(psprintf("ALTER %s %s OWNER TO %s", kind, mill_relation_name(relid),
							  quote_identifier(GetUserNameFromId(owner, false))));
}

/* An index with a key on each column that readers select groups by. */
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

/* What an aggregate's objects are made of, written by its owner with all names qualified. */
typedef struct Texts
{
	const MillAggregate *aggregate;
	const MillDefinition *d;
	char *query;
	char *columns;
} Texts;

static void
write_texts(void *arg)
{
	Texts *texts = arg;

	texts->query = pg_get_querydef(copyObject(texts->d->query), false);
	texts->columns = mill_sql_columns(texts->d);
}

/*
 * Make definition, state and delta of an aggregate whose view is set, and put
 * them down in it.
 */
void
mill_objects_create(MillAggregate *a, const MillDefinition *d)
{
	char *names[3] = {choose_name(a->view, "def"), choose_name(a->view, "state"),
					  choose_name(a->view, "delta")};
	Texts texts = {.aggregate = a, .d = d};
	const char *columns;

	mill_as_owner(a->owner, write_texts, &texts);
	columns = texts.columns;
	mill_execute_ddl(
		psprintf("CREATE VIEW mill_data.%s AS %s", quote_identifier(names[0]), texts.query));
	/* Groups that are hot are updated in place, as long as their page has room. */
	mill_execute_ddl(psprintf("CREATE TABLE mill_data.%s (%s) WITH (fillfactor = 70)",
							  quote_identifier(names[1]), columns));
	mill_execute_ddl(
		psprintf("CREATE TABLE mill_data.%s (%s, stale boolean NOT NULL DEFAULT false, written_at timestamptz NOT NULL DEFAULT now())"
				 " WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0,"
				 " autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0)",
				 quote_identifier(names[2]), columns));
	CommandCounterIncrement();
	a->definition = created(names[0]);
	a->state = created(names[1]);
	a->delta = created(names[2]);
	create_indexes(a, d);
	give_to("VIEW", a->definition, a->owner);
	give_to("TABLE", a->state, a->owner);
	give_to("TABLE", a->delta, a->owner);
}

/* Drop what was created, as far as it is still there. */
void
mill_objects_drop(const MillAggregate *a)
{
	if (get_rel_name(a->definition))
		mill_execute_ddl(psprintf("DROP VIEW %s", mill_relation_name(a->definition)));
	if (get_rel_name(a->state))
		mill_execute_ddl(psprintf("DROP TABLE %s", mill_relation_name(a->state)));
	if (get_rel_name(a->delta))
		mill_execute_ddl(psprintf("DROP TABLE %s", mill_relation_name(a->delta)));
}

/* WITH (...) of a view, which CREATE OR REPLACE would forget. */
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

/* Give a view another query with the same columns; all else of it stays. */
void
mill_view_replace(Oid view, const char *query)
{
	StringInfoData names;
	Relation rel = table_open(view, AccessShareLock);

	/* The view's own column names, which may have been changed. */
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
write_live_query(void *arg)
{
	Texts *texts = arg;

	texts->query = mill_sql_view(texts->d, mill_aggregate_tables(texts->aggregate));
}

/* Let a view read the state of an aggregate, its own or one that it takes over. */
void
mill_view_make_live(Oid view, const MillAggregate *a, const MillDefinition *d)
{
	Texts texts = {.aggregate = a, .d = d};

	mill_as_owner(a->owner, write_live_query, &texts);
	mill_view_replace(view, texts.query);
}

/* From here on the view reads the state, which must be complete. */
void
mill_aggregate_go_live(MillAggregate *a, const MillDefinition *d)
{
	mill_view_make_live(a->view, a, d);
	mill_aggregate_set(a->id, true, true, NULL);
	a->live = true;
}

/* Is this trigger of a relation one of ours, and not just one of the same name? */
bool
mill_has_trigger(Oid relid, const char *name)
{
	static MillStatement find =
		{.sql = "SELECT FROM pg_trigger WHERE tgrelid = $1 AND tgname = $2 AND tgfoid = 'mill.maintain_aggregates()'::regprocedure",
		 .nargs = 2,
		 .types = {OIDOID, TEXTOID}};
	Datum values[2] = {ObjectIdGetDatum(relid), CStringGetTextDatum(name)};

	return mill_run(&find, SPI_OK_SELECT, values, NULL) > 0;
}

static void
create_trigger(Oid relid, const char *name, const char *when, const char *tables)
{
	if (!mill_has_trigger(relid, name))
		mill_execute_ddl(
			psprintf("CREATE TRIGGER %s %s ON %s %s EXECUTE FUNCTION mill.maintain_aggregates()",
					 name, when, mill_relation_name(relid), tables));
}

static void
alter_trigger(Oid relid, const char *name, const char *when)
{
	mill_execute_ddl(
		psprintf("ALTER TABLE %s ENABLE %s TRIGGER %s", mill_relation_name(relid), when, name));
}

/*
 * The triggers of one relation: the base table or a partition of it.
 *
 * Statement triggers serve all but replication's apply worker and sessions
 * with session_replication_role = replica, which fire mill_replica for each
 * row instead; partitions inherit that one.  TRUNCATE is the same in both.
 * When a partition is truncated its rows are subtracted before they go.
 */
void
mill_triggers_create_on(Oid relid, bool root)
{
	create_trigger(relid, "mill_insert", "AFTER INSERT",
				   "REFERENCING NEW TABLE AS mill_new FOR EACH STATEMENT");
	create_trigger(relid, "mill_update", "AFTER UPDATE",
				   "REFERENCING OLD TABLE AS mill_old NEW TABLE AS mill_new FOR EACH STATEMENT");
	create_trigger(relid, "mill_delete", "AFTER DELETE",
				   "REFERENCING OLD TABLE AS mill_old FOR EACH STATEMENT");
	create_trigger(relid, "mill_truncate", root ? "AFTER TRUNCATE" : "BEFORE TRUNCATE",
				   "FOR EACH STATEMENT");
	alter_trigger(relid, "mill_truncate", "ALWAYS");
	if (root)
	{
		create_trigger(relid, "mill_replica", "AFTER INSERT OR UPDATE OR DELETE", "FOR EACH ROW");
		alter_trigger(relid, "mill_replica", "REPLICA");
	}
}

void
mill_triggers_create(Oid base)
{
	ListCell *lc;

	foreach (lc, find_all_inheritors(base, NoLock, NULL))
		mill_triggers_create_on(lfirst_oid(lc), lfirst_oid(lc) == base);
}

/* The triggers of one relation; partitions lose their mill_replica with the root's. */
void
mill_triggers_drop_on(Oid relid)
{
	static const char *const names[] = {"mill_insert", "mill_update", "mill_delete",
										"mill_truncate", "mill_replica"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (mill_has_trigger(relid, names[i]) && (i < 4 || !get_rel_relispartition(relid)))
			mill_execute_ddl(psprintf("DROP TRIGGER %s ON %s", names[i], mill_relation_name(relid)));
	}
}

void
mill_triggers_drop(Oid base)
{
	ListCell *lc;

	foreach (lc, find_all_inheritors(base, NoLock, NULL))
		mill_triggers_drop_on(lfirst_oid(lc));
}

/* Make all sessions look anew at which aggregates a table has. */
void
mill_base_changed(Oid base)
{
	ListCell *lc;

	foreach (lc, find_all_inheritors(base, NoLock, NULL))
		CacheInvalidateRelcacheByRelid(lfirst_oid(lc));
}

/*
 * Queue for the locks, for half a second at each; false, and none of them, if
 * that was not enough.  It is less than others wait before they look for a
 * deadlock, so that none of them is told of one with us.
 */
static bool
lock_for_a_moment(Oid base, Oid view)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool locked = true;
	int level = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", "500ms", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		/* The base first: from then on it gets no more partitions. */
		LockRelationOid(base, ShareRowExclusiveLock);
		(void) find_all_inheritors(base, ShareRowExclusiveLock, NULL);
		LockRelationOid(view, AccessExclusiveLock);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
		locked = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	AtEOXact_GUC(false, level);
	return locked;
}

/*
 * Wait until no transaction that writes to the base table or has read the view
 * is running, and keep new ones out until we commit.  Those who come meanwhile
 * queue behind us for a moment only, then have a second for themselves.
 */
void
mill_lock_base_and_view(Oid base, Oid view)
{
	LockRelationOid(base, AccessShareLock);
	while (!lock_for_a_moment(base, view))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 1000,
						 MILL_WAIT_EVENT);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
