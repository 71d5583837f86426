"""Tests replies on Discord: what a channel shows, that no one is notified, and how refusals are handled."""

import asyncio
from dataclasses import replace

import pytest

from bot.types.errors import Gone, Rejected
from bot.types.messages import ActionKind, Attachment
from tests.support.builders.discord_adapter import BUTTONS, key_of, reply_to, run_discord_adapter
from tests.support.fakes.discord import Can

POST, EDIT = "/channels/{channel_id}/messages", "/channels/{channel_id}/messages/{message_id}"
TYPING = "/channels/{channel_id}/typing"
EVIL = "@everyone @here <@{user}> <@&{role}> see https://example.com/x"


async def test_a_reply_grows_by_edits_and_ends_with_its_buttons() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, tail="He ▌")
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        (message,) = setup.general.messages
        assert (message.content, message.reference, message.id) == ("He ▌", question, reply.platform_id)
        assert [button["label"] for button in message.buttons] == ["Stop"]
        await setup.adapter.update(replace(reply, committed="Hello", tail=" wor ▌"))
        await setup.adapter.update(replace(reply, committed="Hello world", tail="", final=True, buttons=BUTTONS))
        assert [version.content for version in message.versions] == ["He ▌", "Hello wor ▌", "Hello world"]
        shown = [button.get("label") or button["emoji"]["name"] for button in message.buttons]
        assert shown == ["Regenerate", "👍", "👎"]
        assert all(len(button["custom_id"]) <= 100 for button in message.buttons)
        await setup.adapter.update(replace(reply, committed="Hello world", tail="", final=True, buttons=()))
        assert message.buttons == []


@pytest.mark.fault(39)
async def test_posts_and_edits_notify_no_user_and_unfurl_no_link() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        evil = EVIL.format(user=setup.ben.id, role=setup.server.role("mods").id)
        reply = reply_to(question, evil)
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        await setup.adapter.update(replace(reply, committed=evil + evil, final=True))
        assert [version.content for version in setup.general.messages[0].versions] == [evil, evil + evil]
        assert not setup.server.pings
        assert setup.general.messages[0].previews == ()


async def test_later_parts_answer_the_part_before_them() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        for part in range(3):
            buttons = BUTTONS if part == 0 else ()
            await setup.adapter.post(
                reply_to(question, f"part {part}", part=part, reply_id=f"r{part}", buttons=buttons)
            )
        first, second, third = setup.general.messages
        assert (second.reference, third.reference) == (first, second)


async def test_a_long_answer_comes_with_a_file() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "The begin ▌")
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        attachment = Attachment("answer.md", "# Ü\nall of it")
        await setup.adapter.update(replace(reply, committed="The beginning", final=True, attachment=attachment))
        (message,) = setup.general.messages
        assert message.files == {"answer.md": "# Ü\nall of it".encode()}
        await setup.adapter.update(replace(reply, committed="The beginning", final=True, attachment=attachment))
        assert list(message.files) == ["answer.md"]
        await setup.adapter.post(reply_to(question, "whole", reply_id="other", attachment=attachment))
        assert setup.general.messages[1].files == message.files


async def test_the_typing_indicator_is_shown_and_words_are_not() -> None:
    async with run_discord_adapter() as setup:
        await setup.adapter.status(key_of(setup.general), "2nd in line")
        await setup.adapter.status(key_of(setup.general), "")
        assert len(setup.general.typing) == 1
        assert not setup.general.messages


async def test_an_answer_opens_the_thread_that_its_key_names() -> None:
    async with run_discord_adapter(reply_in_thread=True) as setup:
        question = await setup.ana.says(setup.general, f"hello   {setup.ben.mention}\nwho " + "x" * 200, mention=True)
        key = replace(key_of(setup.general), thread=question.id)
        reply = reply_to(question, "hi", key=key)
        posted = (await asyncio.gather(setup.adapter.status(key, ""), setup.adapter.post(reply)))[1]
        assert question.thread is not None
        assert question.thread.name.startswith("hello @ben who xxx")
        assert len(question.thread.typing) == 1
        (message,) = [each for each in question.thread.messages if each.content]
        assert (message.id, message.reference) == (posted, None)
        await setup.adapter.update(replace(reply, committed="hi you", platform_id=posted))
        assert message.content == "hi you"
        assert await setup.adapter.find_posted(reply) == posted


