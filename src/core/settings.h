/*
 * settings.h
 *		Configuration parameters of the server, mill.*
 */
#ifndef MILL_CORE_SETTINGS_H
#define MILL_CORE_SETTINGS_H

extern int mill_workers_max;
extern bool mill_superuser_any_target;

/* For tests alone. */
extern int mill_write_path;	  /* how rows are written, see the room write */
extern int mill_capture_path; /* how deltas are written, see the room aggregate */
extern int mill_clock_offset; /* in seconds, see mill_now */

extern void mill_settings_init(void);

#endif
