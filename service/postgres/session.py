"""Sessions that do not depend on the defaults of their role, which an administrator may have changed for other programs."""

from datetime import timedelta
from typing import Any

import asyncpg

from service.database_urls import hosts_of
from service.errors import DatabaseRefused, PoolerInFront
from service.failures import SourceUnavailable
from service.postgres.addresses import Dsn, current
from service.postgres.driver_errors import source_errors
from sql import statement

APPLICATION_NAME = "contact-exports export"
"""Marks our snapshots in pg_stat_activity, to distinguish them from transactions that write."""

_CALL_TIMEOUT = timedelta(seconds=10)
_MARK = {"contact_exports.session": "ours"}
"""A setting that only our sessions have. A connection pooler refuses or drops it, and with it all other settings."""
_POOLER = (
    "a connection pooler such as PgBouncer is in front of the database: set DATABASE_DIRECT_URL (for the contacts"
    " CONTACTS_DATABASE_URL) to the address of the database itself"
)
LATER = timedelta(seconds=1)
"""How much later than the server the client gives up a statement. If both did it together, the connection would be closed
while the driver asks the server to cancel the statement, and the driver would log an error."""
_READS_CONTACTS = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "on",
    # The server raises an error instead of leaving contacts out because of row-level security.
    "row_security": "off",
    "jit": "off",
    "lock_timeout": "0",
    # Otherwise a server that is busy with a statement notices a closed socket only after the statement.
    "client_connection_check_interval": "2s",
}
"""Server settings of every session that reads contacts; they override the defaults of the role."""
API_SESSION = {
    **_READS_CONTACTS,
    # The text of a time must mean the same in every session.
    "datestyle": "ISO",
    "timezone": "UTC",
    # The best plan depends on the window and the position: a plan for any position may sort the whole window.
    "plan_cache_mode": "force_custom_plan",
}
"""Server settings of the pool that reads contacts for the API."""
_EXPORT_SESSION = {
    **_READS_CONTACTS,
    "application_name": APPLICATION_NAME,
    "idle_in_transaction_session_timeout": "600s",
    "idle_session_timeout": "0",
    # The index returns rows in file order: a sort would delay the first row, and a parallel plan cannot be suspended between
    # two fetches.
    "enable_sort": "off",
    "max_parallel_workers_per_gather": "0",
    # Only unacknowledged bytes distinguish a stopped process from a slow one.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""Server settings of sessions that export contacts."""


async def connect_to_contacts(dsn: Dsn, fetch_timeout: timedelta) -> asyncpg.Connection:
    """A read-only session on the contacts. `fetch_timeout` limits each statement on the server.

    The client gives up LATER. Raises SourceUnavailable; SourceUnreadable if the role may not connect.
    """
    seconds = fetch_timeout.total_seconds()
    with source_errors():
        try:
            return await connect(
                dsn,
                timeout=_CALL_TIMEOUT.total_seconds(),
                command_timeout=seconds + LATER.total_seconds(),
                statement_cache_size=0,
                server_settings=_EXPORT_SESSION | {"statement_timeout": str(int(seconds * 1000))},
            )
        except DatabaseRefused as error:
            raise SourceUnavailable(detail=error.detail) from error


async def connect(dsn: Dsn, **options: Any) -> asyncpg.Connection:
    """A session that has the `server_settings` among the options of the driver, and no transaction_timeout of its role.

    Raises PoolerInFront if a connection pooler drops the settings; the driver's errors, with a note that names the hosts.
    """
    settings = {**options.pop("server_settings", {}), **_MARK}
    address = current(dsn)
    try:
        connection: asyncpg.Connection = await asyncpg.connect(address, server_settings=settings, **options)
    except asyncpg.ProtocolViolationError as error:
        if "startup parameter" not in str(error):  # PgBouncer's own text, never translated
            raise
        raise PoolerInFront(detail=_POOLER) from error
    except (OSError, TimeoutError) as error:
        error.add_note(hosts_of(address))
        raise
    try:
        mark = await connection.fetchval(statement("begin_session"), timeout=_CALL_TIMEOUT.total_seconds())
    except BaseException:
        connection.terminate()
        raise
    if mark not in _MARK.values():
        connection.terminate()
        raise PoolerInFront(detail=_POOLER)
    return connection


async def lift_limits(connection: asyncpg.Connection) -> None:
    """Override defaults of the role that would interrupt or refuse a migration. Raises the driver's errors, TimeoutError."""
    await connection.fetch(statement("lift_limits"), timeout=_CALL_TIMEOUT.total_seconds())
