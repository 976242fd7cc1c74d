"""Sends due deliveries while slots are free.

It keeps no state that matters: what is waiting, and for whom it may be in flight, is in the outbox, where any replica finds
it. A process that dies after the endpoint's response and before its record is committed has sent a message that is sent
again, with the same id.
"""

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from service import events, webhook_events
from service.errors import DatabaseUnavailable
from service.exports.periodic import boot_clock, uncancelled
from service.failpoints import failpoint
from service.postgres.webhook_deliveries import ClaimedDelivery, FailedAttempt, WebhookDeliveries
from service.webhooks.schedule import DISABLE_AFTER, pause_after
from service.webhooks.sending import OutOfResources, Response, Sender
from service.webhooks.signing import signed_headers

_RECORD_PAUSE = timedelta(seconds=1)
_RESOURCE_PAUSE = timedelta(seconds=5)
_POLL_SPREAD = 0.2
_DATABASE_CALLS = 2
"""Results are recorded at most two at a time, so that requests find free connections."""
_ENDS = (events.ExportCompleted, events.ExportFailed, events.ExportCancelled, events.ExportExpired)
"""Events that may have put something into the outbox."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DelivererOptions:
    """`slots` deliveries are in flight at once, half of them at most for endpoints whose previous attempt failed."""

    slots: int
    poll: timedelta
    """Pause between two polls for deliveries that other processes wrote or that became due."""
    margin: timedelta
    """How much longer than a request a lease lasts: for the claim, the record and its repetitions."""

    @property
    def failing_slots(self) -> int:
        """How many slots endpoints that failed may use."""
        return -(-self.slots // 2)


class Deliverer:
    """Claims deliveries while there are free slots. `run` ends after `stop`, when nothing is in flight any more."""

    def __init__(self, deliveries: WebhookDeliveries, sender: Sender, options: DelivererOptions) -> None:
        self._deliveries = deliveries
        self._sender = sender
        self._options = options
        self._lease = sender.timeout + options.margin
        self._in_flight: dict[asyncio.Task[None], ClaimedDelivery] = {}
        self._interruptible: set[asyncio.Task[None]] = set()
        """Tasks that have no response yet. A response that was received is recorded, even at shutdown."""
        self._work = asyncio.Event()
        self._stopping = False
        self._calls = asyncio.Semaphore(_DATABASE_CALLS)

    @property
    def running(self) -> int:
        """How many deliveries are in flight."""
        return len(self._in_flight)

    def wake(self) -> None:
        """Look for deliveries at once."""
        self._work.set()

    def stop(self) -> None:
        """Claim nothing more; deliveries in flight continue."""
        self._stopping = True
        self.wake()

    def hand_back(self) -> None:
        """Interrupt the deliveries that have no response yet, and give them back."""
        for task in self._interruptible:
            task.cancel()

    async def run(self) -> None:
        """Deliver until `stop` is called and nothing is in flight."""
        unsubscribe = events.subscribe(self._on_event)
        try:
            while not self._stopping:
                self._work.clear()
                if not await self._start_some():
                    await self._wait_for_work()
            while self._in_flight:
                await asyncio.wait(self._in_flight)
        finally:
            unsubscribe()
            for task in self._in_flight:
                task.cancel()
            await asyncio.gather(*self._in_flight, return_exceptions=True)

    def _on_event(self, event: events.Event) -> None:
        if isinstance(event, _ENDS):
            self.wake()

    async def _start_some(self) -> bool:
        """Claim for the free slots; whether there may be more to claim."""
        free = self._options.slots - len(self._in_flight)
        if free <= 0:
            return False
        failing = sum(claimed.failing for claimed in self._in_flight.values())
        sent = boot_clock()
        claimed = await self._claim(free, max(self._options.failing_slots - failing, 0))
        if self._stopping:
            for each in claimed:
                await self._release(each)
            return False
        for each in claimed:
            task = asyncio.create_task(self._deliver(each, sent=sent))
            self._in_flight[task] = each
            self._interruptible.add(task)
            task.add_done_callback(self._ended)
        return len(claimed) == free

    async def _claim(self, limit: int, failing: int) -> list[ClaimedDelivery]:
        """Claims, or none after an error, which is logged."""
        try:
            claimed = await uncancelled(self._deliveries.claim(lease=self._lease, limit=limit, failing=failing))
            if claimed:
                await failpoint("webhook_claimed")
        except DatabaseUnavailable as error:
            log.warning("webhook_claim_failed", detail=error.detail)
            return []
        except Exception:
            log.exception("webhook_claim_crashed")
            return []
        return claimed

    async def _wait_for_work(self) -> None:
        spread = random.uniform(1 - _POLL_SPREAD, 1 + _POLL_SPREAD)
        try:
            async with asyncio.timeout(self._options.poll.total_seconds() * spread):
                await self._work.wait()
        except TimeoutError:
            pass

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._in_flight[task]
        self._interruptible.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("webhook_not_recorded", exc_info=task.exception())
        self.wake()

    async def _deliver(self, claimed: ClaimedDelivery, *, sent: float) -> None:
        """Send and record one delivery. `sent` is the boot clock before the claim was sent."""
        ends = sent + self._lease.total_seconds()
        if boot_clock() + self._sender.timeout.total_seconds() > ends:
            # The process was stopped for so long that another one may send this delivery before the request would end.
            events.emit(webhook_events.WebhookClaimLost(claimed.webhook_id, claimed.export_id))
            return
        try:
            response = await self._send(claimed, claimed.claimed_at + timedelta(seconds=boot_clock() - sent))
        except asyncio.CancelledError:
            await self._release(claimed)
            raise
        except OutOfResources:
            log.warning("out_of_resources", webhook_id=claimed.webhook_id, export_id=claimed.export_id)
            await asyncio.sleep(_RESOURCE_PAUSE.total_seconds())
            await self._release(claimed)
        else:
            self._interruptible -= {task for task, each in self._in_flight.items() if each is claimed}
            await failpoint("webhook_responded")
            await self._record(claimed, response, ends=ends)

    async def _send(self, claimed: ClaimedDelivery, at: datetime) -> Response:
        """Send the message. `at` is the time by the database's clock: the clock of this machine may be wrong."""
        await failpoint("webhook_sending")
        body = claimed.payload.encode()
        headers = signed_headers(claimed.webhook_id, at, body, claimed.secrets)
        return await self._sender.post(claimed.url, body, headers)

    async def _release(self, claimed: ClaimedDelivery) -> None:
        try:
            await self._deliveries.release(claimed)
        except DatabaseUnavailable as error:  # then the lease expires
            log.warning("webhook_not_released", webhook_id=claimed.webhook_id, detail=error.detail)

    async def _record(self, claimed: ClaimedDelivery, response: Response, *, ends: float) -> None:
        """Record the result until the database responds or the lease is over."""
        write = self._accepted if response.accepted else self._failed
        unknown = False
        while True:
            try:
                async with self._calls:
                    recorded = await write(claimed, response)
            except DatabaseUnavailable as error:
                log.warning("webhook_result_not_recorded", webhook_id=claimed.webhook_id, detail=error.detail)
                unknown = True
                if boot_clock() > ends:
                    return
                await asyncio.sleep(_RECORD_PAUSE.total_seconds())
                continue
            if recorded is not None:
                events.emit(recorded)
            elif not unknown:  # otherwise the first write may have been committed
                events.emit(webhook_events.WebhookClaimLost(claimed.webhook_id, claimed.export_id))
            return

    async def _accepted(self, claimed: ClaimedDelivery, response: Response) -> events.Event | None:
        status = response.status or 0
        if not await self._deliveries.record_delivered(claimed, status, response.reason):
            return None
        return webhook_events.WebhookDelivered(*_ids(claimed), status=status, seconds=round(response.seconds, 3))

    async def _failed(self, claimed: ClaimedDelivery, response: Response) -> events.Event | None:
        pause = pause_after(claimed.attempt, retry_after=response.wait)
        failed = FailedAttempt(response.status, response.reason, pause, response.gone)
        disabled = await self._deliveries.record_failed(claimed, failed, disable_after=DISABLE_AFTER)
        if disabled is None:
            return None
        kind = webhook_events.WebhookGivenUp if pause is None else webhook_events.WebhookFailed
        return (webhook_events.WebhookEndpointDisabled if disabled else kind)(*_ids(claimed), reason=response.reason)


def _ids(claimed: ClaimedDelivery) -> tuple[str, int, int, str, int]:
    return claimed.webhook_id, claimed.export_id, claimed.space_id, claimed.event, claimed.attempt
