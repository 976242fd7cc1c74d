"""Bodies of the export API: accepted values, error messages, and the exact keys of an export."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from service.errors import ExportNotFound, InvalidParameters
from service.exports.use_cases import ExportView
from service.model import END_OF_TIME, ExportJob, ExportRequest, ExportStatus, Extra, StoredFile, Window
from service.storage import Link
from service.web import export_bodies
from service.web.health import Readiness, render_readiness

START, END = "2024-01-15 00:00:00", "2024-01-15 23:59:59"
AT = datetime(2024, 1, 15, 10, 30, 0, 987_654, UTC)
JOB = ExportJob(
    export_id=123,
    status=ExportStatus.QUEUED,
    created_at=AT,
    window=Window(datetime(2024, 1, 15, tzinfo=UTC), datetime(2024, 1, 16, tzinfo=UTC)),
    timezone="Europe/Paris",
    rows_read=10,
    rows_estimated=None,
    finished_at=None,
    snapshot_at=None,
    complete_until=None,
    object_name=None,
    file=None,
    file_expires_at=None,
    error_code=None,
    error_message=None,
)
LINK = Link("http://files.test/a?signature=b", AT + timedelta(minutes=15))
REST = {"window": {"from": "2024-01-15T00:00:00Z", "to": "2024-01-16T00:00:00Z", "timezone": "Europe/Paris"}}
PENDING = "Export is being processed. Please check back in a few minutes."


def errors_of(**fields: object) -> dict[str, list[str]]:
    """The errors of a body that is valid except for these fields."""
    with pytest.raises(InvalidParameters) as caught:
        export_bodies.parse_export_request({"start_date": START, "end_date": END, **fields})
    return caught.value.fields


def ordered(body: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The items of the body in their order."""
    return list(body.items())


def test_dates_are_local_times_and_all_options_are_off_by_default() -> None:
    request = export_bodies.parse_export_request({"start_date": START, "end_date": END})
    assert request == ExportRequest(datetime(2024, 1, 15), datetime(2024, 1, 15, 23, 59, 59))


@pytest.mark.parametrize(
    ("value", "meaning"), [(1, True), (0, False), (True, True), (False, False), ("1", True), ("0", False)]
)
def test_an_option_is_1_or_0_as_number_text_or_boolean(value: object, meaning: bool) -> None:
    body = {"start_date": START, "end_date": END, "include_comet_tokens": value, "include_all_emails": value}
    body["include_custom_fields"] = value
    request = export_bodies.parse_export_request(body)
    assert request.extras == (tuple(Extra) if meaning else ())


@pytest.mark.parametrize(
    "value",
    [None, 2, -1, 1.0, 0.0, "", "2", "true", "false", "yes", " 1", "\N{ARABIC-INDIC DIGIT ONE}", [], [1], {}, {"a": 1}],
)
def test_any_other_value_of_an_option_is_invalid(value: object) -> None:
    assert errors_of(include_all_emails=value) == {"include_all_emails": ["include_all_emails must be 1 or 0."]}


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        1705276800,
        True,
        [],
        {},
        "",
        "2024-01-15",
        "2024-01-15T00:00:00",
        "2024-01-15 00:00:00Z",
        "2024-01-15 00:00:00 ",
        " 2024-01-15 00:00:00",
        "2024-01-15 00:00:00\n",
        "2024-1-15 00:00:00",
        "2024-01-15 0:00:00",
        "2024-01-15 00:00",
        "2024-01-15 00:00:00.5",
        "24-01-15 00:00:00",
        "2024-02-30 00:00:00",
        "2023-02-29 00:00:00",
        "2024-13-01 00:00:00",
        "2024-01-15 24:00:00",
        "2024-01-15 23:60:00",
        "2024-01-15 23:59:60",
        "0000-01-01 00:00:00",
        "+024-01-15 00:00:00",
        "2024-01-\N{ARABIC-INDIC DIGIT ONE}5 00:00:00",
        "2024-01-15\xa000:00:00",
    ],
)
def test_the_error_for_an_invalid_date_names_the_field_and_the_format(value: object) -> None:
    errors = errors_of(start_date=value)
    assert errors == {"start_date": ["start_date must be a valid date and time in the format YYYY-MM-DD HH:MM:SS."]}


@pytest.mark.parametrize("value", ["0001-01-01 00:00:00", "2024-02-29 00:00:00"])
def test_any_existing_day_is_accepted(value: str) -> None:
    request = export_bodies.parse_export_request({"start_date": value, "end_date": "9999-12-31 23:59:59"})
    assert str(request.start_date) == value


@pytest.mark.parametrize("end", [START, "2024-01-14 23:59:59"])
def test_the_end_must_be_after_the_start(end: str) -> None:
    assert errors_of(end_date=end) == {"end_date": ["end_date must be after start_date."]}


def test_the_error_names_every_invalid_field() -> None:
    errors = errors_of(end_date="2024-01-14 00:00:00", include_comet_tokens=None, include_all_emails="no")
    assert list(errors) == ["end_date", "include_comet_tokens", "include_all_emails"]


