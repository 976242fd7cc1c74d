"""Translation of S3 and botocore errors into export failures. `s3_call` wraps every call and sets its deadline.

A detail contains the operation, the error code, the host of an endpoint and the settings that may be wrong, never a path, a
key or the text of the response.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError

from service.failures import ExportFailure, StorageFull, StorageRefused, StorageUnavailable

CORRUPTED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})
"""The store received other bytes than were sent. The part is sent once more."""

_FULL = frozenset(
    {"QuotaExceeded", "UserQuotaExceeded", "InsufficientStorage", "StorageFull", "XMinioStorageFull"}
    | {"XMinioAdminBucketQuotaExceeded", "XMinioBackendDown.DiskFull", "EntityTooLarge", "ServiceQuotaExceeded"}
)
_TEMPORARY = frozenset(
    {"NoSuchUpload", "InvalidPart", "InvalidPartOrder", "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
    | {"RequestTimeout", "RequestTimeoutException", "SlowDown", "IncompleteBody", "OperationAborted", "Throttling"}
    | CORRUPTED
)
_TEMPORARY_STATUS = frozenset({408, 409, 412, 425, 429})

_MISCONFIGURED = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.ProfileNotFound,
    exceptions.ConfigNotFound,
    exceptions.ConfigParseError,
    exceptions.ParamValidationError,
    exceptions.InvalidRegionError,
    exceptions.InvalidProxiesConfigError,
    exceptions.UnsupportedSignatureVersionError,
    exceptions.SSOError,
)
_WRONG_KEY = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: the store knows no such pair"
_WRONG_REGION = "check S3_REGION"
_WRONG_ENDPOINT = "check S3_ENDPOINT_URL: nothing responds there"
_MENDS = {
    "InvalidAccessKeyId": _WRONG_KEY,
    "SignatureDoesNotMatch": _WRONG_KEY,
    "InvalidToken": "check AWS_SESSION_TOKEN",
    "AuthorizationHeaderMalformed": _WRONG_REGION,
    "PermanentRedirect": _WRONG_REGION,
    "IllegalLocationConstraintException": _WRONG_REGION,
    "InvalidLocationConstraint": _WRONG_REGION,
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "PartialCredentialsError": "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "EndpointConnectionError": _WRONG_ENDPOINT,
    "ConnectTimeoutError": _WRONG_ENDPOINT,
    "SSLError": "check S3_ENDPOINT_URL: its https does not fit the store, or its certificate is not trusted",
}
"""What an operator should do, by the store's error code or the name of the client's error."""
_REGION = re.compile("[a-z0-9-]{1,50}")


def failure_from_s3_error(operation: str, code: str, status: int) -> ExportFailure:
    """Translate an S3 error response into an export failure. The code counts before the status: stores differ in statuses.

    An error that is neither temporary nor about space becomes StorageRefused: an early retry would fail the same way.
    """
    detail = f"{operation}: {code} (HTTP {status})"
    if code in _FULL or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StorageFull(detail=detail)
    if code == "RequestTimeTooSkewed":
        return StorageRefused(detail=f"{detail}: the clocks of this machine and the store differ by more than 15 minutes")
    if (
        code in _TEMPORARY
        or status in _TEMPORARY_STATUS
        or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED)
    ):
        return StorageUnavailable(detail=detail)
    return StorageRefused(detail=detail)


def not_supported(error: BaseException) -> bool:
    """Return whether an error raised by `s3_call` says that the store does not have this operation."""
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return False
    status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in (HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.METHOD_NOT_ALLOWED)


def error_code(error: BaseException) -> str | None:
    """Return the store's error code for an error raised by `s3_call`; None if there was no response."""
    cause = error.__cause__
    return str(cause.response["Error"]["Code"]) if isinstance(cause, ClientError) else None


@asynccontextmanager
async def s3_call(operation: str, timeout: timedelta) -> AsyncIterator[None]:
    """Limit the calls in the block to `timeout`. Raises StorageUnavailable, StorageRefused or StorageFull."""
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            yield
    except TimeoutError:
        raise StorageUnavailable(detail=f"{operation}: no response within {timeout.total_seconds():g} s") from None
    except ClientError as error:
        response = error.response
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = response.get("Error", {}).get("Code", "unknown")
        failure = failure_from_s3_error(operation, code, status)
        raise type(failure)(detail=f"{failure.detail}{_mend(code, response)}") from error
    except _MISCONFIGURED as error:
        raise StorageRefused(detail=f"{operation}: {_named(error)}") from error
    except (BotoCoreError, OSError, RuntimeError) as error:
        # botocore raises RuntimeError if refreshed credentials are already expired.
        raise StorageUnavailable(detail=f"{operation}: {_named(error)}") from error


def _named(error: Exception) -> str:
    name = type(error).__name__
    return f"{name}{_host(error)}{_mend(name, {})}"


def _mend(code: str, response: Mapping[str, Any]) -> str:
    """What an operator should do, as the end of a sentence; with the region of the bucket if the store names it."""
    mend = _MENDS.get(code)
    if mend is None:
        return ""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region") or ""
    named = mend is _WRONG_REGION and _REGION.fullmatch(region)
    return f"; {mend}, the store expects {region}" if named else f"; {mend}"


def _host(error: Exception) -> str:
    """The host that a connection error names, with its port; the rest of its address is left out."""
    named = getattr(error, "kwargs", {})
    host = urlsplit(str(named.get("endpoint_url") or named.get("proxy_url") or "")).netloc.rpartition("@")[2]
    return f" ({host})" if host else ""
