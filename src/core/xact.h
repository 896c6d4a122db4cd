/*
 * xact.h
 *		Begins and ends all transactions of workers, and wakes processes at commit.
 */
#ifndef MILL_CORE_XACT_H
#define MILL_CORE_XACT_H

extern void mill_xact_begin(const char *activity);
extern void mill_xact_commit(void);
extern void mill_xact_abort(void);

extern void mill_xact_init(void);
extern void mill_wake_all_managers_at_commit(void);
extern void mill_wake_launcher_at_commit(void);
extern void mill_wake_manager_at_commit(void);

#endif
