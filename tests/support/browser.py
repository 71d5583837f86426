"""Drives headless Chromium over its DevTools protocol.

A `Page` evaluates JavaScript, takes screenshots, and records requests and console errors. `tests/install_chromium.sh`
installs the browser.
"""

import asyncio
import base64
import itertools
import json
import os
import shutil
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
PATIENCE_S = 30.0

Answer = dict[str, Any]  # Any: JSON of the protocol


def chromium() -> str | None:
    """The path of the installed browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Refused(AssertionError):
    """The browser rejected a call."""


@dataclass(slots=True)
class Page:
    """One browser tab."""

    browser: "Browser"
    session: str
    complaints: list[str] = field(default_factory=list)
    """Console errors and warnings, uncaught exceptions, and blocked resources."""
    asked: list[str] = field(default_factory=list)
    """URLs of all requests."""

    async def call(self, method: str, **params: object) -> Answer:
        """Sends one DevTools command and returns its result."""
        return await self.browser.call(method, params, self.session)

    async def open(self, url: str) -> None:
        """Opens a URL and waits until the page is loaded."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def looks(self, *, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Sets window size, colour scheme and device type from now on."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        features.append({"name": "prefers-reduced-motion", "value": "reduce"})
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def sees(self, expression: str) -> Any:  # Any: the script's result
        """Evaluates a JavaScript expression. Raises Refused if it throws."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise Refused(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def text(self, selector: str) -> str:
        """The rendered text of the element that the selector matches."""
        found: str = await self.sees(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    async def until(self, expression: str) -> None:
        """Waits until a JavaScript expression is true."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self._holds(expression):  # noqa: ASYNC110 -- polls another process
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = await self.sees("document.body.innerText")
            raise AssertionError(f"waited in vain for {expression}; the page shows\n{shown}") from None

    async def _holds(self, expression: str) -> bool:
        try:
            return bool(await self.sees(expression))
        except Refused:  # no document exists during a navigation
            return False

    async def screenshot(self, path: Path) -> None:
        """Saves a PNG of the whole page."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))

    def hear(self, method: str, params: Answer) -> None:
        """Records an event of the tab."""
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])


class Browser:
    """A running browser process."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._pages: dict[str, Page] = {}

    async def call(self, method: str, params: Answer, session: str = "") -> Answer:
        """Sends one DevTools command and returns its result."""
        number = next(self._numbers)
        self._calls[number] = asyncio.get_running_loop().create_future()
        line = {"id": number, "method": method, "params": params}
        await self._socket.send_json(line | ({"sessionId": session} if session else {}))
        async with asyncio.timeout(PATIENCE_S):
            return await self._calls[number]

    async def page(self) -> Page:
        """Opens a tab with its own cookie jar."""
        context = (await self.call("Target.createBrowserContext", {}))["browserContextId"]
        target = await self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        return page

    async def listen(self) -> None:
        """Dispatches messages of the browser until the connection ends."""
        async for message in self._socket:
            line: Answer = json.loads(message.data)
            if "id" in line:
                call = self._calls.pop(line["id"])
                if call.done():
                    continue
                if "error" in line:
                    call.set_exception(Refused(line["error"]["message"]))
                else:
                    call.set_result(line["result"])
            elif (page := self._pages.get(line.get("sessionId", ""))) is not None:
                page.hear(line["method"], line["params"])


@asynccontextmanager
async def open_browser(profile: Path) -> AsyncIterator[Browser]:
    """Runs a browser that reaches only loopback. `profile` is an empty directory."""
    program = chromium()
    assert program is not None, "there is no Chromium; run tests/install_chromium.sh"
    process = await asyncio.create_subprocess_exec(program, *_flags(profile), stdout=DEVNULL, stderr=DEVNULL)
    try:
        url = await _address(profile, process)
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            browser = Browser(socket)
            listening = asyncio.create_task(browser.listen())
            try:
                yield browser
            finally:
                with suppress(Exception):  # it may have exited already
                    await browser.call("Browser.close", {})
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    finally:
        with suppress(ProcessLookupError, TimeoutError):
            async with asyncio.timeout(10):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


def _flags(profile: Path) -> list[str]:
    flags = [
        "--headless",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "--no-first-run",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium's sandbox does not run as root
    return [*flags, "about:blank"]


async def _address(profile: Path, process: Process) -> str:
    """The browser's websocket URL, which it writes into its profile."""
    told = profile / "DevToolsActivePort"
    async with asyncio.timeout(PATIENCE_S):
        while not (lines := (await asyncio.to_thread(_read, told)).splitlines())[1:]:
            assert process.returncode is None, f"Chromium ended with {process.returncode}"
            await asyncio.sleep(0.05)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
