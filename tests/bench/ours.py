"""The service as a separate process that is used over HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from service.settings import Settings
from tests.bench.processes import cpu_seconds, cpu_seconds_of_postgres
from tests.bench.workloads import YEAR, Dates, Workload
from tests.support.contacts import Tenant
from tests.support.program import Program, running

CHECK_SECONDS = 0.004
"""Interval of checks of the store's directory; the API is polled only after the file exists."""
_POLL_SECONDS = 0.002
_LONGEST_SECONDS = 1800.0
_AS_SHIPPED = ("lease_seconds", "sweep_seconds", "poll_seconds", "retry_seconds")
"""Settings that the tests shorten; the benchmark uses the defaults."""
CONTACTS_PATH = "/public-api/v1/contacts"
EXPORTS_PATH = f"{CONTACTS_PATH}/exports"


class ExportFailed(Exception):
    """An export did not complete."""


@dataclass(frozen=True, slots=True)
class Export:
    """One completed export. Times are seconds from just before the create request; `cpu_*` are CPU seconds."""

    export_id: int
    seconds: float
    first_part: float
    cpu_client: float
    cpu_server: float
    file: Path | None
    status: dict[str, Any]

    @property
    def size(self) -> int:
        """Compressed bytes."""
        return int(self.status["file_size"])


class Service:
    """The running service, and the directory of its store if it has a local one."""

    def __init__(self, program: Program, session: aiohttp.ClientSession, files: Path | None, postmaster: int) -> None:
        self.program = program
        self._session = session
        self._files = files
        self._postmaster = postmaster

    @property
    def url(self) -> str:
        """The URL of the exports."""
        return self.program.address + EXPORTS_PATH

    async def create(self, space: Tenant, dates: Dates, workload: Workload) -> int:
        """Create an export and return its id."""
        body = {**dates.body, **workload.body}
        async with self._session.post(self.url, json=body, headers=space.headers) as response:
            body = await response.json()
            if response.status != 202:
                raise ExportFailed(f"{response.status}: {body['message']}")
            return int(body["export_id"])

    async def status(self, space: Tenant, export_id: int) -> dict[str, Any]:
        """Return the status of an export. Raises ExportFailed if it has ended without completing."""
        async with self._session.get(f"{self.url}/{export_id}", headers=space.headers) as response:
            body: dict[str, Any] = await response.json()
        if body.get("status") not in ("queued", "processing", "completed"):
            raise ExportFailed(str(body))
        return body

    async def ended(self, space: Tenant, export_id: int, *, pause: float) -> dict[str, Any]:
        """Poll every `pause` seconds until the export has completed; return its status."""
        while (body := await self.status(space, export_id))["status"] != "completed":
            await asyncio.sleep(pause)
        return body

    async def page(self, space: Tenant, workload: Workload, *, size: int, cursor: str | None = None) -> bytes:
        """The body of one page of the Space's contacts, as received. Raises RuntimeError if the status is not 200."""
        query: dict[str, str | int] = {
            **YEAR.body,
            **workload.body,
            "per_page": size,
            **({"cursor": cursor} if cursor else {}),
        }
        address = self.program.address + CONTACTS_PATH
        async with self._session.get(address, params=query, headers=space.headers) as response:
            body = await response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {body.decode()}")
        return body

    async def export(
        self, space: Tenant, dates: Dates, workload: Workload, *, check: float = CHECK_SECONDS, poll: float = _POLL_SECONDS
    ) -> Export:
        """Run one export, from just before the create request until its status is completed."""
        client, server = cpu_seconds(self.program.pid), cpu_seconds_of_postgres(self._postmaster)
        started = time.perf_counter()
        async with asyncio.timeout(_LONGEST_SECONDS):
            export_id = await self.create(space, dates, workload)
            file, first = await self._written(space.space_id, export_id, check)
            status = await self.ended(space, export_id, pause=poll)
        ended = time.perf_counter()
        return Export(
            export_id=export_id,
            seconds=ended - started,
            first_part=(first or ended) - started,
            cpu_client=cpu_seconds(self.program.pid) - client,
            cpu_server=cpu_seconds_of_postgres(self._postmaster) - server,
            file=file,
            status=status,
        )

    async def _written(self, space_id: int, export_id: int, check: float) -> tuple[Path | None, float | None]:
        """Watch the directory until the file is complete; return the file and the time of its first bytes."""
        if self._files is None:
            return None, None
        name = quote(f"{space_id}/{export_id}/", safe="")
        uploads, objects = self._files / "uploads", self._files / "objects"
        seen, first = len(self.program.log), None
        while True:
            if first is None and any(_size(entry) for entry in uploads.iterdir() if f".{name}" in entry.name):
                first = time.perf_counter()
            for entry in objects.iterdir():
                if entry.name.startswith(name):
                    return entry, first
            for line in self.program.log[seen:]:
                if line.get("event") in ("attempt_failed", "export_failed") and line["export_id"] == export_id:
                    raise ExportFailed(str(line))
            await asyncio.sleep(check)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # moved to its final name in the meantime
        return 0


@asynccontextmanager
async def service(
    dsn: str, store: Mapping[str, str], postmaster: int, *, files: Path | None = None
) -> AsyncIterator[Service]:
    """Run the service with this database and store, without effective rate limits; `files` is the directory of the store."""
    shipped = {name.upper(): str(Settings.model_fields[name].default) for name in _AS_SHIPPED}
    limits = {f"RATE_LIMIT_{bucket}": "1000000/minute" for bucket in ("CREATE", "STATUS", "OTHER", "CONTACTS")}
    settings = {"DATABASE_URL": dsn, **shipped, **limits, **store}
    async with running(settings) as program, aiohttp.ClientSession() as session:
        yield Service(program, session, files, postmaster)
