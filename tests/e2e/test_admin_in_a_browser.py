"""The operator's page in Chromium, which reaches no host but the service."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from service.client import ExportClient
from service.failures import StorageFull
from tests.support import stores
from tests.support.browser import SECONDS, chromium, click, requested_hosts, text
from tests.support.contacts import Tenant, add_contacts, tenant, whole_range
from tests.support.jobs import job_table
from tests.support.program import Program, free_port, running
from tests.support.waiting import until_ended, until_row

pytestmark = pytest.mark.debian
TOKEN = "a-token-of-the-tests"
MARKUP = '<img src=x onerror="document.title=1"> & Söhne'
_WIDTHS = {"wide": (1200, 1600), "phone": (390, 1600)}
_SLOW = {"ALLOW_FAILPOINTS": "1", "FAILPOINTS": "batch_read:delay(3)", "LEASE_SECONDS": "2"}
"""An export of 20,000 contacts takes about 30 s, and its progress is stored every half second."""


@asynccontextmanager
async def slow_service(database_url: str, directory: Path) -> AsyncIterator[Program]:
    """The service with the operator's page, whose exports are slow."""
    async with stores.directory_store(directory / "files") as store:
        settings = {"DATABASE_URL": database_url, **store.settings, **_SLOW, "ADMIN_PORT": free_port(), "ADMIN_TOKEN": TOKEN}
        async with running(settings) as program:
            yield program


def wait(driver: webdriver.Chrome, script: str) -> object:
    """Wait until the expression is true in the page; returns its value."""
    return WebDriverWait(driver, SECONDS).until(lambda it: it.execute_script(f"return {script}"))


def log_in(driver: webdriver.Chrome, address: str) -> None:
    """Log in with the keyboard alone."""
    driver.get(address)
    assert driver.switch_to.active_element.get_attribute("id") == "token"
    driver.switch_to.active_element.send_keys(TOKEN, Keys.ENTER)
    wait(driver, "document.querySelector('#figures dd')")


def photograph(driver: webdriver.Chrome, name: str) -> None:
    """Check the page in light and dark, wide and on a phone; save pictures in the directory SCREENSHOTS if it is set."""
    for width, (x, y) in _WIDTHS.items():
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": x, "height": y, "deviceScaleFactor": 1, "mobile": False}
        )
        overflow = driver.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow <= 0, f"{name} is {overflow} pixels too wide on a screen of {x}"
        for scheme in ("light", "dark"):
            media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            check_contrast(driver, f"{name} {width} {scheme}")
            if directory := os.environ.get("SCREENSHOTS"):
                driver.save_screenshot(f"{directory}/{name}-{width}-{scheme}.png")
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


_CONTRAST = """
const rgb = (text) => text.match(/[0-9.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const color = rgb(getComputedStyle(each).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
const weak = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility() || element.tagName === "OPTION") continue;
  const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) weak.push(`${element.outerHTML.slice(0, 80)} ${ratio.toFixed(1)}`);
}
return weak;
"""


def check_contrast(driver: webdriver.Chrome, name: str) -> None:
    """Every text has a contrast of at least 4.5 to its ground (WCAG 2.2, 1.4.3)."""
    assert driver.execute_script(_CONTRAST) == [], name


_NAMELESS = """
const named = (element) => element.getAttribute("aria-label") || element.textContent.trim() || element.labels?.length
  || element.getAttribute("aria-labelledby");
const used = "a, button, input:not([type=hidden], [hidden]), select, progress, svg[role], nav";
const problems = [...document.querySelectorAll(used)]
  .filter((element) => !named(element)).map((element) => element.outerHTML);
for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]"))
  for (const name of ["aria-labelledby", "aria-describedby"])
    if (element.hasAttribute(name) && !document.getElementById(element.getAttribute(name))) problems.push(element.outerHTML);
const levels = [...document.querySelectorAll("h1, h2, h3")].map((each) => Number(each.tagName[1]));
if (levels.lastIndexOf(1) !== 0) problems.push("the first heading is not the only h1");
levels.reduce((before, level) => { if (level > before + 1) problems.push(`h${level} after h${before}`); return level; }, 0);
const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
if (new Set(ids).size !== ids.length) problems.push(`repeated ids: ${ids}`);
if (!document.documentElement.lang || !document.querySelector("main")) problems.push("no language or no main");
return problems;
"""


def check_names(driver: webdriver.Chrome) -> None:
    """What a screen reader needs: everything that can be used has a name, and headings have an order."""
    assert driver.execute_script(_NAMELESS) == [], driver.current_url


