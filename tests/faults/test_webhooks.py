"""Webhooks of processes that are killed or stopped, and of databases and endpoints that fail."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from service.embedded.postgres import EmbeddedPostgres
from service.postgres.migrate import migrate
from service.postgres.pool import Database
from service.postgres.webhook_endpoints import WebhookEndpoints
from service.webhooks.signing import secret_text
from tests.support.outbox import USUAL
from tests.support.program import Program, started
from tests.support.receiver import Receiver, hang, receiver, status, write_authority
from tests.support.scene import Scene, scene
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_logged, until_row

_EXPIRE = "UPDATE webhook_endpoints SET lease_until = now() - interval '1 second' WHERE lease_until IS NOT NULL"
_DELIVERED = "SELECT * FROM webhook_deliveries WHERE outcome = 'delivered'"


@pytest.fixture
async def hooks() -> AsyncIterator[Receiver]:
    """A receiver that accepts every message."""
    async with receiver() as made:
        yield made


async def endpoint(scene: Scene, hooks: Receiver) -> str:
    """Set the receiver as the endpoint of the scene's Space; returns the secret."""
    async with Database(scene.database_url, application_name="tests", size=1) as database:
        url = f"https://127.0.0.1:{hooks.port}/"
        secret = await WebhookEndpoints(database).set(scene.space.space_id, url, USUAL)
    assert secret is not None
    return secret_text(secret)


def settings(scene: Scene, failpoints: str = "", **others: str) -> dict[str, str]:
    """The settings of a program that may reach the receiver."""
    authority = write_authority(scene.directory / "ca.pem")
    allowed = {"WEBHOOK_CA_FILE": str(authority), "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8"}
    return scene.settings(failpoints, **{**allowed, **others})


def running(scene: Scene, failpoints: str = "", **others: str) -> AbstractAsyncContextManager[Program]:
    """Run a program that is ready to work."""
    return scene.running(failpoints, **settings(scene, failpoints, **others))


async def killed(scene: Scene, point: str) -> None:
    """Run a program until it is killed at this point, and expire its leases."""
    async with started(settings(scene, f"{point}:kill")) as victim:
        assert await victim.ended() == -signal.SIGKILL, victim.log
    await scene.sql.execute(_EXPIRE)


@pytest.mark.parametrize(
    ("point", "sent", "again"),
    [
        ("outcome_recorded", 0, 1),
        ("webhook_claimed", 0, 1),
        ("webhook_sending", 0, 1),
        ("webhook_responded", 1, 1),
        ("webhook_result_sent", 1, 0),
    ],
)
async def test_a_killed_process_loses_no_message_and_a_repeat_has_the_same_id(
    scene: Scene, hooks: Receiver, point: str, sent: int, again: int
) -> None:
    secret = await endpoint(scene, hooks)
    export_id = await scene.queue()
    await killed(scene, point)
    assert len(hooks.messages) == sent
    (row,) = await scene.sql.fetch("SELECT * FROM webhook_deliveries")
    assert (row["export_id"], row["outcome"]) == (export_id, "delivered" if point == "webhook_result_sent" else None)
    async with running(scene) as program:
        delivered = await until_row(scene.sql, _DELIVERED)
        assert await program.end() == 0
    assert (delivered["webhook_id"], delivered["attempts"]) == (row["webhook_id"], row["attempts"] + again)
    assert {message.webhook_id for message in hooks.messages} == {row["webhook_id"]}
    assert len(hooks.messages) == (1 if point == "webhook_result_sent" else sent + 1)
    for message in hooks.messages:
        message.verify(secret)


async def test_a_process_ends_in_time_while_an_endpoint_hangs_and_another_one_delivers_at_once(
    scene: Scene, hooks: Receiver
) -> None:
    await endpoint(scene, hooks)
    hooks.answers = [hang]
    export_id = await scene.queue()
    async with running(scene, GRACE_SECONDS="0.5", WEBHOOK_TIMEOUT_SECONDS="60") as program:
        await hooks.until(1)
        assert (await until_ended(scene.sql, export_id))["status"] == "completed"
        assert await program.end() == 0
        assert [entry["webhooks"] for entry in program.events("stopping")] == [1]
    async with running(scene):
        delivered = await until_row(scene.sql, _DELIVERED)
    assert delivered["attempts"] == 1
    assert hooks.messages[0].webhook_id == hooks.messages[1].webhook_id


async def test_a_process_with_an_endpoint_that_fails_logs_the_reason_and_no_address(scene: Scene, hooks: Receiver) -> None:
    await endpoint(scene, hooks)
    hooks.usual = status(500, body=b"hunter2")
    await scene.queue()
    async with running(scene) as program:
        await until_logged(program, "webhook_failed", reason="500 Internal Server Error")
    written = "".join(str(entry) for entry in program.log)
    assert not [private for private in ("hunter2", f"127.0.0.1:{hooks.port}", "whsec_", "sha256") if private in written]


async def test_a_result_is_recorded_after_an_outage_of_the_database(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest, hooks: Receiver, tmp_path: Path
) -> None:
    async def answer_while_the_database_is_down(writer: asyncio.StreamWriter) -> None:
        await asyncio.to_thread(own_postgres.stop, "immediate")
        await status(200)(writer)

    await asyncio.to_thread(own_postgres.start)
    await migrate(own_postgres.dsn())
    async with scene(own_postgres.dsn(), files, tmp_path) as here:
        await endpoint(here, hooks)
        hooks.answers = [answer_while_the_database_is_down]
        await here.queue()
        async with running(here) as program:
            await until_logged(program, "webhook_result_not_recorded")
            await asyncio.to_thread(own_postgres.start)
            await until_logged(program, "webhook_delivered")
    assert len(hooks.messages) == 1
