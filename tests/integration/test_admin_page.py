"""The operator's page: what it shows, what it does, and whom it refuses."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import structlog
from markupsafe import escape

from service.admin import login
from service.admin.sessions import Sessions
from service.exports.acts import Act
from service.model import ExportStatus
from service.postgres.claims import Progress
from tests.support.admin import TOKEN, Admin, admin
from tests.support.jobs import JobTable, holding, job_table, until_waited_for
from tests.support.outbox import outbox

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;{{ 7 * 7 }}"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;&#34;&#39;&amp;amp;{{ 7 * 7 }}"


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


@pytest.fixture
async def page(database_url: str) -> AsyncIterator[Admin]:
    """The operator's page, logged in."""
    async with admin(database_url) as running:
        await running.log_in()
        yield running


@pytest.fixture
async def read_only(database_url: str) -> AsyncIterator[Admin]:
    """The operator's page without ADMIN_TOKEN."""
    async with admin(database_url, token=None) as running:
        yield running


async def failed_export(jobs: JobTable) -> int:
    """An export that failed; returns its id."""
    claim = await jobs.claimed(max_attempts=1)
    await jobs.sql.execute(
        "SELECT end_attempt_in_error($1, 'storage_full', 'A sentence.', 'A detail.', true, '1 s')", claim.claim_id
    )
    return claim.export_id


# What it shows -------------------------------------------------------------------------------------------------------


async def test_the_overview_shows_what_runs_what_waits_and_what_failed(page: Admin, jobs: JobTable) -> None:
    failed = await failed_export(jobs)
    running = await jobs.claimed()
    await jobs.renew(running, Progress(phase="reading", rows_read=500, rows_estimated=2000))
    waiting = await jobs.queue(await jobs.space(max_running=0))
    text = await page.text("/")
    assert f'<progress id="bar-{running.export_id}" data-leaf max="2000" value="500"' in text
    assert "500 of about 2,000 contacts" in text
    assert "the Space is paused" in text
    assert f'href="/exports/{waiting}"' in text
    assert f'href="/exports/{failed}"' in text
    assert "A sentence." in text
    assert "A detail." in text
    assert text.count('<svg viewBox="0 0 600 122"') == 2


async def test_an_empty_installation_has_an_overview(page: Admin) -> None:
    text = await page.text("/")
    for sentence in ("No export is running.", "The queue is empty.", "No export has failed."):
        assert sentence in text


async def test_the_plots_show_contacts_and_the_longest_wait(page: Admin, jobs: JobTable) -> None:
    claim = await jobs.claimed(run_after="claimed_at - interval '95 seconds'")
    await jobs.complete(claim)
    await jobs.queue(await jobs.space(), run_after="now() - interval '3 minutes'")
    text = await page.text("/")
    assert "Contacts exported in 10 minutes: at most 3 contacts" in text
    assert "Longest wait for a slot: at most 3 min" in text
    assert text.count('<rect class="bar"') >= 2


async def test_the_story_of_an_export_has_its_attempts_and_what_to_search_in_the_log(page: Admin, jobs: JobTable) -> None:
    claim = await jobs.claimed()
    await jobs.lose(claim)
    again = await jobs.claim()
    await jobs.complete(again)
    text = await page.text(f"/exports/{claim.export_id}")
    for expected in (str(claim.claim_id), str(again.claim_id), "a request", "worker_lost", "the lease expired during phase"):
        assert expected in text
    assert 'class="status completed"' in text


async def test_the_story_of_an_export_has_its_webhooks(page: Admin, database_url: str) -> None:
    async with outbox(database_url) as box:
        space_id, _ = await box.space()
        (export_id,) = await box.ended(space_id)
        row = await box.row(export_id)
        summary = await box.summary(export_id)
    text = await page.text(f"/exports/{export_id}")
    for expected in (str(row["webhook_id"]), row["event"], str(escape(summary))):
        assert expected in text


