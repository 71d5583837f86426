"""Builds the app's manifest from the table of commands, with the fewest scopes, and the steps to install it."""

import json
from typing import Any
from urllib.parse import quote

from adapters.slack.bot_identity import SCOPES
from adapters.slack.error_mapping import APPS
from adapters.slack.interactions.shortcuts import ANSWER, FORGET
from adapters.slack.outbound.assistant import PROMPTS
from bot.config.settings import Settings

NAME = "Inhouse"
DESCRIPTION = "Answers with your team's own language model."
ABOUT = "Ask anything here, or mention me in a channel."
HINT = ("ask", "model", "think", "settings", "stop", "forget", "help")
"""The commands that the slash command hints at; 'help' shows all."""

EVENTS = ("app_mention", "message.channels", "message.groups", "message.im")
"""The events to subscribe to. Messages in the agent view come as message.im."""

APP_TOKEN_SCOPE = "connections:write"


def manifest(settings: Settings) -> dict[str, Any]:  # Any: JSON
    """The manifest as a JSON object."""
    return {
        "display_information": {"name": NAME, "description": DESCRIPTION, "background_color": "#1f2a44"},
        "features": {
            "agent_view": {"agent_description": ABOUT, "suggested_prompts": [dict(each) for each in PROMPTS]},
            "app_home": {
                "home_tab_enabled": False,
                "messages_tab_enabled": True,
                "messages_tab_read_only_enabled": False,
            },
            "bot_user": {"display_name": NAME, "always_online": True},
            "shortcuts": [
                _shortcut(ANSWER, "Answer this", "Have Inhouse answer this message"),
                _shortcut(FORGET, "Forget this", "Have Inhouse delete what it stored of this message"),
            ],
            "slash_commands": [
                {
                    "command": settings.slack_command,
                    "description": "Ask, choose the model, or change how it answers",
                    "usage_hint": " | ".join(HINT),
                    "should_escape": False,
                }
            ],
        },
        "oauth_config": {"scopes": {"bot": list(SCOPES)}},
        "settings": {
            "event_subscriptions": {"bot_events": list(EVENTS)},
            "interactivity": {"is_enabled": True},
            "org_deploy_enabled": False,
            "socket_mode_enabled": True,
            "token_rotation_enabled": False,
        },
    }


def manifest_text(settings: Settings) -> str:
    """The manifest for a terminal: no line has more than 80 columns, where it would be broken within a text."""
    return json.dumps(manifest(settings), ensure_ascii=False, indent=1)


def create_page(settings: Settings | None = None) -> str:
    """The page that creates an app; with settings, it has the manifest filled in."""
    filled = "" if settings is None else f"&manifest_json={quote(json.dumps(manifest(settings)))}"
    return f"{APPS}?new_app=1{filled}"


def steps(settings: Settings) -> str:
    """The steps to install the app."""
    return "\n".join(
        [
            f"1. Open {create_page()}, choose 'From a manifest' and your workspace, and paste what was printed.",
            "2. On the page 'Install App' install it, and set SLACK_BOT_TOKEN to the token that begins with xoxb-.",
            "3. On the page 'Basic Information', under 'App-Level Tokens', generate a token with the scope "
            f"{APP_TOKEN_SCOPE}, and set SLACK_APP_TOKEN to it (it begins with xapp-).",
            f"4. Start the bot with 'inhouse run', write '/invite @{NAME}' in a channel, and mention it there. "
            f"'{settings.slack_command}' shows what else there is.",
        ]
    )


def _shortcut(callback_id: str, name: str, description: str) -> dict[str, str]:
    return {"name": name, "type": "message", "callback_id": callback_id, "description": description}
