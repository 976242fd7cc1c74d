"""The state of `--since-last`: it knows exactly the ids of the last file, however many there are."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.commands.export import since_last
from service.commands.export.since_last import Ids, Place, StateError

keys = st.integers(-(2**63), 2**63 - 1) | st.uuids().map(str) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)


def line(key: int | str) -> bytes:
    """A line as in a file."""
    return json.dumps({"id": key, "email": None}, separators=(",", ":"), ensure_ascii=False).encode()


def stored(ids: list[int | str]) -> Ids:
    """These ids after they were stored and loaded."""
    new = Ids()
    for key in ids:
        new.add_line(line(key))
    return Ids.load(json.loads(json.dumps(new.dump())))


@given(st.lists(keys, max_size=20), st.lists(keys, max_size=20))
def test_exactly_the_stored_ids_are_known(ids: list[int | str], others: list[int | str]) -> None:
    loaded = stored(ids)
    assert [loaded.has_line(line(key)) for key in ids + others] == [key in ids for key in ids + others]


def test_ids_are_found_in_every_sorted_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(since_last, "_SORTED_AT_ONCE", 7)
    ids: list[int | str] = [number * 37 % 101 for number in range(50)]
    loaded = stored(ids)
    assert [key for key in range(101) if loaded.has_line(line(key))] == sorted(ids, key=int)


def test_a_million_consecutive_ids_take_a_small_file() -> None:
    new = Ids()
    for number in range(1_000_000):
        new.add_line(b'{"id":%d,"email":null}' % (10**12 + number))
    assert len(json.dumps(new.dump())) < 100_000


def test_a_state_that_is_being_replaced_stays_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "state", datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    since_last.save(path, Place(1, now, "Europe/Berlin", now, stored([5])))
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", _fail)
    with pytest.raises(StateError, match="The file was exported, but the state was not stored"):
        since_last.save(path, Place(2, now, "UTC", now, stored([6])))
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])
    place = since_last.load(path)
    assert place is not None
    assert (place.export_id, place.created_at, place.timezone, place.until) == (1, now, "Europe/Berlin", now)
    assert place.ids.has_line(line(5))


def _fail(_: int) -> None:
    raise OSError(28, "No space left on device")
