"""The SQL files: each statement has a comment, belongs to the module with the file's name, and is used once."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import service
from service.model import Extra
from sql import fragment, fragments, migrations, statement, statements

_QUERIES = [Path(str(entry)) for entry in files("sql").joinpath("queries").iterdir() if entry.name.endswith(".sql")]
_SERVICE = Path(service.__file__).parent
_MODULES = sorted((_SERVICE / "postgres").glob("*.py"))
_COMMENT = re.compile(r"--.*")
_QUOTED = re.compile(r"'(?:[^']|'')*'")


def _raw_texts(kind: str) -> list[tuple[str, str]]:
    """Name and text of each statement (`name`) or fragment (`fragment`), as they stand in the files."""
    found = []
    for path in _QUERIES:
        _, *parts = re.split(r"^-- (name|fragment): (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        found += [
            (name, text) for each, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True) if each == kind
        ]
    return found


def _statements_in(path: Path) -> set[str]:
    """Names of the statements in a query file."""
    return set(re.findall(r"^-- name: (\w+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


def _strings(path: Path) -> Iterator[str]:
    """The string constants in a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _code(text: str) -> str:
    return _QUOTED.sub("", _COMMENT.sub("", text)).strip()


@pytest.mark.parametrize(("name", "text"), _raw_texts("name"), ids=[name for name, _ in _raw_texts("name")])
def test_a_statement_has_a_comment_and_one_semicolon_at_its_end(name: str, text: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
    first_line = text.strip().splitlines()[0]
    assert re.fullmatch(r"-- [A-Z$].{9,}", first_line), first_line
    assert _code(text).endswith(";")
    assert _code(text).count(";") == 1
    assert statement(name) == text.strip()[:-1]


@pytest.mark.parametrize(("name", "text"), _raw_texts("fragment"), ids=[name for name, _ in _raw_texts("fragment")])
def test_a_fragment_has_a_comment_and_no_semicolon(name: str, text: str) -> None:
    assert re.fullmatch(r"-- [A-Z$].{9,}", text.strip().splitlines()[0])
    assert ";" not in _code(text)
    assert fragment(name) == text.strip()


def test_every_file_begins_with_a_statement() -> None:
    assert _QUERIES
    for path in _QUERIES:
        assert path.read_text(encoding="utf-8").startswith("-- name: "), path.name


def test_every_statement_is_used_once_and_by_the_module_with_the_name_of_its_file() -> None:
    for path in _QUERIES:
        used = Counter(text for text in _strings(_SERVICE / "postgres" / f"{path.stem}.py") if text in _statements_in(path))
        assert used == Counter(_statements_in(path)), path.name


def test_a_module_uses_no_statement_of_another_file() -> None:
    for path in _SERVICE.rglob("*.py"):
        own = _QUERIES[0].with_name(f"{path.stem}.sql") if path in _MODULES else None
        own_statements = _statements_in(own) if own is not None and own.exists() else set()
        called = {
            node.args[0].value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
            if (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None))
            in ("statement", "fetch", "fetch_row", "read_row")
        }
        assert called <= own_statements, path.name


def test_every_extra_has_a_fragment_and_every_fragment_of_an_extra_has_one() -> None:
    of_extras = {name.removeprefix("extra_") for name in fragments() if name.startswith("extra_")}
    names = {name.removesuffix("_unique").removesuffix("_absent") for name in of_extras}
    assert names == {str(extra) for extra in Extra}
    assert {f"extra_{extra}" for extra in Extra} <= fragments().keys()


def test_the_files_together_have_all_statements() -> None:
    assert set().union(*(_statements_in(path) for path in _QUERIES)) == statements().keys()


def test_every_file_of_a_set_is_a_migration_numbered_from_one() -> None:
    for set_name in ("main", "contacts"):
        entries = {entry.name for entry in files("sql").joinpath("migrations", set_name).iterdir()}
        known = migrations(set_name)
        assert known
        assert {f"{migration.name}.sql" for migration in known} == {name for name in entries if name.endswith(".sql")}
        assert [migration.version for migration in known] == list(range(1, len(known) + 1))
        assert [migration.name[:5] for migration in known] == [f"{migration.version:04}_" for migration in known]


def test_a_checksum_covers_the_whole_file() -> None:
    (first, *_) = migrations("main")
    assert re.fullmatch("[0-9a-f]{64}", first.checksum)
    assert type(first)(1, first.name, first.text + " ").checksum != first.checksum


def test_migrations_can_be_stored_in_a_database_of_any_encoding() -> None:
    for set_name in ("main", "contacts"):
        assert all(migration.text.isascii() for migration in migrations(set_name))
