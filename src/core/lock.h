/*
 * lock.h
 *		Locks on relations, and whom one waits for.
 */
#ifndef MILL_CORE_LOCK_H
#define MILL_CORE_LOCK_H

#include "storage/lockdefs.h"

/*
 * As LockRelationOid.  Who has to wait says for whom: a worker in the reason of
 * its state, unless that tells of a failure; and the error of a lock timeout in
 * its detail.
 */
extern void mill_lock_relation(Oid relid, LOCKMODE mode);

#endif
