"""From the S3 client's errors to the store's own: every call goes through `translated`, which also bounds its time.

Details are for operators: the operation and the code of the answer, never an address, a key or the answer's text.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError

from service.errors import ExportFailure, StorageFull, StorageRefused, StorageUnavailable

CORRUPTED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})
"""The bytes that arrived are not those that were sent; sending them again is worth a try."""

_FULL = frozenset(
    {"QuotaExceeded", "UserQuotaExceeded", "InsufficientStorage", "StorageFull", "XMinioStorageFull"}
    | {"XMinioAdminBucketQuotaExceeded", "XMinioBackendDown.DiskFull", "EntityTooLarge", "ServiceQuotaExceeded"}
)
_PASSING = frozenset(
    {"NoSuchUpload", "InvalidPart", "InvalidPartOrder", "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
    | {"RequestTimeout", "RequestTimeoutException", "SlowDown", "IncompleteBody", "OperationAborted", "Throttling"}
    | CORRUPTED
)
_PASSING_STATUS = frozenset({408, 409, 412, 425, 429})

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


def failure(operation: str, code: str, status: int) -> ExportFailure:
    """What an error answer means for an export; codes first, since stores disagree about statuses.

    Whatever is neither passing nor a lack of room is refused: asking again soon would only get the same answer.
    """
    detail = f"{operation}: {code} (HTTP {status})"
    if code in _FULL or status == 507:
        return StorageFull(detail=detail)
    if code == "RequestTimeTooSkewed":
        return StorageRefused(detail=f"{detail}: the clock of this machine is more than 15 minutes off the store's")
    if code in _PASSING or status in _PASSING_STATUS or (status >= 500 and status != 501):
        return StorageUnavailable(detail=detail)
    return StorageRefused(detail=detail)


def error_code(error: BaseException) -> str | None:
    """The store's code behind an error that `translated` raised; None if there was no answer."""
    cause = error.__cause__
    return str(cause.response["Error"]["Code"]) if isinstance(cause, ClientError) else None


@asynccontextmanager
async def translated(operation: str, seconds: float) -> AsyncIterator[None]:
    """Bound what is awaited inside to `seconds`. Raises StorageUnavailable, StorageRefused or StorageFull."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise StorageUnavailable(detail=f"{operation}: no answer within {seconds:g} s") from None
    except ClientError as error:
        answer = error.response
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise failure(operation, answer.get("Error", {}).get("Code", "unknown"), status) from error
    except _MISCONFIGURED as error:
        raise StorageRefused(detail=f"{operation}: {type(error).__name__}") from error
    except (BotoCoreError, OSError, RuntimeError) as error:
        # A RuntimeError is what botocore raises when refreshed credentials turn out to be expired.
        raise StorageUnavailable(detail=f"{operation}: {type(error).__name__}") from error
