"""The Idempotency-Key header: a client names a request with it, so that sending the request again repeats nothing."""

import re
from collections.abc import Sequence

from service.errors import InvalidParameters

IDEMPOTENCY_KEY = "Idempotency-Key"

_MAXIMUM_LENGTH = 255
_BARE = re.compile(r"[!#-~](?:[ -~]*[!-~])?", re.ASCII)
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"', re.ASCII)
"""A string of RFC 9651: quotes and backslashes inside are escaped by a backslash."""


def parse_idempotency_key(values: Sequence[str]) -> str | None:
    """The key in the values of the header, sent quoted or bare; None without the header. Raises InvalidParameters."""
    if not values:
        return None
    value = values[0].strip(" \t")
    if quoted := _QUOTED.fullmatch(value):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        key = value if _BARE.fullmatch(value) else ""
    if len(values) > 1 or not 1 <= len(key) <= _MAXIMUM_LENGTH:
        message = (
            f"{IDEMPOTENCY_KEY} must be sent once, with 1 to {_MAXIMUM_LENGTH} printable ASCII characters, quoted or bare."
        )
        raise InvalidParameters({IDEMPOTENCY_KEY: [message]})
    return key
