"""Why an attempt at an export failed. The codes are the contract's list of `error_code`; see `service.errors`."""

from typing import ClassVar

from service.errors import ServiceError


class ExportFailure(ServiceError):
    """Base of the errors that end an attempt."""

    message = "The export failed because of an internal error."
    permanent: bool = False
    """True if another attempt can only fail the same way."""
    patient: ClassVar[bool] = False
    """True if only a person can fix it: retries wait long from the first one."""


class SourceUnavailable(ExportFailure):
    """The contacts' database is unreachable or cannot serve the query now."""

    code = "source_unavailable"
    message = "The contacts could not be read. Please try again later."


class SourceUnreadable(SourceUnavailable):
    """The contacts' relations are missing, forbidden or broken; only a person can fix that."""

    message = "The contacts cannot be read. Please contact the operator."
    permanent = True


class SourceSlow(SourceUnavailable):
    """The contacts' database responds, but the query does not return rows in time. `permanent` ends the export."""

    message = "The contacts could not be read in time. Please contact the operator."

    def __init__(self, message: str | None = None, *, detail: str | None = None, permanent: bool = False) -> None:
        self.permanent = permanent
        super().__init__(message, detail=detail)


class SourceData(ExportFailure):
    """A stored value cannot be exported."""

    code = "source_data"
    message = "The stored contacts contain data that cannot be exported."
    permanent = True


class StorageUnavailable(ExportFailure):
    """The object store is unreachable or returned a temporary error."""

    code = "storage_unavailable"
    message = "The file could not be stored. Please try again later."


class StorageRefused(ExportFailure):
    """The object store refused a request; retrying soon cannot help."""

    code = "storage_refused"
    message = "The file storage refused the file."
    patient = True


class StorageFull(ExportFailure):
    """The object store or disk has no space left, or a quota is reached."""

    code = "storage_full"
    message = "The file storage is full."
    patient = True


class TooLarge(ExportFailure):
    """The file would need more parts than the store allows."""

    code = "too_large"
    message = "The export is too large for one file. Please request a smaller range."
    permanent = True


class TimedOut(ExportFailure):
    """The attempt took longer than MAX_EXPORT_SECONDS."""

    code = "timed_out"
    message = "The export took longer than allowed. Please request a smaller range."
    permanent = True


class WorkerLost(ExportFailure):
    """The lease of an attempt expired: its process died or stalled."""

    code = "worker_lost"
    message = "The export was interrupted too many times."


class InternalFailure(ExportFailure):
    """An unexpected error; its traceback is in the log."""

    code = "internal"
