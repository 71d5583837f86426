"""Tests replies on Discord: what a channel shows, that no one is notified, and how refusals are handled."""

import asyncio
from dataclasses import replace

import pytest

from bot.types.errors import Gone, Rejected
from bot.types.messages import ActionKind, Attachment
from tests.support.builders.discord_adapter import BUTTONS, key_of, on_stage, reply_to
from tests.support.fakes.discord import Can

POST, EDIT = "/channels/{channel_id}/messages", "/channels/{channel_id}/messages/{message_id}"
TYPING = "/channels/{channel_id}/typing"
EVIL = "@everyone @here <@{user}> <@&{role}> see https://example.com/x"


async def test_a_reply_grows_by_edits_and_ends_with_its_buttons() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        reply = reply_to(question, tail="He ▌")
        reply = replace(reply, platform_id=await stage.adapter.post(reply))
        (message,) = stage.general.messages
        assert (message.content, message.reference, message.id) == ("He ▌", question, reply.platform_id)
        assert [button["label"] for button in message.buttons] == ["Stop"]
        await stage.adapter.update(replace(reply, committed="Hello", tail=" wor ▌"))
        await stage.adapter.update(replace(reply, committed="Hello world", tail="", final=True, buttons=BUTTONS))
        assert [version.content for version in message.versions] == ["He ▌", "Hello wor ▌", "Hello world"]
        shown = [button.get("label") or button["emoji"]["name"] for button in message.buttons]
        assert shown == ["Regenerate", "👍", "👎"]
        assert all(len(button["custom_id"]) <= 100 for button in message.buttons)
        await stage.adapter.update(replace(reply, committed="Hello world", tail="", final=True, buttons=()))
        assert message.buttons == []


@pytest.mark.fault(39)
async def test_nobody_is_notified_and_no_link_is_unfurled_by_posts_and_edits() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        evil = EVIL.format(user=stage.ben.id, role=stage.server.role("mods").id)
        reply = reply_to(question, evil)
        reply = replace(reply, platform_id=await stage.adapter.post(reply))
        await stage.adapter.update(replace(reply, committed=evil + evil, final=True))
        assert [version.content for version in stage.general.messages[0].versions] == [evil, evil + evil]
        assert not stage.server.pings
        assert stage.general.messages[0].previews == ()


async def test_later_parts_answer_the_part_before_them() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        for part in range(3):
            buttons = BUTTONS if part == 0 else ()
            await stage.adapter.post(
                reply_to(question, f"part {part}", part=part, reply_id=f"r{part}", buttons=buttons)
            )
        first, second, third = stage.general.messages
        assert (second.reference, third.reference) == (first, second)


async def test_a_long_answer_comes_with_a_file() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        reply = reply_to(question, "The begin ▌")
        reply = replace(reply, platform_id=await stage.adapter.post(reply))
        attachment = Attachment("answer.md", "# Ü\nall of it")
        await stage.adapter.update(replace(reply, committed="The beginning", final=True, attachment=attachment))
        (message,) = stage.general.messages
        assert message.files == {"answer.md": "# Ü\nall of it".encode()}
        await stage.adapter.update(replace(reply, committed="The beginning", final=True, attachment=attachment))
        assert list(message.files) == ["answer.md"]
        await stage.adapter.post(reply_to(question, "whole", reply_id="other", attachment=attachment))
        assert stage.general.messages[1].files == message.files


async def test_the_typing_indicator_is_shown_and_words_are_not() -> None:
    async with on_stage() as stage:
        await stage.adapter.status(key_of(stage.general), "2nd in line")
        await stage.adapter.status(key_of(stage.general), "")
        assert len(stage.general.typing) == 1
        assert not stage.general.messages


async def test_an_answer_opens_the_thread_that_its_key_names() -> None:
    async with on_stage(reply_in_thread=True) as stage:
        question = await stage.ana.says(stage.general, f"hello   {stage.ben.mention}\nwho " + "x" * 200, mention=True)
        key = replace(key_of(stage.general), thread=question.id)
        reply = reply_to(question, "hi", key=key)
        posted = (await asyncio.gather(stage.adapter.status(key, ""), stage.adapter.post(reply)))[1]
        assert question.thread is not None
        assert question.thread.name.startswith("hello @ben who xxx")
        assert len(question.thread.typing) == 1
        (message,) = [each for each in question.thread.messages if each.content]
        assert (message.id, message.reference) == (posted, None)
        await stage.adapter.update(replace(reply, committed="hi you", platform_id=posted))
        assert message.content == "hi you"
        assert await stage.adapter.find_posted(reply) == posted


