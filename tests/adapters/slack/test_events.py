"""Tests the translation of Slack events, through the real slack-bolt and a fake server."""

from dataclasses import replace

import pytest

from bot.types.messages import Attachment, IncomingMessage, MessageDeleted, MessageEdited, Person, Refused
from tests.support.builders.slack_adapter import SlackAdapterSetup, key_of, reply_to, run_slack_adapter
from tests.support.fakes.recording_core import RecordingCore
from tests.support.fakes.slack_server import GROUP, FakeSlack, Message


async def acknowledged(setup: SlackAdapterSetup, number: int) -> None:
    """Waits until `number` envelopes were acknowledged in time."""
    await setup.server.until(lambda: len([ack for ack in setup.server.acks if not ack.late]) >= number)


async def test_a_mention_becomes_a_message_in_a_thread_of_its_own_without_the_mention() -> None:
    async with run_slack_adapter() as setup:
        said = await setup.ana.says(setup.general, f"what does {setup.ben.mention} think &amp; why?", mention=True)
        event = await setup.core.message()
        assert event == IncomingMessage(
            key_of(setup.general, said),
            said.ts,
            Person(setup.ana.id, "ana"),
            "what does @ben think & why?",
            float(said.ts),
            addressed=True,
        )
        await acknowledged(setup, 2)
        assert len(setup.core.events) == 1, "`message` and `app_mention` are one"


@pytest.mark.parametrize("events", [("app_mention",), ("message.channels",), ("message.channels", "app_mention")])
async def test_whatever_an_app_subscribes_to_a_mention_is_the_same_event(events: tuple[str, ...]) -> None:
    async with FakeSlack() as server:
        server.subscribe_only(*events)
        async with run_slack_adapter(server) as setup:
            said = await setup.ana.says(setup.general, "hello", mention=True)
            event = await setup.core.message()
            assert (event.key, event.message_id) == (key_of(setup.general, said), said.ts)
            assert (event.text, event.addressed) == ("hello", True)
            await acknowledged(setup, len(events))
            assert len(setup.core.events) == 1


async def test_answers_stay_in_the_channel_where_that_is_set() -> None:
    async with run_slack_adapter(reply_in_thread=False) as setup:
        said = await setup.ana.says(setup.general, "hello", mention=True)
        assert (await setup.core.message()).key == key_of(setup.general)
        await setup.ben.says(setup.general, "and I?", mention=True, thread=said)
        assert (await setup.core.message(2)).key == key_of(setup.general, said)


async def test_direct_messages_need_no_mention_and_talk_beside_it_is_not_meant() -> None:
    async with run_slack_adapter() as setup:
        dm = setup.server.dm(setup.ana)
        await setup.ana.says(dm, "hi")
        private = await setup.core.message()
        assert (private.key, private.addressed) == (key_of(dm), True)
        assert private.author == Person(setup.ana.id, "ana", manages_channel=True)
        said = await setup.ana.says(setup.general, "just talk")
        talk = await setup.core.message(2)
        assert (talk.key, talk.message_id, talk.addressed) == (key_of(setup.general), said.ts, False)
        await setup.ana.says(setup.server.channel("secret", GROUP), "hello", mention=True)
        assert (await setup.core.message(3)).addressed


async def test_bots_the_bot_itself_and_notices_of_slack_are_ignored_and_acknowledged() -> None:
    async with run_slack_adapter() as setup:
        other = setup.server.user("other", bot=True)
        await other.says(setup.general, "hello", mention=True)
        await setup.ana.says(setup.general, "joined", subtype="channel_join")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        assert (await setup.core.message()).text == "hello"
        ts = await setup.adapter.post(reply_to(question, "hi"))
        await setup.adapter.update(reply_to(question, "hi you", platform_id=ts, final=True))
        await setup.server.until(lambda: len(setup.server.acks) >= 6)
        assert len(setup.core.events) == 1


