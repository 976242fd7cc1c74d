"""Temporary directories of programs, and what killed programs leave."""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.embedded.private_directory import private_directory

PREFIX = "contact-exports-unit-"
_KILLED = f"""
import os, signal, tempfile
from service.embedded.private_directory import private_directory
with private_directory("{PREFIX}") as directory:
    (directory / "file").touch()
    print(directory, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_belongs_to_this_user_alone_and_is_removed(temporary: Path) -> None:
    with private_directory(PREFIX) as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "below").mkdir()
        (directory / "below" / "file").touch()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_is_used_stays(temporary: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED], capture_output=True, text=True, check=False)
    left = Path(killed.stdout.strip())
    assert left.exists()
    (temporary / "other").mkdir()
    with private_directory(PREFIX) as first, private_directory(PREFIX) as second:
        assert not left.exists()
        assert sorted(temporary.iterdir()) == sorted([first, second, temporary / "other"])


def test_a_link_that_somebody_put_there_is_not_followed(temporary: Path) -> None:
    (temporary / "kept").mkdir()
    (temporary / f"{PREFIX}x").symlink_to(temporary / "kept")
    with private_directory(PREFIX):
        assert (temporary / "kept").exists()


def test_processes_that_begin_together_do_not_remove_each_others_directories() -> None:
    def use(_: int) -> bool:
        with private_directory(PREFIX) as directory:
            (directory / "file").touch()
            return (directory / "file").exists()

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(use, range(400)))
