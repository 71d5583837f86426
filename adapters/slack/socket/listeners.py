"""Creates the slack-bolt app and registers its listeners.

Events are stored before they are acknowledged: Bolt acknowledges after the listener returned; if it raises, Slack
delivers an event again (a press or a command is shown as failed instead). Events without a listener are acknowledged.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

from slack_bolt.app.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_bolt.response import BoltResponse
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.bot_identity import GetIdentity
from adapters.slack.inbound.intake import Intake
from adapters.slack.json_fields import Raw, text_of
from adapters.slack.web_client import SILENT
from bot.types.errors import InhouseError

log = logging.getLogger(__name__)

ANYTHING = re.compile(".*", re.DOTALL)
TOKEN_EVENTS = ("app_uninstalled", "tokens_revoked")
"""Events after which Slack may reject the bot's token."""

Register = Callable[[AsyncApp], None]
"""Registers listeners at an app."""


def make_app(web: AsyncWebClient, identity: GetIdentity) -> AsyncApp:
    """Create an app that authorizes from memory, without a request to Slack for each event."""

    async def authorize() -> AuthorizeResult:
        current = identity()
        return AuthorizeResult(
            enterprise_id=None,
            team_id=current.team_id,
            bot_user_id=current.user_id,
            bot_id=current.bot_id,
            bot_token=web.token,
        )

    app = AsyncApp(
        name="inhouse",
        client=web,
        logger=SILENT,
        authorize=authorize,
        process_before_response=True,
        request_verification_enabled=False,  # Socket Mode requests carry no signatures
        ssl_check_enabled=False,
        url_verification_enabled=False,
        attaching_conversation_kwargs_enabled=False,
    )
    app.error(_respond_500)
    return app


def listen(app: AsyncApp, intake: Intake, recheck_token: Callable[[], None], *others: Register) -> None:
    """Register the message listeners, then those of `others`, then a catch-all that acknowledges the rest.

    `recheck_token` is called when the bot's token may have been revoked.
    """

    async def message(event: Raw) -> None:
        subtype = text_of(event, "subtype")
        if subtype == "message_changed":
            await intake.change(event)
        elif subtype == "message_deleted":
            await intake.deletion(event)
        else:
            await intake.message(event)

    async def token_event() -> None:
        recheck_token()

    app.event("message")(message)
    app.event("app_mention")(message)
    for name in TOKEN_EVENTS:
        app.event(name)(token_event)
    for register in others:
        register(app)
    _acknowledge_rest(app)


def _acknowledge_rest(app: AsyncApp) -> None:
    """Acknowledge all other events: Slack redelivers unacknowledged ones and disables apps that rarely acknowledge."""

    async def acknowledge(ack: AsyncAck) -> None:
        await ack()

    listeners: tuple[Callable[..., Callable[..., Any]], ...] = (  # Any: return types of Bolt's decorators
        app.event,
        app.action,
        app.shortcut,
        app.view,
        app.options,
        app.command,
    )
    for listener in listeners:
        listener(ANYTHING)(acknowledge)


async def _respond_500(error: Exception) -> BoltResponse:
    """Return 500, so that an event is not acknowledged."""
    if isinstance(error, InhouseError):
        log.error("An event of Slack's could not be handled yet: %s", error)
    else:
        log.error("An event of Slack's could not be handled (%s).", type(error).__name__, exc_info=error)
    return BoltResponse(status=500)
