"""Sessions that do not depend on the defaults of their role, which an administrator may have changed for other programs."""

import asyncpg

from service.postgres.driver_errors import source_errors
from sql import statement

APPLICATION_NAME = "contact-exports export"
"""Marks our snapshots in pg_stat_activity, to distinguish them from transactions that write."""

_CALL_TIMEOUT = 10.0
_SESSION = {
    "application_name": APPLICATION_NAME,
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "on",
    # With row-level security the server would leave contacts out without an error.
    "row_security": "off",
    "idle_in_transaction_session_timeout": "600s",
    "jit": "off",
    # The index returns rows in file order: a sort would delay the first row, and a parallel plan cannot be suspended between
    # two fetches.
    "enable_sort": "off",
    "max_parallel_workers_per_gather": "0",
    # Otherwise a server that is busy with a statement notices a closed socket only after the statement.
    "client_connection_check_interval": "2s",
    # Only unacknowledged bytes distinguish a stopped process from a slow one.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""Server settings of every session that reads contacts; they override the defaults of the role."""


async def connect_to_contacts(dsn: str, fetch_timeout: float) -> asyncpg.Connection:
    """A read-only session on the contacts. `fetch_timeout` limits each statement on client and server, in seconds.

    Raises SourceUnavailable; SourceUnreadable if the role may not connect.
    """
    with source_errors():
        connection = await asyncpg.connect(
            dsn,
            timeout=_CALL_TIMEOUT,
            command_timeout=fetch_timeout,
            statement_cache_size=0,
            server_settings=_SESSION | {"statement_timeout": str(int(fetch_timeout * 1000))},
        )
        try:
            await lift_transaction_timeout(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection


async def lift_transaction_timeout(connection: asyncpg.Connection) -> None:
    """Override the role's transaction_timeout. Raises the driver's errors, TimeoutError."""
    await connection.fetch(statement("lift_transaction_timeout"), timeout=_CALL_TIMEOUT)


async def lift_limits(connection: asyncpg.Connection) -> None:
    """Override defaults of the role that would interrupt or refuse a migration. Raises the driver's errors, TimeoutError."""
    await connection.fetch(statement("lift_limits"), timeout=_CALL_TIMEOUT)
