"""Tests replies on Slack: what a channel shows, that no one is notified, and how refusals are handled."""

import asyncio
from dataclasses import replace

import pytest

from adapters.slack import error_mapping
from bot.platforms.adapter import Dialect
from bot.replies.links import KnownLinks
from bot.replies.markdown import render
from bot.types.errors import Gone, OutcomeUnknown, Rejected, RetryLater
from bot.types.messages import ActionKind, Attachment, Refused
from tests.support.builders.slack_adapter import key_of, reply_to, run_slack_adapter

POST, UPDATE = "chat.postMessage", "chat.update"
BUTTONS = (ActionKind.REGENERATE, ActionKind.GOOD, ActionKind.BAD)
EVIL = "<!channel> <!here> <@{user}> `<!channel>` <https://evil.example/x|good> see https://example.com/x"


async def test_without_streams_a_reply_grows_by_edits_and_ends_with_its_buttons() -> None:
    async with run_slack_adapter() as setup:
        setup.server.streams_enabled = False
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "He")
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        assert not setup.adapter.limits.appends, "waiting is told by messages now"
        (message,) = setup.general.messages
        assert (message.shown, message.thread_ts, message.ts) == ("He", question.ts, reply.platform_id)
        assert message.labels == ["Stop"]
        await setup.adapter.update(replace(reply, committed="Hello", tail=" wor"))
        assert message.shown == "Hello wor"
        await setup.adapter.update(replace(reply, committed="Hello world", final=True, buttons=BUTTONS))
        assert message.shown == "Hello world"
        assert message.labels == ["Regenerate"]
        assert [each["type"] for each in message.buttons] == ["button", "feedback_buttons"]
        assert all(len(each["action_id"]) <= 255 for each in message.buttons)
        await setup.adapter.update(replace(reply, committed="Hello world", final=True, buttons=()))
        assert message.buttons == []
        assert setup.server.log.count("chat.startStream") == 1, "asked once whether there are streams"


@pytest.mark.parametrize("streams", [True, False])
async def test_a_post_notifies_no_user_and_unfurls_no_link(streams: bool) -> None:
    async with run_slack_adapter() as setup:
        setup.server.streams_enabled = streams
        question = await setup.ana.says(setup.general, "hello", mention=True)
        evil = render(EVIL.format(user=setup.ben.id), Dialect.SLACK, KnownLinks())
        reply = reply_to(question, evil)
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        await setup.adapter.update(replace(reply, committed=evil + evil))
        await setup.adapter.update(replace(reply, committed=evil * 3, final=True, buttons=BUTTONS))
        (message,) = setup.general.messages
        assert message.shown.count("<!channel>") == 6, "it is shown as it was written"
        await setup.core.message()
        setup.core.says = lambda event: Refused(EVIL)
        for text in ("more", "!stop"):  # a notice in the thread, and an ephemeral one
            await setup.ana.says(setup.general, text, mention=True, thread=question)
        await setup.server.until(lambda: len(setup.server.everything) == 3)
        assert setup.server.pings == []
        assert setup.server.unfurls == []


async def test_a_direct_message_is_answered_without_a_thread() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.server.dm(setup.ana), "hello")
        reply = reply_to(question, "Hi")
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        await setup.adapter.update(replace(reply, committed="Hi there", final=True))
        (message,) = question.channel.messages
        assert (message.shown, message.thread_ts) == ("Hi there", "")
        assert setup.server.log.count("chat.startStream") == 0


async def test_a_long_answer_comes_with_a_file_once() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "It is in the file.", final=True, attachment=Attachment("answer.md", "all of it"))
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        await setup.adapter.update(reply)
        files = [message.files for message in setup.general.messages if message.files]
        assert files == [{"answer.md": b"all of it"}]
        assert all(message.thread_ts == question.ts for message in setup.general.messages)


async def test_a_502_is_unknown_and_the_post_is_not_there() -> None:
    async with run_slack_adapter() as setup:
        setup.server.streams_enabled = False
        question = await setup.ana.says(setup.general, "hello", mention=True)
        setup.server.faults.answer(POST, status=502)
        with pytest.raises(OutcomeUnknown):
            await setup.adapter.post(reply_to(question, "Hello"))
        assert await setup.adapter.find_posted(reply_to(question)) is None
        await setup.adapter.post(reply_to(question, "Hello"))
        assert [message.shown for message in setup.general.messages] == ["Hello"]


@pytest.mark.fault(19)
async def test_a_rate_limit_is_kept_to_by_that_channel_only() -> None:
    async with run_slack_adapter() as setup:
        setup.server.streams_enabled = False
        other = setup.server.channel("other")
        question = await setup.ana.says(setup.general, "hello", mention=True)
        elsewhere = await setup.ana.says(other, "hello", mention=True)
        await setup.adapter.post(reply_to(elsewhere, "first"))  # the adapter now knows that there are no streams
        setup.server.limits.exhaust(POST, 30, setup.general.id)
        for _ in range(3):
            with pytest.raises(RetryLater) as refused:
                await setup.adapter.post(reply_to(question, "Hello"))
        assert refused.value.seconds > 20
        assert setup.server.log.count(POST, status=429) == 1, "what was refused is not tried again meanwhile"
        await setup.adapter.post(reply_to(elsewhere, "second", reply_id="b" * 20))
        assert [message.shown for message in other.messages] == ["first", "second"]


