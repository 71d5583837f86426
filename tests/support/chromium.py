"""Runs the installed Chromium with Playwright. `tests/install_chromium.sh` installs it."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def chromium() -> str | None:
    """The path of the installed browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@asynccontextmanager
async def run_chromium() -> AsyncIterator[Browser]:
    """Runs a headless browser that reaches only loopback."""
    path = chromium()
    assert path is not None, "there is no Chromium; run tests/install_chromium.sh"
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            args=FLAGS,
            chromium_sandbox=not root,  # Chromium's sandbox does not run as root
        )
        yield browser
        await browser.close()
