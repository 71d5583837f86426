"""Wraps an adapter and counts its errors by kind; results and errors pass through unchanged.

Holds messages back while another host may have taken over. Calls that are held back, here or by the adapter itself,
are not counted. Also exposes the connection state for the status page.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from bot.observability.metrics import Metrics
from bot.platforms.adapter import Adapter, Core, Limits, Watchable
from bot.platforms.turns import Turns
from bot.types.errors import FatalAdapterError, Gone, NotSent, OutcomeUnknown, Rejected, RetryLater
from bot.types.messages import ConversationKey, IncomingMessage, Reply

KINDS: dict[type[Exception], str] = {
    RetryLater: "retry_later",
    Gone: "gone",
    Rejected: "rejected",
    OutcomeUnknown: "outcome_unknown",
    FatalAdapterError: "fatal",
    TimeoutError: "timeout",
}
"""Metric label by error type; the first match wins."""

HELD_BACK_S = 1.0


class InstrumentedAdapter:
    """Adapter wrapper that counts errors. `may_send`: whether this host may post and edit."""

    def __init__(self, adapter: Adapter, metrics: Metrics, may_send: Callable[[], bool] = lambda: True) -> None:
        self._adapter, self._metrics, self._may_send = adapter, metrics, may_send
        self.platform = adapter.platform

    @property
    def limits(self) -> Limits:
        """Current limits of the adapter."""
        return self._adapter.limits

    @property
    def connected(self) -> bool | None:
        """Whether the platform is connected; None if the adapter does not report it."""
        return self._adapter.connected if isinstance(self._adapter, Watchable) else None

    @property
    def rate_limited(self) -> int:
        """Number of 429 responses."""
        return self._adapter.rate_limited if isinstance(self._adapter, Watchable) else 0

    async def run(self, core: Core, turns: Turns | None = None) -> None:
        """Delegate to the adapter."""
        async with self._counted():
            await self._adapter.run(core, turns)

    async def fetch_since(self, key: ConversationKey, after_id: str, limit: int) -> Sequence[IncomingMessage]:
        """Delegate to the adapter."""
        async with self._counted():
            return await self._adapter.fetch_since(key, after_id, limit)

    def id_at(self, seconds: float) -> str:
        """Delegate to the adapter."""
        return self._adapter.id_at(seconds)

    async def post(self, reply: Reply) -> str:
        """Delegate to the adapter."""
        self._check()
        async with self._counted():
            return await self._adapter.post(reply)

    async def find_posted(self, reply: Reply) -> str | None:
        """Delegate to the adapter."""
        async with self._counted():
            return await self._adapter.find_posted(reply)

    async def update(self, reply: Reply) -> None:
        """Delegate to the adapter."""
        self._check()
        async with self._counted():
            await self._adapter.update(reply)

    async def status(self, key: ConversationKey, text: str | None) -> None:
        """Delegate to the adapter; a failed status update is not counted."""
        if self._may_send():
            await self._adapter.status(key, text)

    async def close(self) -> None:
        """Delegate to the adapter."""
        await self._adapter.close()

    def _check(self) -> None:
        """Raise NotSent while another host may have taken over."""
        if not self._may_send():
            raise NotSent(HELD_BACK_S, "the database does not answer, so another host may have taken over")

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        try:
            yield
        except NotSent:
            raise
        except Exception as error:
            kind = next((name for known, name in KINDS.items() if isinstance(error, known)), "other")
            self._metrics.platform_failed(self.platform, kind)
            raise
