"""Run the service's statements on a single connection, so that a test can roll them back or count them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.postgres.pool import Database


class OneConnection(Database):
    """A database whose statements all run on this connection, inside its current transaction."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        """The connection."""
        yield cast("PoolConnectionProxy[asyncpg.Record]", self._connection)
