"""A primary and an asynchronous standby on one machine; the replication between them can be interrupted."""

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
    # Resolve conflicts at once instead of after 30 seconds.
    "max_standby_streaming_delay": "0",
    "hot_standby_feedback": "off",
}


@dataclass(frozen=True)
class Pair:
    """Both servers, and the proxy through which the write-ahead log is sent."""

    primary: EmbeddedPostgres
    standby: EmbeddedPostgres
    log: PostgresProxy

    async def caught_up(self) -> None:
        """Wait until the standby has applied everything that the primary has written."""
        async with connect(self.primary.dsn()) as primary, connect(self.standby.dsn()) as standby:
            written = await primary.fetchval("SELECT pg_current_wal_lsn()::text")
            await until_row(standby, "SELECT 1 WHERE pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written)

    async def fail_over(self) -> None:
        """Lose the primary with everything it has not sent yet, and promote the standby."""
        self.log.set_mode(Mode.RESET)
        self.primary.stop("immediate")
        async with connect(self.standby.dsn()) as standby:
            await standby.execute("SELECT pg_promote()")

        async def takes_writes() -> bool:
            async with connect(self.standby.dsn()) as promoted:
                return not await promoted.fetchval("SELECT pg_is_in_recovery()")

        await until(takes_writes)

    @property
    def dsn(self) -> str:
        """The URL of both servers; it leads to the one that accepts writes."""
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
    """Start a primary with an empty database and a standby that follows it."""
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
    """Copy the data of a stopped server as the data of a standby, with the same owner."""
    shutil.copytree(cluster, to, symlinks=True)
    (to / "standby.signal").touch()
    owner = cluster.stat()
    for path in (to, *to.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
