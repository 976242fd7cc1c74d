"""Rows become lines of NDJSON: keys in the contract's order, one `orjson` call per batch.

The arrays of tokens and addresses arrive as JSON text and are passed through as they are.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
from orjson import Fragment

Row = Sequence[Any]
Encoder = Callable[[Iterable[Row]], bytes]
"""Rows of one batch to the bytes of their lines; every line ends in a newline, no row gives no byte."""


def encoder(*, comet_tokens: bool, emails: bool) -> Encoder:
    """The encoder for one combination of options. Rows hold five columns, and two more when there is any option."""
    if comet_tokens and emails:
        return _with_both
    if comet_tokens:
        return _with_tokens
    return _with_emails if emails else _plain


# Literal dictionaries: `dict(record)` takes three times as long.


def _plain(rows: Iterable[Row]) -> bytes:
    return _lines(
        [
            {"id": id_, "email": email, "name": name, "phone": phone, "location": location}
            for id_, email, name, phone, location in rows
        ]
    )


def _with_tokens(rows: Iterable[Row]) -> bytes:
    return _lines(
        [
            {
                "id": id_,
                "email": email,
                "name": name,
                "phone": phone,
                "location": location,
                "comet_tokens": Fragment(tokens),
            }
            for id_, email, name, phone, location, tokens, _ in rows
        ]
    )


def _with_emails(rows: Iterable[Row]) -> bytes:
    return _lines(
        [
            {
                "id": id_,
                "email": email,
                "name": name,
                "phone": phone,
                "location": location,
                "emails": Fragment(emails),
            }
            for id_, email, name, phone, location, _, emails in rows
        ]
    )


def _with_both(rows: Iterable[Row]) -> bytes:
    return _lines(
        [
            {
                "id": id_,
                "email": email,
                "name": name,
                "phone": phone,
                "location": location,
                "comet_tokens": Fragment(tokens),
                "emails": Fragment(emails),
            }
            for id_, email, name, phone, location, tokens, emails in rows
        ]
    )


def _lines(contacts: list[dict[str, Any]]) -> bytes:
    if not contacts:
        return b""
    # One array, cut into lines at its commas. Inside a JSON string every quote has a backslash before it, and the quote that
    # ends one is followed by a comma, a colon or a bracket: these eight bytes stand nowhere but between two contacts.
    return orjson.dumps(contacts)[1:-1].replace(b'},{"id":', b'}\n{"id":') + b"\n"
