"""Tests native streams: start, append and stop; the end of the text is never lost."""

import time
from dataclasses import replace

import pytest

from adapters.slack.outbound import streaming
from bot.platforms.adapter import Dialect
from bot.replies.links import KnownLinks
from bot.replies.markdown import render
from bot.types.errors import OutcomeUnknown, RetryLater
from bot.types.messages import ActionKind, IncomingAction, Refused, Reply
from tests.support.builders.slack_adapter import SlackAdapterSetup, reply_to, run_slack_adapter
from tests.support.fakes.slack.payloads import TEAM_ID
from tests.support.fakes.slack.state import Json

BUTTONS = (ActionKind.REGENERATE, ActionKind.GOOD, ActionKind.BAD)


async def begun(setup: SlackAdapterSetup, text: str = "One ") -> Reply:
    """Starts the stream of an answer."""
    question = await setup.ana.says(setup.general, "count", mention=True)
    reply = reply_to(question, text)
    return replace(reply, platform_id=await setup.adapter.post(reply))


async def grown(setup: SlackAdapterSetup, reply: Reply, text: str) -> None:
    """Appends text, as soon as the interval allows."""
    while True:
        try:
            return await setup.adapter.update(replace(reply, committed=text))
        except RetryLater as error:
            await setup.server.clock.sleep(min(1.0, error.seconds))


async def ended(setup: SlackAdapterSetup, reply: Reply, text: str) -> None:
    """Sends the final text; asserts that it is shown once and that the stream has ended."""
    await setup.adapter.update(replace(reply, committed=text, final=True, buttons=BUTTONS))
    (message,) = setup.general.messages
    assert message.shown == text
    assert message.labels == ["Regenerate"]
    assert not message.streaming
    assert message.metadata is not None


async def test_words_are_appended_and_the_end_has_text_and_buttons() -> None:
    async with run_slack_adapter() as setup:
        reply = await begun(setup)
        (message,) = setup.general.messages
        assert message.streaming
        assert (message.shown.strip(), message.labels) == ("One", ["Stop"])
        await grown(setup, reply, "One two ")
        await grown(setup, reply, "One two three ")
        assert message.text == "One two three "
        await ended(setup, reply, "One two three four.")
        assert setup.server.log.count("chat.startStream") == 1
        assert setup.server.log.count("chat.postMessage") == 0


@pytest.mark.parametrize(
    ("extra", "team"),
    [
        ({}, TEAM_ID),
        ({"user_team": "T0THEIRS", "source_team": "T0OTHER"}, "T0THEIRS"),
        ({"source_team": "T0THEIRS"}, "T0THEIRS"),
        ({"user_profile": {"team": "T0THEIRS"}}, "T0THEIRS"),
    ],
)
async def test_the_recipient_of_a_stream_is_in_the_workspace_of_the_asker(extra: Json, team: str) -> None:
    async with run_slack_adapter() as setup:
        setup.server.faults.refuse("users.info", "user_not_found", times=99)
        question = await setup.ana.says(setup.general, "count", mention=True, extra=extra)
        await setup.core.message()
        await setup.adapter.post(reply_to(question, "One "))
        (call,) = [call for call in setup.server.calls if call.method == "chat.startStream"]
        assert (call.arguments["recipient_user_id"], call.arguments["recipient_team_id"]) == (setup.ana.id, team)


async def test_no_stream_begins_without_words() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "count", mention=True)
        with pytest.raises(RetryLater):
            await setup.adapter.post(reply_to(question, tail="h"))
        assert setup.general.messages == []


async def test_a_workspace_whose_streams_take_no_blocks_gets_edits_with_a_stop_button() -> None:
    async with run_slack_adapter() as setup:
        setup.server.block_chunks = False
        reply = await begun(setup)
        (message,) = setup.general.messages
        assert (message.streaming, message.labels) == (False, ["Stop"])
        assert not setup.adapter.limits.appends
        await grown(setup, reply, "One two ")
        assert (message.shown.strip(), message.labels) == ("One two", ["Stop"])
        await ended(setup, reply, "One two.")
        assert setup.server.log.count("chat.startStream") == 1


async def test_a_stream_that_slack_closed_after_five_minutes_goes_on_by_edits() -> None:
    async with run_slack_adapter() as setup:
        reply = await begun(setup)
        setup.server.clock.advance(301)
        await grown(setup, reply, "One two ")
        assert setup.general.messages[0].shown.strip() == "One two"
        await ended(setup, reply, "One two three.")


async def test_a_stream_is_ended_before_slack_would_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_slack_adapter() as setup:
        reply = await begun(setup)
        after = time.monotonic() + streaming.MAX_STREAM_S
        monkeypatch.setattr(streaming, "monotonic", lambda: after)
        await grown(setup, reply, "One two ")
        (message,) = setup.general.messages
        assert not message.streaming
        assert message.shown.strip() == "One two"
        await ended(setup, reply, "One two three.")
        assert setup.server.log.count("chat.appendStream") == 0


@pytest.mark.parametrize("method", ["chat.appendStream", "chat.stopStream"])
@pytest.mark.parametrize("error", ["streaming_state_conflict", "message_not_in_streaming_state", "internal_error"])
async def test_whatever_goes_wrong_the_final_text_is_there(method: str, error: str) -> None:
    async with run_slack_adapter() as setup:
        reply = await begun(setup)
        setup.server.faults.refuse(method, error)
        try:
            await grown(setup, reply, "One two ")
            await ended(setup, reply, "One two three.")
        except RetryLater:
            await ended(setup, reply, "One two three.")


