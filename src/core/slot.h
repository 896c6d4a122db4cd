/*
 * slot.h
 *		Slots in shared memory: which workers are wanted, run, wait or back off.
 *
 * All functions acquire and release the lock themselves; slots are identified by
 * index.  A copy may be out of date when it is returned.
 */
#ifndef MILL_CORE_SLOT_H
#define MILL_CORE_SLOT_H

#include "datatype/timestamp.h"

#define MILL_SLOTS 1024
#define MILL_REASON_SIZE 512

/* The room that a slot's work belongs to, by number; 0 for managers.  See room.h. */
typedef int MillKind;
#define MILL_KIND_MANAGER 0

typedef enum MillState
{
	MILL_STATE_STARTING,
	MILL_STATE_RUNNING,
	MILL_STATE_IDLE,
	MILL_STATE_DEGRADED,
	MILL_STATE_FAILED,
	MILL_STATE_WAITING
} MillState;

/* A copy of a slot. */
typedef struct MillSlotInfo
{
	/* set by the process that allocates the slot: launcher for managers, else manager */
	MillKind kind;
	Oid database;
	Oid owner;		 /* role the worker connects as */
	int64 object_id; /* the room's object: a pipeline's id, the role of a fold worker */
	int worker_no;	 /* 0 .. workers - 1 */
	int64 version;	 /* of the object's row when the worker was started */
	bool launched;	 /* registered, and not known to have ended */
	TimestampTz launched_at;
	bool stop;				   /* asked to end after its batch */
	TimestampTz waiting_since; /* waits for a free background worker; 0: does not */

	/* set by the worker, or for it */
	int pid;				   /* 0: not attached */
	bool absent;			   /* manager: the database lacks the extension */
	bool finished;			   /* the worker ended normally */
	TimestampTz dormant_until; /* had nothing to do: not started before, unless pending */
	bool pending;			   /* there is new work since the worker last checked */
	int failures;			   /* in a row, since the last success */
	TimestampTz retry_at;	   /* 0: at once */
	MillState state;
	TimestampTz since;
	char reason[MILL_REASON_SIZE];
} MillSlotInfo;

/* ---- the server ---- */

extern void mill_shmem_init(void);
extern bool mill_has_workers(void);		/* the library is preloaded */
extern void mill_require_preload(void); /* raises an error if not */
extern const char *mill_state_name(MillState state);

/* ---- launcher and managers ---- */

extern int mill_slots_used(void); /* slots from this index on were never allocated */
extern bool mill_slot_get(int slot, MillSlotInfo *info); /* false: not allocated */
extern int mill_slot_allocate(MillKind kind, Oid database, int64 object_id, int worker_no);
extern void mill_slot_free(int slot);
extern void mill_slot_assign(int slot, Oid owner, int64 version); /* for the next worker */
extern bool mill_slot_launch(int slot, const char *function, const char *title);
extern void mill_slot_give_up(int slot);		/* its worker was registered and did not start */
extern void mill_slot_reset_failures(int slot); /* reset the count of failures and the back-off */
extern void mill_slot_stop(int slot, bool now);
extern bool mill_slot_may_launch(int slot);
extern bool mill_slot_wait(int slot, const char *reason);
extern void mill_preempt_worker(Oid database, int except);

extern void mill_launcher_attach(void);
extern uint32 mill_probe_requests(void); /* grows when a database may have the extension */
extern void mill_expect_database_ddl(void);
extern bool mill_database_ddl_expected(void);

/* ---- the worker in a slot ---- */

/* The slot of this process; -1 in other processes. */
extern int mill_my_slot;

extern bool mill_slot_attach(int slot, uint32 generation);
extern void mill_slot_report(int slot, MillState state, const char *reason);
extern void mill_slot_fail(int slot, TimestampTz retry_at, MillState state, const char *reason);
extern void mill_slot_succeed(int slot);
extern void mill_slot_sleep(int slot, TimestampTz until);
extern bool mill_slot_take_pending(int slot);
extern bool mill_slot_others_wait(int slot);
extern void mill_slot_finish(int slot);
extern void mill_slot_set_absent(int slot);

/* ---- wake-ups ---- */

extern void mill_wake_workers(MillKind kind, Oid database);
extern void mill_wake_launcher(void);
extern void mill_wake_manager(Oid database);

#endif
