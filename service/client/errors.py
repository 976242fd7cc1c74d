"""What can go wrong for a consumer. The text of each error is one sentence for a person, without the key or a link."""

from collections.abc import Mapping, Sequence


class ClientError(Exception):
    """Base of all errors of this package."""


class Unreachable(ClientError):
    """No usable response: the name, the connection, TLS or the service itself fails."""


class Unavailable(Unreachable):
    """The service is starting, or something it needs is down. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class NotTheService(ClientError):
    """A response that this service does not send, so the address is probably wrong."""


class Refused(ClientError):
    """An error response. `status` is the HTTP status, `fields` has the sentences of a 422 by field."""

    def __init__(self, message: str, status: int, fields: Mapping[str, Sequence[str]] | None = None) -> None:
        self.message = message
        self.status = status
        self.fields = dict(fields or {})
        super().__init__(f"The service refused the request with status {status}: {message}")


class Unauthorised(Refused):
    """The key is missing, malformed, unknown, revoked or expired."""


class RateLimited(Refused):
    """The rate limit of the Space was exceeded for longer than the client waits. `retry_after` is in seconds."""

    def __init__(self, message: str, status: int, *, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(message, status)


class NoFile(ClientError):
    """The export has no file: it failed, was cancelled, or has expired."""


class DownloadBroken(ClientError):
    """The download broke off and could not be continued."""


class WrongFile(ClientError):
    """The received bytes are not the file of the export: size, checksum, rows or compression are wrong."""


class TargetError(ClientError):
    """The target of a download cannot be written."""


class TargetExists(TargetError):
    """There is a file at the target, and it must not be replaced."""
