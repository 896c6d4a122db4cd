/*
 * init.c
 *		Loading of the library.
 *
 * Preloaded into the postmaster, it requests shared memory and registers the
 * launcher; loaded into a session only, it provides the SQL functions.  The only
 * file that knows all rooms.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "aggregate/aggregate.h"
#include "core/ddl.h"
#include "core/launcher.h"
#include "core/room.h"
#include "core/settings.h"
#include "core/slot.h"
#include "core/task.h"
#include "core/xact.h"
#include "ingest/pipeline.h"
#include "job/job.h"
#include "window/window.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	/* During pg_upgrade no worker may read or write tables. */
	if (IsBinaryUpgrade)
		return;

	mill_settings_init();
	mill_xact_init();
	mill_merge_init();
	mill_plan_init();
	mill_window_plan_init();
	mill_room_register(&mill_pipeline_room);
	mill_room_register(&mill_fold_room);
	mill_room_register(&mill_job_room);
	mill_room_register(&mill_step_room);
	if (process_shared_preload_libraries_in_progress)
	{
		mill_shmem_init();
		mill_task_shmem_init();
		mill_launcher_init();
		mill_ddl_init();
	}
}
