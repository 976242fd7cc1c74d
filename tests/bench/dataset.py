"""The measured contacts: one database per size, created once and kept as long as the server's directory.

The measured Space shares its tables with four other Spaces whose contacts were created in turn, so neighbors in the table
belong to different Spaces, as in any multi-tenant table. Tokens and email addresses are those of the sample contacts: per
contact 1.6 addresses (at most 6) and 3 tokens (at most 12).
"""

import hashlib
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from service.access import Access
from service.embedded.postgres import EmbeddedPostgres
from service.model import Scope
from service.postgres.access import AccessTables
from service.postgres.migrate import migrate
from service.postgres.pool import Database
from sql import migrations, statement
from tests.bench.workloads import YEAR, Dates
from tests.support.contacts import Tenant

PARAMETERS = {"shared_buffers": "1GB", "maintenance_work_mem": "256MB", "max_wal_size": "2GB"}
"""Server parameters that differ from the defaults: tables are read from memory, and checkpoints are rare."""

OTHER_SPACES = 4
_LAYOUT = "extras in runs"
"""Part of the names of databases; changes when rows or indexes change in a way that the statements do not show."""
_LAST = YEAR.end - timedelta(days=1)
_MERGED_EVERY = 50
"""The sample data merges every 50th profile into another, so this many more profiles give the requested lines."""


