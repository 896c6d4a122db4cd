/*
 * watch.h
 *		A thread beside the streaming one, for questions that block.
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
	const int32_t *assigned; /* partitions, not changed while watching */
	int count;

	pthread_mutex_t lock; /* protects what follows */
	pthread_cond_t wake;
	unsigned suspected; /* in: something failed, find out whether it matters */
	unsigned probed;	/* out: the suspicion that down is the answer to */
	bool poke;			/* in: brokers may be asleep, wake them */
	bool down;			/* out: the leaders do not all answer */
	bool forbidden;		/* out: we may not read the topic */
	bool gone;			/* out: the topic, or one of our partitions, is no more */
	int32_t missing;	/* out: that partition, or -1 for the topic */
	int partitions;		/* out: the topic's, 0 when not known */
	int64_t gone_since; /* the thread's own: 0, or when it was first not there */
} MillWatch;

extern void mill_watch_start(MillWatch *watch);
extern void mill_watch_suspect(MillWatch *watch);
extern void mill_watch_poke(MillWatch *watch);

#endif
