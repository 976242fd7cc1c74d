"""The service with short deadlines for clients, so that a minute shows what takes a quarter of an hour otherwise."""

from service.__main__ import main
from service.web import limits

DIVISOR = 15
REOPEN_SECONDS = 8.0
"""Longer than every deadline of a connection but that of the whole response."""


def shorten() -> None:
    """Shorten every deadline for clients. The sizes stay."""
    limits.IDLE_SECONDS /= DIVISOR
    limits.HEAD_SECONDS /= DIVISOR
    limits.BODY_SECONDS /= DIVISOR
    limits.LINGER_SECONDS /= DIVISOR
    limits.STALL_SECONDS /= DIVISOR
    limits.RESPONSE_SECONDS /= 10 * DIVISOR


if __name__ == "__main__":
    shorten()
    main()
