"""Tests the translation of platform payloads to our events, as synchronous calls: translators fetch nothing."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import discord
import pytest

from adapters.discord.inbound import events as discord_events
from adapters.slack.bot_identity import BotIdentity
from adapters.slack.inbound import events as slack_events
from adapters.slack.payloads import SlackMessage, message_of
from bot.config.settings import Settings
from bot.types.messages import ConversationKey, IncomingCommand, IncomingMessage, MessageDeleted, MessageEdited, Person

IDENTITY = BotIdentity("T1", "Team", "", "U0BOT", "B0BOT", "A1", frozenset())
SLACK = slack_events.EventTranslator(Settings(), lambda: IDENTITY)
MENTION = "<@U0BOT> what does <@U0BEN> think?"


@pytest.mark.parametrize("translator", [slack_events, discord_events])
def test_a_translator_awaits_nothing(translator: Any) -> None:  # Any: a module
    tree = ast.parse(Path(translator.__file__).read_text("utf-8"))
    waiting = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor)]
    assert not waiting, f"line {waiting[0].lineno} does more than translate"


def slack_message(**fields: object) -> SlackMessage:
    """A message in a Slack channel."""
    message = message_of({"channel": "C1", "ts": "17.5", "user": "U0ANA", "text": MENTION, **fields})
    assert message is not None
    return message


def test_a_slack_mention_is_a_message_with_placeholders_for_names() -> None:
    assert SLACK.message(slack_message()) == IncomingMessage(
        ConversationKey("slack", "T1", "C1"),
        "17.5",
        Person("U0ANA", "someone"),
        "what does @someone think?",
        17.5,
        addressed=True,
    )


@pytest.mark.parametrize(
    ("fields", "addressed"),
    [
        ({}, True),
        ({"text": "just talk"}, False),
        ({"text": "hi", "channel": "D1"}, True),
        ({"text": "hi", "type": "app_mention"}, True),
    ],
)
def test_slack_messages_address_the_bot_by_mention_or_in_private(fields: dict[str, str], addressed: bool) -> None:
    event = SLACK.message(slack_message(**fields))
    assert event is not None
    assert event.addressed is addressed


@pytest.mark.parametrize("fields", [{"bot_id": "B1"}, {"user": ""}, {"user": "USLACKBOT"}, {"user": IDENTITY.user_id}])
def test_slack_messages_of_bots_are_none_unless_they_are_picked(fields: dict[str, str]) -> None:
    message = slack_message(**fields)
    assert SLACK.message(message) is None
    assert SLACK.question(message).addressed


def test_a_slack_answer_goes_into_the_thread_of_its_question() -> None:
    starts, inside = slack_message(), slack_message(thread_ts="9.0")
    assert [SLACK.reply_key(each).thread for each in (starts, inside)] == ["17.5", "9.0"]
    in_channel = slack_events.EventTranslator(Settings(reply_in_thread=False), lambda: IDENTITY)
    assert [in_channel.reply_key(each).thread for each in (starts, inside)] == ["", "9.0"]
    assert SLACK.reply_key(slack_message(channel="D1")).thread == ""


def test_a_slack_edit_and_a_deletion_concern_each_conversation_that_may_hold_the_message() -> None:
    before = {"ts": "17.5", "user": "U0ANA", "text": "helo"}
    after = {**before, "text": "hello", "edited": {"user": "U0ANA", "ts": "18.000000"}}
    raw = {"channel": "C1", "ts": "18.75", "message": after, "previous_message": before}
    message = SLACK.edited_message(raw)
    assert message is not None
    keys = [ConversationKey("slack", "T1", "C1", thread) for thread in ("", "17.5")]
    ana = Person("U0ANA", "someone")
    assert SLACK.edits(message) == [MessageEdited(key, "17.5", ana, "hello", edited_at=18.0) for key in keys]
    assert SLACK.deletions(raw) == [MessageDeleted(key, "17.5") for key in keys]
    assert SLACK.edited_message({**raw, "previous_message": raw["message"]}) is None, "a preview was added"


def test_a_slack_message_tells_when_it_was_edited() -> None:
    assert (event := SLACK.message(slack_message(edited={"ts": "18.0"}))) is not None
    assert event.edited_at == 18.0
    before = {"ts": "17.5", "user": "U0ANA", "text": "helo"}
    raw = {"channel": "C1", "ts": "18.75", "message": {**before, "text": "hello"}, "previous_message": before}
    assert (message := SLACK.edited_message(raw)) is not None
    assert message.edited_at == 18.75, "the change has a time, too"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("!temperature 0.2", ("temperature", {"value": "0.2"})),
        ("Stop!", ("stop", {})),
        ("!play a song", None),
        ("!stop it", None),
        ("stop it", None),
    ],
)
def test_a_slack_text_may_be_a_command(text: str, command: tuple[str, dict[str, str]] | None) -> None:
    assert slack_events.command_in(text) == command


def discord_message(channel: discord.abc.Messageable, client: discord.Client, **fields: object) -> discord.Message:
    """A message as discord.py parses it."""
    author = {"id": "2", "username": "ana", "discriminator": "0", "avatar": None}
    data: Any = {  # Any: the library's own typed dictionaries
        "id": str(discord.utils.time_snowflake(discord.utils.snowflake_time(10**18))),
        "author": author,
        "content": "hello",
        "type": 0,
        "tts": False,
        "pinned": False,
        "mention_everyone": False,
        "edited_timestamp": None,
        **{name: [] for name in ("mentions", "mention_roles", "attachments", "embeds", "components")},
        **fields,
    }
    return discord.Message(state=client._connection, channel=channel, data=data)  # type: ignore[arg-type]


def test_discord_messages_are_translated_by_a_plain_call() -> None:
    client = discord.Client(intents=discord.Intents.none())
    direct, general = client.get_partial_messageable(7), client.get_partial_messageable(8, guild_id=5)
    seeing, blind = (
        discord_events.EventTranslator(Settings(), client, reads_all=reads_all) for reads_all in (True, False)
    )
    private = seeing.message(discord_message(direct, client))
    assert isinstance(private, IncomingMessage)
    assert (private.key, private.text, private.addressed) == (ConversationKey("discord", "", "7"), "hello", True)
    assert private.author == Person("2", "ana", manages_channel=True)
    talk = seeing.message(discord_message(general, client))
    assert isinstance(talk, IncomingMessage)
    assert (talk.key, talk.addressed) == (ConversationKey("discord", "5", "8"), False)
    assert talk == replace(private, key=talk.key, addressed=False, author=Person("2", "ana"))
    typed = discord_message(direct, client, content="!temperature 0.2")
    said = seeing.message(typed)
    assert said is not None
    command = seeing.command(said, typed)
    assert isinstance(command, IncomingCommand)
    assert (command.name, command.args) == ("temperature", {"value": "0.2"})
    hidden = discord_message(general, client, content="")
    assert (blind.message(hidden), seeing.message(hidden) is None) == (None, False)
    assert seeing.message(discord_message(general, client, type=7)) is None, "a join message"
    assert seeing.edit(discord_message(general, client)) is None, "nobody changed its text"
    changed, at = discord_message(general, client, edited_timestamp="2026-01-01T00:00:00.250000+00:00"), 1767225600.25
    assert seeing.edit(changed) == MessageEdited(talk.key, talk.message_id, talk.author, "hello", edited_at=at)
    assert seeing.message(changed) == replace(talk, edited_at=at)


def test_a_member_of_a_server_that_is_not_cached_has_no_rights() -> None:
    client = discord.Client(intents=discord.Intents.none())
    translator = discord_events.EventTranslator(Settings(), client, reads_all=True)
    member: dict[str, object] = {"roles": [], "joined_at": None, "deaf": False, "mute": False, "flags": 0}
    message = discord_message(client.get_partial_messageable(8, guild_id=5), client, member=member)
    assert isinstance(message.author, discord.Member)
    event = translator.message(message)
    assert isinstance(event, IncomingMessage)
    assert event.author == Person("2", "ana")
