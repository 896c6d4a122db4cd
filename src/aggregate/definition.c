/*
 * definition.c
 *		Reads a view's query: its base table, window, keys and aggregates.
 *
 * Runs in any process, in a transaction, as the view's owner, with a safe
 * search_path.  It reads the query tree of the view's rule, so renamed tables
 * and columns appear with their new names.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/compat.h"

#include "aggregate/definition.h"
#include "window/window.h"

/* Collect the columns that an expression uses, resolving join aliases. */
typedef struct ColumnSearch
{
	Query *level;
	List *vars;
} ColumnSearch;

static bool
find_columns(Node *node, void *context)
{
	ColumnSearch *search = context;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;
		RangeTblEntry *rte;

		if (var->varlevelsup != 0)
			return false;
		rte = rt_fetch(var->varno, search->level->rtable);
		if (rte->rtekind == RTE_JOIN && var->varattno > 0)
			return find_columns(list_nth(rte->joinaliasvars, var->varattno - 1), search);
		search->vars = lappend(search->vars, var);
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_columns, search, QTW_IGNORE_JOINALIASES);
	return expression_tree_walker(node, find_columns, search);
}

static List *
columns_of(Query *level, Node *node)
{
	ColumnSearch search = {level, NIL};

	find_columns(node, &search);
	return search.vars;
}

/* A window, or the query that finds sessions, is used by its columns alone. */
static void
refuse_whole_rows(const MillDefinition *d)
{
	ListCell *lc;

	foreach (lc, columns_of(d->query, (Node *) d->query))
	{
		Var *var = lfirst(lc);

		if (d->window != MILL_WINDOW_NONE && (int) var->varno == d->window_rti && var->varattno <= 0)
			mill_refuse("a whole row of a window or of the query that finds the sessions",
						"Name the columns that the view needs.");
	}
}

/* The one range table entry that the event time's columns belong to. */
static int
base_of_time(const MillDefinition *d)
{
	int rti = 0;
	ListCell *lc;

	foreach (lc, columns_of(d->base_level, d->time))
	{
		Var *var = lfirst(lc);

		if (rti != 0 && rti != var->varno)
			mill_refuse("an event time that comes from two tables",
						"The time of a window must be computed from columns of one table.");
		rti = var->varno;
	}
	if (rti == 0)
		mill_refuse("an event time without a column",
					"The first argument of the window must be a column of the base table.");
	return rti;
}

static Node *
constant_argument(Node *node, const char *what)
{
	if (!IsA(node, Const))
		mill_refuse(psprintf("a window whose %s is not a constant", what),
					"Write the width as a literal, for example '5 minutes'.");
	return node;
}

/* A day or a month needs a zone of its own, or the writer's session would decide. */
static void
check_zone(const MillDefinition *d)
{
	Const *zone = d->time_type == TIMESTAMPTZOID ? llast(d->alignment) : NULL;

	if (zone == NULL || !zone->constisnull)
		return;
	if (mill_width_kind(DatumGetIntervalP(((Const *) d->size)->constvalue)) != MILL_WIDTH_FIXED)
		mill_refuse("a window of days or months without a time zone",
					"Say where the day begins: time_zone => 'Europe/Berlin'; or count hours: '24 hours'.");
}

static void
read_window_function(MillDefinition *d, const FuncExpr *call)
{
	List *args;
	ListCell *lc;
	int next = d->window == MILL_WINDOW_HOP ? 3 : 2;

	args = mill_window_arguments(call);
	d->time = linitial(args);
	d->time_type = exprType(d->time);
	if (d->window == MILL_WINDOW_HOP)
		d->slide = constant_argument(lsecond(args), "slide");
	d->size = constant_argument(list_nth(args, next - 1), "size");
	for_each_from(lc, args, next)
		d->alignment = lappend(d->alignment, constant_argument(lfirst(lc), "origin or time zone"));
	if (((Const *) d->size)->constisnull || (d->slide && ((Const *) d->slide)->constisnull))
		mill_refuse("a window whose width is null",
					"For example: mill.tumble(clicked_at, '5 minutes').");
	check_zone(d);
}

/* Find mill.tumble or mill.hop in FROM. */
static void
find_window_function(MillDefinition *d)
{
	int rti = 0;
	ListCell *lc;

	foreach (lc, d->query->rtable)
	{
		FuncExpr *call;
		MillWindowKind kind = mill_window_of_entry(lfirst(lc), &call);

		rti++;
		if (kind == MILL_WINDOW_NONE)
			continue;
		if (d->window != MILL_WINDOW_NONE)
			mill_refuse("two windows in one view", "Make a view for each window.");
		d->window = kind;
		d->window_rti = rti;
		read_window_function(d, call);
	}
}

