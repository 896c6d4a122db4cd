/*
 * slot.h
 *		Slots in shared memory: which workers are wanted, run, wait or rest.
 */
#ifndef MILL_CORE_SLOT_H
#define MILL_CORE_SLOT_H

#include "datatype/timestamp.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#define MILL_SLOTS 1024
#define MILL_REASON_SIZE 512

typedef enum MillKind
{
	MILL_KIND_MANAGER,
	MILL_KIND_PIPELINE,
	MILL_KIND_FOLD
} MillKind;

typedef enum MillState
{
	MILL_STATE_STARTING,
	MILL_STATE_RUNNING,
	MILL_STATE_IDLE,
	MILL_STATE_DEGRADED,
	MILL_STATE_FAILED,
	MILL_STATE_WAITING
} MillState;

typedef struct MillSlot
{
	/* set by who allocates the slot: launcher for managers, else manager */
	bool in_use;
	uint32 generation; /* differs each time the slot is given out */
	MillKind kind;
	Oid database;
	Oid owner;		 /* role the worker connects as */
	int64 object_id; /* pipeline's id, role of a fold worker */
	int worker_no;	 /* 0 .. workers - 1 */
	int64 version;	 /* of the object's row when the slot was made */
	bool stop;		 /* asked to end at the next good moment */
	TimestampTz stopped_at;
	bool launched; /* registered, not yet seen to end */
	TimestampTz launched_at;

	bool pending; /* there is work since the worker last looked */

	/* set by who found no free background worker for it; 0: it does not wait */
	TimestampTz waiting_since;
	TimestampTz waiting_seen; /* last time that it was found so */

	/* set by the worker */
	PGPROC *proc; /* NULL: not attached */
	int pid;
	bool absent;			   /* manager: the database lacks the extension */
	bool finished;			   /* the worker ended as it should */
	TimestampTz dormant_until; /* it had nothing to do: not before, unless work is pending */
	int failures;			   /* in a row, since the last success */
	TimestampTz retry_at;
	MillState state;
	TimestampTz since;
	char reason[MILL_REASON_SIZE];
} MillSlot;

typedef struct MillShared
{
	LWLock *lock;		   /* protects everything here */
	PGPROC *launcher;	   /* NULL while there is none */
	uint32 probe_requests; /* grows when a database may have the extension */
	uint32 next_generation;
	int slots_used; /* no slot from here on was ever given out */
	MillSlot slots[MILL_SLOTS];
} MillShared;

/* NULL unless the library is in shared_preload_libraries. */
extern MillShared *mill_shared;

extern void mill_shmem_init(void);
extern void mill_require_preload(void);

/* All take the lock themselves; slots are named by index. */
extern int mill_slot_allocate(MillKind kind, Oid database, int64 object_id, int worker_no);
extern void mill_slot_free(int slot);
extern bool mill_slot_launch(int slot, const char *function, const char *title);
extern void mill_slot_report(int slot, MillState state, const char *reason);
extern void mill_slot_stop(int slot, bool now);
extern void mill_slot_sleep(int slot, TimestampTz until);
extern bool mill_slot_may_launch(int slot);
extern bool mill_slot_wait(int slot, const char *reason);
extern void mill_make_room(Oid database, int besides);
extern void mill_wake_workers(MillKind kind, Oid database);
extern bool mill_slot_take_pending(int slot);
extern void mill_wake_launcher(void);
extern void mill_wake_manager(Oid database);
extern const char *mill_state_name(MillState state);

#endif
