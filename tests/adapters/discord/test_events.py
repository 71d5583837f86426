"""Tests the translation of Discord events, through the real discord.py and a fake server."""

from datetime import timedelta

import discord

from bot.types.messages import (
    Attachment,
    ConversationKey,
    IncomingCommand,
    IncomingMessage,
    MessageDeleted,
    MessageEdited,
    Person,
    Refused,
)
from tests.support.builders.discord_adapter import key_of, reply_to, run_discord_adapter
from tests.support.fakes.discord import Can
from tests.support.fakes.discord.state import Json
from tests.support.fakes.recording_core import RecordingCore


async def test_a_mention_becomes_a_message_without_the_mention() -> None:
    async with run_discord_adapter() as setup:
        said = await setup.ana.says(setup.general, f"what does {setup.ben.mention} think?", mention=True)
        event = await setup.core.message()
        assert event.key == ConversationKey("discord", setup.server.guild.id, setup.general.id)
        assert (event.message_id, event.text, event.addressed) == (said.id, "what does @ben think?", True)
        assert event.author == Person(setup.ana.id, "ana")
        assert abs(event.sent_at - said.created_at) < 0.01
        assert (event.context, event.attachments, event.remark) == ((), (), "")


async def test_direct_messages_and_answers_to_the_bot_need_no_mention_and_talk_beside_it_is_not_meant() -> None:
    async with run_discord_adapter() as setup:
        server, ana, general = setup.server, setup.ana, setup.general
        await ana.says(server.dm(ana), "hi")
        private = await setup.core.message()
        assert private.key == ConversationKey("discord", "", server.dm(ana).id)
        assert private.addressed
        assert private.author == Person(ana.id, "ana", manages_channel=True)
        await ana.says(general, "just talk")
        assert not (await setup.core.message(2)).addressed
        theirs = await setup.ben.says(general, "a riddle")
        await ana.says(general, "I know it", reply_to=theirs)
        assert not (await setup.core.message(4)).addressed


async def test_a_direct_message_that_was_missed_is_one_too() -> None:
    async with run_discord_adapter() as setup:
        direct = setup.server.dm(setup.ana)
        last, missed = await setup.ana.says(direct, "hello"), await setup.ana.says(direct, "are you there?")
        (found,) = await setup.adapter.fetch_since(key_of(direct), last.id, 10)
    assert (found.key, found.message_id, found.addressed) == (key_of(direct), missed.id, True)
    assert found.author.manages_channel


async def test_an_answer_to_the_bot_addresses_it_even_when_its_ping_is_switched_off() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.core.message()
        await setup.adapter.post(reply_to(question, "hi"))
        (answer,) = setup.general.messages
        await setup.ben.says(setup.general, "go on", reply_to=answer, ping=False)
        event = await setup.core.message(2)
        assert event.addressed
        assert event.reply_to == answer.id
        assert event.context == (), "what the bot said itself is known"


async def test_bots_and_notices_of_discord_are_ignored() -> None:
    async with run_discord_adapter() as setup:
        other = setup.server.user("other", bot=True)
        await other.says(setup.general, "hello", mention=True)
        await setup.ana.says(setup.general, "", kind=7)
        await setup.ana.says(setup.general, "hello", mention=True)
        assert (await setup.core.message()).text == "hello"
        assert len(setup.core.events) == 1


def webhook(number: str, name: str) -> Json:
    """What a webhook's message has besides its text."""
    author = {"id": number, "username": name, "bot": True, "discriminator": "0000", "avatar": None}
    return {"author": author, "webhook_id": number}


