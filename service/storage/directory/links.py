"""Signed, expiring addresses for files that this service serves itself."""

import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

from service.errors import LinkExpired, LinkForged
from service.storage import Link

FILES_PATH = "/files/"
"""The path between the origin and the object name."""


class FileLinkSigner:
    """Creates and verifies file links. Replicas with the same secret accept each other's links.

    `secret` is awaited at each use, and an error it raises passes through.
    """

    def __init__(self, secret: Callable[[], Awaitable[bytes]], lifetime: timedelta) -> None:
        self._secret = secret
        self._lifetime = lifetime

    async def link(self, object_name: str, filename: str, origin: str) -> Link:
        """Create an address. The HTTP method is not signed, so one link serves GET and HEAD."""
        expires = int(time.time() + self._lifetime.total_seconds())
        query = {
            "expires": str(expires),
            "signature": await self._signature(object_name, str(expires), filename),
            "filename": filename,  # last, because readers guess the compression by how an address ends
        }
        url = f"{origin}{FILES_PATH}{quote(object_name)}?{urlencode(query, quote_via=quote)}"
        return Link(url, datetime.fromtimestamp(expires, UTC))

    async def verified_filename(self, object_name: str, query: Mapping[str, str]) -> str:
        """Return the file name of a valid address (decoded name and query). Raises LinkForged or LinkExpired."""
        if sorted(query) != ["expires", "filename", "signature"]:
            raise LinkForged
        expires, filename = query["expires"], query["filename"]
        expected = await self._signature(object_name, expires, filename)
        # Compared as bytes because compare_digest refuses non-ASCII text. After this check `expires` is a plain number:
        # only this class creates valid signatures.
        if not hmac.compare_digest(expected.encode(), query["signature"].encode(errors="replace")):
            raise LinkForged
        if time.time() >= int(expires):
            raise LinkExpired
        return filename

    async def _signature(self, *fields: str) -> str:
        """Sign the percent-encoded fields. None can contain the separator, so different fields never sign alike."""
        message = "\n".join(("file-link", *(quote(field, safe="", errors="surrogatepass") for field in fields)))
        return hmac.digest(await self._secret(), message.encode(), "sha256").hex()
