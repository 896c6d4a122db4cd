/*
 * follow.c
 *		T5: runs of jobs that come after others.
 *
 * A run that succeeds and that other jobs come after is marked in the transaction
 * that ends it; what follows is made here.  The manager alone does it, one run
 * after the other, so of two jobs that a third one comes after and that end at the
 * same time, the second is seen with the first; and no worker ever locks two jobs.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "core/catalog.h"
#include "core/clock.h"
#include "job/internal.h"

/* Runs that one cycle follows. */
#define MOST_RUNS 200

#define OF_INTERVAL                                                                                \
	" o.job_id = $2 AND o.covers"                                                                  \
	" AND o.interval_start = r.interval_start AND o.interval_end = r.interval_end"

/*
 * Make the run of one job for the interval of a run that it comes after.  One that
 * was made for it already is made again: what it was made of is new.
 */
static void
make_run_after(int64 run_id, int64 job_id)
{
	/* of the runs for the interval that are not followed yet the last one makes it */
	static MillStatement others =
		{.sql =
			 "SELECT FROM mill_catalog.job_run r, mill_catalog.job d, mill_catalog.job_run o"
			 " WHERE r.id = $1 AND d.id = $2 AND NOT o.followed AND o.covers AND o.job_id = ANY (d.run_after)"
			 " AND o.interval_start = r.interval_start AND o.interval_end = r.interval_end LIMIT 1",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	/* a run that is at it begins again at its end */
	static MillStatement supersede =
		{.sql = "UPDATE mill_catalog.job_run o SET superseded = true FROM mill_catalog.job_run r"
				" WHERE r.id = $1 AND o.state = 'running' AND" OF_INTERVAL,
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	static MillStatement drop =
		{.sql = "DELETE FROM mill_catalog.job_run o USING mill_catalog.job_run r"
				" WHERE r.id = $1 AND o.state NOT IN ('queued', 'running') AND" OF_INTERVAL,
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	static MillStatement uncover =
		{.sql = "UPDATE mill_catalog.job_progress p SET done = p.done - tstzmultirange(tstzrange(r.interval_start, r.interval_end))"
				" FROM mill_catalog.job_run r WHERE r.id = $1 AND p.job_id = $2"
				" AND p.done && tstzrange(r.interval_start, r.interval_end)",
		 .nargs = 2,
		 .types = {INT8OID, INT8OID}};
	/* each of the jobs that it comes after must have done the interval */
	static MillStatement insert =
		{.sql =
			 "INSERT INTO mill_catalog.job_run (job_id, interval_start, interval_end, covers, cause, state, created_at)"
			 " SELECT d.id, r.interval_start, r.interval_end, true, 'job', 'queued', $3"
			 " FROM mill_catalog.job_run r, mill_catalog.job d WHERE r.id = $1 AND d.id = $2"
			 "  AND NOT EXISTS (SELECT FROM unnest(d.run_after) u LEFT JOIN mill_catalog.job_progress q ON q.job_id = u"
			 "    WHERE u <> r.job_id AND q.done @> tstzrange(r.interval_start, r.interval_end) IS NOT TRUE)"
			 " ON CONFLICT (job_id, interval_start, interval_end) WHERE covers DO NOTHING",
		 .nargs = 3,
		 .types = {INT8OID, INT8OID, TIMESTAMPTZOID}};
	Datum values[3] = {Int64GetDatum(run_id), Int64GetDatum(job_id),
					   TimestampTzGetDatum(mill_now())};

	if (mill_run(&others, SPI_OK_SELECT, values, NULL) > 0)
		return;
	mill_run(&supersede, SPI_OK_UPDATE, values, NULL);
	mill_run(&drop, SPI_OK_DELETE, values, NULL);
	mill_run(&uncover, SPI_OK_UPDATE, values, NULL);
	mill_run(&insert, SPI_OK_INSERT, values, NULL);
}

/*
 * Follow one run; false if one of the jobs is locked, and then nothing is done.  The
 * jobs that those which follow come after, too, are locked: none of their runs ends
 * while we look at what is done.
 */
static bool
follow(int64 run_id, int64 job_id)
{
	static MillStatement find =
		{.sql = "SELECT d.id, true FROM mill_catalog.job d WHERE $1 = ANY (d.run_after) AND d.run_after <> '{}'"
				" UNION SELECT j.id, false FROM mill_catalog.job d JOIN mill_catalog.job j ON j.id = ANY (d.run_after)"
				"  WHERE $1 = ANY (d.run_after) AND d.run_after <> '{}' ORDER BY 1, 2",
		 .nargs = 1,
		 .types = {INT8OID}};
	/* unless it was deleted by one who had the job locked */
	static MillStatement followed =
		{.sql = "UPDATE mill_catalog.job_run SET followed = true WHERE id = $1 AND NOT followed",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1] = {Int64GetDatum(job_id)};
	uint64 rows = mill_run(&find, SPI_OK_SELECT, values, NULL);
	SPITupleTable *table = SPI_tuptable;

	if (!mill_job_lock(job_id, false))
		return false;
	for (uint64 row = 0; row < rows; row++)
	{
		SPI_tuptable = table;
		if (!mill_job_lock(DatumGetInt64(mill_value(row, 1, NULL)), false))
			return false;
	}
	values[0] = Int64GetDatum(run_id);
	if (mill_run(&followed, SPI_OK_UPDATE, values, NULL) == 0)
		return true;
	for (uint64 row = 0; row < rows; row++)
	{
		SPI_tuptable = table;
		if (DatumGetBool(mill_value(row, 2, NULL)))
			make_run_after(run_id, DatumGetInt64(mill_value(row, 1, NULL)));
	}
	return true;
}

bool
mill_runs_follow(void)
{
	static MillStatement find =
		{.sql = "SELECT r.id, r.job_id FROM mill_catalog.job_run r JOIN mill_catalog.job j ON j.id = r.job_id"
				" WHERE NOT r.followed AND j.armed_system = mill_catalog.system_identifier()"
				"  AND j.armed_database = mill_catalog.database_oid() ORDER BY r.id LIMIT $1",
		 .nargs = 1,
		 .types = {INT8OID}};
	Datum values[1] = {Int64GetDatum(MOST_RUNS)};
	uint64 rows = mill_run(&find, SPI_OK_SELECT, values, NULL);
	SPITupleTable *table = SPI_tuptable;
	bool all = rows < MOST_RUNS;

	for (uint64 row = 0; row < rows; row++)
	{
		SPI_tuptable = table;
		all &= follow(DatumGetInt64(mill_value(row, 1, NULL)),
					  DatumGetInt64(mill_value(row, 2, NULL)));
	}
	return all;
}
