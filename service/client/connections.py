"""Errors of aiohttp to ours: one sentence that names the host and the reason."""

import os
import ssl
import urllib.request

import aiohttp
from yarl import URL

from service.client.errors import ClientError, NotTheService, Unreachable


class NeverConnected(Unreachable):
    """No connection could be opened. Trying again helps only if the service was reached before."""


class Unusable(Unreachable):
    """TLS or the proxy refuses the connection. Trying again does not help."""


def explain(error: aiohttp.ClientError, url: URL) -> ClientError:
    """The error of this package for an error of aiohttp, whose own text may contain a signed link."""
    host = f"{url.host}:{url.port}"
    kind: type[ClientError]
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or type(error.certificate_error).__name__
            advice = "if its authority is a private one, set SSL_CERT_FILE to the authority's certificate"
            kind, text = Unusable, f"The TLS certificate of {host} is not trusted ({reason}); {advice}."
        case aiohttp.ClientConnectorSSLError():
            kind, text = Unusable, f"TLS with {host} failed ({_reason(error)}); check that the port expects https."
        case aiohttp.ClientProxyConnectionError():
            kind, text = NeverConnected, f"The proxy for {host} cannot be reached ({_reason(error)}); check HTTPS_PROXY."
        case aiohttp.ClientHttpProxyError():
            kind, text = Unusable, f"The proxy refuses to connect to {host} with status {error.status}."
        case aiohttp.ClientConnectorDNSError():
            kind, text = NeverConnected, f"The host name {url.host} cannot be resolved ({_reason(error)})."
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            kind, text = NeverConnected, f"{host} cannot be reached ({_reason(error)})."
        case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
            kind, text = NotTheService, f"{host} does not speak HTTP as expected ({type(error).__name__}); check the URL."
        case _:
            kind, text = Unreachable, f"The connection to {host} broke ({_reason(error)})."
    return kind(text)


def proxy_for(url: URL) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name for this address, as for curl.

    aiohttp's own `trust_env` is not used: it would also send credentials of ~/.netrc to the store.
    """
    proxies = urllib.request.getproxies()
    if not url.host or urllib.request.proxy_bypass(f"{url.host}:{url.port}"):
        return None
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _reason(error: aiohttp.ClientError) -> str:
    match error:
        case aiohttp.ClientConnectorError():
            reason = _os_reason(error.os_error)
        case aiohttp.ConnectionTimeoutError():
            reason = "no connection in time"
        case aiohttp.ServerTimeoutError():
            reason = "no byte in time"
        case aiohttp.ServerDisconnectedError():
            reason = "closed without a response"
        case aiohttp.ClientPayloadError():
            reason = "the response ended early"
        case OSError():
            reason = _os_reason(error)
        case _:
            reason = type(error).__name__
    return reason


def _os_reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "the handshake failed"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or type(error).__name__
