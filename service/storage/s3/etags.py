"""ETags of S3: usually the MD5 of a part's bytes, and for a multipart object the MD5 of its parts' MD5s.

S3 promises neither. Some stores write them in capitals, and others use no MD5. So an ETag is compared only if it looks like
one, and an upload whose ETags differ again after a part was sent twice stops comparing them. The bytes are also protected
by Content-MD5 or CRC32, which every store must check.
"""

import re
from collections.abc import Mapping, Sequence
from hashlib import md5
from typing import Any

_PART = re.compile(r"[0-9a-f]{32}", re.ASCII)
_MULTIPART = re.compile(r"[0-9a-f]{32}-\d+", re.ASCII)


def of_part(response: Mapping[str, Any]) -> str | None:
    """Return the MD5 (lower-case hex) that the ETag of a part seems to be, or None."""
    return _matching(_PART, response)


def of_object(response: Mapping[str, Any]) -> str | None:
    """Return the ETag of an object in the form of `of_parts`, or None if it has another form."""
    return _matching(_MULTIPART, response)


def of_parts(md5s: Sequence[bytes]) -> str:
    """Return the ETag, without quotes, of an object whose parts have these MD5s."""
    return f"{md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"


def _matching(form: re.Pattern[str], response: Mapping[str, Any]) -> str | None:
    # With SSE-KMS and SSE-C encryption an ETag has the form of an MD5, but is none.
    if response.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in response:
        return None
    etag = str(response.get("ETag", "")).strip('"').lower()
    return etag if form.fullmatch(etag) else None
