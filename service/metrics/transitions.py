"""Counts the transitions of exports: a listener of `service.events`."""

from service import events, webhook_events
from service.failures import WorkerLost
from service.metrics.instruments import Instruments
from service.model import ExportStatus

_OUTCOMES = ("completed", "error", "lost", "handed_back", "cancelled")
_LEFTOVERS = ("attempt", "abandoned_upload", "orphan")
_WEBHOOKS = ("delivered", "failed", "given_up", "endpoint_disabled", "claim_lost")
_ENDED = ("completed", "cancelled", "expired")


class TransitionCounter:
    """Counts every event once. Series whose labels are known in advance exist from the start, with the value 0."""

    def __init__(self, instruments: Instruments) -> None:
        self._count = instruments
        for outcome in _OUTCOMES:
            instruments.attempts.labels(outcome)
        for status in _ENDED:
            instruments.ended.labels(status, "")
        for code in ("internal", "storage_unavailable", "source_unavailable", WorkerLost.code):
            instruments.ended.labels("failed", code)
            instruments.retries.labels(code)
        for kind in _LEFTOVERS:
            instruments.removed.labels(kind)
        for result in _WEBHOOKS:
            instruments.webhooks.labels(result)
        for result in ("queued", "failed"):
            instruments.rescues.labels(result)

    def __call__(self, event: events.Event) -> None:
        """Count an event."""
        self._count_of_exports(event)
        self._count_of_attempts(event)
        self._count_of_cleanup(event)
        self._count_of_webhooks(event)

    def _count_of_exports(self, event: events.Event) -> None:
        match event:
            case events.ExportQueued():
                self._count.created.inc()
            case events.ExportCompleted():
                self._count.ended.labels("completed", "").inc()
                self._observe(event)
            case events.ExportFailed():
                self._count.ended.labels("failed", event.error_code).inc()
            case events.ExportCancelled():
                self._count.ended.labels(event.status.value, "").inc()
            case events.ExportExpired():
                self._count.ended.labels("expired", "").inc()
            case _:
                pass

    def _count_of_attempts(self, event: events.Event) -> None:
        """An attempt is counted by the process that recorded its outcome, so over all processes it is counted once."""
        match event:
            case events.ExportClaimed():
                self._count.attempts_started.inc()
            case events.ExportCompleted():
                self._count.attempts.labels("completed").inc()
            case events.AttemptFailed():
                self._count.attempts.labels("error").inc()
                self._count.retries.labels(event.error_code).inc()
            case events.ExportFailed():
                if event.error_code == WorkerLost.code:
                    self._count_rescue("failed")
                else:
                    self._count.attempts.labels("error").inc()
            case events.ExportRescued():
                self._count_rescue("queued")
            case events.ClaimLost():
                self._count.claims_lost.inc()
            case _:
                self._count_of_stopped_attempts(event)

    def _count_of_stopped_attempts(self, event: events.Event) -> None:
        match event:
            case events.ExportHandedBack():
                self._count.attempts.labels("handed_back").inc()
            case events.ExportKicked(claim_id=claim_id) if claim_id is not None:
                self._count.attempts.labels("handed_back").inc()
            case events.ExportCancelled(was=ExportStatus.PROCESSING):
                self._count.attempts.labels("cancelled").inc()
            case _:
                pass

    def _count_rescue(self, result: str) -> None:
        self._count.attempts.labels("lost").inc()
        self._count.rescues.labels(result).inc()

    def _count_of_cleanup(self, event: events.Event) -> None:
        match event:
            case events.AttemptCleaned():
                self._count.removed.labels("attempt").inc()
            case events.AbandonedUploadAborted():
                self._count.removed.labels("abandoned_upload").inc()
            case events.OrphanDeleted():
                self._count.removed.labels("orphan").inc()
            case events.FileDeleted():
                self._count.files_deleted.inc()
            case events.ExportsForgotten():
                self._count.rows_forgotten.inc(event.count)
            case _:
                pass

    def _count_of_webhooks(self, event: events.Event) -> None:
        match event:
            case webhook_events.WebhookDelivered():
                self._count.webhooks.labels("delivered").inc()
                self._count.webhook_seconds.observe(event.seconds)
            case webhook_events.WebhookGivenUp():
                self._count.webhooks.labels("given_up").inc()
            case webhook_events.WebhookEndpointDisabled():
                self._count.webhooks.labels("endpoint_disabled").inc()
            case webhook_events.WebhookFailed():
                self._count.webhooks.labels("failed").inc()
            case webhook_events.WebhookClaimLost():
                self._count.webhooks.labels("claim_lost").inc()
            case _:
                pass

    def _observe(self, event: events.ExportCompleted) -> None:
        self._count.export_rows.observe(event.rows)
        self._count.export_bytes.observe(event.bytes)
        self._count.export_seconds.observe(event.seconds)
        if event.rows and event.seconds:
            self._count.export_rate.observe(event.rows / event.seconds)
