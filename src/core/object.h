/*
 * object.h
 *		Objects that users name and own, rows of a room's table: pipelines and jobs.
 *
 * Such a table (MillRoom.table) has columns id, name, owner, mark, enabled,
 * pause_reason, state_at, version, armed_system and armed_database.  All share
 * one name space, as relations do, so that mill.pause('x') is unambiguous.  The
 * functions on rows need SPI to be connected.
 */
#ifndef MILL_CORE_OBJECT_H
#define MILL_CORE_OBJECT_H

#include "core/room.h"
#include "datatype/timestamp.h"
#include "fmgr.h"

/* ---- creators, names and marks ---- */

extern void mill_check_creator(const MillRoom *room);
extern void mill_check_new_name(const MillRoom *room, const char *name);

/*
 * PostgreSQL tracks the owners of its own objects only.  So each of ours has a
 * mark, an empty composite type with the same owner: because of it DROP ROLE is
 * refused, REASSIGN OWNED gives the object to another role, and DROP OWNED drops
 * it.
 */
extern void mill_mark_create(const MillRoom *room, int64 id, const char *name);

/* Delete the row and its mark. */
extern void mill_object_drop(const MillRoom *room, int64 id);

/* Manager only: give objects to the owners of their marks, which REASSIGN OWNED may have changed. */
extern void mill_marks_follow_owners(const MillRoom *room);

/* ---- arguments of SQL functions ---- */

extern char *mill_text_argument(FunctionCallInfo fcinfo, int number);
extern void mill_copy_arguments(FunctionCallInfo fcinfo, int first, int count, Datum *values,
								char *nulls);

/* Raise an error unless the value is NULL or one of a NULL-terminated list of words. */
extern void mill_check_word(const char *argument, const char *value, const char *const *words);
/* Length in microseconds, a month for 30 days, for comparing with bounds. */
extern int64 mill_interval_length(const Interval *interval);

extern void mill_check_range(FunctionCallInfo fcinfo, int number, const char *name, int low,
							 int high);

#endif
