"""Temporary directories that do not stay: one that a killed process left is removed by the next process that needs one."""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def private_directory(prefix: str) -> Iterator[Path]:
    """A new temporary directory for this user alone, removed at the end of the block.

    `prefix` begins its name. First, directories with this prefix that no process of this user uses are removed.
    """
    for leftover in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):
            _remove_unused(leftover)
    directory, lock = _new(prefix)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _remove_unused(directory: Path) -> None:
    found = directory.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        lock = _locked(directory)
        try:
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(lock)


def _new(prefix: str) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix))
        # Before the lock another process may take the directory for a leftover.
        with suppress(OSError):
            lock = _locked(directory)
            if directory.exists():
                return directory, lock
            os.close(lock)


def _locked(directory: Path) -> int:
    """A descriptor with a lock that ends with the process. Raises OSError if another process holds it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
