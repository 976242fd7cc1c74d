"""The deliverer with a real receiver over TLS and a real database: retries, results, order."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

import asyncpg
import pytest

from service.webhooks.deliverer import Deliverer, DelivererOptions
from service.webhooks.sending import OutOfResources, Response, Sender
from tests.support.outbox import EXPIRED, MARGIN, USUAL, Outbox, outbox, sender
from tests.support.receiver import Receiver, close, drip, hang, receiver, reset, status
from tests.support.waiting import until, until_row

WAITS_AFTER = "SELECT * FROM webhook_deliveries WHERE attempts = $1 AND last_reason IS NOT NULL AND next_at > now()"


@pytest.fixture
async def box(database_url: str) -> AsyncIterator[Outbox]:
    """The outbox of the test's database."""
    async with outbox(database_url) as made:
        yield made


@pytest.fixture
async def hooks() -> AsyncIterator[Receiver]:
    """A receiver that accepts every message."""
    async with receiver() as made:
        yield made


async def until_delivered(box: Outbox, count: int) -> None:
    """Wait until this many deliveries exist and all are delivered."""
    query = "SELECT count(*) FILTER (WHERE outcome = 'delivered') = $1 FROM webhook_deliveries"
    await until(lambda: box.sql.fetchval(query, count))


async def retry_of(box: Outbox, attempt: int) -> asyncpg.Record:
    """Wait until this attempt has failed and return the row, which waits for the next one."""
    return await until_row(box.sql, WAITS_AFTER, attempt)


