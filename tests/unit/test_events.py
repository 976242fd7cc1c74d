"""Events: each transition reaches every listener, and the log is one of them."""

from collections.abc import Iterator
from uuid import UUID

import pytest
import structlog

from service import events, webhook_events
from service.model import Claim, ExportStatus
from tests.support.snapshots import claim_on


@pytest.fixture
def heard() -> Iterator[list[events.Event]]:
    """The events of a test, in their order."""
    found: list[events.Event] = []
    unsubscribe = events.subscribe(found.append)
    yield found
    unsubscribe()


def every_event(claim: Claim) -> list[events.Event]:
    """One event of each class that is emitted."""
    return [
        events.ExportQueued(1, 2),
        events.ExportCancelled(1, 2, ExportStatus.QUEUED, ExportStatus.CANCELLED),
        events.ExportKicked(1, claim.claim_id),
        events.ExportRescued(1, claim.claim_id, "a worker"),
        events.AttemptCleaned(1, claim.claim_id),
        events.AbandonedUploadAborted("1/2/an upload"),
        events.OrphanDeleted("1/2/an object"),
        events.ExportExpired(1),
        events.FileDeleted(1),
        events.ExportsForgotten(3),
        events.ExportClaimed(claim),
        events.ExportCompleted(claim, 10, 100, 0.5),
        events.AttemptFailed(claim, "storage_full", "a detail"),
        events.ExportFailed(1, claim.claim_id, "storage_full", None),
        events.ExportHandedBack(claim),
        events.AttemptCancelled(claim),
        events.ClaimLost(claim),
        webhook_events.WebhookDelivered("msg_1", 1, 2, "contact.export.completed", 1, 200, 0.1),
        webhook_events.WebhookFailed("msg_1", 1, 2, "contact.export.completed", 1, "503 Service Unavailable"),
        webhook_events.WebhookGivenUp("msg_1", 1, 2, "contact.export.completed", 10, "503 Service Unavailable"),
        webhook_events.WebhookEndpointDisabled("msg_1", 1, 2, "contact.export.completed", 1, "410 Gone"),
        webhook_events.WebhookClaimLost("msg_1", 1),
    ]


def is_event(value: object) -> bool:
    """Whether this is a class of events."""
    return isinstance(value, type) and issubclass(value, events.Event)


def test_every_event_is_logged_once_under_its_own_name_with_plain_values() -> None:
    claim = claim_on()
    emitted = every_event(claim)
    bases = {events.Event, events.AttemptEvent, webhook_events.WebhookEvent}
    assert {type(event) for event in emitted} == {
        each for each in (vars(events) | vars(webhook_events)).values() if is_event(each)
    } - bases
    for event in emitted:
        with structlog.testing.capture_logs() as logged:
            events.emit(event)
        (line,) = logged
        assert line["event"] == events.log_name(event)
        assert line["log_level"] == event.level
        assert not any(isinstance(value, Claim | UUID) for value in line.values())


def test_the_line_of_an_attempt_has_the_ids_of_its_claim() -> None:
    claim = claim_on()
    with structlog.testing.capture_logs() as logged:
        events.emit(events.ExportCompleted(claim, 10, 100, 0.5))
    assert logged == [
        {
            "event": "export_completed",
            "log_level": "info",
            "export_id": claim.export_id,
            "space_id": claim.space_id,
            "attempt": claim.attempt,
            "claim_id": str(claim.claim_id),
            "rows": 10,
            "bytes": 100,
            "seconds": 0.5,
        }
    ]


def test_a_listener_that_raises_is_logged_and_disturbs_no_other(heard: list[events.Event]) -> None:
    def broken(_: events.Event) -> None:
        raise RuntimeError("broken")

    unsubscribe = events.subscribe(broken)
    late: list[events.Event] = []
    unsubscribe_late = events.subscribe(late.append)
    try:
        with structlog.testing.capture_logs() as logged:
            events.emit(events.ExportExpired(1))
    finally:
        unsubscribe()
        unsubscribe_late()
    assert heard == late == [events.ExportExpired(1)]
    assert [line["event"] for line in logged] == ["export_expired", "listener_failed"]


def test_a_listener_that_unsubscribed_hears_nothing_more() -> None:
    found: list[events.Event] = []
    events.subscribe(found.append)()
    events.emit(events.ExportExpired(1))
    assert found == []
