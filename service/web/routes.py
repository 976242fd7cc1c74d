"""The table of routes: one row for each call. The application is built from it, and so is every description of the API."""

from typing import Annotated, Any

from aiohttp import hdrs
from pydantic import Field

from service.model import Scope
from service.storage.headers import CONTENT_TYPE
from service.web import contacts, exports, files, health, reference
from service.web.contact_bodies import ContactBody, ContactDetailsBody, ContactFilters, ContactOptions
from service.web.contact_lines import ContactId
from service.web.declarations import (
    CACHE_HEADERS,
    DOCS_HEADERS,
    ERRORS,
    FILE_HEADERS,
    FILE_NOT_MODIFIED,
    IF_NONE_MATCH,
    NOT_MODIFIED,
    POLL_AFTER,
    RANGE,
    RETRY_AFTER,
    SAVED_AS,
    Parameter,
    Response,
    Route,
    api_errors,
)
from service.web.export_bodies import CreatedBody, CreateExportBody, ExportBody
from service.web.idempotency import IDEMPOTENCY_KEY
from service.web.paging import PageBody, PageParameters
from service.web.preferences import PREFER
from service.web.problems import ErrorBody
from service.web.rate_limits import RateLimitBucket

_EXPORT_PATH = f"{exports.EXPORTS_PATH}/{{export_id}}"


_CURSOR = Parameter("cursor", "query", "A next_cursor or prev_cursor of a previous response.")
_EXPORT_ID = Parameter("export_id", "path", "Id of the export.", Annotated[int, Field(ge=1)], required=True)

_PREFER = Parameter(
    PREFER,
    "header",
    "`wait=N` (RFC 7240): respond when the export ends, after at most N seconds. More than 30 counts as 30.",
)

