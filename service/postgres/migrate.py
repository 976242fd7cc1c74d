"""Forward-only migrations: one transaction per file, with a recorded checksum, by one process at a time.

The set `main` has the service's own tables. The set `contacts` is applied only to the main database, and only if none of its
three relations exists: adopters create their own instead (see `service.postgres.relations`).
"""

import asyncio
import random
from datetime import timedelta

import asyncpg
import structlog

from service.errors import SchemaMismatch
from service.postgres.addresses import Dsn
from service.postgres.relations import found_relations
from service.postgres.single_connection import single_connection
from sql import Migration, migrations, statement

_SETS = ("main", "contacts")
_CALL_TIMEOUT = timedelta(seconds=10)
_STEP_TIMEOUT = timedelta(hours=1)
"""Timeout of one migration: on a large table it may build an index."""
_LOCK_PAUSE = timedelta(seconds=0.2)
_LOCK_WAIT = timedelta(minutes=5)
"""How long to wait for another process that is migrating."""

EMPTY_CONTACTS = (
    "The main database now has empty tables contacts, contact_emails and comet_tokens."
    " If your contacts are elsewhere, set CONTACTS_DATABASE_URL."
)

log = structlog.get_logger()


async def migrate(dsn: Dsn, *, own_contacts: bool = True) -> list[str]:
    """Apply missing migrations and return their names. Any number of processes may call this concurrently.

    `own_contacts` is False if the contacts are in another database. Raises SchemaMismatch for an edited file or a newer
    database, and if the role has too few rights or no schema; DatabaseUnavailable.
    """
    async with single_connection(dsn, command_timeout=_CALL_TIMEOUT) as connection:
        await _lock(connection)
        applied = await _ledger(connection)
        for set_name in applied:
            _check(set_name, applied[set_name], newer_by=0)
        done = await _apply(connection, "main", applied)
        if own_contacts and await _contacts_are_ours(connection, applied):
            created = await _apply(connection, "contacts", applied)
            done += created
            if created and "contacts" not in applied:
                log.info("contacts_created", detail=EMPTY_CONTACTS)
        await connection.execute(statement("migration_unlock"))
        return done


async def check_schema(dsn: Dsn, *, own_contacts: bool = True) -> bool:
    """Whether this version can run on the database as it is; False if migrations are missing.

    A database may be one migration newer, because migrations only expand and a rolling upgrade must continue. Raises
    SchemaMismatch for an edited file or a database newer than that, DatabaseUnavailable.
    """
    async with single_connection(dsn, command_timeout=_CALL_TIMEOUT) as connection:
        if not await _has_ledger(connection):
            await _creation_schema(connection)
            return False
        applied = await _ledger(connection)
        for set_name, versions in applied.items():
            _check(set_name, versions, newer_by=1)
        wanted = ["main", "contacts"] if own_contacts and await _contacts_are_ours(connection, applied) else ["main"]
        return all(len(applied.get(set_name, {})) >= len(migrations(set_name)) for set_name in wanted)


async def _lock(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(_LOCK_WAIT.total_seconds()):
        while not await connection.fetchval(statement("try_migration_lock")):
            await asyncio.sleep(_LOCK_PAUSE.total_seconds() * (0.5 + random.random()))
    if not await _has_ledger(connection):
        schema = await _creation_schema(connection)
        if not schema["may_create"]:
            raise SchemaMismatch(
                f"The role {schema['role']} may not create tables. As the owner of the schema run:"
                f" GRANT CREATE ON SCHEMA {schema['schema']} TO {schema['role']}"
            )
        await connection.execute(statement("create_schema_migrations"))


async def _creation_schema(connection: asyncpg.Connection) -> asyncpg.Record:
    """Where tables are created. Raises SchemaMismatch if the search_path has no schema for them."""
    row = await connection.fetchrow(statement("creation_schema"))
    if row is None or row["schema"] is None:
        raise SchemaMismatch(
            "The search_path of the database role names no schema that exists and that it may use."
            " Set one, for example: ALTER ROLE name SET search_path = public"
        )
    return row


async def _has_ledger(connection: asyncpg.Connection) -> bool:
    return bool(await connection.fetchval(statement("has_schema_migrations")))


async def _ledger(connection: asyncpg.Connection) -> dict[str, dict[int, asyncpg.Record]]:
    applied: dict[str, dict[int, asyncpg.Record]] = {}
    for row in await connection.fetch(statement("applied_migrations")):
        applied.setdefault(row["set_name"], {})[row["version"]] = row
    return applied


def _check(set_name: str, applied: dict[int, asyncpg.Record], *, newer_by: int) -> None:
    known = {migration.version: migration for migration in migrations(set_name)} if set_name in _SETS else {}
    for version, row in applied.items():
        if version in known and known[version].checksum != row["checksum"]:
            raise SchemaMismatch(f"Migration {set_name}/{row['name']} was edited after it was applied.")
    if max(applied, default=0) > len(known) + newer_by:
        raise SchemaMismatch(
            f"The database is newer than this service: {set_name} is at version {max(applied)}, not {len(known)}."
        )


async def _contacts_are_ours(connection: asyncpg.Connection, applied: dict[str, dict[int, asyncpg.Record]]) -> bool:
    if "contacts" in applied:
        return True
    return not await found_relations(connection)


async def _apply(connection: asyncpg.Connection, set_name: str, applied: dict[str, dict[int, asyncpg.Record]]) -> list[str]:
    missing = [migration for migration in migrations(set_name) if migration.version not in applied.get(set_name, {})]
    for migration in missing:
        await _apply_one(connection, set_name, migration)
        log.info("migration_applied", set=set_name, migration=migration.name)
    return [f"{set_name}/{migration.name}" for migration in missing]


async def _apply_one(connection: asyncpg.Connection, set_name: str, migration: Migration) -> None:
    async with connection.transaction():
        # A migration that waits for a long transaction would block every session that waits for the migration.
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        try:
            await connection.execute(migration.text, timeout=_STEP_TIMEOUT.total_seconds())
        except asyncpg.InsufficientPrivilegeError as error:
            raise SchemaMismatch(
                f"The database role may not apply the migration {set_name}/{migration.name}: {error.message}."
                " Run contact-exports migrate with the role that owns the tables."
            ) from error
        await connection.execute(
            statement("record_migration"), set_name, migration.version, migration.name, migration.checksum
        )
