/*
 * lock.c
 *		Locking relations, and saying who blocks us.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/catalog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "utils/lsyscache.h"

#include "core/compat.h"
#include "core/lock.h"
#include "core/slot.h"

/* Describe a process that holds a lock conflicting with this one; the first if several. */
static char *
describe_holder(Oid relid, LOCKMODE mode)
{
	LOCKTAG tag;
	VirtualTransactionId *holders;
	PGPROC *holder = NULL;
	char *name = get_rel_name(relid);
	char *relation = name ? psprintf("relation \"%s\"", name) : pstrdup("a relation");

	SET_LOCKTAG_RELATION(tag, IsSharedRelation(relid) ? InvalidOid : MyDatabaseId, relid);
	holders = GetLockConflicts(&tag, mode, NULL);
	if (!VirtualTransactionIdIsValid(holders[0]))
		return psprintf("another process asked for a lock on %s before", relation);
	holder = mill_holder_process(holders[0]);
	return holder && holder->pid != 0
			   ? psprintf("process %d holds a lock on %s", holder->pid, relation)
			   : psprintf("a prepared transaction holds a lock on %s", relation);
}

/* Error context while we wait: names the lock and who holds it. */
static void
name_holder(void *arg)
{
	if (geterrcode() == ERRCODE_LOCK_NOT_AVAILABLE)
		errdetail_internal("%s", (const char *) arg);
}

static void
report_waiting(const char *holder)
{
	MillSlotInfo slot;

	if (mill_my_slot < 0)
		return;
	(void) mill_slot_get(mill_my_slot, &slot);
	if (slot.state != MILL_STATE_FAILED && slot.state != MILL_STATE_DEGRADED)
		mill_slot_report(mill_my_slot, MILL_STATE_RUNNING, psprintf("waiting: %s", holder));
}

void
mill_lock_relation(Oid relid, LOCKMODE mode)
{
	ErrorContextCallback callback;
	char *holder;

	Assert(IsTransactionState() && OidIsValid(relid));
	if (ConditionalLockRelationOid(relid, mode))
		return;
	holder = describe_holder(relid, mode);
	report_waiting(holder);
	callback.callback = name_holder;
	callback.arg = holder;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	LockRelationOid(relid, mode);
	error_context_stack = callback.previous;
}
