"""Signatures as Standard Webhooks define them (https://www.standardwebhooks.com)."""

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime

_PREFIX = "whsec_"


def secret_text(secret: bytes) -> str:
    """A secret as consumers configure it: `whsec_` and base64."""
    return _PREFIX + base64.b64encode(secret).decode()


def signed_headers(webhook_id: str, at: datetime, body: bytes, secrets: Iterable[bytes]) -> Mapping[str, str]:
    """The headers of a request: its id, its time in whole seconds, and one signature for each secret."""
    timestamp = str(int(at.timestamp()))
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in secrets)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
