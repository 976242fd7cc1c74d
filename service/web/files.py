"""The handler that serves the files of a directory store to the holders of a signed link."""

import errno
import re
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from service.storage.directory import LocalFile
from service.storage.directory.links import FILES_PATH
from service.storage.headers import CONTENT_TYPE, content_disposition

FILE_PATH = f"{FILES_PATH}{{object_name:.+}}"

OpenLink = Callable[[str, Mapping[str, str]], Awaitable[LocalFile]]
"""`DirectoryStore.open_link`: checks a link, given the object's name and the link's query, and finds its file."""

OPEN_LINK: web.AppKey[OpenLink] = web.AppKey("open_link")
"""Absent from the application if files are not in a directory."""

_UNREACHABLE = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
_ONE_RANGE = re.compile(r"bytes=(?:\d+-\d*|-\d+)", re.ASCII | re.IGNORECASE)


class SentFile(web.FileResponse):
    """A file that is sent by the kernel."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the file, or one range of it. Raises ConnectionResetError if the client is gone."""
        try:
            return await super().prepare(_without_other_ranges(request))
        except (OSError, RuntimeError) as error:
            if not _client_is_gone(error, request):
                raise
            # The traceback and the future of the error refer to each other: they would keep the connection in memory.
            error.__traceback__ = None
        raise ConnectionResetError("the client is gone")


def _without_other_ranges(request: web.BaseRequest) -> web.BaseRequest:
    """The request, without a header Range that is not one range of bytes: aiohttp would answer 416.

    RFC 9110 allows a server to ignore several ranges, and asks it to ignore unknown units.
    """
    given = request.headers.get(hdrs.RANGE)
    if given is None or _ONE_RANGE.fullmatch(given):
        return request
    headers = CIMultiDict(request.headers)
    headers.popall(hdrs.RANGE, None)
    return request.clone(headers=headers)


def _client_is_gone(error: OSError | RuntimeError, request: web.BaseRequest) -> bool:
    """Whether the event loop raised this because the connection is closed, or the kernel because the client is away."""
    if isinstance(error, ConnectionError) or getattr(error, "errno", None) in _UNREACHABLE:
        return True
    return request.transport is None or request.transport.is_closing()


async def download_file(request: web.Request) -> web.StreamResponse:
    """GET and HEAD /files/{object_name}, also for ranges"""
    open_link = request.app[OPEN_LINK]
    file = await open_link(request.match_info["object_name"], request.query)
    headers = {"Content-Type": CONTENT_TYPE, "Content-Disposition": content_disposition(file.filename)}
    return SentFile(file.path, headers=headers)
