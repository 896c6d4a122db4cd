/*
 * ddl.h
 *		Announces commands that need a database for themselves.
 */
#ifndef MILL_CORE_DDL_H
#define MILL_CORE_DDL_H

extern void mill_ddl_init(void);

#endif
