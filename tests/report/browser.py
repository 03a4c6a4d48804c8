"""A real browser for tests of pages: Debian's Chromium, headless, cut off from the network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REMEDY = "apt-get install chromium chromium-driver, and pip install selenium"
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """Yield a selenium driver with an empty profile; skip the test, with the remedy, where there is none.

    Its log keeps the console's messages (``browser``) and every request (``performance``).
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason=f"no selenium: {REMEDY}")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        pytest.skip(f"no Chromium to test pages with: {REMEDY}")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*_FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    try:
        driver.get("about:blank")
        requested(driver)  # forget the browser's own first page
        yield driver
    finally:
        driver.quit()


def requested(driver: Any) -> list[str]:
    """Return the addresses asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [it["params"]["request"]["url"] for it in messages if it["method"] == "Network.requestWillBeSent"]


def resize(driver: Any, width: int, height: int = 900) -> None:
    """Give the page a width in CSS pixels, narrower than a window can be if need be."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def prefer(driver: Any, scheme: str) -> None:
    """Ask for the ``light`` or ``dark`` look, and for no motion, which tests would have to wait for."""
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
