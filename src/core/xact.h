/*
 * xact.h
 *		Begins and ends all transactions of workers, and wakes processes at commit.
 */
#ifndef MILL_CORE_XACT_H
#define MILL_CORE_XACT_H

#include "utils/elog.h"
#include "utils/palloc.h"

extern void mill_xact_begin(const char *activity);
extern void mill_xact_commit(void);
extern void mill_xact_abort(void);

/*
 * Call a function in a subtransaction, whose effects are kept only if it succeeds
 * and keep is true.  Returns the error that it raised, allocated in the given
 * context, or NULL.  The caller decides on every error: ReThrowError passes it on.
 */
extern ErrorData *mill_try(void (*function)(void *arg), void *arg, MemoryContext errors, bool keep);

extern void mill_xact_init(void);
extern void mill_wake_all_managers_at_commit(void);
extern void mill_wake_launcher_at_commit(void);
extern void mill_wake_manager_at_commit(void);

#endif
