/*
 * watch.h
 *		A thread beside the streaming one, for requests that block.
 */
#ifndef MILL_GATEWAY_WATCH_H
#define MILL_GATEWAY_WATCH_H

#include <librdkafka/rdkafka.h>
#include <pthread.h>

#include "gateway/protocol.h"

#include <stdbool.h>

typedef struct MillWatch
{
	rd_kafka_t *rk;
	rd_kafka_topic_t *topic;
	const char *topic_name;
	const int32_t *assigned; /* partitions; not changed while the thread runs */
	int count;

	pthread_mutex_t lock; /* protects what follows */
	pthread_cond_t wake;
	unsigned suspected; /* in: counts suspected failures, which a probe is to check */
	unsigned probed;	/* out: down is the result for this value of suspected */
	bool poke;			/* in: broker threads may be asleep, wake them */
	bool down;			/* out: the leaders do not all answer */
	bool forbidden;		/* out: no right to read the topic */
	bool gone;			/* out: the topic or one of our partitions does not exist any more */
	int32_t missing;	/* out: that partition, or -1 for the topic */
	int partitions;		/* out: the topic's, 0 when not known */
	int64_t gone_since; /* used by the thread only: 0, or since when it is missing */
} MillWatch;

extern void mill_watch_start(MillWatch *watch);
extern void mill_watch_suspect(MillWatch *watch);
extern void mill_watch_poke(MillWatch *watch);

#endif
