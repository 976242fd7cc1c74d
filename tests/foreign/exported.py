"""A Space full of contacts, its export, and programs that read the export."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from service.client import ExportClient
from service.model import Extra
from service.postgres.sample_contacts import SampleContacts
from tests.support import postgres
from tests.support.contacts import FIRST, Tenant, expected_lines, tenant, whole_range
from tests.support.jobs import connect
from tests.support.program import running

CONTACTS = int(os.environ.get("FOREIGN_CONTACTS", "10000"))
_SECONDS = 600.0

_ROUGH = """
UPDATE contacts
   SET phone = CASE WHEN id % 3 = 0 THEN lpad(id::text, 18, '0') ELSE phone END,
       name = CASE WHEN id % 7 = 0 THEN name || U&'\\2028\\0085' || E'\\n"\\\\' ELSE name END,
       location = CASE WHEN id > $1 THEN location END
 WHERE space_id = $2
"""
"""Gives the contacts what docs/consuming.md warns of: phones of digits only, a sparse column, line separators."""


@dataclass(frozen=True)
class Exported:
    """A running service whose Space has a completed export with tokens and addresses; `link` is its link."""

    address: str
    space: Tenant
    link: str


@asynccontextmanager
async def filled_database(server_url: str, template: str) -> AsyncIterator[tuple[str, Tenant, list[dict[str, Any]]]]:
    """The name of a database with one Space of CONTACTS contacts, whose ids are all above 2^53, and their records."""
    async with postgres.database(server_url, template) as url:
        space = await tenant(url)
        async with connect(url) as sql:
            await _add_contacts(sql, space.space_id)
            records = await expected_lines(sql, space.space_id, tokens=True, emails=True)
            await sql.close()
        yield urlsplit(url).path.removeprefix("/"), space, records


@asynccontextmanager
async def exported(database_url: str, space: Tenant, store: dict[str, str]) -> AsyncIterator[Exported]:
    """Run the service with this store and export the Space."""
    async with (
        running({"DATABASE_URL": database_url, **store}) as program,
        ExportClient(program.address, space.key) as client,
    ):
        export = await client.wait(await client.create(whole_range(Extra.COMET_TOKENS, Extra.EMAILS)))
        assert export.download_url is not None
        yield Exported(program.address, space, export.download_url)


async def _add_contacts(sql: asyncpg.Connection, space_id: int) -> None:
    first = 2**53
    await sql.execute("INSERT INTO contacts (id, space_id, created_at) VALUES ($1, $2, $3)", first, space_id, FIRST)
    await SampleContacts(sql).create(
        space_id=space_id, count=CONTACTS, first_created_at=FIRST, last_created_at=FIRST + timedelta(days=100)
    )
    await sql.execute(_ROUGH, first + CONTACTS // 2, space_id)


async def output_of(directory: Path, *command: str | Path) -> bytes:
    """What a program prints. Raises AssertionError with its last output if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (errors[-5000:].decode(errors="replace"), output[-5000:].decode(errors="replace"))
    return output


def parsed(lines: bytes) -> list[dict[str, Any]]:
    """The JSON object of each line."""
    return [json.loads(line) for line in lines.split(b"\n")[:-1]]


def assert_same(found: Iterable[dict[str, Any]], expected: Iterable[dict[str, Any]]) -> None:
    """Compare two multisets of records; the order of keys does not matter. Raises AssertionError with one difference."""
    counted, wanted = _counted(found), _counted(expected)
    assert counted == wanted, (
        f"{counted.total()} records instead of {wanted.total()};"
        f" too many: {next(iter(counted - wanted), None)}; missing: {next(iter(wanted - counted), None)}"
    )


def _counted(records: Iterable[dict[str, Any]]) -> Counter[str]:
    return Counter(json.dumps(record, sort_keys=True) for record in records)
