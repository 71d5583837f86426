"""The bot's identity on Slack, as auth.test returns it, and the scopes of its token.

Without the scopes that every answer needs the adapter ends with an error that names the page to fix it. Other missing
scopes are logged.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.error_mapping import APPS
from bot.config.settings import Settings
from bot.types.errors import FatalAdapterError

log = logging.getLogger(__name__)

PLATFORM = "slack"

REQUIRED = ("app_mentions:read", "chat:write")
"""Scopes without which the bot cannot receive mentions or answer."""

SCOPES = {
    "app_mentions:read": "receive mentions",
    "assistant:write": "suggest prompts and name threads in the agent view",
    "channels:history": "follow threads of public channels, and read what was said during an outage",
    "channels:read": "know who made a channel, and so may change its settings",
    "chat:write": "answer",
    "commands": "be reached by the slash command and the menu of a message",
    "files:read": "read the text files that a question comes with",
    "files:write": "send long answers and exports as files",
    "groups:history": "do in private channels what channels:history is for",
    "groups:read": "do in private channels what channels:read is for",
    "im:history": "receive direct messages",
    "im:write": "send a file as a direct message",
    "users:read": "know people's names, and who administers the workspace",
}
"""The scopes of the bot token, and what each is for."""


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
"""Returns the identity. Raises NotSent before the first authentication."""


def oauth_page(app_id: str) -> str:
    """The page where an app's scopes are set and where it is reinstalled."""
    return f"{APPS}/{app_id}/oauth" if app_id else APPS


def check_token(answer: AsyncSlackResponse, settings: Settings) -> BotIdentity:
    """The bot's identity. Raises FatalAdapterError for a wrong token or a missing required scope."""
    app_id = str(answer.get("app_id") or "") or app_id_of(settings)
    if not answer.get("bot_id"):
        raise FatalAdapterError(
            f"SLACK_BOT_TOKEN is not the token of a bot: take the one that begins with xoxb- from {oauth_page(app_id)}."
        )
    granted = answer.headers.get("x-oauth-scopes")
    scopes = frozenset(filter(None, map(str.strip, (granted or "").split(","))))
    missing = [scope for scope in REQUIRED if scope not in scopes]
    if missing and granted is not None:
        raise FatalAdapterError(
            f"The Slack app lacks the scope{'s' if len(missing) > 1 else ''} {' and '.join(missing)}: add that under "
            f"'Bot Token Scopes' at {oauth_page(app_id)} and install the app again."
        )
    return BotIdentity(
        team_id=str(answer.get("team_id") or ""),
        team=str(answer.get("team") or ""),
        url=str(answer.get("url") or ""),
        user_id=str(answer.get("user_id") or ""),
        bot_id=str(answer.get("bot_id")),
        app_id=app_id,
        scopes=scopes,
    )


def warn_missing_scopes(identity: BotIdentity) -> None:
    """Log what the bot cannot do without its missing scopes."""
    for scope, purpose in SCOPES.items():
        if scope not in identity.scopes:
            log.warning("Without the scope %s I cannot %s. Add it at %s.", scope, purpose, oauth_page(identity.app_id))


def app_id_of(settings: Settings) -> str:
    """The app's id, which is a part of its app-level token; '' if there is none."""
    token = settings.slack_app_token
    parts = token.get_secret_value().split("-") if token else []
    return parts[2] if len(parts) > 3 and parts[0] == "xapp" and parts[2].startswith("A") else ""
