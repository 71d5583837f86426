"""Tests that model output reaches users as text: no pings and no fetches, in posts, edits and files of the service."""

from pathlib import Path

import pytest

from tests.support.builders import discord_service, slack_service
from tests.support.fakes.discord import FakeDiscord
from tests.support.fakes.slack_server import FakeSlack

URL = "https://evil.example/leak?q=1"
PINGS = "@everyone @here <!channel> <!here> <!everyone> <@{user}> <@!{user}> <@&{role}> <!subteam^{role}> <#C1> "
LINKS = f"{URL} <{URL}> [look]({URL}) ![x]({URL}) <{URL}|look> &lt;!channel&gt; {URL.replace('//', '/​/')} "
CODE = "`` `@everyone` `` ```\n<!channel> @here\n``` \n```py\n@everyone <@{user}>\n"


def hostile(user: str, role: str) -> str:
    """All hostile texts, in prose, in code and in an unclosed fence."""
    return (PINGS + LINKS + CODE).format(user=user, role=role)


@pytest.mark.fault(39)
@pytest.mark.parametrize("repeated", [1, 30], ids=["one message", "many and a file"])
async def test_no_user_is_pinged_and_nothing_fetched_on_discord(tmp_path: Path, repeated: int) -> None:
    async with (
        FakeDiscord() as server,
        discord_service.run_discord_service(tmp_path, server, attach_over=4000) as setup,
    ):
        evil = hostile(setup.ben.id, server.role("mods").id)
        setup.engine.answers("hello", evil * repeated)
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.answer_to(question)
        await server.until(lambda: repeated == 1 or any(message.files for message in setup.general.messages))
        ours = [message for message in setup.general.messages if message.author is server.bot]
        assert any(len(message.versions) > 1 for message in ours), "it was edited, too"
        assert any("@everyone" in message.content for message in ours)
        assert not server.pings
        assert [message.previews for message in ours if message.previews] == []


@pytest.mark.fault(39)
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("repeated", [1, 30], ids=["one message", "many and a file"])
async def test_no_user_is_pinged_and_nothing_fetched_on_slack(tmp_path: Path, repeated: int, streams: bool) -> None:
    async with FakeSlack() as server:
        server.streams_enabled = streams
        async with slack_service.run_slack_service(tmp_path, server, attach_over=4000) as setup:
            setup.engine.answers("hello", hostile(setup.ben.id, "S1") * repeated)
            question = await setup.ana.says(setup.general, "hello", mention=True)
            await server.until(lambda: setup.answers_to(question))
            await server.until(lambda: repeated == 1 or any(message.files for message in setup.general.messages))
            shown = " ".join(message.shown for message in setup.after(question))
            assert "<!channel>" in shown, "it is shown as it was written"
            assert server.pings == []
            assert server.unfurls == []


@pytest.mark.fault(39)
async def test_nor_by_what_the_bot_itself_says_of_a_persons_words(tmp_path: Path) -> None:
    async with FakeSlack() as server, slack_service.run_slack_service(tmp_path, server) as setup:
        name = "<!channel> @everyone.png"
        question = await setup.ana.says(setup.general, "hello", mention=True, files={name: b"\x89PNG\0"})
        await server.until(lambda: setup.answers_to(question))
        await setup.ana.says(setup.general, f"!model <!channel>{URL}", thread=question)
        await server.until(lambda: len(server.everything) >= 2)
        assert server.pings == []
        assert server.unfurls == []


NESTED = "[x](" + "(a" * 40 + ")" * 38 + " " + "and more words " * 100
ROWS = " ".join("`" * length for length in range(1, 120))  # each of them is shown with a backslash
RAGGED = "| a | b |\n|---|---|\n" + "| a " * 2000 + "|\n" + "| a |\n" * 1500
HOSTILE = {"nested": NESTED, "tildes": "~" * 16_000 + "`", "backticks": ROWS, "a table": RAGGED}


@pytest.mark.fault(45)
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_line_is_shown_on_discord_while_others_are_answered(tmp_path: Path, name: str) -> None:
    async with (
        FakeDiscord() as server,
        discord_service.run_discord_service(tmp_path, server, attach_over=20_000) as setup,
    ):
        setup.engine.answers("hello", f"Look:\n{HOSTILE[name]}")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.answer_to(question)
        other = await setup.ben.says(setup.general, "good morning", mention=True)
        await setup.answer_to(other)


@pytest.mark.fault(45)
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_line_is_shown_on_slack_while_others_are_answered(tmp_path: Path, name: str) -> None:
    async with FakeSlack() as server, slack_service.run_slack_service(tmp_path, server, attach_over=20_000) as setup:
        setup.engine.answers("hello", f"Look:\n{HOSTILE[name]}")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await server.until(lambda: setup.answers_to(question))
        other = await setup.ben.says(setup.general, "good morning", mention=True)
        await server.until(lambda: setup.answers_to(other))


@pytest.mark.fault(46)
async def test_links_of_other_forms_and_bidi_controls_are_not_shown(tmp_path: Path) -> None:
    evil = "discord.gg/evil [x](discord://-/evil) www.evil.example a@evil.example \u202elive\u2066 tel:+1666"
    shown = "`discord.gg/evil` x `discord://-/evil` `www.evil.example` `a@evil.example` live `tel:+1666`"
    async with FakeDiscord() as server, discord_service.run_discord_service(tmp_path / "d", server) as setup:
        setup.engine.answers("hello", evil)
        question = await setup.ana.says(setup.general, "hello", mention=True)
        assert shown in await setup.answer_to(question)
    async with FakeSlack() as slack, slack_service.run_slack_service(tmp_path / "s", slack) as other:
        other.engine.answers("hello", evil)
        asked = await other.ana.says(other.general, "hello", mention=True)
        await slack.until(lambda: any(shown in message.shown for message in other.answers_to(asked)))


@pytest.mark.fault(46)
async def test_only_hosts_that_the_operator_allows_stay_links(tmp_path: Path) -> None:
    said = "[docs](https://docs.example.org/a) or https://docs.example.org@evil.example/ or https://evil.example/x"
    shown = "[docs](https://docs.example.org/a) or `https://docs.example.org@evil.example/` or `https://evil.example/x`"
    hosts = ("docs.example.org",)
    async with (
        FakeDiscord() as server,
        discord_service.run_discord_service(tmp_path / "d", server, link_hosts=hosts) as d,
    ):
        d.engine.answers("hello", said)
        assert shown in await d.answer_to(await d.ana.says(d.general, "hello", mention=True))
    async with FakeSlack() as slack, slack_service.run_slack_service(tmp_path / "s", slack, link_hosts=hosts) as s:
        s.engine.answers("hello", said)
        asked = await s.ana.says(s.general, "hello", mention=True)
        await slack.until(lambda: any(shown in message.shown for message in s.answers_to(asked)))
