/*
 * room.h
 *		A room that has background work, and what it tells core of it.
 *
 * The door of core: a room registers itself when the library is preloaded; the
 * manager of each database then keeps the workers that it wants, as far as
 * there is place.  Core knows nothing else of it.  A worker's main function
 * calls mill_worker_run (worker.h); what it may use besides is in slot.h,
 * xact.h, catalog.h, clock.h and settings.h.
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

/*
 * desired() lists the work (MillWork) in the manager's transaction, connected
 * to SPI; function is the worker's main function.
 */
typedef struct MillRoom
{
	MillKind kind;
	const char *function;
	List *(*desired)(void);
} MillRoom;

/* In the postmaster, while the library is preloaded. */
extern void mill_room_register(const MillRoom *room);

#endif
