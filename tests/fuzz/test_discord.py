"""Tests malformed Discord events through the real library: each is dropped, and the next valid one is handled."""

import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builders.discord_adapter import DiscordAdapterSetup, run_discord_adapter
from tests.support.builders.discord_messages import BUILD, POLL, STICKER, TEXT_DISPLAYS, forwarded
from tests.support.builders.malformed_json import JUNK, broken
from tests.support.fakes.discord import payloads
from tests.support.fakes.discord.state import Json, Message

EVENTS = {
    "MESSAGE_CREATE": "message",
    "MESSAGE_UPDATE": "message",
    "MESSAGE_DELETE": "deletion",
    "MESSAGE_DELETE_BULK": "deletions",
    "MESSAGE_REACTION_ADD": "deletion",
    "INTERACTION_CREATE": "press",
    "GUILD_CREATE": "guild",
    "CHANNEL_CREATE": "channel",
    "CHANNEL_UPDATE": "channel",
    "THREAD_CREATE": "channel",
    "THREAD_LIST_SYNC": "guild",
    "GUILD_ROLE_UPDATE": "guild",
    "TYPING_START": "deletion",
    "NO_SUCH_EVENT": "message",
}


def samples(setup: DiscordAdapterSetup, message: Message) -> dict[str, Json]:
    """A valid payload of each kind."""
    bot, guild = setup.server.bot, setup.general.guild
    assert guild is not None
    whole = payloads.event_message(message, bot, True)
    place = {"channel_id": setup.general.id, "guild_id": guild.id, "user_id": setup.ana.id}
    other = payloads.guild(guild, [setup.general], bot, False) | {"id": "77", "name": "another"}
    press = {
        "id": "99",
        "application_id": bot.id,
        "type": 3,
        "token": "t" * 40,
        "version": 1,
        "message": whole,
        "data": {"custom_id": f"ih:regenerate:{'a' * 20}:{'0' * 32}", "component_type": 2},
        "member": payloads.member(setup.ana.user, guild),
        "channel": payloads.channel(setup.general),
        **place,
    }
    return {
        "message": whole,
        "deletion": {"id": message.id, "message_id": message.id, "timestamp": 1, "emoji": {"name": "x"}, **place},
        "deletions": {"ids": [message.id, "5"], **place},
        "press": press,
        "guild": other | {"guild_id": "77", "role": other["roles"][0]},
        "channel": payloads.channel(setup.general) | {"id": "88", "guild_id": guild.id},
    }


async def good_one_is_served(setup: DiscordAdapterSetup, text: str) -> None:
    """Asserts that a new message arrives in the existing session."""
    said = await setup.ana.says(setup.general, text, mention=True)
    await setup.server.until(lambda: said.id in [getattr(event, "message_id", "") for event in setup.core.events])
    assert len(setup.server.gateway.identifies) == 1
    assert not setup.running.done()


@pytest.mark.fault(44)
@settings(
    max_examples=max(5, settings().max_examples // 10),
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.filter_too_much],  # draws of too much data
)
@given(data=st.data())
async def test_a_malformed_event_costs_itself_only(data: st.DataObject, caplog: pytest.LogCaptureFixture) -> None:
    async with run_discord_adapter() as setup:
        alerts = setup.server.user("alerts", bot=True)
        extra = forwarded("old", embeds=[BUILD]) | {"poll": POLL, "sticker_items": [STICKER]}
        shown = await alerts.says(setup.general, "", embeds=[BUILD], components=TEXT_DISPLAYS, extra=extra)
        files = {"a.txt": b"x"}
        message = await setup.ana.says(setup.general, "a sample", mention=True, files=files, reply_to=shown)
        await setup.core.message()
        right = samples(setup, message)
        for event, kind in data.draw(st.permutations(sorted(EVENTS.items()))):
            for payload in data.draw(st.lists(broken(right[kind]), min_size=1, max_size=3)):
                setup.server.gateway.send(event=event, data=payload)
        await good_one_is_served(setup, "and a good one")
    wrong = [record for record in caplog.records if "could not be handled" in record.getMessage()]
    assert not wrong, "\n".join(logging.Formatter().format(record) for record in wrong)


@pytest.mark.fault(44)
@pytest.mark.parametrize(
    "wrong",
    [
        {"content": 0},
        {"content": None},
        {"attachments": [{"id": "5", "filename": 7, "size": 3, "url": "https://cdn", "proxy_url": "https://cdn"}]},
        {"attachments": [{"id": "5", "filename": "a.txt", "size": 3, "url": 7, "proxy_url": "https://cdn"}]},
        {
            "attachments": [
                {"id": "5", "filename": "a.txt", "size": "3", "url": "https://cdn", "proxy_url": "https://cdn"}
            ]
        },
    ],
)
async def test_nor_does_a_text_that_is_none(wrong: Json, caplog: pytest.LogCaptureFixture) -> None:
    """discord.py accepts these, and later readers would fail."""
    async with run_discord_adapter() as setup:
        message = await setup.ana.says(setup.general, "a sample", mention=True)
        await setup.core.message()
        payload = samples(setup, message)["message"] | {"id": str(int(message.id) + 1)} | wrong
        for event in ("MESSAGE_CREATE", "MESSAGE_UPDATE"):
            setup.server.gateway.send(event=event, data=payload)
        await good_one_is_served(setup, "and a good one")
    assert "could not be handled" not in caplog.text
    assert caplog.text.count("cannot be read") == 2


@pytest.mark.fault(44)
@settings(max_examples=max(3, settings().max_examples // 20))
@given(st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), JUNK), max_size=30))
async def test_nor_does_one_that_is_no_object(junk: list[tuple[str, Any]]) -> None:
    async with run_discord_adapter() as setup:
        for event, payload in junk:
            setup.server.gateway.send(event=event, data=payload)
        await good_one_is_served(setup, "a good one")


@pytest.mark.fault(44)
async def test_what_cannot_be_read_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with run_discord_adapter() as setup:
        setup.server.gateway.send(event="MESSAGE_CREATE", data={"id": "nonsense"})
        await good_one_is_served(setup, "a good one")
    assert "A Discord event (MESSAGE_CREATE) cannot be read (" in caplog.text
