/*
 * settings.h
 *		Configuration parameters of the server, mill.*
 */
#ifndef MILL_CORE_SETTINGS_H
#define MILL_CORE_SETTINGS_H

extern int mill_workers_max;
extern bool mill_superuser_any_target;
extern int mill_write_path; /* a MillWritePath of the stream room */

extern void mill_settings_init(void);

#endif
