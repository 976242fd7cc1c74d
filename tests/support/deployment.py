"""One running service for all tests of a module, for tests that only differ in what a consumer does."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.support import postgres, stores
from tests.support.contacts import Tenant, add_contacts, tenant
from tests.support.program import Program, running
from tests.support.shell import Ended, contact_exports

CONTACTS = 1500


@dataclass(frozen=True)
class Deployment:
    """A service with a Space that has CONTACTS contacts and another Space that has none. `files` is its store."""

    database_url: str
    program: Program
    space: Tenant
    other: Tenant
    files: Path

    @property
    def settings(self) -> dict[str, str]:
        """The environment of the command `export` for the first Space."""
        return {"CONTACT_EXPORTS_URL": self.program.address, "CONTACT_EXPORTS_API_KEY": self.space.key}

    async def export(self, *arguments: str, **settings: str) -> Ended:
        """Run the command `export` for the first Space; `settings` are further environment variables."""
        return await contact_exports("export", *arguments, **self.settings | settings)


@contextmanager
def deployment(server: str, template: str, directory: Path, **settings: str) -> Iterator[Deployment]:
    """Run a service with a directory as store, in an event loop of its own because each test has another."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stack = AsyncExitStack()
    try:
        yield asyncio.run_coroutine_threadsafe(_open(stack, server, template, directory, settings), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _open(stack: AsyncExitStack, server: str, template: str, directory: Path, settings: dict[str, str]) -> Deployment:
    url = await stack.enter_async_context(postgres.database(server, template))
    store = await stack.enter_async_context(stores.directory_store(directory))
    space, other = await tenant(url), await tenant(url)
    connection = await asyncpg.connect(url)
    await add_contacts(connection, space.space_id, CONTACTS)
    await connection.close()
    program = await stack.enter_async_context(running({"DATABASE_URL": url, **store.settings, **settings}))
    return Deployment(url, program, space, other, directory)
