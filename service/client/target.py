"""A file that appears under its name only once it is complete."""

import asyncio
import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from service.client.errors import TargetError, TargetExists

_REFUSED = ".rejected"


class FileTarget:
    """A new file. It has a temporary name beside its target until `place`; without that, it is removed at the end.

    `replace` allows an existing file at the target. All methods raise TargetError.
    """

    def __init__(self, path: Path, *, replace: bool) -> None:
        # A symbolic link stays: the file that it names is replaced.
        self.path = Path(os.path.realpath(path))
        self._replace = replace
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._file: int | None = None

    def __enter__(self) -> Self:
        self._check_target()
        with self._explained():
            self._file = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        await self._in_thread(lambda: self._write(data))

    async def place(self) -> None:
        """Store the file durably and give it its name."""
        await self._in_thread(self._place)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """A cancellation waits for the thread, which would otherwise use a closed file."""
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    def _place(self) -> None:
        with self._explained():
            os.fsync(self._open_file)
            if self._replace:
                self._temporary.replace(self.path)
            else:
                self._link()
            sync_directory(self.path.parent)

    def keep_aside(self) -> Path:
        """Keep a wrong file for inspection under another name than the target's, and return that name."""
        aside = self.path.with_name(self.path.name + _REFUSED)
        with self._explained():
            self._temporary.replace(aside)
        return aside

    def _link(self) -> None:
        """Give the file its name unless another process has used that name meanwhile."""
        try:
            self.path.hardlink_to(self._temporary)
        except FileExistsError:
            raise TargetExists(f"{self.path} already exists.") from None
        except OSError:  # some file systems have no hard links
            self._check_target()
            self._temporary.replace(self.path)

    @property
    def _open_file(self) -> int:
        assert self._file is not None
        return self._file

    def _write(self, data: bytes) -> None:
        with self._explained():
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._open_file, rest) :]

    def _check_target(self) -> None:
        path = self.path
        with self._explained():
            if path.is_dir():
                raise TargetError(f"{path} is a directory.")
            if not path.exists():
                return
            if not path.is_file():
                raise TargetError(f"{path} is not a regular file.")
            if not self._replace:
                raise TargetExists(f"{path} already exists.")
            if not os.access(path, os.W_OK):
                raise TargetError(f"{path} is read-only.")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TargetError(explained(error, self.path)) from None


def explained(error: OSError, path: Path) -> str:
    """One sentence about an error while `path` is written."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return f"There is no space left for {path} ({os.strerror(error.errno)})."
        case errno.ENOENT | errno.ENOTDIR:
            return f"The directory of {path} does not exist."
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return f"The directory of {path} is not writable ({os.strerror(error.errno)})."
        case _:
            return f"{path} cannot be written ({error.strerror or type(error).__name__})."


def sync_directory(path: Path) -> None:
    """Make a renamed file durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
