/*
 * ddl.h
 *		Tells managers of commands that no event trigger sees.
 */
#ifndef MILL_CORE_DDL_H
#define MILL_CORE_DDL_H

extern void mill_ddl_init(void);

#endif