/* Find mill.session_start OVER (...) in an inner query. */
static void
find_session(MillDefinition *d)
{
	RangeTblRef *ref;
	RangeTblEntry *rte;
	ListCell *lc;

	if (list_length(d->query->jointree->fromlist) != 1)
		return;
	ref = linitial(d->query->jointree->fromlist);
	if (!IsA(ref, RangeTblRef))
		return;
	rte = rt_fetch(ref->rtindex, d->query->rtable);
	if (rte->rtekind != RTE_SUBQUERY || !rte->subquery->hasWindowFuncs)
		return;
	foreach (lc, rte->subquery->targetList)
	{
		Node *expr = (Node *) ((TargetEntry *) lfirst(lc))->expr;
		WindowFunc *call;

		if (!OidIsValid(mill_function_of_ours(expr, "session_start")))
			continue;
		call = (WindowFunc *) eval_const_expressions(NULL, expr);
		d->window = MILL_WINDOW_SESSION;
		d->window_rti = ref->rtindex;
		d->base_level = rte->subquery;
		d->time = linitial(call->args);
		d->time_type = exprType(d->time);
		d->size = constant_argument(lsecond(call->args), "gap");
		if (((Const *) d->size)->constisnull)
			mill_refuse("a session whose gap is null",
						"For example: mill.session_start(clicked_at, '30 minutes').");
		return;
	}
}

static void
find_base(MillDefinition *d)
{
	RangeTblEntry *rte;
	ListCell *lc;
	int tables = 0;

	d->base_rti = d->time ? base_of_time(d)
						  : mill_leftmost_table(d->base_level, (Node *) d->base_level->jointree);
	if (d->base_rti == 0)
		mill_refuse("a view without a base table",
					"There is nothing whose changes could be followed.");
	rte = rt_fetch(d->base_rti, d->base_level->rtable);
	if (rte->rtekind != RTE_RELATION)
		mill_refuse("an event time that is not a column of a table",
					"The time of a window must come from the base table itself.");
	d->base = rte->relid;
	mill_check_base(d->base);
	foreach (lc, d->base_level->rtable)
	{
		RangeTblEntry *other = lfirst(lc);

		if (other->rtekind == RTE_RELATION && other->inFromCl)
			tables++;
	}
	d->has_lookups = tables > 1;
}

/* List the columns of the base table that the query needs. */
static void
find_base_columns(MillDefinition *d)
{
	Bitmapset *used = NULL;
	ListCell *lc;
	int attno = -1;

	foreach (lc, columns_of(d->base_level, (Node *) d->base_level))
	{
		Var *var = lfirst(lc);

		if (var->varno != d->base_rti)
			continue;
		if (var->varattno <= 0)
			mill_refuse(var->varattno == 0 ? "a whole row of the base table"
										   : "a system column of the base table",
						"Name the columns that the view needs.");
		used = bms_add_member(used, var->varattno);
	}
	while ((attno = bms_next_member(used, attno)) >= 0)
		d->base_columns = lappend(d->base_columns, get_attname(d->base, attno, false));
	if (d->time && IsA(d->time, Var) && ((Var *) d->time)->varno == d->base_rti)
		d->time_column = get_attname(d->base, ((Var *) d->time)->varattno, false);
}

/* Is this expression a column of the window function, as window_start? */
static bool
is_window_column(const MillDefinition *d, Node *expr)
{
	Var *var = (Var *) expr;
	TargetEntry *entry;

	if (!IsA(expr, Var) || var->varno != d->window_rti || var->varlevelsup != 0)
		return false;
	if (d->window != MILL_WINDOW_SESSION)
		return true;
	entry = list_nth(d->base_level->targetList, var->varattno - 1);
	return OidIsValid(mill_function_of_ours((Node *) entry->expr, "session_start"));
}

/* Names of columns of our own: these, and a1, a2, ... and m1, m2, ... */
static bool
is_reserved(const char *name)
{
	static const char *const ours[] = {"pane",			"row_count",  "stale",		  "removed",
									   "key_hash",		"written_at", "first_at",	  "last_at",
									   "event_time",	"island",	  "window_start", "window_end",
									   "session_start", NULL};

	for (int i = 0; ours[i]; i++)
	{
		if (strcmp(ours[i], name) == 0)
			return true;
	}
	return (name[0] == 'a' || name[0] == 'm') && name[1] != '\0' &&
		   strspn(name + 1, "0123456789") == strlen(name + 1);
}

