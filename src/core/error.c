/*
 * error.c
 *		Classes of errors: what to retry, and whose fault it is; recording errors.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "core/catalog.h"
#include "core/error.h"
#include "core/xact.h"

/* Is the error transient: may the same succeed after a back-off? */
bool
mill_error_is_transient(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:	 /* 40: serialization, deadlock */
		case ERRCODE_INSUFFICIENT_RESOURCES: /* 53: disk full, out of memory */
			return true;
	}
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}

/* Is it an error of the server or of other sessions, or transient, whatever was done? */
bool
mill_error_is_environment(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:	/* 08: of a foreign target */
		case ERRCODE_OPERATOR_INTERVENTION: /* 57: cancel, shutdown */
			return true;
	}
	return mill_error_is_transient(sqlerrcode) || sqlerrcode == ERRCODE_SYSTEM_ERROR ||
		   sqlerrcode == ERRCODE_IO_ERROR || sqlerrcode == ERRCODE_DATA_CORRUPTED ||
		   sqlerrcode == ERRCODE_INDEX_CORRUPTED;
}

/* An error as the reason of a worker state. */
const char *
mill_error_reason(const ErrorData *error)
{
	return error->detail ? psprintf("%s (%s)", error->message, error->detail) : error->message;
}

/*
 * Record an error where its owner can see it, in mill.errors.  Runs in a
 * transaction of its own, after the failed one was aborted.  If the same error
 * occurs again, only its time and count are updated.
 */
void
mill_error_record(const char *kind, int64 object_id, const ErrorData *error, TimestampTz retry_at)
{
	static MillStatement repeat =
		{.sql = "UPDATE mill_catalog.error SET at = clock_timestamp(), retry_at = $8,"
				"  occurrences = occurrences + 1, detail = $5, context = $7"
				" WHERE id = (SELECT max(e.id) FROM mill_catalog.error e"
				"   WHERE e.object_kind = $1 AND e.object_id = $2)"
				"  AND sqlstate = $3 AND message = $4"
				"  AND hint IS NOT DISTINCT FROM $6",
		 .nargs = 8,
		 .types = {TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};
	static MillStatement insert =
		{.sql = "INSERT INTO mill_catalog.error (object_kind, object_id, sqlstate, message, detail, hint, context, retry_at)"
				" VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
		 .nargs = 8,
		 .types = {TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}};
	static MillStatement prune =
		{.sql = "DELETE FROM mill_catalog.error WHERE object_kind = $1 AND object_id = $2"
				" AND id <= (SELECT e.id FROM mill_catalog.error e"
				"  WHERE e.object_kind = $1 AND e.object_id = $2"
				"  ORDER BY e.id DESC OFFSET 100 LIMIT 1)",
		 .nargs = 2,
		 .types = {TEXTOID, INT8OID}};
	const char *texts[8] = {kind,			NULL,		   unpack_sql_state(error->sqlerrcode),
							error->message, error->detail, error->hint,
							error->context, NULL};
	Datum values[8];
	char nulls[8];

	mill_xact_begin("recording an error");
	for (int i = 0; i < 8; i++)
	{
		values[i] = texts[i] ? CStringGetTextDatum(texts[i]) : (Datum) 0;
		nulls[i] = texts[i] ? ' ' : 'n';
	}
	values[1] = Int64GetDatum(object_id);
	nulls[1] = ' ';
	values[7] = TimestampTzGetDatum(retry_at);
	nulls[7] = retry_at ? ' ' : 'n';

	SPI_connect();
	/* without the extension there is no table to record it in */
	if (OidIsValid(mill_extension()) && mill_run(&repeat, SPI_OK_UPDATE, values, nulls) == 0)
	{
		mill_run(&insert, SPI_OK_INSERT, values, nulls);
		mill_run(&prune, SPI_OK_DELETE, values, NULL);
	}
	SPI_finish();
	mill_xact_commit();
}
