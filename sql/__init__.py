"""The SQL of the service: numbered migrations and named statements, loaded from the files beside this one.

A statement in `queries/*.sql` starts with `-- name: its_name`, followed by at least one comment line that says what it is
for, and ends with a semicolon at the end of a line. Each is called from one place in `service.postgres`.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_MIGRATION = re.compile(r"^(\d{4})_\w+\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step of a set, applied whole or not at all."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 (hex) of the file; a recorded one that differs means that an applied file was edited."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@cache
def statements() -> dict[str, str]:
    """All named statements. Raises ValueError when two files use one name."""
    found: dict[str, str] = {}
    for entry in sorted(files(__name__).joinpath("queries").iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".sql"):
            continue
        _, *parts = _NAME.split(entry.read_text(encoding="utf-8"))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in found:
                raise ValueError(f"two statements are named {name}")
            found[name] = text.strip().removesuffix(";")
    return found


def statement(name: str) -> str:
    """The statement of that name. Raises KeyError where there is none."""
    return statements()[name]


@cache
def migrations(set_name: str) -> tuple[Migration, ...]:
    """The migrations of one set (`main` or `contacts`), in order, numbered from 1 without gaps."""
    found = [
        Migration(int(match[1]), entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in files(__name__).joinpath("migrations", set_name).iterdir()
        if (match := _MIGRATION.match(entry.name))
    ]
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations of {set_name} are not numbered from 1 without gaps")
    return tuple(found)