static void
find_keys(MillDefinition *d)
{
	bool windowed = false;
	ListCell *lc;

	foreach (lc, d->query->groupClause)
	{
		TargetEntry *entry = get_sortgroupclause_tle(lfirst(lc), d->query->targetList);
		const char *name = entry->resname;

		if (d->window_rti && is_window_column(d, (Node *) entry->expr))
		{
			windowed = true;
			continue;
		}
		if (entry->resjunk || name == NULL || is_reserved(name) || mill_is_key(d, name))
			name = psprintf("key_%d", list_length(d->keys) + 1);
		d->keys = lappend(d->keys, mill_typed_column(name, (Node *) entry->expr));
	}
	if (d->window == MILL_WINDOW_SESSION && !windowed)
		mill_refuse("sessions that are not grouped by their start",
					"Add session_start to GROUP BY.");
	if (d->window != MILL_WINDOW_NONE && !windowed)
		mill_refuse("a window that is not grouped by", "Add window_start to GROUP BY.");
	d->ungrouped = d->window == MILL_WINDOW_NONE && d->keys == NIL;
	if (d->ungrouped || (d->window == MILL_WINDOW_SESSION && d->keys == NIL))
	{
		/* a single group of all rows still needs a key column */
		d->made_key = true;
		d->keys = list_make1(
			mill_typed_column("only_group", (Node *) makeConst(INT4OID, -1, InvalidOid, 4,
															   Int32GetDatum(0), false, true)));
	}
}

/* The constant arguments after the time in calls of the window functions, as text. */
static char *
argument_list(Node *first, Node *second, List *rest)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	appendStringInfo(&text, ", %s", mill_constant(first));
	if (second)
		appendStringInfo(&text, ", %s", mill_constant(second));
	foreach (lc, rest)
		appendStringInfo(&text, ", %s", mill_constant(lfirst(lc)));
	return text.data;
}

/* The width of panes: each row falls into exactly one pane. */
static Node *
pane_width(const MillDefinition *d)
{
	Const *width = copyObject((Const *) d->size);

	if (d->time_type == INT8OID)
		width->constvalue = Int64GetDatum(
			mill_pane_width_int(DatumGetInt64(((Const *) d->slide)->constvalue),
								DatumGetInt64(width->constvalue)));
	else
		width->constvalue = IntervalPGetDatum(
			mill_pane_width(DatumGetIntervalP(((Const *) d->slide)->constvalue),
							DatumGetIntervalP(width->constvalue)));
	return (Node *) width;
}

static void
write_window_arguments(MillDefinition *d)
{
	if (d->window == MILL_WINDOW_NONE)
		return;
	if (d->window == MILL_WINDOW_SESSION)
	{
		d->gap = mill_gap(d->time_type, (Const *) d->size);
		return;
	}
	d->window_args = argument_list(d->size, NULL, d->alignment);
	/* states that cannot be combined across panes are kept for each window */
	d->by_window = d->window == MILL_WINDOW_TUMBLE || d->class == MILL_RECOMPUTE;
	d->pane = d->by_window ? d->size : pane_width(d);
	d->pane_args = argument_list(d->pane, NULL, d->alignment);
	if (d->window == MILL_WINDOW_HOP)
		d->hop_args = argument_list(d->slide, d->size, d->alignment);
}

typedef struct Reading
{
	Oid view;
	MillDefinition *d;
} Reading;

static void
read_definition(void *arg)
{
	Reading *reading = arg;

	reading->d = mill_definition(reading->view);
}

/* The definition of a view, read as the view's owner, whoever calls. */
MillDefinition *
mill_definition_of(Oid view)
{
	Reading reading = {view, NULL};

	mill_as_owner(mill_relation_owner(view), read_definition, &reading);
	return reading.d;
}

/*
 * Read what the view's query computes and how it can be kept, or raise an
 * error that names what cannot.  Evaluates constant expressions of the view,
 * so the current user must be its owner (see mill_as_owner).  The result is
 * in the current memory context.
 */
MillDefinition *
mill_definition(Oid view)
{
	MillDefinition *d = palloc0(sizeof(MillDefinition));
	Relation rel = table_open(view, AccessShareLock);
	int inner_rti;
	Oid inner;

	mill_require_owner(rel->rd_rel->relowner);
	d->view = view;
	d->query = copyObject(get_view_query(rel));
	if (!mill_flatten_groups(d->query))
		elog(ERROR, "unexpected range table of view \"%s\"", get_rel_name(view));
	table_close(rel, NoLock);
	inner_rti = mill_find_inner(d->query, &inner);
	if (inner_rti)
	{
		mill_check_inner(d, inner_rti);
		d->query = mill_flatten(d->query, inner_rti, mill_definition(inner));
	}
	AcquireRewriteLocks(d->query, true, false);

	d->base_level = d->query;
	find_window_function(d);
	if (d->window == MILL_WINDOW_NONE)
		find_session(d);
	refuse_whole_rows(d);
	mill_check_query(d);
	find_base(d);
	find_base_columns(d);
	find_keys(d);
	mill_add_measures(d);
	mill_check_definition(d);
	write_window_arguments(d);
	return d;
}
