"""Who is served, and where: INHOUSE_ALLOW and INHOUSE_DENY. Pure.

An id in them is that of a person, a role, a channel, a thread or a server. Whoever matches the deny list is not served;
where there is an allow list, only who matches it is.
"""

from bot.config.settings import Settings
from bot.types.messages import ConversationKey, Person

NOT_SERVED = "I am not set up to answer you here. Ask the operator of this bot."


def is_served(settings: Settings, key: ConversationKey, person: Person) -> bool:
    """Whether this person is answered in this place."""
    ids = (person.id, *person.groups, key.channel, key.thread, key.workspace)
    names = {(key.platform, name) for name in ids if name}
    return not names & settings.deny and (not settings.allow or bool(names & settings.allow))
