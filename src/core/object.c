/*
 * object.c
 *		Objects that users name and own, rows of a room's table: pipelines and jobs.
 *
 * What all of them have in common, with statements built from the table's name.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "core/catalog.h"
#include "core/object.h"

PG_FUNCTION_INFO_V1(mill_pause);
PG_FUNCTION_INFO_V1(mill_resume);
PG_FUNCTION_INFO_V1(mill_arm);
PG_FUNCTION_INFO_V1(mill_follow_marks);

/* ---- arguments ---- */

char *
mill_text_argument(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/* Values and null flags of arguments, as parameters of a statement. */
void
mill_copy_arguments(FunctionCallInfo fcinfo, int first, int count, Datum *values, char *nulls)
{
	for (int i = 0; i < count; i++)
	{
		values[i] = fcinfo->args[first + i].value;
		nulls[i] = fcinfo->args[first + i].isnull ? 'n' : ' ';
	}
}

void
mill_check_word(const char *argument, const char *value, const char *const *words)
{
	StringInfoData list;

	if (value == NULL)
		return;
	initStringInfo(&list);
	for (int i = 0; words[i]; i++)
	{
		if (strcmp(value, words[i]) == 0)
			return;
		appendStringInfo(&list, "%s%s", i ? ", " : "", words[i]);
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid value for argument \"%s\": \"%s\"", argument, value),
					errhint("Valid values are: %s.", list.data)));
}

int64
mill_interval_length(const Interval *interval)
{
	return interval->time + (interval->day + interval->month * INT64CONST(30)) * USECS_PER_DAY;
}

void
mill_check_range(FunctionCallInfo fcinfo, int number, const char *name, int low, int high)
{
	if (!PG_ARGISNULL(number) && (PG_GETARG_INT32(number) < low || PG_GETARG_INT32(number) > high))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"%s\" is %d, outside of its range %d .. %d", name,
							   PG_GETARG_INT32(number), low, high)));
}

/* ---- creators and names ---- */

/*
 * The prepared statement of a room: the text with the room's table in place of
 * %s.  Each text has an array of statements, by kind, zero at first.
 */
static MillStatement *
statement_of(MillStatement *statements, const MillRoom *room, const char *sql, int nargs,
			 const Oid *types)
{
	MillStatement *statement = &statements[mill_kind_of(room)];

	Assert(room->table);
	if (statement->sql == NULL)
	{
		statement->nargs = nargs;
		for (int i = 0; i < nargs; i++)
			statement->types[i] = types[i];
		statement->sql = MemoryContextStrdup(TopMemoryContext, psprintf(sql, room->table));
	}
	return statement;
}

/* Raise an error if the current user may not own such an object; its workers connect as its owner. */
void
mill_check_creator(const MillRoom *room)
{
	HeapTuple role;
	bool login;

	mill_require_preload();
	if (!has_privs_of_role(GetUserId(), get_role_oid("mill_user", false)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be a member of role \"mill_user\" to create a %s", room->object),
				 errhint("A superuser can say: GRANT mill_user TO %s.",
						 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
	role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	login = HeapTupleIsValid(role) && ((Form_pg_authid) GETSTRUCT(role))->rolcanlogin;
	if (HeapTupleIsValid(role))
		ReleaseSysCache(role);
	if (!login)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("role \"%s\" cannot own a %s, as it may not log in",
							   GetUserNameFromId(GetUserId(), false), room->object),
						errhint("The %s's workers connect as its owner: ALTER ROLE ... LOGIN.",
								room->object)));
}

/* Find an object by name, and lock its row if asked to.  False if the room has none. */
static bool
find_object(const MillRoom *room, const char *name, bool lock, int64 *id, Oid *owner)
{
	static MillStatement statements[2][MILL_ROOMS + 1];
	static const Oid types[] = {TEXTOID};
	const char *sql = lock ? "SELECT id, owner::oid FROM %s WHERE name = $1 FOR UPDATE"
						   : "SELECT id, owner::oid FROM %s WHERE name = $1";
	Datum values[1] = {CStringGetTextDatum(name)};

	if (mill_run(statement_of(statements[lock], room, sql, 1, types), SPI_OK_SELECT, values,
				 NULL) == 0)
		return false;
	*id = DatumGetInt64(mill_value(0, 1, NULL));
	*owner = DatumGetObjectId(mill_value(0, 2, NULL));
	return true;
}

