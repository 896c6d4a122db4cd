/*
 * error.h
 *		Classes of errors: what to retry, and whose fault it is; recording errors.
 */
#ifndef MILL_CORE_ERROR_H
#define MILL_CORE_ERROR_H

#include "datatype/timestamp.h"
#include "utils/elog.h"

extern bool mill_error_is_transient(int sqlerrcode);
extern bool mill_error_is_environment(int sqlerrcode);

/* An error as the reason of a worker state; in the current memory context. */
extern const char *mill_error_reason(const ErrorData *error);

/* Call outside of a transaction.  kind is a value of mill_catalog.object_kind. */
extern void mill_error_record(const char *kind, int64 object_id, const ErrorData *error,
							  TimestampTz retry_at);

#endif
