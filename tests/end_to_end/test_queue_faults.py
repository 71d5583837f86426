"""Tests overload and shutdown with the real service on both platforms: full queues, long conversations, SIGTERM."""

from pathlib import Path

import pytest

from bot.replies.renderer import OUTGROWN
from tests.support.builders.platform_services import Message, Platform, PlatformSetup
from tests.support.builders.storage_rows import rows
from tests.support.fakes.gates import Gates
from tests.support.fakes.scripted_engine import ScriptedEngine

pytest_plugins = ["tests.support.fixtures.both_platforms"]

HALF = "SELECT count(*) FROM {table} WHERE message_id = '{message}'"


@pytest.mark.fault(32)
async def test_a_full_queue_refuses_in_a_sentence_and_stores_nothing_of_it(tmp_path: Path, platform: Platform) -> None:
    platform.takes_all_calls()
    gates = Gates()
    engine = ScriptedEngine(gates.passing, max_running=1)
    async with platform.open(tmp_path, engine=engine, queue_size=2, per_user=2) as setup:
        gates.hold("one/0")
        asked = [await setup.ana.says(setup.general, "one", mention=True)]
        await gates.reached("one/0")
        asked += [await setup.ana.says(setup.general, text, mention=True) for text in ("two", "three")]
        waiting = "SELECT count(*) FROM requests WHERE status = 'waiting'"
        await setup.server.until(lambda: rows(tmp_path / "state", waiting) == [(2,)])
        refused = await setup.ben.says(setup.general, "four", mention=True)
        await setup.server.until(lambda: any("more than I take" in text for text in said(setup)))
        name = refused.id if platform.name == "discord" else refused.ts
        for table in ("turns", "requests"):
            assert rows(tmp_path / "state", HALF.format(table=table, message=name)) == [(0,)]
        assert rows(tmp_path / "state", f"SELECT count(*) FROM inbox WHERE identity = '{name}'") == [(1,)]
        await gates.open("one/0")
        for question in asked:
            await setup.answer_to(question)
        again = await setup.ben.says(setup.general, "four again", mention=True)
        assert await setup.answer_to(again) == "You said: four again"


@pytest.mark.fault(33)
async def test_a_conversation_that_outgrows_the_window_is_told_so_once(tmp_path: Path, platform: Platform) -> None:
    async with platform.open(tmp_path) as setup:
        setup.engine.answers("two", "not all of it", dropped=1)
        setup.engine.answers("three", "still less", dropped=3)
        shown: list[str] = []
        where: dict[str, Message] = {}
        for text in ("one", "two", "three"):
            question = await setup.ana.says(setup.general, text, mention=True, **where)
            if platform.name == "slack":
                where.setdefault("thread", question)
            shown.append(await setup.answer_to(question))
        assert shown == ["You said: one", f"not all of it\n\n{OUTGROWN}", "still less"]
        prompt = setup.engine.prompt_of("three").prompt
        assert [turn.text for turn in prompt.turns] == ["one", shown[0], "two", "not all of it", "three"]


@pytest.mark.fault(34)
async def test_an_answer_is_finished_before_the_end(tmp_path: Path, platform: Platform) -> None:
    async with platform.open(tmp_path, drain=20) as setup:
        setup.gates.hold("hello/2")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.server.until(lambda: setup.general.messages)
        setup.service.stop()
        await setup.gates.open("hello/2")
        await setup.running
        await platform.answered_once(setup, question)


@pytest.mark.fault(34)
async def test_an_answer_that_is_not_finished_in_time_goes_on_in_the_same_message(
    tmp_path: Path, platform: Platform
) -> None:
    async with platform.open(tmp_path, drain=0.1) as setup:
        setup.gates.hold("hello/2")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.server.until(lambda: setup.general.messages)
        (begun,) = setup.general.messages
        setup.service.stop()
        await setup.running
        assert rows(tmp_path / "state", "SELECT status, attempts FROM requests") == [("waiting", 0)]
    async with platform.open(tmp_path, earlier=setup) as again:
        await platform.answered_once(again, question)
        assert again.general.messages == [begun]


def said(setup: PlatformSetup) -> list[str]:
    """The texts of the bot's messages in the channel."""
    return [getattr(message, "content", None) or message.shown for message in setup.general.messages]
