/*
 * error.h
 *		Whose fault an error is by its class, and the record of errors.
 */
#ifndef MILL_CORE_ERROR_H
#define MILL_CORE_ERROR_H

#include "datatype/timestamp.h"
#include "utils/elog.h"

extern bool mill_error_is_transient(int sqlerrcode);
extern bool mill_error_is_environment(int sqlerrcode);

/* An error in the words of a state's reason; in the current memory context. */
extern const char *mill_error_reason(const ErrorData *error);

/* Outside of a transaction, in one of its own; kind: a value of mill_catalog.object_kind. */
extern void mill_error_record(const char *kind, int64 object_id, const ErrorData *error,
							  TimestampTz retry_at);

#endif
