"""Converts a Discord message to plain text: names instead of ids, without the mention that addresses the bot."""

import re
from collections.abc import Iterable

import discord

_TOKEN = re.compile(r"<(?:@!?(?P<user>\d++)|@&(?P<role>\d++)|#(?P<channel>\d++)|a?(?P<emoji>:\w++:)\d++)>")


def plain_text(message: discord.Message, mentions: Iterable[str] = ()) -> str:
    """Return a message's text. `mentions`: those of the bot, which are stripped from its beginning."""
    either = "|".join(map(re.escape, mentions)) or "(?!)"
    text = re.sub(rf"\A(?:(?:{either})[ ,:\n\t]*+)++", "", message.content.strip())
    users = {user.id: user.display_name for user in message.mentions}
    guild = message.guild

    def name(found: re.Match[str]) -> str:
        if found["emoji"]:
            return found["emoji"]
        if found["user"]:
            return f"@{users.get(int(found['user']), 'someone')}"
        if found["role"]:
            role = guild.get_role(int(found["role"])) if guild else None
            return f"@{role.name if role else 'a role'}"
        channel = guild.get_channel_or_thread(int(found["channel"])) if guild else None
        return f"#{channel.name if channel else 'a channel'}"

    return _TOKEN.sub(name, text).strip()


def bot_mentions(me: discord.ClientUser, guild: discord.Guild | None) -> tuple[str, ...]:
    """Mentions that address the bot: its user mention, and that of the role that Discord gave it."""
    role = guild.self_role if guild else None
    return (f"<@{me.id}>", f"<@!{me.id}>", *([role.mention] if role else []))
