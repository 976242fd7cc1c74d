"""Divides the process's file descriptors between clients and everything else."""

import resource

import structlog

from service.web.server import ACCEPT_BURST

_USEFUL_LIMIT = 65_536
"""More descriptors than this are not asked for: no setting uses them."""
_RESERVE = 64
"""Descriptors kept for the database, the listening socket, the log, libraries and operators' calls."""
_RESERVE_PER_EXPORT = 8
"""Descriptors kept for a running export: its snapshot, its calls to the store, its files."""
_FEWEST = 2 * ACCEPT_BURST
"""Connections that are accepted at least, however low the limit is."""

log = structlog.get_logger()


def connections_allowed(wanted: int, *, export_slots: int) -> int:
    """How many connections fit below the limit of descriptors, at most `wanted`. Raises the soft limit if that helps."""
    limit = _raised_limit()
    if limit is None:
        return wanted
    allowed = max(_FEWEST, min(wanted, limit - ACCEPT_BURST - _RESERVE - _RESERVE_PER_EXPORT * export_slots))
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
