"""Sessions of the operator's page: signed cookies, and tokens against forged forms.

Nothing is stored, so a session works with every process that has the same ADMIN_TOKEN, and ends for all when that changes.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta

COOKIE = "contact_exports_admin"
LIFETIME = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Session:
    """A login. `csrf` must be in every form that it posts."""

    csrf: str


class Sessions:
    """Makes and checks sessions that are signed with a key derived from the token."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._key = hmac.digest(self._token, b"contact-exports admin", hashlib.sha256)

    def token_matches(self, token: str) -> bool:
        """Whether this is the token, compared in constant time."""
        return hmac.compare_digest(token.encode(errors="replace"), self._token)

    def begin(self) -> str:
        """The value of the cookie of a new session."""
        payload = f"{int(time.time() + LIFETIME.total_seconds())}.{secrets.token_urlsafe(16)}"
        return f"{payload}.{self._sign('session', payload)}"

    def find(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None if the cookie is missing, changed or expired."""
        payload, _, signature = (cookie or "").rpartition(".")
        if not hmac.compare_digest(signature.encode(errors="replace"), self._sign("session", payload).encode()):
            return None
        if int(payload.partition(".")[0]) < time.time():
            return None
        return Session(self._sign("form", payload))

    def _sign(self, purpose: str, payload: str) -> str:
        return hmac.new(self._key, f"{purpose}.{payload}".encode(errors="replace"), hashlib.sha256).hexdigest()