async def test_exports_are_listed_by_space_and_status(page: Admin, jobs: JobTable) -> None:
    failed, queued = await failed_export(jobs), await jobs.queue(await jobs.space())
    for status in (None, *ExportStatus):
        text = await page.text(f"/exports?status={status or ''}")
        assert (f'href="/exports/{failed}"' in text) is (status in (None, ExportStatus.FAILED))
        assert (f'href="/exports/{queued}"' in text) is (status in (None, ExportStatus.QUEUED))
    space_id = (await jobs.job(queued))["space_id"]
    assert f'href="/exports/{failed}"' not in await page.text(f"/exports?space={space_id}")


UNKNOWN = """
/exports/1 /exports/0 /exports/9223372036854775808 /exports/%D9%A3 /exports/x /exports/1/explode /exports?space=x
/exports?status=odd /spaces/7 /spaces/99999999999999999999 /nothing /static/secret
"""


async def test_an_unknown_address_is_a_page_that_says_so(page: Admin) -> None:
    for path in UNKNOWN.split():
        assert 'role="alert"' in await page.text(path, 404), path


async def test_the_form_for_an_id_leads_to_the_export(page: Admin) -> None:
    response = await page.client.get("/exports?id=17", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (303, "/exports/17")


async def test_a_name_full_of_markup_is_shown_as_text(page: Admin, jobs: JobTable) -> None:
    status, address = await page.post("/spaces", name=MARKUP, timezone="UTC")
    assert status == 303
    space_id = int(address.rpartition("/")[2])
    await jobs.queue(space_id, error_detail=f"'{MARKUP.replace(chr(39), chr(39) * 2)}'", error_code="'internal'")
    export_id = await jobs.sql.fetchval("SELECT max(id) FROM export_jobs")
    for path in ("/", "/spaces", address, f"/exports/{export_id}", "/exports", f"/exports/{export_id}/cancel"):
        text = await page.text(path)
        assert "<img" not in text
        assert "<script>" not in text
        assert (
            "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;&#34;&#39;&amp;amp;{{ 7 * 7 }}" in text
        )


# What it does --------------------------------------------------------------------------------------------------------


async def test_cancelling_stops_the_attempt_and_is_logged(page: Admin, jobs: JobTable) -> None:
    claim = await jobs.claimed()
    assert "Nothing that it has written stays." in await page.text(f"/exports/{claim.export_id}/cancel")
    with structlog.testing.capture_logs() as logged:
        status, address = await page.post(f"/exports/{claim.export_id}/cancel", seen="processing")
    assert (status, address) == (303, f"/exports/{claim.export_id}?said=cancel")
    assert "The export was cancelled." in await page.text(address)
    assert (await jobs.job(claim.export_id))["status"] == "cancelled"
    assert page.cancelled == [claim.claim_id]
    (line,) = [line for line in logged if line["event"] == "admin_act"]
    assert (line["act"], line["export_id"], line["seen"]) == ("cancel", claim.export_id, "processing")
    assert "export_cancelled" in [line["event"] for line in logged]


async def test_kicking_takes_a_running_export_from_its_worker(page: Admin, jobs: JobTable) -> None:
    claim = await jobs.claimed()
    _, address = await page.post(f"/exports/{claim.export_id}/kick", seen="processing")
    assert address.endswith("said=kick")
    assert (await jobs.job(claim.export_id))["status"] == "queued"
    assert (await jobs.attempt(claim))["outcome"] == "handed_back"
    assert page.woken


async def test_kicking_skips_the_delay_of_a_retry(page: Admin, jobs: JobTable) -> None:
    export_id = await jobs.queue(await jobs.space(), run_after="now() + interval '1 hour'")
    await page.post(f"/exports/{export_id}/kick", seen="queued")
    assert await jobs.sql.fetchval("SELECT run_after <= now() FROM export_jobs")


async def test_retrying_queues_a_new_export_and_leads_to_it(page: Admin, jobs: JobTable) -> None:
    failed = await failed_export(jobs)
    _, address = await page.post(f"/exports/{failed}/retry", seen="failed")
    assert address == f"/exports/{failed + 1}?said=retry"
    assert "queued with the parameters of the other one" in await page.text(address)
    assert page.woken


async def test_deleting_the_file_expires_the_export(page: Admin, jobs: JobTable) -> None:
    claim = await jobs.claimed()
    await jobs.complete(claim)
    await page.post(f"/exports/{claim.export_id}/delete-file", seen="completed")
    assert (await jobs.job(claim.export_id))["status"] == "expired"


async def test_an_export_that_completed_before_its_cancellation_was_confirmed_keeps_its_file(
    page: Admin, jobs: JobTable
) -> None:
    claim = await jobs.claimed()
    await page.text(f"/exports/{claim.export_id}/cancel")
    await jobs.complete(claim)
    _, address = await page.post(f"/exports/{claim.export_id}/cancel", seen="processing")
    assert "Nothing was done" in await page.text(address)
    assert (await jobs.job(claim.export_id))["status"] == "completed"


async def test_an_export_that_completes_during_its_cancellation_keeps_its_file(page: Admin, jobs: JobTable) -> None:
    claim = await jobs.claimed()
    completion = "SELECT complete_export($1, 3, 100, repeat('ab', 32), now(), NULL, interval '1 day')"
    async with holding(jobs.url, completion.replace("$1", f"'{claim.claim_id}'")) as completing:
        cancelling = asyncio.create_task(page.post(f"/exports/{claim.export_id}/cancel", seen="processing"))
        await until_waited_for(jobs.sql, completing)
        await completing.execute("COMMIT; BEGIN")
        _, address = await cancelling
    assert address.endswith("said=changed")
    assert (await jobs.job(claim.export_id))["status"] == "completed"


async def test_an_act_that_the_state_does_not_allow_does_nothing(page: Admin, jobs: JobTable) -> None:
    exports = {ExportStatus.FAILED: await failed_export(jobs), ExportStatus.QUEUED: await jobs.queue(await jobs.space())}
    before = await jobs.everything()
    for status, export_id in exports.items():
        for act in set(Act) - set(Act.possible(status)):
            assert "This is not possible" in await page.text(f"/exports/{export_id}/{act}")
            for seen in ExportStatus:
                _, address = await page.post(f"/exports/{export_id}/{act}", seen=seen)
                assert address.endswith("said=changed"), (act, seen)
    assert (await page.post("/exports/1/cancel", seen="odd"))[0] == 422
    assert await jobs.everything() == before


async def test_a_key_is_shown_once_and_works_until_it_is_revoked(page: Admin, jobs: JobTable) -> None:
    space_id = await jobs.space()
    form = {"csrf": await page.csrf(), "scope": "exports:read", "days": "30"}
    with structlog.testing.capture_logs() as logged:
        text = await (await page.client.post(f"/spaces/{space_id}/keys", data=form)).text()
    key = text.partition('value="ce_')[2].partition('"')[0]
    key_id = key.split("_")[0]
    assert key
    assert key not in str(logged)
    again = await page.text(f"/spaces/{space_id}")
    assert key not in again
    assert key_id in again
    row = await jobs.sql.fetchrow("SELECT scopes, expires_at > now() + interval '29 days' AS long FROM api_keys")
    assert row is not None
    assert (row["scopes"], row["long"]) == (["exports:read"], True)
    assert "cannot be undone" in await page.text(f"/spaces/{space_id}/keys/{key_id}/revoke")
    assert await page.post(f"/spaces/{space_id}/keys/{key_id}/revoke") == (303, f"/spaces/{space_id}")
    assert await jobs.sql.fetchval("SELECT revoked_at FROM api_keys")
    assert (await page.post(f"/spaces/{space_id}/keys/{'0' * 16}/revoke"))[0] == 404


async def test_a_space_is_suspended_and_activated(page: Admin, jobs: JobTable) -> None:
    space_id = await jobs.space()
    for act, active in (("suspend", False), ("activate", True)):
        assert act.capitalize() in await page.text(f"/spaces/{space_id}")
        assert "<form" in await page.text(f"/spaces/{space_id}/{act}")
        assert await page.post(f"/spaces/{space_id}/{act}") == (303, f"/spaces/{space_id}")
        assert await jobs.sql.fetchval("SELECT subscription_active FROM spaces") is active


MISTAKES: tuple[tuple[str, dict[str, str], str], ...] = (
    ("/spaces", {"name": " ", "timezone": "UTC"}, "The name must have"),
    ("/spaces", {"name": "a\x00b", "timezone": "UTC"}, "The name must have"),
    ("/spaces", {"name": "a" * 201, "timezone": "Mars"}, "This is not an IANA timezone"),
    ("/spaces/1/keys", {}, "Choose at least one scope."),
    ("/spaces/1/keys", {"scope": "exports:read", "days": "0"}, "must be 1 to 36500 days"),
    ("/spaces/1/keys", {"scope": "exports:read", "days": "-1"}, "must be 1 to 36500 days"),
)


async def test_a_form_with_a_mistake_comes_back_with_a_sentence(page: Admin, jobs: JobTable) -> None:
    await jobs.space()
    for path, fields, said in MISTAKES:
        status, text = await page.post(path, **fields)
        assert status == 422
        assert said in text
        assert 'aria-invalid="true"' in text


# Whom it refuses -----------------------------------------------------------------------------------------------------

ACTS = [
    "/spaces", "/spaces/1/keys", "/spaces/1/suspend", f"/spaces/1/keys/{'0' * 16}/revoke",
    *(f"/exports/1/{act}" for act in Act), "/logout",
]  # fmt: skip


async def test_a_form_without_the_token_of_its_session_does_nothing(page: Admin, jobs: JobTable) -> None:
    await jobs.queue(await jobs.space())
    before = await jobs.everything()
    for path in ACTS:
        for csrf in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "\u00e9"}):
            form = {**csrf, "seen": "queued", "name": "a name", "timezone": "UTC", "scope": "exports:read"}
            response = await page.client.post(path, data=form, allow_redirects=False)
            assert response.status == 403, path
            assert "not sent from this page" in await response.text()
    assert await jobs.everything() == before
    assert await jobs.sql.fetchval("SELECT count(*) FROM spaces WHERE subscription_active") == 1
    assert await jobs.sql.fetchval("SELECT count(*) FROM api_keys") == 0
    await page.text("/")  # still logged in


