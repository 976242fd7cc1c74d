"""The checks before each handler of the API: authentication, then scope and subscription, then the rate limit."""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext

from aiohttp import web
from aiohttp.typedefs import Handler

from service.access import Access, authorise
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
        async with self._turns.turn(request) if self._turns.needed(key) else nullcontext():
            act_for(key)
            caller = request[CALLER] = await self._authenticate(key, authorization)
        act_for(caller.space_id)
        try:
            authorise(caller, scope)
        except ServiceError:
            self._report(request, await self._throttle.peek(bucket, caller.space_id))
            raise
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

    async def _authenticate(self, key: bytes, authorization: str | None) -> Caller:
        if self._refused.get(key):  # while this request waited for its turn
            raise Unauthenticated
        try:
            caller = await self._access.authenticate(authorization)
        except Unauthenticated:
            self._refused.put(key, True)  # noqa: FBT003 - the value of an entry
            self._turns.refused(key)
            raise
        self._verified.put(key, caller)
        self._turns.verified(key)
        return caller


def _authorization(request: web.Request) -> str | None:
    values = request.headers.getall("Authorization", [])
    return values[0] if len(values) == 1 else None
