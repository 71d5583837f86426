"""Tests that this version continues on the state of an earlier one: its history and its waiting requests."""

import itertools
import sqlite3
from contextlib import closing
from pathlib import Path

from bot.storage import Storage
from tests.support.builders.service import run_service
from tests.support.builders.storage_rows import rows
from tests.support.fakes.scripted_platform import Posted, ScriptedPlatform

EARLIER_STATE = Path(__file__).with_name("earlier_state.sql")


async def show_earlier_messages(platform: ScriptedPlatform, directory: Path) -> None:
    """Posts the messages that the earlier version had posted, in their states of that time."""
    storage = await Storage.open(directory)
    for (reply_id,) in rows(directory, "SELECT reply_id FROM outbox ORDER BY platform_id"):
        stored = await storage.outbox.get(str(reply_id))
        assert stored is not None
        assert stored.reply.platform_id == f"post-{len(platform.posted)}"
        platform.posted.append(Posted(stored.reply.platform_id, stored.reply, [stored.reply.committed]))
    await storage.close()


async def test_the_state_of_an_earlier_version_is_continued(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with closing(sqlite3.connect(tmp_path / "state" / "inhouse.db")) as connection:
        connection.executescript(EARLIER_STATE.read_text("utf-8"))
    async with ScriptedPlatform() as platform:
        await show_earlier_messages(platform, tmp_path / "state")
        async with run_service(tmp_path, platform) as setup:
            team = setup.team
            team.numbers = itertools.count(10)  # the earlier messages had the numbers below
            for number, question in enumerate(("third", "fourth", "fifth"), start=7):
                team.asked[question] = f"message-{number}"
                answer = await team.reply_to(question)
                assert [part.id for part in answer.parts] == [f"post-{number - 4}"], "it is a new message"
                assert answer.text == f"You said: {question}"
            await team.elsewhere(channel="random").asks("ana", "what now?")
            await team.asks("ana", "sixth")
            prompt = setup.engine.prompt_of("sixth").prompt
            assert prompt.system == "You are a pirate."
            said = [turn.text for turn in prompt.turns]
            asked = ["hello", "and me?", "third", "fourth", "fifth"]
            assert said == [*(text for each in asked for text in (each, f"You said: {each}")), "sixth"]
            assert [turn.text for turn in setup.engine.prompt_of("what now?").prompt.turns] == ["what now?"], "reset"
        assert rows(tmp_path / "state", "SELECT count(*) FROM requests WHERE status != 'finished'") == [(0,)]
        assert rows(tmp_path / "state", "SELECT actor_id, good FROM ratings") == [("id-ana", 1)]
