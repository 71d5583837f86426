"""Tests the status page in a real Chromium: contents, appearance, and behaviour when the service restarts."""

import logging
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
import pytest_asyncio

from tests.support.browser import Browser, Page, chromium, open_browser
from tests.support.builders.busy_service import WAITING, finish, run_busy_service
from tests.support.builders.web_service import Site, open_page
from tests.support.skips import NO_CHROMIUM

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        chromium() is None and "CI" not in os.environ,
        reason=NO_CHROMIUM,
    ),
]

TOKEN = "a-token-of-the-status-page"
SHOWN = "document.body?.dataset.shown === 'yes'"

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
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """One browser for all tests of this file."""
    async with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser) -> Page:
    """A new tab with its own cookies, in desktop width."""
    tab = await browser.page()
    await tab.looks(width=1180, height=900)
    return tab


async def show(page: Page, site: Site) -> None:
    """Opens the status page and waits for its first event."""
    await page.open(f"{site.url}/")
    await page.until(SHOWN)


async def test_a_busy_service_is_shown(page: Page, tmp_path: Path) -> None:
    async with run_busy_service(tmp_path) as (setup, site):
        await show(page, site)
        assert await page.text("#state") == "Ready"
        assert (await page.text("#subtitle")).startswith("phi-4 on cuda:0 · up for 5.3 h")
        assert (await page.text("#writing"), await page.text("#waiting")) == ("4", "3")
        queue = await page.text("#queue")
        assert "4 \N{MULTIPLICATION SIGN} phi-4" in queue
        assert [place for place in ("1st", "2nd", "3rd", "4th") if place in queue] == ["1st", "2nd", "3rd"]
        assert queue.count("about ") == len(WAITING)
        assert "31.9 GB of 48.0 GB" in await page.text("#memory")
        assert "connected" in await page.text("#platforms")
        troubles = await page.text("#troubles")
        assert "mistral-7b is not on this machine yet" in troubles
        assert "inhouse pull mistral-7b fetches it." in troubles
        assert "3 times" in troubles
        assert await page.sees("document.querySelectorAll('#words-plot circle').length") > 10
        assert await page.sees("document.querySelector('#speed-plot .line').getAttribute('d').length") > 1000
        assert page.complaints == []
        await finish(setup)


