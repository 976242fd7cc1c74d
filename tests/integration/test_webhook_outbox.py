"""The outbox: each transition writes its delivery in the same transaction, whoever makes the transition."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, timedelta

import asyncpg
import pytest

from service.failures import StorageUnavailable
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.postgres.webhook_endpoints import WebhookEndpoints
from tests.support.documented import validator
from tests.support.jobs import FILE, holding
from tests.support.outbox import CANCELLED, COMPLETED, EXPIRED, FAILED, USUAL, Outbox, outbox

NO_PAUSE = timedelta(0)


@pytest.fixture
async def box(database_url: str) -> AsyncIterator[Outbox]:
    """The outbox of the test's database."""
    async with outbox(database_url) as made:
        yield made


async def complete(box: Outbox, _: int) -> None:
    await box.jobs.complete(await box.jobs.claim())


async def fail(box: Outbox, _: int) -> None:
    await box.jobs.claims.end_in_error(await box.jobs.claim(), StorageUnavailable(), pause=NO_PAUSE)


async def lose_the_last_attempt(box: Outbox, _: int) -> None:
    await box.jobs.lose(await box.jobs.claim())


async def cancel_queued(box: Outbox, export_id: int) -> None:
    await ExportJobs(box.jobs.database).cancel(export_id, None)


async def cancel_running(box: Outbox, export_id: int) -> None:
    await box.jobs.claim()
    await box.jobs.cancel(export_id)


async def expire(box: Outbox, export_id: int) -> None:
    await complete(box, export_id)
    await box.jobs.set(export_id, file_expires_at="now() - interval '1 second'")
    await ExportFiles(box.jobs.database).expire(links_live=NO_PAUSE)


async def expire_by_sql(box: Outbox, export_id: int) -> None:
    await complete(box, export_id)
    await box.sql.execute("UPDATE export_jobs SET status = 'expired', expired_at = now() WHERE id = $1", export_id)


TRANSITIONS: dict[str, tuple[Callable[[Outbox, int], Awaitable[None]], list[str]]] = {
    "an attempt completes": (complete, [COMPLETED]),
    "the last attempt fails": (fail, [FAILED]),
    "the last attempt is lost": (lose_the_last_attempt, [FAILED]),
    "the API cancels a queued export": (cancel_queued, [CANCELLED]),
    "an operator cancels a running export": (cancel_running, [CANCELLED]),
    "the file expires": (expire, [COMPLETED, EXPIRED]),
    "an operator expires the export": (expire_by_sql, [COMPLETED, EXPIRED]),
}


@pytest.mark.parametrize("how", TRANSITIONS)
async def test_a_transition_writes_its_delivery_whoever_makes_it(box: Outbox, how: str) -> None:
    act, events = TRANSITIONS[how]
    space_id, _ = await box.space(events=[*USUAL, EXPIRED])
    export_id = await box.jobs.queue(space_id, max_attempts=1)
    await act(box, export_id)
    rows = await box.rows()
    assert [(row["export_id"], row["space_id"], row["event"]) for row in rows] == [
        (export_id, space_id, event) for event in events
    ]
    assert [json.loads(row["payload"])["type"] for row in rows] == events
    assert len({row["webhook_id"] for row in rows}) == len(rows)


async def test_attempts_that_are_retried_claims_and_renewals_write_nothing(box: Outbox) -> None:
    space_id, _ = await box.space(events=[*USUAL, EXPIRED])
    await box.jobs.queue(space_id)
    claim = await box.jobs.claim()
    await box.jobs.renew(claim)
    await box.jobs.claims.end_in_error(claim, StorageUnavailable(), pause=NO_PAUSE)
    await box.jobs.set(claim.export_id, run_after="now()")
    assert await box.jobs.claims.hand_back(await box.jobs.claim())
    assert await box.rows() == []


async def test_only_the_chosen_events_of_spaces_with_an_endpoint_are_written(box: Outbox) -> None:
    space_id, _ = await box.space(events=[FAILED])
    without = await box.jobs.space()
    await box.ended(space_id)
    await box.ended(without)
    assert await box.rows() == []


async def test_a_transition_that_is_rolled_back_leaves_no_delivery(box: Outbox) -> None:
    space_id, _ = await box.space()
    export_id = await box.jobs.queue(space_id)
    async with holding(box.jobs.url, f"SELECT cancel_export({export_id})") as other:
        assert await other.fetchval("SELECT count(*) FROM webhook_deliveries") == 1
    assert await box.rows() == []


