"""Tests the page's event stream: the history first, then updates; bounded, and without text of users."""

import asyncio
import socket
from pathlib import Path

import pytest

from bot.web import event_stream
from tests.support.builders.busy_service import WAITING, WRITING, finish, run_busy_service
from tests.support.builders.web_service import open_page


async def test_the_past_comes_first_and_then_every_moment(tmp_path: Path) -> None:
    async with run_busy_service(tmp_path, tick_s=0.05) as (setup, site):
        async with site.events() as events:
            name, past = await events.next()
            assert name == "history"
            assert len(past["samples"]) == past["kept"] == 300
            times = [sample["at"] for sample in past["samples"]]
            assert times == sorted(times)
            name, first = await events.next()
            assert name == "now"
            _, second = await events.next()
            assert second["sample"]["at"] > first["sample"]["at"]
        await finish(setup)


async def test_a_moment_is_what_there_is(tmp_path: Path) -> None:
    async with run_busy_service(tmp_path, tick_s=0.05) as (setup, site):
        async with site.events() as events:
            now = await events.until(lambda moment: moment["sample"]["tokens_per_s"] == 38.4)
        assert now["unready"] == ""
        assert (now["model"]["name"], now["model"]["device"]) == ("phi-4", "cuda:0")
        assert now["sample"]["writing"] == len(WRITING)
        assert now["sample"]["waiting"] == len(WAITING)
        assert [request["place"] for request in now["queue"]["waiting"]] == [1, 2, 3]
        assert all(request["seconds"] > 0 for request in now["queue"]["waiting"])
        assert now["memory"]["gpu_used_mb"] == 32_700
        assert now["platforms"] == [
            {
                "name": "discord",
                "connected": True,
                "elsewhere": False,
                "refusal": "",
                "sessions": 1,
                "read_back": 0,
                "errors": 0,
                "rate_limited": 0,
            }
        ]
        assert now["errors"][0]["fix"].startswith("Run `inhouse pull mistral-7b`.")
        await finish(setup)


async def test_a_load_is_told_while_it_goes_on(tmp_path: Path) -> None:
    async with open_page(tmp_path, ready=False) as (setup, site):
        setup.platform.gates.hold("half small")
        await setup.platform.gates.reached("half small")
        async with site.events() as events:
            now = await events.until(lambda moment: moment["loading"] is not None)
            assert (now["loading"]["model"], now["loading"]["fraction"], now["model"]) == ("small", 0.5, None)
            assert now["unready"] == "the model is loading (50%)"
            await setup.platform.gates.open("half small")
            await events.until(lambda moment: moment["model"] is not None and not moment["unready"])


async def test_first_words_become_a_sample(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (setup, site), site.events() as events:
        await setup.team.asks("ana", "hello")
        now = await events.until(lambda moment: moment["sample"]["first_words_s"] is not None)
        assert 0 <= now["sample"]["first_words_s"] < 20
        await events.until(lambda moment: moment["sample"]["first_words_s"] is None)


async def test_no_users_words_names_or_channels_are_in_it(tmp_path: Path) -> None:
    async with run_busy_service(tmp_path, tick_s=0.05) as (setup, site):
        async with site.events() as events:
            shown = repr([await events.next() for _ in range(3)])
        _, metrics = await site.get("/metrics")
        for word in (*WRITING, *WAITING):
            for text in (f"for {word}", f"id-{word}", f"of {word}", word.title()):
                assert text not in shown
                assert text not in metrics
        assert "You said" not in shown
        assert str(tmp_path) not in shown
        await finish(setup)


async def test_a_platform_that_refuses_is_shown_with_what_it_said(tmp_path: Path) -> None:
    async with open_page(tmp_path) as (_, site):
        refusals: dict[str, str] = site.web.live_state.refusals  # type: ignore[assignment]  # the service's own
        refusals["scripted"] = "The token was revoked."
        async with site.events() as events:
            now = await events.until(lambda moment: True)
        assert now["platforms"][0]["refusal"] == "The token was revoked."
        assert not now["platforms"][0]["connected"]


async def test_only_so_many_pages_are_served_and_a_place_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "MOST", 2)
    async with open_page(tmp_path) as (setup, site):
        async with site.events() as one, site.events() as other:
            await one.next()
            await other.next()
            status, text = await site.get("/events")
            assert status == 503
            assert "close one" in text
        await setup.platform.until(lambda: site.web.stream.open == 0, "both are gone")
        async with site.events() as again:
            assert (await again.next())[0] == "history"


async def test_a_client_that_does_not_read_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_page(tmp_path) as (setup, site):
        monkeypatch.setattr(event_stream, "PATIENCE_S", 0.2)
        monkeypatch.setattr(site.web.status, "history", lambda: b"x" * 30_000_000)  # more than a socket's buffer
        host, port = site.url.removeprefix("http://").split(":")
        client = socket.create_connection((host, int(port)))
        try:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await setup.platform.until(lambda: site.web.stream.open == 1, "it is served")
            await setup.platform.until(lambda: site.web.stream.open == 0, "it is dropped")
        finally:
            client.close()
        assert await site.get("/healthz") == (200, "alive\n")


async def test_open_pages_end_with_the_service(tmp_path: Path) -> None:
    async with open_page(tmp_path, tick_s=60) as (setup, site), site.events() as events:
        await events.next()
        async with asyncio.timeout(10):
            stopping = asyncio.create_task(setup.stop())
            with pytest.raises(EOFError):
                await events.until(lambda _: False)
            await stopping
