"""The SQL files: every statement says what it is for and is used once, and the drawing of an export's life is true."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

import service
from service.model import ExportStatus
from sql import migrations, statement, statements

_QUERIES = [Path(str(entry)) for entry in files("sql").joinpath("queries").iterdir() if entry.name.endswith(".sql")]
_SERVICE = Path(service.__file__).parent
_COMMENT = re.compile(r"--.*")
_QUOTED = re.compile(r"'(?:[^']|'')*'")


def _raw_statements() -> list[tuple[str, str]]:
    """Name and text of each statement as it stands in its file."""
    found = []
    for path in _QUERIES:
        _, *parts = re.split(r"^-- name: (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        found += list(zip(parts[::2], parts[1::2], strict=True))
    return found


def _nodes() -> Iterator[ast.AST]:
    for path in _SERVICE.rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("name", "text"), _raw_statements(), ids=[name for name, _ in _raw_statements()])
def test_a_statement_says_what_it_is_for_and_ends_with_its_only_semicolon(name: str, text: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
    first_line = text.strip().splitlines()[0]
    assert re.fullmatch(r"-- [A-Z$].{9,}", first_line), first_line
    code = _QUOTED.sub("", _COMMENT.sub("", text)).strip()
    assert code.endswith(";")
    assert code.count(";") == 1
    assert statement(name) == text.strip()[:-1]


def test_nothing_stands_before_the_first_statement_of_a_file() -> None:
    assert _QUERIES
    for path in _QUERIES:
        assert path.read_text(encoding="utf-8").startswith("-- name: "), path.name


def test_every_statement_is_used_in_one_place() -> None:
    texts = [node.value for node in _nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert Counter(text for text in texts if text in statements()) == Counter(statements().keys())


def test_every_statement_that_is_used_exists() -> None:
    named = set()
    for node in _nodes():
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if function in ("statement", "fetch", "fetch_row", "read_row"):
                named.add(node.args[0].value)
    assert len(named) > 20
    assert named <= statements().keys()


def test_every_file_of_a_set_is_a_migration_numbered_from_one() -> None:
    for set_name in ("main", "contacts"):
        entries = {entry.name for entry in files("sql").joinpath("migrations", set_name).iterdir()}
        known = migrations(set_name)
        assert known
        assert {f"{migration.name}.sql" for migration in known} == {name for name in entries if name.endswith(".sql")}
        assert [migration.version for migration in known] == list(range(1, len(known) + 1))
        assert [migration.name[:5] for migration in known] == [f"{migration.version:04}_" for migration in known]


def test_a_checksum_is_of_the_whole_file() -> None:
    (first, *_) = migrations("main")
    assert re.fullmatch("[0-9a-f]{64}", first.checksum)
    assert type(first)(1, first.name, first.text + " ").checksum != first.checksum


# The drawing ---------------------------------------------------------------------------------------------------------

Move = tuple[str, str]


def _drawing() -> list[str]:
    """The lines of the drawing, from the one with the states in a row."""
    lines = migrations("main")[0].text.splitlines()
    start = next(number for number, line in enumerate(lines) if "queued ───" in line)
    return lines[start : lines.index("--", start)]


def _drawn_moves(lines: list[str]) -> set[Move]:
    """Follows each line of the drawing from end to end.

    In the row of states an arrow leads from word to word. Below it a line has corners, from which one goes up to a state;
    one that meets an arrowhead there is the end of the move, others are beginnings, as is what stands behind an arrow.
    """
    row = lines[0]
    moves = {(match[1], match[2]) for match in re.finditer(r"(\w+) ─+▶ (?=(\w+))", row)}
    for number, line in enumerate(lines[1:], 1):
        for path in re.finditer(r"[├└](?:[─┴ ]|(?<=[ \w])\w)*─(?:[┘┤]|▶ (\w+))", line):
            corners = [column for column in range(*path.span()) if line[column] in "├└┴┘┤"]
            tops = [_top(lines, number, column) for column in corners]
            ends = {state for state, into in tops if into} | ({path[1]} if path[1] else set())
            moves |= {(state, end) for state, into in tops if not into for end in ends}
    return moves


def _top(lines: list[str], number: int, column: int) -> tuple[str, bool]:
    """The state above a corner, and whether an arrow leads up into it."""
    way = [lines[above][column] for above in range(number - 1, 0, -1)]
    assert set(way) <= set("│├┤▲"), f"the drawing breaks off above line {number}, column {column}"
    (state,) = [match[0] for match in re.finditer(r"\w+", lines[0]) if match.start() <= column < match.end()]
    return state, "▲" in way


def test_the_drawing_of_an_exports_life_shows_the_moves_that_the_trigger_allows() -> None:
    text = migrations("main")[0].text
    listed = text.partition("(OLD.status, NEW.status) NOT IN (")[2].partition(") THEN")[0]
    allowed = set(re.findall(r"\('(\w+)', '(\w+)'\)", listed))
    assert len(allowed) == 7
    assert _drawn_moves(_drawing()) == allowed


def test_the_drawing_names_every_state() -> None:
    words = set(re.findall(r"\w+", "\n".join(_drawing())))
    assert words >= {str(status) for status in ExportStatus}
