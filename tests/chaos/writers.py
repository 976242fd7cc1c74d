"""Sessions that change the contacts of the live Space and record the contacts after each transaction."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from tests.chaos.world import TROUBLE, World

WRITERS = 3
_FIRST_CONTACTS = 150
_PAUSE = (0.02, 0.25)
_OPEN_SECONDS = (0.5, 2.5)
_SEEN_FIRST = datetime(2024, 5, 1, tzinfo=UTC)
_DEADLINE = 60.0


@dataclass(frozen=True)
class Person:
    """A contact as its line shows it; email addresses and tokens have the time they were last seen."""

    id: int
    created_at: datetime
    email: str
    name: str
    emails: dict[str, datetime]
    tokens: dict[str, datetime]

    def line(self, *, tokens: bool, emails: bool) -> dict[str, Any]:
        """Return the line of an export with these options."""
        line: dict[str, Any] = {"id": self.id, "email": self.email, "name": self.name, "phone": None, "location": None}
        if tokens:
            line["comet_tokens"] = _newest_first(self.tokens)[:5]
        if emails:
            line["emails"] = _newest_first(self.emails)
        return line


_NEVER, _ALWAYS = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@dataclass
class Write:
    """One transaction: the contacts it changed (None: deleted). Committed after `before` and by `after`."""

    changes: dict[int, Person | None] = field(default_factory=dict)
    before: datetime = _NEVER
    after: datetime = _ALWAYS


class Writer:
    """Runs one transaction after another on contacts that no other writer changes, and reconnects after errors."""

    def __init__(self, world: World, rng: random.Random, number: int, space_id: int) -> None:
        self.writes: list[Write] = []
        """The committed transactions, in order."""
        self._world = world
        self._rng = rng
        self._number = number
        self._space_id = space_id
        self._people: dict[int, Person] = {}
        self._stopping = False
        self._made = 0
        self._begun = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def begun(self) -> None:
        """Wait until the first contacts are committed."""
        await self._begun.wait()

    async def stop(self) -> None:
        """Finish the open transaction and stop."""
        self._stopping = True
        async with asyncio.timeout(_DEADLINE):
            await self._task

    async def _run(self) -> None:
        unknown: Write | None = None
        while unknown is not None or not self._stopping:
            try:
                async with self._world.connection(f"chaos writer {self._number}") as session:
                    if unknown is not None:
                        await self._resolve(session, unknown)
                        unknown = None
                    while not self._stopping:
                        write = unknown = Write()
                        await self._write(session, write)
                        unknown = None
                        await asyncio.sleep(self._rng.uniform(*_PAUSE))
            except TROUBLE:
                await asyncio.sleep(0.1)

    async def _write(self, session: asyncpg.Connection, write: Write) -> None:
        await session.execute("BEGIN")
        if not self.writes:
            await self._insert(session, write, _FIRST_CONTACTS)
        else:
            await self._rng.choice(self._steps())(session, write)
        await session.execute("INSERT INTO chaos.writes VALUES ($1, $2)", self._number, len(self.writes))
        write.before = await session.fetchval("SELECT clock_timestamp()")
        await session.execute("COMMIT")
        write.after = await session.fetchval("SELECT clock_timestamp()")
        self._committed(write)

    async def _resolve(self, session: asyncpg.Connection, write: Write) -> None:
        """Find out whether a transaction without a response was committed, after its session has ended."""
        others = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid())"
        async with asyncio.timeout(_DEADLINE):
            while await session.fetchval(others, f"chaos writer {self._number}"):
                await asyncio.sleep(0.05)
        known = "SELECT clock_timestamp() FROM chaos.writes WHERE writer = $1 AND n = $2"
        if (after := await session.fetchval(known, self._number, len(self.writes))) is not None:
            write.after = min(write.after, after)
            self._committed(write)

    def _committed(self, write: Write) -> None:
        self.writes.append(write)
        for contact_id, person in write.changes.items():
            if person is None:
                del self._people[contact_id]
            else:
                self._people[contact_id] = person
        self._begun.set()

    def _steps(self) -> list[Callable[[asyncpg.Connection, Write], Any]]:
        growing = len(self._people) < 2 * _FIRST_CONTACTS
        return [self._add, self._add if growing else self._remove, self._add_slowly, self._remove, self._merge, self._rename]

    async def _add(self, session: asyncpg.Connection, write: Write) -> None:
        await self._insert(session, write, self._rng.randint(1, 6))

    async def _add_slowly(self, session: asyncpg.Connection, write: Write) -> None:
        """Add contacts that become visible long after their creation time."""
        await self._insert(session, write, 2)
        if self._rng.random() < 0.3:
            await asyncio.sleep(self._rng.uniform(*_OPEN_SECONDS))

    async def _insert(self, session: asyncpg.Connection, write: Write, count: int) -> None:
        for _ in range(count):
            self._made += 1
            mark = f"w{self._number}-{self._made}"
            email, name = f"{mark}@example.org", f"Name {mark}"
            row = await session.fetchrow(
                "INSERT INTO contacts (space_id, email, name) VALUES ($1, $2, $3) RETURNING id, created_at",
                self._space_id,
                email,
                name,
            )
            assert row is not None
            emails = {value: self._seen() for value in (email, f"second-{email}")[: self._rng.randint(1, 2)]}
            tokens = {f"token-{mark}-{n}": self._seen() for n in range(self._rng.randint(0, 7))}
            await _store(session, "contact_emails", "email", row["id"], emails)
            await _store(session, "comet_tokens", "token", row["id"], tokens)
            write.changes[row["id"]] = Person(row["id"], row["created_at"], email, name, emails, tokens)

    async def _remove(self, session: asyncpg.Connection, write: Write) -> None:
        contact_id = self._rng.choice(list(self._people))
        for table, column in (("contact_emails", "contact_id"), ("comet_tokens", "contact_id"), ("contacts", "id")):
            await session.execute(f"DELETE FROM {table} WHERE {column} = $1", contact_id)
        write.changes[contact_id] = None

    async def _merge(self, session: asyncpg.Connection, write: Write) -> None:
        survivor, merged = (self._people[chosen] for chosen in self._rng.sample(list(self._people), 2))
        await session.execute("SELECT merge_contacts($1, $2)", survivor.id, merged.id)
        # The primary email address counts as seen when the contact was created.
        addresses = _latest(merged.emails, {merged.email: merged.created_at})
        write.changes[merged.id] = None
        write.changes[survivor.id] = replace(
            survivor, emails=_latest(survivor.emails, addresses), tokens=_latest(survivor.tokens, merged.tokens)
        )

    async def _rename(self, session: asyncpg.Connection, write: Write) -> None:
        person = self._people[self._rng.choice(list(self._people))]
        self._made += 1
        renamed = replace(person, name=f"Name w{self._number}-{self._made}")
        await session.execute("UPDATE contacts SET name = $2 WHERE id = $1", person.id, renamed.name)
        write.changes[person.id] = renamed

    def _seen(self) -> datetime:
        return _SEEN_FIRST + timedelta(seconds=self._rng.randint(0, 10**7))


async def _store(session: asyncpg.Connection, table: str, column: str, contact_id: int, values: dict[str, datetime]) -> None:
    await session.execute(
        f"INSERT INTO {table} (contact_id, {column}, last_seen_at) SELECT $1, * FROM unnest($2::text[], $3::timestamptz[])",
        contact_id,
        list(values),
        list(values.values()),
    )


def _latest(one: dict[str, datetime], other: dict[str, datetime]) -> dict[str, datetime]:
    floor = datetime.min.replace(tzinfo=UTC)
    return {value: max(one.get(value, floor), other.get(value, floor)) for value in {**one, **other}}


def _newest_first(values: dict[str, datetime]) -> list[str]:
    return sorted(values, key=lambda value: (-values[value].timestamp(), value))
