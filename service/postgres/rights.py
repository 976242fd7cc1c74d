"""Checks the rights of the database role before the service starts to work."""

from datetime import timedelta

from service.errors import SchemaMismatch
from service.postgres.addresses import Dsn
from service.postgres.single_connection import single_connection
from sql import statement

_CALL_TIMEOUT = timedelta(seconds=10)


async def check_rights(dsn: Dsn) -> None:
    """Raises SchemaMismatch that lists every missing right on the service's tables, DatabaseUnavailable.

    Tables that do not exist yet are left out: the role that creates them owns them.
    """
    async with single_connection(dsn, command_timeout=_CALL_TIMEOUT) as connection:
        rows = await connection.fetch(statement("missing_rights"))
    if rows:
        missing = ", ".join(row["missing"] for row in rows)
        raise SchemaMismatch(
            f"The database role {rows[0]['role']} lacks rights: {missing}."
            " docs/operating.md#roles has the grants for the owner of the tables to run."
        )
