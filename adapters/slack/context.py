"""What was said before a message: the message that its thread starts from, and the talk around it where that is set.

In: a message. Out: Slack's messages before it, oldest first. Raises what `mapped` raises where they cannot be read.
"""

from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters.slack.failures import mapped
from adapters.slack.payloads import Message, body_of, message_of, object_of, objects_of, text_of
from bot.config import Settings

PAGE = 200
PAGES = 5
"""So much of a long thread is read."""


class Background:
    """Reads channels and threads for one bot."""

    def __init__(self, settings: Settings, web: AsyncWebClient) -> None:
        self._settings, self._web = settings, web

    def reload(self, settings: Settings) -> None:
        """Go by these from now on."""
        self._settings = settings

    async def before(self, message: Message, starts: bool) -> list[Message]:
        """The messages before one that addresses the bot. `starts`: with it the bot comes into the thread."""
        around = 0 if message.private else self._settings.ambient
        if not message.thread:
            return (await self._channel(message, around))[-around:] if around else []
        thread = await self._thread(message, PAGE if around else 1)
        first = [each for each in thread if starts and each.ts == message.thread]
        others = [each for each in thread if each.ts != message.thread]
        return [*first, *others[len(others) - around :]] if around else first

    async def _channel(self, message: Message, limit: int) -> list[Message]:
        async with mapped():
            answer = await self._web.conversations_history(
                channel=message.channel, latest=message.ts, inclusive=False, limit=limit
            )
        return _oldest_first(answer, message)

    async def _thread(self, message: Message, limit: int) -> list[Message]:
        """Slack begins with the oldest ones, so what is nearest comes last."""
        found: list[Message] = []
        cursor = ""
        for _ in range(PAGES):
            async with mapped():
                answer = await self._web.conversations_replies(
                    channel=message.channel,
                    ts=message.thread,
                    latest=message.ts,
                    inclusive=False,
                    limit=limit,
                    cursor=cursor or None,
                )
            found += _oldest_first(answer, message)
            cursor = text_of(object_of(body_of(answer), "response_metadata"), "next_cursor")
            if not cursor or limit == 1:
                break
        return found


def _oldest_first(answer: AsyncSlackResponse, before: Message) -> list[Message]:
    raws = objects_of(body_of(answer), "messages")
    found = [each for raw in raws if (each := message_of(raw, before.channel)) and each.sent_at < before.sent_at]
    return sorted(found, key=lambda each: each.sent_at)
