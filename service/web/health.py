"""Handlers of the liveness and readiness checks that orchestrators and load balancers call."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NotRequired

from aiohttp import web
from typing_extensions import TypedDict

from service.web.bodies import json_response


@dataclass(frozen=True, slots=True)
class Readiness:
    """The result of all checks: `checks` maps each name to None, or to a message if the check failed."""

    checks: Mapping[str, str | None]

    @property
    def ready(self) -> bool:
        """True if no check failed."""
        return not any(self.checks.values())


class LivenessBody(TypedDict):
    """The body of GET /healthz; `message` only if the process is stuck."""

    message: NotRequired[str]
    status: Literal["ok", "stuck"]


class ReadinessBody(TypedDict):
    """The body of GET /readyz; `message` only if a check failed. A check that passed is `ok`."""

    message: NotRequired[str]
    checks: dict[str, str]


ALIVE: web.AppKey[Callable[[], bool]] = web.AppKey("alive")
READY: web.AppKey[Callable[[], Awaitable[Readiness]]] = web.AppKey("ready")


async def show_liveness(request: web.Request) -> web.StreamResponse:
    """GET /healthz: 503 only if a restart would help. A database or store that is down does not count."""
    if request.app[ALIVE]():
        return json_response(LivenessBody(status="ok"))
    return json_response(LivenessBody(message="The service must be restarted.", status="stuck"), status=503)


async def show_readiness(request: web.Request) -> web.StreamResponse:
    """GET /readyz"""
    readiness = await request.app[READY]()
    return json_response(render_readiness(readiness), status=200 if readiness.ready else 503)


def render_readiness(readiness: Readiness) -> ReadinessBody:
    """The body of GET /readyz."""
    checks = {name: message or "ok" for name, message in readiness.checks.items()}
    if readiness.ready:
        return ReadinessBody(checks=checks)
    return ReadinessBody(message="The service is not ready.", checks=checks)
