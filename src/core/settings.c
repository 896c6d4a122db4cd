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
int mill_clock_offset = 0;

/* Read by SQL alone. */
static char *run_id;
static char *interval_start;
static char *interval_end;

static const struct config_enum_entry write_paths[] = {{"any", 0, false},
													   {"bulk", 1, false},
													   {"executor", 2, false},
													   {NULL, 0, false}};

/* Called once, from _PG_init. */
void
mill_settings_init(void)
{
	/*
	 * The administrator decides how much of max_worker_processes, which
	 * parallel query and replication draw on too, we may use.
	 */
	DefineCustomIntVariable("mill.workers_max", "Most workers that run at one time in one database.",
							"What does not get a worker waits its turn. 0 stops all work.",
							&mill_workers_max, 8, 0, 1000, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/*
	 * A pipeline runs as its owner, and so do the triggers and defaults of
	 * its target. A superuser's pipeline would lend the target's owner its
	 * rights.
	 */
	DefineCustomBoolVariable("mill.superuser_any_target",
							 "Lets a superuser's pipeline write into another role's table.",
							 "That role's triggers and defaults then run as superuser.",
							 &mill_superuser_any_target, false, PGC_SUSET, 0, NULL, NULL, NULL);

	/*
	 * What a step of a job is run for; it can read them.  Settable, so that what
	 * a step does can be tried by hand.
	 */
	DefineCustomStringVariable("mill.run_id", "The run of a job that the session works for.", NULL,
							   &run_id, "", PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("mill.interval_start", "The start of that run's interval.", NULL,
							   &interval_start, "", PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL,
							   NULL);
	DefineCustomStringVariable("mill.interval_end", "The end of that run's interval, exclusive.",
							   NULL, &interval_end, "", PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL,
							   NULL);

	/* For tests, which run each case through both; nothing that a user need see. */
	DefineCustomEnumVariable("mill.write_path", "The way that rows take into a target.", NULL,
							 &mill_write_path, 0, write_paths, PGC_SUSET,
							 GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL, NULL, NULL, NULL);

	/* For tests, which cannot wait for what is due tomorrow. */
	DefineCustomIntVariable("mill.clock_offset",
							"How far the clock of managers and workers is ahead.", NULL,
							&mill_clock_offset, 0, INT_MIN / 2, INT_MAX / 2, PGC_SIGHUP,
							GUC_NOT_IN_SAMPLE | GUC_NO_SHOW_ALL | GUC_UNIT_S, NULL, NULL, NULL);

	MarkGUCPrefixReserved("mill");
}
