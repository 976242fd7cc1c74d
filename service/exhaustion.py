"""Tells our own lack of resources from the errors of what we depend on."""

import errno
from collections.abc import Iterator

_OWN_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""No descriptors in the process, none on the machine, no memory, no buffers for sockets."""


def lacks_resources(error: BaseException) -> bool:
    """Whether the error, or one that caused it, says that this process or machine had no descriptors or memory left."""
    return any(isinstance(each, OSError) and each.errno in _OWN_RESOURCES for each in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
