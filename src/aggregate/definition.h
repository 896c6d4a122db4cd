/*
 * definition.h
 *		What the query of a continuous aggregate computes, and the SQL for it.
 *
 * All of this is derived from the aggregate's definition, a real view; nothing
 * of it is stored.  The same definition gives the same columns in the same order.
 */
#ifndef MILL_AGGREGATE_DEFINITION_H
#define MILL_AGGREGATE_DEFINITION_H

#include "nodes/parsenodes.h"

typedef enum MillWindowKind
{
	MILL_WINDOW_NONE,
	MILL_WINDOW_TUMBLE,
	MILL_WINDOW_HOP,
	MILL_WINDOW_SESSION
} MillWindowKind;

/* What a change of base rows means for an aggregate; the highest class decides for a view. */
typedef enum MillClass
{
	MILL_INVERTIBLE,  /* added rows are combined, removed ones subtracted */
	MILL_INSERT_ONLY, /* added rows are combined, removed ones make the group stale */
	MILL_RECOMPUTE	  /* any change makes the group stale */
} MillClass;

/* An expression with what a column for it needs. */
typedef struct MillTypedExpr
{
	char *name;
	Node *expr;
	Oid type;
	int32 typmod;
	Oid collation;
} MillTypedExpr;

/* A column of state and delta table that is part of a partial result. */
typedef struct MillAccumulator
{
	MillTypedExpr column; /* without expr */
	char *partial;		  /* over rows */
	char *combine;		  /* over stored columns of the same name */
	char *zero;			  /* neutral when added; NULL if not invertible */
	bool comparable;	  /* "<> zero" holds if there is anything in it */
	bool extreme;		  /* of max or min */
} MillAccumulator;

/* An aggregate call of the view; equal calls share one measure. */
typedef struct MillMeasure
{
	Aggref *call;
	MillTypedExpr column; /* of the final value */
	MillClass class;
	List *accumulators; /* MillAccumulator */
	char *final;		/* over combined accumulators */
} MillMeasure;

typedef struct MillDefinition
{
	Query *query; /* the user's, names resolved; over the base table (see flatten.c) */
	Oid view;	  /* what it was read from */

	/* the table whose rows are aggregated */
	Oid base;
	Query *base_level; /* the query level that has it in FROM: query, or a session's inner one */
	int base_rti;
	List *base_columns; /* names of the columns that the query needs */
	bool has_lookups;

	/* the window */
	MillWindowKind window;
	int window_rti; /* of the function, or of a session's inner query */
	Oid time_type;
	char *time_column;	/* column of base that is the event time; NULL if an expression */
	Node *time;			/* the event time, at base_level */
	Node *size, *slide; /* constants; a session's gap is its size */
	Node *pane;			/* the width of panes */
	List *alignment;	/* origin and time zone, constants */
	bool by_window;		/* a hop kept by window instead of by pane */
	char *pane_args;	/* ", size, origin, time_zone" of panes as text */
	char *window_args;	/* the same of windows */
	char *hop_args;		/* ", slide, size, origin, time_zone" */
	char *gap;			/* as text */

	List *keys;			/* MillTypedExpr, without pane */
	bool made_key;		/* the query has no key; there is a constant one */
	bool ungrouped;		/* no GROUP BY: always one row */
	List *arguments;	/* MillTypedExpr: inputs of aggregates */
	List *accumulators; /* MillAccumulator */
	List *measures;		/* MillMeasure */
	MillClass class;
	bool by_extremes; /* all that cannot be subtracted are extremes: removals are stored too */
} MillDefinition;

/* parts.c */
extern _Noreturn void mill_refuse(const char *what, const char *hint);
extern MillTypedExpr *mill_typed_column(const char *name, Node *expr);
extern MillTypedExpr *mill_add_argument(MillDefinition *d, Node *expr);
extern bool mill_is_key(const MillDefinition *d, const char *name);
extern int mill_leftmost_table(const Query *level, Node *node);
extern MillWindowKind mill_window_of_entry(const RangeTblEntry *rte, FuncExpr **call);
extern List *mill_window_arguments(const FuncExpr *call);
extern bool mill_equal_is_same(Oid type, Oid collation);
extern bool mill_is_one_of(const char *name, const char *const *names);
extern bool mill_is_core_function(Oid function, const char *const *names);

/* check.c */
extern void mill_check_view(Oid view);
extern void mill_check_keys(Query *level);
extern void mill_check_query(const MillDefinition *d);
extern void mill_check_definition(const MillDefinition *d);
extern void mill_check_base(Oid base);

/* definition.c */
extern MillDefinition *mill_definition(Oid view);
extern MillDefinition *mill_definition_of(Oid view);

/* flatten.c */
extern int mill_find_inner(const Query *query, Oid *definition);
extern void mill_check_inner(const MillDefinition *d, int rti);
extern Query *mill_flatten(Query *outer, int rti, const MillDefinition *definition);

/* measure.c */
extern void mill_add_measures(MillDefinition *d);

/* deparse.c */
extern char *mill_constant(Node *node);
extern char *mill_gap(Oid time_type, const Const *gap);
extern char *mill_expression_text(Query *level, Node *expr);
extern char *mill_over_columns(List *columns, Node *expr);
extern char *mill_rows(const MillDefinition *d);
extern char *mill_outer(const MillDefinition *d, const char *groups);
extern char *mill_equality(const char *left, const char *right, Oid type);

#endif
