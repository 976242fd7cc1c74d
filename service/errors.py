"""Every fact the service can report as an error: a stable code for machines, one sentence for people.

Nothing here knows HTTP; `service.web.problems` alone turns a code into a status. A sentence is public: it never holds
a key, a link, an address, a row's content or the text of another system. What only operators may read goes into `detail`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar


class ServiceError(Exception):
    """Something went wrong inside the service."""

    code: ClassVar[str] = "internal"

    def __init__(self, sentence: str | None = None, *, detail: str | None = None) -> None:
        self.sentence = sentence or type(self).__doc__ or ""
        self.detail = detail
        super().__init__(self.sentence if detail is None else f"{self.sentence} [{detail}]")


# What a caller did wrong ---------------------------------------------------------------------------------------------


class Unauthenticated(ServiceError):
    """Missing or invalid API key."""

    code = "unauthenticated"


class ScopeMissing(ServiceError):
    """The API key does not have the scope this call needs."""

    code = "scope_missing"


class SubscriptionInactive(ServiceError):
    """The subscription of this Space is inactive."""

    code = "subscription_inactive"


class ExportNotFound(ServiceError):
    """Export not found."""

    code = "not_found"


class InvalidParameters(ServiceError):
    """Invalid parameters; `fields` maps each faulty field to its sentences."""

    code = "invalid_parameters"

    def __init__(self, fields: Mapping[str, Sequence[str]]) -> None:
        self.fields = {name: list(sentences) for name, sentences in fields.items()}
        super().__init__(" ".join(sentence for sentences in self.fields.values() for sentence in sentences))


class RateLimited(ServiceError):
    """Too many requests: the rate limit of this Space is exceeded."""

    code = "rate_limited"

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        """Whole seconds by the database's clock, rounded up."""
        super().__init__(f"Too many requests: the rate limit of this Space is exceeded. Retry in {retry_after} s.")


class LinkForged(ServiceError):
    """This download link is not valid."""

    code = "link_forged"


class LinkExpired(ServiceError):
    """This download link has expired; ask the export's status for a new one."""

    code = "link_expired"


class FileNotFound(ServiceError):
    """This file is not there any more."""

    code = "not_found"


# What the service stands on ------------------------------------------------------------------------------------------


class DatabaseUnavailable(ServiceError):
    """The database cannot be reached at the moment."""

    code = "database_unavailable"


class SchemaMismatch(ServiceError):
    """The database's schema does not fit this version of the service."""

    code = "schema_mismatch"


class CannotListen(ServiceError):
    """The service cannot listen at its address."""

    code = "cannot_listen"


class Starting(ServiceError):
    """The service is still starting."""

    code = "starting"


class RateLimitsUnavailable(ServiceError):
    """The rate limits cannot be checked at the moment."""

    code = "rate_limits_unavailable"


class RateLimitStorageUnusable(ServiceError):
    """RATE_LIMIT_STORAGE_URL names nothing that rate limits can be kept in."""

    code = "rate_limit_storage_unusable"


class SpaceNotFound(ServiceError):
    """There is no such Space."""

    code = "space_not_found"


class UnknownTimezone(ServiceError):
    """The timezone is not known here."""

    code = "unknown_timezone"

    def __init__(self, timezone: str) -> None:
        self.timezone = timezone
        super().__init__(f'The timezone "{timezone}" is not known here.')


# Why an attempt ended without a file (codes: the contract's list of `error_code`) ------------------------------------


class ExportFailure(ServiceError):
    """The export failed because of an internal error."""

    permanent: ClassVar[bool] = False
    """True where another attempt could only fail the same way."""
    patient: ClassVar[bool] = False
    """True where only a person can mend it, so that retries wait long from the first one."""


class SourceUnavailable(ExportFailure):
    """The contacts could not be read; please try again later."""

    code = "source_unavailable"


class SourceData(ExportFailure):
    """The stored contacts hold data that cannot be exported."""

    code = "source_data"
    permanent = True


class StorageUnavailable(ExportFailure):
    """The file could not be stored; please try again later."""

    code = "storage_unavailable"


class StorageRefused(ExportFailure):
    """The file storage refused the file."""

    code = "storage_refused"
    patient = True


class StorageFull(ExportFailure):
    """The file storage is full."""

    code = "storage_full"
    patient = True


class TooLarge(ExportFailure):
    """The export is too large for one file; please ask for a smaller range."""

    code = "too_large"
    permanent = True


class TimedOut(ExportFailure):
    """The export took longer than is allowed; please ask for a smaller range."""

    code = "timed_out"
    permanent = True


class WorkerLost(ExportFailure):
    """The export was interrupted too many times."""

    code = "worker_lost"


class InternalFailure(ExportFailure):
    """The export failed because of an internal error."""

    code = "internal"