ROUTES: tuple[Route, ...] = (
    Route(
        method=hdrs.METH_POST,
        path=exports.EXPORTS_PATH,
        operation_id="createExport",
        summary="Create an export",
        handler=exports.create_export,
        scope=Scope.EXPORTS_WRITE,
        bucket=RateLimitBucket.CREATE_EXPORT,
        parameters=(
            Parameter(
                IDEMPOTENCY_KEY, "header", "Names this request: a repetition within 24 hours creates no second export."
            ),
            _PREFER,
        ),
        body=CreateExportBody,
        responses={
            202: Response(
                "The export is queued. With `Prefer: wait=N`, and if the key has the scope exports:read: the status of the"
                " export after the wait, whatever it is.",
                CreatedBody | ExportBody,
                {
                    "Location": "Path of the export's status.",
                    "Idempotent-Replayed": "`true` if a request with this Idempotency-Key had created the export before.",
                    **POLL_AFTER,
                },
            ),
            **api_errors(400, 408, 413, 415, 422),
            429: Response(
                "The rate limit of the Space is exceeded, or the Space has as many queued exports as the operator allows. In"
                " the second case Retry-After is an estimate, from 5 s to 5 minutes.",
                ErrorBody,
                RETRY_AFTER,
            ),
        },
    ),
    Route(
        method=hdrs.METH_GET,
        path=exports.EXPORTS_PATH,
        operation_id="listExports",
        summary="List exports, newest first",
        handler=exports.list_exports,
        scope=Scope.EXPORTS_READ,
        bucket=RateLimitBucket.OTHER,
        parameters=(_CURSOR,),
        query=(exports.ExportFilters, PageParameters),
        responses={200: Response("A page of exports.", PageBody[ExportBody]), **api_errors(400, 422)},
    ),
    Route(
        method=hdrs.METH_GET,
        path=_EXPORT_PATH,
        operation_id="getExport",
        summary="Get the status of an export, and a fresh download link once it is completed",
        handler=exports.show_export,
        scope=Scope.EXPORTS_READ,
        bucket=RateLimitBucket.GET_EXPORT,
        parameters=(_EXPORT_ID, _PREFER),
        responses={200: Response("The export.", ExportBody, POLL_AFTER), **api_errors(400, 404)},
    ),
    Route(
        method=hdrs.METH_GET,
        path=f"{_EXPORT_PATH}/download",
        operation_id="downloadExport",
        summary="Redirect to a fresh download link of a completed export",
        handler=exports.download_export,
        scope=Scope.EXPORTS_READ,
        bucket=RateLimitBucket.OTHER,
        parameters=(_EXPORT_ID,),
        responses={
            302: Response(
                "The file is at the address in Location.", headers={"Location": "The download link."}, content_type=None
            ),
            **api_errors(400, 404, 409, 410),
        },
    ),
    Route(
        method=hdrs.METH_DELETE,
        path=_EXPORT_PATH,
        operation_id="cancelExport",
        summary="Cancel an export, or delete the file of a completed one",
        handler=exports.cancel_export,
        scope=Scope.EXPORTS_WRITE,
        bucket=RateLimitBucket.OTHER,
        parameters=(_EXPORT_ID,),
        responses={202: Response("The export in its new state.", ExportBody), **api_errors(404)},
    ),
    Route(
        method=hdrs.METH_GET,
        path=contacts.CONTACTS_PATH,
        operation_id="listContacts",
        summary="List the contacts created in a window, newest first",
        handler=contacts.list_contacts,
        scope=Scope.CONTACTS_READ,
        bucket=RateLimitBucket.LIST_CONTACTS,
        parameters=(_CURSOR,),
        query=(ContactFilters, PageParameters),
        responses={200: Response("A page of contacts.", PageBody[ContactBody]), **api_errors(400, 422)},
    ),
    Route(
        method=hdrs.METH_GET,
        path=f"{contacts.CONTACTS_PATH}/{{contact_id:[^/]+}}",  # without a pattern, ids with braces would match no route
        operation_id="getContact",
        summary="Get a contact, or the contact it was merged into",
        handler=contacts.show_contact,
        scope=Scope.CONTACTS_READ,
        bucket=RateLimitBucket.GET_CONTACT,
        parameters=(Parameter("contact_id", "path", "Id of the contact.", ContactId, required=True),),
        query=(ContactOptions,),
        responses={200: Response("The contact.", ContactDetailsBody), **api_errors(404, 422)},
    ),
    Route(
        method=hdrs.METH_GET,
        path=files.FILE_PATH,
        operation_id="downloadFile",
        summary="Download a file by its signed link",
        handler=files.download_file,
        parameters=(
            Parameter("object_name", "path", "Name of the file in the store.", required=True),
            Parameter("expires", "query", "When the link stops working, in seconds since 1970.", required=True),
            Parameter("filename", "query", "Name under which a browser saves the file.", required=True),
            Parameter("signature", "query", "Signature of the link.", required=True),
            Parameter("Range", "header", "Part of the file to send."),
            Parameter("If-Match", "header", "Sends the file only if it has this ETag."),
            IF_NONE_MATCH,
        ),
        responses={
            200: Response("The file.", headers=FILE_HEADERS, content_type=CONTENT_TYPE),
            206: Response(
                "The requested part of the file.",
                headers={**FILE_HEADERS, **RANGE},
                content_type=CONTENT_TYPE,
            ),
            304: FILE_NOT_MODIFIED,
            403: Response("The link was changed, or it has expired.", ErrorBody),
            404: Response("The file was deleted.", ErrorBody),
            412: Response("The file is not the one that If-Match names.", headers=SAVED_AS, content_type=None),
            416: Response("The requested part is outside the file.", headers={**SAVED_AS, **RANGE}, content_type=None),
            500: ERRORS[500],
            503: ERRORS[503],
        },
        requires=files.OPEN_LINK,
    ),
    Route(
        method=hdrs.METH_GET,
        path="/healthz",
        operation_id="getLiveness",
        summary="Check that the process needs no restart",
        handler=health.show_liveness,
        responses={
            200: Response("The process is alive.", health.LivenessBody),
            503: Response("The process must be restarted.", health.LivenessBody),
        },
    ),
    Route(
        method=hdrs.METH_GET,
        path="/readyz",
        operation_id="getReadiness",
        summary="Check that the process can work",
        handler=health.show_readiness,
        responses={
            200: Response("All checks passed.", health.ReadinessBody),
            503: Response("At least one check failed; its message says why.", health.ReadinessBody),
        },
    ),
    Route(
        method=hdrs.METH_GET,
        path=reference.OPENAPI_PATH,
        operation_id="getOpenApi",
        summary="Get this description of the API",
        handler=reference.show_openapi,
        parameters=(IF_NONE_MATCH,),
        responses={200: Response("The OpenAPI document.", dict[str, Any], CACHE_HEADERS), 304: NOT_MODIFIED},
        requires=reference.OPENAPI,
    ),
    Route(
        method=hdrs.METH_GET,
        path=reference.DOCS_PATH,
        operation_id="getDocs",
        summary="Show this description as a page",
        handler=reference.show_docs,
        parameters=(IF_NONE_MATCH,),
        responses={200: Response("The page.", headers=DOCS_HEADERS, content_type="text/html"), 304: NOT_MODIFIED},
        requires=reference.OPENAPI,
    ),
    Route(
        method=hdrs.METH_GET,
        path=reference.DOCS_FILE_PATH,
        operation_id="getDocsFile",
        summary="Get a file that the page loads",
        handler=reference.show_docs_file,
        parameters=(Parameter("file_name", "path", "Name of the file.", reference.DocsFile, required=True), IF_NONE_MATCH),
        responses={
            200: Response("The file.", headers=DOCS_HEADERS, content_type="*/*"),
            304: NOT_MODIFIED,
            404: Response("The page has no such file.", ErrorBody),
        },
        requires=reference.OPENAPI,
    ),
)
