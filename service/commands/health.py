"""The command health. Container engines run it every few seconds, so it imports nothing of the server."""

import http.client
import os
import sys
from ipaddress import ip_address

import click

from service.commands.output import print_note
from service.listen_address import DEFAULT_HOST, DEFAULT_PORT

_SECONDS = 4.0
_OK = 200
_HIGHEST_PORT = 65535


@click.command()
def health() -> None:
    """Check whether the service on this machine is alive. Exits with 0 if it is, else 1."""
    host = os.environ.get("HOST") or DEFAULT_HOST
    host = _reachable(host)
    port = os.environ.get("PORT") or str(DEFAULT_PORT)
    if not port.isdecimal() or int(port) > _HIGHEST_PORT:
        print_note(f"PORT must be a whole number from 0 to {_HIGHEST_PORT}")
        sys.exit(2)
    connection = http.client.HTTPConnection(host, int(port), timeout=_SECONDS)
    try:
        connection.request("GET", "/healthz")
        alive = connection.getresponse().status == _OK
    except (OSError, http.client.HTTPException, UnicodeError):
        alive = False
    finally:
        connection.close()
    if not alive:
        print_note(f"no healthy service at {f'[{host}]' if ':' in host else host}:{port}")
        sys.exit(1)


def _reachable(host: str) -> str:
    """The address at which a server that listens on `host` is reached from this machine."""
    try:
        listens_on = ip_address(host)
    except ValueError:
        return host
    if not listens_on.is_unspecified:
        return host
    return "127.0.0.1" if listens_on.version == 4 else "::1"  # noqa: PLR2004 - the version of the protocol
