"""Tests access to the page: tokens, cookies, host names, and cross-site requests."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bot.config.address import network_of
from bot.web import login_throttle
from tests.support.builders.web_service import Site, open_page
from tests.support.connection_flood import ask

TOKEN = "a-token-of-the-status-page"
OPEN = ["/healthz", "/readyz", "/style.css", "/icon.svg"]
SHUT = ["/metrics", "/events", "/page.js", "/nothing"]


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """A page without a token, on loopback."""
    async with open_page(tmp_path) as (_, opened):
        yield opened


@pytest_asyncio.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Site]:
    """A page with a token."""
    async with open_page(tmp_path, http_token=TOKEN) as (_, opened):
        yield opened


async def cookie_of(site: Site, path: str, data: dict[str, str] | None = None) -> tuple[int, str, str]:
    """The status of a response, its redirect, and the cookie that it sets."""
    method = "POST" if data is not None else "GET"
    async with site.session.request(method, site.url + path, data=data, allow_redirects=False) as response:
        site.session.cookie_jar.clear()
        return response.status, response.headers.get("Location", ""), response.headers.get("Set-Cookie", "")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:8321", "[::1]:8321", "127.0.0.1:80"])
async def test_the_names_of_this_machine_are_served(site: Site, host: str) -> None:
    assert (await site.get("/", Host=host))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8321", "[", "", "0"]
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/events"])
async def test_another_name_that_points_here_is_refused(site: Site, host: str, path: str) -> None:
    status, text = await site.get(path, Host=host)
    assert status in (400, 403)
    assert "small" not in text


async def test_another_sites_page_gets_nothing_but_its_reader_may_follow_a_link(site: Site) -> None:
    for path in ("/", "/events", "/metrics"):
        for where in ("cross-site", "same-site"):
            assert (await site.get(path, Sec_Fetch_Site=where, Sec_Fetch_Mode="no-cors"))[0] == 403
    assert (await site.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate"))[0] == 200
    assert (await site.get("/metrics", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate"))[0] == 200


@pytest.mark.parametrize("path", OPEN)
async def test_what_tells_nothing_needs_no_token(guarded: Site, path: str) -> None:
    await guarded.until("/readyz", lambda status, _: status == 200)
    assert (await guarded.get(path))[0] == 200


@pytest.mark.parametrize("path", SHUT)
async def test_the_rest_does(guarded: Site, path: str) -> None:
    for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \udcff"):
        status, text = await guarded.get(path, Authorization=given)
        assert status == 401
        assert text.startswith("Token required")


async def test_a_bearer_token_opens_it_under_any_name(guarded: Site) -> None:
    for scheme in ("Bearer", "bearer"):
        assert (await guarded.get("/metrics", Authorization=f"{scheme} {TOKEN}"))[0] == 200
    assert (await guarded.get("/metrics", Authorization=f"Bearer {TOKEN}", Host="bot.example.org"))[0] == 200


async def test_a_browser_is_asked_for_the_token_and_gets_a_cookie(guarded: Site) -> None:
    status, form = await guarded.get("/")
    assert status == 401
    assert '<form class="card" method="post" action="login">' in form
    assert "hidden" in form
    status, where, cookie = await cookie_of(guarded, "/login", {"token": f" {TOKEN} "})
    assert (status, where) == (303, "./")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    value = cookie.partition(";")[0]
    assert (await guarded.get("/", Cookie=value))[0] == 200
    assert (await guarded.get("/metrics", Cookie=value))[0] == 200
    assert (await guarded.get("/metrics", Cookie=value[:-1]))[0] == 401


async def test_a_token_in_the_address_becomes_a_cookie_and_goes_from_the_address(guarded: Site) -> None:
    status, where, cookie = await cookie_of(guarded, f"/?token={TOKEN}")
    assert (status, where) == (303, "./")
    assert (await guarded.get("/", Cookie=cookie.partition(";")[0]))[0] == 200


async def test_behind_https_the_cookie_stays_there(guarded: Site) -> None:
    headers = {"X-Forwarded-Proto": "https"}
    async with guarded.session.get(f"{guarded.url}/?token={TOKEN}", headers=headers, allow_redirects=False) as response:
        assert "Secure" in response.headers["Set-Cookie"]


@pytest.mark.parametrize("given", ["", "wrong", "\ud83d", "é" * 20, "<script>"])
async def test_a_wrong_token_is_told_to_be_wrong(guarded: Site, given: str) -> None:
    given = given.encode("utf-8", "replace").decode()
    async with guarded.session.post(f"{guarded.url}/login", data={"token": given}) as response:
        assert response.status == 401
        assert "Wrong token." in await response.text()
        assert "Set-Cookie" not in response.headers
    assert (await guarded.get("/?token=wrong"))[0] == 401


async def test_a_file_or_a_flood_is_no_token(guarded: Site) -> None:
    async with guarded.session.post(f"{guarded.url}/login", data={"token": io.BytesIO(TOKEN.encode())}) as response:
        assert response.status == 401
    async with guarded.session.post(f"{guarded.url}/login", data={"token": "x" * 100_000}) as response:
        assert response.status == 413


async def test_without_a_token_the_form_lets_no_visitor_in(site: Site) -> None:
    assert (await cookie_of(site, "/login", {"token": ""}))[0] == 401


async def test_where_any_machine_could_ask_it_is_the_same(tmp_path: Path) -> None:
    async with open_page(tmp_path, http="0.0.0.0:0", http_token=TOKEN) as (_, site):
        assert (await site.get("/metrics"))[0] == 401
        assert (await site.get("/metrics", Authorization=f"Bearer {TOKEN}"))[0] == 200


MALFORMED = (
    *("[::1].evil", "[::1]evil", "[::1", "::1", "[::1]:80:80", "[127.0.0.1]", "a@[::1]"),
    *("127.0.0.1:80:evil", "localhost:", ":80", "", "localhost:evil", "localhost:99999"),
    *("localhost..", ".localhost", "localhost/", "evil@localhost", "localhost evil", "localhost,evil", "\xe9"),
)


@pytest.mark.fault(52)
@pytest.mark.parametrize("token", [None, TOKEN])
async def test_a_host_that_is_malformed_missing_or_doubled_is_refused(tmp_path: Path, token: str | None) -> None:
    doubled = [["localhost", "evil.example"], ["evil.example", "localhost"], ["localhost", "localhost"]]
    async with open_page(tmp_path, http_token=token) as (_, site):
        for hosts in ([], *([host] for host in MALFORMED), *doubled):
            lines = "".join(f"Host: {host}\r\n" for host in hosts)
            sent = f"GET /healthz HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode("latin-1")
            assert (await ask(int(site.url.rpartition(":")[2]), sent)).split()[1] == b"400", hosts


@pytest.mark.parametrize("host", ["localhost.", "LocalHost:1", "[::1]:65535", "[0:0:0:0:0:0:0:1]", "127.0.0.2"])
async def test_other_spellings_of_this_machine_are_served(site: Site, host: str) -> None:
    assert (await site.get("/", Host=host))[0] == 200


@pytest.mark.fault(52)
@pytest.mark.parametrize("way", ["bearer", "form", "address"])
async def test_guesses_are_slowed_and_the_right_token_gets_in_among_them(
    guarded: Site, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    async def status(given: str) -> int:
        if way == "bearer":
            return (await guarded.get("/metrics", Authorization=f"Bearer {given}"))[0]
        if way == "form":
            return (await cookie_of(guarded, "/login", {"token": given}))[0]
        return (await cookie_of(guarded, f"/?token={given}"))[0]

    monkeypatch.setattr("bot.web.login_throttle.sleep", wait)
    for number in range(login_throttle.BURST):
        assert await status(f"guess-{number}") == 401
    assert waits == []
    assert await asyncio.gather(*(status(f"guess-{number}") for number in range(20))) == [401] * 20
    assert len(waits) == 20
    assert await status(TOKEN) in (200, 303)
    assert len(waits) == 21
    assert await guarded.get("/healthz") == (200, "alive\n")
    assert (await guarded.get("/"))[0] == 401
    assert len(waits) == 21, "what brings no token waits for nothing"


@pytest.mark.fault(52)
async def test_a_cookie_waits_for_no_guess(guarded: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, cookie = await cookie_of(guarded, "/login", {"token": TOKEN})
    monkeypatch.setattr("bot.web.login_throttle.sleep", None)  # any call would raise
    for number in range(login_throttle.BURST):
        await guarded.get("/metrics", Authorization=f"Bearer guess-{number}")
    assert (await guarded.get("/metrics", Cookie=cookie.partition(";")[0]))[0] == 200


@pytest.mark.fault(52)
async def test_guesses_are_counted_by_network_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(login_throttle, "sleep", wait)
    monkeypatch.setattr(login_throttle, "ALL_BURST", 10_000)
    of_all = login_throttle.LoginThrottle()
    for number in range(login_throttle.BURST):
        of_all.wrong(network_of(f"2001:db8::{number:x}"))
    await of_all.wait(network_of("2001:db8::ffff:1"))
    assert len(waits) == 1, "one network of 64 bits"
    await of_all.wait(network_of("2001:db8:0:1::1"))
    await of_all.wait(network_of("192.0.2.1"))
    assert len(waits) == 1, "other networks wait for nothing"
    for number in range(5000):
        of_all.wrong(network_of(f"2001:db8:{number:x}::1"))
    await of_all.wait(network_of("2001:db8::ffff:1"))
    assert len(waits) == 1, "the oldest networks are forgotten"


@pytest.mark.fault(52)
async def test_guesses_of_many_networks_slow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(login_throttle, "sleep", wait)
    of_all = login_throttle.LoginThrottle()
    for number in range(login_throttle.ALL_BURST + 1):
        await of_all.wait(f"192.0.2.{number}")
        of_all.wrong(f"192.0.2.{number}")
    assert len(waits) == 1
