/*
 * rights.h
 *		Rights on source and target of a pipeline.
 */
#ifndef MILL_INGEST_RIGHTS_H
#define MILL_INGEST_RIGHTS_H

/* Raise an error unless the user may read this source and write this target. */
extern void mill_pipeline_check_rights(Oid user, Oid source, Oid stream, Oid target, bool upsert);

/*
 * Raise an error if the user is a superuser and the pipeline would run code of
 * another role: a view of the source, or triggers, rules and defaults of what
 * rows are written to, partitions and tables behind views included.
 */
extern void mill_pipeline_check_superuser(Oid user, Oid source, Oid target);

#endif
