"""The home directory of another user counts as none."""

import os
from contextlib import suppress
from pathlib import Path


def ignore_foreign_home() -> None:
    """Replace a home directory that this user may not enter by one that does not exist.

    After `su` or in a container HOME can be that of another user. The database driver looks for files there; one that is
    missing is no error, but one that it may not read is.
    """
    with suppress(RuntimeError):
        if not os.access(Path.home(), os.X_OK):
            os.environ["HOME"] = "/nonexistent"
