"""Tests the translation of Slack events, through the real slack-bolt and a fake server."""

import pytest

from bot.types.messages import Attachment, IncomingMessage, MessageDeleted, MessageEdited, Person, Refused
from tests.support.builders.slack_adapter import Stage, key_of, on_stage, reply_to
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.slack_server import GROUP, FakeSlack, Message


async def acknowledged(stage: Stage, number: int) -> None:
    """Waits until `number` envelopes were acknowledged in time."""
    await stage.server.until(lambda: len([ack for ack in stage.server.acks if not ack.late]) >= number)


async def test_a_mention_becomes_a_message_in_a_thread_of_its_own_without_the_mention() -> None:
    async with on_stage() as stage:
        said = await stage.ana.says(stage.general, f"what does {stage.ben.mention} think &amp; why?", mention=True)
        event = await stage.core.message()
        assert event == IncomingMessage(
            key_of(stage.general, said),
            said.ts,
            Person(stage.ana.id, "ana"),
            "what does @ben think & why?",
            float(said.ts),
            addressed=True,
        )
        await acknowledged(stage, 2)
        assert len(stage.core.events) == 1, "`message` and `app_mention` are one"


@pytest.mark.parametrize("events", [("app_mention",), ("message.channels",), ("message.channels", "app_mention")])
async def test_whatever_an_app_subscribes_to_a_mention_is_the_same_event(events: tuple[str, ...]) -> None:
    async with FakeSlack() as server:
        server.subscribe_only(*events)
        async with on_stage(server) as stage:
            said = await stage.ana.says(stage.general, "hello", mention=True)
            event = await stage.core.message()
            assert (event.key, event.message_id) == (key_of(stage.general, said), said.ts)
            assert (event.text, event.addressed) == ("hello", True)
            await acknowledged(stage, len(events))
            assert len(stage.core.events) == 1


async def test_answers_stay_in_the_channel_where_that_is_set() -> None:
    async with on_stage(reply_in_thread=False) as stage:
        said = await stage.ana.says(stage.general, "hello", mention=True)
        assert (await stage.core.message()).key == key_of(stage.general)
        await stage.ben.says(stage.general, "and I?", mention=True, thread=said)
        assert (await stage.core.message(2)).key == key_of(stage.general, said)


async def test_direct_messages_need_no_mention_and_talk_beside_it_is_not_meant() -> None:
    async with on_stage() as stage:
        dm = stage.server.dm(stage.ana)
        await stage.ana.says(dm, "hi")
        private = await stage.core.message()
        assert (private.key, private.addressed) == (key_of(dm), True)
        assert private.author == Person(stage.ana.id, "ana", manages_channel=True)
        said = await stage.ana.says(stage.general, "just talk")
        talk = await stage.core.message(2)
        assert (talk.key, talk.message_id, talk.addressed) == (key_of(stage.general), said.ts, False)
        await stage.ana.says(stage.server.channel("secret", GROUP), "hello", mention=True)
        assert (await stage.core.message(3)).addressed


async def test_bots_the_bot_itself_and_notices_of_slack_are_ignored_and_acknowledged() -> None:
    async with on_stage() as stage:
        other = stage.server.user("other", bot=True)
        await other.says(stage.general, "hello", mention=True)
        await stage.ana.says(stage.general, "joined", subtype="channel_join")
        question = await stage.ana.says(stage.general, "hello", mention=True)
        assert (await stage.core.message()).text == "hello"
        ts = await stage.adapter.post(reply_to(question, "hi"))
        await stage.adapter.update(reply_to(question, "hi you", platform_id=ts, final=True))
        await stage.server.until(lambda: len(stage.server.acks) >= 6)
        assert len(stage.core.events) == 1


async def test_what_slack_lets_people_do_is_known() -> None:
    async with on_stage() as stage:
        boss = stage.server.user("boss", admin=True)
        for who in (boss, stage.ana):
            await who.says(stage.general, "!temperature 1")
        commands = [await stage.core.command(number) for number in (1, 2)]
        rights = {event.actor.name: (event.actor.manages_channel, event.actor.manages_workspace) for event in commands}
        assert rights == {"boss": (True, True), "ana": (False, False)}


