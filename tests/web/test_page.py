"""Tests the status page in a real Chromium: contents, appearance, and behaviour when the service restarts."""

import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from time import time
from unittest.mock import AsyncMock

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, ViewportSize, expect

from bot.types.engine import LoadedModel, ServerState
from tests.support.builders.busy_service import WAITING, finish, run_busy_service
from tests.support.builders.web_service import Site, open_page
from tests.support.chromium import chromium, run_chromium
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine
from tests.support.skips import NO_CHROMIUM

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        chromium() is None and "CI" not in os.environ,
        reason=NO_CHROMIUM,
    ),
]

TOKEN = "a-token-of-the-status-page"
SHOWN = "body[data-shown=yes]"
TIMEOUT_MS = 30_000
expect.set_options(timeout=TIMEOUT_MS)

CONTRASTS = """(() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = color.map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let place = node; place; place = place.parentElement) {
      const color = rgb(getComputedStyle(place).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const color = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(rgb(color).slice(0, 3)), light(behind(node).slice(0, 3))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${node.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return found;
})()"""
"""All texts whose contrast to their background is below WCAG AA."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests of this file."""
    async with run_chromium() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A new tab with its own cookies, in desktop width."""
    tab = await browser.new_page(viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
    tab.set_default_timeout(TIMEOUT_MS)
    yield tab
    await tab.close()


@pytest.fixture
def complaints(page: Page) -> list[str]:
    """Collects the page's console errors and warnings, and its uncaught exceptions."""
    found: list[str] = []
    page.on("console", lambda each: found.append(each.text) if each.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


async def show(page: Page, site: Site) -> None:
    """Opens the status page and waits for its first event."""
    await page.goto(f"{site.url}/")
    await page.wait_for_selector(SHOWN)


async def test_a_busy_service_is_shown(page: Page, complaints: list[str], tmp_path: Path) -> None:
    async with run_busy_service(tmp_path) as (setup, site):
        await show(page, site)
        assert await page.inner_text("#state") == "Ready"
        assert (await page.inner_text("#subtitle")).startswith("phi-4 on cuda:0 · up for 5.3 h")
        assert (await page.inner_text("#writing"), await page.inner_text("#waiting")) == ("4", "3")
        queue = await page.inner_text("#queue")
        assert "4 \N{MULTIPLICATION SIGN} phi-4" in queue
        assert [place for place in ("1st", "2nd", "3rd", "4th") if place in queue] == ["1st", "2nd", "3rd"]
        assert queue.count("about ") == len(WAITING)
        assert "31.9 GB of 48.0 GB" in await page.inner_text("#memory")
        assert "connected" in await page.inner_text("#platforms")
        errors = await page.inner_text("#errors")
        assert "mistral-7b is not downloaded yet" in errors
        assert "Run inhouse pull mistral-7b." in errors
        assert "3 times" in errors
        assert await page.evaluate("document.querySelectorAll('#words-plot circle').length") > 10
        assert await page.evaluate("document.querySelector('#speed-plot .line').getAttribute('d').length") > 1000
        assert complaints == []
        await finish(setup)


class ServedEngine(ScriptedEngine):
    """An engine on two servers, one of which is down."""

    states = (
        ServerState("gpu1:8000", "vLLM", "", 2, 7, 1, ("phi-4",)),
        ServerState("gpu2:8000", "llama.cpp", "no connection (Connection refused)", 0, 3, 3, ()),
    )
    offered: tuple[str, ...] = ()
    seeing: tuple[str, ...] = ()

    def on_change(self, changed: Callable[[LoadedModel], None]) -> None:
        """Its servers never change."""


async def test_the_models_servers_are_shown(page: Page, complaints: list[str], tmp_path: Path) -> None:
    async with open_page(tmp_path / "local") as (_, site):
        await show(page, site)
        assert await page.is_hidden("#servers-card")
    gates = Gates()
    async with open_page(tmp_path / "served", engine=ServedEngine(gates.passing)) as (_, site):
        await show(page, site)
        shown = await page.inner_text("#servers")  # its items are replaced with each event
        assert [line for line in shown.split("\n") if line] == [
            *("vLLM on gpu1:8000", "2 answers being written, 7 requests, 1 failure", "up"),
            *("llama.cpp on gpu2:8000", "no connection (Connection refused)", "down"),
        ]
    assert complaints == []


async def test_it_connects_to_the_service_only(page: Page, complaints: list[str], tmp_path: Path) -> None:
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    async with open_page(tmp_path) as (_, site):
        await show(page, site)
        assert urls
        assert [url for url in urls if not url.startswith(f"{site.url}/")] == []
        await page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
        )
        assert await page.evaluate("window.ran === undefined")
        assert "Content Security Policy" in complaints[0]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_light_and_dark_can_be_read(page: Page, tmp_path: Path, dark: bool) -> None:
    async with run_busy_service(tmp_path) as (setup, site):
        await page.emulate_media(color_scheme="dark" if dark else "light")
        await show(page, site)
        brightness = await page.evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
        )
        assert (brightness < 60) if dark else (brightness > 200)
        await page.evaluate(
            "document.querySelector('#lost').hidden = false, document.querySelector('#lost').append('!')"
        )
        for mood in ("good", "busy", "bad", "unknown"):
            await page.evaluate(f"document.querySelector('#state').dataset.mood = '{mood}'")
            assert await page.evaluate(CONTRASTS) == []
        await page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert (tmp_path / "page.png").stat().st_size > 50_000
        await finish(setup)


