/*
 * state.h
 *		Partial states: the transition value of any aggregate that has a combine
 *		function, as bytes that can be stored.
 */
#ifndef MILL_AGGREGATE_STATE_H
#define MILL_AGGREGATE_STATE_H

#include "fmgr.h"
#include "lib/stringinfo.h"

/*
 * What the bytes of a state begin with, apart from its checksum.  The names
 * are a polymorphic aggregate's argument types and the collation; not OIDs, for
 * a state survives dump and restore.
 */
typedef struct StateHeader
{
	uint8 flags;
	const char *names; /* each ends with a zero byte */
	int names_length;
} StateHeader;

#define MILL_PARTIAL_INTERNAL 0x01	/* written by the type's own serialize function */
#define MILL_PARTIAL_NULL 0x02		/* the transition value is NULL, though there were rows */
#define MILL_PARTIAL_TYPES 0x04		/* the names hold the argument types */
#define MILL_PARTIAL_COLLATION 0x08 /* then schema and name of the collation */
#define MILL_PARTIAL_DEFAULT_COLLATION 0x10 /* the database's */

/* An aggregate for one call site, with all that its calls need looked up. */
typedef struct StateAggregate
{
	struct StateAggregate *next; /* of the same call site */
	Oid oid;
	StateHeader header; /* what its states begin with; MILL_PARTIAL_NULL is not set */
	bool no_header;		/* made without arguments or a state to know them by */
	Oid collation;
	int argument_count;
	Oid argument_types[FUNC_MAX_ARGS];
	Oid result_type;
	Oid state_type;
	int16 state_length;
	bool state_by_value;
	int16 result_length;
	bool result_by_value;
	Datum initial;
	bool initial_is_null;
	Oid receive_ioparam;
	FunctionCallInfo transition; /* argument 0 is the transition value */
	FunctionCallInfo combine;
	FunctionCallInfo final; /* NULL: the transition value is the result */
	FmgrInfo write;			/* serialize function, or the type's binary output */
	FmgrInfo read;			/* deserialize function, or the type's binary input */
} StateAggregate;

/* state_format.c */
extern bytea *mill_state_write(const StateHeader *header, bool is_null, const char *payload,
							   int length);
extern void mill_state_read(bytea *state, StateHeader *header, StringInfo payload);
extern bool mill_state_same_header(const StateHeader *a, const StateHeader *b);
extern void mill_state_damaged(const char *detail);

/* state_check.c */
extern bool mill_state_has_check(Oid deserialize);
extern void mill_state_check(Oid deserialize, StringInfo payload);

/* state_lookup.c */
extern StateAggregate *mill_state_by_arguments(Oid oid, const Oid *types, int count, Oid collation);
extern StateAggregate *mill_state_by_header(Oid oid, const StateHeader *header);
extern StateAggregate *mill_state_by_result(Oid oid, Oid result_type, Oid collation);

#endif