async def test_allowed_bots_webhooks_and_their_applications_are_heard_when_they_mention_the_bot() -> None:
    async with run_discord_adapter() as setup:
        other, listed = setup.server.user("other", bot=True), setup.server.user("alerts", bot=True)
        allowed = f"discord:{listed.id},discord:70,discord:80,discord:{setup.server.bot.id}"
        async with run_discord_adapter(setup.server, allow_bots=allowed) as again:
            await setup.adapter.close()
            await other.says(again.general, "not listed", mention=True)
            await listed.says(again.general, "not for you")
            await listed.says(again.general, "!reset", mention=True)
            hook = webhook("70", "Deploys")
            await other.says(again.general, "deployed", mention=True, extra=hook)
            proxy = webhook("71", "Lee") | {"application_id": "80"}
            await other.says(again.general, "hi", mention=True, extra=proxy)
            await again.adapter.post(reply_to(await again.ana.says(again.general, "a"), f"<@{setup.server.bot.id}>"))
            await again.ana.says(again.general, "the last", mention=True)
            events = await again.core.got(IncomingMessage, 5)
        assert [event.text for event in events if event.addressed] == ["!reset", "deployed", "hi", "the last"]
        assert [event.author for event in events[:3]] == [
            Person(listed.id, "alerts", groups=(listed.id,), is_bot=True),
            Person("70", "Deploys", groups=("70",), is_bot=True),
            Person("71", "Lee", groups=("71", "80"), is_bot=True),
        ]


async def test_names_stand_for_mentions_roles_channels_and_emoji() -> None:
    async with run_discord_adapter() as setup:
        mods = setup.server.role("mods")
        await setup.server.until(lambda: setup.server.frames[-1].event == "GUILD_ROLE_CREATE")
        text = f"ask {setup.ben.mention} or {mods.mention} in {setup.general.mention} <:tada:123> <a:wave:4> <@1>"
        await setup.ana.says(setup.general, text, mention=True)
        assert (await setup.core.message()).text == "ask @ben or @mods in #general :tada: :wave: @someone"
        me = setup.server.bot.mention
        await setup.ana.says(setup.general, f"{me}, {me}: is {me} well?")
        assert (await setup.core.message(2)).text == "is @Inhouse well?"


async def test_what_discord_lets_people_do_is_known_by_channel() -> None:
    async with run_discord_adapter() as setup:
        server = setup.server
        mod, boss = server.user("mod", can=Can.MANAGE_MESSAGES), server.user("boss", can=Can.MANAGE_GUILD)
        role = server.role("friends")
        setup.ana.gets(role)
        for who in (mod, boss, setup.ana):
            await who.says(setup.general, "hello", mention=True)
        authors = [event.author for event in await setup.core.got(IncomingMessage, 3)]
        assert [author.manages_channel for author in authors] == [True, False, False]
        assert [author.manages_workspace for author in authors] == [False, True, False]
        assert authors[2].groups == (role.id,)
        setup.general.allow(Can.MANAGE_CHANNELS, setup.ana.user)
        await setup.server.until(lambda: setup.server.frames[-1].event == "CHANNEL_UPDATE")
        await setup.ana.says(setup.general, "and now?", mention=True)
        assert (await setup.core.message(4)).author.manages_channel


async def test_a_thread_starts_with_its_message_and_is_followed_without_a_mention() -> None:
    async with run_discord_adapter() as setup:
        story = await setup.ben.says(setup.general, "a long story")
        thread = await setup.ana.opens_thread(setup.general, "the story", on=story)
        await setup.ana.says(thread, "sum it up", mention=True)
        event = await setup.core.message(2)
        assert event.key == key_of(thread)
        assert [each.text for each in event.context] == ["a long story"]
        assert {each.key for each in event.context} == {event.key}
        assert event.remark == ""
        setup.core.followed.add(event.key)
        await setup.ben.says(thread, "and this?", files={"n.txt": b"note"})
        following = await setup.core.message(3)
        assert (following.addressed, following.attachments) == (False, (Attachment("n.txt", "note"),))
        assert following.context == ()


