"""Who says something, with what Discord lets them do there."""

import discord

from adapters.discord.places import Where, is_private
from bot.messages import Person

Interaction = discord.Interaction[discord.Client]


def person(who: discord.User | discord.Member, where: Where) -> Person:
    """The author of a message. In a direct message they manage the conversation, which is theirs alone."""
    if not isinstance(who, discord.Member):
        return Person(str(who.id), who.display_name, manages_channel=is_private(where))
    can = who.guild_permissions
    if not isinstance(where, discord.PartialMessageable | discord.DMChannel | discord.GroupChannel):
        try:
            can = where.permissions_for(who)
        except discord.ClientException:  # a thread whose channel is not known
            can = who.guild_permissions
    return _with(who, can)


def actor(interaction: Interaction) -> Person:
    """Whoever used a command or button."""
    who = interaction.user
    if not isinstance(who, discord.Member):
        return Person(str(who.id), who.display_name, manages_channel=interaction.guild_id is None)
    return _with(who, interaction.permissions)


def _with(who: discord.Member, can: discord.Permissions) -> Person:
    return Person(
        str(who.id),
        who.display_name,
        manages_channel=can.manage_channels or can.manage_messages,
        manages_workspace=can.manage_guild or can.administrator,
        groups=tuple(str(role.id) for role in who.roles if not role.is_default()),
    )
