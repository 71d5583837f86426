"""Tests many answers at once: each equals generate()'s, whatever the other requests ask for."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest

from bot.engine.client.process import EngineProcess
from bot.types.messages import FinishReason
from tests.support.builders.engine_requests import GREEDY, Reference, ask, load, prompt
from tests.support.builders.in_process_engine import Bench
from tests.support.builders.tiny_models import KINDS

pytest_plugins = ["tests.support.fixtures.engine"]
pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTIONS = ("What is the capital of France?", "Who wrote this, and when?", "def add(first, second):")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_batch_says_what_generate_says(engine: EngineProcess, tiny: dict[str, Path], kind: str) -> None:
    loaded = await load(engine, tiny[kind])
    assert loaded.batching
    reference = Reference(tiny[kind])
    penalties = (1.0, 1.1, 1.3)
    params = [replace(GREEDY, repetition_penalty=penalty) for penalty in penalties]
    answers = await asyncio.gather(
        *(ask(engine, f"{kind} {i}", text, how) for i, (text, how) in enumerate(zip(QUESTIONS, params, strict=True)))
    )
    for answer, text, how in zip(answers, QUESTIONS, params, strict=True):
        assert (answer.text, answer.usage.generated_tokens) == reference.answer(text, how)


async def test_smollm2_in_a_batch_says_what_generate_says(engine: EngineProcess, smollm2_dir: Path) -> None:
    await load(engine, smollm2_dir)
    reference = Reference(smollm2_dir)
    params = [replace(GREEDY, repetition_penalty=penalty) for penalty in (1.0, 1.1, 1.3)]
    answers = await asyncio.gather(*(ask(engine, f"s{i}", QUESTIONS[i], how) for i, how in enumerate(params)))
    for i, how in enumerate(params):
        assert (answers[i].text, answers[i].usage.generated_tokens) == reference.answer(QUESTIONS[i], how)
    assert "Paris" in answers[0].text
    assert answers[0].finish_reason is FinishReason.STOP


async def test_a_greedy_answer_does_not_change_when_its_neighbours_sample(
    engine: EngineProcess, tiny: dict[str, Path]
) -> None:
    await load(engine, tiny["llama"])
    alone = await ask(engine, "alone", QUESTIONS[0])
    wild = replace(GREEDY, temperature=1.5, top_k=50, top_p=0.9, repetition_penalty=1.2)
    mixed = [GREEDY, wild, replace(wild, top_k=0), replace(wild, top_p=1.0), replace(wild, top_k=0, top_p=1.0)]
    answers = await asyncio.gather(*(ask(engine, f"m{i}", QUESTIONS[0], how) for i, how in enumerate(mixed)))
    assert answers[0].text == alone.text
    assert len({answer.text for answer in answers}) > 1


async def test_more_answers_than_places_are_given_in_turn(engine: EngineProcess, tiny: dict[str, Path]) -> None:
    loaded = await load(engine, tiny["llama"])
    count = loaded.max_running + 5
    alone = await ask(engine, "alone", QUESTIONS[1])
    answers = await asyncio.gather(*(ask(engine, f"q{i}", QUESTIONS[1]) for i in range(count)))
    assert [answer.text for answer in answers] == [alone.text] * count


async def test_answers_that_do_not_fit_the_cache_together_wait_for_each_other(
    engine: EngineProcess, tiny: dict[str, Path]
) -> None:
    loaded = await load(engine, tiny["llama"], kv_cache_mb=1)
    assert loaded.kv_cache_tokens < 8 * 300
    long = replace(GREEDY, max_tokens=300)
    alone = await ask(engine, "alone", QUESTIONS[2], long)
    answers = await asyncio.gather(*(ask(engine, f"w{i}", QUESTIONS[2], long) for i in range(8)))
    assert [answer.text for answer in answers] == [alone.text] * 8
    stats = await engine.stats()
    assert stats.free_blocks == stats.blocks


async def test_a_waiting_request_starts_as_soon_as_another_ends(tiny: dict[str, Path]) -> None:
    bench = Bench(tiny["llama"], blocks=4)
    bench.submit(1, "Tell me.", replace(GREEDY, max_tokens=120))
    bench.submit(2, "Too large beside it.", replace(GREEDY, max_tokens=200))
    bench.submit(3, "Small.", replace(GREEDY, max_tokens=20))
    while len(bench.texts.get(1, "")) < 30:
        bench.step()
    assert 3 not in bench.texts
    bench.generator.abort(2)
    while 3 not in bench.ends:
        bench.step()
    assert 1 not in bench.ends
    bench.run()
    bench.generator.close()


async def test_the_next_turn_finds_its_history_in_the_cache(engine: EngineProcess, tiny: dict[str, Path]) -> None:
    await load(engine, tiny["llama"])
    first = await ask(engine, "t1", "Count: " + "1 2 3 4 5 6 7 8 9 " * 5)
    second = await ask(engine, "t2", prompt("Count: " + "1 2 3 4 5 6 7 8 9 " * 5, first.text, "And then?"))
    assert first.usage.prompt_tokens - 16 <= second.usage.cached_tokens < second.usage.prompt_tokens


async def test_under_pressure_the_cache_evicts_the_least_recently_used(
    engine: EngineProcess, tiny: dict[str, Path]
) -> None:
    loaded = await load(engine, tiny["llama"], kv_cache_mb=1)
    said = [f"{topic} " * 150 for topic in ("lazy", "quick", "brown", "fox", "dog", "hours", "keys", "short")]
    tokens = 0
    for number, text in enumerate(said):
        answer = await ask(engine, f"p{number}", text)
        tokens += answer.usage.prompt_tokens + answer.usage.generated_tokens
    assert tokens > loaded.kv_cache_tokens
    newest = await ask(engine, "newest", said[-1])
    assert newest.usage.cached_tokens >= newest.usage.prompt_tokens - 16
    oldest = await ask(engine, "oldest", said[0])
    assert oldest.usage.cached_tokens < oldest.usage.prompt_tokens - 16


async def test_a_stop_string_is_never_shown_and_frees_the_place(engine: EngineProcess, smollm2_dir: Path) -> None:
    await load(engine, smollm2_dir)
    whole = await ask(engine, "whole", QUESTIONS[0])
    assert whole.text == "The capital of France is Paris."
    stopped = await ask(engine, "stopped", QUESTIONS[0], replace(GREEDY, stop=("ance is P", "never")))
    assert stopped.text == "The capital of Fr"
    assert stopped.finish_reason is FinishReason.STOP
    await ask(engine, "after", QUESTIONS[0])
    stats = await engine.stats()
    assert (stats.running, stats.free_blocks) == (0, stats.blocks)


@pytest.mark.fault(31)
async def test_an_abort_ends_the_answer_at_the_next_step(engine: EngineProcess, smollm2_dir: Path) -> None:
    await load(engine, smollm2_dir)

    async def stop_at_five(count: int) -> None:
        if count == 5:
            await engine.abort("stop me")

    long = replace(GREEDY, max_tokens=200)
    neighbour, aborted = await asyncio.gather(
        ask(engine, "neighbour", QUESTIONS[0]),
        ask(engine, "stop me", "Count from one to one hundred.", long, stop_at_five),
    )
    assert aborted.finish_reason is FinishReason.ABORT
    assert 5 <= aborted.usage.generated_tokens <= 8
    assert neighbour.text == "The capital of France is Paris."
    stats = await engine.stats()
    assert (stats.running, stats.free_blocks) == (0, stats.blocks)


async def test_closing_the_iterator_aborts(engine: EngineProcess, smollm2_dir: Path) -> None:
    await load(engine, smollm2_dir)

    async def leave(count: int) -> None:
        if count == 3:
            raise ConnectionError("the reader has gone")

    with pytest.raises(ConnectionError):
        await ask(engine, "left", "Count from one to one hundred.", replace(GREEDY, max_tokens=400), leave)
    await load(engine, smollm2_dir)  # at once, while the answer is still in the batch
    with pytest.raises(ConnectionError):
        await ask(engine, "left", "Count from one to one hundred.", replace(GREEDY, max_tokens=400), leave)
    again = await ask(engine, "left", QUESTIONS[0])
    assert again.text == "The capital of France is Paris."
    assert (await engine.stats()).running == 0


@pytest.mark.fault(31)
async def test_a_long_prompt_holds_up_its_neighbour_for_five_steps_at_most(
    engine: EngineProcess, smollm2_dir: Path
) -> None:
    await load(engine, smollm2_dir)
    times: list[float] = []
    started = asyncio.Event()

    async def clock(count: int) -> None:
        times.append(perf_counter())
        if count == 16:
            started.set()

    async def long_prompt() -> tuple[float, float]:
        await started.wait()
        asked = perf_counter()
        text = "The keys are under the mat, and the dog sleeps. " * 100
        answer = await ask(engine, "long", text, replace(GREEDY, max_tokens=1))
        return asked, asked + answer.usage.queue_s + answer.usage.prefill_s

    counting = replace(GREEDY, max_tokens=60, repetition_penalty=1.1)
    _, (begin, end) = await asyncio.gather(
        ask(engine, "steady", "Tell me a long story about the sea.", counting, clock), long_prompt()
    )
    gaps = [(later, later - earlier) for earlier, later in pairwise(times)]
    steps = [gap for at, gap in gaps if at < begin]
    chunks = [gap for at, gap in gaps if begin + gap < at <= end]
    assert len(chunks) >= 3
    assert median(chunks) <= 5 * median(steps)
