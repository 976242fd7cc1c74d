"""The directory of one embedded server: its lock, its owner, and the creation of its cluster.

`cluster/` is Postgres's data directory. `log` is the output of the last start. `owner` is locked by the process that
started the server. The socket is in the directory too, unless its path is too long. The server inherits an open descriptor
of the directory, for two uses:

* It carries a lock (flock(2)). The lock exists as long as any process that inherited it. So it shows reliably whether a
  postmaster, or a leftover process of a killed one, still uses the directory. The process id in `postmaster.pid` does not,
  because ids are reused.
* A server started by root runs as another user, who may have no access to the parent directories. It reaches its directory
  through `/proc/self/fd`, so that no permission has to be changed.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from service.embedded import EmbeddedError, child_process
from service.embedded.accounts import check_user_name, server_account
from service.embedded.binaries import ENVIRONMENT, server_version

SOCKET_NAME = ".s.PGSQL.5432"
"""The socket's file name for port 5432."""
_SHORT_DIRECTORY = "/tmp"  # noqa: S108 - mkdtemp creates a private directory in it; the path in TMPDIR may be too long
_SOCKET_PATH_LIMIT = 103
"""Longest path of a socket in bytes. The limit with the final zero byte is 108 on Linux (unix(7)) and 104 on macOS."""
_SOCKET_PREFIX = "contact-exports-socket-"
_LOG_TAIL_BYTES = 4000


class Postmaster(NamedTuple):
    """The content of `postmaster.pid`. The process may no longer exist."""

    pid: int
    socket_directory: Path
    ready: bool


