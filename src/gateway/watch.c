/*
 * watch.c
 *		A thread that asks brokers what would block the streaming thread.
 *
 * Three duties:
 *
 * - Every PARTITIONS_EVERY: how many partitions does the topic have, does it
 *   still exist, and do the leaders answer?  librdkafka 2.0.2 just stops
 *   fetching from a topic that was deleted.
 *   Brokers learn of topics one after the other, so it must be gone for
 *   GONE_AFTER before that counts.
 *
 * - When the library reports a failed connection: do the leaders of all our
 *   partitions answer?  A broker that closes an idle connection is reported
 *   like one that died; only a request tells them apart.  While a leader does
 *   not answer it is asked again and again, so that the recovery is noticed
 *   even if there are no messages.
 *
 * - Poke: before librdkafka 2.2 a broker thread that finds the queue full
 *   sleeps for a second, though the queue may be empty after a twentieth of
 *   that.  Any request wakes it, so one is sent to each leader when the queue
 *   has drained by half.
 *
 * The thread only calls thread-safe functions of the library and serves no
 * callbacks.  It ends with the process.
 */
#include "gateway/watch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PARTITIONS_EVERY 10000
#define GONE_AFTER 5000
#define GONE_EVERY 500
#define PROBE_EVERY 300
#define PROBE_TIMEOUT 1000
#define METADATA_TIMEOUT 5000

static int64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Does a broker answer, and does the topic have leaders everywhere, or is it gone? */
static bool
has_leaders(const MillWatch *watch)
{
	const struct rd_kafka_metadata *metadata;
	bool result = true;

	if (rd_kafka_metadata(watch->rk, 0, watch->topic, &metadata, PROBE_TIMEOUT) !=
		RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	for (int i = 0; metadata->topic_cnt == 1 && i < metadata->topics[0].partition_cnt; i++)
	{
		if (metadata->topics[0].partitions[i].leader < 0)
			result = false;
	}
	rd_kafka_metadata_destroy(metadata);
	return result;
}

static void
note_forbidden(MillWatch *watch)
{
	pthread_mutex_lock(&watch->lock);
	watch->forbidden = true;
	pthread_mutex_unlock(&watch->lock);
}

/*
 * Do all leaders answer?  A refusal is an answer too, and is noted.  Partitions
 * are asked one by one, because the call succeeds if only some answer.
 */
static bool
probe(MillWatch *watch, int timeout_ms)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(watch->count);
	rd_kafka_resp_err_t code;

	for (int i = 0; i < watch->count; i++)
		rd_kafka_topic_partition_list_add(list, watch->topic_name, watch->assigned[i])
			->offset = RD_KAFKA_OFFSET_END;
	code = rd_kafka_offsets_for_times(watch->rk, list, timeout_ms);
	for (int i = 0; i < list->cnt; i++)
	{
		if (list->elems[i].err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
			note_forbidden(watch);
		else if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
			code = list->elems[i].err;
	}
	rd_kafka_topic_partition_list_destroy(list);

	switch (code)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			return true;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			note_forbidden(watch);
			return true;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:

			/*
			 * A partition that is gone is reported by the streaming thread.
			 * But the library may report this from its cache, after the last
			 * broker that answered knew of no leader.
			 */
			return has_leaders(watch);
		default:
			return false;
	}
}

/* Note that the topic or one of our partitions does not exist, or that all do. */
static void
note_missing(MillWatch *watch, bool is_missing, int32_t partition)
{
	if (!is_missing)
		watch->gone_since = 0;
	else if (watch->gone_since == 0)
		watch->gone_since = now_ms();
	else if (now_ms() - watch->gone_since >= GONE_AFTER)
	{
		pthread_mutex_lock(&watch->lock);
		watch->gone = true;
		watch->missing = partition;
		pthread_mutex_unlock(&watch->lock);
	}
}

/*
 * Choose one of our partitions for each leader.  chosen has space for all
 * partitions.  Returns how many were chosen, or -1 if the broker did not answer.
 */