async def test_nothing_can_be_done_without_admin_token(read_only: Admin) -> None:
    for path in (*ACTS, "/login"):
        response = await read_only.client.post(path, data={"seen": "queued"}, allow_redirects=False)
        assert response.status == 403, path
        assert "read-only" in await response.text()


async def test_the_page_without_admin_token_shows_no_forms_that_act(read_only: Admin, jobs: JobTable) -> None:
    export_id = await jobs.queue(await jobs.space())
    for path in ("/", "/exports", f"/exports/{export_id}", "/spaces", "/spaces/1"):
        text = await read_only.text(path)
        assert 'method="post"' not in text
        assert "Read-only" in text
    assert "read-only" in await read_only.text(f"/exports/{export_id}/cancel", 403)
    assert "read-only" in await read_only.text("/spaces/1/suspend", 403)


LOOPBACK = ("localhost", "LOCALHOST:8082", "127.0.0.1:8082", "[::1]:8082", "[::1]", "127.1.2.3")
OTHERS = ("evil.example", "localhost.evil.example:8082", "127.0.0.1.evil.example", "10.0.0.1:8082", "[fe80::1]:8082", "")


async def test_the_page_without_admin_token_accepts_only_loopback_names(read_only: Admin) -> None:
    for host in (*LOOPBACK, *OTHERS):
        for path in ("/", "/exports", "/spaces"):
            response = await read_only.client.get(path, headers={"Host": host})
            assert response.status == (200 if host in LOOPBACK else 403), (host, path)
        for path in ("/metrics", "/healthz", "/readyz"):
            assert (await read_only.client.get(path, headers={"Host": host})).status == 200


