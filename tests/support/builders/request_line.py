"""Builds a request queue with users who send requests to it, on a clock that a test advances."""

import asyncio

from bot.conversations.queue_entries import Place
from bot.conversations.request_queue import RequestQueue
from bot.types.messages import ConversationKey, GenerationRequest, Person, RequestStatus, SamplingParams


class Clock:
    """A monotonic clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A queue, and users who send requests to it."""

    def __init__(self, size: int = 1000, per_user: int = 1000) -> None:
        self.clock = Clock()
        self.queue = RequestQueue(size, per_user, self.clock)
        self.count = 0

    def asks(self, who: str, channel: str = "", *, model: str = "small", waits: float = 600.0) -> GenerationRequest:
        """Sends a request, in a conversation of the user's own unless a channel is named."""
        self.count += 1
        request = GenerationRequest(
            request_id=f"{who}-{self.count}",
            key=ConversationKey("scripted", "team", channel or f"channel-{self.count}"),
            message_id=f"message-{self.count}",
            author=Person(who, who.title()),
            model=model,
            params=SamplingParams(),
            attempts=0,
            accepted_at=float(self.count),
            wait_left_s=waits,
        )
        self.queue.put(request)
        return request

    async def starts(self, loaded: str = "small") -> str:
        """Starts the next request; its id."""
        return (await asyncio.wait_for(self.queue.get(loaded), 5)).request_id

    async def serves(self, loaded: str = "small") -> GenerationRequest:
        """Starts and finishes the next request."""
        request = await asyncio.wait_for(self.queue.get(loaded), 5)
        self.finishes(request)
        return request

    def finishes(self, request: GenerationRequest, seconds: float | None = None) -> None:
        """Runs a started request to its end."""
        self.queue.run(request.request_id)
        self.queue.end(request.request_id, RequestStatus.FINISHED, seconds)

    async def empties(self) -> list[GenerationRequest]:
        """Serves all waiting requests; the order in which they ran. Loads models as needed."""
        order: list[GenerationRequest] = []
        while self.queue.waiting():
            order.append(await self.serves(order[-1].model if order else "small"))
        return order

    def places(self, load_seconds: float = 0.0, slots: int = 1, loaded: str = "small") -> dict[str, Place]:
        return self.queue.places(loaded, slots, lambda _: load_seconds)
