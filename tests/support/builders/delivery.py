"""Builds a Delivery between the real outbox and a scripted platform."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bot.observability.metrics import Metrics
from bot.platforms.adapter import Limits
from bot.replies.delivery import Delivery
from bot.storage import Storage
from bot.types.messages import Accepted, Choice, ConversationKey, Event, Outcome, Reply
from tests.support.builders.storage_rows import answer, ask, asked, part, rows
from tests.support.fakes.scripted_adapter import ScriptedAdapter
from tests.support.fakes.scripted_platform import ScriptedPlatform

REQUEST = asked("question")
QUICK = Limits(max_chars=2000, min_interval_s=0.0)


class IgnoringCore:
    """A Core that ignores all events."""

    async def handle(self, event: Event) -> Outcome:
        return Accepted()

    def choices(self, command: str, prefix: str) -> Sequence[Choice]:
        return ()

    async def following(self, key: ConversationKey) -> bool:
        return False

    async def catch_up(self, platform: str) -> None:
        return

    def presence(self) -> str:
        return ""


@dataclass
class DeliverySetup:
    """A platform, a storage, and a Delivery between them."""

    root: Path
    platform: ScriptedPlatform
    storage: Storage
    adapter: ScriptedAdapter
    metrics: Metrics
    delivery: Delivery

    def frame(self, text: str, *, tail: str = "", number: int = 0, final: bool = False) -> Reply:
        """One part of the answer in its current form."""
        return replace(
            part(REQUEST, number, text), tail=tail, final=final, attachment=None, finish_reason=None, usage=None
        )

    async def ends(self, *texts: str) -> None:
        """Stores the answer in these parts and shows them."""
        frames = [self.frame(text, number=number, final=True) for number, text in enumerate(texts)]
        await answer(self.storage, REQUEST, "\n".join(texts), *frames)
        self.delivery.show(frames)

    async def arrives(self) -> list[list[str]]:
        """Runs the delivery to its end; all versions of each message, oldest first."""
        await asyncio.wait_for(self.delivery.run(), 20)
        return [message.history for message in self.platform.posted]

    async def shows(self, text: str) -> None:
        """Waits until a message has this text."""
        await self.platform.until(lambda: any(post.text == text for post in self.platform.posted), f"{text!r} is shown")

    def state(self) -> list[object]:
        """The stored outbox states of the parts, in order."""
        found = rows(self.root, "SELECT state FROM outbox ORDER BY part")
        return [row[0] for row in found]

    def restarted(self) -> None:
        """Replaces the delivery, as a restarted process would."""
        self.delivery = Delivery(self.adapter, self.storage.outbox, self.metrics, REQUEST.request_id)


@asynccontextmanager
async def run_delivery(root: Path, limits: Limits = QUICK) -> AsyncIterator[DeliverySetup]:
    """Stores a question and opens a Delivery for its answer."""
    async with ScriptedPlatform() as platform:
        storage = await Storage.open(root)
        await ask(storage, "question")
        adapter = ScriptedAdapter(platform.port, limits=limits)
        running = asyncio.create_task(adapter.run(IgnoringCore()))
        try:
            await platform.connected()
            metrics = Metrics()
            yield DeliverySetup(root, platform, storage, adapter, metrics, Delivery(adapter, storage.outbox, metrics))
        finally:
            await adapter.close()
            await running
            await storage.close()
