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
            async with discord_service.run_discord_service(tmp_path, server) as setup:
                setup.engine.answers(QUESTION, f"{ANSWER} https://bad.example/{ANSWER}")
                setup.engine.answers(LOST, "one two three", fails_at=2, failure="The prompt does not fit.")
                question = await setup.ana.says(setup.general, QUESTION, mention=True)
                assert ANSWER in await setup.answer_to(question)
                answer = setup.answers_to(question)[0][0]
                await setup.ana.clicks(answer, answer.buttons[1]["custom_id"])
                await setup.ana.edits(question, EDITED, mention=True)
                await setup.ana.says(setup.general, TALK)
                system = await setup.ana.slash("system", channel=setup.general, prompt=PERSONA)
                assert not system.failed
                await setup.ana.slash("ask", channel=setup.general, prompt=PRIVATE)
                lost = await setup.ben.says(setup.general, LOST, mention=True)
                await server.until(lambda: any("does not fit" in m.content for m in setup.general.messages))
                server.gateway.send(event="MESSAGE_CREATE", data={"id": "nonsense", "content": EVIL})
                await setup.ben.deletes(lost)
                late = await setup.ben.says(setup.general, LATE, mention=True, files=FILES)
                assert FILE in await setup.answer_to(late)
        assert_silent(log.getvalue(), server.token)


@pytest.mark.parametrize("streams", [True, False])
async def test_a_whole_day_on_slack(tmp_path: Path, form: str, streams: bool) -> None:
    async with FakeSlack() as server:
        server.streams_enabled = streams
        with logs_at("debug", form, [server.bot_token, server.app_token]) as log:
            async with slack_service.run_slack_service(tmp_path, server) as setup:
                setup.engine.answers(QUESTION, f"{ANSWER} https://bad.example/{ANSWER}")
                setup.engine.answers(LOST, "one two three", fails_at=2, failure="The prompt does not fit.")
                question = await setup.ana.says(setup.general, QUESTION, mention=True)
                assert ANSWER in await setup.answer_to(question)
                await setup.ana.presses(setup.answers_to(question)[0], "Good answer")
                await setup.ana.edits(question, f"<@{server.bot.id}> {EDITED}")
                await setup.ana.says(setup.general, TALK)
                await setup.ana.says(setup.general, THREAD, thread=question)
                await setup.ana.commands(setup.general, f"system {PERSONA}")
                await setup.ana.commands(setup.general, f"ask {PRIVATE}")
                lost = await setup.ben.says(setup.general, LOST, mention=True)
                await server.until(lambda: any("does not fit" in m.shown for m in setup.general.messages))
                evil = {"event": {"type": "message", "channel": 5, "text": EVIL}, "event_id": "Ev1", "team_id": "T1"}
                server.sockets.send("Ev1", "events_api", "message", {"type": "event_callback", **evil})
                await setup.ben.deletes(lost)
                late = await setup.ben.says(setup.general, LATE, mention=True, files=FILES)
                assert FILE in await setup.answer_to(late)
        assert_silent(log.getvalue(), server.bot_token, server.app_token)


def test_the_logs_can_be_read_at_all() -> None:
    with logs_at("debug") as log:
        logging.getLogger("bot.x").debug(QUESTION)
        logging.getLogger("discord.gateway").debug(ANSWER)
    assert QUESTION in log.getvalue()
    assert ANSWER not in log.getvalue()
