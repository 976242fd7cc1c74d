"""The section `webhooks` of the OpenAPI document: the messages that the service sends to endpoints."""

from typing import Annotated, Any, Literal

from openapi_pydantic import Operation, Parameter, PathItem, RequestBody, Response
from pydantic import WithJsonSchema
from typing_extensions import TypedDict

from service.web.declarations import JSON
from service.web.export_bodies import Timestamp
from service.web.openapi_responses import media
from service.web.openapi_schemas import Schemas
from service.webhooks.event_types import EVENT_TYPES

EventType = Annotated[str, WithJsonSchema({"enum": list(EVENT_TYPES)})]


class WebhookData(TypedDict):
    """The export. It has no link: ask for the status to get one. Keys that do not apply are null."""

    export_id: int
    status: Literal["completed", "failed", "cancelled", "expired"]
    row_count: int | None
    file_size: int | None
    sha256: str | None
    completed_at: Timestamp | None
    error_code: str | None


class WebhookBody(TypedDict):
    """A message about an export. `timestamp` is when the event happened. Further keys and types may be added."""

    type: EventType
    timestamp: Timestamp
    data: WebhookData


EXAMPLE: dict[str, Any] = {
    "type": EVENT_TYPES[0],
    "timestamp": "2024-01-16T09:30:15Z",
    "data": {
        "export_id": 123,
        "status": "completed",
        "row_count": 48210,
        "file_size": 3145728,
        "sha256": "ab" * 32,
        "completed_at": "2024-01-16T09:30:15Z",
        "error_code": None,
    },
}
_HEADERS = {
    "webhook-id": "Id of the message: the same at every attempt. Drop a message whose id was handled before.",
    "webhook-timestamp": "Time of this attempt in seconds since 1970-01-01. Refuse messages older than five minutes.",
    "webhook-signature": "`v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`; several are separated by spaces.",
}
_RESPONSES = {
    "2XX": "The message is delivered. The body is ignored.",
    "410": "The endpoint is gone: it is disabled and gets no more messages.",
    "429": "Sent again after `Retry-After`, at the earliest.",
    "503": "Sent again after `Retry-After`, at the earliest.",
    "default": "Sent again later, up to ten times within about three days. Redirects are not followed.",
}


def webhooks(schemas: Schemas) -> dict[str, PathItem]:
    """One item for each event. The schemas must contain that of `WebhookBody`."""
    return {event_type: PathItem(post=_operation(event_type, schemas)) for event_type in EVENT_TYPES}


def _operation(event_type: str, schemas: Schemas) -> Operation:
    status = event_type.rpartition(".")[2]
    return Operation(
        tags=["webhooks"],
        summary=f"An export is {status}",
        description="Sent to the endpoint that the operator has set for the Space, signed as Standard Webhooks define it.",
        parameters=[
            Parameter.model_validate(
                {"name": name, "in": "header", "description": text, "required": True, "schema": {"type": "string"}}
            )
            for name, text in _HEADERS.items()
        ],
        requestBody=RequestBody(
            required=True,
            content={JSON: media(schemas.of(WebhookBody), {"A message": EXAMPLE} if event_type == EXAMPLE["type"] else {})},
        ),
        responses={status: Response(description=text) for status, text in _RESPONSES.items()},
        security=[],
    )