static int
ask_topic(MillWatch *watch, int32_t *chosen)
{
	const struct rd_kafka_metadata *metadata;
	int32_t *leaders;
	int32_t missing = -1;
	int found = 0;

	if (rd_kafka_metadata(watch->rk, 0, watch->topic, &metadata, METADATA_TIMEOUT) !=
		RD_KAFKA_RESP_ERR_NO_ERROR)
		return -1;
	leaders = calloc(watch->count + 1, sizeof(int32_t));
	if (metadata->topic_cnt == 1 && metadata->topics[0].err == RD_KAFKA_RESP_ERR_NO_ERROR &&
		leaders != NULL)
	{
		const struct rd_kafka_metadata_topic *topic = &metadata->topics[0];

		for (int i = 0; i < watch->count; i++)
		{
			int32_t leader = -1;
			int known;

			for (int j = 0; j < topic->partition_cnt; j++)
			{
				if (topic->partitions[j].id == watch->assigned[i])
					leader = topic->partitions[j].leader;
			}
			if (watch->assigned[i] >= topic->partition_cnt)
				missing = watch->assigned[i];
			for (known = 0; known < found && leaders[known] != leader; known++)
				;
			if (leader >= 0 && known == found)
			{
				leaders[found] = leader;
				chosen[found++] = watch->assigned[i];
			}
		}
		pthread_mutex_lock(&watch->lock);
		watch->partitions = topic->partition_cnt;
		pthread_mutex_unlock(&watch->lock);
		note_missing(watch, missing >= 0, missing);
	}
	else if (metadata->topic_cnt == 1 &&
			 metadata->topics[0].err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
		note_missing(watch, true, -1);
	else if (metadata->topic_cnt == 1 &&
			 metadata->topics[0].err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
		note_forbidden(watch);
	free(leaders);
	rd_kafka_metadata_destroy(metadata);
	return found;
}

/* Wake the threads of these partitions' leaders. */
static void
poke(const MillWatch *watch, const int32_t *chosen, int count)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(count);

	for (int i = 0; i < count; i++)
		rd_kafka_topic_partition_list_add(list, watch->topic_name, chosen[i])
			->offset = RD_KAFKA_OFFSET_END;
	rd_kafka_offsets_for_times(watch->rk, list, PROBE_TIMEOUT);
	rd_kafka_topic_partition_list_destroy(list);
}

/* Wait for a request, at most until the given time.  The lock is held. */
static void
watch_until(MillWatch *watch, int64_t when)
{
	struct timespec until = {.tv_sec = when / 1000, .tv_nsec = when % 1000 * 1000000};

	while (watch->suspected == watch->probed && !watch->poke &&
		   pthread_cond_timedwait(&watch->wake, &watch->lock, &until) != ETIMEDOUT)
		;
}

static void *
run_watch(void *arg)
{
	MillWatch *watch = arg;
	int32_t *chosen = calloc(watch->count + 1, sizeof(int32_t));
	int leaders = 0;
	int64_t next_topic = 0;
	bool down = false;

	for (;;)
	{
		unsigned suspected;
		bool suspect;
		bool poking;

		pthread_mutex_lock(&watch->lock);
		watch_until(watch, down ? now_ms() + PROBE_EVERY : next_topic);
		suspected = watch->suspected;
		suspect = suspected != watch->probed;
		poking = watch->poke;
		watch->poke = false;
		pthread_mutex_unlock(&watch->lock);

		if (poking && !down && leaders > 0)
			poke(watch, chosen, leaders);
		if (suspect || down)
		{
			down = !probe(watch, PROBE_TIMEOUT);
			pthread_mutex_lock(&watch->lock);
			watch->down = down;
			watch->probed = suspected;
			pthread_mutex_unlock(&watch->lock);
		}
		if (!down && now_ms() >= next_topic)
		{
			int found = ask_topic(watch, chosen);
			int wait = PARTITIONS_EVERY;

			/*
			 * The library does not report again what it has reported before,
			 * and reports a leader that hangs only after up to a minute.
			 */
			if (found < 0 || !probe(watch, METADATA_TIMEOUT))
			{
				mill_watch_suspect(watch);
				wait = PROBE_EVERY;
			}
			else if (watch->gone_since != 0 && !watch->gone)
				wait = GONE_EVERY;
			leaders = found >= 0 ? found : leaders;
			next_topic = now_ms() + wait;
		}
	}
	return NULL;
}

/* Start the thread.  The caller has set the members above the lock. */
void
mill_watch_start(MillWatch *watch)
{
	pthread_condattr_t attributes;
	pthread_t thread;

	pthread_mutex_init(&watch->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&watch->wake, &attributes);
	if (pthread_create(&thread, NULL, run_watch, watch) != 0)
		abort();
	pthread_detach(thread);
}

void
mill_watch_suspect(MillWatch *watch)
{
	pthread_mutex_lock(&watch->lock);
	watch->suspected++;
	pthread_cond_signal(&watch->wake);
	pthread_mutex_unlock(&watch->lock);
}

void
mill_watch_poke(MillWatch *watch)
{
	pthread_mutex_lock(&watch->lock);
	watch->poke = true;
	pthread_cond_signal(&watch->wake);
	pthread_mutex_unlock(&watch->lock);
}
