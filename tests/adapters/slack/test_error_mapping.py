"""Tests the mapping of Slack's responses and connection failures to our errors: temporary, permanent, and the fix."""

import asyncio
from typing import Any

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.error_mapping import APPS, code_of, fatal_error, mapped_errors
from adapters.slack.web_client import web_client
from bot.types.errors import AdapterError, Gone, OutcomeUnknown, Rejected, RetryLater
from tests.support.builders.slack_adapter import settings_of
from tests.support.fakes.slack_server import APP_TOKEN, FakeSlack

POST = "chat.postMessage"


def refusal(code: str, method: str = "auth.test", **more: Any) -> SlackApiError:  # Any: fields of the answer
    """The exception that slack_sdk raises for a response with ok: false."""
    response = AsyncSlackResponse(
        client=AsyncWebClient(),
        http_verb="POST",
        api_url=f"https://slack.com/api/{method}",
        req_args={},
        data={"ok": False, "error": code, **more},
        headers={},
        status_code=200,
    )
    return SlackApiError("refused", response)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (refusal("invalid_auth"), ("SLACK_BOT_TOKEN", "OAuth & Permissions")),
        (refusal("invalid_auth", "apps.connections.open"), ("SLACK_APP_TOKEN", "App-Level Tokens")),
        (refusal("not_authed"), ("SLACK_BOT_TOKEN", "not set")),
        (refusal("account_inactive"), ("removed",)),
        (refusal("token_revoked"), ("revoked",)),
        (refusal("token_expired"), ("expired", "rotation")),
        (refusal("not_allowed_token_type"), ("SLACK_BOT_TOKEN", "xoxb-")),
        (refusal("not_allowed_token_type", "apps.connections.open"), ("SLACK_APP_TOKEN", "xapp-")),
        (refusal("missing_scope", needed="chat:write"), ("chat:write", "install the app again")),
        (refusal("missing_scope", "apps.connections.open"), ("SLACK_APP_TOKEN", "connections:write")),
        (refusal("link_disabled", "apps.connections.open"), ("Socket Mode",)),
    ],
)
def test_what_is_for_good_says_what_to_do(error: SlackApiError, words: tuple[str, ...]) -> None:
    sentence = fatal_error(error)
    assert sentence is not None
    assert all(word in str(sentence) for word in (*words, APPS))
    assert str(sentence).count(". ") == 0, "one sentence"


@pytest.mark.parametrize("error", [refusal("ratelimited"), refusal("channel_not_found"), TimeoutError(), OSError()])
def test_what_passes_is_not_for_good(error: Exception) -> None:
    assert fatal_error(error) is None


@pytest.mark.parametrize(
    ("code", "kind", "posting"),
    [
        ("message_not_found", Gone, Gone),
        ("channel_not_found", Gone, Gone),
        ("is_archived", Rejected, Rejected),
        ("msg_too_long", Rejected, Rejected),
        ("ratelimited", RetryLater, RetryLater),
        ("token_revoked", RetryLater, RetryLater),
        ("internal_error", RetryLater, OutcomeUnknown),
        ("fatal_error", RetryLater, OutcomeUnknown),
    ],
)
async def test_a_refusal_is_one_of_our_errors(code: str, kind: type[AdapterError], posting: type[AdapterError]) -> None:
    for does_post, expected in ((False, kind), (True, posting)):
        with pytest.raises(AdapterError) as raised:
            async with mapped_errors(posting=does_post):
                raise refusal(code)
        assert type(raised.value) is expected


async def test_the_line_to_slack_may_fail_in_many_ways() -> None:
    async with FakeSlack() as server:
        ana, general = server.user("ana"), server.channel("general")
        await ana.says(general, "hello")
        web = web_client(settings_of(server))

        async def post() -> None:
            async with mapped_errors(posting=True):
                await web.chat_postMessage(channel=general.id, text="hi")

        async def read() -> None:
            async with mapped_errors():
                await web.conversations_history(channel=general.id)

        server.faults.answer(POST, status=502)
        server.faults.drop(POST, applied=False)
        server.faults.answer("conversations.history", status=502)
        server.faults.drop("conversations.history", applied=False, times=2)  # aiohttp retries reads
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                await post()
            with pytest.raises(RetryLater):
                await read()
        server.limits.exhaust(POST, 30)
        with pytest.raises(RetryLater) as limited:
            await post()
        assert 25 < limited.value.seconds <= 30
        assert server.log.count(POST) == 3, "the SDK repeats nothing"
    with pytest.raises(RetryLater, match="cannot be reached"):
        await post()


async def test_a_call_without_an_answer_ends_in_time() -> None:
    async with FakeSlack() as server:
        general = server.channel("general")
        web = web_client(settings_of(server))
        frozen = server.faults.freeze(POST)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as session:
            web.session = session
            with pytest.raises(OutcomeUnknown):
                async with asyncio.timeout(5), mapped_errors(posting=True):
                    await web.chat_postMessage(channel=general.id, text="hi")
        frozen.release()


async def test_two_tokens_that_were_swapped_are_reported() -> None:
    async with FakeSlack() as server:
        web = web_client(settings_of(server, slack_bot_token=APP_TOKEN))
        with pytest.raises(SlackApiError) as raised:
            await web.chat_postMessage(channel="C1", text="hi")
        assert code_of(raised.value) == "not_allowed_token_type"
        assert "xoxb-" in str(fatal_error(raised.value))
