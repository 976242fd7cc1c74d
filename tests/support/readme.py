"""The README as tests read it: its fenced blocks, and what its table of settings must say."""

import re
from pathlib import Path

from pydantic import ByteSize, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from service.settings import Settings

TEXT = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [text for found, text in _BLOCK.findall(TEXT) if found == language]


def settings_table() -> str:
    """The table of settings as the code knows them."""
    fields = Settings.model_fields.items()
    rows = [f"| `{name.upper()}` | {_default(field)} | {field.description} |" for name, field in fields]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])


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
