/*
 * worker.h
 *		The frame that every worker of an object runs in.
 */
#ifndef MILL_CORE_WORKER_H
#define MILL_CORE_WORKER_H

#include "core/slot.h"

/* The slot of this process; -1 in other processes. */
extern int mill_my_slot;

extern bool mill_worker_attach(Datum arg, bool manager);
extern bool mill_worker_should_stop(void);
extern void mill_worker_succeeded(void);

/*
 * Run the body as the object's owner; what it raises is recorded under the
 * object's kind.  Never returns.
 */
extern _Noreturn void mill_worker_run(Datum arg, const char *kind, void (*body)(int64 object_id, int worker_no));

/* An error in the words of a state's reason; in the current memory context. */
extern const char *mill_error_reason(const ErrorData *error);

#endif
