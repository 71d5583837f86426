"""Tests the console without a terminal: questions from a pipe or --once, and a reader that closes early."""

import asyncio
import io
import os
from collections.abc import AsyncIterator

import pytest

from adapters.console.adapter import ConsoleAdapter
from adapters.console.piped import OneLine, PipedLines, PlainScreen
from tests.adapters.console.test_adapter import Said, talk
from tests.support.fakes.scripted_core import ScriptedCore


@pytest.mark.parametrize("begun", ["Nothing complete", "A line\nand more"])
async def test_the_program_ends_when_its_reader_is_gone(begun: str) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as out:
        adapter = ConsoleAdapter(Said(["one", "two"]), PlainScreen(out, io.StringIO()))
        core = ScriptedCore(adapter)
        core.says(begun, until_stopped=True)
        running = asyncio.create_task(adapter.run(core))
        await core.writing.wait()
        os.close(reading)
        async with asyncio.timeout(10):
            await running
        assert [getattr(event, "name", "") for event in core.events] == ["", "stop"], "the answer is stopped"
        await adapter.close()
        await asyncio.gather(*core.tasks)
        assert not adapter.failed


async def test_a_write_to_a_reader_that_is_gone_is_no_failure_of_the_adapter() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        adapter = ConsoleAdapter(Said(["/status"] * 100), PlainScreen(out, io.StringIO()))
        async with asyncio.timeout(10):
            await adapter.run(ScriptedCore(adapter))


@pytest.fixture
async def pipe() -> AsyncIterator[tuple[PipedLines, int]]:
    reading, writing = os.pipe()
    with io.FileIO(reading) as stream:
        yield PipedLines(stream), writing
        try:
            os.close(writing)
        except OSError:  # closed by the test
            return


async def test_lines_of_a_pipe(pipe: tuple[PipedLines, int]) -> None:
    lines, writing = pipe
    core = talk().core
    os.write(writing, "première\nbroken \xff".encode("latin-1") + b"\nlast")
    os.close(writing)
    assert [await lines.ask(core) for _ in range(4)] == [
        "premi\N{REPLACEMENT CHARACTER}re\n",
        "broken \N{REPLACEMENT CHARACTER}\n",
        "last",
        None,
    ]


async def test_a_silent_pipe_does_not_keep_the_program(pipe: tuple[PipedLines, int]) -> None:
    lines, _ = pipe
    adapter = ConsoleAdapter(lines, PlainScreen(io.StringIO(), io.StringIO()))
    running = asyncio.create_task(adapter.run(ScriptedCore(adapter)))
    await asyncio.sleep(0.05)
    await adapter.close()
    async with asyncio.timeout(5):
        await running


async def test_once_is_one_question() -> None:
    once, core = OneLine("Why?"), talk().core
    assert [await once.ask(core), await once.ask(core)] == ["Why?", None]
