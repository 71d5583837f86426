"""Converts what a person sees of a Discord message to Markdown: names instead of ids, without the mention of the bot.

Besides its text a message may hold a forwarded message, embeds, components, a poll and stickers.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import discord

MAX_CHARS = 12_000
"""Maximum length of a message as text: Discord's limits for a text with embeds add up to 10,000."""

BESIDE_MENTIONS = " ,:\n\t"
"""Characters between a mention of the bot and the text."""

POLL_RESULT = "poll_result"
_TOKEN = re.compile(r"<(?:@!?(?P<user>\d++)|@&(?P<role>\d++)|#(?P<channel>\d++)|a?(?P<emoji>:\w++:)\d++)>")


def own_text(message: discord.Message, mentions: Iterable[str] = ()) -> str:
    """Return the text that the author typed. `mentions`: those of the bot, which are stripped from both ends."""
    text, ends = _without_mentions(message.content, mentions), tuple(mentions)
    end = len(text.rstrip(BESIDE_MENTIONS))
    while found := next((each for each in ends if text.endswith(each, 0, end)), ""):
        end -= len(found)
        while end and text[end - 1] in BESIDE_MENTIONS:
            end -= 1
    return _named(message, text[:end]).strip()


def visible_text(message: discord.Message, mentions: Iterable[str] = ()) -> str:
    """Return all text that a person sees of a message, each text once, at most MAX_CHARS characters."""
    is_bot = message.author.bot or message.webhook_id is not None
    # A person's embeds are previews, whose text is not the person's; except the result of a poll.
    embeds = [each for each in message.embeds if is_bot or each.type == POLL_RESULT]
    blocks = [[_without_mentions(message.content, mentions)], *_blocks(message, embeds)]
    for snapshot in message.message_snapshots:
        # Its author is unknown, so a preview is recognized by its address.
        embeds = [each for each in snapshot.embeds if not each.url or each.url not in snapshot.content]
        blocks += [[snapshot.content], *_blocks(snapshot, embeds)]
    if message.poll:
        blocks.append(list(_poll(message.poll)))
    text = _named(message, "\n\n".join(filter(None, map("\n".join, _once(blocks)))))
    text = text.strip()
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS - 1]}…"


def bot_mentions(me: discord.ClientUser, guild: discord.Guild | None) -> tuple[str, ...]:
    """Mentions that address the bot: its user mention, and that of the role that Discord gave it."""
    role = guild.self_role if guild else None
    return (f"<@{me.id}>", f"<@!{me.id}>", *([role.mention] if role else []))


def _without_mentions(text: str, mentions: Iterable[str]) -> str:
    either = "|".join(map(re.escape, mentions)) or "(?!)"
    return re.sub(rf"\A(?:(?:{either})[ ,:\n\t]*+)++", "", text.strip())


def _named(message: discord.Message, text: str) -> str:
    """Replace the ids of users, roles, channels and emoji in a text by their names."""
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

    return _TOKEN.sub(name, text)


def _blocks(content: discord.Message | discord.MessageSnapshot, embeds: Iterable[discord.Embed]) -> Iterator[list[str]]:
    """The blocks of lines besides a message's text."""
    yield from ([each] for each in _component_texts(content.components))
    for embed in embeds:
        embed.timestamp = None  # to_dict fails on dates that UTC cannot represent
        if embed.type == POLL_RESULT:
            yield list(_poll_result(embed.to_dict()))
        elif embed.type == "rich":  # Discord makes the other types, as previews of links
            yield list(_embed(embed.to_dict()))
    yield [f"(Sticker: {each.name})" for each in content.stickers]


def _embed(embed: Mapping[str, object]) -> Iterator[str]:
    """The lines of an embed, which is read as JSON, since discord.py does not check its types."""
    yield _string(embed.get("author"), "name")
    title, url = _string(embed, "title"), _string(embed, "url")
    yield f"**[{title}]({url})**" if title and url else f"**{title}**" if title else ""
    yield _string(embed, "description")
    fields = embed.get("fields")
    for field in fields if isinstance(fields, Sequence) else ():
        name, value = _string(field, "name"), _string(field, "value")
        yield f"**{name}:** {value}" if name and value else name or value
    yield _string(embed.get("footer"), "text")


def _string(data: object, name: str) -> str:
    value = data.get(name) if isinstance(data, Mapping) else None
    return value.strip() if isinstance(value, str) else ""


def _component_texts(components: Sequence[object]) -> Iterator[str]:
    for each in components:
        if isinstance(each, discord.TextDisplay):
            yield str(each.content)  # discord.py does not check its type
        elif isinstance(each, discord.SectionComponent | discord.Container):
            yield from _component_texts(each.children)


def _poll(poll: discord.Poll) -> Iterator[str]:
    yield f"**Poll: {poll.question}**"
    voted = poll.is_finalised() or any(answer.vote_count for answer in poll.answers)
    for answer in poll.answers:
        emoji = f"{answer.emoji} " if answer.emoji else ""
        yield f"- {emoji}{answer.text or ''}" + (f" ({answer.vote_count} votes)" if voted else "")


def _poll_result(embed: Mapping[str, object]) -> Iterator[str]:
    """The lines of the message that Discord adds when a poll ends; its fields have fixed names."""
    fields = embed.get("fields")
    found = {_string(each, "name"): _string(each, "value") for each in (fields if isinstance(fields, Sequence) else ())}
    yield f"**Result of the poll: {found.get('poll_question_text', '')}**"
    total = found.get("total_votes", "0")
    if winner := found.get("victor_answer_text"):
        yield f"{winner}: {found.get('victor_answer_votes', '0')} of {total} votes"
    else:
        yield f"No winner, {total} votes"


def _once(blocks: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """Drop empty lines, and those that repeat an earlier text as a bot's embed often does."""
    seen: set[str] = set()
    for block in blocks:
        lines = [line for line in block if line.strip() and line.strip(" *") not in seen]
        seen |= {line.strip(" *") for line in lines}
        yield lines
