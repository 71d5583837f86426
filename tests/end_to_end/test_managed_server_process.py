"""Tests `inhouse run` as a process whose llama.cpp server is its child, on a fake Discord."""

import signal
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.test_discord_process import CAPITAL, PATIENCE_S, Run, finished, inhouse_run
from tests.support.builders.managed_servers import ONE_THREAD, wait_gone
from tests.support.fakes.discord import FakeDiscord, Message

pytest_plugins = ["tests.support.fixtures.gguf"]

LONG = "Count from one to a hundred in words."


def server_of(run: Run) -> list[psutil.Process]:
    """The supervisor and the server."""
    children = psutil.Process(run.process.pid).children(recursive=True)
    return [each for each in children if "bot.engine.local_server.llama_server" in each.cmdline()]


def begun(question: Message) -> bool:
    """Whether a part of the answer is shown."""
    return any(each.reference is question and len(each.content) > 20 for each in question.channel.messages)


@pytest.mark.fault(27)
@pytest.mark.fault(35)
async def test_a_killed_server_costs_no_answer_and_a_killed_inhouse_leaves_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_gguf: Path
) -> None:
    monkeypatch.setenv("INHOUSE_ENGINE", "llama.cpp")
    monkeypatch.setenv("INHOUSE_ENGINE_ARGS", ONE_THREAD)
    monkeypatch.setenv("INHOUSE_MODEL", str(smollm2_gguf))
    monkeypatch.setenv("INHOUSE_KV_CACHE_MB", "100")
    monkeypatch.setenv(
        "INHOUSE_REPETITION_PENALTY", "1.1"
    )  # the catalog's for SmolLM2, which a file's name does not tell
    async with FakeDiscord() as discord:
        ana, channel = discord.user("ana"), discord.text_channel("general")
        async with inhouse_run(discord, tmp_path, monkeypatch) as run:
            await discord.until(lambda: discord.gateway.online and discord.commands, PATIENCE_S)
            question = await ana.says(channel, CAPITAL, mention=True)
            await discord.until(lambda: finished(question), PATIENCE_S)
            assert "Paris" in finished(question)[0].content
            lost = await ana.says(channel, LONG, mention=True)
            await discord.until(lambda: begun(lost), PATIENCE_S)
            before = server_of(run)
            before[-1].kill()
            await discord.until(lambda: finished(lost), PATIENCE_S)
            wait_gone(*before)
            assert len([each for each in channel.messages if each.reference is lost]) == 1
            again = await ana.says(channel, CAPITAL, mention=True)
            await discord.until(lambda: finished(again), PATIENCE_S)
            after = server_of(run)
            assert len(after) == 2
            run.process.kill()
            await run.process.wait()
            wait_gone(*after)

        async with inhouse_run(discord, tmp_path, monkeypatch) as run:
            await discord.until(lambda: discord.gateway.online, PATIENCE_S)
            question = await ana.says(discord.text_channel("random"), CAPITAL, mention=True)
            await discord.until(lambda: finished(question), PATIENCE_S)
            last = server_of(run)
            run.process.send_signal(signal.SIGTERM)
            status, log = await run.ends()
            assert status == 0
            assert not [line for line in log if "Traceback" in line]
            wait_gone(*last)
