/*
 * rooms.c
 *		How the manager serves jobs, and the workers that their steps want.
 *
 * A worker belongs to a role, not to a step: it runs whatever step of that
 * role's jobs is ready, one after the other.  So ten thousand that are ready need
 * no more workers than may run, and a chain of short ones no new process each.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "core/object.h"
#include "core/settings.h"
#include "job/internal.h"

/* Resuming a job resets its count of failures. */
static void
job_resumed(int64 id)
{
	static MillStatement statement =
		{.sql = "UPDATE mill_catalog.job_progress SET failures = 0 WHERE job_id = $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1] = {Int64GetDatum(id)};

	mill_run(&statement, SPI_OK_UPDATE, values, NULL);
}

/* A job itself wants no worker; the manager makes its runs in this call. */
static List *
dispatch_jobs(void)
{
	mill_marks_follow_owners(&mill_job_room);
	mill_jobs_dispatch();
	return NIL;
}

const MillRoom mill_job_room = {
	.kind = "job",
	.function = "mill_step_main",
	.desired = dispatch_jobs,
	.next_due = mill_jobs_next_due,
	.object = "job",
	.table = "mill_catalog.job",
	.resumed = job_resumed,
};

/*
 * For each role a worker for each step that runs, and a few more for those that
 * are ready, at most mill.workers_max: short steps are done by a few workers sooner
 * than by many that start at one time.  While steps stay ready there are more with
 * each cycle, soon after each other, as long as that makes more of them run.
 */
#define STARTED_AT_ONCE 4
#define NEXT_CYCLE 20 /* milliseconds */
#define MOST_QUICK_CYCLES 10

static int quick_cycles = 0; /* left, without one more step that runs; 1: none until nothing is ready */

static List *
desired_step_workers(void)
{
	static MillStatement statement =
		{.sql =
			 "SELECT owner, least(count(*) FILTER (WHERE NOT ready) + least(count(*) FILTER (WHERE ready), $2), $1),"
			 " pg_get_userbyid(owner), bool_or(ready),"
			 " count(*) FILTER (WHERE ready) > $2 AND count(*) FILTER (WHERE NOT ready) + $2 < $1, count(*) FILTER (WHERE NOT ready) FROM ("
			 "  (SELECT j.owner::oid AS owner, true AS ready FROM mill_catalog.step_run s"
			 "    JOIN mill_catalog.job_run r ON r.id = s.run_id JOIN mill_catalog.job j ON j.id = s.job_id"
			 "    WHERE s.state = 'ready' AND r.state = 'running' AND r.stop IS NULL AND j.enabled AND mill_catalog.job_obstacle(j) IS NULL"
			 "    AND j.armed_system = mill_catalog.system_identifier() AND j.armed_database = mill_catalog.database_oid()"
			 "    ORDER BY s.ready_at, s.id LIMIT 1000)"
			 "  UNION ALL SELECT j.owner::oid, false FROM mill_catalog.step_run s JOIN mill_catalog.job j ON j.id = s.job_id"
			 "    WHERE s.state = 'running' AND j.armed_system = mill_catalog.system_identifier() AND j.armed_database = mill_catalog.database_oid()"
			 " ) w GROUP BY owner ORDER BY owner",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	Datum values[2] = {Int64GetDatum(mill_workers_max), Int64GetDatum(STARTED_AT_ONCE)};
	static int64 running_before = 0;
	int64 running = 0;
	bool more = false;
	uint64 rows = mill_run(&statement, SPI_OK_SELECT, values, NULL);
	List *list = NIL;

	for (uint64 row = 0; row < rows; row++)
	{
		int workers = DatumGetInt64(mill_value(row, 2, NULL));

		for (int n = 0; n < workers; n++)
		{
			MillWork *work = palloc0(sizeof(MillWork));

			work->owner = DatumGetObjectId(mill_value(row, 1, NULL));
			work->object_id = work->owner;
			work->worker_no = n;
			work->version = 1;
			work->title = psprintf("steps of %s", mill_text(row, 3));
			list = lappend(list, work);
		}
		/* start workers again that found nothing to do and ended */
		if (DatumGetBool(mill_value(row, 4, NULL)))
			mill_wake_workers(mill_kind_of(mill_room_named("step")), MyDatabaseId);
		more |= DatumGetBool(mill_value(row, 5, NULL));
		running += DatumGetInt64(mill_value(row, 6, NULL));
	}
	/* workers may not get their turn: then frequent cycles are of no use */
	if (!more)
		quick_cycles = 0;
	else if (quick_cycles == 0 || running > running_before)
		quick_cycles = MOST_QUICK_CYCLES;
	else
		quick_cycles = Max(quick_cycles - 1, 1);
	running_before = running;
	return list;
}

static TimestampTz
next_cycle(void)
{
	return quick_cycles > 1 ? mill_now() + NEXT_CYCLE * INT64CONST(1000) : DT_NOEND;
}

const MillRoom mill_step_room = {
	.kind = "step",
	.function = "mill_step_main",
	.preemptible = false,
	.user_settings = true,
	.desired = desired_step_workers,
	.next_due = next_cycle,
};