@pytest.mark.parametrize(
    ("act", "status", "error_code"), [(complete, "completed", None), (fail, "failed", "storage_unavailable")]
)
async def test_the_payload_is_thin(
    box: Outbox, act: Callable[[Outbox, int], Awaitable[None]], status: str, error_code: str | None
) -> None:
    space_id, _ = await box.space()
    export_id = await box.jobs.queue(space_id, max_attempts=1)
    await act(box, export_id)
    job = await box.jobs.job(export_id)
    ended = job["finished_at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    done = status == "completed"
    payload = json.loads((await box.row(export_id))["payload"])
    validator({"$ref": "#/components/schemas/WebhookBody"}).validate(payload)
    assert payload == {
        "type": f"contact.export.{status}",
        "timestamp": ended,
        "data": {
            "export_id": export_id,
            "status": status,
            "row_count": FILE.row_count if done else None,
            "file_size": FILE.size if done else None,
            "sha256": FILE.sha256 if done else None,
            "completed_at": ended if done else None,
            "error_code": error_code,
        },
    }
    assert list(payload["data"]) == [
        *("export_id", "status", "row_count", "file_size", "sha256", "completed_at", "error_code")
    ]


async def test_a_cancelled_export_has_no_error_code_of_an_earlier_attempt(box: Outbox) -> None:
    space_id, _ = await box.space()
    export_id = await box.jobs.queue(space_id, max_attempts=5)
    await fail(box, export_id)
    await box.jobs.cancel(export_id)
    assert json.loads((await box.row(export_id))["payload"])["data"]["error_code"] is None


async def test_a_role_without_rights_on_the_outbox_can_end_exports(box: Outbox) -> None:
    space_id, _ = await box.space()
    export_id = await box.jobs.queue(space_id)
    name = f"webhook_role_{space_id}_{export_id}_{box.sql.get_server_pid()}"
    await box.sql.execute(f"CREATE ROLE {name}; GRANT SELECT, UPDATE ON export_jobs, export_attempts TO {name}")
    try:
        async with box.sql.transaction():
            await box.sql.execute(f"SET LOCAL ROLE {name}")
            await box.sql.execute("SELECT cancel_export($1)", export_id)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with box.sql.transaction():
                    await box.sql.execute("SELECT secret FROM webhook_endpoints")
        assert (await box.row(export_id))["event"] == CANCELLED
    finally:
        await box.sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize(
    "statement",
    ["UPDATE webhook_endpoints SET url = 'https://b.test/'", "SELECT FROM webhook_endpoints FOR UPDATE",
     "LOCK TABLE webhook_endpoints IN SHARE ROW EXCLUSIVE MODE"],
)  # fmt: skip
async def test_an_open_transaction_on_the_endpoint_delays_no_export(box: Outbox, statement: str) -> None:
    space_id, _ = await box.space()
    async with holding(box.jobs.url, statement):
        await box.sql.execute("SET statement_timeout = '5s'")
        (export_id,) = await box.ended(space_id)
    assert (await box.row(export_id))["event"] == CANCELLED


async def test_events_of_a_disabled_endpoint_are_recorded_and_can_be_resent(box: Outbox) -> None:
    space_id, _ = await box.space()
    (before,) = await box.ended(space_id)
    await box.endpoints.disable(space_id, "disabled by an operator")
    (after,) = await box.ended(space_id)
    assert await box.claim() == []
    assert await box.deliveries.end_without_endpoint() == 1
    assert [row["outcome"] for row in await box.rows(before, after)] == ["endpoint_gone"] * 2
    assert await box.summary(before) == "not sent any more: the endpoint was disabled: disabled by an operator"
    assert await box.summary(after) == "not sent any more: the endpoint was disabled"
    webhook_id = (await box.row(after))["webhook_id"]
    assert await box.deliveries.resend(webhook_id) is False
    await box.endpoints.enable(space_id)
    assert await box.deliveries.resend(webhook_id) is True
    assert await box.deliveries.resend("msg_unknown") is None
    (claimed,) = await box.claim()
    assert (claimed.webhook_id, claimed.attempt) == (webhook_id, 1)


async def test_deliveries_of_a_deleted_endpoint_end(box: Outbox) -> None:
    space_id, _ = await box.space()
    other, _ = await box.space()
    (export_id,), (kept,) = await box.ended(space_id), await box.ended(other)
    await box.sql.execute("DELETE FROM webhook_endpoints WHERE space_id = $1", space_id)
    assert await box.deliveries.end_without_endpoint() == 1
    assert await box.summary(export_id) == "not sent any more: the endpoint was deleted"
    assert (await box.row(kept))["outcome"] is None


async def test_an_export_with_a_waiting_delivery_is_not_forgotten_and_its_deliveries_go_with_it(box: Outbox) -> None:
    space_id, _ = await box.space()
    (export_id,) = await box.ended(space_id)
    files = ExportFiles(box.jobs.database)
    assert await files.forget(age=NO_PAUSE) == 0
    (claimed,) = await box.claim()
    await box.deliveries.record_delivered(claimed, 200, "200 OK")
    assert await files.forget(age=NO_PAUSE) == 1
    assert await box.rows(export_id) == []


async def test_a_secret_is_random_and_in_no_view(box: Outbox) -> None:
    secrets = {(await box.space())[1] for _ in range(3)}
    assert len(secrets) == 3
    for view in ("webhook_endpoints_overview", "webhook_deliveries_recent"):
        columns = (await box.sql.prepare(f"SELECT * FROM {view}")).get_attributes()
        assert not [column.name for column in columns if column.name.endswith("secret")]


async def test_a_rotation_keeps_the_old_secret_for_a_day(box: Outbox) -> None:
    space_id, _ = await box.space()
    old = (await box.endpoint(space_id))["secret"]
    new = await WebhookEndpoints(box.jobs.database).rotate(space_id)
    assert (await box.endpoints.to_test(space_id)).secrets == (new, old)
    await box.ended(space_id)
    (claimed,) = await box.claim()
    assert claimed.secrets == (new, old)
    await box.deliveries.release(claimed)
    row = await box.endpoint(space_id)
    assert timedelta(hours=23) < row["previous_secret_until"] - row["created_at"] <= timedelta(days=1, minutes=1)
    await box.sql.execute("UPDATE webhook_endpoints SET previous_secret_until = now()")
    assert (await box.endpoints.to_test(space_id)).secrets == (new,)
    (claimed,) = await box.claim()
    assert claimed.secrets == (new,)


async def test_setting_an_endpoint_again_keeps_its_secret_and_enables_it(box: Outbox) -> None:
    space_id, _ = await box.space()
    before = await box.endpoint(space_id)
    await box.endpoints.disable(space_id, "disabled by an operator")
    assert await box.endpoints.set(space_id, "https://b.test/", [FAILED]) is None
    after = await box.endpoint(space_id)
    assert (after["secret"], after["url"], after["events"]) == (before["secret"], "https://b.test/", [FAILED])
    assert (after["disabled_at"], after["disabled_reason"]) == (None, None)
