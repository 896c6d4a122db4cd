/*
 * worker.h
 *		Start, signals, error handling and end, common to all workers.
 */
#ifndef MILL_CORE_WORKER_H
#define MILL_CORE_WORKER_H

#include "core/slot.h"

/*
 * The whole of a worker's main function: run the body as the object's owner.
 * An error is recorded under the object's kind.  Never returns.
 */
extern _Noreturn void mill_worker_run(Datum arg, void (*body)(int64 object_id, int worker_no));

/* Was this process asked to end after its batch? */
extern bool mill_worker_should_stop(void);

/*
 * Outside of a transaction: wait until the latch is set or the time is over, then
 * handle interrupts (which may raise an error) and a changed configuration; the
 * second function does the latter alone, for callers that wait in another way.
 */
extern void mill_worker_wait(long milliseconds);
extern void mill_worker_serve(void);

/* For managers, which do not use mill_worker_run. */
extern void mill_worker_attach(Datum arg, MillSlotInfo *info);

#endif
