"""What the bot's token may do, and what is to be said where that is too little.

In: the answer to auth.test. Out: who the bot is. It promises: without what no answer is possible the adapter ends, with
the page that cures it; what only takes something away is told once.
"""

import logging

from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.failures import APPS
from adapters.slack.me import BotIdentity
from bot.config import Settings
from bot.errors import FatalAdapterError

log = logging.getLogger(__name__)

REQUIRED = ("app_mentions:read", "chat:write")
"""Without these there is nothing to hear, or nothing can be said."""

SCOPES = {
    "app_mentions:read": "hear that I am mentioned",
    "assistant:write": "suggest prompts and name threads in the agent view",
    "channels:history": "follow threads of public channels, and read what was said during an outage",
    "channels:read": "know who made a channel, and so may change its settings",
    "chat:write": "answer",
    "commands": "be reached by the slash command and the menu of a message",
    "files:read": "read the text files that a question comes with",
    "files:write": "send long answers and exports as files",
    "groups:history": "do in private channels what channels:history is for",
    "groups:read": "do in private channels what channels:read is for",
    "im:history": "hear direct messages",
    "im:write": "send a file as a direct message",
    "users:read": "know people's names, and who administers the workspace",
}
"""All that the bot's token is to be allowed to do, and what for."""


def oauth_page(app_id: str) -> str:
    """Where an app's scopes are set, and where it is installed again."""
    return f"{APPS}/{app_id}/oauth" if app_id else APPS


def check_token(answer: AsyncSlackResponse, settings: Settings) -> BotIdentity:
    """Who the bot is. Raises FatalAdapterError."""
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
    """Say what the bot cannot do for want of a scope."""
    for scope, purpose in SCOPES.items():
        if scope not in identity.scopes:
            log.warning(
                "Without the scope %s I cannot %s; it can be added at %s.", scope, purpose, oauth_page(identity.app_id)
            )


def app_id_of(settings: Settings) -> str:
    """The app's id, which its app-level token begins with."""
    token = settings.slack_app_token
    parts = token.get_secret_value().split("-") if token else []
    return parts[2] if len(parts) > 3 and parts[0] == "xapp" and parts[2].startswith("A") else ""
