/* kafka_tool.h: what the parts of kafka_tool share. */
#ifndef KAFKA_TOOL_H
#define KAFKA_TOOL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <librdkafka/rdkafka.h>

/* Client settings from the command line, -b and -X, applied to every client. */
typedef struct ClientSettings
{
	const char *names[64];
	const char *values[64];
	int count;
} ClientSettings;

/* A message to send.  A null key or value is NULL, an empty one is not. */
typedef struct TestMessage
{
	char *key;
	size_t key_len;
	char *value;
	size_t value_len;
	rd_kafka_headers_t *headers; /* NULL, or owned by whoever gets it */
	int32_t partition;
	int64_t timestamp; /* ms since 1970; 0: the time of sending */
	bool bad;
} TestMessage;

/* What the generator is asked for. */
typedef struct GeneratorSettings
{
	const char *kind; /* clicks, events, lines or fields */
	uint64_t seed;
	int users;
	double bad_percent;
	double late_percent;
	int64_t start; /* event time of message 0, ms; -1: the clock */
	int64_t step;  /* ms of event time between messages */
	int32_t partition;
} GeneratorSettings;

extern void fail(const char *what, const char *detail) __attribute__((noreturn));
extern bool add_setting(ClientSettings *settings, const char *name_is_value);
extern void default_setting(ClientSettings *settings, const char *name, const char *value);
extern const char *get_setting(const ClientSettings *settings, const char *name);
extern bool client_option(ClientSettings *settings, int option, const char *argument);
extern rd_kafka_conf_t *client_conf(const ClientSettings *settings);
extern void set_conf(rd_kafka_conf_t *conf, const char *name, const char *value);
extern rd_kafka_t *new_client(rd_kafka_type_t type, rd_kafka_conf_t *conf);
extern int64_t now_ms(void);
extern void put_escaped(FILE *out, const char *bytes, ssize_t len);

extern bool next_message(const GeneratorSettings *settings, int64_t seq, TestMessage *message);
extern int produce_main(ClientSettings *settings, int argc, char **argv);
extern int consume_main(ClientSettings *settings, int argc, char **argv);
extern int admin_main(const ClientSettings *settings, int argc, char **argv);

#endif
