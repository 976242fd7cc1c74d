"""Rows become lines of NDJSON: keys in the contract's order, one `orjson` call per batch.

The values of extras arrive as JSON text and are passed through unchanged.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, cast

import orjson

from service.model import Extras

Row = Sequence[Any]
Encoder = Callable[[Iterable[Row]], bytes]
"""Turns the rows of one batch into the bytes of their lines. Every line ends in a newline; no rows give no bytes."""

_KEYS = ("id", "email", "name", "phone", "location")


@cache
def encoder(extras: Extras, *, ignored: int = 0) -> Encoder:
    """The encoder of lines with these extras.

    Rows have five columns, one of JSON text for each extra, and at the end `ignored` columns that are in no line.
    """
    to_contacts = _contacts(extras, ignored)

    def encode(rows: Iterable[Row]) -> bytes:
        contacts = to_contacts(rows)
        if not contacts:
            return b""
        # One array, split into lines at its commas. Inside a JSON string every quote has a backslash before it; the quote
        # that ends a string is followed by a comma, a colon or a bracket. So these eight bytes occur only between contacts.
        return orjson.dumps(contacts)[1:-1].replace(b'},{"id":', b'}\n{"id":') + b"\n"

    return encode


def _contacts(extras: Extras, ignored: int) -> Callable[[Iterable[Row]], list[dict[str, Any]]]:
    """A function made of one literal comprehension, as if written by hand for these extras.

    Generated, because every general form was slower: `dict(zip(keys, row))` took 1.9 times as long for a line.
    """
    names = [f"value_{number}" for number in range(len(_KEYS) + len(extras))]
    values = [*names[: len(_KEYS)], *(f"Fragment({name})" for name in names[len(_KEYS) :])]
    pairs = ", ".join(f"{key!r}: {value}" for key, value in zip((*_KEYS, *map(str, extras)), values, strict=True))
    source = f"lambda rows: [{{{pairs}}} for {', '.join([*names, *['_'] * ignored])} in rows]"
    function = eval(source, {"Fragment": orjson.Fragment})  # noqa: S307 - made of constants of this package alone
    return cast("Callable[[Iterable[Row]], list[dict[str, Any]]]", function)
