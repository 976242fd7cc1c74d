"""The page at /docs in Chromium, which reaches no host but the service."""

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.support.browser import chromium, click, requested_hosts, text
from tests.support.contacts import tenant
from tests.support.program import running

pytestmark = pytest.mark.debian


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
