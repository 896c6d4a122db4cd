/*
 * room.h
 *		A room that has background work, and what it declares to core.
 *
 * The public header of core.  A room registers itself when the library is loaded; each
 * database's manager runs the workers that it wants, as far as background workers are free.
 * These call mill_worker_run (worker.h).  Also xact.h, catalog.h, clock.h, task.h, settings.h.
 */
#ifndef MILL_CORE_ROOM_H
#define MILL_CORE_ROOM_H

#include "core/slot.h"
#include "nodes/pg_list.h"

/* A wanted worker. */
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
	/* kind of its objects in mill.workers and mill.errors: a value of mill_catalog.object_kind */
	const char *kind;
	const char *function; /* the worker's main function */
	bool preemptible;	  /* may a worker be asked to end when another one waits? */
	bool user_settings;	  /* its workers run users' SQL, with the settings of the owner */

	/* For objects that users name, see object.h; table is NULL in other rooms. */
	const char *object;
	const char *table;
	void (*resumed)(int64 id);
	void (*armed)(bool refill);
	/* The work (MillWork) that is wanted; called in the manager's transaction, connected to SPI. */
	List *(*desired)(void);
	/* May a worker stay though its work is not wanted just now?  Called as desired(); NULL: no. */
	bool (*stays)(int64 object_id, int worker_no);
	/* When to call desired() again without a wake-up; DT_NOEND: never.  Called as it is; or NULL. */
	TimestampTz (*next_due)(void);
	void (*before_command)(Node *command); /* a utility command begins, in any session; or NULL */
} MillRoom;

/* Called from _PG_init, at most MILL_ROOMS times. */
#define MILL_ROOMS 31
extern void mill_room_register(const MillRoom *room);

/* The number of a registered room, from 1; and the room of a number, NULL for MILL_KIND_MANAGER. */
extern MillKind mill_kind_of(const MillRoom *room);
extern const MillRoom *mill_room_of(MillKind kind);
extern const MillRoom *mill_room_named(const char *kind);
extern int mill_room_count(void);

/* At commit, tell the room's workers in this database that there is work. */
extern void mill_wake_workers_at_commit(const MillRoom *room);

#endif
