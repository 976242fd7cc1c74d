"""The handler that serves the files of a directory store to the holders of a signed link."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from service.storage.directory import LocalFile
from service.storage.directory.links import FILES_PATH
from service.storage.headers import CONTENT_TYPE, content_disposition

FILE_PATH = f"{FILES_PATH}{{object_name:.+}}"

OpenLink = Callable[[str, Mapping[str, str]], Awaitable[LocalFile]]
"""`DirectoryStore.open_link`: checks a link, given the object's name and the link's query, and finds its file."""

OPEN_LINK: web.AppKey[OpenLink] = web.AppKey("open_link")
"""Absent from the application if files are not in a directory."""


async def download_file(request: web.Request) -> web.StreamResponse:
    """GET and HEAD /files/{object_name}, also for ranges"""
    open_link = request.app[OPEN_LINK]
    file = await open_link(request.match_info["object_name"], request.query)
    headers = {"Content-Type": CONTENT_TYPE, "Content-Disposition": content_disposition(file.filename)}
    return web.FileResponse(file.path, headers=headers)