async def test_a_thread_that_a_user_opened_before_is_used() -> None:
    async with run_discord_adapter(reply_in_thread=True) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        key = replace(key_of(setup.general), thread=question.id)
        setup.server.faults.answer("POST", EDIT + "/threads", status=502, applied=True)
        await setup.adapter.post(reply_to(question, "hi", key=key))
        assert question.thread is not None
        assert [message.content for message in question.thread.messages if message.content] == ["hi"]
        refused = [call.status for call in setup.server.calls if call.route == EDIT + "/threads"]
        assert refused == [502, 400], "the first call had opened it"


async def test_a_channel_that_forbids_writing_is_tried_once() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        other = setup.server.text_channel("other")
        setup.general.deny(Can.SEND_MESSAGES)
        await setup.server.until(lambda: setup.server.frames[-1].event == "CHANNEL_UPDATE")
        for _ in range(3):
            with pytest.raises(Rejected, match=r"not allow|forbade"):
                await setup.adapter.post(reply_to(question, "hi"))
            with pytest.raises(Rejected, match=r"not allow|forbade"):
                await setup.adapter.status(key_of(setup.general), "")
        assert setup.server.limits.invalid == 1
        await setup.adapter.post(reply_to(await setup.ana.says(other, "hello"), "hi", reply_id="b"))
        setup.general.allow(Can.SEND_MESSAGES)
        await setup.ana.says(setup.general, "try again")
        await setup.core.message(3)
        await setup.adapter.post(reply_to(question, "hi"))
        assert len(setup.general.messages) == 1


async def test_what_is_gone_is_told_apart_from_what_is_refused() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "hi")
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        setup.server.faults.answer("PATCH", EDIT, status=403, code=50013)
        with pytest.raises(Rejected) as refused:
            await setup.adapter.update(reply)
        assert not isinstance(refused.value, Gone)
        await setup.adapter.update(reply)
        with pytest.raises(Rejected, match="Must be between 0 and 2000"):
            await setup.adapter.update(replace(reply, committed="x" * 2001))
        await setup.server.user("mod", can=Can.MANAGE_MESSAGES).deletes(setup.general.messages[0])
        with pytest.raises(Gone):
            await setup.adapter.update(reply)
        setup.server.delete_channel(setup.general)
        for call in (setup.adapter.post, setup.adapter.find_posted):
            with pytest.raises(Gone):
                await call(reply)
        with pytest.raises(Gone):
            await setup.adapter.status(key_of(setup.general), "")


async def test_two_thousand_characters_are_taken_whatever_they_are() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "🙂" * setup.adapter.limits.max_chars))
        assert len(setup.general.messages[0].content) == 2000


async def test_a_reply_that_was_asked_for_by_a_command_stands_alone() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi", question_id=str(int(question.id) + 1)))
        assert setup.general.messages[0].reference is None


async def test_a_button_of_every_kind_can_be_shown() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi", buttons=tuple(ActionKind)[:5]))
        assert len(setup.general.messages[0].buttons) == 5


async def test_an_answer_does_not_fail_for_want_of_a_lesser_permission() -> None:
    async with run_discord_adapter() as setup:
        setup.general.deny(Can.READ_MESSAGE_HISTORY | Can.ATTACH_FILES)
        question = await setup.ana.says(setup.general, "hello", mention=True)
        await setup.core.message()
        reply = reply_to(question, "The beginning", attachment=Attachment("answer.md", "all of it"))
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        (message,) = setup.general.messages
        assert message.content == "The beginning\n*(I may not attach files here, so the file is missing.)*"
        await setup.adapter.update(reply)
        assert (message.reference, message.files) == (None, {})


@pytest.mark.fault(19)
async def test_what_comes_after_a_refused_call_waits_with_it_and_other_channels_flow() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        elsewhere = await setup.ana.says(setup.server.text_channel("other"), "hello", mention=True)
        await setup.adapter.post(reply_to(question, "hi", reply_id="first"))  # now discord.py knows the rate limits
        setup.server.limits.exhaust(f"POST {POST}", setup.general.id, 1.0)
        posts = [asyncio.create_task(setup.adapter.post(reply_to(question, "hi", reply_id=f"r{n}"))) for n in range(4)]
        await setup.adapter.post(reply_to(elsewhere, "hi", reply_id="other"))
        assert not any(post.done() for post in posts)
        await asyncio.gather(*posts)
        assert len(setup.general.messages) == 5
        assert setup.server.rate_limited == 1
