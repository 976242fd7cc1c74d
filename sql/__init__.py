"""The SQL of the service: numbered migrations, named statements and fragments, loaded from the files of this package.

Each file in `queries/` belongs to the module of `service.postgres` with the same stem. A statement starts with
`-- name: its_name` and at least one comment line that says what it does, and ends with a semicolon. A fragment starts with
`-- fragment: its_name`; it is a part that is inserted into a statement, such as an expression, and has no semicolon.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_HEADER = re.compile(r"^-- (name|fragment): (\w+)$", re.MULTILINE)
_MIGRATION = re.compile(r"^(\d{4})_\w+\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step of a set, applied completely or not at all."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 (hex) of the file. If a recorded checksum differs, the file was edited after it was applied."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def statements() -> dict[str, str]:
    """All named statements. Raises ValueError if a name is used twice."""
    return _load()["name"]


def fragments() -> dict[str, str]:
    """All fragments. Raises ValueError if a name is used twice."""
    return _load()["fragment"]


def statement(name: str) -> str:
    """The statement with this name. Raises KeyError if there is none."""
    return statements()[name]


def fragment(name: str) -> str:
    """The fragment with this name. Raises KeyError if there is none."""
    return fragments()[name]


@cache
def _load() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {"name": {}, "fragment": {}}
    for entry in files(__name__).joinpath("queries").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        _, *parts = _HEADER.split(entry.read_text(encoding="utf-8"))
        for kind, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            if any(name in known for known in found.values()):
                raise ValueError(f"the name {name} is used twice in sql/queries")
            found[kind][name] = text.strip().removesuffix(";")
    return found


@cache
def migrations(set_name: str) -> tuple[Migration, ...]:
    """The migrations of a set (`main` or `contacts`), in order. Raises ValueError unless numbered from 1 without gaps."""
    found = [
        Migration(int(match[1]), entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in files(__name__).joinpath("migrations", set_name).iterdir()
        if (match := _MIGRATION.match(entry.name))
    ]
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations of {set_name} are not numbered from 1 without gaps")
    return tuple(found)
