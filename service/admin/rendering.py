"""Renders the pages from templates, and formats what they show."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from service.admin.sessions import Session
from service.web.bodies import render_time

SESSION = web.RequestKey("session", Session)
"""Set if the request may act."""
_KIB = 1024
_SHORTEST = 0.05
"""Seconds below this are shown as 0."""
_MINUTE = 60
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
    """A page. The template gets `values`, `path` and `session`, which is None if the page may only read."""
    session = request.get(SESSION)
    text = _environment().get_template(template).render(path=request.path, session=session, **values)
    return web.Response(status=status, text=text, content_type="text/html")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("service.admin"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(count=count, size=size, duration=duration, moment=moment)
    return environment


def count(number: float) -> str:
    """A whole number with separators: 1,234,567."""
    return f"{number:,.0f}"


def size(number: int) -> str:
    """Bytes in a unit that fits: 3.4 MiB."""
    value, units = float(number), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= _KIB and len(units) > 1:
        value /= _KIB
        units.pop(0)
    return f"{value:.0f} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def duration(value: timedelta | float) -> str:
    """A duration in its two largest units: 0.3 s, 45 s, 3 min 20 s, 2 h 5 min, 4 d 1 h."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if _SHORTEST <= seconds < 1:
        return f"{seconds:.1f} s"
    whole = max(0, int(seconds))
    for unit, name, smaller, its_name in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name} {rest} {its_name}" if rest else f"{whole // unit} {name}"
    return f"{whole} s"


def moment(value: datetime) -> Markup:
    """An instant as an element `time`, in UTC."""
    text = render_time(value)
    return Markup('<time datetime="{}">{}</time>').format(text, value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