async def test_answers_are_put_into_threads_where_that_is_set() -> None:
    async with run_discord_adapter(reply_in_thread=True) as setup:
        said = await setup.ana.says(setup.general, "hello", mention=True)
        assert (await setup.core.message()).key == ConversationKey(
            "discord", setup.server.guild.id, setup.general.id, said.id
        )
        await setup.ana.says(setup.server.dm(setup.ana), "hello")
        assert (await setup.core.message(2)).key.thread == ""
        await setup.ana.says(setup.general, "just talk")
        assert (await setup.core.message(3)).key == key_of(setup.general)
        setup.general.deny(Can.CREATE_PUBLIC_THREADS)
        await setup.server.until(lambda: setup.server.frames[-1].event == "CHANNEL_UPDATE")
        await setup.ana.says(setup.general, "and now", mention=True)
        assert (await setup.core.message(4)).key == key_of(setup.general)


async def test_without_the_content_intent_mentions_work_and_a_thread_says_how_to_go_on() -> None:
    async with run_discord_adapter(message_content=False) as setup:
        thread = await setup.ana.opens_thread(setup.general, "plans")
        await setup.ana.says(thread, "not for you")
        await setup.ana.says(thread, "hello", mention=True)
        first = await setup.core.message()
        assert (first.text, first.addressed) == ("hello", True)
        assert "mention me each time" in first.remark
        setup.core.followed.add(first.key)
        await setup.ana.says(thread, "again", mention=True)
        assert (await setup.core.message(2)).remark == ""
        await setup.ana.says(setup.general, "elsewhere", mention=True)
        assert (await setup.core.message(3)).remark == ""


async def test_typed_commands_are_commands() -> None:
    async with run_discord_adapter() as setup:
        said = await setup.ana.says(setup.general, "!temperature 0.2", mention=True)
        typed = await setup.core.command()
        assert (typed.name, typed.args, typed.event_id) == ("temperature", {"value": "0.2"}, said.id)
        await setup.ana.says(setup.general, "!stop", mention=True)
        assert (await setup.core.command(2)).name == "stop"
        await setup.ana.says(setup.general, "!play a song", mention=True)
        assert (await setup.core.message()).text == "!play a song"
        assert len(await setup.core.got(IncomingCommand, 2)) == 2


async def test_what_the_core_says_to_a_message_is_shown_under_it_once() -> None:
    core = RecordingCore(says=lambda event: Refused("64 questions are waiting already @everyone."))
    async with run_discord_adapter(core=core) as setup:
        said = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.general.until(lambda: setup.general.messages)
        setup.server.redeliver(said)
        await core.message(2)
        await setup.server.until(lambda: setup.server.log.count("POST", "/channels/{channel_id}/messages") == 2)
        (answer,) = setup.general.messages
        assert answer.content == "64 questions are waiting already @everyone."
        assert answer.reference is said
        assert not setup.server.pings


async def test_what_the_core_says_is_shown_although_the_connection_broke() -> None:
    core = RecordingCore(says=lambda event: Refused("64 questions are waiting already."))
    async with run_discord_adapter(core=core) as setup:
        setup.server.faults.drop("POST", "/channels/{channel_id}/messages", applied=True)
        await setup.ana.says(setup.general, "hello", mention=True)
        posts = "/channels/{channel_id}/messages"
        await setup.server.until(lambda: setup.server.log.count("POST", posts) == 2, timeout=10)
        assert [message.content for message in setup.general.messages] == ["64 questions are waiting already."]


async def test_edits_of_people_are_reported_and_those_of_discord_are_not() -> None:
    async with run_discord_adapter() as setup:
        said = await setup.ana.says(setup.general, "helo https://example.com", mention=True, files={"a.txt": b"a"})
        setup.server.unfurl(said)
        await setup.ana.suppresses_embeds(said)
        await setup.ana.edits(said, "hello", mention=True)
        (edit,) = await setup.core.got(MessageEdited)
        assert said.edited_at is not None
        assert abs(edit.edited_at - said.edited_at) < 0.001
        file = Attachment("a.txt", "a")
        assert edit == MessageEdited(
            key_of(setup.general), said.id, Person(setup.ana.id, "ana"), "hello", (file,), edited_at=edit.edited_at
        )


