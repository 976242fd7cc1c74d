"""Secrets in files: the variable NAME_FILE names the file that contains the setting NAME."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def read_secret_files(names: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """The contents of the files that are named for these settings, by setting, and one error line per unusable file."""
    secrets: dict[str, Any] = {}
    errors = []
    for name in names:
        variable = f"{name.upper()}_FILE"
        if not (path := os.environ.get(variable)):
            continue
        if os.environ.get(name.upper()):
            errors.append(f"{variable} and {name.upper()} are both set")
        try:
            secrets[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError):
            errors.append(f"{variable} names a file that cannot be read")
    return secrets, errors
