"""The system user that runs the embedded server."""

import os
import pwd
from pathlib import Path

from service.embedded import EmbeddedError
from service.embedded.child_process import Account


def server_account(directory: Path) -> Account:
    """The user for a server that root starts: the owner of `directory`, or else postgres or nobody. Raises EmbeddedError."""
    owner = directory.stat()
    if owner.st_uid != 0:
        return Account(str(owner.st_uid), owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError("Postgres refuses to run as root, and the users postgres and nobody do not exist")


def check_user_name(account: Account | None) -> None:
    """Raises EmbeddedError if `account`, or else this process's user, has no name: initdb refuses to run without one."""
    uid = account.uid if account is not None else os.geteuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise EmbeddedError(
            f"the embedded Postgres cannot be created, because the user id {uid} has no entry in /etc/passwd:"
            " add one, or set DATABASE_URL and STORAGE_URL"
        ) from None
