"""Signed, expiring addresses for files that the service itself serves (contract: "Local links")."""

import hmac
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from urllib.parse import quote, urlencode

from service.errors import LinkExpired, LinkForged, Starting
from service.storage import Link

FILES_PATH = "/files/"
"""What stands between the origin and the object's name."""


class LinkSigner:
    """Makes and checks addresses. Replicas that share `secret` accept each other's; without one it raises Starting."""

    def __init__(self, secret: bytes | None, lifetime: timedelta) -> None:
        self.secret = secret
        self._lifetime = lifetime

    def link(self, object_name: str, filename: str, origin: str) -> Link:
        """A fresh address; it holds for every method, so that one link serves GET and HEAD."""
        expires = int(time.time() + self._lifetime.total_seconds())
        query = {
            "expires": str(expires),
            "filename": filename,
            "signature": self._signature(object_name, str(expires), filename),
        }
        url = f"{origin}{FILES_PATH}{quote(object_name)}?{urlencode(query, quote_via=quote)}"
        return Link(url, datetime.fromtimestamp(expires, UTC))

    def verified_filename(self, object_name: str, query: Mapping[str, str]) -> str:
        """The file name of a valid address, given its decoded name and query. Raises LinkForged or LinkExpired."""
        if len(query) != 3 or not query.keys() >= {"expires", "filename", "signature"}:
            raise LinkForged
        expires, filename = query["expires"], query["filename"]
        expected = self._signature(object_name, expires, filename)
        # Compared as bytes: compare_digest refuses text beyond ASCII. Only a string this class made can pass, so that
        # `expires` is a plain number from here on.
        if not hmac.compare_digest(expected.encode(), query["signature"].encode(errors="replace")):
            raise LinkForged
        if time.time() >= int(expires):
            raise LinkExpired
        return filename

    def _signature(self, *fields: str) -> str:
        """Over the percent-encoded fields: none of them can hold the separator, so no two lists read alike."""
        if self.secret is None:
            raise Starting
        message = "\n".join(("file-link", *(quote(field, safe="", errors="surrogatepass") for field in fields)))
        return hmac.new(self.secret, message.encode(), sha256).hexdigest()
