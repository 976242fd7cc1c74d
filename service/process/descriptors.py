"""Divides the process's file descriptors between clients and everything else."""

import resource

import structlog

from service.web.server import ACCEPTED_MEANWHILE

_USEFUL_LIMIT = 65_536
"""More descriptors than this are not asked for: no setting uses them."""
_RESERVE = 48
"""Descriptors kept for the databases, listening sockets, the log and libraries."""
_RESERVE_PER_EXPORT = 8
"""Descriptors kept for a running export: its snapshot, its calls to the store, its files."""
_FEWEST = 128
"""Connections that are accepted at least, however low the limit is."""

log = structlog.get_logger()


def connections_allowed(wanted: int, *, export_slots: int, admin_connections: int) -> int:
    """How many connections fit below the limit of descriptors, at most `wanted`. Raises the soft limit if that helps.

    `admin_connections` is how many the operator's port takes at most, 0 without that port.
    """
    limit = _raised_limit()
    if limit is None:
        return wanted
    admin = admin_connections + ACCEPTED_MEANWHILE if admin_connections else 0
    reserved = ACCEPTED_MEANWHILE + _RESERVE + _RESERVE_PER_EXPORT * export_slots + admin
    allowed = max(_FEWEST, min(wanted, limit - reserved))
    if allowed < wanted:
        log.warning("fewer_connections", wanted=wanted, allowed=allowed, descriptors=limit)
    return allowed


def _raised_limit() -> int | None:
    """The soft limit of descriptors, raised as far as it helps; None if there is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    useful = _USEFUL_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _USEFUL_LIMIT)
    if soft < useful:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (useful, hard))
        except (OSError, ValueError):  # some systems allow less than their hard limit says
            return soft
        return useful
    return soft
