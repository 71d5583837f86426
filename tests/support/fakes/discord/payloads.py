"""Converts the fake's state to Discord's JSON. Pure functions that omit what the reader may not see.

Without the message content intent, the content, embeds, attachments and components of a message are empty, except in
direct messages, in messages that mention the bot, and in the bot's own.
"""

from tests.support.fakes.discord.clock import iso
from tests.support.fakes.discord.state import DM, PUBLIC_THREAD, Channel, File, Guild, Json, Message, Role, User

ALWAYS_SHOWN = ("author", "webhook_id", "application_id", "message_reference")
"""Fields that need no message content intent."""
JOINED = "2020-01-01T00:00:00.000000+00:00"


def user(who: User) -> Json:
    """A user."""
    return {
        "id": who.id,
        "username": who.name,
        "global_name": None if who.bot else who.name,
        "discriminator": "0000" if who.bot else "0",
        "avatar": None,
        "bot": who.bot,
        "public_flags": 0,
    }


def member(who: User, guild: Guild, with_user: bool = True) -> Json:
    """A user's membership of a server."""
    data: Json = {
        "roles": sorted(guild.has.get(who.id, ())),
        "joined_at": JOINED,
        "nick": None,
        "avatar": None,
        "premium_since": None,
        "deaf": False,
        "mute": False,
        "pending": False,
        "communication_disabled_until": None,
        "flags": 0,
    }
    return data | {"user": user(who)} if with_user else data


def role(one: Role) -> Json:
    """A role."""
    return {
        "id": one.id,
        "name": one.name,
        "color": 0,
        "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
        "hoist": False,
        "position": 0 if one.name == "@everyone" else 1,
        "permissions": str(int(one.can)),
        "managed": False,
        "mentionable": one.mentionable,
        "flags": 0,
    }


def channel(one: Channel) -> Json:
    """A channel, thread or direct-message channel."""
    last = one.everything[-1].id if one.everything else None
    if one.kind == DM:
        people = [user(one.person)] if one.person else []
        return {"id": one.id, "type": DM, "last_message_id": last, "recipients": people, "flags": 0}
    data: Json = {"id": one.id, "type": one.kind, "name": one.name, "guild_id": one.guild.id if one.guild else None}
    data |= {"last_message_id": last, "rate_limit_per_user": 0, "flags": 0, "nsfw": False}
    if one.kind == PUBLIC_THREAD and one.parent is not None:
        return data | {
            "parent_id": one.parent.id,
            "owner_id": one.owner.id if one.owner else one.bot.id,
            "message_count": len(one.history),
            "member_count": 2,
            "total_message_sent": len(one.everything),
            "thread_metadata": {
                "archived": False,
                "auto_archive_duration": 1440,
                "archive_timestamp": iso(one.created_at),
                "locked": False,
                "create_timestamp": iso(one.created_at),
            },
        }
    exceptions = [
        {"id": who, "type": 1, "allow": str(int(allow)), "deny": str(int(deny))}
        for who, (allow, deny) in one.exceptions.items()
    ]
    return data | {"position": 0, "parent_id": None, "topic": None, "permission_overwrites": exceptions}


def guild(one: Guild, channels: list[Channel], bot: User, all_members: bool) -> Json:
    """A server as in GUILD_CREATE; without the members intent it lists only the bot's own membership."""
    members = one.members.values() if all_members else [bot]
    return {
        "id": one.id,
        "name": one.name,
        "owner_id": one.owner.id,
        "roles": [role(each) for each in one.roles.values()],
        "emojis": [],
        "stickers": [],
        "features": [],
        "icon": None,
        "preferred_locale": "en-US",
        "unavailable": False,
        "large": False,
        "member_count": len(one.members),
        "joined_at": JOINED,
        "members": [member(each, one) for each in members],
        "channels": [channel(each) for each in channels if each.parent is None],
        "threads": [channel(each) for each in channels if each.parent is not None],
        "presences": [],
        "voice_states": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
    }


