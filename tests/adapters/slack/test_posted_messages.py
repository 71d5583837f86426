"""Tests that posted messages are found again, also after a restart, and exist once."""

from dataclasses import replace

import pytest

from bot.types.errors import Gone, OutcomeUnknown
from bot.types.messages import ActionKind, Attachment, Notice
from tests.support.builders.slack_adapter import key_of, reply_to, run_slack_adapter

POST, START = "chat.postMessage", "chat.startStream"
BUTTONS = (ActionKind.REGENERATE, ActionKind.GOOD, ActionKind.BAD)


@pytest.mark.fault(17)
@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("thread", [True, False])
async def test_a_post_whose_answer_is_lost_is_found_by_another_process(streams: bool, thread: bool) -> None:
    async with run_slack_adapter() as setup:
        setup.server.streams_enabled = streams
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "One ", key=key_of(setup.general, question if thread else ""))
        if not streams:
            await setup.adapter.post(reply_to(question, "Other", reply_id="b" * 20, request_id="other"))
        setup.server.faults.drop(START if streams and thread else POST, applied=True)
        with pytest.raises(OutcomeUnknown):
            await setup.adapter.post(reply)
        async with run_slack_adapter(setup.server) as again:
            found = await again.adapter.find_posted(reply)
            assert found == setup.general.messages[-1].ts
            ended = replace(reply, committed="One two.", final=True, buttons=BUTTONS, platform_id=found)
            await again.adapter.update(ended)
            assert setup.general.messages[-1].shown == "One two."
            assert await again.adapter.find_posted(replace(reply, request_id="x", reply_id="c" * 20)) is None


async def test_all_parts_are_found_and_not_mistaken_for_each_other() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        parts = [reply_to(question, f"part {n} ", part=n, reply_id=f"{n}" * 20, buttons=()) for n in range(3)]
        parts[0] = replace(parts[0], buttons=(ActionKind.STOP,))
        ids = [await setup.adapter.post(part) for part in parts]
        async with run_slack_adapter(setup.server) as again:
            assert [await again.adapter.find_posted(part) for part in parts] == ids
            assert await again.adapter.find_posted(replace(parts[2], part=3, reply_id="3" * 20)) is None


async def test_without_buttons_the_open_streams_are_the_parts_after_those_that_are_known() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        parts = [reply_to(question, f"part {n} ", part=n, reply_id=f"{n}" * 20, buttons=()) for n in range(2)]
        ids = [await setup.adapter.post(part) for part in parts]
        assert [message.streaming for message in setup.general.messages] == [False, True]
        async with run_slack_adapter(setup.server) as again:
            assert [await again.adapter.find_posted(part) for part in parts] == ids


async def test_words_of_our_own_files_and_the_question_are_no_answers() -> None:
    async with run_slack_adapter() as setup:
        setup.core.says = lambda event: Notice("a note", private=False, attachment=Attachment("a.md", "x"))
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.server.until(lambda: len(setup.general.messages) == 2)
        assert await setup.adapter.find_posted(reply_to(question)) is None


async def test_an_answer_to_a_command_is_looked_for_without_a_question() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello")
        reply = reply_to(question, "Hi", key=key_of(setup.general), question_id="1337.42.abcdef")
        assert await setup.adapter.find_posted(reply) is None
        posted = await setup.adapter.post(reply)
        assert await setup.adapter.find_posted(reply) == posted


async def test_where_the_channel_is_gone_nothing_is_found() -> None:
    async with run_slack_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        setup.general.deleted = True
        with pytest.raises(Gone):
            await setup.adapter.find_posted(reply_to(question))
