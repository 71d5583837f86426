"""Tests `inhouse discord-invite`: the link, the steps, and errors about a token."""

import asyncio
from urllib.parse import parse_qs, urlsplit

import pytest

from adapters.discord.setup.invite import invitation, invite_link
from bot.config.settings import Settings
from bot.types.errors import AdapterError, ConfigError
from tests.support.builders.discord_adapter import settings_of
from tests.support.fakes.discord import Can, FakeDiscord

NEEDED = (
    Can.VIEW_CHANNEL
    | Can.SEND_MESSAGES
    | Can.SEND_MESSAGES_IN_THREADS
    | Can.CREATE_PUBLIC_THREADS
    | Can.READ_MESSAGE_HISTORY
    | Can.ATTACH_FILES
)


async def test_the_link_asks_for_what_is_needed_and_no_more() -> None:
    async with FakeDiscord() as server:
        text = await asyncio.to_thread(invitation, settings_of(server), server.connector)
        (link,) = [word for word in text.split() if "oauth2" in word]
        assert await asyncio.to_thread(invite_link, settings_of(server), server.connector) == link
        asked = parse_qs(urlsplit(link).query)
        assert asked["client_id"] == [server.application_id]
        assert asked["scope"] == ["bot applications.commands"]
        assert int(asked["permissions"][0]) == int(NEEDED)
        assert "is on at" in text
        assert not server.gateway.identifies


async def test_the_switch_for_the_intent_is_named_while_it_is_off() -> None:
    async with FakeDiscord(message_content=False) as server:
        text = await asyncio.to_thread(invitation, settings_of(server), server.connector)
        assert "switch on 'Message Content Intent'" in text
        assert f"https://discord.com/developers/applications/{server.application_id}/bot" in text


async def test_mistakes_are_reported_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="no DISCORD_BOT_TOKEN"):
        invitation(Settings())
    async with FakeDiscord() as server:
        with pytest.raises(ConfigError, match="Reset Token"):
            await asyncio.to_thread(invitation, settings_of(server, discord_bot_token="wrong"), server.connector)
        server.faults.drop("GET", "/users/@me", applied=False, times=2)  # aiohttp retries a GET once
        with pytest.raises(AdapterError, match="could not be reached"):
            await asyncio.to_thread(invitation, settings_of(server), server.connector)
