/*
 * launcher.h
 *		Keeps a manager in each database that has the extension.
 */
#ifndef MILL_CORE_LAUNCHER_H
#define MILL_CORE_LAUNCHER_H

extern void mill_launcher_init(void);
extern PGDLLEXPORT _Noreturn void mill_launcher_main(Datum arg);
extern PGDLLEXPORT _Noreturn void mill_manager_main(Datum arg);

#endif