@pytest.mark.parametrize("listed", ["bot", "app", "account"])
async def test_a_bot_that_is_allowed_is_read_when_it_mentions_us(listed: str) -> None:
    async with FakeSlack() as server:
        watchdog, other = server.user("watchdog", bot=True), server.user("other", bot=True)
        ids = {"bot": watchdog.user.bot_id, "app": "A0WATCHDOG", "account": watchdog.id}
        own = server.bot.bot_id
        allow = frozenset({("slack", ids[listed]), ("slack", own), ("slack", server.bot.id)})
        async with run_slack_adapter(server, allow_bots=allow) as setup:
            app = {"app_id": "A0WATCHDOG"}
            blocks = [
                {"type": "section", "text": {"type": "mrkdwn", "text": f"{server.bot.mention} the *disk* is full"}}
            ]
            await watchdog.says(setup.general, "not for us", extra=app)
            await other.says(setup.general, "hello", mention=True, extra={"app_id": "A0OTHER"})
            question = await watchdog.says(setup.general, "", extra={**app, "blocks": blocks})
            event = await setup.core.message()
            assert (event.text, event.addressed, event.key) == (
                "the **disk** is full",
                True,
                key_of(setup.general, question),
            )
            assert (event.author.name, event.author.id, event.author.is_bot) == ("watchdog", ids["bot"], True)
            assert set(event.author.groups) >= set(ids.values())
            assert not event.author.manages_channel
            await watchdog.says(setup.general, "!forget", mention=True, thread=question, extra=app)
            assert (await setup.core.message(2)).text == "!forget"
            reply = reply_to(question, f"{server.bot.mention} hello", asker=event.author)
            ts = await setup.adapter.post(reply)
            assert server.log.count("chat.startStream") == 0, "Slack streams to people only"
            await setup.adapter.update(replace(reply, platform_id=ts, final=True))
            await setup.ana.says(setup.general, "the last one", mention=True)
            assert (await setup.core.message(3)).text == "the last one"
            assert len(setup.core.events) == 3


async def test_what_slack_lets_people_do_is_known() -> None:
    async with run_slack_adapter() as setup:
        boss, partner = (setup.server.user(name, admin=True) for name in ("boss", "partner"))
        partner.user.team = "T0PARTNERS1"  # an admin, but of another workspace
        for who in (boss, setup.ana, partner):
            await who.says(setup.general, "!temperature 1", mention=True)
        commands = [await setup.core.command(number) for number in (1, 2, 3)]
        rights = {event.actor.name: (event.actor.manages_channel, event.actor.manages_workspace) for event in commands}
        assert rights == {"boss": (True, True), "ana": (False, False), "partner": (False, False)}


async def test_the_message_that_a_thread_starts_from_comes_along_with_its_file_until_the_bot_is_in_it() -> None:
    async with run_slack_adapter() as setup:
        story = await setup.ben.says(setup.general, "my program", files={"a.py": b"print(1)"})
        await setup.ben.says(setup.general, "and more", thread=story)
        await setup.ana.says(setup.general, "what does it do?", mention=True, thread=story)
        event = await setup.core.message(3)
        assert event.key == key_of(setup.general, story)
        (first,) = event.context
        assert (first.author.name, first.text, first.message_id) == ("ben", "my program", story.ts)
        assert (first.key, first.attachments, first.addressed) == (event.key, (Attachment("a.py", "print(1)"),), False)
        setup.core.followed.add(event.key)
        await setup.ben.says(setup.general, "and this?", thread=story, files={"n.txt": b"note"})
        following = await setup.core.message(4)
        assert (following.key, following.addressed) == (event.key, False)
        assert (following.attachments, following.context) == ((Attachment("n.txt", "note"),), ())


@pytest.mark.parametrize("following", [True, False])
async def test_a_mention_alone_in_a_thread_asks_about_the_last_message_before_it(following: bool) -> None:
    async with run_slack_adapter() as setup:
        story = await setup.ben.says(setup.general, "a story")
        if following:
            setup.core.followed.add(key_of(setup.general, story))
        await setup.ana.says(setup.general, "", mention=True, thread=story)
        first = (await setup.core.got(IncomingMessage, 2))[-1]
        assert (first.text, first.reply_to, [each.text for each in first.context]) == ("", story.ts, ["a story"])
        last = await setup.ben.says(setup.general, "what is 2+2?", thread=story, files={"a.txt": b"two"})
        await setup.ana.says(setup.general, "", mention=True, thread=story)
        second = (await setup.core.got(IncomingMessage, 4))[-1]
        assert (second.reply_to, [each.text for each in second.context]) == (last.ts, ["a story", "what is 2+2?"])
        assert second.context[-1].attachments == (Attachment("a.txt", "two"),)
        await setup.adapter.post(reply_to(story, "It is 4.", buttons=()))
        await setup.ana.says(setup.general, "", mention=True, thread=story)
        assert (await setup.core.got(IncomingMessage, 5))[-1].reply_to == "", "nobody asked since the answer"
        await setup.ana.says(setup.general, "", mention=True)
        assert (await setup.core.got(IncomingMessage, 6))[-1].reply_to == ""


