"""Cross-origin requests of browsers (the CORS protocol of the Fetch standard), for a fixed list of origins.

The known library for aiohttp configures each route by hand, and answers by route objects. Here everything follows from the
table of routes, and two functions are enough.
"""

from collections.abc import Collection, Iterable, Mapping

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from service.web.declarations import RATE_LIMIT_HEADERS, RESPONSE_HEADERS, Route

_PREFLIGHT_SECONDS = 600
"""How long a browser may reuse the response to a preflight, in seconds."""


class Cors:
    """Lets pages of `origins` call the API with a key. Cookies are not used, so credentials are never allowed.

    `origins` are compared byte for byte with the Origin header: `https://app.example`.
    """

    def __init__(self, origins: Collection[str], routes: Iterable[Route]) -> None:
        self._origins = frozenset(origins)
        sent, received = _header_names(routes)
        self._preflight: Mapping[str, str] = {
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: ", ".join(sent),
            hdrs.ACCESS_CONTROL_MAX_AGE: str(_PREFLIGHT_SECONDS),
        }
        self._exposed = ", ".join(received)

    @property
    def preflight(self) -> Middleware:
        """Middleware that answers the preflight of a known route and method, without authentication."""

        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            wanted = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)
            if request.method != hdrs.METH_OPTIONS or wanted is None or not self._allows(request):
                return await handler(request)
            refusal = request.match_info.http_exception
            if not isinstance(refusal, web.HTTPMethodNotAllowed) or wanted not in refusal.allowed_methods:
                return await handler(request)
            methods = ", ".join(sorted(refusal.allowed_methods))
            headers = {hdrs.ACCESS_CONTROL_ALLOW_METHODS: methods, **self._preflight}
            return web.Response(status=204, headers=headers)

        return answer

    async def finish_response(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers that let a page read the response."""
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if self._allows(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = self._exposed

    def _allows(self, request: web.Request) -> bool:
        return request.headers.get(hdrs.ORIGIN) in self._origins


def _header_names(routes: Iterable[Route]) -> tuple[list[str], list[str]]:
    """Names of the headers that clients send and of those that they may read, as the table of routes declares them."""
    sent = {hdrs.AUTHORIZATION, hdrs.CONTENT_TYPE, *RESPONSE_HEADERS} - {hdrs.CACHE_CONTROL}
    received = {*RESPONSE_HEADERS, *RATE_LIMIT_HEADERS}
    for route in routes:
        sent |= {parameter.name for parameter in route.parameters if parameter.location == "header"}
        received |= {name for response in route.responses.values() for name in response.headers}
    return sorted(sent), sorted(received)