def ready(bot: User, guild_ids: list[str], session_id: str, resume_url: str, flags: int) -> Json:
    """The first event of a session; the servers follow in separate events."""
    return {
        "v": 10,
        "user": user(bot),
        "guilds": [{"id": each, "unavailable": True} for each in guild_ids],
        "session_id": session_id,
        "session_type": "normal",
        "resume_gateway_url": resume_url,
        "shard": [0, 1],
        "application": {"id": bot.id, "flags": flags},
        "private_channels": [],
    }


def attachment(file: File, channel_id: str) -> Json:
    """A file of a message, with its CDN URL."""
    url = f"https://cdn.discordapp.com/attachments/{channel_id}/{file.id}/{file.name}"
    return {
        "id": file.id,
        "filename": file.name,
        "size": len(file.data),
        "url": url,
        "proxy_url": url.replace("cdn.discordapp.com", "media.discordapp.net"),
        "content_type": file.content_type,
    }


def message(one: Message, bot: User, content: bool, nested: bool = False) -> Json:
    """A message for the bot. `content`: with the message content intent. `nested`: as the referenced_message of
    another."""
    where = one.channel
    shown = content or where.kind == DM or one.author is bot or bot in one.mentions
    version = one.versions[-1]
    data: Json = {
        "id": one.id,
        "channel_id": where.id,
        "type": one.kind,
        "author": user(one.author),
        "content": version.content if shown else "",
        "timestamp": iso(one.created_at),
        "edited_timestamp": iso(one.edited_at) if one.edited_at else None,
        "tts": False,
        "mention_everyone": one.mention_everyone,
        "mentions": [_mentioned(each, where.guild) for each in one.mentions],
        "mention_roles": one.mention_roles,
        "attachments": [attachment(file, where.id) for file in one.attachments] if shown else [],
        "embeds": version.embeds if shown else [],
        "components": version.components if shown else [],
        "pinned": False,
        "flags": one.flags,
    }
    data |= {name: value for name, value in one.extra.items() if shown or name in ALWAYS_SHOWN}
    if one.interaction is not None:
        data |= {"interaction_metadata": one.interaction, "application_id": bot.id, "webhook_id": bot.id}
    if one.thread is not None:
        data["thread"] = channel(one.thread)
    if one.reactions:
        data["reactions"] = [_reaction(emoji, people, bot) for emoji, people in one.reactions.items()]
    if one.reference_id:
        there = one.reference.channel.id if one.reference else where.id
        data["message_reference"] = {"type": 0, "message_id": one.reference_id, "channel_id": there}
        if where.guild is not None:
            data["message_reference"]["guild_id"] = where.guild.id
        if not nested:
            gone = one.reference is None or one.reference.deleted
            data["referenced_message"] = (
                None if gone or not one.reference else message(one.reference, bot, content, True)
            )
    return data


def event_message(one: Message, bot: User, content: bool) -> Json:
    """A message in a gateway event: with its server and its author's membership; the nonce only for its creator."""
    data = message(one, bot, content)
    if one.nonce is not None and one.author is bot:
        data["nonce"] = one.nonce
    if one.channel.guild is not None:
        data["guild_id"] = one.channel.guild.id
        if one.author.id in one.channel.guild.members and "webhook_id" not in one.extra:
            data["member"] = member(one.author, one.channel.guild, with_user=False)
    return data


def _mentioned(who: User, where: Guild | None) -> Json:
    if where is None or who.id not in where.members:
        return user(who)
    return user(who) | {"member": member(who, where, with_user=False)}


def _reaction(emoji: str, people: set[str], bot: User) -> Json:
    return {
        "emoji": {"id": None, "name": emoji},
        "count": len(people),
        "count_details": {"burst": 0, "normal": len(people)},
        "me": bot.id in people,
        "me_burst": False,
        "burst_colors": [],
    }
