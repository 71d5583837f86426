"""Tests several `inhouse run` processes on one PostgreSQL database, with the real SmolLM2 and a fake Slack."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import aiohttp
import pytest

from tests.support.fakes.slack_server import FakeSlack, Message
from tests.support.postgresql import PostgresqlProcess

pytest_plugins = ["tests.support.fixtures.databases"]

ROOT = Path(__file__).parents[2]
CAPITAL = "What is the capital of France?"
PATIENCE_S = 100


@asynccontextmanager
async def running(root: Path, **more: str) -> AsyncIterator[Process]:
    """A host with a state directory in `root`. `more`: settings without the prefix, and HF_HOME."""
    settings = {name if name.isupper() else f"INHOUSE_{name.upper()}": value for name, value in more.items()}
    environment = {**os.environ, "INHOUSE_STATE_DIR": str(root / "state"), **settings}
    with log_in(root) as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bot.cli", "run"), env=environment, stdout=DEVNULL, stderr=log
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def log_in(root: Path) -> BinaryIO:
    root.mkdir()
    return (root / "log").open("wb")


@pytest.fixture
async def slack(
    monkeypatch: pytest.MonkeyPatch, postgresql: PostgresqlProcess, smollm2_dir: Path
) -> AsyncIterator[FakeSlack]:
    async with FakeSlack() as server:
        settings = {
            "PYTHONPATH": str(ROOT),
            "SLACK_BOT_TOKEN": server.bot_token,
            "SLACK_APP_TOKEN": server.app_token,
            "INHOUSE_SLACK_API_URL": server.api_url,
            "INHOUSE_DATABASE_URL": postgresql.new_database().get_secret_value(),
            "INHOUSE_TEMPERATURE": "0",
            "INHOUSE_MAX_TOKENS": "40",
            "INHOUSE_PER_USER": "20",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield server


def finished(question: Message) -> list[Message]:
    """The finished answers in the thread of a question."""
    return [each for each in question.channel.messages if each.thread_ts == question.ts and "Regenerate" in each.labels]


async def answers(port: int) -> str:
    """What the status page's host says about being ready; '' while nothing listens."""
    with suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as response:
            return await response.text()
    return ""


async def test_one_host_receives_and_another_one_answers(slack: FakeSlack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ana, general = slack.user("ana"), slack.channel("general")
    async with AsyncExitStack() as stack:
        nowhere = str(tmp_path / "nowhere")  # without the role `worker` no model is needed
        front = await stack.enter_async_context(
            running(
                tmp_path / "front",
                roles="adapters,web",
                http=f"127.0.0.1:{port}",
                cache_dir=nowhere,
                HF_HOME=nowhere,
            )
        )
        await slack.until(lambda: slack.sockets.online, PATIENCE_S)
        assert "no model is loaded" in await answers(port)
        first = await ana.says(general, CAPITAL, mention=True)
        worker = await stack.enter_async_context(running(tmp_path / "worker", roles="worker"))
        await slack.until(lambda: finished(first), PATIENCE_S)
        assert "Paris" in finished(first)[0].shown
        assert await answers(port) == "ready\n"
        assert slack.sockets.opened == 1
        questions = [await ana.says(general, CAPITAL, mention=True) for _ in range(4)]
        await slack.until(lambda: all(map(finished, questions)), PATIENCE_S)
        for process in (front, worker):
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0
    assert slack.pings == []
    for name in ("front", "worker"):
        assert "Traceback" not in (tmp_path / name / "log").read_text()


async def test_a_host_that_is_killed_costs_no_answer(slack: FakeSlack, tmp_path: Path) -> None:
    ana, general = slack.user("ana"), slack.channel("general")
    async with running(tmp_path / "one", http="off") as one, running(tmp_path / "two", http="off") as two:
        await slack.until(lambda: slack.sockets.opened == 2, PATIENCE_S)
        questions = [await ana.says(general, CAPITAL, mention=True) for _ in range(6)]
        await slack.until(lambda: any(map(finished, questions)), PATIENCE_S)
        one.kill()
        questions += [await ana.says(general, CAPITAL, mention=True) for _ in range(2)]
        await slack.until(lambda: all(map(finished, questions)), PATIENCE_S)
        assert [len(finished(question)) for question in questions] == [1] * 8
        assert two.returncode is None
    assert slack.pings == []
