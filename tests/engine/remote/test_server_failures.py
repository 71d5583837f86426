"""Tests what the engine does when its servers fail: busy, loading, restarted, broken off, refusing."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from bot.engine.remote import api_client, remote_engine, server, server_pool
from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.engine import LoadProgress
from bot.types.errors import ModelError, NoServer, RequestFailed, ServerLost
from bot.types.messages import FinishReason
from tests.support.builders.remote_engines import (
    MODEL,
    answer,
    first_choice,
    load,
    request,
    run_engine,
    two_servers,
)
from tests.support.fakes.openai_server import FakeOpenAI


async def test_a_connection_that_the_server_no_longer_knows_costs_nothing() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.resets_reused = True
        for question in ("hello", "and now?"):
            assert (await answer(engine, request(question)))[0] == f"You said: {question}"


@pytest.mark.parametrize("header", ["", "date", "soon"])
async def test_a_busy_server_is_asked_again_whatever_its_retry_after_is(header: str) -> None:
    after = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True) if header == "date" else header
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.faults.status(429, retry_after=after)
        assert (await answer(engine, request("hello")))[0] == "You said: hello"
        assert len(fake.asked) == 2


@pytest.mark.fault(59)
async def test_another_server_is_asked_at_once_while_one_is_busy() -> None:
    async with two_servers() as (one, two), run_engine(one, two) as engine:
        own = await first_choice(engine, one, two)
        own.faults.status(429, retry_after="3600")
        assert (await answer(engine, request("hello", conversation="c")))[0] == "You said: hello"


async def test_a_request_that_waits_for_a_busy_server_can_be_stopped() -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.faults.status(429, retry_after="3600")
        asking = asyncio.create_task(answer(engine, request("hello")))
        await fake.until(lambda: fake.asked)
        await engine.abort("hello")
        assert (await asking)[1].finish_reason is FinishReason.ABORT


@pytest.mark.fault(59)
@pytest.mark.parametrize("kind", ["vllm", "llama.cpp"])
async def test_a_server_that_loads_its_model_is_waited_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "PROBE_EVERY_S", 0.05)
    async with FakeOpenAI(kind, {MODEL: 4096}) as fake:
        fake.loading = True
        engine = RemoteEngine([fake.url])
        seen: asyncio.Queue[LoadProgress] = asyncio.Queue()
        loading = asyncio.create_task(load(engine, seen.put_nowait))
        progress = await asyncio.wait_for(seen.get(), 20)
        assert progress.message == "waiting for the model's server"
        assert "it answered 503: Loading model" in progress.stage
        fake.loading = False
        await loading
        assert (await answer(engine, request("hello")))[0] == "You said: hello"
        await engine.close()


async def test_a_server_that_begins_to_load_under_a_request_cannot_be_used() -> None:
    async with FakeOpenAI("llama.cpp", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.loading = True
        with pytest.raises(NoServer):
            await answer(engine, request("hello"))


async def test_a_server_without_models_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "PROBE_EVERY_S", 0.05)
    async with FakeOpenAI("ollama", {MODEL: 4096}) as fake:
        fake.models.clear()
        engine = RemoteEngine([fake.url])
        seen: asyncio.Queue[LoadProgress] = asyncio.Queue()
        loading = asyncio.create_task(load(engine, seen.put_nowait))
        assert "it lists no models" in (await asyncio.wait_for(seen.get(), 20)).stage
        fake.models[MODEL] = 4096
        await loading
        await engine.close()


async def test_a_refused_key_is_an_error_only_if_no_other_server_may_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_pool, "PROBE_EVERY_S", 0.05)
    async with FakeOpenAI("vllm", {MODEL: 4096}, key="other") as locked, FakeOpenAI("vllm", {MODEL: 4096}) as fake:
        await fake.down()
        engine = RemoteEngine([locked.url, fake.url], "secret")
        seen: asyncio.Queue[LoadProgress] = asyncio.Queue()
        loading = asyncio.create_task(load(engine, seen.put_nowait))
        assert "it refuses the key" in (await asyncio.wait_for(seen.get(), 20)).stage
        await fake.up()
        await loading
        await engine.close()


async def test_a_model_whose_servers_are_down_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(server_pool, "PARTLY_S", 0.1)
    one, two = FakeOpenAI("vllm", {MODEL: 4096}), FakeOpenAI("vllm", {"other": 4096})
    async with one, two:
        await one.down()
        engine = RemoteEngine([one.url, two.url])
        first = asyncio.create_task(load(engine))
        await two.until(lambda: len(two.calls) > 9)
        assert not first.done(), "at the start it waits"
        await one.up()
        await first
        await one.down()
        await asyncio.gather(*(each.probe() for each in engine.pool.servers))
        with pytest.raises(ModelError, match="No server that can be reached now offers org/Model-7B"):
            await load(engine)
        await engine.close()


@pytest.mark.fault(28)
async def test_a_request_whose_server_ends_before_its_answer_begins_may_be_the_cause() -> None:
    async with FakeOpenAI("llama.cpp", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.faults.hang(word=None)
        asking = asyncio.create_task(answer(engine, request("hello")))
        await fake.until(lambda: fake.asked)
        await fake.down()
        with pytest.raises(ServerLost):  # which is counted; with NoServer it would be repeated for ever
            await asking


@pytest.mark.fault(28)
async def test_a_request_ends_no_more_than_two_servers_at_a_time() -> None:
    fakes = [FakeOpenAI("vllm", {MODEL: 4096}) for _ in range(4)]
    async with fakes[0], fakes[1], fakes[2], fakes[3], run_engine(*fakes) as engine:
        for fake in fakes:
            fake.faults.reset(question="hello")
        with pytest.raises(ServerLost):
            await answer(engine, request("hello"))
        assert sum(len(fake.asked) for fake in fakes) == 2


@pytest.mark.parametrize("where", ["status", "stream"])
async def test_an_error_under_one_request_holds_up_no_other_one(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_engine, "AGAIN_S", 0.05)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        if where == "status":
            fake.faults.status(500, question="poison", times=9)
        else:
            fake.faults.stream_error(question="poison", times=9)
        for number in range(2):  # as often as a caller repeats it
            with pytest.raises(ServerLost):
                await answer(engine, request("poison", request_id=str(number)))
            assert engine.pool.usable
        assert (await answer(engine, request("hello")))[0] == "You said: hello"
        assert fake.questions().count("poison") == 4


async def test_an_error_that_passes_costs_a_pause_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_engine, "AGAIN_S", 0.05)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.faults.status(500)
        assert (await answer(engine, request("hello")))[0] == "You said: hello"


async def test_a_server_that_reports_only_errors_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_engine, "AGAIN_S", 0.05)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.faults.status(500, times=99)
        for number in range(3):
            with pytest.raises(ServerLost):
                await answer(engine, request("hello", request_id=str(number)))
        assert not engine.pool.usable
        assert len(fake.asked) == server.MOST_ERRORS


@pytest.mark.fault(60)
@pytest.mark.parametrize("reason", ["abort", "error"])
async def test_an_answer_that_the_server_broke_off_is_not_taken_as_whole(reason: str) -> None:
    async with FakeOpenAI("sglang", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.answers("hello", "one two", reason=reason)
        with pytest.raises(ServerLost):
            await answer(engine, request("hello"))


async def test_neither_the_key_nor_what_a_server_says_is_shown_to_people(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "inhouse")  # other tests of this process may have set another one
    said = "The key sk-secret of http://10.0.0.7:8000 is bad"
    async with FakeOpenAI("vllm", {MODEL: 4096}, key="sk-secret") as fake, run_engine(fake, key="sk-secret") as engine:
        fake.faults.status(400, said)
        with pytest.raises(RequestFailed) as refused:
            await answer(engine, request("hello"))
        fake.faults.stream_error(said, times=2)
        with pytest.raises(ServerLost) as lost:
            await answer(engine, request("and now?"))
    for shown in (str(refused.value), str(lost.value)):
        assert "sk-secret" not in shown
        assert "10.0.0.7" not in shown
    assert caplog.text.count("10.0.0.7") == 3
    assert f"127.0.0.1:{fake.port}" in caplog.text
    assert "sk-secret" not in caplog.text


async def test_a_prompt_is_cut_to_the_window_of_its_server() -> None:
    earlier = [f"turn {number} " + "word " * 60 for number in range(20)]
    small, large = FakeOpenAI("vllm", {MODEL: 400}), FakeOpenAI("vllm", {MODEL: 8192})
    async with small, large, run_engine(small, large) as engine:
        for fake, other, window in ((large, small, 8192), (small, large, 400)):
            await other.down()
            await fake.up()
            await asyncio.gather(*(each.probe() for each in engine.pool.servers))
            _, last = await answer(engine, request("and now?", *earlier, request_id=str(window)))
            assert last.usage is not None
            assert last.usage.context_window == window
            assert bool(last.usage.dropped_turns) == (fake is small)


async def test_a_busy_server_that_is_slow_to_list_its_models_stays_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "ASK_S", 0.05)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        await answer(engine, request("hello"))
        fake.faults.hang(path="/v1/models", word=None, times=2)
        await engine.pool.servers[0].probe()
        assert engine.offered == (MODEL,)
        monkeypatch.setattr(server, "HEARD_S", 0.0)
        await engine.pool.servers[0].probe()
        assert engine.pool.servers[0].problem == "it did not answer in time"


@pytest.mark.fault(59)
async def test_a_request_leaves_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "PROBE_EVERY_S", 0.05)
    async with two_servers() as (one, two), run_engine(one, two) as engine:
        own = await first_choice(engine, one, two)
        own.faults.hang(word=0)
        asking = asyncio.create_task(answer(engine, request("hello", conversation="c")))
        await own.until(lambda: "hello" in own.questions())
        own.faults.hang(path="/v1/models", word=None, times=9)
        monkeypatch.setattr(api_client, "ASK_S", 0.05)
        monkeypatch.setattr(server, "HEARD_S", 0.0)
        assert (await asking)[0] == "You said: hello"


async def test_a_wait_for_a_server_ends_when_the_engine_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "PROBE_EVERY_S", 0.05)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake:
        await fake.down()
        engine = RemoteEngine([fake.url])
        seen: asyncio.Queue[LoadProgress] = asyncio.Queue()
        loading = asyncio.create_task(load(engine, seen.put_nowait))
        await asyncio.wait_for(seen.get(), 20)
        await engine.close()
        with pytest.raises(ModelError, match="were closed"):
            await loading


@pytest.mark.fault(60)
@pytest.mark.parametrize("word", [0, 2])
async def test_chunks_without_text_are_no_answer(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_engine, "FIRST_TOKEN_S", 0.3)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        fake.faults.empty_chunks(word=word)
        with pytest.raises(ServerLost):
            await answer(engine, request("hello"))
        await fake.until(lambda: fake.aborted)


async def test_a_server_that_does_not_answer_holds_up_no_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_pool, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(server_pool, "OTHERS_S", 0.05)
    monkeypatch.setattr(api_client, "ASK_S", 3600.0)
    one, two = FakeOpenAI("vllm", {MODEL: 4096}), FakeOpenAI("vllm", {MODEL: 4096})
    async with one, two:
        one.faults.hang(path="/v1/models", word=None, times=9)
        async with run_engine(one, two) as engine:
            two.models["another"] = 4096
            await two.until(lambda: len(two.calls) > 9)
            assert engine.offered == ("another", MODEL)


async def test_a_server_that_does_not_answer_is_not_asked_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "ASK_S", 0.05)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake:
        fake.faults.hang(path="/v1/models", word=None)
        pool = server_pool.ServerPool([fake.url], on_probed=lambda: None)
        await pool.open()
        await pool.probe()
        await pool.close()
        assert [asked.path for asked in fake.calls] == ["/v1/models"]


async def test_a_failed_server_is_probed_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(server, "monotonic", lambda: now)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as fake, run_engine(fake) as engine:
        (one,) = engine.pool.servers
        for pause in (0.25, 0.5, 1.0):
            for _ in range(16):  # one death fails all its requests
                one.failed(ModelError("it broke"))
            now += pause - 0.01
            await one.probe()
            assert one.problem == "it broke"
            now += 0.02
            await one.probe()
            assert not one.problem
        one.answered()
        one.failed(ModelError("it broke"))
        now += 0.26
        await one.probe()
        assert not one.problem
