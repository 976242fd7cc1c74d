"""The address under which clients reach this service, for links in responses."""

import re
from urllib.parse import urlsplit

import structlog
from aiohttp import hdrs, web

from service.web.problems import MalformedHost

log = structlog.get_logger()
PUBLIC_URL = web.AppKey("public_url", str)
"""PUBLIC_URL, without a trailing slash. Absent from the application if it is not set."""

_HOST = re.compile(r"[A-Za-z0-9._-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?", re.ASCII)


class MissingPublicUrl:
    """Warns once if a proxy with TLS is in front of the service and PUBLIC_URL is not set: links begin with http://."""

    def __init__(self) -> None:
        self._warned = False

    async def notice(self, request: web.Request, _: web.StreamResponse) -> None:
        """Look at the headers that proxies add. A signal of the application, called before each response."""
        if not self._warned and PUBLIC_URL not in request.app and _came_by_tls(request):
            self._warned = True
            log.warning("public_url_missing", detail="A proxy with TLS is in front, so links need PUBLIC_URL=https://…")


def _came_by_tls(request: web.Request) -> bool:
    first = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return first == "https" or any(hop.get("proto", "").lower() == "https" for hop in request.forwarded[:1])


def origin_of(request: web.Request) -> str:
    """PUBLIC_URL, else scheme and Host of the request with its port: `https://exports.example`. Raises MalformedHost."""
    if (public_url := request.app.get(PUBLIC_URL)) is not None:
        return public_url
    host = _host(request)
    if not _HOST.fullmatch(host):
        raise MalformedHost
    return f"{request.scheme}://{host}"


def path_of(request: web.Request, path: str) -> str:
    """`path` as clients reach it: with the path of PUBLIC_URL in front."""
    return urlsplit(request.app.get(PUBLIC_URL, "")).path + path


def _host(request: web.Request) -> str:
    """The host that the request names, with its port: aiohttp drops the port of a request for a whole URL."""
    if request._message.url.absolute and request._message.url.raw_authority:  # noqa: SLF001 - no public access to the target
        return request._message.url.raw_authority  # noqa: SLF001 - aiohttp parses an absolute address without its port
    if hdrs.HOST in request.headers or request.transport is None:
        return request.host
    # HTTP/1.0 without a Host header: the client knows the address to which it connected.
    host, port = request.transport.get_extra_info("sockname")[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
