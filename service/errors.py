"""Every error the service reports: a stable code for machines and one message for people.

Nothing here knows HTTP; only `service.web.problems` turns a code into a status. A message is public: it never contains a
key, a link, an address, a row's content or another system's text. Information for operators goes into `detail`.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar


class ServiceError(Exception):
    """Base of all errors: a public `message`, and a `detail` that only operators see."""

    code: ClassVar[str] = "internal"
    message: str = "Internal error."

    def __init__(self, message: str | None = None, *, detail: str | None = None) -> None:
        if message is not None:
            self.message = message
        self.detail = detail
        super().__init__(self.message if detail is None else f"{self.message} [{detail}]")


# Errors of the caller --------------------------------------------------------------------------------------------------


class Unauthenticated(ServiceError):
    """The key is missing, malformed, unknown, revoked or expired."""

    code = "unauthenticated"
    message = "Missing or invalid API key."


class ScopeMissing(ServiceError):
    """The key is valid, but lacks the scope of this call."""

    code = "scope_missing"
    message = "The API key does not have the scope this call needs."


class SubscriptionInactive(ServiceError):
    """The Space is suspended."""

    code = "subscription_inactive"
    message = "The subscription of this Space is inactive."


class ExportNotFound(ServiceError):
    """The id is unknown, or belongs to another Space."""

    code = "not_found"
    message = "Export not found."


class ExportNotCompleted(ServiceError):
    """The file was asked for before the export completed, or after it failed or was cancelled."""

    code = "not_completed"
    message = "The export is not completed, so it has no file. Its status gives the reason."


class ExportExpired(ServiceError):
    """The file was asked for after the export expired."""

    code = "expired"
    message = "This export has expired and its file was deleted. Please create a new export."


class ContactNotFound(ServiceError):
    """The id is unknown, belongs to another Space, or was merged into a contact that does not exist."""

    code = "not_found"
    message = "Contact not found."


class InvalidParameters(ServiceError):
    """Invalid parameters; `fields` maps each faulty field to its messages."""

    code = "invalid_parameters"

    def __init__(self, fields: Mapping[str, Sequence[str]]) -> None:
        self.fields = {name: list(messages) for name, messages in fields.items()}
        super().__init__(" ".join(message for messages in self.fields.values() for message in messages))


class RetryLater(ServiceError):
    """The call is refused for now; `retry_after` is in whole seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class RateLimited(RetryLater):
    """The rate limit of the Space is exceeded; `retry_after` is by the database's clock, rounded up."""

    code = "rate_limited"

    def __init__(self, retry_after: int) -> None:
        message = f"Too many requests: the rate limit of this Space is exceeded. Retry in {retry_after} s."
        super().__init__(message, retry_after)


class QueueFull(RetryLater):
    """The Space has as many queued exports as the operator allows; `retry_after` is an estimate."""

    code = "queue_full"

    def __init__(self, limit: int, retry_after: int) -> None:
        exports = "export" if limit == 1 else "exports"
        message = f"This Space already has {limit} queued {exports}, the most that are allowed. Retry in {retry_after} s."
        super().__init__(message, retry_after)


class LinkForged(ServiceError):
    """The signature of a download link does not match."""

    code = "link_forged"
    message = "This download link is not valid."


class LinkExpired(ServiceError):
    """The signature is right, but its time is over."""

    code = "link_expired"
    message = "This download link has expired. Request the export's status for a new one."


class FileNotFound(ServiceError):
    """The link is valid, but its file was deleted."""

    code = "not_found"
    message = "This file no longer exists."


# Errors of the service and of what it depends on ----------------------------------------------------------------------


class DatabaseUnavailable(ServiceError):
    """The database is unreachable or cannot serve a statement now. A write may or may not have been committed."""

    code = "database_unavailable"
    message = "The database is temporarily unavailable."


class DatabaseRefused(DatabaseUnavailable):
    """The server rejects the login, or a pooler is in front of it; a person must correct a setting. `detail` says why."""


class PoolerInFront(DatabaseRefused):
    """A connection pooler in front of the database refuses or drops the settings of a session."""


class RightMissing(ServiceError):
    """The database role lacks a right; `detail` names it."""

    message = "The database role of the service lacks a right."


class LoginRefused(ServiceError):
    """A database rejected the login when the service started; a setting must be fixed by hand."""

    code = "login_refused"
    message = "A database refuses the login."


class SchemaMismatch(ServiceError):
    """The schema must be changed by hand before this version can use the database."""

    code = "schema_mismatch"
    message = "The database schema does not match this version of the service."


class StoreOwnedElsewhere(ServiceError):
    """The marker of the file store names another database."""

    code = "store_owned_elsewhere"
    message = (
        "The files in STORAGE_URL belong to another database; to take them over, stop the services of that database and run:"
        " contact-exports storage adopt"
    )


class CannotListen(ServiceError):
    """The listen address is taken or does not exist."""

    code = "cannot_listen"
    message = "The service cannot listen on its address."


class Starting(ServiceError):
    """The schema or a shared secret is not available yet."""

    code = "starting"
    message = "The service is starting."


class RateLimitsUnavailable(ServiceError):
    """The rate-limit store is unreachable."""

    code = "rate_limits_unavailable"
    message = "Rate limiting is temporarily unavailable."


class RateLimitStorageUnusable(ServiceError):
    """RATE_LIMIT_STORAGE_URL names a store that is not supported or not installed."""

    code = "rate_limit_storage_unusable"
    message = "RATE_LIMIT_STORAGE_URL names no supported store."


class SpaceNotFound(ServiceError):
    """A command named an unknown Space."""

    code = "space_not_found"
    message = "There is no such Space. `contact-exports spaces list` shows all; `contact-exports spaces create` adds one."


class WebhookEndpointNotFound(ServiceError):
    """A command named a Space that has no webhook endpoint."""

    code = "webhook_endpoint_not_found"
    message = "This Space has no webhook endpoint."


class WebhookAddressRefused(ServiceError):
    """A webhook must not be sent to this address; the message gives the rule and never the address."""

    code = "webhook_address_refused"
    message = "The address of the webhook is not allowed."


class UnknownTimezone(ServiceError):
    """The timezone database of this machine has no such name; `timezone` is that name."""

    code = "unknown_timezone"

    def __init__(self, timezone: str) -> None:
        self.timezone = timezone
        super().__init__(f'The timezone "{timezone}" is unknown. Use a name such as Europe/Berlin.')
