"""The foreign schema of docs/adopting.md, made by the statements of the page, in a database of its own."""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote, urlsplit

import asyncpg

from service.postgres.contact_check import check_contacts
from service.postgres.findings import Report
from tests.support import docs
from tests.support.jobs import connect

PAGE = "docs/adopting.md"
PASSWORD = "choose a long one"
_READ_SECONDS = 20.0
"""Long enough that a busy machine changes no finding."""


def page_block(beginning: str) -> str:
    """The block of the page that begins with this text."""
    (text,) = [block.text for block in docs.blocks("sql", PAGE) if block.text.startswith(beginning)]
    return text


@dataclass(frozen=True)
class Adopted:
    """A database with the foreign schema. `owner` is a session of a superuser; `url` has the role of the service."""

    owner: asyncpg.Connection
    tables_owner: str
    """The owner of the tables, who is no superuser and may not create schemas."""
    role: str
    database: str
    url: str

    async def run(self, text: str) -> None:
        """Run statements of the page one by one, with the names of this test instead of those of the page."""
        named = re.sub(r"\b(ROLE|TO|OWNER) contact_exports\b(?!\.)", rf"\1 {self.role}", text)
        named = named.replace("DATABASE crm", f"DATABASE {self.database}").replace("crm_owner", self.tables_owner)
        if "CONCURRENTLY" not in named:
            await self.owner.execute(named)
            return
        for each in named.splitlines():  # such a statement must be alone, and is one line
            await self.owner.execute(each)

    async def run_as_owner(self, text: str) -> None:
        """Run statements of the page as the owner of the tables."""
        await self.owner.execute(f"SET ROLE {self.tables_owner}")
        try:
            await self.run(text)
        finally:
            await self.owner.execute("RESET ROLE")

    async def fill(self, people: int, *, analyze: bool = True) -> None:
        """Add people of two tenants, with two addresses and three sightings each. Every other one is of the tenant acme."""
        for table in ("crm.people", "crm.sightings"):  # autovacuum would also analyze them, at any time
            await self.owner.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await _fill(self.owner, people)
        if analyze:
            await self.owner.execute("ANALYZE crm.people, crm.sightings, contact_exports.tenant_spaces")

    async def check(self, *, seconds: float = _READ_SECONDS, space_id: int | None = 1) -> Report:
        """What `contact-exports contacts check` finds with the role of the service."""
        return await check_contacts(
            self.url, space_id=space_id, each=timedelta(seconds=seconds), total=timedelta(seconds=10 * seconds)
        )


@asynccontextmanager
async def adopted(server_url: str, people: int) -> AsyncIterator[Adopted]:
    """Create the schema and its views; then this many people, a tenth of them merged and a tenth deleted."""
    suffix = secrets.token_hex(6)
    role, tables_owner, database = f"exports_{suffix}", f"crm_{suffix}", f"contact_exports_test_{suffix}"
    url = urlsplit(server_url)._replace(path=f"/{database}").geturl()
    async with connect(server_url) as server:
        await server.execute(f"CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            async with connect(url) as owner:
                made = Adopted(owner, tables_owner, role, database, as_role(url, role))
                await owner.execute(f"CREATE ROLE {tables_owner}; GRANT CREATE ON DATABASE {database} TO {tables_owner}")
                await made.run_as_owner(page_block("CREATE SCHEMA crm"))
                await owner.execute(f"REVOKE CREATE ON DATABASE {database} FROM {tables_owner}")
                await made.run(page_block("CREATE ROLE").replace("CREATE DATABASE", "-- made by the tests that need it:"))
                await made.run(page_block("ALTER ROLE"))
                await made.run_as_owner(page_block("CREATE TABLE contact_exports.tenant_spaces"))
                await made.run_as_owner(page_block("CREATE VIEW"))
                if people:
                    await made.fill(people)
                yield made
        finally:
            await server.execute(f"DROP DATABASE {database} WITH (FORCE)")
            await server.execute(f"DROP ROLE IF EXISTS {role}, {tables_owner}")


def as_role(url: str, role: str) -> str:
    """The same database with the role and password of the page."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{role}:{quote(PASSWORD)}@{parts.netloc.rpartition('@')[2]}").geturl()


async def _fill(owner: asyncpg.Connection, people: int) -> None:
    await owner.execute("INSERT INTO contact_exports.tenant_spaces VALUES ('other', 2)")
    await owner.execute(
        """INSERT INTO crm.people (person_key, tenant, created, addresses, full_name, deleted_at, duplicate_of)
           SELECT md5(n::text)::uuid, CASE n % 2 WHEN 0 THEN 'acme' ELSE 'other' END,
                  '2024-03-01'::timestamp + n * interval '1 second',
                  format('[{"mail": "user%1$s@example.org", "seen": "2024-05-01T08:00:00"},
                           {"mail": "old%1$s@example.org", "seen": "2024-04-01T08:00:00"}]', n)::jsonb,
                  'Name ' || n, CASE n % 10 WHEN 3 THEN '2024-06-01'::timestamp END,
                  CASE n % 10 WHEN 8 THEN md5((n - 2)::text)::uuid END
             FROM generate_series(1, $1::int) n""",
        people,
    )
    await owner.execute(
        """INSERT INTO crm.sightings
           SELECT md5(n::text)::uuid, format('token-%s-%s', n, m), '2024-05-01'::timestamp + m * interval '1 minute'
             FROM generate_series(1, $1::int) n, generate_series(1, 3) m""",
        people,
    )