def test_both_dates_are_required() -> None:
    with pytest.raises(InvalidParameters) as caught:
        export_bodies.parse_export_request({"include_comet_tokens": 7})
    assert caught.value.fields == {
        "start_date": ["start_date is required."],
        "end_date": ["end_date is required."],
        "include_comet_tokens": ["include_comet_tokens must be 1 or 0."],
    }


def test_the_end_is_not_compared_with_an_invalid_start() -> None:
    assert list(errors_of(start_date="tomorrow")) == ["start_date"]


def test_every_extra_is_an_option_of_the_body() -> None:
    for extra in Extra:
        body = {"start_date": START, "end_date": END, extra.option: 1}
        assert export_bodies.parse_export_request(body).extras == (extra,)


def test_unknown_keys_are_ignored() -> None:
    body = {"start_date": START, "end_date": END, "format": "csv", "": None, "Start_Date": 1}
    assert export_bodies.parse_export_request(body).start_date == datetime(2024, 1, 15)


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("123", 123), ("9223372036854775807", 2**63 - 1)])
def test_an_id_is_a_positive_whole_number(text: str, number: int) -> None:
    assert export_bodies.parse_export_id(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "+1", "01", " 1", "1 ", "1.0", "1e3", "abc", "\N{ARABIC-INDIC DIGIT ONE}", "1" * 20, "%31", "null"],
)
def test_a_malformed_id_is_not_found(text: str) -> None:
    with pytest.raises(ExportNotFound):
        export_bodies.parse_export_id(text)


def test_a_new_export_is_rendered_with_exactly_the_fields_of_the_reference() -> None:
    assert ordered(export_bodies.render_created(JOB)) == [("export_id", 123), ("status", "queued")]


def test_a_queued_export_has_the_reference_fields_first() -> None:
    expected = {"export_id": 123, "status": "queued", "created_at": "2024-01-15T10:30:00Z", "message": PENDING, **REST}
    assert ordered(export_bodies.render_export(ExportView(JOB, None))) == ordered(expected)


def test_a_processing_export_shows_its_progress() -> None:
    body = export_bodies.render_export(ExportView(replace(JOB, status=ExportStatus.PROCESSING), None))
    assert list(body) == ["export_id", "status", "created_at", "message", "window", "progress"]
    assert (body["message"], body["progress"]) == (PENDING, {"rows": 10, "rows_estimated": None})


def test_a_completed_export_has_a_link_and_the_properties_of_its_file() -> None:
    job = replace(
        JOB,
        status=ExportStatus.COMPLETED,
        finished_at=AT + timedelta(seconds=30),
        snapshot_at=AT,
        object_name="7/123/x.ndjson.gz",
        file=StoredFile(5, 900, "ab" * 32),
        file_expires_at=AT + timedelta(days=1),
    )
    expected = {
        "export_id": 123,
        "status": "completed",
        "created_at": "2024-01-15T10:30:00Z",
        "completed_at": "2024-01-15T10:30:30Z",
        "download_url": "http://files.test/a?signature=b",
        "expires_at": "2024-01-15T10:45:00Z",
        **REST,
        "row_count": 5,
        "file_size": 900,
        "sha256": "ab" * 32,
        "snapshot_at": "2024-01-15T10:30:00Z",
        "complete_until": None,
        "file_expires_at": "2024-01-16T10:30:00Z",
    }
    assert ordered(export_bodies.render_export(ExportView(job, LINK))) == ordered(expected)


def test_a_failed_export_has_a_message_and_a_code() -> None:
    job = replace(JOB, status=ExportStatus.FAILED, finished_at=AT, error_code="storage_full", error_message="It is full.")
    body = export_bodies.render_export(ExportView(job, None))
    assert list(body) == ["export_id", "status", "created_at", "message", "error_code", "window"]
    assert (body["message"], body["error_code"]) == ("It is full.", "storage_full")


@pytest.mark.parametrize("status", [ExportStatus.CANCELLED, ExportStatus.EXPIRED])
def test_cancelled_and_expired_exports_have_a_message_and_no_link(status: ExportStatus) -> None:
    job = replace(JOB, status=status, finished_at=AT, object_name="7/123/x", file=StoredFile(5, 900, "ab" * 32))
    body = export_bodies.render_export(ExportView(job, None))
    assert list(body) == ["export_id", "status", "created_at", "message", "window"]
    messages = {
        ExportStatus.CANCELLED: "The export was cancelled.",
        ExportStatus.EXPIRED: "This export has expired and its file was deleted. Please create a new export.",
    }
    assert body["message"] == messages[status]


def test_times_are_utc_truncated_to_whole_seconds() -> None:
    early = datetime(1, 1, 1, 2, 0, 0, 999_999, timezone(timedelta(hours=2)))
    job = replace(JOB, window=Window(early, END_OF_TIME))
    window = export_bodies.render_export(ExportView(job, None))["window"]
    assert (window["from"], window["to"]) == ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z")


def test_readiness_contains_the_messages_of_failed_checks() -> None:
    assert render_readiness(Readiness({"database": None})) == {"checks": {"database": "ok"}}
    body = render_readiness(Readiness({"database": None, "storage": "The bucket is missing."}))
    assert body["checks"] == {"database": "ok", "storage": "The bucket is missing."}
    assert body["message"] == "The service is not ready."
