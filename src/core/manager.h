/*
 * manager.h
 *		Reconciles what a database wants done with the workers that do it.
 */
#ifndef MILL_CORE_MANAGER_H
#define MILL_CORE_MANAGER_H

#include "core/shmem.h"
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
 * A room that has work: desired() lists it (MillWork), in the manager's
 * transaction, connected to SPI; function is its worker's main function.
 */
typedef struct MillRoom
{
	MillKind kind;
	const char *function;
	List *(*desired)(void);
} MillRoom;

extern void mill_manager_add_room(const MillRoom *room);
extern PGDLLEXPORT _Noreturn void mill_manager_main(Datum arg);

#endif
