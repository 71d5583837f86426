"""Builds a service with its status page, for tests that use it over HTTP.

async with open_page(tmp_path) as (setup, site):
    assert await site.get("/healthz") == (200, "alive\\n")
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp

from bot.web.server import WebServer
from tests.support.builders.service import ServiceSetup, run_service

TICK_S = 0.05
Moment = dict[str, Any]  # Any: JSON values


@dataclass(slots=True)
class Site:
    """The page as an HTTP client uses it. `web` is the server itself."""

    web: WebServer
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        """The page's URL without the trailing slash."""
        return self.web.url.rstrip("/").replace("0.0.0.0", "127.0.0.1")

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text of a response, without following redirects. Write header names with _."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(self.url + path, headers=named, allow_redirects=False) as response:
            return response.status, await response.text()

    async def until(self, path: str, holds: Callable[[int, str], bool]) -> str:
        """Repeats a request until `holds` accepts the response; its text."""
        async with asyncio.timeout(20):
            while not holds(*(found := await self.get(path))):  # noqa: ASYNC110 -- polled over HTTP
                await asyncio.sleep(0.01)
        return found[1]

    async def metric(self, name: str) -> float:
        """The value of one metric, by its full name with labels."""
        _, text = await self.get("/metrics")
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]
        assert len(values) == 1, f"{name} is there {len(values)} times in\n{text}"
        return float(values[0])

    @asynccontextmanager
    async def events(self) -> AsyncIterator["Events"]:
        """Opens the page's event stream."""
        async with self.session.get(f"{self.url}/events") as response:
            yield Events(response)


@dataclass(slots=True)
class Events:
    """A stream of server-sent events."""

    response: aiohttp.ClientResponse

    async def next(self) -> tuple[str, Moment]:
        """The next event: its name and its data. Raises EOFError at the end of the stream."""
        name, data = "", ""
        async with asyncio.timeout(20):
            while line := (await self.response.content.readline()).decode():
                kind, _, value = line.strip().partition(": ")
                if not kind and data:
                    return name, json.loads(data)
                name, data = (value if kind == "event" else name), (value if kind == "data" else data)
        raise EOFError

    async def until(self, holds: Callable[[Moment], bool]) -> Moment:
        """The first `now` event for which `holds` is true."""
        while True:
            name, data = await self.next()
            if name == "now" and holds(data):
                return data


@asynccontextmanager
async def open_page(
    root: Path,
    *,
    tick_s: float = TICK_S,
    **how: Any,  # Any: arguments of run_service
) -> AsyncIterator[tuple[ServiceSetup, Site]]:
    """Runs a service in `root` with its page, until the block ends."""
    how = {"http": "127.0.0.1:0"} | how
    with patch("bot.web.server.TICK_S", tick_s):
        async with run_service(root, **how) as setup, aiohttp.ClientSession() as session:
            await setup.platform.until(
                lambda: setup.service.web is not None and bool(setup.service.web.url), "it is there"
            )
            assert setup.service.web is not None
            yield setup, Site(setup.service.web, session)
