"""Cursors hold a place of any form and open only for the list, Space and filters they were issued for."""

import pytest

from service.web.paging import Cursors


async def secret() -> bytes:
    """The secret that replicas share."""
    return b"a secret of the tests"


@pytest.mark.parametrize("place", [b"", b"+", b"+\x00\x00\n", b"2024-01-15T10:30:00.000001Z 7" * 3])
async def test_a_cursor_holds_a_place_of_any_length(place: bytes) -> None:
    cursor = await Cursors(secret).seal(place, "exports", "7", "")
    assert await Cursors(secret).open(cursor, "exports", "7", "") == place
    assert cursor.isascii()
    assert "=" not in cursor


@pytest.mark.parametrize("bound", [(), ("exports",), ("exports", "7"), ("exports", "8", ""), ("contacts", "7", "")])
async def test_a_cursor_opens_only_with_the_values_it_is_bound_to(bound: tuple[str, ...]) -> None:
    cursors = Cursors(secret)
    assert await cursors.open(await cursors.seal(b"+1", "exports", "7", ""), *bound) is None


async def test_bound_values_and_the_place_cannot_be_exchanged() -> None:
    cursors = Cursors(secret)
    assert await cursors.seal(b"c", "a", "b") != await cursors.seal(b"b\nc", "a")
    assert await cursors.seal(b"", "a", "b\nc") != await cursors.seal(b"", "a", "b", "c")


async def test_a_cursor_of_another_secret_does_not_open() -> None:
    async def other() -> bytes:
        return b"another secret"

    assert await Cursors(secret).open(await Cursors(other).seal(b"+1", "exports"), "exports") is None


@pytest.mark.parametrize("cursor", ["", "x", "A" * 34, "A" * 5000, "\u00e9" * 34, "=" * 8, "+/" * 17])
async def test_text_that_is_no_cursor_does_not_open(cursor: str) -> None:
    assert await Cursors(secret).open(cursor, "exports") is None
