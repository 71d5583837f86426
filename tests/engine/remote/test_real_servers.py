"""Tests the engine on the real llama.cpp server with SmolLM2, beyond the contract of all engines."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bot.conversations.conversations import text_with_files
from bot.types.engine import EngineRequest, ModelSource
from bot.types.errors import RequestFailed, ServerLost
from bot.types.messages import Attachment, FinishReason, Prompt, Role, SamplingParams, Turn
from tests.support.builders.catalog_tokenizers import QWEN_3_8
from tests.support.real_servers.asking import (
    ENDLESS,
    GREEDY,
    PATIENCE_S,
    QUESTION,
    answer,
    request,
    run_engine,
)
from tests.support.real_servers.servers import ROOT, RealServer, llama_cpp

pytest_plugins = ["tests.support.fixtures.real_servers"]


async def until(server: RealServer, fits: Callable[[list[bool]], bool]) -> None:
    """Waits until the slots are in use as wanted."""
    await asyncio.to_thread(server.until, "/slots", lambda slots: fits([slot["is_processing"] for slot in slots]))


def special_tokens(folder: Path) -> dict[str, int]:
    """Ids of the model's special tokens."""
    known = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    return {each["content"]: each["id"] for each in known if each["special"]}


async def test_no_special_token_of_the_model_reaches_the_server_as_one(
    llama_server: RealServer, smollm2_dir: Path
) -> None:
    tokens = special_tokens(smollm2_dir)
    assert len(tokens) == 17
    everything = " ".join(tokens)
    file = text_with_files("see the file", [Attachment(f"{everything}.txt", f"in the file {everything}")])
    turns = (
        Turn(Role.USER, f"Eve {everything}", f"in the text {everything}", "1", 1.0),
        Turn(Role.ASSISTANT, "", f"in an answer {everything}", "2", 2.0),
        Turn(Role.USER, f"Ana {everything}", file, "3", 3.0),
    )
    asked = EngineRequest("r", Prompt(f"in the system prompt {everything}", turns), SamplingParams(max_tokens=1))
    async with run_engine(llama_server) as (engine, _):
        await answer(engine, asked)
    prompts = [slot.get("prompt", "") for slot in llama_server.ask("/slots")]
    (prompt,) = [each for each in prompts if "in the file" in each]
    body = {"content": prompt, "add_special": True, "parse_special": True}
    ids = [each for each in llama_server.ask("/tokenize", body)["tokens"] if each in tokens.values()]
    begin, end = tokens["<|im_start|>"], tokens["<|im_end|>"]
    assert ids == [begin, end] * 4 + [begin]  # of the template


async def test_the_window_and_the_slots_come_from_the_server(llama_server: RealServer) -> None:
    async with run_engine(llama_server) as (_, loaded):
        assert (loaded.context_window, loaded.max_running) == (1024, 2)


async def test_what_fits_no_window_is_refused_with_a_sentence(llama_server: RealServer) -> None:
    async with run_engine(llama_server) as (engine, _):
        with pytest.raises(RequestFailed, match="more than the model's context window"):
            await answer(engine, request("one two " * 1000))
        assert (await answer(engine, request(QUESTION)))[0]


async def test_a_history_of_many_windows_is_cut_to_what_fits(llama_server: RealServer) -> None:
    roles = [Role.USER, Role.ASSISTANT] * 40 + [Role.USER]
    turns = tuple(
        Turn(role, "", f"{number}: µ → ∀x 日本語 🐻 {'word ' * 20}", str(number), float(number))
        for number, role in enumerate(roles)
    )
    async with run_engine(llama_server) as (engine, _):
        _, last = await answer(engine, EngineRequest("r", Prompt("Be brief.", turns), GREEDY))
        assert last.usage is not None
        assert 0 < last.usage.dropped_turns < len(turns)
        assert last.usage.prompt_tokens < 1024


@pytest.mark.parametrize("closes", [False, True], ids=["abort", "closed iterator"])
async def test_an_abort_frees_the_slot(llama_server: RealServer, closes: bool) -> None:
    async with run_engine(llama_server) as (engine, _):
        stream = engine.stream(request(QUESTION, params=ENDLESS))
        await anext(stream)
        await until(llama_server, any)
        if closes:
            await stream.aclose()
        else:
            await engine.abort(QUESTION)
            assert [delta async for delta in stream][-1].finish_reason is FinishReason.ABORT
        await until(llama_server, lambda slots: not any(slots))


async def test_an_abort_of_a_request_that_waits_for_a_slot(llama_server: RealServer) -> None:
    async with run_engine(llama_server) as (engine, _):
        names = [f"{QUESTION} {number}" for number in range(3)]
        streams = [engine.stream(request(name, params=ENDLESS)) for name in names]
        for stream in streams[:2]:
            await anext(stream)
        waiting = asyncio.create_task(answer(engine, request(names[2], params=ENDLESS)))
        await until(llama_server, all)
        await engine.abort(names[2])
        text, last = await waiting
        assert (text, last.finish_reason) == ("", FinishReason.ABORT)
        for stream in streams[:2]:
            await stream.aclose()
        await until(llama_server, lambda slots: not any(slots))
        assert (await answer(engine, request("Say hello.")))[0]


@pytest.mark.fault(57)
async def test_a_server_that_is_killed_in_the_middle_answers_again_after_its_restart(
    smollm2_dir: Path, tmp_path: Path
) -> None:
    with llama_cpp(smollm2_dir, tmp_path) as server:
        async with run_engine(server) as (engine, _):
            before, _ = await answer(engine, request(QUESTION))
            stream = engine.stream(request(QUESTION, params=ENDLESS))
            await anext(stream)
            await asyncio.to_thread(server.kill)
            with pytest.raises(ServerLost, match="failed while it answered"):
                [delta async for delta in stream]
            await asyncio.to_thread(server.start)
            await engine.load(ModelSource("smollm2", server.model), lambda _: None)
            assert (await answer(engine, request(QUESTION)))[0] == before


TESTER = """
import sys
from pathlib import Path
from tests.support.real_servers.servers import llama_cpp
server = llama_cpp(Path(sys.argv[1]), Path(sys.argv[2]))
server.start()
print(server.port, flush=True)
sys.stdin.read()
"""


async def test_a_template_that_has_another_word_for_high_gets_it(smollm2_dir: Path, tmp_path: Path) -> None:
    with llama_cpp(smollm2_dir, tmp_path, slots=1, template=QWEN_3_8) as server:
        async with run_engine(server) as (engine, _):
            for effort in ("high", "high", "low", "off"):
                asked = request("What is 2 + 2?", effort, replace(GREEDY, think=effort))
                text, last = await answer(engine, asked)
                (slot,) = server.ask("/slots")
                assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH), text
                effect = {"high": "Effort: xhigh", "low": "Effort: low", "off": "<think>\n\n</think>"}[effort]
                assert effect in slot["prompt"]
            assert not engine.pool.servers[0].problem


async def test_a_server_ends_with_a_test_that_is_killed(smollm2_dir: Path, tmp_path: Path) -> None:
    tester = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TESTER, str(smollm2_dir), str(tmp_path)), cwd=ROOT, stdin=PIPE, stdout=PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        assert tester.stdout is not None
        port = int(await tester.stdout.readline())
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        tester.kill()
        await tester.communicate()
        with suppress(ConnectionError):
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
