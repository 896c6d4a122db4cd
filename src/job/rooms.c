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
 * A role's pool grows by some workers at a time, and only if those that it has are
 * at work and steps have waited for longer: short steps are done by a few workers
 * sooner than by many that start at one time.
 */
#define GROWTH 4
#define WAITED (100 * INT64CONST(1000))	   /* microseconds */
#define NEXT_CYCLE (20 * INT64CONST(1000)) /* the same: to look again at workers that start */

/* The workers of a role. */
typedef struct Pool
{
	int workers; /* started */
	int free;	 /* that have no step yet: starting, or idle and woken */
	bool waits;	 /* one waits for its turn to start */
} Pool;

/* When a pool is to be looked at again. */
static TimestampTz look_at;

static Pool
pool_of(Oid role)
{
	MillKind kind = mill_kind_of(mill_room_named("step"));
	Pool pool = {0};

	for (int i = 0; i < mill_slots_used(); i++)
	{
		MillSlotInfo slot;

		if (!mill_slot_get(i, &slot) || slot.kind != kind || slot.database != MyDatabaseId ||
			slot.object_id != role)
			continue;
		if (slot.launched)
		{
			pool.workers++;
			pool.free += slot.state == MILL_STATE_STARTING || slot.state == MILL_STATE_IDLE;
		}
		else
			pool.waits |= slot.state == MILL_STATE_WAITING;
	}
	return pool;
}

/* How many workers a role is to have for so many steps, the first of which was ready at a time. */
static int
size_of_pool(Oid role, int running, int ready, TimestampTz ready_at)
{
	int most = Min(running + ready, mill_workers_max);
	Pool pool = pool_of(role);
	TimestampTz now = mill_now();

	if (most <= pool.workers || ready == 0)
		return most;
	/* a clock that was set back must not keep it from growing */
	if (pool.workers > 0 && (pool.free > 0 || (ready_at <= now && now < ready_at + WAITED)))
	{
		look_at = Min(look_at, pool.free > 0 ? now + NEXT_CYCLE : ready_at + WAITED);
		return pool.workers;
	}
	/* more frequent looks are of no use to workers that do not get their turn */
	if (!pool.waits)
		look_at = Min(look_at, now + NEXT_CYCLE);
	/* workers that found nothing to do and ended may start again */
	mill_wake_workers(mill_kind_of(mill_room_named("step")), MyDatabaseId);
	return Min(most, pool.workers + GROWTH);
}

static List *
desired_step_workers(void)
{
	static MillStatement statement = {
		.sql =
			"SELECT owner, pg_get_userbyid(owner), count(*) - count(ready_at), count(ready_at), min(ready_at) FROM ("
			"  (SELECT j.owner::oid AS owner, s.ready_at FROM mill_catalog.step_run s"
			"    JOIN mill_catalog.job_run r ON r.id = s.run_id JOIN mill_catalog.job j ON j.id = s.job_id"
			"    WHERE s.state = 'ready' AND r.state = 'running' AND r.stop IS NULL AND j.enabled AND mill_catalog.job_obstacle(j) IS NULL"
			"    AND j.armed_system = mill_catalog.system_identifier() AND j.armed_database = mill_catalog.database_oid()"
			"    ORDER BY s.ready_at, s.id LIMIT 1000)"
			"  UNION ALL SELECT j.owner::oid, NULL FROM mill_catalog.step_run s JOIN mill_catalog.job j ON j.id = s.job_id"
			"    WHERE s.state = 'running' AND j.armed_system = mill_catalog.system_identifier() AND j.armed_database = mill_catalog.database_oid()"
			" ) w GROUP BY owner ORDER BY owner"};
	uint64 rows = mill_run(&statement, SPI_OK_SELECT, NULL, NULL);
	List *list = NIL;

	look_at = DT_NOEND;
	for (uint64 row = 0; row < rows; row++)
	{
		Oid owner = DatumGetObjectId(mill_value(row, 1, NULL));
		bool none_ready;
		Datum ready_at = mill_value(row, 5, &none_ready);
		int workers = size_of_pool(owner, (int) DatumGetInt64(mill_value(row, 3, NULL)),
								   (int) DatumGetInt64(mill_value(row, 4, NULL)),
								   none_ready ? 0 : DatumGetTimestampTz(ready_at));

		for (int n = 0; n < workers; n++)
		{
			MillWork *work = palloc0(sizeof(MillWork));

			work->owner = owner;
			work->object_id = owner;
			work->worker_no = n;
			work->version = 1;
			work->title = psprintf("steps of %s", mill_text(row, 2));
			list = lappend(list, work);
		}
	}
	return list;
}

/* Called after desired(). */
static TimestampTz
next_look(void)
{
	return look_at;
}

/* Workers of a role that stay while one of its jobs is due within so many seconds. */
#define STAYING 2
#define SOON 60

bool
mill_step_worker_stays(int64 role, int worker_no)
{
	/* of the next fires only some: a hint must cost little */
	static MillStatement statement =
		{.sql =
			 "SELECT FROM (SELECT job_id FROM mill_catalog.job_progress"
			 "  WHERE next_fire BETWEEN $2 AND $2 + make_interval(secs => $3) ORDER BY next_fire LIMIT 100) p"
			 " JOIN mill_catalog.job j ON j.id = p.job_id WHERE j.owner = $1 AND j.enabled LIMIT 1",
		 .nargs = 3,
		 .types = {REGROLEOID, TIMESTAMPTZOID, FLOAT8OID},
		 .generic_plan = true};
	Datum values[3] = {ObjectIdGetDatum((Oid) role), TimestampTzGetDatum(mill_now()),
					   Float8GetDatum(SOON)};

	return worker_no < STAYING && mill_run(&statement, SPI_OK_SELECT, values, NULL) > 0;
}

const MillRoom mill_step_room = {
	.kind = "step",
	.function = "mill_step_main",
	.preemptible = false,
	.user_settings = true,
	.desired = desired_step_workers,
	.stays = mill_step_worker_stays,
	.next_due = next_look,
};
