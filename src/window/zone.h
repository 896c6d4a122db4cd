/*
 * zone.h
 *		Local time that never goes backwards, and when clocks are set.
 */
#ifndef MILL_WINDOW_ZONE_H
#define MILL_WINDOW_ZONE_H

#include "datatype/timestamp.h"
#include "pgtime.h"

extern pg_tz *mill_zone_lookup(const char *name, bool missing_ok);
extern TimestampTz mill_zone_change(pg_tz *zone, TimestampTz at);
extern Timestamp mill_zone_local(pg_tz *zone, TimestampTz at);
extern Timestamp mill_zone_reached(pg_tz *zone, TimestampTz at);
extern TimestampTz mill_zone_first(pg_tz *zone, Timestamp local);

#endif
