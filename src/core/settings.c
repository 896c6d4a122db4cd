/*
 * settings.c
 *		Configuration parameters of the server, mill.*
 *
 * Few on purpose: what belongs to one pipeline is a column of its row.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "core/settings.h"

int mill_workers_max = 8;
bool mill_superuser_any_target = false;
int mill_write_path = 0;
int mill_capture_path = 0;
int mill_clock_offset = 0;

/* Read from SQL only. */
static char *run_id;
static char *interval_start;
static char *interval_end;

static const struct config_enum_entry write_paths[] = {{"any", 0, false},
													   {"bulk", 1, false},
													   {"executor", 2, false},
													   {NULL, 0, false}};
static const struct config_enum_entry capture_paths[] = {{"any", 0, false},
														 {"direct", 1, false},
														 {"statement", 2, false},
														 {NULL, 0, false}};

/* Called once, from _PG_init. */
void
mill_settings_init(void)
{
	/*
	 * Parallel query and replication use max_worker_processes too, so the
	 * administrator limits our share of it.
	 */
	DefineCustomIntVariable("mill.workers_max", "Most workers that run at one time in one database.",
							"What does not get a worker waits its turn. 0 stops all work.",
							&mill_workers_max, 8, 0, 1000, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/*
	 * A pipeline runs as its owner, and so do the triggers and defaults of
	 * its target. A superuser's pipeline would run the code of the target's
	 * owner with a superuser's rights.
	 */
	DefineCustomBoolVariable("mill.superuser_any_target",
							 "Lets a superuser's pipeline write into another role's table.",
							 "That role's triggers and defaults then run as superuser.",
							 &mill_superuser_any_target, false, PGC_SUSET, 0, NULL, NULL, NULL);

	/*
	 * The run that a step belongs to, for its command to read.  Any user may set
	 * them, so that a command can be tested by hand.
	 */
	DefineCustomStringVariable("mill.run_id", "The run of a job that the session works for.", NULL,
							   &run_id, "", PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("mill.interval_start", "The start of that run's interval.", NULL,
							   &interval_start, "", PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL,
							   NULL);
	DefineCustomStringVariable("mill.interval_end", "The end of that run's interval, exclusive.",
							   NULL, &interval_end, "", PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL,
							   NULL);

	/* For tests, which run each case with both; hidden from users. */
	DefineCustomEnumVariable("mill.write_path", "The way that rows take into a target.", NULL,
							 &mill_write_path, 0, write_paths, PGC_SUSET,
							 GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL, NULL, NULL);

	DefineCustomEnumVariable("mill.capture_path", "The way that deltas are made.", NULL,
							 &mill_capture_path, 0, capture_paths, PGC_SUSET,
							 GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL, NULL, NULL);

	/* For tests, which cannot wait for what is due tomorrow. */
	DefineCustomIntVariable("mill.clock_offset",
							"How far the clock of managers and workers is ahead.", NULL,
							&mill_clock_offset, 0, INT_MIN / 2, INT_MAX / 2, PGC_SIGHUP,
							GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL | GUC_UNIT_S, NULL, NULL, NULL);

	MarkGUCPrefixReserved("mill");
}
