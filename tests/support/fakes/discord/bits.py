"""The bit sets of Discord that the fake knows: permissions (`Can`), gateway intents, and the application's flags."""

from enum import IntFlag


class Can(IntFlag):
    """Discord's permission bits that a chat bot needs."""

    NOTHING = 0
    ADMINISTRATOR = 1 << 3
    MANAGE_CHANNELS = 1 << 4
    MANAGE_GUILD = 1 << 5
    ADD_REACTIONS = 1 << 6
    VIEW_CHANNEL = 1 << 10
    SEND_MESSAGES = 1 << 11
    MANAGE_MESSAGES = 1 << 13
    EMBED_LINKS = 1 << 14
    ATTACH_FILES = 1 << 15
    READ_MESSAGE_HISTORY = 1 << 16
    MENTION_EVERYONE = 1 << 17
    USE_APPLICATION_COMMANDS = 1 << 31
    MANAGE_THREADS = 1 << 34
    CREATE_PUBLIC_THREADS = 1 << 35
    SEND_MESSAGES_IN_THREADS = 1 << 38


EVERYBODY_CAN = (
    Can.VIEW_CHANNEL
    | Can.SEND_MESSAGES
    | Can.READ_MESSAGE_HISTORY
    | Can.ADD_REACTIONS
    | Can.EMBED_LINKS
    | Can.ATTACH_FILES
    | Can.USE_APPLICATION_COMMANDS
    | Can.CREATE_PUBLIC_THREADS
    | Can.SEND_MESSAGES_IN_THREADS
)
ALL_PERMISSIONS = Can(~0 & (1 << 50) - 1)


class Intents(IntFlag):
    """The bits of IDENTIFY's `intents` for which the fake has events, and the privileged ones."""

    GUILDS = 1 << 0
    GUILD_MEMBERS = 1 << 1
    GUILD_PRESENCES = 1 << 8
    GUILD_MESSAGES = 1 << 9
    GUILD_MESSAGE_REACTIONS = 1 << 10
    DIRECT_MESSAGES = 1 << 12
    DIRECT_MESSAGE_REACTIONS = 1 << 13
    MESSAGE_CONTENT = 1 << 15

    def messages(self, in_guild: bool) -> bool:
        """Whether the session gets message events of servers, or of direct messages."""
        return bool(self & (Intents.GUILD_MESSAGES if in_guild else Intents.DIRECT_MESSAGES))

    def reactions(self, in_guild: bool) -> bool:
        """Whether the session gets reaction events of servers, or of direct messages."""
        return bool(self & (Intents.GUILD_MESSAGE_REACTIONS if in_guild else Intents.DIRECT_MESSAGE_REACTIONS))


PRIVILEGED = Intents.GUILD_MEMBERS | Intents.GUILD_PRESENCES | Intents.MESSAGE_CONTENT
HIGHEST = 1 << 26
"""This bit and higher ones make an IDENTIFY invalid (4013)."""

GATEWAY_GUILD_MEMBERS_LIMITED = 1 << 15
GATEWAY_MESSAGE_CONTENT_LIMITED = 1 << 19


def granted(message_content: bool, members: bool) -> Intents:
    """The privileged intents that the portal's switches allow."""
    allowed = Intents(0)
    if message_content:
        allowed |= Intents.MESSAGE_CONTENT
    if members:
        allowed |= Intents.GUILD_MEMBERS
    return allowed


def application_flags(message_content: bool, members: bool) -> int:
    """The application's flags for these switches (the `limited` kind: bots in fewer than 100 servers)."""
    content = GATEWAY_MESSAGE_CONTENT_LIMITED if message_content else 0
    return content | (GATEWAY_GUILD_MEMBERS_LIMITED if members else 0)
