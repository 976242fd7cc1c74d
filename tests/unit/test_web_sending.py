"""Large responses: how many bytes may be unread, and which response makes room for another."""

import asyncio

import pytest

from service.web import limits
from service.web.sending import Sending, TooMuchUnread, Unsent


@pytest.fixture
def unsent(monkeypatch: pytest.MonkeyPatch) -> Unsent:
    """Room for 100 bytes; a response waits for room for 50 ms."""
    monkeypatch.setattr(limits, "MAXIMUM_UNSENT", 100)
    monkeypatch.setattr(limits, "ROOM_SECONDS", 0.05)
    return Unsent()


class Responses:
    """Responses of Spaces, and which of them were ended."""

    def __init__(self, unsent: Unsent) -> None:
        self._unsent = unsent
        self.ended: list[str] = []

    async def add(self, name: str, size: int) -> Sending:
        """Send a response; the first letter of its name is its Space."""
        return await self._unsent.add(name[0], size, lambda: self.ended.append(name))


@pytest.fixture
def responses(unsent: Unsent) -> Responses:
    return Responses(unsent)


async def test_the_oldest_response_of_the_space_with_the_most_bytes_makes_room(responses: Responses, unsent: Unsent) -> None:
    for name, size in (("a1", 30), ("b1", 20), ("a2", 30)):
        await responses.add(name, size)
    await responses.add("c1", 30)
    assert responses.ended == ["a1"]
    assert unsent.size == 80


async def test_a_space_ends_no_response_of_a_space_with_fewer_bytes_than_its_own(responses: Responses) -> None:
    await responses.add("a1", 60)
    await responses.add("b1", 30)
    with pytest.raises(TooMuchUnread):
        await responses.add("b2", 40)
    with pytest.raises(TooMuchUnread):
        await responses.add("a2", 20)
    assert responses.ended == []


async def test_a_response_waits_until_another_was_sent(
    responses: Responses, unsent: Unsent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROOM_SECONDS", 60.0)
    first = await responses.add("a1", 80)
    waiting = asyncio.create_task(responses.add("a2", 40))
    await asyncio.sleep(0)
    assert not waiting.done()
    unsent.discard(first)
    await waiting
    assert (unsent.size, responses.ended) == (40, [])


async def test_at_most_half_of_the_room_waits(responses: Responses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROOM_SECONDS", 60.0)
    await responses.add("a1", 100)
    waiting = asyncio.create_task(responses.add("a2", 40))
    await asyncio.sleep(0)
    with pytest.raises(TooMuchUnread):
        await responses.add("a3", 20)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_response_that_is_larger_than_the_room_is_sent_alone(responses: Responses, unsent: Unsent) -> None:
    huge = await responses.add("a1", 1000)
    assert unsent.size == 100
    unsent.discard(huge)
    unsent.discard(huge)
    assert unsent.size == 0