void
mill_check_new_name(const MillRoom *room, const char *name)
{
	if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
		ereport(ERROR, (errcode(ERRCODE_INVALID_NAME),
						errmsg("invalid %s name: \"%s\"", room->object, name),
						errdetail("A name has 1 to %d bytes.", NAMEDATALEN - 1)));
	for (MillKind kind = 1; kind <= mill_room_count(); kind++)
	{
		int64 id;
		Oid owner;

		if (mill_room_of(kind)->table && find_object(mill_room_of(kind), name, false, &id, &owner))
			ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
							errmsg("%s \"%s\" already exists", mill_room_of(kind)->object, name)));
	}
}

/* ---- marks ---- */

static void
execute_utilities(void *arg)
{
	ListCell *lc;

	foreach (lc, (List *) arg)
	{
		if (SPI_execute(lfirst(lc), false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "could not execute \"%s\"", (char *) lfirst(lc));
	}
}

void
mill_mark_create(const MillRoom *room, int64 id, const char *name)
{
	static MillStatement statements[MILL_ROOMS + 1];
	static const Oid types[] = {INT8OID, TEXTOID};
	char *type = psprintf("%s_%lld", room->object, (long long) id);
	char *mark = psprintf("mill_data.%s", type);
	const char *owner = quote_identifier(GetUserNameFromId(GetUserId(), false));
	List *commands = list_make4(psprintf("CREATE TYPE %s AS ()", mark),
								psprintf("REVOKE ALL ON TYPE %s FROM PUBLIC", mark),
								psprintf("ALTER TYPE %s OWNER TO %s", mark, owner),
								psprintf("COMMENT ON TYPE %s IS %s", mark,
										 quote_literal_cstr(psprintf("owner of the %s \"%s\"",
																	 room->object, name))));
	Datum values[2] = {Int64GetDatum(id), CStringGetTextDatum(mark)};

	/* A copied database may have the mark of a row that it lacks. */
	if (SearchSysCacheExists2(TYPENAMENSP, CStringGetDatum(type),
							  ObjectIdGetDatum(get_namespace_oid("mill_data", false))))
		commands = lcons(psprintf("DROP TYPE %s", mark), commands);
	mill_as_extension(execute_utilities, commands);
	mill_run(statement_of(statements, room, "UPDATE %s SET mark = $2::regtype WHERE id = $1", 2,
						  types),
			 SPI_OK_UPDATE, values, NULL);
}

void
mill_object_drop(const MillRoom *room, int64 id)
{
	static MillStatement statements[MILL_ROOMS + 1];
	static const Oid types[] = {INT8OID};
	static const char sql[] =
		"DELETE FROM %s WHERE id = $1 RETURNING (SELECT format('%%I.%%I', n.nspname, t.typname)"
		" FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = mark)";
	Datum values[1] = {Int64GetDatum(id)};
	char *mark;

	mill_run(statement_of(statements, room, sql, 1, types), SPI_OK_DELETE_RETURNING, values, NULL);
	mark = mill_text(0, 1);
	if (mark)
		mill_as_extension(execute_utilities, list_make1(psprintf("DROP TYPE %s", mark)));
}

void
mill_marks_follow_owners(const MillRoom *room)
{
	static MillStatement statements[MILL_ROOMS + 1];
	static const char sql[] =
		"UPDATE %1$s p SET owner = given.typowner, version = version + 1 FROM"
		/* not while a transaction changes the row, nor in a copied database, where owners may differ */
		"  (SELECT q.id, m.typowner FROM %1$s q JOIN pg_type m ON m.oid = q.mark"
		"   WHERE m.typowner <> q.owner AND m.typtype = 'c' AND m.typnamespace = 'mill_data'::regnamespace"
		"   AND q.armed_system = mill_catalog.system_identifier() AND q.armed_database = mill_catalog.database_oid()"
		"   FOR UPDATE OF q SKIP LOCKED) given WHERE p.id = given.id";

	mill_run(statement_of(statements, room, sql, 0, NULL), SPI_OK_UPDATE, NULL, NULL);
}

/* SQL: mill_catalog.follow_marks(), on sql_drop: delete the objects whose marks were dropped. */
Datum
mill_follow_marks(PG_FUNCTION_ARGS)
{
	static MillStatement statements[MILL_ROOMS + 1];
	static const char sql[] = "DELETE FROM %s p USING pg_event_trigger_dropped_objects() o"
							  " WHERE o.classid = 'pg_catalog.pg_type'::regclass AND o.objid = p.mark";

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("this function was not called by an event trigger")));
	SPI_connect();
	for (MillKind kind = 1; kind <= mill_room_count(); kind++)
	{
		const MillRoom *room = mill_room_of(kind);

		if (room->table)
			mill_run(statement_of(statements, room, sql, 0, NULL), SPI_OK_DELETE, NULL, NULL);
	}
	SPI_finish();
	PG_RETURN_NULL();
}

