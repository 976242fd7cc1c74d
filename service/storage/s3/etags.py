"""ETags of S3: the MD5 of a part's bytes, and for a multipart object the MD5 of its parts' MD5s."""

import re
from collections.abc import Mapping, Sequence
from hashlib import md5
from typing import Any

_MULTIPART = re.compile(r"[0-9a-f]{32}-\d+", re.ASCII)


def is_md5(response: Mapping[str, Any]) -> bool:
    """Return whether the ETag of this response is based on MD5. It is not with SSE-KMS and SSE-C encryption."""
    return response.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in response


def of_parts(md5s: Sequence[bytes]) -> str:
    """Return the ETag, without quotes, of an object whose parts have these MD5s."""
    return f"{md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"


def is_of_parts(etag: str) -> bool:
    """Return whether an ETag without quotes has the form of `of_parts`."""
    return _MULTIPART.fullmatch(etag) is not None