def use_page(driver: webdriver.Chrome, address: str, export_id: int) -> None:
    """Watch the bar move while a link has the focus, then cancel the export with the keyboard."""
    log_in(driver, address)
    bar = f"document.getElementById('bar-{export_id}')"
    first = wait(driver, f"{bar}?.value > 500 && {bar}.value")
    driver.execute_script(f"document.getElementById('cancel-{export_id}').focus(); window.same = {bar}")
    assert wait(driver, f"{bar}.value > {first} && {bar}.value < {bar}.max")
    assert driver.execute_script(f"return window.same === {bar}"), "the bar was replaced, not moved"
    assert driver.switch_to.active_element.get_attribute("id") == f"cancel-{export_id}"
    assert "updates itself" in text(driver, "#updated")
    photograph(driver, "overview")
    check_names(driver)
    driver.find_element(By.ID, f"cancel-{export_id}").send_keys(Keys.ENTER)
    assert "Nothing that it has written stays." in text(driver, "main")
    photograph(driver, "confirm")
    check_names(driver)
    driver.find_element(By.ID, "confirm").send_keys(Keys.ENTER)
    assert text(driver, ".said") == "The export was cancelled."
    photograph(driver, "export")
    check_names(driver)


def visit_the_others(driver: webdriver.Chrome, address: str, space_id: int) -> str:
    """Visit the other pages, create a key, and return it."""
    for name, path in (("exports", "/exports"), ("spaces", "/spaces"), ("missing", "/nothing")):
        driver.get(f"{address}{path}")
        photograph(driver, name)
        check_names(driver)
    driver.get(f"{address}/spaces/{space_id}")
    assert driver.find_element(By.TAG_NAME, "h1").text == MARKUP
    click(driver, ".stacked button")
    key = str(wait(driver, "document.getElementById('key')?.value"))
    photograph(driver, "space")
    check_names(driver)
    return key


async def test_an_operator_watches_and_cancels_an_export_and_creates_a_key(
    database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 20_000)
    await connection.execute("UPDATE spaces SET name = $1", MARKUP)
    async with job_table(database_url) as jobs:
        failed = await jobs.claimed(max_attempts=1)
        error = "SELECT end_attempt_in_error($1, 'storage_full', $2, 'a detail for operators', true, '1 s')"
        await connection.execute(error, failed.claim_id, StorageFull.message)
    paused = await tenant(database_url)
    await connection.execute("UPDATE spaces SET max_running_exports = 0 WHERE id = $1", paused.space_id)
    async with slow_service(database_url, tmp_path) as program, ExportClient(program.address, space.key) as client:
        await connection.execute(
            "UPDATE export_jobs SET run_after = now() - interval '50 minutes' WHERE id = $1", await queue(program, paused)
        )
        export_id = await client.create(whole_range())
        await until_row(connection, "SELECT 1 FROM export_jobs WHERE id = $1 AND phase = 'reading'", export_id)
        with chromium(tmp_path / "profile") as driver:
            await asyncio.to_thread(use_page, driver, program.admin, export_id)
            assert (await until_ended(connection, export_id))["status"] == "cancelled"
            key = await asyncio.to_thread(visit_the_others, driver, program.admin, space.space_id)
            console = await asyncio.to_thread(driver.get_log, "browser")
            hosts = await asyncio.to_thread(requested_hosts, driver)
        async with ExportClient(program.address, key) as other:
            assert (await other.status(export_id)).status == "cancelled"
    assert [line for line in console if "/nothing" not in line["message"]] == []
    assert hosts == {urlsplit(program.admin).netloc}
    acts = [(line["act"], line.get("export_id")) for line in program.events("admin_act")]
    assert acts == [("cancel", export_id), ("create-key", None)]


async def queue(program: Program, of: Tenant) -> int:
    """Queue an export of a Space; returns its id."""
    async with ExportClient(program.address, of.key) as client:
        return await client.create(whole_range())


def lose_and_find_the_service(driver: webdriver.Chrome, address: str, stop: "asyncio.Future[None]") -> None:
    """The open page says when the service stops responding, and can be paused."""
    log_in(driver, address)
    click(driver, "#pause")
    assert text(driver, "#updated") == "Updates are paused."
    assert driver.find_element(By.ID, "pause").get_attribute("aria-pressed") == "true"
    click(driver, "#pause")
    stop.get_loop().call_soon_threadsafe(stop.set_result, None)
    wait(driver, "document.getElementById('updated').textContent.includes('does not respond')")
    assert driver.find_elements(By.CSS_SELECTOR, "#figures dd")


async def test_an_open_page_says_that_the_service_does_not_respond(database_url: str, tmp_path: Path) -> None:
    async with slow_service(database_url, tmp_path) as program:
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with chromium(tmp_path / "profile") as driver:
            using = asyncio.create_task(asyncio.to_thread(lose_and_find_the_service, driver, program.admin, stop))
            await asyncio.wait({using, stop}, return_when=asyncio.FIRST_COMPLETED)
            await program.end()
            await using
