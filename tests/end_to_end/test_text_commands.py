"""Tests which messages are commands, on both platforms: only those to the bot, and only if they are nothing else."""

from pathlib import Path

import pytest

from tests.support.builders.platform_services import Message, Platform, PlatformSetup
from tests.support.builders.storage_rows import rows

pytest_plugins = ["tests.support.fixtures.both_platforms"]


def told(setup: PlatformSetup) -> list[str]:
    """The texts that the bot showed in the channel, also to one user only."""
    ephemerals = getattr(setup.general, "ephemerals", [])
    return [getattr(each, "content", None) or each.shown for each in (*setup.general.messages, *ephemerals)]


def in_conversation(platform: Platform, question: Message) -> dict[str, Message]:
    """Where a message must be written to belong to the conversation of a question."""
    return {"thread": question} if platform.name == "slack" else {}


@pytest.mark.parametrize("text", ["!forget", "!forget all", "!reset", "!undo", "!stop", "!help", "!status", "stop"])
async def test_a_command_to_nobody_is_ignored(tmp_path: Path, platform: Platform, text: str) -> None:
    async with platform.open(tmp_path) as setup:
        await setup.answer_to(await setup.ana.says(setup.general, "hello", mention=True))
        stored = rows(tmp_path / "state", "SELECT * FROM turns")
        await setup.ben.says(setup.general, text)
        await setup.answer_to(await setup.ben.says(platform.channel("elsewhere"), "anything else?", mention=True))
        assert told(setup) == ["You said: hello"]
        assert rows(tmp_path / "state", "SELECT * FROM turns WHERE text NOT LIKE '%anything else%'") == stored


@pytest.mark.parametrize(
    "text",
    [
        "!reset my password please",
        "!continue the story with a dragon",
        "!forget what I said",
        "!temperature in Paris?",
        "!model trains are fun",
        "!stop\nit",
        "!help me please",
        "!play a song",
        "please !reset",
    ],
)
async def test_a_text_that_only_begins_like_a_command_is_answered(
    tmp_path: Path, platform: Platform, text: str
) -> None:
    async with platform.open(tmp_path) as setup:
        question = await setup.ana.says(setup.general, text, mention=True)
        assert await setup.answer_to(question) == f"You said: {text}"


async def test_a_command_with_a_file_is_a_question(tmp_path: Path, platform: Platform) -> None:
    async with platform.open(tmp_path) as setup:
        files = {"notes.txt": b"some notes"}
        question = await setup.ana.says(setup.general, "!forget", mention=True, files=files)
        assert "some notes" in await setup.answer_to(question)


@pytest.mark.parametrize(
    "text", ["{bot} !temperature", "!temperature {bot}", "{bot}, !TEMPERATURE", "!temperature, {bot}"]
)
async def test_a_mention_before_or_after_makes_it_a_command(tmp_path: Path, platform: Platform, text: str) -> None:
    async with platform.open(tmp_path) as setup:
        await setup.ana.says(setup.general, text.format(bot=platform.server.bot.mention))
        await setup.server.until(lambda: "temperature is 0.7 here." in told(setup))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("!system you are a pirate,\nand polite", "The instructions here are changed."),
        ("!temperature\n0.2", "temperature is now 0.2 here."),
        ("!temperature hot", "temperature must be a number between 0 and 2, not `hot`."),
        ("!export pdf", "export must be markdown, json or thoughts, not `pdf`."),
    ],
)
async def test_arguments_of_a_command_to_the_bot(tmp_path: Path, platform: Platform, text: str, answer: str) -> None:
    async with platform.open(tmp_path) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.answer_to(question)
        await platform.manager("boss").says(setup.general, text, mention=True, **in_conversation(platform, question))
        await setup.server.until(lambda: answer in told(setup))


async def test_in_a_thread_that_is_followed_no_mention_is_needed(tmp_path: Path, platform: Platform) -> None:
    async with platform.open(tmp_path) as setup:
        thread = setup.general
        if platform.name == "discord":
            thread = await setup.ana.opens_thread(setup.general, "a talk")
        question = await setup.ana.says(thread, "hello", mention=True)
        await setup.answer_to(question)
        where = in_conversation(platform, question)
        await setup.ana.says(thread, "!undo", **where)
        await setup.server.until(lambda: rows(tmp_path / "state", "SELECT * FROM turns") == [])
        again = await setup.ana.says(thread, "!undo the last change", **where)
        assert await setup.answer_to(again) == "You said: !undo the last change"


async def test_in_a_direct_conversation_no_mention_is_needed(tmp_path: Path, platform: Platform) -> None:
    async with platform.open(tmp_path) as setup:
        direct = platform.server.dm(setup.ana)
        await setup.ana.says(direct, "!temperature")
        await setup.server.until(lambda: direct.messages)
        shown = direct.messages[-1]
        assert (shown.content if platform.name == "discord" else shown.shown) == "temperature is 0.7 here."