@dataclass(frozen=True, slots=True)
class Size:
    """Contacts of the measured Space and of all other Spaces.

    `with_extras` of them have tokens and email addresses: a third each at the start, in the middle and at the end.
    """

    measured: int
    others: int
    with_extras: int
    custom_fields: bool = False

    @property
    def database(self) -> str:
        """A name that changes whenever the rows or their indexes change."""
        filled = "_fields" * self.custom_fields
        return f"contacts_{self.measured}_{self.others}_{self.with_extras}{filled}_{_version()}"

    def runs(self, total: int) -> list[tuple[int, int]]:
        """The first id and the number of each run of contacts with extras, among `total` with ids from 1 on."""
        if self.with_extras >= total:
            return [(1, total)]
        # The sample data gives most values to one in 50 contacts, counted from the first id.
        length = self.with_extras // 3 // _MERGED_EVERY * _MERGED_EVERY
        return [(start // _MERGED_EVERY * _MERGED_EVERY + 1, length) for start in (0, total // 2, total - length)]


@dataclass(frozen=True, slots=True)
class Contacts:
    """A database with contacts. The first Space is the measured one."""

    dsn: str
    spaces: tuple[Tenant, ...]
    count: int

    async def first(self, count: int, space: int = 0) -> Dates:
        """Return the dates that contain the first `count` contacts of a Space, and others of the same second."""
        connection = await asyncpg.connect(self.dsn)
        try:
            end = await connection.fetchval(_CREATION_OF, self.spaces[space].space_id, count - 1)
        finally:
            await connection.close()
        return YEAR if end is None else Dates(YEAR.start, end + timedelta(seconds=1))

    async def middle(self, count: int) -> Dates:
        """Return dates that contain about `count` contacts from the middle of the measured Space."""
        before, after = await self.first(self.count // 2), await self.first(self.count // 2 + count)
        return Dates(before.end, after.end)


_CREATION_OF = """
SELECT date_trunc('second', created_at) FROM contacts WHERE space_id = $1 AND merged_into IS NULL
 ORDER BY created_at, id OFFSET $2 LIMIT 1
"""

_SHARE = """
CREATE FUNCTION bench_share() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.space_id := 2 + abs(hashint8((NEW.id - 1) / 2) % {other_spaces});
  RETURN NEW;
END $$;
CREATE TRIGGER bench_share BEFORE INSERT ON contacts
  FOR EACH ROW WHEN ((NEW.id - 1) / 2 * {others} % {total} < {others}) EXECUTE FUNCTION bench_share();
"""
"""Assigns some contacts to other Spaces, in pairs, because a merged profile must stay with its survivor."""


_CUSTOM_FIELDS = """
UPDATE contacts SET custom_fields = jsonb_build_object(
  'plan', 'plan ' || id % 5, 'score', id % 1000, 'tags', jsonb_build_array('tag ' || id % 7, 'tag ' || id % 11))
"""


async def open_contacts(server: EmbeddedPostgres, size: Size) -> Contacts:
    """Open the database of this size, create it if it does not exist, and empty its queue."""
    await _make(server, size)
    dsn = server.dsn(size.database)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "TRUNCATE export_jobs, export_attempts, webhook_deliveries, idempotency_keys, api_keys, rate_limit_windows"
        )
        await connection.execute("DELETE FROM spaces WHERE id > $1", 1 + OTHER_SPACES)
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    async with Database(dsn, application_name="bench", size=1) as database:
        callers = Access(AccessTables(database))
        spaces = [Tenant(space, await callers.create_key(space, Scope)) for space in range(1, 2 + OTHER_SPACES)]
    return Contacts(dsn, tuple(spaces), size.measured)


async def new_spaces(dsn: str, count: int) -> list[Tenant]:
    """Create Spaces without contacts."""
    async with Database(dsn, application_name="bench", size=1) as database:
        callers = Access(AccessTables(database))
        spaces = [await callers.create_space("Bench", "UTC") for _ in range(count)]
        return [Tenant(space, await callers.create_key(space, Scope)) for space in spaces]


async def empty_database(server: EmbeddedPostgres, name: str) -> str:
    """Create or replace a database of this name, migrate it, and return its URL."""
    connection = await asyncpg.connect(server.dsn())
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {name}")
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    finally:
        await connection.close()
    await migrate(server.dsn(name))
    return server.dsn(name)


def _version() -> str:
    texts = [migration.text for migration in migrations("main") + migrations("contacts")]
    texts += [statement(name) for name in ("sample_contacts", "sample_emails", "sample_tokens")]
    return hashlib.sha256("".join([*texts, _SHARE, _CUSTOM_FIELDS, _LAYOUT]).encode()).hexdigest()[:8]


async def _make(server: EmbeddedPostgres, size: Size) -> None:
    connection = await asyncpg.connect(server.dsn())
    try:
        names = [row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")]
        if size.database in names:
            return
        for outdated in names:
            if outdated.startswith("contacts_") and not outdated.endswith(_version()):
                await connection.execute(f"DROP DATABASE {outdated}")
        # It gets its name only when it is complete.
        await _fill(await empty_database(server, "being_made"), size)
        await connection.execute(f"ALTER DATABASE being_made RENAME TO {size.database}")
    finally:
        await connection.close()


async def _fill(dsn: str, size: Size) -> None:
    total = (size.measured + size.others) * _MERGED_EVERY // (_MERGED_EVERY - 1) + 1
    async with Database(dsn, application_name="bench", size=1) as database:
        callers = Access(AccessTables(database))
        for number in range(1 + OTHER_SPACES):
            await callers.create_space(f"Bench {number}", "UTC")
    connection = await asyncpg.connect(dsn)
    try:
        indexes = await connection.fetch(
            "SELECT indexname, indexdef FROM pg_indexes WHERE indexdef LIKE 'CREATE INDEX%' AND tablename = ANY ($1)",
            ["contacts", "contact_emails", "comet_tokens"],
        )
        await connection.execute("; ".join(f"DROP INDEX {index['indexname']}" for index in indexes))
        share = _SHARE.format(others=size.others, total=size.measured + size.others, other_spaces=OTHER_SPACES)
        await connection.execute(share)
        await connection.execute(statement("sample_contacts"), 1, total, 1, YEAR.start, _LAST, 0)
        await connection.execute("DROP FUNCTION bench_share CASCADE")
        for first, count in size.runs(total):
            for name in ("sample_emails", "sample_tokens"):
                await connection.execute(statement(name), first, count, _LAST, 0)
        if size.custom_fields:
            await connection.execute(_CUSTOM_FIELDS)
            await connection.execute("VACUUM FULL contacts")
        for index in indexes:
            await connection.execute(index["indexdef"])
        await connection.execute(statement("sample_vacuum"))
    finally:
        await connection.close()