async def test_the_message_that_a_thread_starts_from_comes_along_with_its_file_until_the_bot_is_in_it() -> None:
    async with on_stage() as stage:
        story = await stage.ben.says(stage.general, "my program", files={"a.py": b"print(1)"})
        await stage.ben.says(stage.general, "and more", thread=story)
        await stage.ana.says(stage.general, "what does it do?", mention=True, thread=story)
        event = await stage.core.message(3)
        assert event.key == key_of(stage.general, story)
        (first,) = event.context
        assert (first.author.name, first.text, first.message_id) == ("ben", "my program", story.ts)
        assert (first.key, first.attachments, first.addressed) == (event.key, (Attachment("a.py", "print(1)"),), False)
        stage.core.followed.add(event.key)
        await stage.ben.says(stage.general, "and this?", thread=story, files={"n.txt": b"note"})
        following = await stage.core.message(4)
        assert (following.key, following.addressed) == (event.key, False)
        assert (following.attachments, following.context) == ((Attachment("n.txt", "note"),), ())


async def test_a_thread_that_starts_from_another_bots_alert_brings_the_alert() -> None:
    async with on_stage() as stage:
        alert = await stage.server.user("watchdog", bot=True).says(stage.general, "the disk is full")
        await stage.ana.says(stage.general, "why?", mention=True, thread=alert)
        (first,) = (await stage.core.message()).context
        assert (first.author.name, first.text) == ("watchdog", "the disk is full")


async def test_messages_around_a_mention_come_along_where_that_is_set() -> None:
    async with on_stage(ambient=2) as stage:
        for word in ("one", "two", "three"):
            await stage.ben.says(stage.general, word)
        story = await stage.ana.says(stage.general, "what did he say?", mention=True)
        event = await stage.core.message(4)
        assert [each.text for each in event.context] == ["two", "three"]
        assert {each.key for each in event.context} == {event.key}
        for word in ("a", "b", "c"):
            await stage.ben.says(stage.general, word, thread=story)
        await stage.ana.says(stage.general, "and now?", mention=True, thread=story)
        assert [each.text for each in (await stage.core.message(8)).context] == ["what did he say?", "b", "c"]


async def test_a_thread_shorter_than_what_is_wanted_of_it_comes_along_whole() -> None:
    async with on_stage(ambient=4) as stage:
        story = await stage.ben.says(stage.general, "a story")
        for word in ("a", "b", "c"):
            await stage.ben.says(stage.general, word, thread=story)
        await stage.ana.says(stage.general, "and now?", mention=True, thread=story)
        assert [each.text for each in (await stage.core.message(5)).context] == ["a story", "a", "b", "c"]


async def test_typed_commands_are_commands_and_so_is_a_bare_stop_where_the_bot_listens() -> None:
    async with on_stage() as stage:
        said = await stage.ana.says(stage.general, "!temperature 0.2")
        typed = await stage.core.command()
        assert (typed.name, typed.args, typed.event_id) == ("temperature", {"value": "0.2"}, said.ts)
        question = await stage.ana.says(stage.general, "hello", mention=True)
        stage.core.followed.add(key_of(stage.general, question))
        await stage.ana.says(stage.general, "!model phi-4", mention=True, thread=question)
        model = await stage.core.command(2)
        assert (model.name, model.args, model.key) == ("model", {"name": "phi-4"}, key_of(stage.general, question))
        await stage.ben.says(stage.general, "Stop!", thread=question)
        await stage.core.command(3)
        await stage.ana.says(stage.general, "stop", mention=True)
        await stage.core.command(4)
        await stage.ana.says(stage.server.dm(stage.ana), "stop")
        stops = [await stage.core.command(number) for number in (3, 4, 5)]
        assert [(each.name, each.args) for each in stops] == [("stop", {})] * 3
        assert [each.key for each in stops[:2]] == [key_of(stage.general, question), key_of(stage.general)]
        await stage.ana.says(stage.general, "stop")
        await stage.ana.says(stage.general, "!play a song", mention=True)
        texts = [(await stage.core.message(number)).text for number in (1, 2, 3)]
        assert texts == ["hello", "stop", "!play a song"]


async def test_what_the_core_says_to_a_message_is_shown_in_its_thread_once() -> None:
    core = RecordingCore(says=lambda event: Refused("64 questions are waiting already <!here>."))
    async with on_stage(core=core) as stage:
        said = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.general.until(lambda: stage.general.messages)
        stage.server.redeliver(said)
        await stage.server.until(lambda: [ack for ack in stage.server.acks if ack.attempt])
        await stage.ana.says(stage.general, "!stop")
        await stage.general.until(lambda: stage.general.ephemerals)
        (answer,) = stage.general.messages
        assert (answer.shown, answer.thread_ts) == ("64 questions are waiting already <!here>.", said.ts)
        assert len(core.events) == 2
        (aside,) = stage.general.ephemerals
        assert aside.to is stage.ana.user
        assert not stage.server.pings


