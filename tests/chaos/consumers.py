"""The consumers of the API: they create, retry, poll, cancel and download exports."""

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
    """An export that a consumer wants. `name` is the request id of every create request for it."""

    name: str
    space: Tenant
    body: dict[str, Any]
    key: str | None
    sent: int = 0
    export_id: int | None = None
    told: set[str] = field(default_factory=set)
    """Final states that the consumer was told."""


@dataclass(frozen=True)
class Response:
    """A response."""

    status: int
    body: Any
    headers: Any


class Consumers:
    """All requests of a run."""

    def __init__(self, replicas: Replicas, findings: Findings, rng: random.Random, spaces: Spaces) -> None:
        self.wishes: list[Wish] = []
        self.responses: Counter[int] = Counter()
        self._replicas = replicas
        self._findings = findings
        self._rng = rng
        self.spaces = spaces
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, auto_decompress=False)
        self._calls: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Stop all requests."""
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._session.close()

    def ask(self, space: Tenant | None = None) -> Wish:
        """Request one more export: until there is a response, or once if it has no idempotency key."""
        number = len(self.wishes) + 1
        keyed = space is not None or self._rng.random() < _KEYED
        body = {
            **self._rng.choice(_WINDOWS),
            "include_comet_tokens": self._rng.randint(0, 1),
            "include_all_emails": self._rng.randint(0, 1),
        }
        key = f"a key for wish {number}" if keyed else None
        wish = Wish(f"wish-{number}", space or self._rng.choice(self.spaces.asking), body, key)
        self.wishes.append(wish)
        self.start(self._ask(wish))
        return wish

    def start(self, call: Coroutine[Any, Any, None]) -> None:
        """Start a request without waiting for it, because the replica may be stopped."""
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def finished(self) -> None:
        """Wait until every request has a response or has failed."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def cancel(self) -> None:
        """Cancel an accepted export in any state."""
        wish = self._accepted()
        response = wish and await self._call("DELETE", wish.space, f"/{wish.export_id}")
        if wish and response:
            self._note(wish, response, 202)

    async def poll(self) -> None:
        """Poll the status of an export; follow its link if there is one."""
        wish = self._accepted()
        response = wish and await self._call("GET", wish.space, f"/{wish.export_id}")
        if not (wish and response) or not self._note(wish, response, 200):
            return
        if (url := response.body.get("download_url")) is None:
            return
        if response.body["status"] != "completed":
            self._findings.violation("I4", f"export {wish.export_id} is {response.body['status']}, but has a link")
        try:
            async with self._session.get(url) as file:
                status, content = file.status, await file.read()
        except (aiohttp.ClientError, TimeoutError):
            return
        self._findings.counts["downloads"] += 1
        if status == 200 and hashlib.sha256(content).hexdigest() == response.body["sha256"]:
            return
        again = await self._call("GET", wish.space, f"/{wish.export_id}")
        if again and again.status == 200 and again.body["status"] == "completed":
            self._findings.violation("I4", f"the link of export {wish.export_id} returned {status}, {len(content)} bytes")

    def _accepted(self) -> Wish | None:
        accepted = [wish for wish in self.wishes if wish.export_id is not None]
        # The latest exports are the most likely to be unfinished.
        return self._rng.choice(accepted[-25:]) if accepted else None

    def _note(self, wish: Wish, response: Response, expected: int) -> bool:
        if response.status in _PASSING:
            return False
        if response.status != expected:
            self._findings.violation("I5", f"a request for export {wish.export_id} got {response.status} {response.body}")
            return False
        if response.body["status"] in ("failed", "cancelled", "expired"):
            wish.told.add(response.body["status"])
        return True

    async def _ask(self, wish: Wish) -> None:
        headers = {"Idempotency-Key": wish.key} if wish.key else {}
        while wish.export_id is None and (wish.key or not wish.sent):
            response = await self._call("POST", wish.space, "", wish=wish, headers=headers)
            if response is not None and response.status == 202:
                wish.export_id = response.body["export_id"]
                if "Idempotent-Replayed" in response.headers:
                    self._findings.counts["replayed"] += 1
            elif response is not None and response.status not in _PASSING:
                self._findings.violation("I5", f"{wish.name} got {response.status} {response.body}")
                return
            else:
                await asyncio.sleep(_PAUSE)

    async def _call(
        self, method: str, space: Tenant, path: str, *, wish: Wish | None = None, headers: dict[str, str] | None = None
    ) -> Response | None:
        """Send a request to one of the replicas and return its response; None if there was none."""
        replica = self._replicas.any()
        if replica is None:
            await asyncio.sleep(_PAUSE)
            return None
        url = f"{replica.program.address}{_PATH}{path}"
        given = {**space.headers, **(headers or {}), **({"X-Request-Id": wish.name} if wish else {})}
        if wish:
            wish.sent += 1
        try:
            async with self._session.request(method, url, headers=given, json=wish and wish.body) as raw:
                response = Response(raw.status, await raw.json(), raw.headers)
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            self.responses[0] += 1
            return None
        self.responses[response.status] += 1
        return response
