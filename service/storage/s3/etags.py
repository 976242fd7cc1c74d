"""What S3's ETags say about the bytes behind them: an MD5 for a part, an MD5 of MD5s for an object made of parts."""

import re
from collections.abc import Mapping, Sequence
from hashlib import md5
from typing import Any

_MULTIPART = re.compile(r"[0-9a-f]{32}-\d+", re.ASCII)


def is_md5(answer: Mapping[str, Any]) -> bool:
    """Whether the ETag of this answer is made of MD5s; it is not where a customer's or a KMS key encrypts."""
    return answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer


def of_parts(md5s: Sequence[bytes]) -> str:
    """The ETag, without quotes, of the object made of parts with these MD5s."""
    return f"{md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"


def is_of_parts(etag: str) -> bool:
    """Whether an ETag without quotes has the form that `of_parts` makes."""
    return _MULTIPART.fullmatch(etag) is not None
