"""The consumers of the API: they ask, ask again when an answer is lost, cancel, look, and download."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.chaos.findings import Findings
from tests.chaos.replicas import Replicas
from tests.chaos.spaces import Spaces
from tests.support.contacts import Tenant

_PATH = "/public-api/v1/contacts/exports"
_PAUSE = 0.2
_PASSING = (429, 503)
_TIMEOUT = aiohttp.ClientTimeout(total=6)
_KEYED = 0.7
_WINDOWS = (
    {"start_date": "2024-01-01 00:00:00", "end_date": "2099-12-31 23:59:59"},
    {"start_date": "2024-03-01 01:00:30", "end_date": "2099-12-31 23:59:59"},
    {"start_date": "2024-03-01 01:03:20", "end_date": "2024-03-01 01:10:00"},
)


@dataclass
class Wish:
    """An export that a consumer wants. `name` is the request id of every request made for it."""

    name: str
    space: Tenant
    body: dict[str, Any]
    key: str | None
    sent: int = 0
    export_id: int | None = None
    told: set[str] = field(default_factory=set)
    """Ends that the consumer was told of."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: Any
    headers: Any


class Consumers:
    """Everything the API was asked for in a run."""

    def __init__(self, replicas: Replicas, findings: Findings, rng: random.Random, spaces: Spaces) -> None:
        self.wishes: list[Wish] = []
        self.answers: Counter[int] = Counter()
        self._replicas = replicas
        self._findings = findings
        self._rng = rng
        self._spaces = spaces
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, auto_decompress=False)
        self._calls: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop asking."""
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._session.close()

    def ask(self, space: Tenant | None = None) -> Wish:
        """Want one more export; it is asked for until there is an answer, or once if it has no idempotency key."""
        number = len(self.wishes) + 1
        keyed = space is not None or self._rng.random() < _KEYED
        body = {
            **self._rng.choice(_WINDOWS),
            "include_comet_tokens": self._rng.randint(0, 1),
            "include_all_emails": self._rng.randint(0, 1),
        }
        key = f"a key for wish {number}" if keyed else None
        wish = Wish(f"wish-{number}", space or self._rng.choice(self._spaces.asking), body, key)
        self.wishes.append(wish)
        self.start(self._ask(wish))
        return wish

    def start(self, call: Coroutine[Any, Any, None]) -> None:
        """Make a call without waiting for it: the replica asked may be stopped."""
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def answered(self) -> None:
        """Wait until every call has been answered, or given up."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def cancel(self) -> None:
        """Cancel an export that was accepted, in whatever state it is."""
        wish = self._accepted()
        answer = wish and await self._call("DELETE", wish.space, f"/{wish.export_id}")
        if wish and answer:
            self._note(wish, answer, 202)

    async def look(self) -> None:
        """Ask for the status of an export; where there is a link, follow it."""
        wish = self._accepted()
        answer = wish and await self._call("GET", wish.space, f"/{wish.export_id}")
        if not (wish and answer) or not self._note(wish, answer, 200):
            return
        if (url := answer.body.get("download_url")) is None:
            return
        if answer.body["status"] != "completed":
            self._findings.violation("I4", f"export {wish.export_id} is {answer.body['status']} and has a link")
        try:
            async with self._session.get(url) as file:
                status, content = file.status, await file.read()
        except (aiohttp.ClientError, TimeoutError):
            return
        self._findings.counts["downloads"] += 1
        if status == 200 and hashlib.sha256(content).hexdigest() == answer.body["sha256"]:
            return
        again = await self._call("GET", wish.space, f"/{wish.export_id}")
        if again and again.status == 200 and again.body["status"] == "completed":
            self._findings.violation("I4", f"the link of export {wish.export_id} gave {status}, {len(content)} bytes")

    def _accepted(self) -> Wish | None:
        accepted = [wish for wish in self.wishes if wish.export_id is not None]
        # The latest are the likeliest to be in motion.
        return self._rng.choice(accepted[-25:]) if accepted else None

    def _note(self, wish: Wish, answer: Answer, expected: int) -> bool:
        if answer.status in _PASSING:
            return False
        if answer.status != expected:
            self._findings.violation("I5", f"export {wish.export_id} is answered {answer.status} {answer.body}")
            return False
        if answer.body["status"] in ("failed", "cancelled", "expired"):
            wish.told.add(answer.body["status"])
        return True

    async def _ask(self, wish: Wish) -> None:
        headers = {"Idempotency-Key": wish.key} if wish.key else {}
        while wish.export_id is None and (wish.key or not wish.sent):
            answer = await self._call("POST", wish.space, "", wish=wish, headers=headers)
            if answer is not None and answer.status == 202:
                wish.export_id = answer.body["export_id"]
                if "Idempotent-Replayed" in answer.headers:
                    self._findings.counts["replayed"] += 1
            elif answer is not None and answer.status not in _PASSING:
                self._findings.violation("I5", f"{wish.name} was answered {answer.status} {answer.body}")
                return
            else:
                await asyncio.sleep(_PAUSE)

    async def _call(
        self, method: str, space: Tenant, path: str, *, wish: Wish | None = None, headers: dict[str, str] | None = None
    ) -> Answer | None:
        """The answer of one of the replicas; None if there was none."""
        replica = self._replicas.any()
        if replica is None:
            await asyncio.sleep(_PAUSE)
            return None
        url = f"{replica.program.address}{_PATH}{path}"
        given = {**space.headers, **(headers or {}), **({"X-Request-Id": wish.name} if wish else {})}
        if wish:
            wish.sent += 1
        try:
            async with self._session.request(method, url, headers=given, json=wish and wish.body) as response:
                answer = Answer(response.status, await response.json(), response.headers)
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            self.answers[0] += 1
            return None
        self.answers[answer.status] += 1
        return answer
