"""An embedded Postgres server for the demo, the tests, and a service started without settings.

It has no network port and no password. Every user with access to its directory can connect as the superuser.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, Self
from urllib.parse import quote

from service.embedded import EmbeddedError
from service.embedded.binaries import find_binaries, psql_path, runnable_by, server_version
from service.embedded.cluster import SOCKET_NAME, ClusterDirectory

__all__ = ["EmbeddedPostgres", "find_binaries", "psql_path"]

StopMode = Literal["smart", "fast", "immediate"]

_START_SECONDS = 60.0
"""Includes creating a cluster (0.6 s on a fast disk) and crash recovery."""
_STOP_SECONDS = 30.0
"""Longest wait for a stop before the next harsher signal is sent."""
_POLL_SECONDS = 0.02

_STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_PARAMETERS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Statements and the details of constraint errors contain personal data.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class EmbeddedPostgres:
    """One server with the data in `data_directory`, started by `start()` or as a context manager.

    The data survive a restart. On Linux the server ends with this process, even if this process is killed. If another
    process already runs a server in the same directory, `start()` joins it: `joined` is then True and `stop()` leaves it
    running. `parameters` are server settings, such as `{"fsync": "off"}`; the defaults are durable. `used_by` names this
    program to others that join.
    """

    def __init__(
        self,
        data_directory: Path,
        *,
        binaries: Path | None = None,
        parameters: Mapping[str, str] = MappingProxyType({}),
        used_by: str = "another program",
    ) -> None:
        self.joined = False
        self._directory = ClusterDirectory(data_directory)
        self._binaries = binaries or find_binaries()
        self._parameters = {**_PARAMETERS, **parameters}
        self._used_by = f"{used_by} (process {os.getpid()})"
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._socket_directory = self._directory.path
        self._ownership: int | None = None
        self._copies = contextlib.ExitStack()

    @property
    def pid(self) -> int:
        """Process id of the postmaster. Raises EmbeddedError if the server is not started."""
        if self._pid is None:
            raise EmbeddedError(f"the Postgres in {self._directory.path} is not started")
        return self._pid

    @property
    def version(self) -> str:
        """Version of the programs, such as "15.18"."""
        return server_version(self._binaries)

    @property
    def user(self) -> str:
        """The program that started the server, with its process id, such as `contact-exports serve (process 7)`."""
        return self._directory.owner() or "another program"

    def dsn(self, database: str = "postgres") -> str:
        """Return the address of `database` for the superuser, for asyncpg and psql."""
        host = quote(str(self._socket_directory))
        # The port is only part of the socket's name. Without these parameters, PGPORT, PGSSLMODE and PGTARGETSESSIONATTRS of
        # the environment would be used.
        return (
            f"postgresql://postgres@/{quote(database, safe='')}"
            f"?host={host}&port=5432&sslmode=disable&target_session_attrs=any"
        )

    def start(self) -> None:
        """Start the server, or join the running one. Returns when it is ready, after 0.03 to 60 s.

        Raises EmbeddedError, with the end of the server's log, if the server is not ready within 60 s, if the directory
        belongs to another user or contains other files, or if its data have another major version than the programs.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        deadline = time.monotonic() + _START_SECONDS
        with self._directory.entered():
            if not self._lock_or_join(deadline):
                return
            try:
                self._ownership = self._directory.own(self._used_by)
                self._launch(deadline)
                self._wait_until_ready(deadline)
            except BaseException:
                self.stop("immediate")
                raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait until it ends. Does nothing if it was joined or does not run.

        `smart` waits for connected clients, `fast` disconnects them and flushes all data, `immediate` leaves recovery to
        the next start. After 30 s each mode escalates to the next one.
        """
        process, self._process = self._process, None
        self._pid, self.joined = None, False
        if process is not None:
            self._end(process, mode)
        self._copies.close()
        if self._ownership is not None:
            os.close(self._ownership)
            self._ownership = None

    def kill(self) -> None:
        """Kill the postmaster, as a crash would. The next start recovers the data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _end(self, process: subprocess.Popen[bytes], mode: StopMode) -> None:
        ways = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL]
        for way in ways[ways.index(_STOP_SIGNALS[mode]) :]:
            process.send_signal(way)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
                break
        self._directory.remove_socket_directory(self._socket_directory)

    def _lock_or_join(self, deadline: float) -> bool:
        """Return True with the lock held, or False after joining the server that holds it."""
        while not self._directory.lock():
            if self._join():
                return False
            if time.monotonic() > deadline:
                problem = f"another process uses {self._directory.path}, but no server responds there"
                raise EmbeddedError(problem + self._directory.log_tail())
            time.sleep(_POLL_SECONDS)
        return True

    def _join(self) -> bool:
        found = self._directory.postmaster()
        if found is None or not found.ready or not self._directory.is_owned():
            return False
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            try:
                client.connect(str(found.socket_directory / SOCKET_NAME))
            except OSError:
                return False
        self._pid, self._socket_directory, self.joined = found.pid, found.socket_directory, True
        return True

    def _launch(self, deadline: float) -> None:
        directory, programs = self._directory, self._binaries
        if directory.account is not None:
            programs = self._copies.enter_context(runnable_by(directory.account, self._binaries))
        durable = self._parameters.get("fsync") != "off"
        directory.make_cluster(programs, durable=durable, seconds=deadline - time.monotonic())
        directory.forget_dead_postmaster()
        self._socket_directory = directory.make_socket_directory()
        in_here = self._socket_directory == directory.path
        sockets = str(directory.inside if in_here else self._socket_directory).replace('"', '""')
        parameters = {**self._parameters, "unix_socket_directories": f'"{sockets}"', "port": "5432"}
        settings = [f"--{name}={value}" for name, value in parameters.items()]
        # SIGQUIT, because the server must stop at once when this process dies. The next start recovers.
        self._process = directory.run(
            [str(programs / "postgres"), "-D", str(directory.inside / "cluster"), *settings],
            death_signal=signal.SIGQUIT,
        )
        self._pid = self._process.pid

    def _wait_until_ready(self, deadline: float) -> None:
        process = self._process
        while process is not None:
            found = self._directory.postmaster()
            if found is not None and found.pid == process.pid and found.ready:
                return
            if (code := process.poll()) is not None:
                problem = f"Postgres exited during startup with code {code}"
            elif time.monotonic() > deadline:
                problem = f"Postgres was not ready within {_START_SECONDS:.0f} s"
            else:
                time.sleep(_POLL_SECONDS)
                continue
            raise EmbeddedError(problem + self._directory.log_tail())
