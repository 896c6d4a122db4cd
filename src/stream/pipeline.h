/*
 * pipeline.h
 *		A pipeline: its row, who may do what with it, its offsets.
 */
#ifndef MILL_STREAM_PIPELINE_H
#define MILL_STREAM_PIPELINE_H

#include "core/manager.h"
#include "fmgr.h"
#include "stream/gateway.h"
#include "stream/stream.h"

typedef struct MillPipeline
{
	int64 id;
	char *name;
	Oid owner;
	Oid source;
	Oid stream;
	Oid target;
	bool upsert;
	char *key_index; /* its name, beside the target; NULL: the primary key */
	char *start;
	bool start_resolved; /* the start position was turned into offsets */
	char *on_error;		 /* NULL: as the stream says */
	int max_errors;		 /* bad messages per minute; 0: no limit */
	bool sync;
	int workers;
	int batch_rows;
	int batch_bytes;
	int max_wait_ms;
	bool enabled;
	char *failure;
	int64 version;
	char *topic;	 /* that the stored offsets are of; NULL: there are none yet */
	char *server;	 /* of that topic */
	int fetch_bytes; /* limit of a fetch, 0: as the server's options say */
} MillPipeline;

extern const MillRoom mill_pipeline_room;

/*
 * All need a transaction, connected to SPI; results live in the context that
 * was current before SPI_connect.
 */
extern MillPipeline *mill_pipeline_by_id(int64 id, bool lock);
extern MillPipeline *mill_pipeline_by_name(const char *name);

/* The key index of an upsert, InvalidOid for the primary key; an error if it is gone. */
extern Oid mill_pipeline_key_index(const MillPipeline *pipeline);

/* Raise an error unless the user may bring this source into this target. */
extern void mill_pipeline_check_rights(Oid user, Oid source, Oid stream, Oid target, bool upsert);

/*
 * Raise an error if the user is a superuser and the pipeline would run what
 * another role wrote: a view that it reads, or what a row is really written to,
 * partitions and tables behind views included, as they are now.
 */
extern void mill_pipeline_check_superuser(Oid user, Oid source, Oid target);

/* Raise an error if source or target are gone. */
extern void mill_pipeline_check_relations(const MillPipeline *pipeline);

/* Let the pipeline rest until its owner acts, with a reason; in its batch's transaction or alone. */
extern void mill_pipeline_fail(int64 id, const char *failure);
extern void mill_pipeline_pause(int64 id, const char *reason);

/* Remember for the next gateways how much to fetch at once; never more than before. */
extern void mill_pipeline_fetch_less(int64 id, int bytes);

/* Raise an error if an argument of an SQL function is NULL; its number and name. */
extern void mill_require_argument(FunctionCallInfo fcinfo, int number, const char *name);

/* ---- positions: earliest, latest, a timestamp, {"partition": offset} ---- */

/* Check what a user wrote; returns the form to store. */
extern char *mill_position_check(const char *text);

/* The first partition that a position names and a topic of so many lacks; -1 if none. */
extern int32 mill_position_beyond(const char *position, int count);

/*
 * The offsets a position means for partitions first .. first + count - 1, -1
 * where it says nothing about a partition.
 */
extern void mill_position_resolve(const char *position, MillGateway *gateway,
								  const int32 *partitions, int64 *offsets, int count, int timeout_ms);

#endif
