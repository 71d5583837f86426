"""Who the bot is on Slack: what auth.test says, kept for everybody who has to know."""

from collections.abc import Callable
from dataclasses import dataclass

PLATFORM = "slack"


@dataclass(frozen=True, slots=True)
class BotIdentity:
    """The bot in its workspace. `team_id` and `team` are the workspace's id and name, `url` its address.

    `app_id` is '' where nothing told it. `scopes` are what the bot token may do.
    """

    team_id: str
    team: str
    url: str
    user_id: str
    bot_id: str
    app_id: str
    scopes: frozenset[str]


GetIdentity = Callable[[], BotIdentity]
"""Tells who the bot is. Raises RetryLater before that is known."""
