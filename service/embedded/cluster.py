"""The directory of one embedded server: whose it is, who works in it, and how it comes to hold a cluster.

`cluster/` is what Postgres calls its data directory, `log` is the output of the last start, `owner` is locked
by the process that started the server, and the socket lies beside them. An open descriptor of the directory
goes along into the server, for two uses:

* It carries a lock (flock(2)). A lock lives as long as any process that inherited it, so it tells for certain
  whether a postmaster, or a leftover of a killed one, still works here. The process id in `postmaster.pid`
  cannot: ids are used again.
* A server started by root runs as another user, who may be unable to pass the directories above. It reaches
  its own through `/proc/self/fd`, and no directory of anybody's has to be opened up.
"""

import fcntl
import os
import pwd
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
from service.embedded.binaries import ENVIRONMENT, server_version

SOCKET_NAME = ".s.PGSQL.5432"
"""The name Postgres makes of port 5432."""
_SHORT_DIRECTORY = "/tmp"  # noqa: S108 - mkdtemp makes a private one in it; TMPDIR itself may be too long for a socket
_SOCKET_PATH_LIMIT = 103
"""Bytes of a socket's path: Linux has room for 108 with the closing zero (unix(7)), macOS for 104."""
_SOCKET_PREFIX = "contact-exports-socket-"
_LOG_TAIL_BYTES = 4000


class Postmaster(NamedTuple):
    """What `postmaster.pid` says; the process may be gone."""

    pid: int
    socket_directory: Path
    ready: bool


class ClusterDirectory:
    """The directory `path`, made by `entered` where it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.account: child_process.Account | None = None
        """Whom the server runs as, None for ourselves; known inside `entered`."""
        self._descriptor = -1

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Make the directory, give it to the user the server runs as, and hold it open.

        Raises EmbeddedError when the directory is another user's or holds something else.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = {entry.name for entry in self.path.iterdir()}
            if names and not names & {"cluster", "cluster.new", "log", "owner"}:
                raise EmbeddedError(f"{self.path} holds something else: name an empty directory or a new one")
            # Postgres refuses to run as root.
            self.account = _server_account(self.path) if os.geteuid() == 0 else None
            if self.account is not None:
                os.chown(self.path, self.account.uid, self.account.gid)
            self.path.chmod(0o700)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise EmbeddedError(f"{self.path} cannot hold an embedded Postgres: {error.strerror}") from error
        try:
            yield
        finally:
            os.close(self._descriptor)

    def lock(self) -> bool:
        """Whether nobody else works here; if so, nobody will until we and all we ran here are done."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def own(self) -> int:
        """A descriptor that tells others, while it is open, that the server has an owner; needs the lock."""
        # A new file each time: somebody whose server died may still hold the old one.
        with suppress(FileNotFoundError):
            os.unlink("owner", dir_fd=self._descriptor)
        owner = os.open("owner", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._descriptor)
        fcntl.flock(owner, fcntl.LOCK_EX)
        return owner

    def is_owned(self) -> bool:
        """Whether the process that started the server lives; if not, the server is about to end."""
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
        """The path by which a program that `run` starts reaches the directory."""
        if self.account is not None and sys.platform == "linux":
            return Path(f"/proc/self/fd/{self._descriptor}")
        return self.path

    def run(self, command: Sequence[str], *, death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        """Start a program that works in the directory; it writes into the log, which is emptied first."""
        # No link is followed: root opens a file in a directory that belongs to somebody else.
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
        """The end of the log on lines of its own, to be put behind an error's first line."""
        try:
            text = (self.path / "log").read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return ""
        return f"\n{text}" if text else ""

    def postmaster(self) -> Postmaster | None:
        """The server that last wrote its id here, None where none did or it is still writing."""
        try:
            text = (self.path / "cluster" / "postmaster.pid").read_text(errors="surrogateescape")
        except FileNotFoundError:
            return None
        match text.splitlines():
            case [pid, _, _, _, sockets, _, _, state, *_]:
                named = Path(sockets)
                own = self.path if named.is_relative_to("/proc/self/fd") else named
                return Postmaster(int(pid), own, state.strip() == "ready")
        return None

    def make_cluster(self, binaries: Path, *, durable: bool, seconds: float) -> None:
        """Make the cluster where there is none yet; the lock must be held.

        It is made under another name and renamed when it is whole, so one that was interrupted is never taken
        for a cluster. Raises EmbeddedError when initdb fails or takes longer than `seconds`, and when the
        cluster that is there already belongs to another major version.
        """
        mark = self.path / "cluster" / "PG_VERSION"
        if mark.exists():
            self._check_major(mark.read_text().strip(), server_version(binaries, self.account))
            return
        shutil.rmtree(self.path / "cluster.new", ignore_errors=True)
        fixed = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
        command = [str(binaries / "initdb"), f"--pgdata={self.inside / 'cluster.new'}", *fixed]
        process = self.run(command if durable else [*command, "--no-sync"], death_signal=signal.SIGKILL)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"initdb did not end within {seconds:.0f} s{self.log_tail()}") from None
        finally:
            process.kill()
        if code != 0:
            raise EmbeddedError(f"initdb failed with exit code {code}{self.log_tail()}")
        os.rename("cluster.new", "cluster", src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def forget_dead_postmaster(self) -> None:
        """Remove what a killed server left and Postgres could stumble over; the lock must be held.

        Its id may be another process's by now, and Postgres would refuse to start for its sake. The lock says
        that no server of ours is there; one that somebody started by hand has no lock, but the name.
        """
        found = self.postmaster()
        if found is None:
            return
        self.remove_socket_directory(found.socket_directory)
        name = Path(f"/proc/{found.pid}/comm")
        if name.exists() and name.read_text().strip() != "postgres":
            (self.path / "cluster" / "postmaster.pid").unlink(missing_ok=True)

    def make_socket_directory(self) -> Path:
        """Where the socket goes: here, or into a new temporary directory if clients cannot name this path."""
        too_long = len(os.fsencode(self.path / SOCKET_NAME)) > _SOCKET_PATH_LIMIT
        if not too_long and "," not in str(self.path):  # a comma separates hosts in a URL
            return self.path
        roomy = len(os.fsencode(tempfile.gettempdir())) < _SOCKET_PATH_LIMIT // 2
        directory = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=None if roomy else _SHORT_DIRECTORY))
        if self.account is not None:
            os.chown(directory, self.account.uid, self.account.gid)
        return directory

    def remove_socket_directory(self, directory: Path) -> None:
        """Remove a directory that `make_socket_directory` made; leaves any other alone."""
        made_in = (Path(tempfile.gettempdir()), Path(_SHORT_DIRECTORY))
        if directory.parent in made_in and directory.name.startswith(_SOCKET_PREFIX):
            shutil.rmtree(directory, ignore_errors=True)

    def _check_major(self, cluster: str, server: str) -> None:
        if server.partition(".")[0] != cluster:
            raise EmbeddedError(
                f"{self.path} was made by Postgres {cluster}, but the programs found are version {server}:"
                f" set POSTGRES_BIN to those of {cluster}, or remove the directory to begin anew"
            )


def _server_account(directory: Path) -> child_process.Account:
    owner = directory.stat()
    if owner.st_uid != 0:
        return child_process.Account(str(owner.st_uid), owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return child_process.Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError("Postgres refuses to run as root, and there is no user postgres or nobody to run it as")
