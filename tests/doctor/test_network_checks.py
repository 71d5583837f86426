"""Tests `inhouse doctor` for proxies, the clock and the status page's address."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web

from bot.config.address import Address
from bot.config.settings import Settings, load_settings
from bot.doctor.network_checks import clock, proxies, status_page
from bot.types.findings import Finding, State
from tests.support.builders.findings import about, complete, gathered, states

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def listening(
    headers: Mapping[str, str] | None = None, text: str = "", status: int = 200
) -> AsyncIterator[Address]:
    """A server that answers HTTP."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=text, status=status, headers=headers or {})

    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Address("127.0.0.1", runner.addresses[0][1])
    finally:
        await runner.cleanup()


def unused() -> int:
    """A port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_no_proxy_is_well() -> None:
    assert states(await gathered(proxies(load_settings()))) == {"proxy": State.OK}


async def test_a_proxy_has_to_answer_and_its_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://bob:pass-word@{address}")
        monkeypatch.setenv("INHOUSE_DISCORD_PROXY", f"http://127.0.0.1:{unused()}")
        https, discord = await gathered(proxies(load_settings()))
    assert (https.state, https.found) == (State.OK, f"HTTPS_PROXY: {address} answers")
    assert (discord.state, "INHOUSE_DISCORD_PROXY" in discord.fix) == (State.WRONG, True)
    assert "connection refused" in discord.found


async def test_a_proxy_without_a_port_that_can_be_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:many")
    (found,) = await gathered(proxies(load_settings()))
    assert (found.state, found.found) == (State.WRONG, "the port in HTTPS_PROXY is invalid")


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [
        (0, State.OK, "it agrees with the hub"),
        (50, State.OK, "it agrees"),
        (300, State.WARNING, "300 s ahead of the hub"),
        (-3 * 3600, State.WARNING, "3 hours behind the hub"),
    ],
)
async def test_the_clock_is_compared_with_the_server_that_answers(ahead: float, state: State, words: str) -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    async with listening({"Date": "Sun, 01 Mar 2026 12:00:00 GMT"}, status=401) as address:
        asked = {"Slack": (f"http://127.0.0.1:{unused()}/", None), "the hub": (f"http://{address}/", None)}
        (found,) = await gathered(clock(asked, lambda: moment + timedelta(seconds=ahead)))
    assert (found.state, words in found.found) == (state, True), found
    assert complete([found])


async def test_a_clock_that_cannot_be_compared_is_a_warning_unless_no_server_is_configured() -> None:
    (found,) = await gathered(clock({"the hub": (f"http://127.0.0.1:{unused()}/", None)}))
    assert (found.state, found.found) == (State.WARNING, "not checked: no answer from the hub")
    async with listening({"Date": "yesterday"}) as address:
        assert states(await gathered(clock({"it": (f"http://{address}/", None)}))) == {"clock": State.WARNING}
    assert states(await gathered(clock({}))) == {"clock": State.OK}


def settings(address: Address | str) -> Settings:
    return load_settings(http=str(address), http_token="0123456789abcdef")


async def page(address: Address | str, *, running: bool = False) -> list[Finding]:
    return await gathered(status_page(settings(address), running=running))


async def test_a_free_address_is_well_and_stays_free() -> None:
    port = unused()
    for _ in range(2):
        assert about(await page(f"127.0.0.1:{port}"), "status page").found == f"127.0.0.1:{port} is free"
    assert states(await page("off")) == {"status page": State.OK}
    assert states(await page("127.0.0.1:0")) == {"status page": State.OK}


async def test_the_page_of_the_running_one_says_whether_it_is_ready() -> None:
    async with listening({"Server": "Inhouse"}, "ready\n") as address:
        found = await page(address, running=True)
        assert states(found) == {"status page": State.OK, "readiness": State.OK}
        (other,) = await page(address)
        assert (other.state, "another state directory" in other.found) == (State.WARNING, True)
    async with listening({"Server": "Inhouse"}, "not ready: the model is loading\n", 503) as address:
        found = await page(address, running=True)
        assert about(found, "readiness").found == "not ready: the model is loading"
        assert about(found, "readiness").state is State.WARNING


async def test_a_port_of_another_program_is_a_warning() -> None:
    async with listening(text="hello") as address:
        (found,) = await page(address, running=True)
    assert (found.state, found.found) == (State.WARNING, f"another program uses {address}")
    silent = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with silent:
        (found,) = await page(f"127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    assert found.state is State.WARNING
    assert complete([found])


async def test_an_address_of_another_machine_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.doctor.network_checks.answer_of", _none)  # tests may not connect to the Internet
    found = about(await page("192.0.2.1:8321"), "status page")
    assert (found.state, "an address of this machine" in found.fix) == (State.WARNING, True)


async def test_a_page_for_other_machines_is_told_to_be_plain_http() -> None:
    found = await page(f"0.0.0.0:{unused()}")
    assert [finding.state for finding in found] == [State.OK, State.OK]
    assert "a reverse proxy with TLS" in found[1].fix


async def _none(_: Address) -> None:
    return None
