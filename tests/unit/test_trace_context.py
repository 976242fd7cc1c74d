"""The header traceparent: W3C Trace Context, section 3.2."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.trace_context import TraceContext, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (VALID, 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-03", 3),
        (f"00-{TRACE}-{SPAN}-ff", 3),  # flags without a meaning are not passed on
        (f"01-{TRACE}-{SPAN}-01", 1),  # a later version is read like version 00
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", 1),
    ],
)
def test_a_well_formed_header_is_read_and_passed_on_as_version_00(header: str, flags: int) -> None:
    context = parse(header)
    assert context == TraceContext(TRACE, SPAN, flags)
    assert str(context) == f"00-{TRACE}-{SPAN}-{flags:02x}"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        VALID.upper(),
        VALID + "-more",  # version 00 has four fields
        VALID + "\n",
        " " + VALID,
        f"cc-{TRACE}-{SPAN}-01.what-the-future-will-not-be-like",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}1-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-1]}٤-{SPAN}-01",  # a digit, but not of ASCII
        "x" * 8000,
    ],
)
def test_a_malformed_header_is_ignored(header: str | None) -> None:
    assert parse(header) is None


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", fullmatch=True))
def test_whatever_is_read_can_be_stored(header: str) -> None:
    context = parse(header)
    if context is not None:
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", str(context))
        assert parse(str(context)) == context
