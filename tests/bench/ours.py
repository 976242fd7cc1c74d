"""The service as a process of its own, told over HTTP what to do."""

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
from tests.bench.workloads import Dates, Workload
from tests.support.contacts import Tenant
from tests.support.program import Program, running

LOOK_SECONDS = 0.004
"""Between looks into the store's directory: the service's answers are asked for only when the file is there."""
_ASK_SECONDS = 0.002
_LONGEST_SECONDS = 1800.0
_AS_SHIPPED = ("lease_seconds", "sweep_seconds", "poll_seconds", "retry_seconds")
"""The tests shorten these; here the service runs as anyone would run it."""
_PATH = "/public-api/v1/contacts/exports"


class ExportFailed(Exception):
    """An export did not complete."""


@dataclass(frozen=True, slots=True)
class Export:
    """One completed export. Times in seconds from just before the POST; `cpu_*` are processor seconds."""

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
    """A running service and, if it has a local one, the directory of its store."""

    def __init__(self, program: Program, session: aiohttp.ClientSession, files: Path | None, postmaster: int) -> None:
        self.program = program
        self._session = session
        self._files = files
        self._postmaster = postmaster

    @property
    def url(self) -> str:
        """Where exports are asked for."""
        return self.program.address + _PATH

    async def create(self, space: Tenant, dates: Dates, workload: Workload) -> int:
        """Ask for an export."""
        body = {**dates.body, **workload.body}
        async with self._session.post(self.url, json=body, headers=space.headers) as response:
            answer = await response.json()
            if response.status != 202:
                raise ExportFailed(f"{response.status}: {answer['message']}")
            return int(answer["export_id"])

    async def status(self, space: Tenant, export_id: int) -> dict[str, Any]:
        """Its status now. Raises ExportFailed when it has ended in another way than well."""
        async with self._session.get(f"{self.url}/{export_id}", headers=space.headers) as response:
            answer: dict[str, Any] = await response.json()
        if answer.get("status") not in ("queued", "processing", "completed"):
            raise ExportFailed(str(answer))
        return answer

    async def ended(self, space: Tenant, export_id: int, *, pause: float) -> dict[str, Any]:
        """Its status once it has completed, asked for every `pause` seconds."""
        while (answer := await self.status(space, export_id))["status"] != "completed":
            await asyncio.sleep(pause)
        return answer

    async def export(
        self, space: Tenant, dates: Dates, workload: Workload, *, look: float = LOOK_SECONDS, ask: float = _ASK_SECONDS
    ) -> Export:
        """One export, from just before the POST until the status call says that it is completed."""
        client, server = cpu_seconds(self.program.pid), cpu_seconds_of_postgres(self._postmaster)
        started = time.perf_counter()
        async with asyncio.timeout(_LONGEST_SECONDS):
            export_id = await self.create(space, dates, workload)
            file, first = await self._written(space.space_id, export_id, look)
            status = await self.ended(space, export_id, pause=ask)
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

    async def _written(self, space_id: int, export_id: int, look: float) -> tuple[Path | None, float | None]:
        """Watch the directory until the file is in place: the file, and when its first bytes were there."""
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
                if line.get("event") == "attempt_failed" and line["export_id"] == export_id:
                    raise ExportFailed(str(line))
            await asyncio.sleep(look)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # moved into place meanwhile
        return 0


@asynccontextmanager
async def service(
    dsn: str, store: Mapping[str, str], postmaster: int, *, files: Path | None = None
) -> AsyncIterator[Service]:
    """The service on a database and a store: its settings, and its directory if it is one. It may be asked at any rate."""
    shipped = {name.upper(): str(Settings.model_fields[name].default) for name in _AS_SHIPPED}
    # By the second: a window is one row, and no larger so than in ordinary use.
    limits = {"RATE_LIMIT_CREATE": "1000/second", "RATE_LIMIT_STATUS": "1000/second"}
    settings = {"DATABASE_URL": dsn, **shipped, **limits, **store}
    async with running(settings) as program, aiohttp.ClientSession() as session:
        yield Service(program, session, files, postmaster)
