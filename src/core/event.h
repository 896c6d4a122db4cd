/*
 * event.h
 *		What was done to objects and what became of them, for mill.events.
 *
 * Rows of pipelines, aggregates and jobs tell of themselves, by a trigger; this
 * is for what no row of theirs shows.
 */
#ifndef MILL_CORE_EVENT_H
#define MILL_CORE_EVENT_H

#include "postgres_ext.h"

/*
 * Note an event of an object of this kind (mill_catalog.object_kind), in the
 * current transaction, with SPI connected; detail is a JSON object or NULL.
 */
extern void mill_event_note(const char *kind, int64 object_id, const char *object, Oid owner,
							const char *event, const char *detail);

#endif
