"""Names of botocore that its documentation does not promise. Each test fails if an upgrade changes one of them.

`service.storage.s3` uses them because botocore has no documented alternative.
"""

from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from aiobotocore.credentials import AioCredentialResolver, AioRefreshableCredentials
from botocore.awsrequest import AWSPreparedRequest

from service.storage.s3.body import PartBody
from service.storage.s3.clients import open_clients
from service.storage.s3.settings import S3Settings

SETTINGS = S3Settings("bucket", endpoint_url="http://s3.invalid", addressing_style="path")


class _Sent(Exception):
    """Raised in place of sending a request; the message is the hash in its header."""


def _stop(request: AWSPreparedRequest, **_: object) -> None:
    raise _Sent(request.headers["X-Amz-Content-SHA256"])


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


async def test_credentials_have_their_expiry_in_a_private_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    """`RefreshableCredentials._expiry_time`: without it, `expires_at` of a link could be later than its real end."""
    ends_at = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=12)

    async def refresh() -> dict[str, str]:
        return {"access_key": "key", "secret_key": "secret", "token": "token", "expiry_time": ends_at.isoformat()}

    credentials = AioRefreshableCredentials.create_from_metadata(await refresh(), refresh, "test")
    assert credentials._expiry_time == ends_at  # type: ignore[attr-defined]  # private

    async def load_credentials(_: AioCredentialResolver) -> AioRefreshableCredentials:
        return credentials

    monkeypatch.setattr(AioCredentialResolver, "load_credentials", load_credentials)
    async with open_clients(SETTINGS, timedelta(minutes=15)) as (_, links):
        assert (await links.public.link("key")).expires_at == ends_at


async def test_a_signer_in_the_table_of_signers_chooses_the_payload_hash() -> None:
    """`auth.AUTH_TYPE_MAPS`, `S3SigV4Auth.payload`: without them botocore hashes each part again on the event loop."""
    given = "0" * 64  # not the real hash: the request must contain this one

    body = await PartBody.prepare([b"part"], signed=True, checked=False)
    body.sha256 = given
    async with open_clients(SETTINGS, timedelta(minutes=15)) as (client, _):
        client.operations.meta.events.register("before-send.s3.UploadPart", _stop)
        with pytest.raises(_Sent, match=given):
            await client.operations.upload_part(Bucket="bucket", Key="key", UploadId="1", PartNumber=1, Body=body)


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("sign_payload", [None, True, False])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_part_is_signed_with_its_hash_over_http_only_unless_the_settings_say_so(
    scheme: str, sign_payload: bool | None, checked: bool
) -> None:
    """`auth.UNSIGNED_PAYLOAD`. botocore itself would hash a part that has a CRC32 in place of Content-MD5."""
    settings = replace(SETTINGS, endpoint_url=f"{scheme}://s3.invalid", sign_payload=sign_payload)
    signed = scheme == "http" if sign_payload is None else sign_payload
    async with open_clients(settings, timedelta(minutes=15)) as (client, _):
        assert client.signs_payload == signed
        body = await PartBody.prepare([b"part"], signed=signed, checked=checked)
        checksum = (
            {"ChecksumCRC32": b64encode(body.crc32).decode()} if checked else {"ContentMD5": b64encode(body.md5).decode()}
        )
        client.operations.meta.events.register("before-send.s3.UploadPart", _stop)
        with pytest.raises(_Sent, match=sha256(b"part").hexdigest() if signed else "UNSIGNED-PAYLOAD"):
            await client.operations.upload_part(
                Bucket="bucket",
                Key="key",
                UploadId="1",
                PartNumber=1,
                Body=body,
                **checksum,  # type: ignore[arg-type]  # one of two parameters
            )