async def test_edits_of_people_are_told_and_those_of_slack_are_not() -> None:
    async with on_stage() as stage:
        said = await stage.ana.says(stage.general, "helo", mention=True, files={"a.txt": b"a"})
        await stage.core.message()
        stage.server._world.change(said, said.versions[-1], edited=False)  # a preview was added
        await stage.ana.edits(said, f"{stage.server.bot.mention} hello")
        edits = await stage.core.got(MessageEdited, 2)
        assert {each.key for each in edits} == {key_of(stage.general), key_of(stage.general, said)}
        assert {(each.message_id, each.author.name, each.text, each.attachments) for each in edits} == {
            (said.ts, "ana", "hello", (Attachment("a.txt", "a"),))
        }
        await acknowledged(stage, 5)
        assert len(await stage.core.got(IncomingMessage)) == 1, "the mention of an edit is the one that was answered"


async def test_a_mention_that_an_edit_brings_is_answered() -> None:
    async with on_stage() as stage:
        said = await stage.ana.says(stage.general, "hello")
        assert not (await stage.core.message()).addressed
        await stage.ana.edits(said, f"{stage.server.bot.mention} hello")
        event = await stage.core.message(2)
        assert (event.message_id, event.addressed) == (said.ts, True)


async def test_deletions_are_told_for_each_conversation_that_a_message_may_be_in() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        inside = await stage.ana.says(stage.general, "more", thread=question)
        private = await stage.ana.says(stage.server.dm(stage.ana), "hi")
        await stage.core.message(3)
        keys: dict[Message, set[str]] = {inside: {question.ts}, private: {"", private.ts}}
        for message in keys:
            await stage.ana.deletes(message)
        gone = await stage.core.got(MessageDeleted, 3)
        for message, threads in keys.items():
            assert {each.key.thread for each in gone if each.message_id == message.ts} == threads


async def test_a_question_that_leaves_its_thread_behind_is_deleted_too() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "a secret", mention=True)
        await stage.core.message()
        await stage.adapter.post(reply_to(question, "hi"))
        await stage.ana.deletes(question)
        gone = await stage.core.got(MessageDeleted, 2)
        assert {each.key for each in gone} == {key_of(stage.general), key_of(stage.general, question)}
        assert question.tombstone
        assert not [event for event in stage.core.events if isinstance(event, MessageEdited)]


async def test_each_chat_of_the_assistant_view_is_a_conversation_and_gets_a_title() -> None:
    async with on_stage() as stage:
        dm, thread = await stage.ana.opens_assistant()
        await stage.ana.says(dm, "how do owls fly?", thread=thread)
        event = await stage.core.message()
        assert (event.key, event.addressed, event.context) == (key_of(dm, thread), True, ())
        await stage.server.until(lambda: stage.server.extras.titles)
        _, older = await stage.ana.opens_assistant()
        stage.core.followed.add(key_of(dm, older))
        await stage.ana.says(dm, "on we go", thread=older)
        await stage.core.message(2)
    assert stage.server.extras.titles == {(dm.id, thread): "how do owls fly?"}


async def test_what_slack_does_not_tell_in_time_is_left_out() -> None:
    async with FakeSlack() as server:
        frozen = [
            server.faults.freeze(method, times=99) for method in ("users.info", "conversations.replies", "download")
        ]
        async with on_stage(server) as stage:
            story = await stage.ben.says(stage.general, "a story")
            said = await stage.ana.says(stage.general, "hm", mention=True, thread=story, files={"a.txt": b"a"})
            event = await stage.core.message(2)
            assert (event.message_id, event.text, event.author.name) == (said.ts, "hm", "someone")
            assert event.remark == (
                "`a.txt` could not be fetched from Slack in time, so I left it out. "
                "I could not read what was said before this."
            )
            await acknowledged(stage, 3)
            assert max(ack.seconds for ack in server.acks) < 3.0
            for fault in frozen:
                fault.release()


async def test_without_a_scope_its_part_is_left_out_with_a_remark() -> None:
    async with FakeSlack() as server:
        server.scopes.difference_update(("channels:history", "files:read", "users:read"))
        async with on_stage(server) as stage:
            story = await stage.ben.says(stage.general, "a story")
            await stage.ana.says(stage.general, "hm", mention=True, thread=story, files={"a.txt": b"a"})
            event = await stage.core.message()
            assert (event.text, event.context, event.attachments) == ("hm", (), ())
            assert "add the scope files:read" in event.remark
            assert "what was said before" in event.remark
