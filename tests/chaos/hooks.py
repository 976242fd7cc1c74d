"""The consumer of webhooks: its receiver is down at random, and it drops repeats by their id as the documentation says."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import asyncpg
from standardwebhooks import WebhookVerificationError

from service.webhooks.signing import secret_text
from tests.chaos.findings import Findings
from tests.chaos.world import TROUBLE, World
from tests.support.contacts import Tenant
from tests.support.receiver import Answer, Message, Receiver, close, hang, receiver, reset, status

_SECONDS = 90.0
_MOOD = (0.3, 3.0)
"""Shortest and longest time in seconds that the receiver stays as it is."""
_DOWN: tuple[Answer, ...] = (status(500), status(503, "Retry-After: 1"), status(302, "Location: /"), hang, close, reset)
_CUT = 0.1
"""Share of messages that the receiver handles without a response, while it is up."""
_HURRY_SECONDS = 0.3
# The real pauses are hours. Nothing is given up, because a receiver that is down for seconds must lose no message.
_HURRY = """
UPDATE webhook_deliveries SET next_at = least(next_at, now() + interval '0.5 seconds'), attempts = least(attempts, 5)
 WHERE outcome IS NULL AND (next_at > now() + interval '0.5 seconds' OR attempts > 5)
"""
_EVENTS = ["contact.export.completed", "contact.export.failed", "contact.export.cancelled", "contact.export.expired"]
_EXPECTED = """
SELECT job_id, array_agg('contact.export.' || after ORDER BY n) AS events FROM chaos.history
 WHERE after IN ('completed', 'failed', 'cancelled', 'expired') GROUP BY job_id
"""


class Hooks:
    """`handled` has the messages that the consumer acted on, each id once, in the order of their arrival."""

    def __init__(self, world: World, findings: Findings, rng: random.Random, hooks: Receiver) -> None:
        self.handled: dict[str, Message] = {}
        self._world = world
        self._findings = findings
        self._rng = rng
        self._receiver = hooks
        self._secrets: dict[str, str] = {}
        self._expired: set[int] = set()
        self._healed = False
        self._down: Answer | None = None
        hooks.choose = self._answer

    async def set_endpoints(self, session: asyncpg.Connection, spaces: Sequence[Tenant]) -> None:
        """Give each of these Spaces an endpoint that gets all events."""
        for space in spaces:
            path = f"/{space.space_id}"
            secret = await session.fetchval(
                "INSERT INTO webhook_endpoints (space_id, url, events) VALUES ($1, $2, $3) RETURNING secret",
                space.space_id,
                f"https://127.0.0.1:{self._receiver.port}{path}",
                _EVENTS,
            )
            self._secrets[path] = secret_text(secret)

    def heal(self) -> None:
        """From now on the receiver accepts every message."""
        self._healed, self._down = True, None

    async def be_moody(self) -> None:
        """Be up, or down in one of several ways, for a random time each."""
        while not self._healed:
            self._down = None if self._rng.random() < 0.5 else self._rng.choice(_DOWN)
            await asyncio.sleep(self._rng.uniform(*_MOOD))

    async def hurry(self) -> None:
        """Shorten the pauses between attempts."""
        while True:
            with suppress(*TROUBLE):
                async with self._world.connection() as session:
                    while True:
                        await session.execute(_HURRY, timeout=5)
                        await asyncio.sleep(_HURRY_SECONDS)
            await asyncio.sleep(_HURRY_SECONDS)

    async def check(self, session: asyncpg.Connection) -> None:
        """I18: every export's events were handled once each and in order, and every delivery is recorded as delivered."""
        waiting = "SELECT count(*) FROM webhook_deliveries WHERE outcome IS NULL"
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                while await session.fetchval(waiting):
                    await asyncio.sleep(0.1)
        rows = {row["webhook_id"]: row for row in await session.fetch("SELECT * FROM webhook_deliveries")}
        handled: dict[int, list[str]] = {}
        for webhook_id, message in self.handled.items():
            content = message.content
            handled.setdefault(content["data"]["export_id"], []).append(content["type"])
            if webhook_id not in rows or rows[webhook_id]["payload"].encode() != message.body:
                self._findings.violation("I18", f"{webhook_id} is in no row, or has another body")
        for row in rows.values():
            if row["outcome"] != "delivered":
                self._findings.violation("I18", f"{row['webhook_id']} is {row['outcome']}: {row['last_reason']}")
        expected = {row["job_id"]: row["events"] for row in await session.fetch(_EXPECTED)}
        for export_id in expected.keys() | handled.keys():
            if expected.get(export_id) != handled.get(export_id):
                told = f"the consumer handled {handled.get(export_id)}, but these happened: {expected.get(export_id)}"
                self._findings.violation("I18", f"export {export_id}: {told}")
        self._findings.counts["webhooks handled"] = len(self.handled)
        self._findings.counts["webhook attempts received"] = len(self._receiver.messages)

    def _answer(self, message: Message) -> Answer:
        try:
            message.verify(self._secrets[message.path])
        except WebhookVerificationError as error:
            self._findings.violation("I18", f"{message.webhook_id} has a wrong signature: {error}")
        if self._down is not None:
            return self._down
        if message.webhook_id in self.handled:
            self._findings.counts["webhook repeats dropped"] += 1
        else:
            self._handle(message)
        cut = not self._healed and self._rng.random() < _CUT
        return self._rng.choice((close, reset, hang)) if cut else status(204)

    def _handle(self, message: Message) -> None:
        self.handled[message.webhook_id] = message
        export_id = message.content["data"]["export_id"]
        if export_id in self._expired:
            self._findings.violation("I18", f"export {export_id}: {message.content['type']} came after its expiry")
        if message.content["type"] == _EVENTS[-1]:
            self._expired.add(export_id)


@asynccontextmanager
async def hooks(world: World, findings: Findings, rng: random.Random) -> AsyncIterator[Hooks]:
    """The consumer inside the block."""
    async with receiver() as made:
        consumer = Hooks(world, findings, rng, made)
        tasks = [asyncio.create_task(consumer.be_moody()), asyncio.create_task(consumer.hurry())]
        try:
            yield consumer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
