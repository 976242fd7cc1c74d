"""A client of the API: create an export, wait for it, download and verify its file, list exports and contacts.

    async with ExportClient("https://exports.example", key) as client:
        request = ExportRequest(datetime(2024, 1, 1), datetime(2024, 1, 31, 23, 59, 59), (Extra.EMAILS,))
        export = await client.wait(await client.create(request))
        await client.download(export, Path("contacts.ndjson.gz"))

Every error is a ClientError whose text is one sentence. The package imports neither the server nor a database driver.
"""

from service.client.api import ExportClient
from service.client.errors import (
    ClientError,
    DownloadBroken,
    NoFile,
    NotTheService,
    RateLimited,
    Refused,
    TargetError,
    TargetExists,
    Unauthorised,
    Unreachable,
    WrongFile,
)
from service.client.values import Download, Export, Progress, Received
from service.model import ExportRequest, ExportStatus, Extra, Window

__all__ = [
    "ClientError",
    "Download",
    "DownloadBroken",
    "Export",
    "ExportClient",
    "ExportRequest",
    "ExportStatus",
    "Extra",
    "NoFile",
    "NotTheService",
    "Progress",
    "RateLimited",
    "Received",
    "Refused",
    "TargetError",
    "TargetExists",
    "Unauthorised",
    "Unreachable",
    "Window",
    "WrongFile",
]
