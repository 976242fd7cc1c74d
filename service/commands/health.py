"""The command health. Container engines run it every few seconds, so it imports nothing of the server."""

import http.client
import os
import sys

import click

from service.listen_address import DEFAULT_HOST, DEFAULT_PORT

_SECONDS = 4.0
_OK = 200
_HIGHEST_PORT = 65535


@click.command()
def health() -> None:
    """Check whether the service on this machine is alive. Exits with 0 if it is, else 1."""
    host = os.environ.get("HOST") or DEFAULT_HOST
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    port = os.environ.get("PORT") or str(DEFAULT_PORT)
    if not port.isdecimal() or int(port) > _HIGHEST_PORT:
        click.echo(f"PORT must be a whole number from 0 to {_HIGHEST_PORT}", err=True)
        sys.exit(2)
    connection = http.client.HTTPConnection(host, int(port), timeout=_SECONDS)
    try:
        connection.request("GET", "/healthz")
        alive = connection.getresponse().status == _OK
    except (OSError, http.client.HTTPException):
        alive = False
    finally:
        connection.close()
    if not alive:
        click.echo(f"no healthy service at {host}:{port}", err=True)
        sys.exit(1)
