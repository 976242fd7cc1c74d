"""Webhooks of the running program, set and inspected with the commands of the documentation."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.client import ExportClient
from tests.support import docs
from tests.support.calls import EXPORTS, call
from tests.support.contacts import Tenant, whole_range
from tests.support.program import running
from tests.support.receiver import Receiver, receiver, status, write_authority
from tests.support.shell import contact_exports, shell
from tests.support.waiting import until_row

pytestmark = pytest.mark.long

PAGE = "docs/webhooks.md"
DOCUMENTED = "https://hooks.example/exports"


@pytest.fixture
async def hooks() -> AsyncIterator[Receiver]:
    """A receiver that accepts every message."""
    async with receiver() as made:
        yield made


def settings(database_url: str, directory: Path) -> dict[str, str]:
    """The settings of a program and of commands that reach receivers of tests."""
    return {
        "DATABASE_URL": database_url,
        "STORAGE_URL": (directory / "files").as_uri(),
        "WEBHOOK_CA_FILE": str(write_authority(directory / "ca.pem")),
        "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    }


def command(start: str) -> str:
    """The one line of the page's commands that begins with this."""
    lines = [line for _, text in docs.blocks("sh", PAGE) for line in text.splitlines() if line.startswith(start)]
    assert len(lines) == 1, start
    return lines[0].partition("#")[0].strip()


async def test_the_commands_of_the_page_bring_a_signed_message_to_the_receiver(
    database_url: str, space: Tenant, hooks: Receiver, tmp_path: Path
) -> None:
    given = settings(database_url, tmp_path)
    (tmp_path / "files").mkdir()
    url = f"https://127.0.0.1:{hooks.port}/exports"
    setting = command("contact-exports webhooks set")
    assert DOCUMENTED in setting
    assert space.space_id == 1
    secret = (await shell(setting.replace(DOCUMENTED, url), given)).strip()
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    names: dict[str, Any] = {}
    exec(docs.block("python", PAGE, "standardwebhooks"), names)
    async with running(given) as program, ExportClient(program.address, space.key) as client:
        export = await client.wait(await client.create(whole_range()))
        _, status_body, _ = await call(program, "GET", f"{EXPORTS}/{export.export_id}", space)
        (message,) = await hooks.until(1)
        event = names["receive"](secret, message.body, message.headers)
        renewed = (await shell(command("contact-exports webhooks rotate"), given)).strip()
        await client.wait(await client.create(whole_range()))
        later = (await hooks.until(2))[1]
        for each in (secret, renewed):
            later.verify(each)
        delivered = program.events("webhook_delivered")
    same = ("export_id", "status", "row_count", "file_size", "sha256", "completed_at")
    assert event["type"] == "contact.export.completed"
    assert {name: event["data"][name] for name in same} == {name: status_body[name] for name in same}
    example = docs.block("json", PAGE, "contact.export.completed").replace("…", "")
    assert re.findall(r'"(\w+)":', example) == re.findall(r'"(\w+)" ?:', message.body.decode())
    assert [entry["webhook_id"] for entry in delivered] == [message.webhook_id, later.webhook_id][: len(delivered)]
    written = "".join(str(entry) for entry in program.log)
    assert not [private for private in (secret, renewed, url, "sha256") if private in written]
    shown = await shell(command("contact-exports webhooks show"), given)
    assert "state                  enabled" in shown
    assert secret not in shown
    story = (await contact_exports("exports", "show", str(export.export_id), **given)).output
    assert f"webhook_id             {message.webhook_id}" in story
    assert "delivered at attempt 1: 204 No Content" in story


async def test_a_test_message_prints_what_was_sent_what_came_back_and_how_long_it_took(
    database_url: str, space: Tenant, hooks: Receiver, tmp_path: Path
) -> None:
    given = settings(database_url, tmp_path)
    url = f"https://127.0.0.1:{hooks.port}/exports"
    secret = (await contact_exports("webhooks", "set", "--space", "1", url, **given)).output.strip()
    hooks.answers = [status(200, body=b"thanks\x1b[2J"), status(500, body=b"broken")]
    good, bad = [await contact_exports(*command("contact-exports webhooks test").split()[1:], **given) for _ in range(2)]
    first, _ = hooks.messages
    first.verify(secret)
    assert good.code == 0
    sent, body, *back = good.output.split("\n\n")
    assert sent.splitlines() == [
        f"POST {url}",
        *(f"{name}: {first.headers[name]}" for name in ("webhook-id", "webhook-timestamp", "webhook-signature")),
    ]
    assert body == first.body.decode()
    assert first.content["type"] == "webhook.test"
    assert re.fullmatch(r"200 OK\nthanks\ufffd\[2J\nafter \d+\.\d{3} s\n", "\n\n".join(back))
    assert (bad.code, bad.errors) == (1, "")
    assert "500 Internal Server Error\nbroken\n" in bad.output


