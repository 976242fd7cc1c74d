"""PgBouncer in transaction mode in front of a test's database, from Debian's package `pgbouncer`."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from tests.support.waiting import until

SERVER_CONNECTIONS = 2
"""Fewer than a process has connections, so that their transactions take turns."""


class PgBouncer:
    """The running pooler. `url` leads to the same database through it."""

    def __init__(self, directory: Path, upstream: str) -> None:
        directory.chmod(0o755)  # it may run as another user
        self._configuration = directory / "pgbouncer.ini"
        self._log = directory / "log"
        self._process: asyncio.subprocess.Process | None = None
        server = urlsplit(upstream)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}{server.path}?sslmode=disable"
        password = f" password={server.password}" if server.password else ""
        self._configuration.write_text(
            f"""
            [databases]
            * = host={server.hostname} port={server.port} user={server.username}{password}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self._port}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            default_pool_size = {SERVER_CONNECTIONS}
            max_client_conn = 500
            """.replace("            ", "")
        )

    async def start(self) -> None:
        """Start the pooler and wait until it accepts connections."""
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        assert program is not None, "install Debian's package pgbouncer"
        # PgBouncer refuses to run as root.
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                program, *user, str(self._configuration), stdout=log, stderr=log
            )
        await until(self._accepts_connections)

    async def stop(self) -> None:
        """Stop the pooler at once, which ends all connections through it."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()

    async def _accepts_connections(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self._log.read_text()
        try:
            connection = await asyncpg.connect(self.url, statement_cache_size=0, timeout=5)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True


@asynccontextmanager
async def pgbouncer(upstream: str) -> AsyncIterator[PgBouncer]:
    """Run a pooler in front of the TCP address `upstream` inside the block."""
    with tempfile.TemporaryDirectory(prefix="contact-exports-pgbouncer-") as directory:
        pooler = PgBouncer(Path(directory), upstream)
        try:
            await pooler.start()
            yield pooler
        finally:
            await pooler.stop()
