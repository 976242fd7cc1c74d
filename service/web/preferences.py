"""The Prefer header (RFC 7240): of its preferences this service knows `wait`."""

import re
from collections.abc import Iterator, Sequence

PREFER = "Prefer"
PREFERENCE_APPLIED = "Preference-Applied"

_LONGEST_WAIT = 30
"""Seconds. Proxies and load balancers commonly end a request after 60 s without a response."""
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
"""An element of the list. A comma inside a quoted string does not end it."""
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PREFERENCE = re.compile(rf'[ \t]*({_WORD})[ \t]*(?:=[ \t]*(?:({_WORD}|"(?:[^"\\]|\\.)*")[ \t]*)?)?(?:;.*)?')
"""A preference: its name, its value if it has one, and parameters, of which this service knows none."""
_DIGITS = re.compile(r"0*([0-9]+)", re.ASCII)


def parse_wait(values: Sequence[str]) -> int | None:
    """The seconds of the preference `wait` in the values of the header: at most 30, None without a valid preference.

    If a preference occurs more than once, only the first counts (RFC 7240, section 2).
    """
    value = next((value for name, value in _preferences(values) if name == "wait"), "")
    if (digits := _DIGITS.fullmatch(value)) is None:
        return None
    return min(int(digits[1][:3]), _LONGEST_WAIT)


def render_applied(seconds: int) -> str:
    """The value of Preference-Applied for a wait of at most `seconds`."""
    return f"wait={seconds}"


def _preferences(values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name in lower case and value of each well-formed preference. A value in quotes equals the same value without them."""
    for element in _ELEMENT.findall(",".join(values)):
        if match := _PREFERENCE.fullmatch(element):
            value = match[2] or ""
            yield match[1].lower(), re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
