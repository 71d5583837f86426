"""The table of rights: who is served, and who may do what; pure.

Every command, button and menu entry of every platform asks it, and nothing else decides. SECURITY.md shows it, too.
"""

from collections.abc import Collection, Set
from enum import StrEnum

from bot.types.messages import ActionKind, ConversationKey, Person

NOT_SERVED = "I am not set up to answer you here. Ask the operator of this bot."

Ids = Set[tuple[str, str]]
"""Pairs of platform and id."""


class Who(StrEnum):
    """Groups of users.

    Admins: admins of the server or workspace, and INHOUSE_ADMINS. Channel managers: users who can manage the channel or
    its messages, the person of a direct conversation, and admins. Owners: those whose question, answer or thread it is,
    and channel managers.
    """

    EVERYONE = "everyone"
    OWNERS = "owners"
    CHANNEL = "channel managers"
    ADMINS = "admins"


class Act(StrEnum):
    """What a command, a button or a menu entry does."""

    READ = "read"  # help, status, settings, why, export, thoughts; a setting's value
    ASK = "ask"  # also 'Answer this' on anybody's message
    RATE = "rate"
    STOP = "stop"
    REPEAT = "repeat"  # regenerate, continue and rerun
    UNDO = "undo"
    FORGET = "forget"  # one's own messages, or one message by its menu
    FORGET_ALL = "forget all"
    RESET = "reset"
    TUNE = "tune"  # temperature, lengths, instructions
    CHANGE_MODEL = "change model"


RIGHTS = {
    Act.READ: Who.EVERYONE,
    Act.ASK: Who.EVERYONE,
    Act.RATE: Who.EVERYONE,
    Act.STOP: Who.OWNERS,
    Act.REPEAT: Who.OWNERS,
    Act.UNDO: Who.OWNERS,
    Act.FORGET: Who.OWNERS,
    Act.FORGET_ALL: Who.CHANNEL,
    Act.RESET: Who.OWNERS,
    Act.TUNE: Who.CHANNEL,
    Act.CHANGE_MODEL: Who.ADMINS,
}

ACT_OF_BUTTON = {
    ActionKind.STOP: Act.STOP,
    ActionKind.REGENERATE: Act.REPEAT,
    ActionKind.CONTINUE: Act.REPEAT,
    ActionKind.RERUN: Act.REPEAT,
    ActionKind.THOUGHTS: Act.READ,
    ActionKind.GOOD: Act.RATE,
    ActionKind.BAD: Act.RATE,
}


def may(act: Act, actor: Person, platform: str, admins: Ids, owners: Collection[str] = ()) -> bool:
    """Whether a user may do something. `admins`: INHOUSE_ADMINS; `owners`: ids of those whose it is."""
    who = RIGHTS[act]
    if who is Who.EVERYONE or actor.manages_workspace or (platform, actor.id) in admins:
        return True
    if who is Who.ADMINS:
        return False
    return actor.manages_channel or (who is Who.OWNERS and actor.id in owners)


def is_served(allow: Ids, deny: Ids, key: ConversationKey, person: Person) -> bool:
    """Whether the bot answers this user in this conversation, by INHOUSE_ALLOW and INHOUSE_DENY.

    Both hold ids of users, roles, channels, threads or servers. A match in the deny list refuses; if an allow list is
    set, a match in it is required.
    """
    ids = (person.id, *person.groups, key.channel, key.thread, key.workspace)
    names = {(key.platform, name) for name in ids if name}
    return not names & deny and (not allow or bool(names & allow))
