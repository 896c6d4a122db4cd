/*
 * rights.h
 *		Who may bring what where.
 */
#ifndef MILL_INGEST_RIGHTS_H
#define MILL_INGEST_RIGHTS_H

/* Raise an error unless the user may bring this source into this target. */
extern void mill_pipeline_check_rights(Oid user, Oid source, Oid stream, Oid target, bool upsert);

/*
 * Raise an error if the user is a superuser and the pipeline would run what
 * another role wrote: a view that it reads, or what a row is really written to,
 * partitions and tables behind views included, as they are now.
 */
extern void mill_pipeline_check_superuser(Oid user, Oid source, Oid target);

#endif
