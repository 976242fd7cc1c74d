"""GET /contacts and GET /contacts/{id} refuse every parameter that the contract does not allow."""

from typing import Any

import asyncpg
import pytest

from tests.support.contact_api import CONTACTS, YEAR, add_seconds, fetched, ids, listed, refused, space_of
from tests.support.web import EXPORTS, Site


async def test_a_forged_cursor_is_422(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    await add_seconds(sql, await space_of(sql, headers), 2)
    cursor = (await listed(api, headers, per_page=1))["next_cursor"]
    for place in range(len(cursor)):
        changed = cursor[:place] + ("A" if cursor[place] != "A" else "_") + cursor[place + 1 :]
        assert list(await refused(api, headers, f"cursor={changed}")) == ["cursor"], place
    for text in ("", "x", cursor[:-1], cursor + "A", cursor + "=", "%00" * 44, "%C3%A9" * 44, "A" * 44, "A" * 5000):
        assert list(await refused(api, headers, f"cursor={text}")) == ["cursor"], text


async def test_a_cursor_of_another_space_filter_or_list_is_422(api: Site, sql: asyncpg.Connection) -> None:
    one, other = await api.caller(), await api.caller()
    for headers in (one, other):
        await add_seconds(sql, await space_of(sql, headers), 2)
        await api.create(headers), await api.create(headers)
    cursor = (await listed(api, one, per_page=1))["next_cursor"]
    assert len(ids(await listed(api, one, per_page=1, cursor=cursor))) == 1
    assert list(await refused(api, other, f"cursor={cursor}")) == ["cursor"]
    for option in ("include_comet_tokens", "include_all_emails", "include_custom_fields"):
        assert list(await refused(api, one, f"cursor={cursor}&{option}=1")) == ["cursor"]
    status, body = await fetched(api, one, CONTACTS, **YEAR | {"end_date": "2024-12-31 23:59:58"}, cursor=cursor)
    assert (status, list(body["errors"])) == (422, ["cursor"])
    _, exports = await fetched(api, one, EXPORTS, per_page=1)
    assert list(await refused(api, one, f"cursor={exports['next_cursor']}")) == ["cursor"]
    status, body = await fetched(api, one, EXPORTS, cursor=cursor)
    assert (status, list(body["errors"])) == (422, ["cursor"])


async def test_a_cursor_is_valid_however_the_same_options_are_written(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    await add_seconds(sql, await space_of(sql, headers), 3)
    first = await listed(api, headers, per_page=1, include_comet_tokens=1)
    second = await listed(
        api,
        headers,
        per_page=2,
        include_comet_tokens="true",
        include_all_emails="false",
        include_custom_fields=0,
        cursor=first["next_cursor"],
    )
    assert len(ids(second)) == 2


@pytest.mark.parametrize("value", ["0", "5001", "-1", "1.5", "01", "abc", "", "%D9%A1", "1e3", "10000", "9" * 400])
async def test_per_page_must_be_a_whole_number_from_1_to_5000(api: Site, value: str) -> None:
    assert await refused(api, await api.caller(), f"per_page={value}") == {
        "per_page": ["per_page must be a whole number from 1 to 5000."]
    }


async def test_a_parameter_sent_twice_is_422(api: Site) -> None:
    headers = await api.caller()
    for name, value in (("per_page", "5"), ("cursor", "x"), ("include_comet_tokens", "1"), ("include_custom_fields", "0")):
        assert list(await refused(api, headers, f"{name}={value}&{name}={value}")) == [name]
    assert "start_date" in await refused(api, headers, "start_date=2024-01-01 00:00:00")
    response = await api.client.get(f"{CONTACTS}/1?include_comet_tokens=1&include_comet_tokens=1", headers=headers)
    assert (response.status, list((await response.json())["errors"])) == (422, ["include_comet_tokens"])


@pytest.mark.parametrize("value", ["2", "-1", "yes", "True", "", "1.0", "01", "null", "%D9%A1"])
async def test_an_option_must_be_1_or_0(api: Site, value: str) -> None:
    headers = await api.caller()
    for option in ("include_comet_tokens", "include_all_emails", "include_custom_fields"):
        assert await refused(api, headers, f"{option}={value}") == {option: [f"{option} must be 1 or 0."]}
    response = await api.client.get(f"{CONTACTS}/1?include_comet_tokens={value}", headers=headers)
    assert response.status == 422


async def test_both_dates_are_required_and_422_names_every_invalid_parameter(api: Site) -> None:
    status, body = await fetched(api, await api.caller(), CONTACTS, include_all_emails=7, per_page=0, cursor="x")
    assert status == 422
    assert list(body["errors"]) == ["start_date", "end_date", "include_all_emails", "per_page", "cursor"]
    assert body["errors"]["start_date"] == ["start_date is required."]


@pytest.mark.parametrize(
    ("dates", "field"),
    [
        ({"start_date": "2024-02-30 00:00:00"}, "start_date"),
        ({"start_date": "2024-01-01"}, "start_date"),
        ({"start_date": "2024-01-01T00:00:00"}, "start_date"),
        ({"end_date": "2024-12-31 23:59:60"}, "end_date"),
        ({"end_date": "\N{ARABIC-INDIC DIGIT TWO}024-12-31 23:59:59"}, "end_date"),
        ({"end_date": YEAR["start_date"]}, "end_date"),
        ({"end_date": "2023-12-31 23:59:59"}, "end_date"),
    ],
)
async def test_an_invalid_window_is_422_as_for_exports(api: Site, dates: dict[str, str], field: str) -> None:
    headers = await api.caller()
    status, body = await fetched(api, headers, CONTACTS, **YEAR | dates)
    assert (status, list(body["errors"])) == (422, [field])
    creation = await api.client.post(EXPORTS, json=YEAR | dates, headers=headers)
    assert (await creation.json())["errors"] == body["errors"]


async def test_a_date_that_is_no_instant_of_utc_is_422(api: Site) -> None:
    headers = await api.caller(zone="Asia/Tokyo")
    status, body = await fetched(api, headers, CONTACTS, **YEAR | {"start_date": "0001-01-01 00:00:00"})
    assert (status, list(body["errors"])) == (422, ["start_date"])


async def test_unknown_parameters_are_ignored(api: Site) -> None:
    assert (await listed(api, await api.caller(), per_page=5000, unknown="x"))["per_page"] == 5000


@pytest.mark.parametrize(
    "text",
    [
        *(
            "0",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "-9223372036854775809",
            "9" * 100,
        ),
        *("9" * 100, "x", "1.0", "01", "+1", "-0", "%201", "1%20", "%D9%A1", "1e3", "0x1", "%00", "null", "exports%2F1"),
    ],
)
async def test_an_id_that_is_none_or_unknown_is_the_same_404(api: Site, text: str) -> None:
    headers = await api.caller()
    wanted: Any = await (await api.client.get(f"{CONTACTS}/1", headers=headers)).read()
    response = await api.client.get(f"{CONTACTS}/{text}", headers=headers)
    assert (response.status, await response.read()) == (404, wanted)
    assert wanted == b'{"message":"Contact not found."}'
