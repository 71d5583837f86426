"""Acknowledges interactions and answers them with ephemeral messages, which only the person who acted can see.

An interaction is acknowledged once its work is stored, and not if storing failed. At most five messages go through the
response_url; files and longer texts go into the person's direct messages. The SDK repeats none of these calls.
"""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_sdk.errors import SlackClientError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from adapters.slack.inbound.events import EventTranslator
from adapters.slack.outbound.blocks import Json
from adapters.slack.outbound.mrkdwn import mrkdwn
from adapters.slack.outbound.posting import Posting
from adapters.slack.payloads import Interaction
from adapters.slack.web_client import SILENT, proxy_for
from bot.platforms.splitter import split
from bot.types.errors import AdapterError, StorageError
from bot.types.messages import Accepted, Attachment, Notice, Outcome

log = logging.getLogger(__name__)

ACK_S = 2.5
"""Acknowledge after this at the latest: Slack waits 3 s. Storage takes or refuses an event within 2 s, so unfinished
work is most likely stored; if it fails later, the person reads the error.
"""
CLOSE_TIMEOUT_S = 2.0
RESPOND_TIMEOUT_S = 10
MAX_RESPONSES = 5
MAX_CHARS = 2500
"""A section block takes 3,000 characters, and escaping adds some."""
ANSWER_COMING = "It comes as a message here."
SENT_AS_FILE = "The whole text is in a file in our direct messages."
FILE_SENT = "The file is in our direct messages."
FILE_NOT_SENT = "I could not send you the file as a direct message."

Work = Coroutine[Any, Any, "EphemeralReply | None"]  # Any: what asyncio's coroutines pass around


@dataclass(frozen=True, slots=True)
class EphemeralReply:
    """An answer for one person: Markdown, a file, a hint in Markdown, and blocks under the text."""

    text: str
    attachment: Attachment | None = None
    hint: str = ""
    blocks: tuple[Json, ...] = ()


def ephemeral_reply(outcome: Outcome) -> EphemeralReply | None:
    """The answer to an outcome; None if the event was a duplicate."""
    if isinstance(outcome, Accepted):
        return EphemeralReply(ANSWER_COMING) if outcome.request_id else None
    return EphemeralReply(outcome.text, outcome.attachment if isinstance(outcome, Notice) else None)


class EphemeralReplies:
    """Acknowledges and answers interactions."""

    def __init__(self, web: AsyncWebClient, posting: Posting, translator: EventTranslator) -> None:
        self._web, self._posting, self._translator = web, posting, translator
        self._tasks: set[asyncio.Task[Any]] = set()  # Any: the results

    async def respond(self, ack: AsyncAck, interaction: Interaction, work: Work, *, until_stored: bool = False) -> None:
        """Acknowledge an interaction once its work is stored, then answer it. Raises StorageError.

        until_stored: wait for the work without a limit, so that a message is acknowledged only once it is stored.
        """
        task = asyncio.create_task(work)
        self._track(task)
        await asyncio.wait({task}, timeout=None if until_stored else ACK_S)
        if task.done():
            task.result()
        await ack()
        self._track(asyncio.create_task(self._answer(interaction, task)))

    async def close(self) -> None:
        """Wait CLOSE_TIMEOUT_S for running tasks, then cancel them."""
        tasks = set(self._tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, interaction: Interaction, work: "asyncio.Task[EphemeralReply | None]") -> None:
        try:
            reply = await work
        except StorageError as error:
            reply = EphemeralReply(str(error))
        except Exception as error:
            return log.error("An interaction on Slack failed (%s).", type(error).__name__, exc_info=error)
        return await self._deliver(interaction, reply) if reply else None

    async def _deliver(self, interaction: Interaction, reply: EphemeralReply) -> None:
        """Send a reply; files and texts too long for the response_url go into direct messages."""
        file_note = FILE_SENT if reply.attachment else ""
        if reply.attachment and not await self._send_file(interaction, reply.attachment):
            file_note = FILE_NOT_SENT
        text = "\n\n".join(filter(None, (reply.text, file_note, reply.hint)))
        parts = [part.text for part in split(text, MAX_CHARS)]
        if len(parts) > MAX_RESPONSES:
            sent = await self._send_file(interaction, Attachment("answer.md", text))
            parts = [*parts[: MAX_RESPONSES - 1], SENT_AS_FILE if sent else FILE_NOT_SENT]
        for number, part in enumerate(parts, 1):
            if not await self._respond(interaction, mrkdwn(part), reply.blocks if number == len(parts) else ()):
                break

    async def _respond(self, interaction: Interaction, text: str, blocks: tuple[Json, ...]) -> bool:
        """Send one ephemeral message; whether Slack accepted it."""
        body: Json = {"text": text, "response_type": "ephemeral", "replace_original": False}
        body |= {"unfurl_links": False, "unfurl_media": False}
        if interaction.thread:
            body["thread_ts"] = interaction.thread
        if blocks:
            body["blocks"] = [{"type": "section", "text": {"type": "mrkdwn", "text": text}}, *blocks]
        client = AsyncWebhookClient(
            interaction.response_url,
            timeout=RESPOND_TIMEOUT_S,
            ssl=self._web.ssl,
            session=self._web.session,
            logger=SILENT,
            retry_handlers=[],
        )
        client.proxy = proxy_for(interaction.response_url)
        try:
            response = await client.send_dict(body)
        except (SlackClientError, aiohttp.ClientError, OSError, ValueError) as error:
            log.warning("The answer to a command of %s could not be sent (%s).", interaction.user, type(error).__name__)
            return False
        if response.status_code != 200:
            log.warning("Slack refused the answer to a command (status %d).", response.status_code)
        return response.status_code == 200

    async def _send_file(self, interaction: Interaction, file: Attachment) -> bool:
        """Send a file as a direct message; whether that worked."""
        key = self._translator.key(interaction.channel, interaction.thread)
        try:
            await self._posting.send_notice(key, "", thread=interaction.thread, to=interaction.user, attachment=file)
        except AdapterError as error:
            log.warning("A file could not be sent to %s: %s", interaction.user, error)
            return False
        return True

    def _track(self, task: "asyncio.Task[Any]") -> None:  # Any: the result
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
