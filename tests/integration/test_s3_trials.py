"""What a probe and a rehearsal find out about a bucket before exports do."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import structlog
from aiohttp import web

from service.failures import StorageRefused, StorageUnavailable
from tests.support import s3_faults
from tests.support.object_stores import Place, fetch, s3_place, use_credentials
from tests.support.s3 import S3Access
from tests.support.s3_faults import S3Faults


@pytest.fixture(autouse=True)
def _credentials(s3: S3Access, monkeypatch: pytest.MonkeyPatch) -> None:
    use_credentials(monkeypatch, s3)


@pytest.fixture
async def place(s3: S3Access, bucket: str, faults: S3Faults) -> AsyncIterator[Place]:
    """A store reached through the proxy."""
    async with s3_place(s3, bucket, endpoint_url=faults.endpoint_url, operation_timeout=timedelta(seconds=8)) as place:
        yield place


def links_only(fault: s3_faults.Fault) -> s3_faults.Fault:
    """Inject a fault into requests by a link, but not into calls of the client library."""

    async def inject(request: web.Request, forward: s3_faults.Forward) -> web.StreamResponse:
        return await (fault(request, forward) if "X-Amz-Signature" in request.query else forward())

    return inject


async def refusal(place: Place) -> str:
    """What the probe says."""
    with pytest.raises(StorageRefused) as caught:
        await place.store.probe()
    return caught.value.detail or ""


# Links ---------------------------------------------------------------------------------------------------------------


async def test_a_wrong_region_is_named_although_every_call_follows_the_redirect(s3: S3Access, bucket: str) -> None:
    async with s3_place(s3, bucket, region="eu-west-7") as place:
        await place.store.write_marker(b"x")
        await place.put("an object", b"x")
        assert (await fetch((await place.link("an object")).url)).status == 400
        for find in (place.store.probe, place.store.rehearse):
            with pytest.raises(StorageRefused, match=f"S3_REGION is eu-west-7, but the bucket is in {s3.region}"):
                await find()


async def test_the_region_is_asked_for_if_the_refusal_of_a_link_does_not_name_it(place: Place, faults: S3Faults) -> None:
    faults.always("GetObject", links_only(s3_faults.respond(403, "AccessDenied")))
    faults.always("HeadBucket", s3_faults.add_headers(x_amz_bucket_region="eu-north-1"))
    assert await refusal(place) == (
        "a download link: AccessDenied (HTTP 403): S3_REGION is us-east-1, but the bucket is in eu-north-1"
    )


async def test_a_link_through_the_public_endpoint_is_tried_too(s3: S3Access, bucket: str, faults: S3Faults) -> None:
    async with s3_place(s3, bucket, public_endpoint_url=faults.endpoint_url) as place:
        await place.store.probe()
        assert faults.seen == ["GetObject"]
        faults.always("GetObject", s3_faults.respond(403, "SignatureDoesNotMatch"))
        assert await refusal(place) == (
            "a download link: SignatureDoesNotMatch (HTTP 403); a link through S3_ENDPOINT_URL works:"
            " check S3_PUBLIC_ENDPOINT_URL"
        )


async def test_a_public_endpoint_that_cannot_be_reached_from_here_is_no_fault(s3: S3Access, bucket: str) -> None:
    async with s3_place(s3, bucket, public_endpoint_url="http://127.0.0.1:1") as place:
        with structlog.testing.capture_logs() as logged:
            await place.store.probe()
            await place.store.probe()
    assert [entry["event"] for entry in logged] == ["link_not_tried"]


async def test_a_link_to_a_store_that_is_busy_is_no_refusal(place: Place, faults: S3Faults) -> None:
    faults.always("GetObject", links_only(s3_faults.respond(503, "SlowDown")))
    with pytest.raises(StorageUnavailable, match="a download link: SlowDown"):
        await place.store.probe()


async def test_a_page_of_a_proxy_in_place_of_the_file_is_refused(place: Place, faults: S3Faults) -> None:
    async def sign_in(request: web.Request, forward: s3_faults.Forward) -> web.StreamResponse:
        return web.Response(text="<html>Sign in</html>")

    faults.always("GetObject", sign_in)
    with pytest.raises(StorageRefused, match="a download link: unexpected response"):
        await place.store.rehearse()


async def test_wrong_credentials_are_not_taken_for_a_missing_permission(
    s3: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with s3_place(s3, bucket) as place:
        with pytest.raises(StorageRefused) as caught:
            await place.store.rehearse()
    assert "SignatureDoesNotMatch" in (caught.value.detail or "")
    assert "permission" not in (caught.value.detail or "")


async def test_an_error_in_a_successful_response_is_no_marker(place: Place, faults: S3Faults) -> None:
    await place.store.write_marker(b"x")
    faults.next("GetObject", s3_faults.error_in_success)
    marker = await place.store.read_marker()
    assert marker is not None
    assert b"InternalError" in marker.content


# What a probe leaves -------------------------------------------------------------------------------------------------


async def test_probes_whose_uploads_cannot_be_aborted_leave_one_upload(place: Place, faults: S3Faults) -> None:
    faults.always("AbortMultipartUpload", s3_faults.respond(403, "AccessDenied"))
    for _ in range(3):
        assert "AbortMultipartUpload: AccessDenied" in await refusal(place)
    assert len(await place.uploads()) == 1
    faults.heal()
    await place.store.probe()
    assert await place.uploads() == []


# Versions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "warned"), [("3sL4kqtJlcpXroDTDmJ", True), ("null", False)])
async def test_a_bucket_that_keeps_versions_gets_a_warning(
    place: Place, faults: S3Faults, version: str, warned: bool
) -> None:
    faults.always("HeadObject", s3_faults.add_headers(x_amz_version_id=version))
    assert any("keeps versions" in warning for warning in await place.store.rehearse()) is warned
