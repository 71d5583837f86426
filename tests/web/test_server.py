"""Tests the page's server: liveness, readiness with reasons, lifetime of the service, and isolation from it."""

import asyncio
import logging
import socket
from pathlib import Path

import aiohttp
import pytest

from tests.support.builders.service import run_service
from tests.support.builders.web_service import open_page


async def test_it_is_alive_and_ready(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        assert await site.get("/healthz") == (200, "alive\n")
        assert await site.until("/readyz", lambda status, _: status == 200) == "ready\n"


async def test_while_the_model_is_loaded_it_is_alive_and_says_how_far_it_is(tmp_path: Path) -> None:
    async with open_page(tmp_path, ready=False) as (setup, site):
        setup.platform.gates.hold("half small")
        await setup.platform.gates.reached("half small")
        assert await site.get("/healthz") == (200, "alive\n")
        assert await site.get("/readyz") == (503, "not ready: the model is loading (50%)\n")
        await setup.platform.gates.open("half small")
        await setup.platform.connected()
        await site.until("/readyz", lambda status, _: status == 200)


async def test_without_a_platform_it_is_not_ready(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        await site.until("/readyz", lambda status, _: status == 200)
        setup.service.web.live_state.core.connected.clear()  # type: ignore[union-attr]  # it exists
        assert await site.get("/readyz") == (503, "not ready: no platform is connected\n")


async def test_after_the_engine_died_it_is_not_ready_until_it_answered_again(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        await site.until("/readyz", lambda status, _: status == 200)
        setup.engine.die()
        assert await site.get("/readyz") == (
            503,
            "not ready: the engine's process ended; the next question restarts it\n",
        )
        assert (await setup.team.asks("ana", "hello")).text == "You said: hello"
        assert await site.get("/readyz") == (200, "ready\n")


async def test_while_it_drains_it_says_so(tmp_path: Path) -> None:
    async with open_page(tmp_path, drain=10) as (setup, site):
        setup.platform.gates.hold("hello/1")
        await setup.team.says("ana", "hello")
        await setup.platform.gates.reached("hello/1")
        setup.service.stop()
        assert await site.get("/readyz") == (503, "not ready: it is stopping\n")
        await setup.platform.gates.open("hello/1")
        await setup.team.reply_to("hello")


async def test_it_ends_with_the_service(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site):
        url = site.url
        await setup.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            async with site.session.get(f"{url}/healthz"):
                pass
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not any(handler for name in ("bot", "adapters") for handler in logging.getLogger(name).handlers)


async def test_switched_off_there_is_none(tmp_path: Path) -> None:
    async with run_service(tmp_path, http="off") as setup:
        assert setup.service.web is not None
        assert setup.service.web.url == ""
        await setup.team.asks("ana", "hello")


async def test_a_port_in_use_is_an_error_in_the_log_and_the_service_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with run_service(tmp_path, http=address) as setup:
            await setup.team.asks("ana", "hello")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        f"The status page cannot listen on {address} (the port is in use); Inhouse runs without it. "
        "Set INHOUSE_HTTP to another port, or to off."
    ]


async def test_an_address_of_another_machine_is_an_error_in_the_log_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_service(tmp_path, http="192.0.2.1:8321", http_token="a-token-long-enough") as setup:
        await setup.team.asks("ana", "hello")
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert said.startswith("The status page cannot listen on 192.0.2.1:8321 (")
    assert said.endswith("Set INHOUSE_HTTP to an address of this machine, as 127.0.0.1:8321, or to off.")


async def test_an_engine_that_does_not_answer_for_a_minute_makes_it_unready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.web.sampler.SILENT_S", -1.0)  # as if the minute had passed
    monkeypatch.setattr("bot.web.sampler.ANSWER_S", 0.05)
    async with open_page(tmp_path) as (setup, site):
        silent = asyncio.Event()

        async def never() -> None:
            silent.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(setup.engine, "stats", never)
        await silent.wait()
        status, text = await site.get("/readyz")
        assert status == 503
        assert text.startswith("not ready: the engine has not answered for ")


async def test_what_breaks_the_samples_is_said_once_and_breaks_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_page(tmp_path) as (setup, site):
        broken = asyncio.Event()

        async def failing() -> None:
            broken.set()
            raise ZeroDivisionError

        monkeypatch.setattr(site.web.sampler, "refresh", failing)
        await broken.wait()
        await setup.team.asks("ana", "hello")
        assert await site.get("/healthz") == (200, "alive\n")
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert said == ["The status page can no longer be updated"]


async def test_every_response_is_guarded_and_not_cached(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        for path in ("/", "/healthz", "/metrics", "/page.js", "/style.css", "/nothing"):
            async with site.session.get(site.url + path) as response:
                headers = response.headers
                policy = headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none';")
                assert "unsafe" not in policy
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Referrer-Policy"] == "no-referrer"
                assert headers["Cache-Control"] == "no-store"
                assert headers["Server"] == "Inhouse"
                assert response.status == (404 if path == "/nothing" else 200)
