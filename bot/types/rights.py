"""Decides who is served, by INHOUSE_ALLOW and INHOUSE_DENY; pure.

Both lists hold (platform, id) of users, roles, channels, threads or servers. A match in the deny list refuses; if an
allow list is set, a match in it is required.
"""

from collections.abc import Set

from bot.types.messages import ConversationKey, Person

NOT_SERVED = "I am not set up to answer you here. Ask the operator of this bot."

Ids = Set[tuple[str, str]]
"""Pairs of platform and id."""


def is_served(allow: Ids, deny: Ids, key: ConversationKey, person: Person) -> bool:
    """Whether the bot answers this user in this conversation."""
    ids = (person.id, *person.groups, key.channel, key.thread, key.workspace)
    names = {(key.platform, name) for name in ids if name}
    return not names & deny and (not allow or bool(names & allow))
