"""The address under which clients reach this service, for links in responses."""

import re

from aiohttp import web

from service.web.problems import MalformedHost

PUBLIC_URL = web.AppKey("public_url", str)
"""PUBLIC_URL, without a trailing slash. Absent from the application if it is not set."""

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?", re.ASCII)


def origin_of(request: web.Request) -> str:
    """PUBLIC_URL, else scheme and Host header of the request: `https://exports.example`. Raises MalformedHost."""
    if (public_url := request.app.get(PUBLIC_URL)) is not None:
        return public_url
    if not _HOST.fullmatch(request.host):
        raise MalformedHost
    return f"{request.scheme}://{request.host}"
