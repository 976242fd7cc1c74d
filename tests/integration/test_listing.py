"""The list of a Space's exports: order, pages, filters, and the scope of cursors."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from yarl import URL

from service.failures import SourceData
from service.model import Scope
from tests.support.web import EXPORTS, Site, site

ENVELOPE = ["data", "path", "per_page", "next_cursor", "next_page_url", "prev_cursor", "prev_page_url"]


async def listed(api: Site, headers: dict[str, str], address: str = EXPORTS, **query: Any) -> dict[str, Any]:
    """The body of a successful list call."""
    url = api.client.make_url("/").join(URL(address))
    response = await api.client.session.get(url.update_query(query), headers=headers)
    assert response.status == 200, await response.text()
    return dict(await response.json())


async def refused(api: Site, headers: dict[str, str], query: str) -> dict[str, list[str]]:
    """The errors of an invalid list call."""
    response = await api.client.get(f"{EXPORTS}?{query}", headers=headers)
    assert response.status == 422, query
    return dict((await response.json())["errors"])


def ids(page: dict[str, Any]) -> list[int]:
    """The ids of the exports on a page."""
    return [item["export_id"] for item in page["data"]]


async def test_a_space_without_exports_has_an_empty_page(api: Site) -> None:
    headers = await api.caller()
    await api.create(await api.caller())
    page = await listed(api, headers)
    assert list(page) == ENVELOPE
    assert page == {
        **dict.fromkeys(ENVELOPE),
        "data": [],
        "path": str(api.client.make_url(EXPORTS)),
        "per_page": 200,
    }


async def test_exports_are_listed_newest_first_with_the_fields_of_their_status(api: Site) -> None:
    headers = await api.caller()
    failed, completed, cancelled, running, queued = [await api.create(headers) for _ in range(5)]
    await api.claims.end_in_error(await api.claim(), SourceData(), pause=timedelta(0))
    await api.complete(b"bytes")
    await api.client.delete(f"{EXPORTS}/{cancelled}", headers=headers)
    await api.claim()
    page = await listed(api, headers)
    assert ids(page) == [queued, running, cancelled, completed, failed]
    for item in page["data"]:
        status = await (await api.client.get(f"{EXPORTS}/{item['export_id']}", headers=headers)).json()
        status.pop("download_url", None), status.pop("expires_at", None)
        assert list(item.items()) == list(status.items())
    shown = page["data"][3]
    assert (shown["status"], shown["snapshot_at"], shown["complete_until"]) == ("completed", "2024-01-16T09:30:15Z", None)


async def test_following_the_links_reaches_every_page_forwards_and_backwards(api: Site) -> None:
    headers = await api.caller()
    created = [await api.create(headers) for _ in range(7)][::-1]
    pages = [await listed(api, headers, per_page=3)]
    while url := pages[-1]["next_page_url"]:
        pages.append(await listed(api, headers, url))
    assert [ids(page) for page in pages] == [created[:3], created[3:6], created[6:]]
    assert [page["prev_cursor"] is None for page in pages] == [True, False, False]
    assert [page["per_page"] for page in pages] == [3, 3, 3]
    back = [pages[-1]]
    while url := back[-1]["prev_page_url"]:
        back.append(await listed(api, headers, url))
    assert [ids(page) for page in back] == [created[6:], created[3:6], created[:3]]
    assert back[-1]["next_cursor"] == pages[0]["next_cursor"]
    assert ids(await listed(api, headers, per_page=3, cursor=pages[0]["next_cursor"])) == created[3:6]


async def test_a_full_last_page_has_no_next_page(api: Site) -> None:
    headers = await api.caller()
    for _ in range(4):
        await api.create(headers)
    first = await listed(api, headers, per_page=2)
    second = await listed(api, headers, first["next_page_url"])
    assert (len(second["data"]), second["next_cursor"], second["next_page_url"]) == (2, None, None)


async def test_new_and_deleted_exports_do_not_shift_the_pages(api: Site) -> None:
    headers = await api.caller()
    created = [await api.create(headers) for _ in range(4)][::-1]
    first = await listed(api, headers, per_page=2)
    newest = await api.create(headers)
    second = await listed(api, headers, first["next_page_url"])
    assert ids(second) == created[2:]
    async with api.database.connection() as connection:
        await connection.execute("DELETE FROM export_jobs WHERE id = ANY ($1)", [*created[2:], created[1]])
    again = await listed(api, headers, first["next_page_url"])
    assert (ids(again), again["next_cursor"]) == ([], None)
    assert ids(await listed(api, headers, again["prev_page_url"])) == [newest, created[0]]


async def test_an_empty_previous_page_links_forward(api: Site) -> None:
    headers = await api.caller()
    created = [await api.create(headers) for _ in range(3)][::-1]
    first = await listed(api, headers, per_page=1)
    second = await listed(api, headers, first["next_page_url"])
    async with api.database.connection() as connection:
        await connection.execute("DELETE FROM export_jobs WHERE id = $1", created[0])
    back = await listed(api, headers, second["prev_page_url"])
    assert (ids(back), back["prev_cursor"]) == ([], None)
    assert ids(await listed(api, headers, back["next_page_url"])) == [created[1]]


async def test_the_status_filter_applies_and_is_repeated_in_the_links_to_other_pages(api: Site) -> None:
    headers = await api.caller()
    created = [await api.create(headers) for _ in range(6)]
    for export_id in created[::2]:
        await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
    page = await listed(api, headers, status="cancelled", per_page=2)
    assert ids(page) == [created[4], created[2]]
    rest = await listed(api, headers, page["next_page_url"])
    assert (ids(rest), rest["next_cursor"]) == ([created[0]], None)
    assert "status=cancelled" in rest["prev_page_url"]
    assert ids(await listed(api, headers, status="expired")) == []


async def test_exports_of_other_spaces_are_never_listed(api: Site) -> None:
    one, other = await api.caller(), await api.caller()
    mine = [await api.create(one), await api.create(one)]
    await api.create(other)
    assert ids(await listed(api, one)) == mine[::-1]


async def test_a_cursor_of_another_space_or_filter_and_a_changed_cursor_are_422(api: Site) -> None:
    one, other = await api.caller(), await api.caller()
    for headers in (one, one, other, other):
        await api.create(headers)
    cursor = (await listed(api, one, per_page=1))["next_cursor"]
    filtered = (await listed(api, one, per_page=1, status="queued"))["next_cursor"]
    assert ids(await listed(api, one, per_page=1, cursor=cursor))
    assert list(await refused(api, other, f"cursor={cursor}")) == ["cursor"]
    assert list(await refused(api, one, f"cursor={cursor}&status=queued")) == ["cursor"]
    assert list(await refused(api, one, f"cursor={filtered}")) == ["cursor"]
    for place in range(len(cursor)):
        changed = cursor[:place] + ("A" if cursor[place] != "A" else "_") + cursor[place + 1 :]
        assert list(await refused(api, one, f"cursor={changed}")) == ["cursor"], place
    for text in ("", "x", cursor[:-1], cursor + "A", cursor + "=", "%00" * 34, "%C3%A9" * 34, "A" * 34, "A" * 5000):
        assert list(await refused(api, one, f"cursor={text}")) == ["cursor"], text


async def test_422_names_every_invalid_parameter_at_once(api: Site) -> None:
    headers = await api.caller()
    errors = await refused(api, headers, "status=done&per_page=0&cursor=x&unknown=1")
    assert list(errors) == ["status", "per_page", "cursor"]
    assert all(message.startswith(name) for name, messages in errors.items() for message in messages)
    for value in ("0", "5001", "-1", "1.5", "01", "x", "", "%D9%A1", "1e3", "10000"):
        assert list(await refused(api, headers, f"per_page={value}")) == ["per_page"], value
    for value in ("", "QUEUED", "queued,failed", "x"):
        assert list(await refused(api, headers, f"status={value}")) == ["status"], value
    for name, value in (("status", "queued"), ("per_page", "5"), ("cursor", "x")):
        assert list(await refused(api, headers, f"{name}={value}&{name}={value}")) == [name]
    assert (await listed(api, headers, per_page=5000, unknown="x"))["per_page"] == 5000


async def test_listing_needs_the_scope_exports_read(api: Site) -> None:
    assert (await api.client.get(EXPORTS, headers=await api.caller(Scope.EXPORTS_WRITE))).status == 403
    assert (await api.client.get(EXPORTS)).status == 401


async def test_links_to_other_pages_start_with_the_public_url(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, public_url="https://exports.test/base") as api:
        headers = await api.caller()
        for _ in range(2):
            await api.create(headers)
        page = await listed(api, headers, per_page=1)
        assert page["path"] == f"https://exports.test/base{EXPORTS}"
        assert page["next_page_url"] == f"{page['path']}?per_page=1&cursor={page['next_cursor']}"
