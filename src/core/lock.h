/*
 * lock.h
 *		Locking relations, and saying who blocks us.
 */
#ifndef MILL_CORE_LOCK_H
#define MILL_CORE_LOCK_H

#include "storage/lockdefs.h"

/*
 * As LockRelationOid.  While waiting, a worker shows who holds the lock in the
 * reason of its worker state, unless that shows an error; and the error of a
 * lock timeout has it as detail.
 */
extern void mill_lock_relation(Oid relid, LOCKMODE mode);

#endif
