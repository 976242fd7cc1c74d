"""The identity of the main database, which tells a restored copy from its original."""

from dataclasses import dataclass

import structlog

from service.postgres.pool import Database

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """`id` is random and part of every dump. `server` and `oid` are not, so a restored copy differs in one of them."""

    id: str
    server: str
    oid: int


async def database_identity(database: Database) -> DatabaseIdentity:
    """Read the identity. Raises DatabaseUnavailable.

    Every role may read the server's identifier by default. If an administrator has revoked that right, the oid of one of our
    tables takes its place: it differs after most restores, but not after all.
    """
    row = await database.read_row("database_identity")
    assert row is not None
    if row["may_identify_server"]:
        system = await database.read_row("server_identifier")
        assert system is not None
        return DatabaseIdentity(row["id"], f"system {system['system_identifier']}", row["oid"])
    log.warning(
        "server_not_identified",
        detail="a restored copy of this database may not be recognised; grant the role of the service"
        " EXECUTE on the function pg_control_system()",
    )
    return DatabaseIdentity(row["id"], f"table {row['table_oid']}", row["oid"])