async def test_an_edit_that_adds_a_mention_asks_once() -> None:
    async with run_discord_adapter() as setup:
        said = await setup.ana.says(setup.general, "what is 2+2?")
        assert not (await setup.core.message()).addressed
        await setup.ana.edits(said, "what is 2+2?", mention=True)
        asked = await setup.core.message(2)
        assert (asked.message_id, asked.text, asked.addressed) == (said.id, "what is 2+2?", True)
        await setup.ana.edits(said, "what is 3+3?", mention=True)
        direct = await setup.ana.says(setup.server.dm(setup.ana), "helo")
        await setup.ana.edits(direct, "hello")
        assert [edit.text for edit in await setup.core.got(MessageEdited, 3)] == [
            "what is 2+2?",
            "what is 3+3?",
            "hello",
        ]
        command = await setup.ana.says(setup.general, "!reset")
        await setup.ana.edits(command, "!reset", mention=True)
        await setup.core.got(MessageEdited, 4)
        assert [each.addressed for each in await setup.core.got(IncomingMessage, 4)] == [False, True, True, False]
        assert len(await setup.core.got(IncomingCommand)) == 1


async def test_an_edit_of_an_old_message_does_not_ask() -> None:
    async with run_discord_adapter() as setup:
        old = await setup.ana.says(setup.general, "what is 2+2?")
        old.id = str(discord.utils.time_snowflake(discord.utils.utcnow() - timedelta(minutes=6)))
        await setup.ana.edits(old, "what is 2+2?", mention=True)
        await setup.core.got(MessageEdited)
        await setup.ana.says(setup.general, "the next", mention=True)
        assert [each.text for each in await setup.core.got(IncomingMessage, 2) if each.addressed] == ["the next"]


async def test_a_refused_question_may_be_asked_better_by_an_edit() -> None:
    async with run_discord_adapter(core=RecordingCore(says=lambda event: Refused("There was no text."))) as setup:
        said = await setup.ana.says(setup.general, "", mention=True)
        await setup.general.until(lambda: setup.general.messages)
        setup.core.says = lambda event: Refused("64 questions are waiting already.")
        await setup.ana.edits(said, "hello", mention=True)
        assert (await setup.core.message(2)).text == "hello"
        await setup.general.until(lambda: len(setup.general.messages) == 2)
        assert [each.content for each in setup.general.messages][1] == "64 questions are waiting already."


async def test_deletions_are_told_one_by_one_and_in_bulk() -> None:
    async with run_discord_adapter() as setup:
        thread = await setup.ana.opens_thread(setup.general, "plans")
        said = [await setup.ana.says(where, "x") for where in (setup.general, thread, setup.server.dm(setup.ana))]
        for message in said:
            await setup.ana.deletes(message)
        gone = await setup.core.got(MessageDeleted, 3)
        assert gone == [MessageDeleted(key_of(message.channel), message.id) for message in said]
        more = [await setup.ana.says(setup.general, "x") for _ in range(3)]
        bulk = {"ids": [each.id for each in more], "channel_id": setup.general.id, "guild_id": setup.server.guild.id}
        setup.server.gateway.send(event="MESSAGE_DELETE_BULK", data=bulk)
        gone = await setup.core.got(MessageDeleted, 6)
        assert [each.message_id for each in gone[3:]] == [each.id for each in more]


async def test_a_question_that_was_answered_in_its_own_thread_is_forgotten_there_too() -> None:
    async with run_discord_adapter(reply_in_thread=True) as setup:
        said = await setup.ana.says(setup.general, "a secret", mention=True)
        event = await setup.core.message()
        await setup.ana.deletes(said)
        gone = await setup.core.got(MessageDeleted, 2)
        assert {each.key for each in gone} == {event.key, key_of(setup.general)}
        assert (await setup.ana.uses("Answer this", on=said)).response
        assert (await setup.core.message(2)).key == event.key