async def test_a_receiver_that_fails_three_times_gets_the_fourth_attempt_and_the_row_tells_the_story(
    box: Outbox, hooks: Receiver
) -> None:
    hooks.answers = [status(500), close, status(503)]
    space_id, secret = await box.space(hooks.url)
    (export_id,) = await box.ended(space_id)
    stories = []
    async with box.delivering():
        for attempt in (1, 2, 3):
            await retry_of(box, attempt)
            stories.append(await box.summary(export_id))
            await box.hurry()
        await until_delivered(box, 1)
    assert stories == [
        "waiting for attempt 2 after: 500 Internal Server Error",
        "waiting for attempt 3 after: the connection was closed without a response",
        "waiting for attempt 4 after: 503 Service Unavailable",
    ]
    assert await box.summary(export_id) == "delivered at attempt 4: 204 No Content"
    row = await box.row(export_id)
    assert [message.webhook_id for message in hooks.messages] == [row["webhook_id"]] * 4
    assert [message.body for message in hooks.messages] == [row["payload"].encode()] * 4
    for message in hooks.messages:
        message.verify(secret)
    assert hooks.messages[0].path == "/hooks"
    assert hooks.messages[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(("code", "waits"), [(429, True), (503, True), (500, False)])
async def test_retry_after_is_honoured_for_429_and_503(box: Outbox, hooks: Receiver, code: int, waits: bool) -> None:
    hooks.usual = status(code, "Retry-After: 7200")
    await box.ended((await box.space(hooks.url))[0])
    async with box.delivering():
        row = await retry_of(box, 1)
    pause = row["next_at"] - row["last_attempt_at"]
    assert (pause > timedelta(hours=1)) == waits


async def test_the_last_attempt_gives_the_delivery_up(box: Outbox, hooks: Receiver) -> None:
    hooks.usual = status(302, "Location: https://hooks.test/other")
    (export_id,) = await box.ended((await box.space(hooks.url))[0])
    await box.sql.execute("UPDATE webhook_deliveries SET attempts = 9")
    async with box.delivering():
        await until_row(box.sql, "SELECT 1 FROM webhook_deliveries WHERE outcome = 'given_up'")
    assert await box.summary(export_id) == "given up after 10 attempts: 302 Found; redirects are not followed"
    assert len(hooks.messages) == 1


async def test_410_ends_all_deliveries_of_the_endpoint(box: Outbox, hooks: Receiver) -> None:
    hooks.usual = status(410)
    space_id, _ = await box.space(hooks.url)
    await box.ended(space_id, 3)
    async with box.delivering():
        await until_row(box.sql, "SELECT 1 FROM webhook_endpoints WHERE disabled_at IS NOT NULL")
    await box.deliveries.end_without_endpoint()
    assert [row["outcome"] for row in await box.rows()] == ["endpoint_gone"] * 3
    assert len(hooks.messages) == 1


async def test_a_message_without_a_record_of_its_response_is_sent_again_with_the_same_id(
    box: Outbox, hooks: Receiver
) -> None:
    (export_id,) = await box.ended((await box.space(hooks.url))[0])
    (dead,) = await box.claim(lease=timedelta(seconds=-1))
    await sender().post(dead.url, dead.payload.encode(), {"webhook-id": dead.webhook_id})
    async with box.delivering():
        await until_delivered(box, 1)
    first, second = hooks.messages
    assert (first.webhook_id, first.body) == (second.webhook_id, second.body)
    assert await box.summary(export_id) == "delivered at attempt 2: 204 No Content"


async def test_the_events_of_an_export_arrive_in_order_and_others_do_not_wait(box: Outbox, hooks: Receiver) -> None:
    hooks.answers = [status(500)]
    space_id, _ = await box.space(hooks.url, events=[*USUAL, EXPIRED])
    slow = await box.completed_and_expired(space_id)
    async with box.delivering():
        await retry_of(box, 1)
        others = await box.ended(space_id, 2)
        await hooks.until(3)
        await box.hurry()
        await until_delivered(box, 4)
    arrived = [(message.content["data"]["export_id"], message.content["data"]["status"]) for message in hooks.messages]
    assert arrived == [
        (slow, "completed"),
        *((export_id, "cancelled") for export_id in others),
        (slow, "completed"),
        (slow, "expired"),
    ]
    assert hooks.most_in_flight == 1


async def test_an_endpoint_that_hangs_delays_no_other_space(box: Outbox, hooks: Receiver) -> None:
    async with receiver() as hanging:
        hanging.usual = hang
        dead, _ = await box.space(hanging.url)
        await box.ended(dead, 5)
        async with box.delivering(sender(seconds=30), slots=2):
            await hanging.until(1)
            alive, _ = await box.space(hooks.url)
            await box.ended(alive, 5)
            await hooks.until(5)
            assert len(hanging.messages) == 1


async def test_two_replicas_send_every_message_once(box: Outbox, hooks: Receiver) -> None:
    spaces = [(await box.space(hooks.url))[0] for _ in range(3)]
    async with box.delivering(), box.delivering():
        for space_id in spaces:
            await box.ended(space_id, 8)
        await until_delivered(box, 24)
    assert len(hooks.messages) == len({message.webhook_id for message in hooks.messages}) == 24
    assert hooks.most_in_flight <= 3


async def test_an_endpoint_changed_while_deliveries_wait_gets_them(box: Outbox, hooks: Receiver) -> None:
    async with receiver() as old:
        old.usual = status(500)
        space_id, secret = await box.space(old.url)
        await box.ended(space_id, 2)
        async with box.delivering():
            await until_row(box.sql, "SELECT 1 FROM webhook_deliveries HAVING bool_and(attempts = 1 AND next_at > now())")
            await box.endpoints.set(space_id, hooks.url, USUAL)
            await box.hurry()
            await until_delivered(box, 2)
    for message in hooks.messages:
        message.verify(secret)


async def test_a_suspended_space_still_gets_its_events(box: Outbox, hooks: Receiver) -> None:
    space_id, _ = await box.space(hooks.url)
    await box.sql.execute("UPDATE spaces SET subscription_active = false")
    await box.ended(space_id)
    async with box.delivering():
        await until_delivered(box, 1)


async def test_the_time_in_the_signature_is_that_of_the_database(
    box: Outbox, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose clock is a day wrong, or is set while it runs, sends messages that consumers accept."""
    monkeypatch.setattr("time.time", lambda: 1.0)
    space_id, _ = await box.space(hooks.url)
    await box.ended(space_id)
    async with box.delivering():
        await until_delivered(box, 1)
    now = await box.sql.fetchval("SELECT extract(epoch FROM now())::float8")
    assert abs(int(hooks.messages[0].headers["webhook-timestamp"]) - now) < 30


async def test_a_process_that_slept_through_its_lease_sends_nothing(
    box: Outbox, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.ended((await box.space(hooks.url))[0])
    made = Deliverer(box.deliveries, sender(), DelivererOptions(1, poll=timedelta(seconds=1), margin=MARGIN))
    (claimed,) = await box.claim()
    ends = 1000.0
    monkeypatch.setattr("service.webhooks.deliverer.boot_clock", lambda: ends)
    await made._deliver(claimed, sent=ends - 35)
    assert hooks.messages == []
    await made._deliver(claimed, sent=ends - 25)
    assert len(hooks.messages) == 1


async def test_a_lack_of_descriptors_counts_no_attempt(
    box: Outbox, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.webhooks.deliverer._RESOURCE_PAUSE", timedelta(seconds=0.01))
    (export_id,) = await box.ended((await box.space(hooks.url))[0])
    lacking = True
    post = Sender.post

    async def without_descriptors(self: Sender, address: str, body: bytes, headers: Mapping[str, str]) -> Response:
        if lacking:
            raise OutOfResources
        return await post(self, address, body, headers)

    monkeypatch.setattr("service.webhooks.sending.Sender.post", without_descriptors)
    async with box.delivering():
        await asyncio.sleep(0.2)
        lacking = False
        await until_delivered(box, 1)
    assert (await box.row(export_id))["attempts"] == 1


async def test_a_shutdown_hands_a_message_in_flight_back(box: Outbox, hooks: Receiver) -> None:
    hooks.answers = [hang]
    (export_id,) = await box.ended((await box.space(hooks.url))[0])
    async with box.delivering():
        await hooks.until(1)
    row = await box.row(export_id)
    assert (row["attempts"], row["outcome"]) == (0, None)
    async with box.delivering():
        await until_delivered(box, 1)
    assert hooks.messages[0].webhook_id == hooks.messages[1].webhook_id


async def test_responses_in_pieces_or_after_a_reset(box: Outbox, hooks: Receiver) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    hooks.answers = [reset, drip(head, seconds=1), drip(head, seconds=0.001)]
    (export_id,) = await box.ended((await box.space(hooks.url))[0])
    reasons = []
    async with box.delivering(sender(seconds=2)):
        for attempt in (1, 2):
            reasons.append((await retry_of(box, attempt))["last_reason"])
            await box.hurry()
        await until_delivered(box, 1)
    assert reasons[0].startswith("the connection was ")
    assert reasons[1] == "no response within 2 s"
    assert await box.summary(export_id) == "delivered at attempt 3: 200 OK"
    assert json.loads(hooks.messages[2].body)["data"]["export_id"] == export_id
