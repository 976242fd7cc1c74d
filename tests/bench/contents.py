"""The expected content of a file, read by other queries than those of the service and its rivals.

Records are compared as a multiset: their number, and the sum of a 64-bit hash of each record's canonical JSON.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import asyncpg
import orjson
from isal.igzip import IGzipFile

from tests.bench.workloads import Dates, Workload

_CHUNK = 1024 * 1024
_PREFETCH = 2000
_NEWEST_TOKENS = 5

_CONTACTS = """
SELECT id, email, name, phone, location FROM contacts
 WHERE space_id = $1 AND created_at >= $2 AND created_at < $3 AND merged_into IS NULL ORDER BY id
"""
_VALUES = """
SELECT v.contact_id, v.{column} FROM {table} v JOIN contacts c ON c.id = v.contact_id
 WHERE c.space_id = $1 AND c.created_at >= $2 AND c.created_at < $3
 ORDER BY v.contact_id, v.last_seen_at DESC, v.{column} COLLATE "C"
"""


class WrongFile(Exception):
    """The content of a file is wrong, so its duration is meaningless."""


@dataclass(slots=True)
class Multiset:
    """Records regardless of their order."""

    count: int = 0
    digest: int = 0

    def add(self, record: dict[str, Any]) -> None:
        """Add a record. The order of its keys does not matter, because the rivals guarantee none."""
        self.count += 1
        # The hash of bytes is SipHash with a random key of this process: 64 bits, and valid only within this run.
        self.digest = (self.digest + hash(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))) % 2**64


class Expected:
    """The records of one export, and the files that were found to contain them."""

    def __init__(self, records: Multiset) -> None:
        self.records = records
        self._right: set[bytes] = set()

    def check(self, file: Path) -> None:
        """Raise WrongFile if the content is wrong. Lines that were checked before are not parsed again."""
        lines = _digest_of_lines(file)
        if lines in self._right:
            return
        found = Multiset()
        with _opened(file) as stream:
            for line in stream:
                found.add(orjson.loads(line))
        if found != self.records:
            raise WrongFile(f"{file.name} has {found.count} records that differ from the expected {self.records.count}")
        self._right.add(lines)


async def expected(dsn: str, space_id: int, dates: Dates, workload: Workload) -> Expected:
    """Return the expected content: the three tables are read separately and combined here."""
    where = (space_id, dates.start, dates.end)
    records = Multiset()
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            contacts = connection.cursor(_CONTACTS, *where, prefetch=_PREFETCH)
            tokens = _Values(connection, "comet_tokens", "token", where) if workload.tokens else None
            emails = _Values(connection, "contact_emails", "email", where) if workload.emails else None
            async for contact in contacts:
                record = dict(contact)
                if tokens is not None:
                    record["comet_tokens"] = (await tokens.of(record["id"]))[:_NEWEST_TOKENS]
                if emails is not None:
                    record["emails"] = await emails.of(record["id"])
                records.add(record)
    finally:
        await connection.close()
    return Expected(records)


class _Values:
    """The values of one contact after another, ids ascending, newest value first."""

    def __init__(self, connection: asyncpg.Connection, table: str, column: str, where: Sequence[Any]) -> None:
        query = _VALUES.format(table=table, column=column)
        self._rows: AsyncIterator[Any] = aiter(connection.cursor(query, *where, prefetch=_PREFETCH))
        self._next: tuple[int, str] | None = (0, "")

    async def of(self, contact_id: int) -> list[str]:
        """Return all values of this contact; calls must have ascending ids."""
        values = []
        while self._next is not None and self._next[0] <= contact_id:
            if self._next[0] == contact_id:
                values.append(self._next[1])
            self._next = await anext(self._rows, None)
        return values


def _opened(file: Path) -> BinaryIO:
    return cast(BinaryIO, IGzipFile(file))  # type: ignore[no-untyped-call]


def _digest_of_lines(file: Path) -> bytes:
    digest = hashlib.sha256()
    with _opened(file) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()
