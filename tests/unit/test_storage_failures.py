"""Classification of storage errors: temporary, refused, or full."""

import errno
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError, EndpointConnectionError

from service.failures import ExportFailure, StorageFull, StorageRefused, StorageUnavailable
from service.storage.directory import files
from service.storage.s3 import etags
from service.storage.s3.failures import failure_from_s3_error, s3_call

SECRET = "http://alice:hunter2@store.test"


def refusal(code: str, status: int, header: str = "", **fields: str) -> ClientError:
    """An error response of a store; `fields` are further elements of its body."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {"x-amz-bucket-region": header}}
    body = {"Code": code, "Message": SECRET, "AWSAccessKeyId": SECRET, **fields}
    return ClientError({"Error": body, "ResponseMetadata": metadata}, "CreateBucket")  # type: ignore[typeddict-item]  # part of a response


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("AccessDenied", 403, StorageRefused),
        ("NoSuchBucket", 404, StorageRefused),
        ("InvalidAccessKeyId", 403, StorageRefused),
        ("SignatureDoesNotMatch", 403, StorageRefused),
        ("RequestTimeTooSkewed", 403, StorageRefused),
        ("AuthorizationHeaderMalformed", 400, StorageRefused),
        ("PermanentRedirect", 301, StorageRefused),
        ("InvalidRequest", 400, StorageRefused),
        ("MissingContentLength", 411, StorageRefused),
        ("NotImplemented", 501, StorageRefused),
        ("403", 403, StorageRefused),
        ("QuotaExceeded", 403, StorageFull),
        ("EntityTooLarge", 413, StorageFull),
        ("XMinioStorageFull", 507, StorageFull),
        ("SomethingNew", 507, StorageFull),
        ("NoSuchUpload", 404, StorageUnavailable),
        ("InvalidPart", 400, StorageUnavailable),
        ("BadDigest", 400, StorageUnavailable),
        ("ExpiredToken", 400, StorageUnavailable),
        ("RequestTimeout", 400, StorageUnavailable),
        ("OperationAborted", 409, StorageUnavailable),
        ("SlowDown", 503, StorageUnavailable),
        ("TooManyRequests", 429, StorageUnavailable),
        ("InternalError", 500, StorageUnavailable),
        ("502", 502, StorageUnavailable),
    ],
)
def test_an_error_response_of_s3_is_classified(code: str, status: int, expected: type[ExportFailure]) -> None:
    result = failure_from_s3_error("UploadPart", code, status)
    assert type(result) is expected
    assert (result.detail or "").startswith(f"UploadPart: {code} (HTTP {status})")


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (refusal("InvalidAccessKeyId", 403), "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (refusal("SignatureDoesNotMatch", 403), "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (refusal("AuthorizationHeaderMalformed", 400, Region="eu-north-1"), "check S3_REGION, the store expects eu-north-1"),
        (refusal("AuthorizationHeaderMalformed", 400, Region="eu north <1>"), "check S3_REGION"),
        (refusal("PermanentRedirect", 301, header="eu-north-1"), "check S3_REGION, the store expects eu-north-1"),
        (refusal("AccessDenied", 403), None),
        (exceptions.NoCredentialsError(), "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (exceptions.EndpointConnectionError(endpoint_url=SECRET), "check S3_ENDPOINT_URL: nothing responds there"),
        (
            exceptions.SSLError(endpoint_url=SECRET, error=OSError(SECRET)),
            "check S3_ENDPOINT_URL: its https does not fit the store",
        ),
    ],
)
async def test_a_wrong_setting_is_named_without_an_address_or_a_key(error: Exception, mend: str | None) -> None:
    with pytest.raises(ExportFailure) as caught:
        async with s3_call("CreateBucket", timedelta(seconds=5)):
            raise error
    detail = caught.value.detail or ""
    start, _, advice = detail.partition("; ")
    assert start.startswith("CreateBucket: ")
    assert advice.startswith(mend) if mend else advice == ""
    assert advice.endswith(mend or "") or "S3_ENDPOINT_URL" in advice or "no such pair" in advice
    assert SECRET not in detail


def test_a_wrong_clock_is_called_that() -> None:
    assert "clock" in (failure_from_s3_error("UploadPart", "RequestTimeTooSkewed", 403).detail or "")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EFBIG, StorageFull),
        (errno.EACCES, StorageRefused),
        (errno.EPERM, StorageRefused),
        (errno.EROFS, StorageRefused),
        (errno.ENOENT, StorageRefused),
        (errno.EEXIST, StorageRefused),
        (errno.EIO, StorageUnavailable),
        (errno.ESTALE, StorageUnavailable),
        (errno.EMFILE, StorageUnavailable),
    ],
)
def test_an_error_of_the_file_system_is_classified(number: int, expected: type[ExportFailure]) -> None:
    assert type(files.failure_from_os_error("write part", OSError(number, "", "/files/uploads"))) is expected


@pytest.mark.parametrize("change", [files.make_empty, files.remove, files.exists])
async def test_an_error_names_the_whole_path(tmp_path: Path, change: Callable[[Path], object]) -> None:
    name = "a" * 300
    with pytest.raises(ExportFailure) as caught:
        await files.in_thread("a step", partial(change, tmp_path / name))
    assert (caught.value.detail or "").endswith(f"File name too long: {tmp_path / name}")


async def test_a_dead_endpoint_is_named_without_the_rest_of_the_address() -> None:
    error = EndpointConnectionError(endpoint_url="https://user:secret@s3.test:9000/bucket/key?signature=x", error="refused")
    with pytest.raises(StorageUnavailable) as caught:
        async with s3_call("CreateBucket", timedelta(seconds=1)):
            raise error
    expected = "CreateBucket: EndpointConnectionError (s3.test:9000); check S3_ENDPOINT_URL: nothing responds there"
    assert caught.value.detail == expected


async def test_a_disk_that_does_not_respond_is_unavailable() -> None:
    responded = threading.Event()
    with pytest.raises(StorageUnavailable, match="did not respond"):
        await files.in_thread("write part", responded.wait, timeout=timedelta(milliseconds=50))
    responded.set()


MD5 = bytes(16).hex().replace("0", "a")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ({}, None),
        ({"ETag": f'"{MD5}"'}, MD5),
        ({"ETag": f'"{MD5.upper()}"'}, MD5),
        ({"ETag": MD5}, MD5),
        ({"ETag": f'"{MD5}-1"'}, None),
        ({"ETag": '"0x8DC0FFEE"'}, None),
        ({"ETag": MD5, "ServerSideEncryption": "AES256"}, MD5),
        ({"ETag": MD5, "ServerSideEncryption": "aws:kms"}, None),
        ({"ETag": MD5, "SSECustomerAlgorithm": "AES256"}, None),
    ],
)
def test_an_etag_of_a_part_is_an_md5_if_it_looks_like_one_and_the_encryption_keeps_it(
    response: dict[str, str], expected: str | None
) -> None:
    assert etags.of_part(response) == expected


def test_an_etag_of_parts_is_recognized_in_either_case() -> None:
    etag = etags.of_parts([bytes(16), bytes(16)])
    assert etags.of_object({"ETag": f'"{etag.upper()}"'}) == etag
    assert etags.of_object({"ETag": f'"{MD5}"'}) is None
