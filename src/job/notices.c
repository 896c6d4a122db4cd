/*
 * notices.c
 *		Keeps the notices and warnings of a step while it runs.
 *
 * A background worker has no client, and core builds messages only for a client or
 * for the server's log.  So while a command runs log_min_messages is lowered for
 * this process, and emit_log_hook keeps each message, and keeps those out of the
 * log that are below the threshold as it is set.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/elog.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "job/internal.h"

/* Bytes kept; further messages are only counted. */
#define KEPT 8192

static StringInfo said = NULL; /* while a command runs */
static int64 left_out = 0;
static int threshold; /* log_min_messages as it is set */
static emit_log_hook_type emit_log_hook_before;

/* The same rule as in core: does a message go to the log? */
static bool
belongs_to_log(int elevel)
{
	if (elevel == LOG || elevel == LOG_SERVER_ONLY)
		return threshold == LOG || threshold <= ERROR;
	return threshold == LOG ? elevel >= FATAL : elevel >= threshold;
}

/* One line: "NOTICE:  text", with detail and hint. */
static void
keep_notice(const ErrorData *notice)
{
	static const char more[] = "...";
	int room = KEPT - said->len;
	char *line;

	if (room <= (int) sizeof(more))
	{
		left_out++;
		return;
	}
	line = psprintf("%s:  %s%s%s%s%s", error_severity(notice->elevel),
					notice->message ? notice->message : "", notice->detail ? "  DETAIL:  " : "",
					notice->detail ? notice->detail : "", notice->hint ? "  HINT:  " : "",
					notice->hint ? notice->hint : "");
	if ((int) strlen(line) >= room)
	{
		int length = pg_mbcliplen(line, strlen(line), room - sizeof(more));

		appendBinaryStringInfo(said, line, length);
		appendStringInfo(said, "%s\n", more);
	}
	else
		appendStringInfo(said, "%s\n", line);
	pfree(line);
}

static void
take_notice(ErrorData *edata)
{
	if (said && edata->elevel >= INFO && edata->elevel < ERROR)
		keep_notice(edata);
	if (said && !belongs_to_log(edata->elevel))
		edata->output_to_server = false;
	else if (emit_log_hook_before)
		emit_log_hook_before(edata);
}

/* Keep messages from here on, until mill_notices_end, also across aborts. */
void
mill_notices_begin(void)
{
	static bool hooked = false;
	MemoryContext before = MemoryContextSwitchTo(TopMemoryContext);

	Assert(said == NULL);
	if (!hooked)
	{
		emit_log_hook_before = emit_log_hook;
		emit_log_hook = take_notice;
		hooked = true;
	}
	said = makeStringInfo();
	MemoryContextSwitchTo(before);
	left_out = 0;
	threshold = log_min_messages;
	if (threshold == LOG || threshold > INFO)
		log_min_messages = INFO;
}

/* Stop; returns what was kept, in the current memory context. */
char *
mill_notices_end(void)
{
	char *result = NULL;

	if (said == NULL)
		return NULL;
	log_min_messages = threshold;
	if (left_out > 0)
		appendStringInfo(said, "(%lld more)\n", (long long) left_out);
	if (said->len > 0)
		result = pnstrdup(said->data, said->len - 1);
	pfree(said->data);
	pfree(said);
	said = NULL;
	return result;
}
