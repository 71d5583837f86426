"""What there is to see: the live parts of the service, read and never changed, and whether it can answer.

In: the parts, as the composition root made them. Out: the same parts by name, and why nobody can be answered now.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bot.conversations.backfill import CatchUp
from bot.conversations.conversations import Conversations
from bot.conversations.request_queue import RequestQueue
from bot.core.actions import Actions
from bot.core.core import ServiceCore
from bot.generation.queue_status import Waiters
from bot.generation.worker import Worker
from bot.models.installed_models import Shelf
from bot.models.runtime_config import Current
from bot.observability.metrics import Metrics
from bot.platforms.instrumented_adapter import WatchedAdapter
from bot.types.engine import Engine


@dataclass(frozen=True, slots=True)
class Sources:
    """The live parts. `stopping`: whether the service drains. `refusals`: by platform, why it wants us no more."""

    current: Current
    engine: Engine
    shelf: Shelf
    queue: RequestQueue
    worker: Worker
    waiters: Waiters
    conversations: Conversations
    actions: Actions
    core: ServiceCore
    catchup: CatchUp
    adapters: Mapping[str, WatchedAdapter]
    metrics: Metrics
    refusals: Mapping[str, str]
    stopping: Callable[[], bool]

    @property
    def redelivered(self) -> int:
        """How many events came again and were dropped."""
        return self.conversations.redelivered + self.actions.redelivered

    def connected(self, platform: str) -> bool:
        """Whether a platform has a session, as far as its adapter can tell."""
        if platform in self.refusals or platform not in self.core.connected:
            return False
        return self.adapters[platform].connected is not False

    def unready(self, engine_trouble: str) -> str:
        """Why no question would be answered at this moment, in a few words without a full stop; '' if it would be."""
        worker = self.worker
        if self.stopping():
            return "it is being stopped"
        if worker.loader.loading is not None:
            return f"the model is being loaded ({worker.loader.loading.progress.fraction:.0%})"
        if worker.loader.loaded is None:
            return "no model is loaded"
        if engine_trouble:
            return engine_trouble
        if not any(map(self.connected, self.adapters)):
            return "no platform is connected"
        return ""
