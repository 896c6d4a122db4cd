/*
 * room.h
 *		A room that has background work, and what it tells core of it.
 *
 * The door of core.  A room registers itself when the library is loaded; the
 * manager of each database then keeps the workers that it wants, as far as
 * there is place.  A worker's main function calls mill_worker_run (worker.h);
 * what it may use besides is in xact.h, catalog.h, clock.h, task.h, settings.h.
 */
#ifndef MILL_CORE_ROOM_H
#define MILL_CORE_ROOM_H

#include "core/slot.h"
#include "nodes/pg_list.h"

/* A worker that a room wants to have. */
typedef struct MillWork
{
	int64 object_id;
	int worker_no;
	Oid owner;
	int64 version;	   /* a worker of another version is replaced */
	const char *title; /* for pg_stat_activity */
} MillWork;

typedef struct MillRoom
{
	/* of its objects, in mill.workers and mill.errors: a value of mill_catalog.object_kind */
	const char *kind;
	const char *function; /* the worker's main function */
	bool preemptible;	  /* may a worker be asked to make place for a waiting one? */
	bool user_settings;	  /* its workers run what a user wrote: with the owner's settings */

	/* Of objects that users name, see object.h. */
	const char *object;
	const char *table;
	void (*resumed)(int64 id);
	void (*armed)(void);

	/* The work (MillWork) that is wanted; in the manager's transaction, connected to SPI. */
	List *(*desired)(void);

	/* When to ask desired() again without a wake-up; DT_NOEND: never.  May be NULL; as desired(). */
	TimestampTz (*next_due)(void);
} MillRoom;

/* From _PG_init; at most so many. */
#define MILL_ROOMS 31
extern void mill_room_register(const MillRoom *room);

/* The number of a registered room, from 1 on; and back, NULL for the managers' kind. */
extern MillKind mill_kind_of(const MillRoom *room);
extern const MillRoom *mill_room_of(MillKind kind);
extern const MillRoom *mill_room_named(const char *kind);
extern int mill_room_count(void);

/* At commit, tell the room's workers in this database that there is work. */
extern void mill_wake_workers_at_commit(const MillRoom *room);

#endif
