"""Tests two hosts with a Slack socket each: Slack sends a mention as two events, of which each host gets one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.builders.databases import CHOSEN
from tests.support.builders.slack_service import SlackServiceSetup, run_slack_service
from tests.support.fakes.slack_server import FakeSlack

pytest_plugins = ["tests.support.fixtures.databases"]

pytestmark = [
    pytest.mark.usefixtures("each_database"),
    pytest.mark.parametrize("each_database", ["PostgreSQL"], indirect=True),
]


@pytest.fixture
async def setup(
    each_database: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SlackServiceSetup]:
    """The first of two hosts."""
    monkeypatch.setattr("bot.core.core.COPIES_S", 60.0)  # the two events may be handled far apart on a busy machine
    url = CHOSEN.url(tmp_path)
    async with (
        FakeSlack() as server,
        run_slack_service(tmp_path / "first", server, database_url=url) as first,
        run_slack_service(tmp_path / "second", server, earlier=first, database_url=url),
    ):
        yield first


@pytest.mark.fault(2)
@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("", "There was no text in that message for me to answer."),
        ("!model huge", "Only admins can change the model here."),
        ("!stop", "You have no answer in progress here."),
    ],
)
async def test_a_mention_gets_one_response(setup: SlackServiceSetup, text: str, response: str) -> None:
    server = setup.server
    await setup.ana.says(setup.general, text, mention=True)
    await server.until(lambda: server.everything)
    await setup.answer_to(await setup.ana.says(setup.general, "and now?", mention=True))
    assert sorted(each.shown for each in server.everything) == sorted([response, "You said: and now?"])