async def test_it_connects_to_the_service_only(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        await show(page, site)
        assert page.asked
        assert [url for url in page.asked if not url.startswith(f"{site.url}/")] == []
        await page.sees(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
        )
        assert await page.sees("window.ran === undefined")
        assert "Content Security Policy" in page.complaints[0]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_light_and_dark_can_be_read(page: Page, tmp_path: Path, dark: bool) -> None:
    async with run_busy_service(tmp_path) as (setup, site):
        await page.looks(width=1180, height=900, dark=dark)
        await show(page, site)
        brightness = await page.sees("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert (brightness < 60) if dark else (brightness > 200)
        await page.sees("document.querySelector('#lost').hidden = false, document.querySelector('#lost').append('!')")
        for mood in ("good", "busy", "bad", "unknown"):
            await page.sees(f"document.querySelector('#state').dataset.mood = '{mood}'")
            assert await page.sees(CONTRASTS) == []
        await page.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 50_000
        await finish(setup)


@pytest.mark.parametrize("width", [320, 390, 768, 1180, 1920])
async def test_every_width_shows_all_of_it_without_scrolling_sideways(page: Page, tmp_path: Path, width: int) -> None:
    async with run_busy_service(tmp_path) as (setup, site):
        await page.looks(width=width, height=800, phone=width < 500)
        await show(page, site)
        assert await page.sees("document.documentElement.scrollWidth <= innerWidth")
        cut = "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth)"
        assert await page.sees(f"{cut}.length") == 0
        assert await page.sees("document.querySelector('#speed-plot svg').getBoundingClientRect().width") > 200
        await finish(setup)


async def test_what_is_drawn_is_also_said(page: Page, tmp_path: Path) -> None:
    async with run_busy_service(tmp_path) as (setup, site):
        await show(page, site)
        said = await page.sees("[...document.querySelectorAll('svg')].map((e) => e.getAttribute('aria-label'))")
        assert [text.partition(" in the last ten minutes: ")[0] for text in said] == [
            "Speed",
            "Requests that wait",
            "Time to the first words",
        ]
        names = "[...document.querySelectorAll('section')].map((e) => e.getAttribute('aria-labelledby'))"
        assert await page.sees(f"{names}.filter((name) => !document.getElementById(name)).length") == 0
        assert await page.sees("document.documentElement.lang") == "en"
        assert await page.sees("document.querySelectorAll('h1').length") == 1
        where = await page.sees(
            "(({x, y, width, height}) => [x + width / 2, y + height / 2])("
            "document.querySelector('#speed-plot').getBoundingClientRect())"
        )
        await page.call("Input.dispatchMouseEvent", type="mouseMoved", x=where[0], y=where[1])
        await page.until("document.querySelector('#speed-plot output').textContent.includes('tokens/s, ')")
        await finish(setup)


async def test_with_nothing_to_show_it_says_so(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_page(tmp_path) as (setup, site):
        idle = replace(await setup.engine.stats(), tokens_per_s=0.0)
        monkeypatch.setattr(setup.engine, "stats", AsyncMock(return_value=idle))
        site.web.sampler.samples.clear()
        await show(page, site)
        assert await page.text("#queue") == "Nobody waits. 64 may."
        assert await page.text("#troubles") == "Nothing, since the start."
        assert await page.text("#words") == "\N{EN DASH}"
        assert await page.text("#words-note") == "nobody asked in ten minutes"
        assert await page.text("#speed-note") == "nothing was written in ten minutes"


async def test_it_follows_what_happens(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        await show(page, site)
        setup.platform.gates.hold("hello/1")
        await setup.team.says("ana", "hello")
        await page.until("document.querySelector('#writing').textContent === '1'")
        assert await page.sees("document.title") == "1 in the queue · Inhouse"
        await setup.platform.gates.open("hello/1")
        await page.until("document.querySelector('#totals dd').textContent === '1'")
        setup.engine.die()
        await page.until("document.querySelector('#state').textContent.startsWith('Not ready: the engine')")
        setup.platform.gates.hold("half small")
        await setup.team.says("ana", "and now?")
        await setup.platform.gates.reached("half small")
        await page.until("document.querySelector('#state').textContent === 'Loading small, 50 %'")
        await setup.platform.gates.open("half small")
        await page.until("document.querySelector('#state').textContent === 'Ready'")
        assert page.complaints == []


async def test_markup_in_a_message_is_only_text(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        logging.getLogger("bot.generation.worker").error("<img src=x onerror=alert(1)>; `<b>`")
        await show(page, site)
        assert (await page.text("#troubles")).startswith("<img src=x onerror=alert(1)>")
        assert await page.sees("document.querySelectorAll('#troubles img, #troubles b').length") == 0


async def test_when_the_service_goes_it_says_so_and_comes_back_with_it(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        await show(page, site)
        address = site.url.removeprefix("http://")
    await page.until("!document.querySelector('#lost').hidden")
    assert await page.text("#state") == "No connection"
    assert (await page.text("#lost")).startswith("Inhouse does not answer; what you see is old.")
    async with open_page(tmp_path, http=address):
        await page.until("document.querySelector('#lost').hidden")
        await page.until("document.querySelector('#state').textContent === 'Ready'")


async def test_a_token_is_asked_for_and_then_nowhere_to_be_seen(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path, http_token=TOKEN) as (_, site):
        await page.open(f"{site.url}/")
        assert await page.sees("document.activeElement.id") == "token"
        assert await page.sees("document.querySelector('#lost').hidden")
        assert await page.sees(CONTRASTS) == []
        await _send(page, "wrong")
        await page.until("document.querySelector('#lost')?.hidden === false")
        assert (await page.text("#lost")).startswith("That is not the token.")
        await _send(page, TOKEN)
        await page.until(SHOWN)
        assert await page.sees("location.href") == f"{site.url}/"
        assert await page.sees("document.cookie") == ""


async def test_a_token_in_the_address_goes_from_it(page: Page, tmp_path: Path) -> None:
    async with open_page(tmp_path, http_token=TOKEN) as (_, site):
        await page.open(f"{site.url}/?token={TOKEN}")
        await page.until(SHOWN)
        assert await page.sees("location.href") == f"{site.url}/"


async def _send(page: Page, token: str) -> None:
    """Types a token into the form and submits it."""
    await page.sees(f"document.querySelector('#token').value = '{token}'")
    await page.sees("document.querySelector('form').requestSubmit()")
