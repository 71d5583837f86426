"""Tests that no text of users or models is in a log at debug level, during a whole conversation."""

import logging
from pathlib import Path

import pytest

from tests.support.builders import discord_service, slack_service
from tests.support.builders.captured_logs import logs_at
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.slack_server import FakeSlack

SAID = tuple(f"canary{number:04}" for number in range(12))
QUESTION, ANSWER, FILE, NAME, EDITED, PERSONA, TALK, THREAD, LOST, PRIVATE, EVIL, LATE = SAID

FILES = {f"{NAME}.txt": FILE.encode()}


@pytest.fixture(params=["text", "json"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_silent(log: str, *tokens: str) -> None:
    """Asserts that the log is not empty and contains none of the texts."""
    assert log
    assert [word for word in (*SAID, *tokens) if word in log] == []


async def test_a_whole_day_on_discord(tmp_path: Path, form: str) -> None:
    async with FakeDiscord() as server:
        with logs_at("debug", form, [server.token]) as log:
            async with discord_service.open_house(tmp_path, server) as house:
                house.engine.answers(QUESTION, f"{ANSWER} https://bad.example/{ANSWER}")
                house.engine.answers(LOST, "one two three", fails_at=2, failure="The prompt does not fit.")
                question = await house.ana.says(house.general, QUESTION, mention=True)
                assert ANSWER in await house.answer_to(question)
                answer = house.answers_to(question)[0][0]
                await house.ana.clicks(answer, answer.buttons[1]["custom_id"])
                await house.ana.edits(question, EDITED, mention=True)
                await house.ana.says(house.general, TALK)
                system = await house.ana.slash("system", channel=house.general, prompt=PERSONA)
                assert not system.failed
                await house.ana.slash("ask", channel=house.general, prompt=PRIVATE)
                lost = await house.ben.says(house.general, LOST, mention=True)
                await server.until(lambda: any("does not fit" in m.content for m in house.general.messages))
                server.gateway.send(event="MESSAGE_CREATE", data={"id": "nonsense", "content": EVIL})
                await house.ben.deletes(lost)
                late = await house.ben.says(house.general, LATE, mention=True, files=FILES)
                assert FILE in await house.answer_to(late)
        assert_silent(log.getvalue(), server.token)


@pytest.mark.parametrize("streams", [True, False])
async def test_a_whole_day_on_slack(tmp_path: Path, form: str, streams: bool) -> None:
    async with FakeSlack() as server:
        server.streams_enabled = streams
        with logs_at("debug", form, [server.bot_token, server.app_token]) as log:
            async with slack_service.open_house(tmp_path, server) as house:
                house.engine.answers(QUESTION, f"{ANSWER} https://bad.example/{ANSWER}")
                house.engine.answers(LOST, "one two three", fails_at=2, failure="The prompt does not fit.")
                question = await house.ana.says(house.general, QUESTION, mention=True)
                assert ANSWER in await house.answer_to(question)
                await house.ana.presses(house.answers_to(question)[0], "Good answer")
                await house.ana.edits(question, f"<@{server.bot.id}> {EDITED}")
                await house.ana.says(house.general, TALK)
                await house.ana.says(house.general, THREAD, thread=question)
                await house.ana.commands(house.general, f"system {PERSONA}")
                await house.ana.commands(house.general, f"ask {PRIVATE}")
                lost = await house.ben.says(house.general, LOST, mention=True)
                await server.until(lambda: any("does not fit" in m.shown for m in house.general.messages))
                evil = {"event": {"type": "message", "channel": 5, "text": EVIL}, "event_id": "Ev1", "team_id": "T1"}
                server.sockets.send("Ev1", "events_api", "message", {"type": "event_callback", **evil})
                await house.ben.deletes(lost)
                late = await house.ben.says(house.general, LATE, mention=True, files=FILES)
                assert FILE in await house.answer_to(late)
        assert_silent(log.getvalue(), server.bot_token, server.app_token)


def test_the_logs_can_be_read_at_all() -> None:
    with logs_at("debug") as log:
        logging.getLogger("bot.x").debug(QUESTION)
        logging.getLogger("discord.gateway").debug(ANSWER)
    assert QUESTION in log.getvalue()
    assert ANSWER not in log.getvalue()
