/*
 * pipeline.h
 *		A pipeline: its row, and the work that it wants done.
 */
#ifndef MILL_INGEST_PIPELINE_H
#define MILL_INGEST_PIPELINE_H

#include "broker/broker.h"
#include "core/room.h"
#include "fmgr.h"
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
	char *key_index; /* name, in the target's schema; NULL: the primary key */
	char *start;
	bool start_resolved; /* the start position was resolved into offsets */
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
	char *topic;	 /* topic of the stored offsets; NULL: none yet */
	char *server;	 /* server of that topic */
	int fetch_bytes; /* limit of a fetch, 0: as the server's options say */
} MillPipeline;

extern const MillRoom mill_pipeline_room;

/* All need a transaction and SPI; results are in the context from before SPI_connect. */
extern MillPipeline *mill_pipeline_by_id(int64 id, bool lock);
extern MillPipeline *mill_pipeline_by_name(const char *name);

/* The key index of an upsert, InvalidOid for the primary key; an error if it is gone. */
extern Oid mill_pipeline_key_index(const MillPipeline *pipeline);

/* Raise an error if source or target are gone. */
extern void mill_pipeline_check_relations(const MillPipeline *pipeline);

/* Set the pipeline failed or paused; in a transaction that has no offsets locked. */
extern void mill_pipeline_fail(int64 id, const char *failure);
extern void mill_pipeline_pause(int64 id, const char *reason);

/* Store how much later gateways may fetch at once; never raises it. */
extern void mill_pipeline_fetch_less(int64 id, int bytes);

#endif
