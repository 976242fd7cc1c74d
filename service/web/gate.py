"""The checks before each handler of the API: authentication, then scope and subscription, then the rate limit."""

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler

from service.access import Access, PresentedKey, authorise, presented_key
from service.errors import ServiceError, Unauthenticated
from service.exports.priority import RequestPriority
from service.model import Caller, Scope
from service.postgres.shares import act_for
from service.web.rate_limits import Allowance, RateLimitBucket, Throttle
from service.web.recent import Recent
from service.web.refusal_turns import RefusalTurns

CALLER = web.RequestKey("caller", Caller)
"""Set for every handler that `Gate.guard` wraps."""
ALLOWANCE = web.RequestKey("allowance", Allowance)
"""Set once the rate limit has been read; the middleware sends it in the headers of the response."""
PRIORITY = web.AppKey("priority", RequestPriority)
"""A handler that waits for its client pauses it."""

LookUp = Callable[[PresentedKey], Awaitable[tuple[Caller, Allowance | None]]]
"""Finds the caller of a key. With an allowance, the call was counted as well. Raises Unauthenticated."""


class Gate:
    """Wraps handlers in the checks. `require_started` raises a ServiceError, such as Starting, until the API can work."""

    def __init__(
        self, access: Access, throttle: Throttle, priority: RequestPriority, require_started: Callable[[], None]
    ) -> None:
        self._access = access
        self._throttle = throttle
        self._priority = priority
        self._require_started = require_started
        self._turns = RefusalTurns(priority)
        self._refused = Recent[bytes, bool]()
        self._verified = Recent[bytes, Caller]()
        self._allowances = Recent[tuple[RateLimitBucket, int], Allowance]()

    def guard(self, handler: Handler, scope: Scope, bucket: RateLimitBucket) -> Handler:
        """A handler that runs all checks first. The key needs `scope`; calls count for `bucket`."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            # Exports wait for the request from here until the handler returns, except where the request itself waits for
            # its client, the store or an export (`RequestPriority.paused`).
            with self._priority.request():
                await self._check(request, scope, bucket)
                return await handler(request)

        return guarded

    async def _check(self, request: web.Request, scope: Scope, bucket: RateLimitBucket) -> None:
        self._require_started()
        authorization = _authorization(request)
        key = hashlib.sha256((authorization or "").encode(errors="surrogateescape")).digest()
        await self._refuse_if_known(request, key, scope, bucket)
        space_id = self._turns.space_of(key)
        if space_id is None:
            async with self._turns.turn(request):
                act_for(key)
                caller, allowance = await self._authenticate(key, authorization, self._look_up)
        else:
            act_for(space_id)
            caller, allowance = await self._authenticate(key, authorization, partial(self._admit, scope, bucket))
        request[CALLER] = caller
        act_for(caller.space_id)
        try:
            authorise(caller, scope)
        except ServiceError:
            self._report(request, await self._throttle.peek(bucket, caller.space_id))
            raise
        if allowance is None:
            allowance = await self._throttle.hit(bucket, caller.space_id)
        self._report(request, allowance)
        allowance.check()

    def _report(self, request: web.Request, allowance: Allowance) -> None:
        request[ALLOWANCE] = allowance
        self._allowances.put((allowance.bucket, request[CALLER].space_id), allowance)

    async def _refuse_if_known(self, request: web.Request, key: bytes, scope: Scope, bucket: RateLimitBucket) -> None:
        """Refuse without the database what was refused within the last second. Raises the error of that refusal."""
        if self._refused.get(key):
            async with self._turns.turn(request):
                raise Unauthenticated
        caller = self._verified.get(key)
        allowance = None if caller is None else self._allowances.get((bucket, caller.space_id))
        if caller is None or allowance is None:
            return
        if allowance.granted and scope in caller.scopes and caller.subscription_active:
            return
        request[CALLER], request[ALLOWANCE] = caller, allowance
        async with self._turns.turn(request):
            authorise(caller, scope)
            allowance.check()

    async def _authenticate(self, key: bytes, authorization: str | None, look_up: LookUp) -> tuple[Caller, Allowance | None]:
        if self._refused.get(key):  # while this request waited for its turn
            raise Unauthenticated
        try:
            caller, allowance = await look_up(presented_key(authorization))
        except Unauthenticated:
            self._refused.put(key, True)  # noqa: FBT003 - the value of an entry
            self._turns.refused(key)
            raise
        self._verified.put(key, caller)
        self._turns.verified(key, caller.space_id)
        return caller, allowance

    async def _look_up(self, key: PresentedKey) -> tuple[Caller, None]:
        return await self._access.authenticate(key), None

    async def _admit(self, scope: Scope, bucket: RateLimitBucket, key: PresentedKey) -> tuple[Caller, Allowance | None]:
        """Look up a key that was valid lately. In the same statement the call is counted, if that is possible."""
        admission = await self._throttle.admit(bucket, key, scope)
        if admission is None:
            return await self._look_up(key)
        credential, allowance = admission
        return key.proves(credential), allowance


def _authorization(request: web.Request) -> str | None:
    values = request.headers.getall("Authorization", [])
    return values[0] if len(values) == 1 else None
