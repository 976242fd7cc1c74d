"""Blocking file operations of the directory store. `in_thread` runs one in a thread and translates its OSErrors."""

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from service.failures import ExportFailure, StorageFull, StorageRefused, StorageUnavailable
from service.model import Part

_PIECES = 16
"""Pieces per `pwritev` call (about 1 MiB). Writing a whole part at once occupies a CPU for 4 ms; writing piece by piece
takes the GIL from the event loop a hundred times.
"""
OPERATION_TIMEOUT = timedelta(minutes=1)
"""Deadline of every operation. On a hung disk the operation continues in its thread. It does no harm when it resumes:
every step opens its file by name, and an aborted upload has lost its name."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EOPNOTSUPP}
)

T = TypeVar("T")


def failure_from_os_error(operation: str, error: OSError) -> ExportFailure:
    """Translate an OSError into an export failure. The detail names the operation, the error and the path."""
    code = errno.errorcode.get(error.errno or 0, "unknown")
    path = f": {error.filename}" if isinstance(error.filename, str) else ""
    detail = f"{operation}: {code}: {os.strerror(error.errno or 0)}{path}"
    if error.errno in _FULL:
        return StorageFull(detail=detail)
    if error.errno == errno.ENOENT:
        folder = error.filename
        return StorageRefused(detail=f"the directory {folder} does not exist; `contact-exports storage init` creates it")
    if error.errno in _REFUSED:
        return StorageRefused(detail=detail)
    return StorageUnavailable(detail=detail)


async def in_thread(operation: str, work: Callable[[], T], *, timeout: timedelta = OPERATION_TIMEOUT) -> T:
    """Run `work` in a thread, within `timeout`. Raises StorageUnavailable, StorageRefused or StorageFull."""
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            return await asyncio.to_thread(work)
    except TimeoutError:
        raise StorageUnavailable(
            detail=f"{operation}: the disk did not respond within {timeout.total_seconds():g} s"
        ) from None
    except OSError as error:
        raise failure_from_os_error(operation, error) from error


def make_private(*folders: Path) -> None:
    """Create the directories and their missing parents; only this user may read them."""
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_inside_empty(root: Path, *folders: Path) -> None:
    """Create the directories if `root` exists and is empty."""
    if root.is_dir() and not any(root.iterdir()):
        make_private(*folders)


def make_empty(path: Path) -> None:
    """Create a new empty file that only this user may read."""
    with _opened(path.parent) as folder:
        os.close(os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder))


def write_at(path: Path, offset: int, part: Part) -> None:
    """Write `part` at `offset` of an existing file and flush it. Raises StorageUnavailable if the upload was aborted."""
    descriptor = _open_unfinished(path)
    try:
        rest = deque(memoryview(piece) for piece in part)
        while rest:
            written = os.pwritev(descriptor, [*islice(rest, _PIECES)], offset)
            offset += written
            while rest and len(rest[0]) <= written:
                written -= len(rest.popleft())
            if rest:
                rest[0] = rest[0][written:]
        # Flushing each part reports a full disk early and leaves little work for `publish`.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(unfinished: Path, target: Path, size: int) -> None:
    """Flush the file's `size` bytes, then give it its final name. An existing file is never replaced.

    Raises StorageUnavailable if the upload was aborted.
    """
    with _opened(target.parent) as folder:
        descriptor = _open_unfinished(unfinished)
        try:
            os.ftruncate(descriptor, size)  # an earlier attempt at the last part may have been longer
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(unfinished, target.name, dst_dir_fd=folder)
        except FileNotFoundError:
            raise _aborted() from None
        os.fsync(folder)
    with suppress(FileNotFoundError):
        unfinished.unlink()


def read(path: Path) -> tuple[bytes, os.stat_result] | None:
    """Return a small file's bytes and `stat` result; None if it does not exist. Raises OSError if its directory does not."""
    with _opened(path.parent) as folder:
        try:
            descriptor = os.open(path.name, os.O_RDONLY, dir_fd=folder)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read(), os.fstat(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Write a small file that only this user may read, durably and in one step."""
    with _opened(path.parent) as folder:
        temporary = f"{path.name}.{uuid4().hex}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.rename(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)


def remove(path: Path) -> None:
    """Delete a file durably. Succeeds if the file no longer exists; raises OSError if its directory does not exist."""
    with _opened(path.parent) as folder:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        os.fsync(folder)


def exists(path: Path) -> bool:
    """Return whether the file exists. Raises OSError if its directory does not exist."""
    with _opened(path.parent) as folder:
        try:
            os.stat(path.name, dir_fd=folder)
        except FileNotFoundError:
            return False
        return True


def entries(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Return the names and `stat` results of a directory's files, without those deleted during the listing."""
    found = []
    with os.scandir(folder) as listing:
        for entry in listing:
            with suppress(FileNotFoundError):
                found.append((entry.name, entry.stat(follow_symlinks=False)))
    return found


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open the directory. Opening it first distinguishes a missing directory from a missing file.

    An error inside the block gets the whole path of the file that it names.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    except OSError as error:
        if isinstance(error.filename, str):
            error.filename = str(folder / error.filename)
        raise
    finally:
        os.close(descriptor)


def _open_unfinished(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY)
    except FileNotFoundError:
        raise _aborted() from None


def _aborted() -> StorageUnavailable:
    return StorageUnavailable(detail="the upload was aborted by another process")
