"""Real headless Chromium, driven over its DevTools protocol.

In: an address and what to do there. Out: what the page computed, what it looks like, what it asked for, and everything
that its console complained of. `tests/install_chromium.sh` installs the browser.
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

Answer = dict[str, Any]  # Any: whatever the protocol says


def chromium() -> str | None:
    """Where the browser is, if it is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Refused(AssertionError):
    """The browser could not do what it was asked."""


@dataclass(slots=True)
class Page:
    """One tab."""

    browser: "Browser"
    session: str
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the console, uncaught exceptions, and what the browser refused to do."""
    asked: list[str] = field(default_factory=list)
    """Every address that was asked for."""

    async def call(self, method: str, **params: object) -> Answer:
        """One call of the protocol."""
        return await self.browser.call(method, params, self.session)

    async def open(self, url: str) -> None:
        """Go to an address and wait until the page is read."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def looks(self, *, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Be seen like this from now on."""
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

    async def sees(self, expression: str) -> Any:  # Any: whatever the script makes
        """What a JavaScript expression comes to."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise Refused(answer["exceptionDetails"])
        return answer["result"].get("value")

    async def text(self, selector: str) -> str:
        """What a part of the page says, as it is laid out."""
        found: str = await self.sees(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    async def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self._holds(expression):  # noqa: ASYNC110 -- another program decides it
                    await asyncio.sleep(0.05)
        except TimeoutError:
            shown = await self.sees("document.body.innerText")
            raise AssertionError(f"waited in vain for {expression}; the page shows\n{shown}") from None

    async def _holds(self, expression: str) -> bool:
        try:
            return bool(await self.sees(expression))
        except Refused:  # on its way from one document to the next there is nothing to ask
            return False

    async def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))

    def hear(self, method: str, params: Answer) -> None:
        """An event of the tab."""
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".strip())
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])


class Browser:
    """A running browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Answer]] = {}
        self._pages: dict[str, Page] = {}

    async def call(self, method: str, params: Answer, session: str = "") -> Answer:
        """One call of the protocol."""
        number = next(self._numbers)
        self._calls[number] = asyncio.get_running_loop().create_future()
        line = {"id": number, "method": method, "params": params}
        await self._socket.send_json(line | ({"sessionId": session} if session else {}))
        async with asyncio.timeout(PATIENCE_S):
            return await self._calls[number]

    async def page(self) -> Page:
        """A new tab, with cookies of its own."""
        context = (await self.call("Target.createBrowserContext", {}))["browserContextId"]
        target = await self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        page = self._pages[attached["sessionId"]] = Page(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        return page

    async def listen(self) -> None:
        """Hand on what the browser says, until it is gone."""
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
    """A browser until the block ends; it reaches nothing but this machine. `profile` is an empty directory."""
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
                with suppress(Exception):  # it may be gone already
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
        flags.append("--no-sandbox")  # which it cannot have as root
    return [*flags, "about:blank"]


async def _address(profile: Path, process: Process) -> str:
    """Where it listens, which it writes into its profile."""
    told = profile / "DevToolsActivePort"
    async with asyncio.timeout(PATIENCE_S):
        while not (lines := (await asyncio.to_thread(_read, told)).splitlines())[1:]:
            assert process.returncode is None, f"Chromium ended with {process.returncode}"
            await asyncio.sleep(0.05)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
