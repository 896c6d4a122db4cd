/*
 * worker.h
 *		The frame that every worker of an object runs in.
 */
#ifndef MILL_CORE_WORKER_H
#define MILL_CORE_WORKER_H

#include "core/slot.h"

/*
 * The whole of a worker's main function: run the body as the object's owner.
 * What it raises is recorded under the object's kind.  Never returns.
 */
extern _Noreturn void mill_worker_run(Datum arg, void (*body)(int64 object_id, int worker_no));

/* Asked to end at the next good moment? */
extern bool mill_worker_should_stop(void);

/*
 * Outside of a transaction: wait until the latch is set or the time is over,
 * then serve; and serve alone, for who waits otherwise: interrupts (which may
 * raise an error) and a changed configuration.
 */
extern void mill_worker_wait(long milliseconds);
extern void mill_worker_serve(void);

/* For managers, which have a frame of their own. */
extern void mill_worker_attach(Datum arg, MillSlotInfo *info);

#endif
