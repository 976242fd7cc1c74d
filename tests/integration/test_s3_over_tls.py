"""A real store behind TLS: parts are not signed with their hash there."""

from pathlib import Path

import pytest

from service.storage import MINIMUM_PART_SIZE
from tests.support.certificates import https_in_front_of, make_certificate
from tests.support.object_stores import s3_place, use_credentials
from tests.support.s3 import S3Access


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
@pytest.mark.parametrize("sign_payload", [None, True])
async def test_an_object_uploaded_over_tls_has_the_bytes_of_its_parts(
    s3: S3Access, bucket: str, checksums: str, sign_payload: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    use_credentials(monkeypatch, s3)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    parts = [bytes(MINIMUM_PART_SIZE), b"the end"]
    async with (
        https_in_front_of(s3.endpoint_url, certificate) as endpoint_url,
        s3_place(s3, bucket, endpoint_url=endpoint_url, checksums=checksums, sign_payload=sign_payload) as place,
    ):
        await place.store.probe()
        await place.put("one", *parts)
    async with s3.client() as client:
        stored = await client.get_object(Bucket=bucket, Key="a/one")
        assert await stored["Body"].read() == b"".join(parts)