async def test_without_a_session_every_page_leads_to_the_login(database_url: str) -> None:
    async with admin(database_url) as visitor:
        for path in ("/", "/exports/1", "/spaces", "/exports/1/cancel", "/nothing"):
            response = await visitor.client.get(path, allow_redirects=False)
            assert (response.status, response.headers["Location"]) == (303, "/login"), path
        response = await visitor.client.post("/spaces", data={"name": "a", "timezone": "UTC"}, allow_redirects=False)
        assert response.headers["Location"] == "/login"
        for path in ("/metrics", "/healthz", "/readyz", "/static/style.css"):
            assert (await visitor.client.get(path)).status == 200, path


async def test_the_cookie_of_a_login_is_out_of_reach_for_scripts_and_other_sites(database_url: str) -> None:
    async with admin(database_url) as visitor:
        response = await visitor.client.post("/login", data={"token": TOKEN}, allow_redirects=False)
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        behind_tls = await visitor.client.post(
            "/login", data={"token": TOKEN}, headers={"X-Forwarded-Proto": "https"}, allow_redirects=False
        )
        assert "Secure" in behind_tls.headers["Set-Cookie"]


async def test_a_wrong_token_opens_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "_WRONG_PAUSE", 0.0)
    async with admin(database_url) as visitor:
        for token in ("", "wrong", TOKEN + "x", TOKEN[:-1], "\u00e9"):
            response = await visitor.client.post("/login", data={"token": token}, allow_redirects=False)
            assert response.status == 403
            assert "Set-Cookie" not in response.headers
            assert "This is not the token." in await response.text()