async def test_a_stream_goes_on_when_less_of_its_text_is_committed_for_a_while() -> None:
    """As at the beginning of a code block."""
    async with run_slack_adapter() as setup:
        reply = await begun(setup)
        await grown(setup, reply, "One two three")
        await grown(setup, replace(reply, tail="two three\n```\nfour"), "One ")
        (message,) = setup.general.messages
        assert message.streaming
        await grown(setup, reply, "One two three\n```\nfour\n")
        assert message.text == "One two three\n```\nfour\n"
        await ended(setup, reply, "One two three\n```\nfour\n```")
        assert setup.server.log.count("chat.startStream") == 1


async def test_an_answer_that_begins_anew_is_edited_into_the_same_message() -> None:
    async with run_slack_adapter() as setup:
        reply = await begun(setup, "A wrong ")
        await grown(setup, reply, "Quite ")
        await ended(setup, reply, "Quite another one.")


async def test_stopped_in_slack_is_stopped_here() -> None:
    async with run_slack_adapter() as setup:
        reply = await begun(setup)
        setup.server.stops_stream(setup.general.messages[0])
        await grown(setup, reply, "One two ")
        (pressed,) = [event for event in setup.core.events if isinstance(event, IncomingAction)]
        assert (pressed.reply_id, pressed.kind) == (reply.reply_id, ActionKind.STOP)
        await ended(setup, reply, "One two.")


async def test_no_entity_is_cut_in_two() -> None:
    async with run_slack_adapter() as setup:
        reply = await begun(setup, "a &l")
        assert setup.general.messages[0].text == "a "
        await grown(setup, reply, "a &lt; b ")
        assert setup.general.messages[0].text == "a &lt; b "


async def test_a_lost_start_is_found_again() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "count", mention=True)
        reply = reply_to(question, "One ")
        setup.server.faults.drop("chat.startStream", applied=True)
        with pytest.raises(OutcomeUnknown):
            await setup.adapter.post(reply)
        found = await setup.adapter.find_posted(reply)
        assert found == setup.general.messages[0].ts
        await ended(setup, replace(reply, platform_id=found), "One two three.")


async def test_a_lost_start_without_buttons_is_our_only_unfinished_message() -> None:
    async with run_slack_adapter() as setup:
        setup.server.block_chunks = False
        setup.core.says = lambda event: Refused("words of our own")
        question = await setup.ana.says(setup.general, "count", mention=True)
        await setup.server.until(lambda: setup.general.messages)
        reply = reply_to(question, "One ", buttons=())
        assert await setup.adapter.find_posted(reply) is None
        setup.server.faults.drop("chat.startStream", applied=True)
        with pytest.raises(OutcomeUnknown):
            await setup.adapter.post(reply)
        assert await setup.adapter.find_posted(reply) == setup.general.messages[1].ts


async def test_a_stream_takes_text_in_one_way_only() -> None:
    async with run_slack_adapter() as setup:
        reply = await begun(setup)
        await grown(setup, reply, "One two ")
        await ended(setup, reply, "One two three.")
        calls = [call for call in setup.server.calls if "Stream" in call.method and not call.error]
        assert [call.method for call in calls] == ["chat.startStream", "chat.appendStream", "chat.stopStream"]
        assert all("chunks" in call.arguments and "markdown_text" not in call.arguments for call in calls)


@pytest.mark.parametrize("applied", [True, False])
async def test_text_whose_arrival_is_unknown_is_not_appended_twice(applied: bool) -> None:
    async with run_slack_adapter() as setup:
        reply = await begun(setup)
        setup.server.faults.drop("chat.appendStream", applied=applied)
        await grown(setup, reply, "One two ")
        assert setup.general.messages[0].shown.strip() == "One two"
        await grown(setup, reply, "One two three ")
        assert setup.general.messages[0].shown.strip() == "One two three"
        assert setup.server.log.count("chat.appendStream") == 1
        await ended(setup, reply, "One two three.")


async def test_a_full_part_is_ended_before_the_next_one_begins() -> None:
    async with run_slack_adapter() as setup:
        first = await begun(setup, "part one")
        question = setup.general.history[0]
        second = reply_to(question, "part ", part=1, reply_id="b" * 20, buttons=())
        second = replace(second, platform_id=await setup.adapter.post(second))
        one, two = setup.general.messages
        assert (one.streaming, two.streaming) == (False, True)
        assert one.metadata is not None
        await setup.adapter.update(replace(first, final=True, buttons=BUTTONS))
        await setup.adapter.update(replace(second, committed="part two", final=True))
        assert [message.shown for message in (one, two)] == ["part one", "part two"]
        assert (one.labels, two.labels) == (["Regenerate"], [])


@pytest.mark.fault(39)
async def test_nothing_in_a_stream_notifies_a_user() -> None:
    async with run_slack_adapter() as setup:
        evil = render(f"<!here> <@{setup.ben.id}> `<!channel>` ", Dialect.SLACK, KnownLinks())
        reply = await begun(setup, evil)
        await grown(setup, reply, evil + evil)
        await setup.adapter.update(replace(reply, committed=evil * 3, final=True, buttons=BUTTONS))
        (message,) = setup.general.messages
        assert message.shown == f"<!here> <@{setup.ben.id}> `<!channel>` " * 3
        assert message.pings == ()
        assert message.unfurls == ()


async def test_a_stream_that_is_refused_for_one_answer_is_there_for_the_next() -> None:
    async with run_slack_adapter() as setup:
        setup.server.faults.refuse("chat.startStream", "invalid_recipient")
        question = await setup.ana.says(setup.general, "count", mention=True)
        await setup.adapter.post(reply_to(question, "One "))
        assert not setup.general.messages[0].streaming
        other = await setup.ana.says(setup.general, "count", mention=True)
        await setup.adapter.post(reply_to(other, "One ", reply_id="b" * 20))
        assert setup.general.messages[1].streaming
