"""The text of `inhouse discord-invite`: a link that invites the bot with the fewest permissions, and the steps."""

import asyncio

import aiohttp
import discord

from adapters.discord.error_mapping import fatal_error, portal_page
from adapters.discord.gateway.gateway import ConnectorFactory, proxy_for
from bot.config.settings import Settings
from bot.types.errors import AdapterError, ConfigError

PERMISSIONS = discord.Permissions(
    view_channel=True,
    send_messages=True,
    send_messages_in_threads=True,
    create_public_threads=True,
    read_message_history=True,
    attach_files=True,
)
"""The permissions that the bot needs: reading and answering (in threads, too), opening threads, sending files."""


def invitation(settings: Settings, connect: ConnectorFactory | None = None) -> str:
    """The link and the steps. Raises ConfigError (no token, or a refused one) or AdapterError."""
    return _text(*_application(settings, connect), settings)


def invite_link(settings: Settings, connect: ConnectorFactory | None = None) -> str:
    """The link alone. Raises what `invitation` raises."""
    return _link(_application(settings, connect)[0])


def _application(settings: Settings, connect: ConnectorFactory | None) -> tuple[int, bool]:
    """The application's id, and whether 'Message Content Intent' is on."""
    if settings.discord_bot_token is None:
        raise ConfigError(
            f"There is no DISCORD_BOT_TOKEN: make an application at {portal_page(None)}, copy its token from the page "
            "'Bot' ('Reset Token') and set it."
        )
    return asyncio.run(_fetch_application(settings, settings.discord_bot_token.get_secret_value(), connect))


async def _fetch_application(settings: Settings, token: str, connect: ConnectorFactory | None) -> tuple[int, bool]:
    client = discord.Client(
        intents=discord.Intents(guilds=True),
        connector=connect() if connect else None,
        proxy=proxy_for(settings),
    )
    async with client:
        try:
            await client.login(token)
        except (discord.DiscordException, aiohttp.ClientError, OSError) as error:
            if refusal := fatal_error(error):
                raise ConfigError(str(refusal)) from error
            raise AdapterError("Discord could not be reached; try again, or set INHOUSE_DISCORD_PROXY.") from error
        flags = client.application_flags
        reads_all = flags.gateway_message_content or flags.gateway_message_content_limited
        return client.application_id or 0, bool(reads_all)


def _link(application_id: int) -> str:
    return discord.utils.oauth_url(application_id, permissions=PERMISSIONS, scopes=("bot", "applications.commands"))


def _text(application_id: int, reads_all: bool, settings: Settings) -> str:
    link = _link(application_id)
    page = portal_page(application_id)
    if reads_all:
        intent = f"'Message Content Intent' is on at {page}, so the bot follows threads without a mention."
    else:
        intent = (
            f"At {page}, under 'Privileged Gateway Intents', switch on 'Message Content Intent' and save. (Without it "
            "mentions, direct messages and slash commands work, but in threads the bot has to be mentioned each time.)"
        )
    thread = "" if settings.reply_in_thread else " (it opens threads only if INHOUSE_REPLY_IN_THREAD is set)"
    return "\n".join(
        [
            f"1. {intent}",
            f"2. Open this link, choose your server and press 'Authorize'{thread}:",
            f"   {link}",
            "3. Start the bot with 'inhouse run', and mention it in a channel.",
        ]
    )
