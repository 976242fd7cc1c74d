"""What may be an object's name or a download's file name, and the headers that every file is served with."""

import re

CONTENT_TYPE = "application/gzip"
"""Alone, without a Content-Encoding: with one, clients would decompress silently and some would stop half way."""

_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)


def checked_object_name(object_name: str) -> str:
    """The name itself. Raises ValueError where a segment is empty, `.` or `..`, or a control character is in it."""
    segments = object_name.split("/")
    if any(segment in ("", ".", "..") for segment in segments) or not object_name.isprintable():
        raise ValueError("an object name needs segments that are neither empty nor dots, without control characters")
    return object_name


def content_disposition(filename: str) -> str:
    """The header that makes a browser save the file under that name. Raises ValueError for a name that needs quoting."""
    if not _FILENAME.fullmatch(filename):
        raise ValueError("a file name is made of letters, digits, dots, dashes and underscores")
    return f'attachment; filename="{filename}"'
