"""The README and the pages of docs/ as tests read them: fenced blocks, links, and the map of the code."""

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import ByteSize, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from service.setting_types import number_range
from service.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MAP_LINE = re.compile(r"^( *)(\w+)(/?)(?: {2,}.*)?$")


class Block(NamedTuple):
    """One fenced block; `page` is its path below the root, such as docs/operating.md."""

    page: str
    text: str


def text_of(page: str) -> str:
    """The whole text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(language: str, page: str | None = None) -> list[Block]:
    """The fenced blocks of one language, on one page or on all, in order."""
    pages = PAGES if page is None else [ROOT / page]
    found = ((path, _BLOCK.findall(path.read_text(encoding="utf-8"))) for path in pages)
    return [
        Block(path.relative_to(ROOT).as_posix(), text)
        for path, all_blocks in found
        for kind, text in all_blocks
        if kind == language
    ]


def block(language: str, page: str, containing: str) -> str:
    """The only block of a page that contains this text."""
    texts = [found.text for found in blocks(language, page) if containing in found.text]
    assert len(texts) == 1, (page, containing)
    return texts[0]


def mapped_modules(tree: str) -> list[str]:
    """The modules that a map names, as paths from the root.

    A map has one name per line, indented by two spaces per folder; folders end in a slash.
    """
    folders: list[str] = []
    modules = []
    for line in tree.splitlines():
        match = _MAP_LINE.match(line)
        assert match, f"not a line of a map: {line!r}"
        indent, name, slash = match.groups()
        del folders[len(indent) // 2 :]
        if slash:
            folders.append(name)
        else:
            modules.append("/".join([*folders, f"{name}.py"]))
    return modules


def settings_table() -> str:
    """The table of settings as the code defines them."""
    fields = Settings.model_fields.items()
    rows = [
        f"| `{name.upper()}` | {_default(field)} | {number_range(field) or ''} | {field.description} |"
        for name, field in fields
    ]
    return "\n".join(["| variable | default | range | meaning |", "| --- | --- | --- | --- |", *rows])


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "`~/.local/state/contact-exports`"
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, ByteSize):
        value = value.human_readable(separator="")
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
