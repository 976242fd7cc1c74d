"""The README and the pages of docs/ agree with the code."""

import re
import signal
from pathlib import Path
from xml.etree import ElementTree

import pytest

from service.commands.export.command import export
from service.commands.export.exit_codes import ExitCode
from tests.support import docs

_PAGES = [page.relative_to(docs.ROOT).as_posix() for page in docs.PAGES]
_README_LINES = 150


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts generate them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_settings_page_has_the_table_of_the_code() -> None:
    assert docs.settings_table() in docs.text_of("docs/settings.md")


def test_the_page_of_the_export_command_has_its_exit_codes() -> None:
    rows = re.findall(r"^\| ([0-9, ]+) \| ", docs.text_of("docs/client.md"), re.MULTILINE)
    signals = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    assert {int(code) for row in rows for code in row.split(",")} == {*ExitCode, *signals}


def test_the_page_of_the_export_command_has_its_options() -> None:
    options = {option for parameter in export.params for option in parameter.opts if option.startswith("--")}
    assert {option for option in options if f"`{option}" not in docs.text_of("docs/client.md")} == {"--url", "--output"}


@pytest.mark.parametrize("reader", ["pandas", "Polars", "pyarrow", "DuckDB"])
def test_the_page_for_consumers_names_the_version_that_is_tested(reader: str) -> None:
    pinned = re.findall(rf"^{reader.lower()}==(\S+)", docs.text_of("requirements/foreign.txt"), re.MULTILINE)
    named = re.findall(rf"{reader} (\d[\d.]*\d)", docs.text_of("docs/consuming.md"))
    assert named == pinned * 2


def test_the_readme_is_short() -> None:
    assert len(docs.text_of("README.md").splitlines()) <= _README_LINES


@pytest.mark.parametrize("page", _PAGES)
def test_every_relative_link_has_a_target(page: str) -> None:
    here = (docs.ROOT / page).parent
    for path, _, anchor in (link.partition("#") for link in re.findall(r"\]\(((?!https?:)[^)]+)\)", docs.text_of(page))):
        target = (here / path).resolve() if path else docs.ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = docs.text_of("README.md")
    assert [page for page in _PAGES if page != "README.md" and f"]({page})" not in readme] == []


def test_the_map_of_the_code_names_every_module_and_no_other() -> None:
    (tree,) = [block.text for block in docs.blocks("text", "docs/design.md") if block.text.startswith("service/\n")]
    found = [path.relative_to(docs.ROOT).as_posix() for path in (docs.ROOT / "service").rglob("*.py")]
    assert sorted(docs.mapped_modules(tree)) == sorted(path for path in found if not path.endswith("/__init__.py"))


@pytest.mark.parametrize("page", ["docs/design.md", "CONTRIBUTING.md"])
def test_every_path_in_the_prose_exists(page: str) -> None:
    paths = re.findall(r"`((?:service|sql|tests|docs|\.ci)/[^` ]*)`", docs.text_of(page))
    assert paths
    assert [path for path in paths if not (docs.ROOT / path).exists()] == []


def test_the_picture_shows_the_figures_of_the_performance_page() -> None:
    """Each bar of the picture is as long as its seconds, and the seconds follow from the table's last row."""
    row = next(
        line for line in docs.text_of("docs/performance.md").splitlines() if line.startswith("| with tokens and addresses")
    )
    seconds, _, igzip, gzip, script = (float(cell.replace(",", "")) for cell in row.split("|")[2:7])
    picture = ElementTree.parse(docs.ROOT / "docs" / "comparison.svg").getroot()
    namespace = "{http://www.w3.org/2000/svg}"
    labels = [
        float(text.text.removesuffix(" s"))
        for text in picture.iter(f"{namespace}text")
        if text.text and text.text.endswith(" s")
    ]
    widths = [float(bar.attrib["width"]) for bar in picture.iter(f"{namespace}rect")]
    assert labels == [round(seconds * ratio, 1) for ratio in (1, igzip, gzip, script)]
    assert widths == pytest.approx([label * widths[0] / labels[0] for label in labels], rel=0.02)