class ClusterDirectory:
    """The directory `path`, which `entered` creates if needed."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.account: child_process.Account | None = None
        """The user that the server runs as; None for the current user. Set inside `entered`."""
        self._descriptor = -1

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Create the directory, make the server's user its owner, and keep it open.

        Raises EmbeddedError if the directory belongs to another user or contains other files.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = {entry.name for entry in self.path.iterdir()}
            if names and not names & {"cluster", "cluster.new", "log", "owner"}:
                raise EmbeddedError(f"{self.path} contains other files: choose an empty or a new directory")
            # Postgres refuses to run as root.
            self.account = server_account(self.path) if os.geteuid() == 0 else None
            if self.account is not None:
                os.chown(self.path, self.account.uid, self.account.gid)
            self.path.chmod(0o700)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise EmbeddedError(f"{self.path} cannot be used for the embedded Postgres: {error.strerror}") from error
        try:
            yield
        finally:
            os.close(self._descriptor)

    def lock(self) -> bool:
        """Try to lock the directory. Returns False if another process or its children use it.

        The lock lasts until this process closes the directory and all programs started by `run` have ended.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def own(self, user: str) -> int:
        """Return a descriptor that marks the server as owned while it is open. The caller must hold the lock.

        `user` names the owner for other processes; see `owner`.
        """
        # A new file each time, because an owner whose server died may still have the old one open.
        with suppress(FileNotFoundError):
            os.unlink("owner", dir_fd=self._descriptor)
        owner = os.open("owner", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._descriptor)
        os.write(owner, user.encode(errors="replace"))
        fcntl.flock(owner, fcntl.LOCK_EX)
        return owner

    def owner(self) -> str:
        """The name of the process that started the server, as `own` got it; empty if there is none."""
        with suppress(OSError):
            return (self.path / "owner").read_text(errors="replace")
        return ""

    def is_owned(self) -> bool:
        """Return whether the process that started the server is alive. If not, the server is about to stop."""
        try:
            owner = os.open("owner", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._descriptor)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(owner)
        return False

    @property
    def inside(self) -> Path:
        """The path of the directory for programs that `run` starts."""
        if self.account is not None and sys.platform == "linux":
            return Path(f"/proc/self/fd/{self._descriptor}")
        return self.path

    def run(self, command: Sequence[str], *, death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        """Start a program that uses the directory. It writes to the log, which is truncated first."""
        # O_NOFOLLOW because root opens a file in another user's directory.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        log = os.open("log", flags, 0o600, dir_fd=self._descriptor)
        try:
            return child_process.start(
                command,
                environment=ENVIRONMENT,
                output=log,
                death_signal=death_signal,
                account=self.account,
                keep_open=[self._descriptor],
            )
        finally:
            os.close(log)

    def log_tail(self) -> str:
        """Return the end of the log on separate lines, to append to an error message."""
        try:
            text = (self.path / "log").read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""
        return f"\n{text}" if text else ""

    def postmaster(self) -> Postmaster | None:
        """Return the server that last wrote its id here; None if the file is missing or incomplete."""
        try:
            text = (self.path / "cluster" / "postmaster.pid").read_text(errors="surrogateescape")
        except FileNotFoundError:
            return None
        match text.splitlines():
            case [pid, _, _, _, sockets, _, _, state, *_] if pid.isdecimal():
                named = Path(sockets)
                own = self.path if named.is_relative_to("/proc/self/fd") else named
                return Postmaster(int(pid), own, state.strip() == "ready")
            case _:
                return None

    def make_cluster(self, binaries: Path, *, durable: bool, seconds: float) -> None:
        """Create the cluster if there is none. The caller must hold the lock.

        It is created under another name and renamed when it is complete, so an interrupted initdb leaves no cluster. Raises
        EmbeddedError if initdb fails or takes longer than `seconds`, and if the existing cluster has another major version.
        """
        mark = self.path / "cluster" / "PG_VERSION"
        if mark.exists():
            self._check_major(mark.read_text().strip(), server_version(binaries, self.account))
            return
        check_user_name(self.account)
        shutil.rmtree(self.path / "cluster.new", ignore_errors=True)
        fixed = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
        command = [str(binaries / "initdb"), f"--pgdata={self.inside / 'cluster.new'}", *fixed]
        process = self.run(command if durable else [*command, "--no-sync"], death_signal=signal.SIGKILL)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"initdb did not finish within {seconds:.0f} s{self.log_tail()}") from None
        finally:
            process.kill()
        if code != 0:
            raise EmbeddedError(f"initdb failed with exit code {code}{self.log_tail()}")
        os.rename("cluster.new", "cluster", src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def forget_dead_postmaster(self) -> None:
        """Remove leftovers of a killed server that could prevent a start. The caller must hold the lock.

        Postgres refuses to start if a process with the id in a lock file exists, but ids are reused. It also refuses if a
        lock file is empty or has no id, which a power cut can cause. The lock proves that no embedded server runs here. A
        server started by hand holds no lock; the process name protects it.
        """
        found = self.postmaster()
        if found is not None:
            self.remove_socket_directory(found.socket_directory)
        for file in (self.path / "cluster" / "postmaster.pid", self.path / f"{SOCKET_NAME}.lock"):
            if not _may_be_of_a_server(file):
                file.unlink(missing_ok=True)

    def make_socket_directory(self) -> Path:
        """Return the socket's directory: this one, or a new temporary one if clients cannot use this path."""
        too_long = len(os.fsencode(self.path / SOCKET_NAME)) > _SOCKET_PATH_LIMIT
        if not too_long and "," not in str(self.path):  # a comma separates hosts in a URL
            return self.path
        roomy = len(os.fsencode(tempfile.gettempdir())) < _SOCKET_PATH_LIMIT // 2
        directory = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=None if roomy else _SHORT_DIRECTORY))
        if self.account is not None:
            os.chown(directory, self.account.uid, self.account.gid)
        return directory

    def remove_socket_directory(self, directory: Path) -> None:
        """Remove a directory that `make_socket_directory` created. Does nothing for any other directory."""
        made_in = (Path(tempfile.gettempdir()), Path(_SHORT_DIRECTORY))
        if directory.parent in made_in and directory.name.startswith(_SOCKET_PREFIX):
            shutil.rmtree(directory, ignore_errors=True)

    def _check_major(self, cluster: str, server: str) -> None:
        if server.partition(".")[0] != cluster:
            raise EmbeddedError(
                f"{self.path} was created by Postgres {cluster}, but the programs found are version {server}:"
                f" set POSTGRES_BIN to those of version {cluster}, or delete the directory to start over"
            )


def _may_be_of_a_server(lock_file: Path) -> bool:
    """False if the first line of the file is no process id, or that of a process which is no Postgres server."""
    try:
        first, *_ = lock_file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return False
    if not first.strip().isdigit():
        return False
    name = Path(f"/proc/{int(first)}/comm")
    return not name.exists() or name.read_text().strip() == "postgres"
