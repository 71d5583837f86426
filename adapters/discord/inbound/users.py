"""Translates Discord's users and members into our Person, with their permissions in a channel."""

import discord

from adapters.discord.channels import MessageChannel, is_private
from bot.types.messages import Person

Interaction = discord.Interaction[discord.Client]


def person(member: discord.User | discord.Member, channel: MessageChannel) -> Person:
    """The author of a message, who manages the channel if it is a direct conversation."""
    # discord.py makes members without a guild where the event names none, or one that is not cached.
    if not isinstance(member, discord.Member) or getattr(member, "guild", None) is None:
        return Person(str(member.id), member.display_name, manages_channel=is_private(channel))
    permissions = member.guild_permissions
    if not isinstance(channel, discord.PartialMessageable | discord.DMChannel | discord.GroupChannel):
        try:
            permissions = channel.permissions_for(member)
        except discord.ClientException:  # a thread whose parent is not cached
            permissions = member.guild_permissions
    return _with_permissions(member, permissions)


def actor(interaction: Interaction) -> Person:
    """The user of a command or a button."""
    member = interaction.user
    if not isinstance(member, discord.Member):
        return Person(str(member.id), member.display_name, manages_channel=interaction.guild_id is None)
    return _with_permissions(member, interaction.permissions)


def _with_permissions(member: discord.Member, permissions: discord.Permissions) -> Person:
    return Person(
        str(member.id),
        member.display_name,
        manages_channel=permissions.manage_channels or permissions.manage_messages,
        manages_workspace=permissions.manage_guild or permissions.administrator,
        groups=tuple(str(role.id) for role in member.roles if not role.is_default()),
    )
