"""Forward-only migrations: each file in one transaction, its checksum recorded, one process at a time.

The set `main` is ours. The set `contacts` is applied to the main database only, and only where none of its three names
exists: adopters put relations of their own in their place (see `service.postgres.relations`).
"""

import asyncio
import random

import asyncpg
import structlog

from service.errors import DatabaseUnavailable, SchemaMismatch
from service.postgres.pool import describe, unavailable
from service.postgres.relations import found_relations
from sql import Migration, migrations, statement

_SETS = ("main", "contacts")
_CONNECT_TIMEOUT = 5.0
_CALL_TIMEOUT = 10.0
_STEP_TIMEOUT = 3600.0
"""Seconds one migration may take: on a large table it may build an index."""
_LOCK_PAUSE = 0.2
_LOCK_WAIT = 300.0
"""Seconds another process may take to migrate before this one gives up."""

log = structlog.get_logger()


async def migrate(dsn: str, *, own_contacts: bool = True) -> list[str]:
    """Bring the database up to this version and return the names of what was applied.

    `own_contacts` is False where the contacts live in another database. Any number of processes may call this at once.
    Raises SchemaMismatch for an edited file or a newer database, DatabaseUnavailable.
    """
    connection = await _connect(dsn)
    try:
        await _lock(connection)
        applied = await _ledger(connection)
        for set_name in applied:
            _check(set_name, applied[set_name], newer_by=0)
        done = await _apply(connection, "main", applied)
        if own_contacts and await _contacts_are_ours(connection, applied):
            done += await _apply(connection, "contacts", applied)
        await connection.execute(statement("migration_unlock"))
        return done
    except Exception as error:
        if unavailable(error):
            raise DatabaseUnavailable(detail=describe(error)) from error
        raise
    finally:
        connection.terminate()


async def check_schema(dsn: str, *, own_contacts: bool = True) -> bool:
    """Whether this version can run on the database as it is; False when migrations are missing.

    A database may be one migration newer: migrations only expand, so a rolling upgrade goes on. Raises SchemaMismatch
    for an edited file or a database newer than that, DatabaseUnavailable.
    """
    connection = await _connect(dsn)
    try:
        if not await _has_ledger(connection):
            return False
        applied = await _ledger(connection)
        for set_name, versions in applied.items():
            _check(set_name, versions, newer_by=1)
        wanted = ["main", "contacts"] if own_contacts and await _contacts_are_ours(connection, applied) else ["main"]
        return all(len(applied.get(set_name, {})) >= len(migrations(set_name)) for set_name in wanted)
    except Exception as error:
        if unavailable(error):
            raise DatabaseUnavailable(detail=describe(error)) from error
        raise
    finally:
        connection.terminate()


async def _connect(dsn: str) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(
            dsn,
            timeout=_CONNECT_TIMEOUT,
            command_timeout=_CALL_TIMEOUT,
            server_settings={"application_name": "contact-exports"},
        )
    except Exception as error:
        if unavailable(error):
            raise DatabaseUnavailable(detail=describe(error)) from error
        raise


async def _lock(connection: asyncpg.Connection) -> None:
    async with asyncio.timeout(_LOCK_WAIT):
        while not await connection.fetchval(statement("try_migration_lock")):
            await asyncio.sleep(_LOCK_PAUSE * (0.5 + random.random()))
    if not await _has_ledger(connection):
        await connection.execute(statement("create_schema_migrations"))


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
            raise SchemaMismatch(f"Migration {set_name}/{row['name']} was edited after it had been applied.")
    if max(applied, default=0) > len(known) + newer_by:
        raise SchemaMismatch(
            f"The database is newer than this service: {set_name} is at {max(applied)}, {len(known)} is known."
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
        # A migration must not queue behind a long transaction and block everybody queued behind itself.
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        await connection.execute(migration.text, timeout=_STEP_TIMEOUT)
        await connection.execute(
            statement("record_migration"), set_name, migration.version, migration.name, migration.checksum
        )
