/*
 * room.c
 *		The rooms that have background work, by number.
 *
 * Registered in the same order by every process that loads the library, so
 * that a number in shared memory means the same room to all.
 */
#include "postgres.h"

#include "core/room.h"

/* Rooms are bits of a word in xact.c. */
static const MillRoom *rooms[MILL_ROOMS];
static int count = 0;

void
mill_room_register(const MillRoom *room)
{
	Assert(count < lengthof(rooms));
	Assert(room->kind && room->function && room->desired);
	rooms[count++] = room;
}

MillKind
mill_kind_of(const MillRoom *room)
{
	for (int i = 0; i < count; i++)
	{
		if (rooms[i] == room)
			return i + 1;
	}
	elog(ERROR, "the room of kind %s is not registered", room->kind);
}

const MillRoom *
mill_room_of(MillKind kind)
{
	Assert(kind >= 0 && kind <= count);
	return kind == MILL_KIND_MANAGER ? NULL : rooms[kind - 1];
}

/* A room by the kind of its work; it must be registered. */
const MillRoom *
mill_room_named(const char *kind)
{
	for (int i = 0; i < count; i++)
	{
		if (strcmp(rooms[i]->kind, kind) == 0)
			return rooms[i];
	}
	elog(ERROR, "no room has the kind %s", kind);
}

int
mill_room_count(void)
{
	return count;
}
