"""The file operations of the directory store: each blocks, runs in a thread, and ends as one of the store's errors."""

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from service.errors import ExportFailure, StorageFull, StorageRefused, StorageUnavailable
from service.model import Part

_PIECES = 16
"""Written by one call: 1 MiB of a part. One call for the part takes a processor for 4 ms, one for each piece the interpreter
from the event loop a hundred times.
"""
OPERATION_SECONDS = 60.0
"""Deadline of every operation. What a hung disk holds goes on in its thread and is harmless when it comes back: every
step opens its file by name, and an aborted upload has no name any more."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EOPNOTSUPP}
)

T = TypeVar("T")


def failure(operation: str, error: OSError) -> ExportFailure:
    """What an OSError means for an export; the detail names the operation, the error and a missing directory."""
    code = errno.errorcode.get(error.errno or 0, "unknown")
    detail = f"{operation}: {code}: {os.strerror(error.errno or 0)}"
    if error.errno in _FULL:
        return StorageFull(detail=detail)
    if error.errno == errno.ENOENT:
        folder = error.filename
        return StorageRefused(detail=f"the directory {folder} does not exist; `contact-exports storage init` creates it")
    if error.errno in _REFUSED:
        return StorageRefused(detail=detail)
    return StorageUnavailable(detail=detail)


async def in_thread(operation: str, work: Callable[[], T], *, seconds: float = OPERATION_SECONDS) -> T:
    """Run `work` in a thread, within `seconds`. Raises StorageUnavailable, StorageRefused or StorageFull."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.to_thread(work)
    except TimeoutError:
        raise StorageUnavailable(detail=f"{operation}: the disk did not answer within {seconds:g} s") from None
    except OSError as error:
        raise failure(operation, error) from error


def make_private(*folders: Path) -> None:
    """Make the directories, and those above them, where they are missing; only this user may look inside."""
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_inside_empty(root: Path, *folders: Path) -> None:
    """Make the directories in `root` if that is there and holds nothing."""
    if root.is_dir() and not any(root.iterdir()):
        make_private(*folders)


def make_empty(path: Path) -> None:
    """Make a new empty file that only this user may read."""
    with _opened(path.parent) as folder:
        os.close(os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder))


def write_at(path: Path, offset: int, part: Part) -> None:
    """Write all of `part` to the disk at `offset` of an existing file. Raises StorageUnavailable if it was aborted."""
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
        # Part by part, so that a full disk shows at once and `publish` has little left to wait for.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(unfinished: Path, target: Path, size: int) -> None:
    """Give the file its final name, once, when its `size` bytes are on the disk; an existing one is never replaced.

    Raises StorageUnavailable if it has been aborted.
    """
    with _opened(target.parent) as folder:
        descriptor = _open_unfinished(unfinished)
        try:
            os.ftruncate(descriptor, size)  # the last part may have been stored before, and longer
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


def remove(path: Path) -> None:
    """Remove a file for good; one that is gone already is a success, a directory that is gone is not."""
    with _opened(path.parent) as folder:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        os.fsync(folder)


def exists(path: Path) -> bool:
    """Whether the file is there. Raises OSError where its directory is not."""
    with _opened(path.parent) as folder:
        try:
            os.stat(path.name, dir_fd=folder)
        except FileNotFoundError:
            return False
        return True


def entries(folder: Path) -> list[tuple[str, os.stat_result]]:
    """Names and facts of the files in a directory; one that is removed meanwhile is left out."""
    found = []
    with os.scandir(folder) as listing:
        for entry in listing:
            with suppress(FileNotFoundError):
                found.append((entry.name, entry.stat(follow_symlinks=False)))
    return found


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A descriptor of the directory. Opened first, it tells a missing directory from a missing file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_unfinished(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY)
    except FileNotFoundError:
        raise _aborted() from None


def _aborted() -> StorageUnavailable:
    return StorageUnavailable(detail="the upload has been aborted by another process")
