"""Debian's Chromium without a network, and what tests ask of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait

SECONDS = 60.0
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


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A Chromium with a new profile, which logs its console and its requests."""
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
    WebDriverWait(driver, SECONDS).until(found).click()


def text(driver: webdriver.Chrome, selector: str) -> str:
    """Wait until an element is visible, and return its text."""
    found = expected_conditions.visibility_of_element_located((By.CSS_SELECTOR, selector))
    return WebDriverWait(driver, SECONDS).until(found).text


def requested_hosts(driver: webdriver.Chrome) -> set[str]:
    """Host and port of every request that the pages sent."""
    log: list[dict[str, Any]] = driver.get_log("performance")  # type: ignore[no-untyped-call]  # not typed in selenium
    events = [json.loads(entry["message"])["message"] for entry in log]
    urls = [
        urlsplit(event["params"]["request"]["url"]) for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    return {url.netloc for url in urls if url.scheme in _NETWORK}
