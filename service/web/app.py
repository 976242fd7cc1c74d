"""The application: the order of the middlewares and the table of routes."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from service.access import Access
from service.exports.priority import RequestPriority
from service.exports.use_cases import Exports
from service.model import Scope
from service.storage.directory.links import FILES_PATH
from service.web.cursors import Cursors
from service.web.handlers import EXPORTS_PATH, ExportHandlers, FileHandlers, HealthHandlers, LocalFiles, Readiness
from service.web.middleware import Gate, answer_errors, finish, identify
from service.web.payloads import MAXIMUM_BODY
from service.web.rate_limits import Bucket, Throttle
from service.web.server import SERVER_OPTIONS

EXPORT_PATH = f"{EXPORTS_PATH}/{{export_id}}"
FILE_PATH = f"{FILES_PATH}{{object_name:.+}}"


def create_app(
    *,
    callers: Access,
    exports: Exports,
    cursors: Cursors,
    throttle: Throttle,
    priority: RequestPriority,
    alive: Callable[[], bool],
    ready: Callable[[], Awaitable[Readiness]],
    started: Callable[[], None],
    local_files: LocalFiles | None,
    public_url: str | None,
) -> web.Application:
    """The HTTP side of the service.

    `started` raises a ServiceError, such as Starting, as long as the API cannot work yet. `local_files` is
    `DirectoryStore.open_link` where files are in a directory. `public_url` has no slash at its end.
    """
    app = web.Application(
        middlewares=[identify, answer_errors],
        client_max_size=MAXIMUM_BODY,
        handler_args=SERVER_OPTIONS,
    )
    app.on_response_prepare.append(finish)
    gate = Gate(callers, throttle, priority, started)
    export, health = ExportHandlers(exports, cursors, public_url), HealthHandlers(alive, ready)
    app.add_routes(
        [
            web.post(EXPORTS_PATH, gate.guard(export.create, Scope.EXPORTS_WRITE, Bucket.CREATE_EXPORT)),
            web.get(EXPORTS_PATH, gate.guard(export.list, Scope.EXPORTS_READ, Bucket.OTHER)),
            web.get(EXPORT_PATH, gate.guard(export.show, Scope.EXPORTS_READ, Bucket.GET_EXPORT)),
            web.delete(EXPORT_PATH, gate.guard(export.cancel, Scope.EXPORTS_WRITE, Bucket.OTHER)),
            web.get("/healthz", health.alive),
            web.get("/readyz", health.ready),
        ]
    )
    if local_files is not None:
        app.add_routes([web.get(FILE_PATH, FileHandlers(local_files).download)])
    return app
