/*
 * ddl.h
 *		Tells managers about commands for which there are no event triggers.
 */
#ifndef MILL_CORE_DDL_H
#define MILL_CORE_DDL_H

extern void mill_ddl_init(void);

#endif
