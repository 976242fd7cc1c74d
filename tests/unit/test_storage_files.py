"""Writing a part to disk with short writes."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.storage.directory.files import write_at


@pytest.mark.parametrize("at_most", [1, 5, 1000])
async def test_all_pieces_are_written_in_order_even_if_each_call_writes_few_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_most: int
) -> None:
    whole = os.pwritev

    def short(descriptor: int, pieces: Sequence[memoryview], offset: int) -> int:
        return whole(descriptor, [b"".join(pieces)[:at_most]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    file = tmp_path / "file"
    file.write_bytes(b"before")
    part: list[bytes | memoryview] = [b"", b"abc", memoryview(b"defgh")[1:], *[b"xy"] * 40, b""]
    write_at(file, 6, part)
    assert file.read_bytes() == b"before" + b"".join(part)
    write_at(file, 0, [b""])
    assert file.read_bytes() == b"before" + b"".join(part)
