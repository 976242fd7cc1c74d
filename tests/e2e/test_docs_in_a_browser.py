"""The page at /docs in Chromium, which reaches no host but the service."""

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.contacts import tenant
from tests.support.program import running

_SECONDS = 60.0
_NETWORK = ("http", "https", "ws", "wss")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1600",
    # The network is cut off: no name has an address.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
pytestmark = pytest.mark.debian


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium with a new profile, which logs its console and its requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


def click(driver: webdriver.Chrome, selector: str) -> None:
    """Wait until an element can be clicked, and click it."""
    found = expected_conditions.element_to_be_clickable((By.CSS_SELECTOR, selector))
    WebDriverWait(driver, _SECONDS).until(found).click()


def text(driver: webdriver.Chrome, selector: str) -> str:
    """Wait until an element is visible, and return its text."""
    found = expected_conditions.visibility_of_element_located((By.CSS_SELECTOR, selector))
    return WebDriverWait(driver, _SECONDS).until(found).text


def requested_hosts(driver: webdriver.Chrome) -> set[str]:
    """Host and port of every request that the page sent."""
    log: list[dict[str, Any]] = driver.get_log("performance")  # type: ignore[no-untyped-call]  # not typed in selenium
    events = [json.loads(entry["message"])["message"] for entry in log]
    urls = [
        urlsplit(event["params"]["request"]["url"]) for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    return {url.netloc for url in urls if url.scheme in _NETWORK}


def use_page(driver: webdriver.Chrome, address: str, key: str) -> tuple[str, str]:
    """Authorise with a key and create an export on the page; returns the status and the body that the page shows."""
    driver.get(f"{address}/docs")
    click(driver, ".scheme-container .authorize")
    driver.find_element(By.CSS_SELECTOR, ".auth-container input").send_keys(key)
    click(driver, ".auth-container .modal-btn.authorize")
    click(driver, ".auth-container .btn-done")
    operation = "#operations-exports-createExport"
    click(driver, f"{operation} .opblock-summary-control")
    click(driver, f"{operation} .execute")
    status = text(driver, f"{operation} .live-responses-table tbody .response-col_status")
    body = text(driver, f"{operation} .live-responses-table tbody .highlight-code code")
    if screenshot := os.environ.get("SCREENSHOT"):
        driver.save_screenshot(screenshot)
    return status, body


async def test_the_page_authorises_and_calls_the_api_without_other_hosts_and_console_errors(
    database_url: str, tmp_path: Path
) -> None:
    space = await tenant(database_url)
    files = tmp_path / "files"
    files.mkdir()
    async with running({"DATABASE_URL": database_url, "STORAGE_URL": files.as_uri()}) as program:
        with chromium(tmp_path / "profile") as driver:
            status, body = await asyncio.to_thread(use_page, driver, program.address, space.key)
            console = await asyncio.to_thread(driver.get_log, "browser")
            hosts = await asyncio.to_thread(requested_hosts, driver)
    assert status.startswith("202")
    assert '"status": "queued"' in body
    assert console == []
    assert hosts == {urlsplit(program.address).netloc}
