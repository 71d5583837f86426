"""Builds Conversations on real storage without a worker.

`hears` sends a message, `owed` lists the requests that resulted, `reads` builds the prompt of a request.
"""

from typing import Any

from bot.config.settings import Settings
from bot.conversations.conversations import Conversations
from bot.conversations.request_queue import RequestQueue
from bot.models.catalog import Catalog
from bot.models.runtime_config import RuntimeConfig
from bot.storage import Storage
from bot.types.errors import QueueFull
from bot.types.messages import (
    ConversationKey,
    FinishReason,
    GenerationRequest,
    IncomingMessage,
    Outcome,
    Person,
    Refused,
    RequestStatus,
)

CHANNEL = ConversationKey("scripted", "team", "general")
THREAD = ConversationKey("scripted", "team", "general", "thread")
ANA = Person("id-ana", "Ana")


class ConversationsSetup:
    """Conversations and its queue; collects new requests in `owed`, and finishes them with `answers`."""

    def __init__(self, settings: Settings, storage: Storage) -> None:
        self.queue = RequestQueue(settings.queue_size, settings.per_user)
        self.storage = storage
        self.conversations = Conversations(RuntimeConfig(settings, Catalog.of(settings)), storage, self.queue)
        self.owed: list[GenerationRequest] = []
        self.queue.on_put(self.owed.append)

    async def hears(
        self, text: str, *, key: ConversationKey = CHANNEL, at: float = 1.0, who: Person = ANA, **more: Any
    ) -> Outcome:
        """Sends a message; its id defaults to its text."""
        values = {"message_id": text, "addressed": True, **more}
        try:
            return await self.conversations.message(IncomingMessage(key, author=who, text=text, sent_at=at, **values))
        except QueueFull as error:
            return Refused(str(error))

    async def answers(self, request: GenerationRequest, text: str) -> None:
        """Finishes a request, as the worker does."""
        if self.queue.cancel(request.request_id):
            await self.storage.inbox.finish(
                request.request_id,
                RequestStatus.FINISHED,
                finish_reason=FinishReason.STOP,
                usage=None,
                error="",
                answer=text,
                replies=(),
            )

    async def reads(self, request: GenerationRequest) -> list[str]:
        """The texts of the prompt for a request."""
        prompt = await self.conversations.prompt(request)
        return [] if prompt is None else [turn.text for turn in prompt.turns]
