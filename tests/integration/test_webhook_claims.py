"""Claims of deliveries: one in flight per endpoint, order within an export, fairness, and what a claim costs."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from service.postgres.webhook_deliveries import ClaimedDelivery, FailedAttempt, WebhookDeliveries
from sql import statement
from tests.support.jobs import connect, holding
from tests.support.one_connection import OneConnection
from tests.support.outbox import EXPIRED, LEASE, USUAL, Outbox, outbox

HOUR = timedelta(hours=1)
FIVE_DAYS = timedelta(days=5)
ENDED = timedelta(seconds=-1)
"""A lease that has ended already."""


@pytest.fixture
async def box(database_url: str) -> AsyncIterator[Outbox]:
    """The outbox of the test's database."""
    async with outbox(database_url) as made:
        yield made


async def fail(
    box: Outbox, claimed: ClaimedDelivery, *, retry_in: timedelta | None = HOUR, gone: bool = False
) -> bool | None:
    """Record a failed attempt."""
    failed = FailedAttempt(410 if gone else 500, "410 Gone" if gone else "500 Error", retry_in, gone)
    return await box.deliveries.record_failed(claimed, failed, disable_after=FIVE_DAYS)


async def test_one_delivery_per_endpoint_is_in_flight(box: Outbox) -> None:
    (one, _), (two, _) = await box.space(), await box.space()
    first, second, other = [*await box.ended(one, 2), *await box.ended(two)]
    assert [each.export_id for each in await box.claim()] == [first, other]
    assert await box.claim() == []
    assert [row["attempts"] for row in await box.rows(first, second)] == [1, 0]


async def test_replicas_that_claim_at_once_share_the_endpoints(box: Outbox) -> None:
    for _ in range(20):
        await box.ended((await box.space())[0], 2)
    rounds = await asyncio.gather(*(box.claim(limit=9) for _ in range(5)))
    claimed = [each.space_id for found in rounds for each in found]
    claimed += [each.space_id for each in await box.claim()]
    assert len(claimed) == len(set(claimed)) == 20


async def test_claims_that_overlap_claim_no_endpoint_twice(box: Outbox) -> None:
    """A claim has read the rows before another one commits; it must see that they changed."""
    await crowd(box, 300, 2)
    for _ in range(6):
        rounds = await asyncio.gather(*(box.claim(limit=300, failing=300) for _ in range(5)))
        claimed = [each for found in rounds for each in found]
        assert len(claimed) == len({each.space_id for each in claimed}) == 300
        await box.sql.execute("UPDATE webhook_endpoints SET claim_id = NULL, lease_until = NULL")


async def test_deliveries_of_one_export_keep_their_order_and_others_overtake(box: Outbox) -> None:
    space_id, _ = await box.space(events=[*USUAL, EXPIRED])
    export_id = await box.completed_and_expired(space_id)
    (claimed,) = await box.claim()
    await fail(box, claimed)
    assert await box.claim() == []
    (other,) = await box.ended(space_id)
    (overtaking,) = await box.claim()
    assert overtaking.export_id == other
    await box.deliveries.record_delivered(overtaking, 200, "200 OK")
    await box.hurry()
    (again,) = await box.claim()
    assert (again.webhook_id, again.attempt) == (claimed.webhook_id, 2)
    await box.deliveries.record_delivered(again, 200, "200 OK")
    (last,) = await box.claim()
    assert (last.export_id, last.event) == (export_id, EXPIRED)


async def test_an_event_after_a_failed_delivery_of_its_export_waits_for_it(box: Outbox) -> None:
    space_id, _ = await box.space(events=[*USUAL, EXPIRED])
    export_id = await box.jobs.queue(space_id)
    assert await box.jobs.complete(await box.jobs.claim())
    await fail(box, (await box.claim())[0])
    await box.sql.execute("SELECT cancel_export($1)", export_id)
    first, second = await box.rows(export_id)
    assert first["next_at"] == second["next_at"]
    await box.sql.execute("UPDATE webhook_deliveries SET next_at = now() WHERE id = $1", second["id"])
    assert await box.claim() == []


async def test_a_delivery_that_is_given_up_releases_the_next_one(box: Outbox) -> None:
    space_id, _ = await box.space(events=[*USUAL, EXPIRED])
    export_id = await box.completed_and_expired(space_id)
    await fail(box, (await box.claim())[0], retry_in=None)
    assert [row["outcome"] for row in await box.rows(export_id)] == ["given_up", None]
    (claimed,) = await box.claim()
    assert claimed.event == EXPIRED


