"""The header by which a consumer names a creation, so that it can be sent again without making a second export."""

import re
from collections.abc import Sequence

from service.errors import InvalidParameters

IDEMPOTENCY_KEY = "Idempotency-Key"

_LONGEST = 255
_BARE = re.compile(r"[!#-~](?:[ -~]*[!-~])?", re.ASCII)
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"', re.ASCII)
"""A string of RFC 9651; within it a quote and a backslash are escaped."""


def idempotency_key(values: Sequence[str]) -> str | None:
    """The key, whether it was sent quoted or bare; None where there is none. Raises InvalidParameters."""
    if not values:
        return None
    value = values[0].strip(" \t")
    if quoted := _QUOTED.fullmatch(value):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        key = value if _BARE.fullmatch(value) else ""
    if len(values) > 1 or not 1 <= len(key) <= _LONGEST:
        sentence = f"{IDEMPOTENCY_KEY} must be given once, as 1 to {_LONGEST} printable ASCII characters, quoted or bare."
        raise InvalidParameters({IDEMPOTENCY_KEY: [sentence]})
    return key
