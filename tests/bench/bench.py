"""The parts that every measurement needs: the server, a directory, the sizes, and a way to report progress."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from service.embedded.postgres import EmbeddedPostgres
from tests.bench.dataset import Contacts, Size, open_contacts
from tests.bench.ours import Service, service
from tests.support import stores

Figures = dict[str, Any]
"""Nested results; the keys are those of the JSON object."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of a run. `quick` only tests the benchmark itself: its figures are not meaningful."""

    contacts: int
    others: int
    rounds: int
    workloads: tuple[str, ...]
    rivals: tuple[str, ...]
    large: bool = False
    quick: bool = False

    def shorter(self, usual: int, quick: int) -> int:
        """Return `quick` in a quick run, else `usual`."""
        return quick if self.quick else usual


@dataclass(slots=True)
class Bench:
    """One run of the benchmark. Files are written below `directory`, on the file system of the database."""

    plan: Plan
    server: EmbeddedPostgres
    directory: Path
    say: Callable[[str], None]
    missing: set[str] = field(default_factory=set)
    _opened: dict[Size, Contacts] = field(default_factory=dict)

    async def contacts(
        self,
        measured: int | None = None,
        others: int | None = None,
        extras: int | None = None,
        *,
        custom_fields: bool = False,
    ) -> Contacts:
        """Return the database of this size (by default the plan's) and create it on first use."""
        measured = self.plan.contacts if measured is None else measured
        others = self.plan.others if others is None else others
        size = Size(measured, others, extras or 2 * (measured + others), custom_fields)
        if size not in self._opened:
            self.say(f"contacts: {measured:,} and {others:,} of other Spaces")
            self._opened[size] = await open_contacts(self.server, size)
        return self._opened[size]

    @asynccontextmanager
    async def service(
        self, contacts: Contacts, settings: Mapping[str, str] = MappingProxyType({})
    ) -> AsyncIterator[Service]:
        """Run the service on these contacts, with a directory as store and further settings."""
        files = self.directory / f"files of {urlsplit(contacts.dsn).path[1:]}"  # A store belongs to one database.
        async with (
            stores.directory_store(files) as store,
            service(contacts.dsn, {**store.settings, **settings}, self.server.pid, files=files) as running,
        ):
            yield running