async def test_a_channel_that_forbids_writing_is_asked_once() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        setup.general.read_only = True
        for _ in range(3):
            with pytest.raises(Rejected):
                await setup.adapter.post(reply_to(question, "Hello"))
        refused = [call for call in setup.server.calls if call.error == "restricted_action"]
        assert len(refused) == 1


async def test_a_message_that_is_gone_is_gone() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "Hello")
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        boss = setup.server.user("boss", admin=True)
        await boss.deletes(setup.general.messages[0])
        with pytest.raises(Gone):
            await setup.adapter.update(replace(reply, committed="Hello you", final=True))


async def test_plain_thumbs_where_the_native_ones_are_refused() -> None:
    async with run_slack_adapter() as setup:
        setup.server.streams_enabled = False
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "Hello", final=True, buttons=BUTTONS)
        setup.server.faults.refuse(POST, "invalid_blocks")
        await setup.adapter.post(reply)
        assert setup.general.messages[0].labels == ["Regenerate", "👍", "👎"]


async def test_waiting_is_told_under_the_thread_and_ends_with_the_first_words() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        key = key_of(setup.general, question)
        await setup.adapter.status(key, "2nd in line, about 20 s")
        await setup.adapter.status(key, "2nd in line, about 20 s")
        assert setup.server.status_of(setup.general, question.ts) == "2nd in line, about 20 s"
        assert len(setup.server.statuses) == 1, "the same is not set twice"
        await setup.adapter.post(reply_to(question, "Hello"))
        assert setup.server.status_of(setup.general, question.ts) == ""


async def test_where_no_status_can_be_set_waiting_is_reported_by_messages() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        setup.server.extras.statuses_enabled = False
        assert setup.adapter.limits.appends
        await setup.adapter.status(key_of(setup.general, question), "2nd in line")
        assert not setup.adapter.limits.appends
        await setup.adapter.post(reply_to(question, tail="2nd in line"))
        assert setup.general.messages[0].shown == "2nd in line"


async def test_edits_of_growing_text_keep_below_the_limits() -> None:
    async with run_slack_adapter() as setup:
        setup.server.streams_enabled = False
        replies = []
        for number in range(4):
            question = await setup.ana.says(setup.server.channel(f"c{number}"), "hello", mention=True)
            reply = reply_to(question, "word", reply_id=f"{number}" * 20)
            replies.append(replace(reply, platform_id=await setup.adapter.post(reply)))

        async def grow(reply_number: int) -> None:
            for words in range(2, 60):
                try:
                    await setup.adapter.update(replace(replies[reply_number], committed="word " * words))
                except RetryLater as error:
                    await asyncio.sleep(error.seconds)
            await setup.adapter.update(replace(replies[reply_number], committed="all of it", final=True))

        await asyncio.gather(*(grow(number) for number in range(4)))
        assert setup.server.rate_limited == 0
        shown = [message.shown for channel in setup.server.store.channels.values() for message in channel.messages]
        assert shown == ["all of it"] * 4


async def test_where_uploads_are_refused_the_answer_is_final_all_the_same() -> None:
    async with run_slack_adapter() as setup:
        setup.server.extras.upload_status = 403
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "The rest is in the file.", attachment=Attachment("answer.md", "all of it"))
        reply = replace(reply, platform_id=await setup.adapter.post(replace(reply, attachment=None)), final=True)
        await setup.adapter.update(reply)
        await setup.adapter.update(reply)
        first, *others = setup.general.messages
        assert first.shown == "The rest is in the file."
        assert [each.shown for each in others] == ["_(I could not attach the file with the whole answer.)_"]


async def test_words_of_our_own_go_on_where_slack_had_no_time_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_mapping, "RATE_LIMIT_S", 1.0)
    async with run_slack_adapter() as setup:
        setup.server.faults.refuse(POST, "ratelimited", skip=1)
        words = "One. " * 500 + "\n\n" + "Two. " * 500
        setup.core.says = lambda event: Refused(words)
        await setup.ana.says(setup.general, "hello", mention=True)
        await setup.server.until(lambda: len(setup.general.messages) == 2)
        shown = [message.shown for message in setup.general.messages]
        assert "".join(shown).count("One.") == 500
        assert "".join(shown).count("Two.") == 500


async def test_the_status_says_what_is_being_done() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        key = key_of(setup.general, question)
        await setup.adapter.status(key, "")
        assert setup.server.status_of(setup.general, question.ts) == "is reading…"
        reply = reply_to(question, "One ")
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        await setup.adapter.update(replace(reply, committed="One two "))
        assert setup.server.status_of(setup.general, question.ts) == "is writing…"
        await setup.adapter.update(replace(reply, committed="One two.", final=True, buttons=BUTTONS))
        assert setup.server.status_of(setup.general, question.ts) == ""
