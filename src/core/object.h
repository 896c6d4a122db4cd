/*
 * object.h
 *		What users name and own, a row of a room's table: pipelines and jobs.
 *
 * Such a table (MillRoom.table) has columns id, name, owner, mark, enabled,
 * pause_reason, state_at, version, armed_system and armed_database.  All names
 * are of one space, as those of relations are, so that mill.pause('x') means one
 * thing.  All functions need SPI.
 */
#ifndef MILL_CORE_OBJECT_H
#define MILL_CORE_OBJECT_H

#include "core/room.h"
#include "fmgr.h"

/* ---- who may make one, and how it is called ---- */

extern void mill_check_creator(const MillRoom *room);
extern void mill_check_new_name(const MillRoom *room, const char *name);

/*
 * PostgreSQL knows of owners by objects only.  So each of ours has a mark, an
 * empty type that its owner owns: it lets DROP ROLE be refused, REASSIGN OWNED
 * give the object to another role, and DROP OWNED drop it.
 */
extern void mill_mark_create(const MillRoom *room, int64 id, const char *name);

/* The row goes, and with it its mark. */
extern void mill_object_drop(const MillRoom *room, int64 id);

/* Manager only: owners follow marks that REASSIGN OWNED gave to others. */
extern void mill_marks_follow_owners(const MillRoom *room);

/* ---- arguments of SQL functions ---- */

extern char *mill_text_argument(FunctionCallInfo fcinfo, int number);
extern void mill_copy_arguments(FunctionCallInfo fcinfo, int first, int count, Datum *values,
								char *nulls);

/* Is a value one of a NULL-terminated list of words?  NULL passes. */
extern void mill_check_word(const char *argument, const char *value, const char *const *words);
extern void mill_check_range(FunctionCallInfo fcinfo, int number, const char *name, int low,
							 int high);

#endif
