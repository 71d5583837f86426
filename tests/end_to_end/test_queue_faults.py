"""Tests overload and shutdown with the real service on both platforms: full queues, long conversations, SIGTERM."""

from pathlib import Path

import pytest

from bot.replies.renderer import OUTGROWN
from tests.support.builders.platform_services import House, Message, Platform
from tests.support.builders.storage_rows import rows
from tests.support.fakes.engine import ScriptedEngine
from tests.support.fakes.gates import Gates

pytest_plugins = ["tests.support.fixtures.both_platforms"]

HALF = "SELECT count(*) FROM {table} WHERE message_id = '{message}'"


@pytest.mark.fault(32)
async def test_a_full_queue_refuses_in_a_sentence_and_stores_nothing_of_it(tmp_path: Path, platform: Platform) -> None:
    platform.takes_all_calls()
    gates = Gates()
    engine = ScriptedEngine(gates.passing, max_running=1)
    async with platform.open(tmp_path, engine=engine, queue_size=2, per_user=2) as house:
        gates.hold("one/0")
        asked = [await house.ana.says(house.general, "one", mention=True)]
        await gates.reached("one/0")
        asked += [await house.ana.says(house.general, text, mention=True) for text in ("two", "three")]
        waiting = "SELECT count(*) FROM requests WHERE status = 'waiting'"
        await house.server.until(lambda: rows(tmp_path / "state", waiting) == [(2,)])
        refused = await house.ben.says(house.general, "four", mention=True)
        await house.server.until(lambda: any("more than I take" in text for text in said(house)))
        name = refused.id if platform.name == "discord" else refused.ts
        for table in ("turns", "requests"):
            assert rows(tmp_path / "state", HALF.format(table=table, message=name)) == [(0,)]
        assert rows(tmp_path / "state", f"SELECT count(*) FROM inbox WHERE identity = '{name}'") == [(0,)]
        await gates.open("one/0")
        for question in asked:
            await house.answer_to(question)
        again = await house.ben.says(house.general, "four again", mention=True)
        assert await house.answer_to(again) == "You said: four again"


@pytest.mark.fault(33)
async def test_a_conversation_that_outgrows_the_window_is_told_so_once(tmp_path: Path, platform: Platform) -> None:
    async with platform.open(tmp_path) as house:
        house.engine.answers("two", "not all of it", dropped=1)
        house.engine.answers("three", "still less", dropped=3)
        shown: list[str] = []
        where: dict[str, Message] = {}
        for text in ("one", "two", "three"):
            question = await house.ana.says(house.general, text, mention=True, **where)
            if platform.name == "slack":
                where.setdefault("thread", question)
            shown.append(await house.answer_to(question))
        assert shown == ["You said: one", f"not all of it\n\n{OUTGROWN}", "still less"]
        prompt = house.engine.prompt_of("three").prompt
        assert [turn.text for turn in prompt.turns] == ["one", shown[0], "two", "not all of it", "three"]


@pytest.mark.fault(34)
async def test_an_answer_is_finished_before_the_end(tmp_path: Path, platform: Platform) -> None:
    async with platform.open(tmp_path, drain=20) as house:
        house.gates.hold("hello/2")
        question = await house.ana.says(house.general, "hello", mention=True)
        await house.server.until(lambda: house.general.messages)
        house.service.stop()
        await house.gates.open("hello/2")
        await house.running
        await platform.answered_once(house, question)


@pytest.mark.fault(34)
async def test_an_answer_that_is_not_finished_in_time_goes_on_in_the_same_message(
    tmp_path: Path, platform: Platform
) -> None:
    async with platform.open(tmp_path, drain=0.1) as house:
        house.gates.hold("hello/2")
        question = await house.ana.says(house.general, "hello", mention=True)
        await house.server.until(lambda: house.general.messages)
        (begun,) = house.general.messages
        house.service.stop()
        await house.running
        assert rows(tmp_path / "state", "SELECT status, attempts FROM requests") == [("waiting", 0)]
    async with platform.open(tmp_path, earlier=house) as again:
        await platform.answered_once(again, question)
        assert again.general.messages == [begun]


def said(house: House) -> list[str]:
    """The texts of the bot's messages in the channel."""
    return [getattr(message, "content", None) or message.shown for message in house.general.messages]
