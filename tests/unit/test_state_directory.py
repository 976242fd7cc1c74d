"""STATE_DIR is used only if no other user can have prepared it."""

import os
from pathlib import Path

import pytest

from service.commands.state import files_directory
from service.settings import SettingsError


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory in which every user can create files, like that of temporary files."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    return tmp_path / "shared"


def test_a_new_directory_belongs_to_this_user_alone(shared: Path) -> None:
    for _ in range(2):
        assert files_directory(shared / "state") == shared / "state" / "files"
    assert (shared / "state").stat().st_mode & 0o777 == 0o700


def refused(state: Path) -> None:
    """The directory is refused with its path and the setting that helps."""
    with pytest.raises(SettingsError, match=f"{state} belongs to another user.*; set STATE_DIR to"):
        files_directory(state)
    assert not (state / "files").exists()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_directory_that_others_can_write_to_is_refused(shared: Path, mode: int) -> None:
    (shared / "state").mkdir()
    (shared / "state").chmod(mode)
    refused(shared / "state")


def test_a_directory_of_another_user_is_refused(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shared / "state").mkdir(mode=0o755)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    refused(shared / "state")


def test_a_link_is_refused(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (shared / "state").symlink_to(tmp_path / "elsewhere")
    refused(shared / "state")


def test_a_volume_that_a_group_can_write_to_is_used_where_only_root_can_create_it(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume").chmod(0o2777)
    assert files_directory(tmp_path / "volume").exists()
