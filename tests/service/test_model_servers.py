"""Tests the service with its model on servers: answers, a server's death, all servers down, /model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from bot.engine.remote.remote_engine import RemoteEngine
from bot.types.messages import FinishReason
from tests.support.builders.service import ServiceSetup, run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.openai_server import FakeOpenAI
from tests.support.fakes.scripted_engine import ScriptedEngine

MODEL = "org/Model-7B"


@pytest.fixture(autouse=True)
def _probe_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.engine.remote.server_pool.PROBE_EVERY_S", 0.1)
    monkeypatch.setattr("bot.service.service.LIST_EVERY_S", 0.05)


@asynccontextmanager
async def served_by(root: Path, *servers: FakeOpenAI, http: str = "off") -> AsyncIterator[ServiceSetup]:
    """A service whose model is on these servers."""
    urls = [server.url for server in servers]
    engine = cast(ScriptedEngine, RemoteEngine(urls))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("INHOUSE_ENGINE", "openai")
        patched.setenv("INHOUSE_ENGINE_URLS", ",".join(urls))
        async with run_service(root, engine=engine, ready=False, model=MODEL, models="", http=http) as setup:
            await setup.platform.connected()
            yield setup


async def test_a_question_is_answered_by_a_server_with_the_history(tmp_path: Path) -> None:
    async with FakeOpenAI("llama.cpp", {MODEL: 4096}) as server, served_by(tmp_path, server) as setup:
        assert (await setup.team.asks("ana", "hello")).text == "You said: hello"
        await setup.team.asks("ana", "and now?")
        texts = [message["content"] for message in server.asked[1].body["messages"]]
        assert texts[1:] == ["hello", "You said: hello", "and now?"]
        assert f"{MODEL.lower()} on its server, llama.cpp" in await setup.team.told("status")
        assert "read 25 tokens" in await setup.team.told("why")


async def test_each_server_is_seen_in_status_metrics_and_on_the_page(tmp_path: Path) -> None:
    one, two = FakeOpenAI("vllm", {MODEL: 4096}), FakeOpenAI("ollama", {MODEL: 4096})
    async with one, two, served_by(tmp_path, one, two, http="127.0.0.1:0") as setup, aiohttp.ClientSession() as session:
        assert setup.service.web is not None
        page = setup.service.web.url.rstrip("/")
        await setup.team.asks("ana", "hello")
        await setup.platform.until(lambda: all(state.models for state in setup.live_state.servers), "both were asked")
        await two.down()
        await setup.platform.until(lambda: any(state.problem for state in setup.live_state.servers), "one is down")
        async with session.get(f"{page}/metrics") as response:
            metrics = await response.text()
        for server, up in ((one, 1.0), (two, 0.0)):
            assert f'inhouse_server_up{{server="127.0.0.1:{server.port}"}} {up}' in metrics
        assert f'inhouse_server_requests_total{{server="127.0.0.1:{one.port}"}}' in metrics
        status = await setup.team.told("status")
        assert "server 1: vLLM, 0 answers being written" in status
        assert "server 2: Ollama, cannot be used now" in status
        assert str(two.port) not in status


async def test_settings_names_what_the_server_does_not_take(tmp_path: Path) -> None:
    async with FakeOpenAI("ollama", {MODEL: 4096}) as server, served_by(tmp_path, server) as setup:
        await setup.team.asks("ana", "hello")
        assert "repetition_penalty: the model's server does not take it" in await setup.team.told("settings")


async def test_what_the_model_can_do_is_shown(tmp_path: Path) -> None:
    fake = FakeOpenAI("ollama", {MODEL: 4096}, abilities=("thinking", "vision"))
    async with fake as server, served_by(tmp_path, server) as setup:
        await setup.team.asks("ana", "hello")
        assert "- the model thinks, sees pictures" in await setup.team.told("settings")
        assert "answers at once, thinks, sees pictures" in await setup.team.told("status")


async def test_a_server_that_returns_takes_questions_without_a_load(tmp_path: Path) -> None:
    one, two = FakeOpenAI("llama.cpp", {MODEL: 4096}, slots=1), FakeOpenAI("llama.cpp", {MODEL: 4096}, slots=1)
    async with one, two:
        await two.down()
        async with served_by(tmp_path, one, two) as setup:
            await setup.team.asks("ana", "before")
            for server in (one, two):
                server.gates.hold("first/0")
            await setup.team.says("ana", "first")
            await one.gates.reached("first/0")
            other = setup.team.elsewhere(channel="other")
            await other.says("ben", "second")
            assert setup.loader.slots == 1
            await two.up()
            await setup.platform.until(lambda: "second" in one.questions() + two.questions(), "it is sent")
            assert setup.loader.slots == 2
            await one.gates.open("first/0")
            assert (await setup.team.reply_to("first")).text == "You said: first"
            assert (await other.reply_to("second")).text == "You said: second"


@pytest.mark.fault(57)
async def test_a_server_that_dies_in_the_middle_is_replaced_in_the_same_message(tmp_path: Path) -> None:
    one, two = FakeOpenAI("vllm", {MODEL: 4096}), FakeOpenAI("vllm", {MODEL: 4096})
    async with one, two, served_by(tmp_path, one, two) as setup:
        for server in (one, two):
            server.answers("hello", "Good morning to you all")
            server.gates.hold("hello/3")
        await setup.team.says("ana", "hello")
        message = await setup.team.sees("hello", "Good")
        dying, other = (one, two) if one.asked else (two, one)
        await dying.gates.reached("hello/3")
        await other.gates.open("hello/3")
        await dying.down()
        answer = await setup.team.reply_to("hello")
        assert (answer.text, answer.parts) == ("Good morning to you all", (message,))
        assert "restarted" not in await setup.team.told("status")


@pytest.mark.fault(58)
async def test_while_all_servers_are_down_questions_wait_and_say_so(tmp_path: Path) -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server:
        await server.down()
        async with served_by(tmp_path, server) as setup:
            await setup.team.says("ana", "hello")
            message = await setup.team.sees("hello", "waiting for the model's server")
            await server.up()
            answer = await setup.team.reply_to("hello")
            assert (answer.text, answer.parts) == ("You said: hello", (message,))
            server.gates.hold("and now?/2")
            await setup.team.says("ana", "and now?")
            await setup.team.sees("and now?", "You")
            await server.down()
            await setup.team.sees("and now?", "waiting for the model's server")
            await server.gates.open("and now?/2")
            await server.up()
            assert (await setup.team.reply_to("and now?")).text == "You said: and now?"
        assert rows(setup.settings.state_dir, "SELECT status FROM requests") == [("finished",), ("finished",)]


async def test_stop_frees_the_server(tmp_path: Path) -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, served_by(tmp_path, server) as setup:
        server.gates.hold("hello/1")
        await setup.team.says("ana", "hello")
        await setup.team.sees("hello", "You")
        assert await setup.team.told("stop", who="ana") == "Stopped."
        assert (await setup.team.reply_to("hello")).reason is FinishReason.ABORT
        await server.until(lambda: server.aborted and not server.running_now())


async def test_the_models_of_the_servers_can_be_chosen(tmp_path: Path) -> None:
    async with FakeOpenAI("ollama", {MODEL: 4096, "qwen3:8b": 4096}) as server, served_by(tmp_path, server) as setup:
        await setup.team.asks("ana", "hello")
        core = setup.adapter.core
        assert core is not None
        await setup.platform.until(lambda: "qwen3:8b" in str(core.choices("model", "qwen")), "it is listed")
        assert "qwen3:8b" in await setup.team.told("model")
        assert "qwen3:8b answers here now" in await setup.team.told("model", "qwen3:8b")
        await setup.team.asks("ana", "and now?")
        assert server.asked[-1].body["model"] == "qwen3:8b"


async def test_a_server_that_takes_no_request_for_long_costs_no_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.engine.remote.server.FIRST_PAUSE_S", 0.001)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, served_by(tmp_path, server) as setup:
        server.faults.redirect("http://127.0.0.1:9/", times=7)
        assert (await setup.team.asks("ana", "hello")).text == "You said: hello"


async def test_a_question_that_ends_every_server_gets_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.engine.remote.server.FIRST_PAUSE_S", 0.001)
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, served_by(tmp_path, server) as setup:
        server.faults.reset(word=1, question="hello", times=20)
        answer = await setup.team.asks("ana", "hello")
        assert answer.reason is FinishReason.ERROR
        assert "The model's server failed 2 times while it wrote this answer, so I gave it up." in answer.text
        assert (await setup.team.asks("ana", "and now?")).text.endswith("and now?")


async def test_idle_servers_that_are_down_make_the_service_unready(tmp_path: Path) -> None:
    async with FakeOpenAI("vllm", {MODEL: 4096}) as server, served_by(tmp_path, server) as setup:
        await setup.team.asks("ana", "hello")
        await server.down()
        core = setup.adapter.core
        assert core is not None
        status = await setup.team.told("status")
        while "No server of the model can be used now" not in status:
            await asyncio.sleep(0.05)
            status = await setup.team.told("status")
        assert str(server.port) not in status