@pytest.mark.parametrize("width", [320, 390, 768, 1180, 1920])
async def test_every_width_shows_all_of_it_without_scrolling_sideways(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    phone = width < 500
    size: ViewportSize = {"width": width, "height": 800}
    async with (
        run_busy_service(tmp_path) as (setup, site),
        await browser.new_page(viewport=size, is_mobile=phone, device_scale_factor=2 if phone else 1) as page,
    ):
        await show(page, site)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        cut = "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth)"
        assert await page.evaluate(f"{cut}.length") == 0
        assert await page.evaluate("document.querySelector('#speed-plot svg').getBoundingClientRect().width") > 200
        await finish(setup)


@pytest.mark.parametrize(("dark", "width"), [(False, 1180), (True, 320)], ids=["light, desktop", "dark, phone"])
async def test_a_service_that_works_badly_is_not_shown_as_ready(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dark: bool, width: int
) -> None:
    async with (
        run_busy_service(tmp_path, tick_s=0.05) as (setup, site),
        await browser.new_page(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
        ) as page,
    ):
        await show(page, site)
        state = page.locator("#state")
        await expect(state).to_have_text("Ready")
        for _ in range(12):
            site.web.live_state.metrics.platform_failed("discord", "retry_later")
        monkeypatch.setattr("bot.web.health.time.time", lambda: time() + 660)
        await expect(state).to_have_text("Degraded")
        await expect(state).to_have_attribute("data-mood", "busy")
        await expect(page).to_have_title("Degraded \N{MIDDLE DOT} Inhouse")
        await expect(page.locator("#reasons li")).to_have_text(
            ["Discord refused 12 calls in the last minute", "A question has waited about 11 min"]
        )
        assert await page.evaluate(CONTRASTS) == []
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.screenshot(path=tmp_path / "page.png")
        monkeypatch.undo()
        await expect(page.locator("#reasons li")).to_have_text(["Discord refused 12 calls in the last minute"])
        await finish(setup)


async def test_what_is_drawn_is_also_said(page: Page, tmp_path: Path) -> None:
    async with run_busy_service(tmp_path) as (setup, site):
        await show(page, site)
        said = await page.evaluate("[...document.querySelectorAll('svg')].map((e) => e.getAttribute('aria-label'))")
        assert [text.partition(" in the last ten minutes: ")[0] for text in said] == [
            "Speed",
            "Requests that wait",
            "Time to the first words",
        ]
        names = "[...document.querySelectorAll('section')].map((e) => e.getAttribute('aria-labelledby'))"
        assert await page.evaluate(f"{names}.filter((name) => !document.getElementById(name)).length") == 0
        assert await page.evaluate("document.documentElement.lang") == "en"
        assert await page.evaluate("document.querySelectorAll('h1').length") == 1
        await page.hover("#speed-plot")
        await expect(page.locator("#speed-plot output")).to_contain_text("tokens/s, ")
        await finish(setup)


async def test_with_nothing_to_show_it_says_so(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_page(tmp_path) as (setup, site):
        idle = replace(await setup.engine.stats(), tokens_per_s=0.0)
        monkeypatch.setattr(setup.engine, "stats", AsyncMock(return_value=idle))
        site.web.sampler.samples.clear()
        await show(page, site)
        assert await page.inner_text("#queue") == "Empty. Up to 64 may wait."
        assert await page.inner_text("#errors") == "None since the start."
        assert await page.inner_text("#words") == "\N{EN DASH}"
        assert await page.inner_text("#words-note") == "no questions in ten minutes"
        assert await page.inner_text("#speed-note") == "idle for ten minutes"


async def test_it_follows_what_happens(page: Page, complaints: list[str], tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        await show(page, site)
        setup.platform.gates.hold("hello/1")
        await setup.team.says("ana", "hello")
        await expect(page.locator("#writing")).to_have_text("1")
        assert await page.evaluate("document.title") == "1 in the queue · Inhouse"
        await setup.platform.gates.open("hello/1")
        await expect(page.locator("#totals dd").first).to_have_text("1")
        setup.engine.die()
        await expect(page.locator("#state")).to_contain_text("Not ready: the engine")
        setup.platform.gates.hold("half small")
        await setup.team.says("ana", "and now?")
        await setup.platform.gates.reached("half small")
        await expect(page.locator("#state")).to_have_text("Restarting the engine, 50 %")
        await setup.platform.gates.open("half small")
        await expect(page.locator("#state")).to_have_text("Ready")
        assert complaints == []


async def test_markup_in_a_message_is_only_text(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        logging.getLogger("bot.generation.worker").error("<img src=x onerror=alert(1)>; `<b>`")
        await show(page, site)
        assert (await page.inner_text("#errors")).startswith("<img src=x onerror=alert(1)>")
        assert await page.evaluate("document.querySelectorAll('#errors img, #errors b').length") == 0


async def test_when_the_service_goes_it_says_so_and_comes_back_with_it(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        await show(page, site)
        address = site.url.removeprefix("http://")
    await expect(page.locator("#lost")).to_be_visible()
    assert await page.inner_text("#state") == "No connection"
    assert (await page.inner_text("#lost")).startswith("Inhouse does not answer, so this page is out of date.")
    async with open_page(tmp_path, http=address):
        await expect(page.locator("#lost")).to_be_hidden()
        await expect(page.locator("#state")).to_have_text("Ready")


async def test_a_token_is_asked_for_and_then_nowhere_to_be_seen(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path, http_token=TOKEN) as (_, site):
        await page.goto(f"{site.url}/")
        assert await page.evaluate("document.activeElement.id") == "token"
        assert await page.evaluate("document.querySelector('#lost').hidden")
        assert await page.evaluate(CONTRASTS) == []
        await _send(page, "wrong")
        await expect(page.locator("#lost")).to_be_visible()
        assert (await page.inner_text("#lost")).startswith("Wrong token.")
        await _send(page, TOKEN)
        await page.wait_for_selector(SHOWN)
        assert await page.evaluate("location.href") == f"{site.url}/"
        assert await page.evaluate("document.cookie") == ""


async def test_a_token_in_the_address_goes_from_it(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path, http_token=TOKEN) as (_, site):
        await page.goto(f"{site.url}/?token={TOKEN}")
        await page.wait_for_selector(SHOWN)
        assert await page.evaluate("location.href") == f"{site.url}/"


async def _send(page: Page, token: str) -> None:
    """Types a token into the form and submits it."""
    await page.fill("#token", token)
    await page.press("#token", "Enter")
