"""Signatures, verified by the package that consumers use."""

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.webhooks.signing import secret_text, signed_headers

SECRET, OTHER = bytes(range(32)), bytes(range(100, 132))
BODY = '{"type":"contact.export.completed","name":"Zo\u00eb"}'.encode()


@pytest.mark.parametrize("secrets", [(SECRET,), (SECRET, OTHER), (OTHER, SECRET)])
def test_a_consumer_with_one_of_the_secrets_verifies_the_message(secrets: tuple[bytes, ...]) -> None:
    headers = signed_headers("msg_1", datetime.now(UTC), BODY, secrets)
    assert Webhook(secret_text(SECRET)).verify(BODY, dict(headers))["type"] == "contact.export.completed"


@pytest.mark.parametrize("change", ["webhook-id", "webhook-timestamp", "body", "secret"])
def test_any_change_is_noticed(change: str) -> None:
    headers = dict(signed_headers("msg_1", datetime.now(UTC), BODY, [SECRET]))
    if change in headers:
        headers[change] = {"webhook-id": "msg_2", "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}[change]
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(OTHER if change == "secret" else SECRET)).verify(
            BODY + b" " if change == "body" else BODY, headers
        )


def test_an_old_message_is_refused_by_consumers() -> None:
    headers = signed_headers("msg_1", datetime.now(UTC) - timedelta(minutes=6), BODY, [SECRET])
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_text(SECRET)).verify(BODY, dict(headers))