/* ---- pause, resume, arm ---- */

/*
 * The object that the arguments pipeline and job name.  The first one, which a
 * call may pass by position, may name either kind.  The user must own it.
 */
static const MillRoom *
named_object(FunctionCallInfo fcinfo, int64 *id)
{
	char *pipeline = mill_text_argument(fcinfo, 0);
	char *job = mill_text_argument(fcinfo, 1);
	const char *name = pipeline ? pipeline : job;

	if ((pipeline == NULL) == (job == NULL))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("name a pipeline or a job"),
						errhint("For example: mill.pause('name').")));
	for (MillKind kind = 1; kind <= mill_room_count(); kind++)
	{
		const MillRoom *room = mill_room_of(kind);
		Oid owner;

		if (room->table == NULL || (job && strcmp(room->object, "job") != 0) ||
			!find_object(room, name, true, id, &owner))
			continue;
		if (!has_privs_of_role(GetUserId(), owner))
			ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
							errmsg("must be owner of %s \"%s\"", room->object, name)));
		return room;
	}
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("%s \"%s\" does not exist", job ? "job" : "pipeline", name)));
}

/* SQL: mill.pause(pipeline, job) */
Datum
mill_pause(PG_FUNCTION_ARGS)
{
	static MillStatement statements[MILL_ROOMS + 1];
	static const Oid types[] = {INT8OID};
	static const char sql[] = "UPDATE %s SET enabled = false, pause_reason = NULL,"
							  " state_at = clock_timestamp(), version = version + 1"
							  " WHERE id = $1 AND enabled";
	const MillRoom *room;
	int64 id;

	SPI_connect();
	room = named_object(fcinfo, &id);
	mill_run(statement_of(statements, room, sql, 1, types), SPI_OK_UPDATE,
			 (Datum[]){Int64GetDatum(id)}, NULL);
	SPI_finish();
	PG_RETURN_VOID();
}

/* SQL: mill.resume(pipeline, job) */
Datum
mill_resume(PG_FUNCTION_ARGS)
{
	static MillStatement statements[MILL_ROOMS + 1];
	static const Oid types[] = {INT8OID};
	static const char sql[] = "UPDATE %s SET enabled = true, pause_reason = NULL,"
							  " state_at = clock_timestamp(), version = version + 1"
							  " WHERE id = $1";
	const MillRoom *room;
	int64 id;

	mill_require_preload();
	SPI_connect();
	room = named_object(fcinfo, &id);
	mill_run(statement_of(statements, room, sql, 1, types), SPI_OK_UPDATE,
			 (Datum[]){Int64GetDatum(id)}, NULL);
	if (room->resumed)
		room->resumed(id);
	SPI_finish();
	PG_RETURN_VOID();
}

/* SQL: mill.arm(refill) */
Datum
mill_arm(PG_FUNCTION_ARGS)
{
	static MillStatement statements[MILL_ROOMS + 1];
	static const char sql[] = "UPDATE %s SET armed_system = mill_catalog.system_identifier(),"
							  " armed_database = mill_catalog.database_oid(), version = version + 1";

	if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("must be superuser to arm a copied database")));
	SPI_connect();
	for (MillKind kind = 1; kind <= mill_room_count(); kind++)
	{
		const MillRoom *room = mill_room_of(kind);

		if (room->table)
			mill_run(statement_of(statements, room, sql, 0, NULL), SPI_OK_UPDATE, NULL, NULL);
		if (room->armed)
			room->armed(PG_ARGISNULL(0) || PG_GETARG_BOOL(0));
	}
	SPI_finish();
	PG_RETURN_VOID();
}
