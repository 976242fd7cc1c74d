"""A connection outside the pool, for migrations and for commands of operators."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg

from service.postgres.addresses import Dsn
from service.postgres.driver_errors import database_errors
from service.postgres.session import connect, lift_limits

_CONNECT_TIMEOUT = timedelta(seconds=5)


@asynccontextmanager
async def single_connection(dsn: Dsn, *, command_timeout: timedelta | None) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection and terminate it at the end of the block. `command_timeout` is the default for each statement.

    Raises DatabaseUnavailable, also for errors of the block that say so, and DatabaseRefused.
    """
    with database_errors():
        connection = await connect(
            dsn,
            timeout=_CONNECT_TIMEOUT.total_seconds(),
            command_timeout=None if command_timeout is None else command_timeout.total_seconds(),
            server_settings={"application_name": "contact-exports"},
        )
        try:
            await lift_limits(connection)
            yield connection
        finally:
            connection.terminate()