async def test_messages_are_listed_disabled_enabled_and_resent(
    database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    given = settings(database_url, tmp_path)
    assert (await contact_exports("webhooks", "set", "--space", "1", "https://hooks.test/", **given)).code == 0
    insert = "INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, max_attempts)"
    export = "VALUES (1, '2024-01-15', '2024-01-16', 'UTC', '2024-01-15Z', '2024-01-16Z', 5) RETURNING id"
    await connection.execute("SELECT cancel_export($1)", await connection.fetchval(f"{insert} {export}"))
    webhook_id = await connection.fetchval("SELECT webhook_id FROM webhook_deliveries")
    listed = await contact_exports("webhooks", "deliveries", "--space", "1", "--state", "waiting", **given)
    assert re.fullmatch(
        rf"{webhook_id}\tTests\t1\tcontact\.export\.cancelled\t0:00:\d\d\twaiting for its first attempt\n", listed.output
    )
    await shell(command("contact-exports webhooks disable"), given)
    resend = command("contact-exports webhooks resend").replace("msg_0123456789abcdef0123456789abcdef", webhook_id)
    refused = await contact_exports(*resend.split()[1:], **given)
    assert (refused.code, refused.errors) == (1, "The endpoint of this delivery is disabled or deleted.\n")
    await shell(command("contact-exports webhooks enable"), given)
    await connection.execute("UPDATE webhook_deliveries SET next_at = now() + interval '1 hour'")
    await shell(resend, given)
    await until_row(connection, "SELECT 1 FROM webhook_deliveries WHERE outcome IS NULL AND next_at <= now()")
    again = await contact_exports("webhooks", "set", "--space", "1", "https://hooks.test/b", "--event",
                                  "contact.export.expired", **given)  # fmt: skip
    assert (again.output, again.errors) == ("", "the secret is unchanged\n")
    assert await connection.fetchval("SELECT events FROM webhook_endpoints") == ["contact.export.expired"]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("set", "--space", "1", "http://a.test/"), "it must start with https://", 2),
        (("set", "--space", "1", "https://alice:hunter2@a.test/"), "user name or password", 2),
        (("set", "--space", "1", "https://10.0.0.1/"), "not public", 2),
        (("set", "--space", "1", "https://a.test:22/"), "the port is not 443 or 8443", 2),
        (("set", "--space", "1", "https://a.test/", "--event", "nope"), "contact.export.completed", 2),
        (("set", "--space", "99", "https://a.test/"), "no such Space", 1),
        (("show", "--space", "1"), "no webhook endpoint", 1),
        (("rotate", "--space", "1"), "no webhook endpoint", 1),
        (("test", "--space", "1"), "no webhook endpoint", 1),
        (("disable", "--space", "1"), "no webhook endpoint", 1),
        (("enable", "--space", "1"), "no webhook endpoint", 1),
        (("resend", "msg_1"), "no such delivery", 1),
        (("deliveries", "--state", "nope"), "given_up", 2),
    ],
)
async def test_an_error_is_a_message_and_an_exit_code(
    database_url: str, space: Tenant, arguments: tuple[str, ...], message: str, code: int
) -> None:
    ended = await contact_exports("webhooks", *arguments, DATABASE_URL=database_url)
    assert (ended.code, ended.output) == (code, "")
    assert message in ended.errors
    assert "hunter2" not in ended.errors
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_of_authorities_that_cannot_be_used_ends_serve(
    database_url: str, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    given = {"WEBHOOK_CA_FILE": str(tmp_path / "ca.pem"), "STORAGE_URL": tmp_path.as_uri(), "PORT": "0"}
    ended = await contact_exports("serve", DATABASE_URL=database_url, **given)
    assert ended.code == 2
    assert "WEBHOOK_CA_FILE names no readable file of certificates in PEM form" in ended.errors
    assert "Traceback" not in ended.errors