async def test_an_expired_lease_is_taken_over_with_the_same_id_and_the_late_result_does_not_count(box: Outbox) -> None:
    space_id, _ = await box.space()
    (export_id,) = await box.ended(space_id)
    (dead,) = await box.claim(lease=ENDED)
    (heir,) = await box.claim()
    assert (heir.webhook_id, heir.attempt) == (dead.webhook_id, 2)
    assert not await box.deliveries.record_delivered(dead, 200, "200 OK")
    assert await fail(box, dead, gone=True) is None
    await box.deliveries.release(dead)
    assert (await box.row(export_id))["outcome"] is None
    assert await box.claim() == []
    assert await box.deliveries.record_delivered(heir, 200, "200 OK")
    assert (await box.row(export_id))["outcome"] == "delivered"


async def test_a_released_delivery_is_due_at_once_and_the_attempt_is_not_counted(box: Outbox) -> None:
    await box.ended((await box.space())[0])
    (claimed,) = await box.claim()
    await box.deliveries.release(claimed)
    (again,) = await box.claim()
    assert (again.webhook_id, again.attempt) == (claimed.webhook_id, 1)


async def test_endpoints_that_failed_get_their_share_of_slots_and_come_last(box: Outbox) -> None:
    failing = [(await box.space())[0] for _ in range(5)]
    for space_id in failing:
        await box.ended(space_id)
    for claimed in await box.claim():
        await fail(box, claimed, retry_in=timedelta(0))
    healthy = [(await box.space())[0] for _ in range(3)]
    for space_id in healthy:
        await box.ended(space_id)
    some = await box.claim(limit=4, failing=2)
    assert {each.space_id for each in some if not each.failing} == set(healthy)
    assert sum(each.failing for each in some) == 1
    assert sum(each.failing for each in await box.claim(limit=4, failing=2)) == 2
    assert await box.claim(limit=4, failing=0) == []


async def test_410_disables_the_endpoint(box: Outbox) -> None:
    space_id, _ = await box.space()
    export_id, _ = await box.ended(space_id, 2)
    assert await fail(box, (await box.claim())[0], gone=True) is True
    assert (await box.row(export_id))["outcome"] == "endpoint_gone"
    assert await box.claim() == []
    overview = await box.endpoints.overview(space_id)
    assert overview["state"].endswith(": it returned 410 Gone")
    assert overview["state"].startswith("disabled since ")


async def test_an_endpoint_that_failed_for_five_days_is_disabled_and_says_so(box: Outbox) -> None:
    space_id, _ = await box.space()
    await box.ended(space_id, 2)
    assert await fail(box, (await box.claim())[0]) is False
    assert (await box.endpoints.overview(space_id))["state"].startswith("failing since ")
    await box.sql.execute("UPDATE webhook_endpoints SET failing_since = now() - interval '5 days 1 second'")
    assert await fail(box, (await box.claim())[0]) is True
    assert (await box.endpoints.overview(space_id))["disabled_reason"] == (
        "no attempt succeeded for 5 days; the last: 500 Error"
    )


async def test_a_success_ends_the_failing_of_an_endpoint(box: Outbox) -> None:
    space_id, _ = await box.space()
    await box.ended(space_id, 2)
    await fail(box, (await box.claim())[0])
    await box.deliveries.record_delivered((await box.claim())[0], 200, "200 OK")
    assert (await box.endpoints.overview(space_id))["state"] == "enabled"


async def test_an_endpoint_that_was_changed_meanwhile_is_not_blamed(box: Outbox) -> None:
    space_id, _ = await box.space("https://a.test/")
    (export_id,) = await box.ended(space_id)
    (claimed,) = await box.claim()
    await box.endpoints.set(space_id, "https://b.test/", USUAL)
    assert await fail(box, claimed, gone=True) is False
    endpoint = await box.endpoint(space_id)
    assert (endpoint["disabled_at"], endpoint["failing_since"]) == (None, None)
    (again,) = await box.claim()
    assert (again.webhook_id, again.url) == (claimed.webhook_id, "https://b.test/")
    assert (await box.row(export_id))["outcome"] is None


async def test_a_row_that_an_operator_has_locked_holds_up_only_its_endpoint(box: Outbox) -> None:
    (one, _), (two, _) = await box.space(), await box.space()
    (locked,), (other,) = await box.ended(one), await box.ended(two)
    async with holding(box.jobs.url, f"SELECT FROM webhook_deliveries WHERE export_id = {locked} FOR UPDATE"):
        assert [each.export_id for each in await box.claim()] == [other]
    assert [each.export_id for each in await box.claim()] == [locked]


