"""The headers that every exported file is served with."""

import re

CONTENT_TYPE = "application/gzip"
"""Sent without a Content-Encoding. With one, clients would decompress silently, and some stop after part of the file."""

_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def content_disposition(filename: str) -> str:
    """Return the header that makes a browser save the file as `filename`. Raises ValueError if the name needs quoting."""
    if not _FILENAME.fullmatch(filename):
        raise ValueError("a file name consists of letters, digits, dots, dashes and underscores")
    return f'attachment; filename="{filename}"'
