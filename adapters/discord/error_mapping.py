"""Maps discord.py's exceptions to our errors: RetryLater, Gone, Rejected or OutcomeUnknown."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import discord

from adapters.discord.request_limits import request_timeout
from bot.types.errors import AdapterError, FatalAdapterError, Gone, OutcomeUnknown, Rejected, RetryLater

RETRY_S = 2.0
"""Seconds until the next try where Discord does not say."""
REFUSAL_RETRY_S = 60.0
"""Seconds until the next try after refusals that count against the bot."""

PORTAL = "https://discord.com/developers/applications"

SHARD_CLOSES = (4010, 4011)
"""Close codes after which another number of shards may help."""
FATAL_CLOSES = {
    4004: "Discord refused the bot's token: make a new one at {bot} ('Reset Token') and put it into DISCORD_BOT_TOKEN.",
    4010: "Discord refused the shard that was asked for, and recommends no other; start Inhouse again later.",
    4011: "Discord wants more shards than it recommends, since the bot is in too many servers; take it out of some.",
    4012: "Discord no longer speaks the version of its gateway that discord.py uses; install a newer Inhouse.",
    4013: "Discord does not know an intent that was asked for; install a newer Inhouse.",
    4014: "Discord refused the message content intent: switch on 'Message Content Intent' at {bot} and start again.",
}
"""The errors for close codes after which reconnecting cannot help."""


def portal_page(application_id: int | None) -> str:
    """The page where a bot's token and intents are set."""
    return f"{PORTAL}/{application_id}/bot" if application_id else PORTAL


def fatal_error(error: BaseException, application_id: int | None = None) -> FatalAdapterError | None:
    """The error with its fix where reconnecting cannot help, else None."""
    code = 0
    if isinstance(error, discord.LoginFailure):
        code = 4004
    elif isinstance(error, discord.PrivilegedIntentsRequired):
        code = 4014
    elif isinstance(error, discord.ConnectionClosed):
        code = error.code
    sentence = FATAL_CLOSES.get(code)
    return FatalAdapterError(sentence.format(bot=portal_page(application_id))) if sentence else None


@asynccontextmanager
async def mapped_errors(*, posting: bool = False) -> AsyncIterator[None]:
    """Around calls to Discord. `posting`: a repeated call would be visible, so a lost answer is an OutcomeUnknown."""
    try:
        async with request_timeout():
            yield
    except (discord.DiscordException, aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _to_adapter_error(error, posting) from error
    except RuntimeError as error:
        if "closed" not in str(error):  # the client was closed and is being replaced
            raise
        raise RetryLater(1.0, "Discord is being reconnected") from error


def _to_adapter_error(error: Exception, posting: bool) -> AdapterError:
    if isinstance(error, discord.RateLimited):
        return RetryLater(error.retry_after, "Discord limits the rate")
    if isinstance(error, aiohttp.ClientConnectorError):
        return RetryLater(RETRY_S, "Discord cannot be reached")
    if isinstance(error, discord.HTTPException) and error.status < 500:
        return _refusal(error)
    if posting:
        return OutcomeUnknown("Discord's answer to a post did not arrive")
    return RetryLater(RETRY_S, "Discord does not answer")


def _refusal(error: discord.HTTPException) -> AdapterError:
    if error.status == 404:
        return Gone("The message or its channel is not on Discord any more.")
    if error.status == 403:
        return Rejected(f"Discord does not allow it here ({error.code}: {error.text}).")
    if error.status in (401, 429):
        return RetryLater(REFUSAL_RETRY_S, f"Discord answers with {error.status}")
    return Rejected(f"Discord refused the message ({error.code}: {error.text}).")