async def test_a_person_whom_slack_does_not_describe_has_the_name_in_their_messages() -> None:
    described = {"user_profile": {"display_name": "", "real_name": "Eve &amp; co"}, "user_team": "T0ELSEWHERE"}
    async with run_slack_adapter() as setup:
        eve = setup.server.user("eve")
        setup.server.faults.refuse("users.info", "user_not_found", times=99)
        story = await eve.says(setup.general, "a story", extra=described)
        await eve.says(setup.general, f"sum it up for {eve.mention}", mention=True, thread=story, extra=described)
        event = await setup.core.message(2)
        assert event.author.name == "Eve & co"
        assert [each.author.name for each in event.context] == ["Eve & co"]
        await eve.commands(setup.general, "temperature 1")
        assert (await setup.core.command()).actor.name == "Eve & co"


async def test_a_thread_that_starts_from_another_bots_alert_brings_the_alert() -> None:
    async with run_slack_adapter() as setup:
        alert = await setup.server.user("watchdog", bot=True).says(setup.general, "the disk is full")
        await setup.ana.says(setup.general, "why?", mention=True, thread=alert)
        (first,) = (await setup.core.message()).context
        assert (first.author.name, first.text) == ("watchdog", "the disk is full")


async def test_messages_around_a_mention_come_along_where_that_is_set() -> None:
    async with run_slack_adapter(ambient=2) as setup:
        for word in ("one", "two", "three"):
            await setup.ben.says(setup.general, word)
        story = await setup.ana.says(setup.general, "what did he say?", mention=True)
        event = await setup.core.message(4)
        assert [each.text for each in event.context] == ["two", "three"]
        assert {each.key for each in event.context} == {event.key}
        for word in ("a", "b", "c"):
            await setup.ben.says(setup.general, word, thread=story)
        await setup.ana.says(setup.general, "and now?", mention=True, thread=story)
        assert [each.text for each in (await setup.core.message(8)).context] == ["what did he say?", "b", "c"]


async def test_a_thread_shorter_than_what_is_wanted_of_it_comes_along_whole() -> None:
    async with run_slack_adapter(ambient=4) as setup:
        story = await setup.ben.says(setup.general, "a story")
        for word in ("a", "b", "c"):
            await setup.ben.says(setup.general, word, thread=story)
        await setup.ana.says(setup.general, "and now?", mention=True, thread=story)
        assert [each.text for each in (await setup.core.message(5)).context] == ["a story", "a", "b", "c"]


async def test_typed_commands_are_commands_and_so_is_a_bare_stop_where_the_bot_listens() -> None:
    async with run_slack_adapter() as setup:
        said = await setup.ana.says(setup.general, "!temperature 0.2", mention=True)
        typed = await setup.core.command()
        assert (typed.name, typed.args, typed.event_id) == ("temperature", {"value": "0.2"}, said.ts)
        question = await setup.ana.says(setup.general, "hello", mention=True)
        setup.core.followed.add(key_of(setup.general, question))
        await setup.ana.says(setup.general, "!model phi-4", mention=True, thread=question)
        model = await setup.core.command(2)
        assert (model.name, model.args, model.key) == ("model", {"name": "phi-4"}, key_of(setup.general, question))
        await setup.ben.says(setup.general, "Stop!", thread=question)
        await setup.core.command(3)
        await setup.ana.says(setup.general, "stop", mention=True)
        await setup.core.command(4)
        await setup.ana.says(setup.server.dm(setup.ana), "stop")
        stops = [await setup.core.command(number) for number in (3, 4, 5)]
        assert [(each.name, each.args) for each in stops] == [("stop", {})] * 3
        assert [each.key for each in stops[:2]] == [key_of(setup.general, question), key_of(setup.general)]
        await setup.ana.says(setup.general, "stop")
        await setup.ana.says(setup.general, "!play a song", mention=True)
        texts = [(await setup.core.message(number)).text for number in (1, 2, 3)]
        assert texts == ["hello", "stop", "!play a song"]


async def test_what_the_core_says_to_a_message_is_shown_in_its_thread_once() -> None:
    core = RecordingCore(says=lambda event: Refused("64 questions are waiting already <!here>."))
    async with run_slack_adapter(core=core) as setup:
        said = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.general.until(lambda: setup.general.messages)
        setup.server.redeliver(said)
        await setup.server.until(lambda: [ack for ack in setup.server.acks if ack.attempt])
        await setup.ana.says(setup.general, "!stop", mention=True)
        await setup.general.until(lambda: setup.general.ephemerals)
        (answer,) = setup.general.messages
        assert (answer.shown, answer.thread_ts) == ("64 questions are waiting already <!here>.", said.ts)
        assert len(core.events) == 2
        (aside,) = setup.general.ephemerals
        assert aside.to is setup.ana.user
        assert not setup.server.pings


