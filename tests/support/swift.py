"""A real S3 server for the tests: OpenStack Swift, which verifies signatures, expiry, checksums and sizes."""

import errno
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from service.embedded import child_process

_SERVER = Path(__file__).with_name("swift_server.py")
_START_SECONDS = 60.0
"""On an idle machine it is ready in 1 to 2 s."""
_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 4000


class SwiftS3:
    """One server with its data in a temporary directory. It runs inside the `with` block and ends with this process.

    `minimum_part_bytes` is the minimum size of all parts except the last. The default is that of S3.
    """

    region = "us-east-1"
    access_key = "tests:exports"

    def __init__(self, *, minimum_part_bytes: int = 5 * 1024 * 1024) -> None:
        self.secret_key = secrets.token_hex(16)
        self._minimum_part_bytes = minimum_part_bytes
        self._directory = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        """The address of the server on the loopback interface."""
        return f"http://127.0.0.1:{(self._directory / 'port').read_text()}"

    def start(self) -> None:
        """Start the server and wait until it responds. Raises RuntimeError with its log if it does not."""
        self._directory = _directory_with_attributes()
        # -P removes this directory from the child's module path, where swift.py would shadow the package swift.
        python = [sys.executable, "-P", "-W", "ignore"]
        command = [*python, str(_SERVER), str(self._directory), self.access_key, self.secret_key]
        try:
            with (self._directory / "log").open("wb") as log:
                self._process = child_process.start([*command, str(self._minimum_part_bytes)], output=log.fileno())
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and delete its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._directory != Path():
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = Path()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while not (self._directory / "port").exists():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                log = (self._directory / "log").read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
                problem = "exited during startup" if ended else f"did not start within {_START_SECONDS:.0f} s"
                raise RuntimeError(f"Swift {problem}\n{log}")
            time.sleep(_POLL_SECONDS)


def _directory_with_attributes() -> Path:
    """Create a temporary directory that supports extended attributes, in which Swift stores metadata.

    Raises RuntimeError that lists the directories tried. tmpfs supports user attributes since Linux 6.6.
    """
    tried = []
    for parent in (tempfile.gettempdir(), "/var/tmp"):
        directory = Path(tempfile.mkdtemp(prefix="contact-exports-swift-", dir=parent))
        probe = directory / "probe"
        probe.touch()
        try:
            os.setxattr(probe, "user.probe", b"x" * 2048)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            tried.append(f"{parent}: {errno.errorcode.get(error.errno or 0, error)}")
            continue
        probe.unlink()
        return directory
    raise RuntimeError(f"Swift needs a file system with extended attributes (user.*): set TMPDIR to one; {'; '.join(tried)}")