async def test_a_login_form_of_another_site_is_refused(database_url: str) -> None:
    async with admin(database_url) as visitor:
        response = await visitor.client.post(
            "/login", data={"token": TOKEN}, headers={"Sec-Fetch-Site": "cross-site"}, allow_redirects=False
        )
        assert response.status == 403
        assert "Set-Cookie" not in response.headers


async def test_a_changed_cookie_is_no_session(page: Admin) -> None:
    (cookie,) = page.client.session.cookie_jar
    expires, nonce, signature = cookie.value.split(".")
    page.client.session.cookie_jar.clear()
    changed = ("", "x", f"{cookie.value}x", f"{int(expires) + 1}.{nonce}.{signature}", f"{expires}.{nonce}.")
    for value, status in (*((each, 303) for each in changed), (cookie.value, 200)):
        response = await page.client.get("/", headers={"Cookie": f"{cookie.key}={value}"}, allow_redirects=False)
        assert response.status == status, value


def test_a_session_ends_after_its_lifetime_and_with_its_token() -> None:
    sessions = Sessions(TOKEN)
    cookie = sessions.begin()
    assert sessions.find(cookie) == Sessions(TOKEN).find(cookie) is not None
    assert Sessions(f"{TOKEN}x").find(cookie) is None
    payload = f"{int(time.time()) - 1}.a-nonce"
    assert sessions.find(f"{payload}.{sessions._sign('session', payload)}") is None


async def test_logging_out_ends_the_session_of_the_browser(page: Admin) -> None:
    assert await page.post("/logout") == (303, "/login")
    assert (await page.client.get("/", allow_redirects=False)).status == 303


_FORM = "application/x-www-form-urlencoded"
BODIES = (
    ("application/json", b"{}", 415),
    ("multipart/form-data; boundary=x", b"--x--", 415),
    (_FORM, b"name=\xff", 400),
    (_FORM, b"&".join([b"a=1"] * 30), 400),
    (_FORM, b"a" * 70_000, 413),
)


async def test_a_body_that_is_no_form_is_refused(page: Admin) -> None:
    for content_type, body, status in BODIES:
        headers = {"Content-Type": content_type}
        response = await page.client.post("/spaces", data=body, headers=headers, allow_redirects=False)
        assert response.status == status, content_type
        assert 'role="alert"' in await response.text()


async def test_pages_load_nothing_from_elsewhere_and_stand_in_no_frame(page: Admin) -> None:
    for path in ("/", "/login", "/static/live.js", "/nothing"):
        headers = (await page.client.get(path)).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
