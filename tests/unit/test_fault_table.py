"""Every fault number is in the fault table once, and every test that the table names exists."""

import re
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
_ROWS = [line for line in (_TESTS / "faults" / "README.md").read_text().splitlines() if line.startswith("| F")]


def test_every_fault_has_one_row_in_order() -> None:
    assert [row.split("|")[1].strip() for row in _ROWS] == [f"F{number}" for number in range(1, 107)]


@pytest.mark.parametrize("row", _ROWS, ids=[row.split("|")[1].strip() for row in _ROWS])
def test_the_tests_of_a_fault_exist(row: str) -> None:
    file: Path | None = None
    for name in re.findall(r"`((?:tests/|test_|\.\.::)[^`]*)`", row):
        path, _, function = name.partition("::")
        if path != "..":
            file = _TESTS.parent / path if path.startswith("tests/") else _TESTS / "faults" / path
        assert file is not None
        assert file.exists(), name
        if function:
            assert re.search(
                rf"^(?:async )?def {re.escape(function)}\(",
                file.read_text(),
                re.MULTILINE,
            ), name
