"""What happens to webhooks: one dataclass per transition, emitted as those of exports are."""

from dataclasses import dataclass
from typing import ClassVar

from service.events import Event, Level


@dataclass(frozen=True)
class WebhookEvent(Event):
    """An attempt at a webhook. `event_type` is the event that the webhook tells; `attempt` counts from 1."""

    webhook_id: str
    export_id: int
    space_id: int
    event_type: str
    attempt: int


@dataclass(frozen=True)
class WebhookDelivered(WebhookEvent):
    """The endpoint accepted the webhook with this HTTP status after `seconds`."""

    status: int
    seconds: float


@dataclass(frozen=True)
class WebhookFailed(WebhookEvent):
    """The attempt failed; the webhook is sent again later."""

    level: ClassVar[Level] = "warning"

    reason: str


@dataclass(frozen=True)
class WebhookGivenUp(WebhookFailed):
    """The last attempt failed; the webhook is not sent again."""


@dataclass(frozen=True)
class WebhookEndpointDisabled(WebhookFailed):
    """The attempt failed and the endpoint is disabled: it is gone or failed for days."""


@dataclass(frozen=True)
class WebhookClaimLost(Event):
    """This process was too slow: another one may send the webhook, and this one's result does not count."""

    level: ClassVar[Level] = "warning"

    webhook_id: str
    export_id: int