async def test_edits_of_people_are_reported_and_those_of_slack_are_not() -> None:
    async with run_slack_adapter() as setup:
        said = await setup.ana.says(setup.general, "helo", mention=True, files={"a.txt": b"a"})
        await setup.core.message()
        setup.server.store.change(said, said.versions[-1], edited=False)  # a preview was added
        await setup.ana.edits(said, f"{setup.server.bot.mention} hello")
        edits = await setup.core.got(MessageEdited, 2)
        assert {each.key for each in edits} == {key_of(setup.general), key_of(setup.general, said)}
        assert {(each.message_id, each.author.name, each.text, each.attachments) for each in edits} == {
            (said.ts, "ana", "hello", (Attachment("a.txt", "a"),))
        }
        await acknowledged(setup, 5)
        assert len(await setup.core.got(IncomingMessage)) == 1, "the mention of an edit is the one that was answered"


async def test_a_mention_that_an_edit_brings_is_answered() -> None:
    async with run_slack_adapter() as setup:
        said = await setup.ana.says(setup.general, "hello")
        assert not (await setup.core.message()).addressed
        await setup.ana.edits(said, f"{setup.server.bot.mention} hello")
        event = await setup.core.message(2)
        assert (event.message_id, event.addressed) == (said.ts, True)


async def test_deletions_are_told_for_each_conversation_that_a_message_may_be_in() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        inside = await setup.ana.says(setup.general, "more", thread=question)
        private = await setup.ana.says(setup.server.dm(setup.ana), "hi")
        await setup.core.message(3)
        keys: dict[Message, set[str]] = {inside: {question.ts}, private: {"", private.ts}}
        for message in keys:
            await setup.ana.deletes(message)
        gone = await setup.core.got(MessageDeleted, 3)
        for message, threads in keys.items():
            assert {each.key.thread for each in gone if each.message_id == message.ts} == threads


async def test_a_question_that_leaves_its_thread_behind_is_deleted_too() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "a secret", mention=True)
        await setup.core.message()
        await setup.adapter.post(reply_to(question, "hi"))
        await setup.ana.deletes(question)
        gone = await setup.core.got(MessageDeleted, 2)
        assert {each.key for each in gone} == {key_of(setup.general), key_of(setup.general, question)}
        assert question.tombstone
        assert not [event for event in setup.core.events if isinstance(event, MessageEdited)]


async def test_each_chat_of_the_assistant_view_is_a_conversation_and_gets_a_title() -> None:
    async with run_slack_adapter() as setup:
        dm, thread = await setup.ana.opens_assistant()
        await setup.ana.says(dm, "how do owls fly?", thread=thread)
        event = await setup.core.message()
        assert (event.key, event.addressed, event.context) == (key_of(dm, thread), True, ())
        await setup.server.until(lambda: setup.server.extras.titles)
        _, older = await setup.ana.opens_assistant()
        setup.core.followed.add(key_of(dm, older))
        await setup.ana.says(dm, "on we go", thread=older)
        await setup.core.message(2)
    assert setup.server.extras.titles == {(dm.id, thread): "how do owls fly?"}


async def test_what_slack_does_not_tell_in_time_is_left_out() -> None:
    async with FakeSlack() as server:
        frozen = [
            server.faults.freeze(method, times=99) for method in ("users.info", "conversations.replies", "download")
        ]
        async with run_slack_adapter(server) as setup:
            story = await setup.ben.says(setup.general, "a story")
            said = await setup.ana.says(setup.general, "hm", mention=True, thread=story, files={"a.txt": b"a"})
            event = await setup.core.message(2)
            assert (event.message_id, event.text, event.author.name) == (said.ts, "hm", "someone")
            assert event.remark == (
                "`a.txt` could not be fetched from Slack in time, so I left it out. "
                "I could not read what was said before this."
            )
            await acknowledged(setup, 3)
            assert max(ack.seconds for ack in server.acks) < 3.0
            for fault in frozen:
                fault.release()


async def test_without_a_scope_its_part_is_left_out_with_a_remark() -> None:
    async with FakeSlack() as server:
        server.scopes.difference_update(("channels:history", "files:read", "users:read"))
        async with run_slack_adapter(server) as setup:
            story = await setup.ben.says(setup.general, "a story")
            await setup.ana.says(setup.general, "hm", mention=True, thread=story, files={"a.txt": b"a"})
            event = await setup.core.message()
            assert (event.text, event.context, event.attachments) == ("hm", (), ())
            assert "add the scope files:read" in event.remark
            assert "what was said before" in event.remark
