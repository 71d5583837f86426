"""Tests `inhouse run` as a process with its model on a server in another process, and a fake Discord."""

import signal
from pathlib import Path

import pytest

from tests.end_to_end.test_discord_process import PATIENCE_S, Run, finished, inhouse_run
from tests.support.fakes.discord import FakeDiscord, Message
from tests.support.fakes.openai.server_process import ServerProcess

ONE, TWO = "org/Model-One", "org/Model-Two"
LONG = "Tell " + " ".join(f"word{number}" for number in range(30))


def choose_model(folder: Path, model: str, url: str) -> None:
    """Writes the settings that a reload reads."""
    (folder / ".env").write_text(f"INHOUSE_ENGINE=openai\nINHOUSE_ENGINE_URLS={url}\nINHOUSE_MODEL={model}\n")


def begun(question: Message) -> bool:
    """Whether a part of the answer is shown."""
    return any(each.reference is question and "word3" in each.content for each in question.channel.messages)


async def reloaded(run: Run) -> None:
    """Sends SIGHUP and waits until the settings were read."""
    run.process.send_signal(signal.SIGHUP)
    assert run.process.stderr is not None
    while b"The configuration was reloaded" not in (line := await run.process.stderr.readline()):
        assert line, "it ended"


async def test_a_model_on_a_server_through_reload_drain_and_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake = ServerProcess(kind="vllm", models={ONE: 4096, TWO: 4096}, pace_s=0.1, echo="{model} read: {question}")
    async with FakeDiscord() as discord, fake as models:
        choose_model(tmp_path, ONE, models.url)
        ana, channel = discord.user("ana"), discord.text_channel("general")

        async with inhouse_run(discord, tmp_path, monkeypatch) as run:
            await discord.until(lambda: discord.gateway.online and discord.commands, PATIENCE_S)
            question = await ana.says(channel, "hello", mention=True)
            await discord.until(lambda: finished(question), PATIENCE_S)
            assert finished(question)[0].content.startswith(f"{ONE} read: hello")
            choose_model(tmp_path, TWO, models.url)
            await reloaded(run)
            drained = await ana.says(channel, LONG, mention=True)
            await discord.until(lambda: begun(drained), PATIENCE_S)
            run.process.send_signal(signal.SIGTERM)
            status, log = await run.ends()
            assert status == 0
            assert not [line for line in log if "Traceback" in line]
            assert finished(drained)[0].content.startswith(f"{TWO} read: {LONG}")

        elsewhere = discord.text_channel("random")
        async with inhouse_run(discord, tmp_path, monkeypatch) as run:
            await discord.until(lambda: discord.gateway.online, PATIENCE_S)
            killed = await ana.says(elsewhere, LONG, mention=True)
            await discord.until(lambda: begun(killed), PATIENCE_S)
            run.process.kill()
            await run.process.wait()

        async with inhouse_run(discord, tmp_path, monkeypatch) as run:
            await discord.until(lambda: finished(killed), PATIENCE_S)
            (answer,) = [each for each in elsewhere.messages if each.reference is killed]
            assert answer.content.startswith(f"{TWO} read: {LONG}")
            run.process.send_signal(signal.SIGTERM)
            assert (await run.ends())[0] == 0
