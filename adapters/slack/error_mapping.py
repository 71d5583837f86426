"""Maps slack_sdk's exceptions to our errors: RetryLater, Gone, Rejected or OutcomeUnknown."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from slack_sdk.errors import SlackApiError, SlackClientError

from bot.types.errors import AdapterError, FatalAdapterError, Gone, OutcomeUnknown, Rejected, RetryLater

APPS = "https://api.slack.com/apps"
RETRY_S = 2.0
"""Seconds until the next try where Slack does not say."""
RATE_LIMIT_S = 30.0
"""Seconds until the next try after a rate limit without a Retry-After."""
TOKEN_RETRY_S = 60.0
"""Seconds until the next try while the token is refused; `connection` finds out whether that is final."""

LIMITED = frozenset({"ratelimited", "rate_limited"})
NOT_FOUND = frozenset({"message_not_found", "channel_not_found", "thread_not_found", "message_deleted"})
SERVER_ERRORS = frozenset(
    {"internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org"}
)
CHANNEL_FORBIDDEN = frozenset(
    {"not_in_channel", "is_archived", "restricted_action", "no_permission", "channel_is_limited_access"}
)
"""Errors that say that the bot may not write in a channel."""
UNKNOWN_TOKEN = frozenset({"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"})

_TOKEN_ERRORS = {
    "invalid_auth": "Slack does not know {token}",
    "not_authed": "{token} is not set",
    "account_inactive": "{token} is that of an app that was removed from the workspace",
    "token_revoked": "{token} was revoked",
    "token_expired": "{token} has expired, since token rotation is switched on",
}


def code_of(error: BaseException) -> str:
    """Slack's error code, '' if there is none."""
    response = error.response if isinstance(error, SlackApiError) else None
    try:
        return str(response.get("error") or "") if response is not None else ""
    except (AttributeError, ValueError):  # the answer is no JSON
        return ""


def is_rate_limited(error: BaseException | None) -> bool:
    """Whether an error is a rate limit."""
    response = error.response if isinstance(error, SlackApiError) else None
    return error is not None and (getattr(response, "status_code", 200) == 429 or code_of(error) in LIMITED)


def fatal_error(error: BaseException) -> FatalAdapterError | None:
    """The error with its fix where reconnecting cannot help, else None."""
    if not isinstance(error, SlackApiError):
        return None
    code, response = code_of(error), error.response
    app_level = "apps.connections" in str(getattr(response, "api_url", ""))
    token = "SLACK_APP_TOKEN" if app_level else "SLACK_BOT_TOKEN"
    page = "'Basic Information', 'App-Level Tokens'" if app_level else "'OAuth & Permissions'"
    if code in _TOKEN_ERRORS:
        why = _TOKEN_ERRORS[code].format(token=token)
        return FatalAdapterError(f"{why}: copy it anew from {page} of the app at {APPS} and start again.")
    if code == "not_allowed_token_type":
        begins = "xapp-" if app_level else "xoxb-"
        return FatalAdapterError(
            f"{token} is a token of the wrong kind: it must be one that begins with {begins}, from {page} at {APPS}."
        )
    if code == "missing_scope":
        needed = str(response.get("needed") or ("connections:write" if app_level else "another scope"))
        return FatalAdapterError(
            f"{token} lacks the scope {needed}: add it under {page} of the app at {APPS}, and install the app again."
        )
    if code in ("link_disabled", "socket_mode_not_enabled", "apps_not_enabled_for_socket_mode"):
        return FatalAdapterError(f"Socket Mode is switched off: switch it on under 'Socket Mode' of the app at {APPS}.")
    return None


@asynccontextmanager
async def mapped_errors(*, posting: bool = False) -> AsyncIterator[None]:
    """Around calls to Slack. `posting`: a repeated call would be visible, so a lost answer is an OutcomeUnknown."""
    try:
        yield
    except SlackApiError as error:
        raise _refusal(error, posting) from error
    except aiohttp.ClientConnectorError as error:
        raise RetryLater(RETRY_S, "Slack cannot be reached") from error
    except (aiohttp.ClientError, SlackClientError, OSError, TimeoutError, ValueError) as error:
        raise _no_answer(posting) from error


def _no_answer(posting: bool) -> AdapterError:
    if posting:
        return OutcomeUnknown("Slack's answer to a post did not arrive")
    return RetryLater(RETRY_S, "Slack does not answer")


def _refusal(error: SlackApiError, posting: bool) -> AdapterError:
    code, status = code_of(error), int(getattr(error.response, "status_code", 200) or 200)
    if is_rate_limited(error):
        return RetryLater(_retry_after(error), "Slack limits the rate")
    if code in NOT_FOUND:
        return Gone("The message or its channel is not on Slack any more.")
    if code in UNKNOWN_TOKEN:
        return RetryLater(TOKEN_RETRY_S, "Slack refuses the token")
    if status >= 500 or code in SERVER_ERRORS or not code:
        return _no_answer(posting)
    return Rejected(f"Slack refused it ({code}).")


def _retry_after(error: SlackApiError) -> float:
    headers = {str(name).lower(): value for name, value in dict(getattr(error.response, "headers", {}) or {}).items()}
    try:
        return max(1.0, float(str(headers.get("retry-after", RATE_LIMIT_S))))
    except ValueError:
        return RATE_LIMIT_S
