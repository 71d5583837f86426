"""The bot's identity on Slack, as auth.test returns it."""

from collections.abc import Callable
from dataclasses import dataclass

PLATFORM = "slack"


@dataclass(frozen=True, slots=True)
class BotIdentity:
    """The bot in its workspace. `team_id`, `team` and `url` are the workspace's id, name and address.

    `app_id` is '' if unknown. `scopes` are those of the bot token.
    """

    team_id: str
    team: str
    url: str
    user_id: str
    bot_id: str
    app_id: str
    scopes: frozenset[str]


GetIdentity = Callable[[], BotIdentity]
"""Returns the identity. Raises RetryLater before the first authentication."""
