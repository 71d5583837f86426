"""Tests posts and edits whose responses are lost, late or refused: the message is found again and exists once."""

import asyncio
from dataclasses import replace

import pytest

from bot.types.errors import OutcomeUnknown, Rejected, RetryLater
from tests.support.builders.discord_adapter import BUTTONS, QUICK, reply_to, run_discord_adapter

POST, EDIT = "/channels/{channel_id}/messages", "/channels/{channel_id}/messages/{message_id}"
TYPING = "/channels/{channel_id}/typing"
EVIL = "@everyone @here <@{user}> <@&{role}> see https://example.com/x"


async def test_a_post_that_is_repeated_is_one_message() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "hi")
        setup.server.faults.drop("POST", POST, applied=True)
        with pytest.raises(OutcomeUnknown):
            await setup.adapter.post(reply)
        assert await setup.adapter.post(reply) == setup.general.messages[0].id
        assert len(setup.general.messages) == 1


async def test_a_message_that_cannot_be_edited_is_replaced_by_another() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "hi")
        first = await setup.adapter.post(reply)
        setup.server.faults.answer("PATCH", EDIT, status=403, code=50005)
        with pytest.raises(Rejected):
            await setup.adapter.update(replace(reply, committed="hi there", platform_id=first))
        second = await setup.adapter.post(replace(reply, committed="hi there"))
        assert [message.content for message in setup.general.messages] == ["hi", "hi there"]
        assert second == setup.general.messages[1].id


async def test_a_lost_answer_to_a_post_is_unknown_and_the_message_is_found() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "hi")
        setup.server.faults.drop("POST", POST, applied=True)
        with pytest.raises(OutcomeUnknown):
            await setup.adapter.post(reply)
        assert await setup.adapter.find_posted(reply) == setup.general.messages[0].id
        assert await setup.adapter.find_posted(replace(reply, request_id="another")) is None


async def test_a_lost_answer_to_an_edit_is_tried_again_later() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "hi")
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        setup.server.faults.drop("PATCH", EDIT, applied=False)
        with pytest.raises(RetryLater):
            await setup.adapter.update(reply)


async def test_parts_are_found_after_a_restart_in_a_busy_channel() -> None:
    async with run_discord_adapter() as setup:
        server, general = setup.server, setup.general
        server.limits.set(f"GET {POST}", 1000, 1)
        server.limits.set(f"POST {POST}", 1000, 1)
        question = await setup.ana.says(general, "hello", mention=True)
        noise = await setup.ana.says(general, "me too", mention=True)
        parts = [
            reply_to(question, f"{n}", part=n, reply_id=f"r{n}", buttons=BUTTONS if n == 0 else ()) for n in range(3)
        ]
        ids = [await setup.adapter.post(parts[0])]
        await setup.adapter.post(reply_to(noise, "other", request_id="other", reply_id="o"))
        ids += [await setup.adapter.post(part) for part in parts[1:]]
        for number in range(350):
            await setup.ben.says(general, f"noise {number}")
        async with run_discord_adapter(server) as again:
            assert [await again.adapter.find_posted(part) for part in parts] == ids
            fourth = reply_to(question, "3", part=3, reply_id="r3", buttons=())
            assert await again.adapter.find_posted(fourth) is None
            await again.adapter.post(fourth)
            assert general.messages[-1].reference is general.messages[-2]
            assert general.messages[-2].id == ids[2]


async def test_parts_that_all_have_stop_are_found_after_a_restart() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        parts = [reply_to(question, f"{n}", part=n, reply_id=f"r{n}") for n in range(3)]
        ids = [await setup.adapter.post(part) for part in parts]
        async with run_discord_adapter(setup.server) as again:
            assert [await again.adapter.find_posted(part) for part in parts] == ids


async def test_nothing_is_posted_while_no_platform_is_connected() -> None:
    async with run_discord_adapter() as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
    with pytest.raises(RetryLater):
        await setup.adapter.post(reply_to(question, "hi"))


async def test_a_request_that_gets_no_answer_is_given_up_and_one_that_waits_its_turn_is_not() -> None:
    async with run_discord_adapter(timing=replace(QUICK, answer=0.3)) as setup:
        question = await setup.ana.says(setup.general, "hello", mention=True)
        reply = reply_to(question, "hi")
        frozen = setup.server.faults.freeze("POST", POST)
        with pytest.raises(OutcomeUnknown):
            await setup.adapter.post(reply)
        frozen.release()
        reply = replace(reply, platform_id=await setup.adapter.post(reply))
        frozen = setup.server.faults.freeze("PATCH", EDIT)
        with pytest.raises(RetryLater):
            await setup.adapter.update(reply)
        frozen.release()
        setup.server.limits.exhaust(f"PATCH {EDIT}", setup.general.id, 1.0)
        await setup.adapter.update(replace(reply, committed="hi there"))
        assert setup.general.messages[0].content == "hi there"


async def test_sixty_channels_at_once_stay_below_the_limit_for_all_of_them() -> None:
    async with run_discord_adapter() as setup:
        asked = [await setup.ana.says(setup.server.text_channel(f"c{number}"), "hello") for number in range(60)]
        replies = [reply_to(question, "hi", reply_id=f"r{number}") for number, question in enumerate(asked)]
        await asyncio.gather(*(setup.adapter.post(reply) for reply in replies))
        assert all(len(question.channel.messages) == 1 for question in asked)
        assert setup.server.rate_limited == 0


async def test_requests_that_a_slow_line_brings_in_a_bunch_stay_below_it_too() -> None:
    async with run_discord_adapter() as setup:
        asked = [await setup.ana.says(setup.server.text_channel(f"c{number}"), "hello") for number in range(90)]
        replies = [reply_to(question, "hi", reply_id=f"r{number}") for number, question in enumerate(asked)]
        slow = setup.server.faults.freeze("POST", POST, times=30)
        asyncio.get_running_loop().call_later(1.0, slow.release)
        await asyncio.gather(*(setup.adapter.post(reply) for reply in replies))
        assert all(len(question.channel.messages) == 1 for question in asked)
        assert setup.server.rate_limited == 0
