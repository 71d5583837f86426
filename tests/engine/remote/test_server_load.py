"""Tests how much a server has to do: what it publishes, who chooses by it, and answers that it should have ended."""

import asyncio
import logging

import pytest

from bot.engine.remote import server as server_module
from bot.engine.remote import server_pool
from bot.engine.remote.server import Server
from bot.types.errors import RequestFailed, ServerLost
from bot.types.messages import FinishReason
from tests.support.builders.remote_engines import MODEL, answer, first_choice, request, run_engine, two_servers
from tests.support.fakes.openai_server import FakeOpenAI


async def watched(server: Server) -> None:
    """Returns once no aborted answer is watched."""
    async with asyncio.timeout(20):
        while server.watching:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["vllm", "sglang", "llama.cpp"])
async def test_each_request_of_a_server_is_counted_once(kind: str) -> None:
    async with FakeOpenAI(kind, {MODEL: 4096}, slots=1) as fake, run_engine(fake) as engine:
        (server,) = engine.pool.servers
        for name in ("one", "two", "three"):
            fake.gates.hold(f"{name}/0")
        asking = [asyncio.create_task(answer(engine, request(name))) for name in ("one", "two", "three")]
        await fake.until(lambda: len(fake.running_now()) == 1 and len(fake.waiting_now()) == 2)
        await server.refresh_load()
        assert server.published_load == 3
        for name in ("one", "two", "three"):
            await fake.gates.open(f"{name}/0")
        await asyncio.gather(*asking)


async def test_answers_that_a_server_lost_are_not_watched_for_their_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "ABORTED_S", 0.2)
    names = ("one", "two", "three")
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        (server,) = engine.pool.servers
        for name in names:
            fake.gates.hold(f"{name}/1")
        asking = [asyncio.create_task(answer(engine, request(name))) for name in names]
        for name in names:
            await fake.gates.reached(f"{name}/1")
        await server.refresh_load()
        await fake.down()
        for lost in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(lost, ServerLost)
        await watched(server)
    assert "still works" not in caplog.text


async def test_a_request_that_a_server_refused_is_not_watched_for_its_end() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.faults.status(400)
        with pytest.raises(RequestFailed):
            await answer(engine, request("hello"))
        assert not engine.pool.servers[0].watching


@pytest.mark.parametrize(("kind", "metrics"), [("vllm", True), ("llama.cpp", True), ("llama.cpp", False)])
@pytest.mark.parametrize("goes_on", [False, True], ids=["ends", "goes on"])
async def test_a_server_that_goes_on_after_an_abort_is_named_once_and_counted_as_busy(
    kind: str, metrics: bool, goes_on: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inhouse")
    monkeypatch.setattr(server_module, "ABORTED_S", 0.2)
    async with FakeOpenAI(kind, {MODEL: 4096}, metrics=metrics) as fake, run_engine(fake) as engine:
        (server,) = engine.pool.servers
        fake.ignores_aborts = goes_on
        for count in (1, 2):
            name = f"hello {count}"
            fake.gates.hold(f"{name}/2")
            asking = asyncio.create_task(answer(engine, request(name)))
            await fake.gates.reached(f"{name}/2")
            await engine.abort(name)
            assert (await asking)[1].finish_reason is FinishReason.ABORT
            await watched(server)
            assert server.published_load == count * goes_on
        assert caplog.text.count("still works") == goes_on


async def test_a_conversation_stays_with_its_server_until_that_one_has_much_more_to_do() -> None:
    async with two_servers() as (one, two), run_engine(one, two) as engine:
        own = await first_choice(engine, one, two)
        other = two if own is one else one
        for number in range(3):
            await answer(engine, request(f"question {number}", conversation="c"))
        assert not other.asked
        names = [f"held {number}" for number in range(server_pool.ESCAPE)]
        for name in names:
            own.gates.hold(f"{name}/0")
        held = [asyncio.create_task(answer(engine, request(name, conversation="c"))) for name in names]
        for name in names:
            await own.gates.reached(f"{name}/0")
        await answer(engine, request("escaped", conversation="c"))
        assert other.questions() == ["escaped"]
        for name in names:
            await own.gates.open(f"{name}/0")
        await asyncio.gather(*held)
