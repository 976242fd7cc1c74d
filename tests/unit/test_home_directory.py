"""A home directory that this user may not enter counts as none."""

import os
from pathlib import Path

import pytest

from service.home_directory import ignore_foreign_home


def test_a_home_that_cannot_be_entered_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    ignore_foreign_home()
    assert os.environ["HOME"] == "/nonexistent"


def test_an_ordinary_home_and_none_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ignore_foreign_home()
    assert os.environ["HOME"] == str(tmp_path)

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", nobody)
    ignore_foreign_home()
    assert "HOME" not in os.environ
