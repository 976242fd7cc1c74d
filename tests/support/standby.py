"""A primary and an asynchronous standby of it, on one machine; what is sent from one to the other can be held up."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from service.embedded.postgres import EmbeddedPostgres
from tests.support.jobs import connect
from tests.support.postgres_proxy import Mode, PostgresProxy, postgres_proxy
from tests.support.waiting import until, until_row

_PARAMETERS = {"fsync": "off"}
_STANDBY = _PARAMETERS | {
    # A conflict is decided at once, not after half a minute.
    "max_standby_streaming_delay": "0",
    "hot_standby_feedback": "off",
}


@dataclass(frozen=True)
class Pair:
    """Both servers, and the way of the write-ahead log between them."""

    primary: EmbeddedPostgres
    standby: EmbeddedPostgres
    log: PostgresProxy

    async def caught_up(self) -> None:
        """Wait until the standby shows what the primary shows now."""
        async with connect(self.primary.dsn()) as primary, connect(self.standby.dsn()) as standby:
            written = await primary.fetchval("SELECT pg_current_wal_lsn()::text")
            await until_row(standby, "SELECT 1 WHERE pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written)

    async def fail_over(self) -> None:
        """Lose the primary, and what it had not sent; the standby takes its place."""
        self.log.behave(Mode.RESET)
        self.primary.stop("immediate")
        async with connect(self.standby.dsn()) as standby:
            await standby.execute("SELECT pg_promote()")

        async def takes_writes() -> bool:
            async with connect(self.standby.dsn()) as promoted:
                return not await promoted.fetchval("SELECT pg_is_in_recovery()")

        await until(takes_writes)

    @property
    def dsn(self) -> str:
        """The address of whichever takes writes."""
        hosts, ports = [], []
        for server in (self.standby, self.primary):
            host, _, port = server.dsn().partition("?host=")[2].partition("&port=")
            hosts.append(host)
            ports.append(port)
        return (
            f"postgresql://postgres@/postgres?host={','.join(hosts)}&port={','.join(ports)}&target_session_attrs=read-write"
        )


@asynccontextmanager
async def replicated(directory: Path) -> AsyncIterator[Pair]:
    """A primary with an empty database and a standby that follows it."""
    primary = EmbeddedPostgres(directory / "primary", parameters=_PARAMETERS)
    primary.start()
    primary.stop()
    copy(directory / "primary" / "cluster", directory / "standby" / "cluster")
    with primary:
        async with postgres_proxy(primary.dsn()) as log:
            source = f"host=127.0.0.1 port={log.port} user=postgres sslmode=disable gssencmode=disable"
            parameters = _STANDBY | {"primary_conninfo": source}
            with EmbeddedPostgres(directory / "standby", parameters=parameters) as standby:
                yield Pair(primary, standby, log)


def copy(cluster: Path, to: Path) -> None:
    """Copy the data of a server that is stopped, owner included, as those of a standby."""
    shutil.copytree(cluster, to, symlinks=True)
    (to / "standby.signal").touch()
    owner = cluster.stat()
    for path in (to, *to.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