async def test_a_thread_that_somebody_opened_already_will_do() -> None:
    async with on_stage(reply_in_thread=True) as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        key = replace(key_of(stage.general), thread=question.id)
        stage.server.faults.answer("POST", EDIT + "/threads", status=502, applied=True)
        await stage.adapter.post(reply_to(question, "hi", key=key))
        assert question.thread is not None
        assert [message.content for message in question.thread.messages if message.content] == ["hi"]
        refused = [call.status for call in stage.server.calls if call.route == EDIT + "/threads"]
        assert refused == [502, 400], "the first call had opened it"


async def test_a_channel_that_forbids_writing_is_tried_once() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        other = stage.server.text_channel("other")
        stage.general.deny(Can.SEND_MESSAGES)
        await stage.server.until(lambda: stage.server.frames[-1].event == "CHANNEL_UPDATE")
        for _ in range(3):
            with pytest.raises(Rejected, match=r"not allow|forbade"):
                await stage.adapter.post(reply_to(question, "hi"))
            with pytest.raises(Rejected, match=r"not allow|forbade"):
                await stage.adapter.status(key_of(stage.general), "")
        assert stage.server.limits.invalid == 1
        await stage.adapter.post(reply_to(await stage.ana.says(other, "hello"), "hi", reply_id="b"))
        stage.general.allow(Can.SEND_MESSAGES)
        await stage.ana.says(stage.general, "try again")
        await stage.core.message(3)
        await stage.adapter.post(reply_to(question, "hi"))
        assert len(stage.general.messages) == 1


async def test_what_is_gone_is_told_apart_from_what_is_refused() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        reply = reply_to(question, "hi")
        reply = replace(reply, platform_id=await stage.adapter.post(reply))
        stage.server.faults.answer("PATCH", EDIT, status=403, code=50013)
        with pytest.raises(Rejected) as refused:
            await stage.adapter.update(reply)
        assert not isinstance(refused.value, Gone)
        await stage.adapter.update(reply)
        with pytest.raises(Rejected, match="Must be between 0 and 2000"):
            await stage.adapter.update(replace(reply, committed="x" * 2001))
        await stage.server.user("mod", can=Can.MANAGE_MESSAGES).deletes(stage.general.messages[0])
        with pytest.raises(Gone):
            await stage.adapter.update(reply)
        stage.server.delete_channel(stage.general)
        for call in (stage.adapter.post, stage.adapter.find_posted):
            with pytest.raises(Gone):
                await call(reply)
        with pytest.raises(Gone):
            await stage.adapter.status(key_of(stage.general), "")


async def test_two_thousand_characters_are_taken_whatever_they_are() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.adapter.post(reply_to(question, "🙂" * stage.adapter.limits.max_chars))
        assert len(stage.general.messages[0].content) == 2000


async def test_a_reply_that_was_asked_for_by_a_command_stands_alone() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.adapter.post(reply_to(question, "hi", question_id=str(int(question.id) + 1)))
        assert stage.general.messages[0].reference is None


async def test_a_button_of_every_kind_can_be_shown() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.adapter.post(reply_to(question, "hi", buttons=tuple(ActionKind)[:5]))
        assert len(stage.general.messages[0].buttons) == 5


async def test_an_answer_does_not_fail_for_want_of_a_lesser_permission() -> None:
    async with on_stage() as stage:
        stage.general.deny(Can.READ_MESSAGE_HISTORY | Can.ATTACH_FILES)
        question = await stage.ana.says(stage.general, "hello", mention=True)
        await stage.core.message()
        reply = reply_to(question, "The beginning", attachment=Attachment("answer.md", "all of it"))
        reply = replace(reply, platform_id=await stage.adapter.post(reply))
        (message,) = stage.general.messages
        assert message.content == "The beginning\n*(I may not attach files here, so the file is missing.)*"
        await stage.adapter.update(reply)
        assert (message.reference, message.files) == (None, {})


@pytest.mark.fault(19)
async def test_what_comes_after_a_refused_call_waits_with_it_and_other_channels_flow() -> None:
    async with on_stage() as stage:
        question = await stage.ana.says(stage.general, "hello", mention=True)
        elsewhere = await stage.ana.says(stage.server.text_channel("other"), "hello", mention=True)
        await stage.adapter.post(reply_to(question, "hi", reply_id="first"))  # now discord.py knows the rate limits
        stage.server.limits.exhaust(f"POST {POST}", stage.general.id, 1.0)
        posts = [asyncio.create_task(stage.adapter.post(reply_to(question, "hi", reply_id=f"r{n}"))) for n in range(4)]
        await stage.adapter.post(reply_to(elsewhere, "hi", reply_id="other"))
        assert not any(post.done() for post in posts)
        await asyncio.gather(*posts)
        assert len(stage.general.messages) == 5
        assert stage.server.rate_limited == 1
