"""The trace that a request belongs to: the header `traceparent` of W3C Trace Context, as a value.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from dataclasses import dataclass

_HEADER = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})(?P<span_id>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_KNOWN_FLAGS = 0b11
"""Sampled, and random trace id. The others have no meaning yet and are not passed on."""


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A trace, and the span in it that caused what follows. As text it is a `traceparent` of version 00."""

    trace_id: str
    span_id: str
    flags: int

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse(traceparent: str | None) -> TraceContext | None:
    """The context in a `traceparent`; None without one and for one that is malformed, which must be ignored."""
    found = _HEADER.fullmatch(traceparent or "")
    if found is None or (found["version"] == "00" and found["more"]):
        return None
    return TraceContext(found["trace_id"], found["span_id"], int(found["flags"], 16) & _KNOWN_FLAGS)
