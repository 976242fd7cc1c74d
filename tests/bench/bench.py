"""What every measurement needs: the server, a directory, the sizes, and a way to say how far we are."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.embedded.postgres import EmbeddedPostgres
from tests.bench.dataset import Contacts, Size, open_contacts
from tests.bench.ours import Service, service
from tests.support import stores

Figures = dict[str, Any]
"""Results, nested, under the names of the JSON object."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and of what. `quick` is for trying the benchmark itself: its figures mean little."""

    contacts: int
    others: int
    rounds: int
    workloads: tuple[str, ...]
    rivals: tuple[str, ...]
    large: bool = False
    quick: bool = False

    def shorter(self, usual: int, quick: int) -> int:
        """A number that is smaller in a quick run."""
        return quick if self.quick else usual


@dataclass(slots=True)
class Bench:
    """One run of the benchmark. Files are written below `directory`, on the file system of the server's data."""

    plan: Plan
    server: EmbeddedPostgres
    directory: Path
    say: Callable[[str], None]
    missing: set[str] = field(default_factory=set)
    _opened: dict[Size, Contacts] = field(default_factory=dict)

    async def contacts(self, measured: int | None = None, others: int | None = None, extras: int | None = None) -> Contacts:
        """The database of that size, by default the plan's; it is made when it is asked for first."""
        measured = self.plan.contacts if measured is None else measured
        others = self.plan.others if others is None else others
        size = Size(measured, others, extras or 2 * (measured + others))
        if size not in self._opened:
            self.say(f"contacts: {measured:,} and {others:,} of other Spaces")
            self._opened[size] = await open_contacts(self.server, size)
        return self._opened[size]

    @asynccontextmanager
    async def service(self, contacts: Contacts) -> AsyncIterator[Service]:
        """The service on these contacts, writing into a directory."""
        files = self.directory / "files"
        async with (
            stores.directory_store(files) as store,
            service(contacts.dsn, store.settings, self.server.pid, files=files) as running,
        ):
            yield running