async def test_a_forgotten_export_takes_its_delivery_in_flight_with_it(box: Outbox) -> None:
    space_id, _ = await box.space()
    export_id, other = await box.ended(space_id, 2)
    (claimed,) = await box.claim()
    await box.sql.execute("DELETE FROM export_jobs WHERE id = $1", export_id)
    assert await box.deliveries.record_delivered(claimed, 200, "200 OK")
    assert [each.export_id for each in await box.claim()] == [other]


CROWD = """
WITH spaces_made AS (
  INSERT INTO spaces (name, timezone) SELECT 'Space ' || n, 'UTC' FROM generate_series(1, $1::int) n RETURNING id
), endpoints AS (
  INSERT INTO webhook_endpoints (space_id, url) SELECT id, 'https://hooks.test/' FROM spaces_made
), exports AS (
  INSERT INTO export_jobs (space_id, status, start_date, end_date, timezone, window_from, window_to, max_attempts)
  SELECT s.id, 'queued', '2024-01-15', '2024-01-16', 'UTC', '2024-01-15Z', '2024-01-16Z', 5
    FROM (SELECT id FROM spaces_made) s, generate_series(1, $2::int) n
  RETURNING id, space_id
)
INSERT INTO webhook_deliveries (export_id, space_id, event, payload)
SELECT id, space_id, 'contact.export.cancelled', '{}' FROM exports
"""
_COUNTS = """
SELECT relname AS name, pg_stat_get_xact_tuples_returned(oid) AS read
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') AND relname LIKE 'webhook%'
"""


async def crowd(box: Outbox, spaces: int, each: int) -> None:
    """Add Spaces with endpoints, and this many deliveries for each."""
    await box.sql.execute(CROWD, spaces, each)


async def test_a_claim_finds_few_rows_by_index_while_ten_thousand_deliveries_of_a_dead_endpoint_are_due(box: Outbox) -> None:
    await crowd(box, 1, 10_000)
    for claimed in await box.claim():
        await fail(box, claimed, retry_in=timedelta(0))
    await crowd(box, 20, 2)
    await box.sql.execute("VACUUM ANALYZE webhook_deliveries, webhook_endpoints")
    explained = await box.sql.fetch("EXPLAIN " + statement("claim_deliveries"), LEASE, 32, 16)
    plan = "\n".join(row[0] for row in explained)
    assert "Seq Scan on webhook_deliveries" not in plan, plan
    assert {"webhook_deliveries_waiting", "webhook_deliveries_due"} <= set(re.findall(r"\w+", plan)), plan
    async with connect(box.jobs.url) as sql, sql.transaction():
        before = {row["name"]: row["read"] for row in await sql.fetch(_COUNTS)}
        found = await WebhookDeliveries(OneConnection(sql)).claim(lease=LEASE, limit=32, failing=16)
        read = {row["name"]: row["read"] - before[row["name"]] for row in await sql.fetch(_COUNTS)}
    assert (len(found), sum(each.failing for each in found)) == (21, 1)
    assert read["webhook_deliveries_waiting"] > 0
    assert sum(read.values()) < 1000, read


async def test_a_poll_without_due_deliveries_walks_no_queue(box: Outbox) -> None:
    await crowd(box, 200, 5)
    await box.sql.execute("UPDATE webhook_deliveries SET next_at = now() + interval '1 hour'")
    await box.sql.execute("VACUUM ANALYZE webhook_deliveries, webhook_endpoints")
    async with connect(box.jobs.url) as sql, sql.transaction():
        before = {row["name"]: row["read"] for row in await sql.fetch(_COUNTS)}
        assert await WebhookDeliveries(OneConnection(sql)).claim(lease=LEASE, limit=32, failing=16) == []
        read = sum(row["read"] - before[row["name"]] for row in await sql.fetch(_COUNTS))
    assert read < 20  # the planner reads some; a walk over 200 Spaces would read more


async def test_a_dead_endpoint_with_ten_thousand_due_deliveries_delays_no_other_space(box: Outbox) -> None:
    await crowd(box, 1, 10_000)
    others = [await box.ended((await box.space())[0]) for _ in range(3)]
    claimed = await box.claim(limit=4)
    assert sorted(each.export_id for each in claimed)[1:] == sorted(export_id for (export_id,) in others)
