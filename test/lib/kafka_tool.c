/*
 * kafka_tool.c
 *		What the tests need of Kafka, in one program that starts in milliseconds.
 *
 *	kafka_tool produce -b BROKERS -t TOPIC [options]	see produce.c
 *	kafka_tool consume -b BROKERS -t TOPIC [-u]			see consume.c
 *	kafka_tool create-topic -b BROKERS NAME [PARTITIONS [REPLICAS [CONFIG=VALUE ...]]]
 *	kafka_tool delete-topic | add-partitions | delete-records | config | offsets
 *														see admin.c
 *
 * Every subcommand takes -b BROKERS (or the environment's MILL_BROKERS) and any
 * number of -X PROPERTY=VALUE for librdkafka.  -X @FILE reads them from a file,
 * one a line.  Exit status: 0 done, 1 failed with a reason on stderr, 2 usage.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kafka_tool.h"

void
fail(const char *what, const char *detail)
{
	fflush(stdout);
	fprintf(stderr, "kafka_tool: %s: %s\n", what, detail);
	exit(1);
}

static bool
add_settings_from(ClientSettings *settings, const char *path)
{
	char line[4096];
	FILE *in = fopen(path, "r");

	if (in == NULL)
		fail("could not open", path);
	while (fgets(line, sizeof(line), in) != NULL)
	{
		line[strcspn(line, "\n")] = '\0';
		if (line[0] != '\0' && !add_setting(settings, strdup(line)))
			return false;
	}
	fclose(in);
	return true;
}

bool
add_setting(ClientSettings *settings, const char *name_is_value)
{
	char *copy;
	char *equals;

	if (name_is_value[0] == '@')
		return add_settings_from(settings, name_is_value + 1);
	copy = strdup(name_is_value);
	equals = strchr(copy, '=');
	if (equals == NULL || settings->count == 64)
		return false;
	*equals = '\0';
	settings->names[settings->count] = copy;
	settings->values[settings->count++] = equals + 1;
	return true;
}

const char *
get_setting(const ClientSettings *settings, const char *name)
{
	for (int i = 0; i < settings->count; i++)
		if (strcmp(settings->names[i], name) == 0)
			return settings->values[i];
	return NULL;
}

/* For what the command line has not said. */
void
default_setting(ClientSettings *settings, const char *name, const char *value)
{
	if (get_setting(settings, name) != NULL || settings->count == 64)
		return;
	settings->names[settings->count] = name;
	settings->values[settings->count++] = value;
}

/* Takes -b and -X; false for every other option. */
bool
client_option(ClientSettings *settings, int option, const char *argument)
{
	char brokers[4096];

	if (option != 'b' && option != 'X')
		return false;
	if (option == 'b')
	{
		snprintf(brokers, sizeof(brokers), "bootstrap.servers=%s", argument);
		argument = brokers;
	}
	if (!add_setting(settings, argument))
		fail("wanted -X PROPERTY=VALUE", argument);
	return true;
}

void
set_conf(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char error[512];

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) != RD_KAFKA_CONF_OK)
		fail(name, error);
}

rd_kafka_conf_t *
client_conf(const ClientSettings *settings)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	set_conf(conf, "client.id", "kafka_tool");
	set_conf(conf, "log_level", "2");
	set_conf(conf, "topic.metadata.refresh.interval.ms", "1000");
	set_conf(conf, "reconnect.backoff.max.ms", "500");
	for (int i = 0; i < settings->count; i++)
		set_conf(conf, settings->names[i], settings->values[i]);
	return conf;
}

rd_kafka_t *
new_client(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
	char error[512];
	rd_kafka_t *rk = rd_kafka_new(type, conf, error, sizeof(error));

	if (rk == NULL)
		fail("could not create a client", error);
	return rk;
}

int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* In COPY's text format, so that a test loads the output as it is; bytes beyond ASCII as \xHH. */
void
put_escaped(FILE *out, const char *bytes, ssize_t len)
{
	if (bytes == NULL)
	{
		fputs("\\N", out);
		return;
	}
	for (ssize_t i = 0; i < len; i++)
	{
		unsigned char c = bytes[i];

		if (c == '\\')
			fputs("\\\\", out);
		else if (c < 0x20 || c >= 0x7f)
			fprintf(out, "\\x%02x", c);
		else
			putc(c, out);
	}
}

int
main(int argc, char **argv)
{
	ClientSettings settings = {.count = 0};

	if (argc < 2)
	{
		fprintf(stderr, "usage: kafka_tool produce|consume|create-topic|delete-topic|"
						"add-partitions|delete-records|config|offsets -b BROKERS ...\n");
		return 2;
	}
	if (getenv("MILL_BROKERS") != NULL)
		client_option(&settings, 'b', getenv("MILL_BROKERS"));
	if (strcmp(argv[1], "produce") == 0)
		return produce_main(&settings, argc - 1, argv + 1);
	if (strcmp(argv[1], "consume") == 0)
		return consume_main(&settings, argc - 1, argv + 1);
	return admin_main(&settings, argc - 1, argv + 1);
}
