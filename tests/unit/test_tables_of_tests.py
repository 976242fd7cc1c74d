"""The tables of faults and of the HTTP contract: every row names tests, and every test that a table names exists."""

import re
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]


def _rows(table: str) -> list[str]:
    """The rows of all tables in this file, without their heads."""
    lines = (_TESTS / table).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ") and not line.startswith(("| ---", "| row |", "| number |"))]


_FAULTS = _rows("faults/README.md")
_CONTRACT = _rows("contract.md")


def _title(row: str) -> str:
    return row.split("|")[1].strip()


def _missing_tests(row: str, folder: Path) -> list[str]:
    """Names of tests in a row that do not exist. A file without a folder is in `folder`."""
    missing = []
    file: Path | None = None
    for name in re.findall(r"`((?:tests/|test_|\.\.::)[^`]*)`", row):
        path, _, function = name.partition("::")
        if path != "..":
            file = _TESTS.parent / path if path.startswith("tests/") else folder / path
        found = file is not None and file.exists()
        if not found or (function and not _has(file, function)):
            missing.append(name)
    return missing


def _has(file: Path | None, function: str) -> bool:
    assert file is not None
    return re.search(rf"^(?:async )?def {re.escape(function)}\(", file.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_every_fault_has_one_row_in_order() -> None:
    numbers = [int(_title(row).removeprefix("F")) for row in _FAULTS]
    assert numbers == sorted(set(numbers))
    assert numbers[:88] == [*range(1, 89)], "the catalog of faults has 88"


@pytest.mark.parametrize("row", _FAULTS, ids=map(_title, _FAULTS))
def test_the_tests_of_a_fault_exist(row: str) -> None:
    assert _missing_tests(row, _TESTS / "faults") == []


@pytest.mark.parametrize("row", _CONTRACT, ids=map(_title, _CONTRACT))
def test_every_row_of_the_contract_has_tests_that_exist(row: str) -> None:
    assert "`test" in row
    assert _missing_tests(row, _TESTS / "integration") == []


def test_a_test_that_does_not_exist_is_found() -> None:
    assert _missing_tests("| a | `test_contact_ids.py::test_nothing`, `..` |", _TESTS / "integration") == [
        "test_contact_ids.py::test_nothing"
    ]
