"""The README says what the code does."""

import re
from pathlib import Path

from tests.support import readme

ROOT = Path(__file__).parents[2]


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert readme.settings_table() in readme.TEXT


def test_every_file_it_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", readme.TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_path_in_the_map_of_the_code_is_there() -> None:
    rows = [line.split("|")[1] for line in readme.TEXT.splitlines() if line.startswith(("| `service/", "| `sql/"))]
    paths = [path for row in rows for path in re.findall(r"`([^`]+)`", row)]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists() and not (ROOT / "service" / path).exists()] == []
