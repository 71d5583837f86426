"""Give the status page read-only access to the running parts of the service, and decide whether it is ready."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bot.conversations.backfill import Backfill
from bot.conversations.conversations import Conversations
from bot.conversations.request_queue import RequestQueue
from bot.core.actions import Actions
from bot.core.core import ServiceCore
from bot.generation.queue_status import QueueStatus
from bot.generation.worker import Worker
from bot.models.installed_models import InstalledModels
from bot.models.runtime_config import RuntimeConfig
from bot.observability.metrics import Metrics
from bot.platforms.instrumented_adapter import InstrumentedAdapter
from bot.types.engine import Engine, ModelServers, ServerState


@dataclass(frozen=True, slots=True)
class LiveState:
    """The parts of the running service. stopping: whether it drains. refusals: fatal errors by platform name.

    elsewhere: whether another host receives a platform's events. hosts: how many are alive. slots: how many answers all
    of them write at once.
    """

    current: RuntimeConfig
    engine: Engine
    installed_models: InstalledModels
    queue: RequestQueue
    worker: Worker
    queue_status: QueueStatus
    conversations: Conversations
    actions: Actions
    core: ServiceCore
    backfill: Backfill
    adapters: Mapping[str, InstrumentedAdapter]
    metrics: Metrics
    refusals: Mapping[str, str]
    stopping: Callable[[], bool]
    elsewhere: Callable[[str], bool]
    hosts: Callable[[], int]
    slots: Callable[[], int]

    @property
    def redelivered(self) -> int:
        """The number of redelivered events that were dropped."""
        return self.conversations.redelivered + self.actions.redelivered

    @property
    def servers(self) -> Sequence[ServerState]:
        """The engine's servers; empty for an engine of this machine."""
        return self.engine.states if isinstance(self.engine, ModelServers) else ()

    def connected(self, platform: str) -> bool:
        """Whether a platform has a session. True for a connected adapter that does not report its state."""
        if platform in self.refusals or platform not in self.core.connected:
            return False
        return self.adapters[platform].connected is not False

    def unready(self, engine_problem: str) -> str:
        """Why the service cannot answer questions now, as a phrase without a full stop; '' if it is ready."""
        worker = self.worker
        if self.stopping():
            return "it is stopping"
        if worker.loader.loading is not None and worker.loader.loading.progress.message:
            return f"{worker.loader.loading.progress.message} ({worker.loader.loading.progress.stage})"
        if worker.loader.loading is not None:
            what = "engine is restarting" if worker.loader.loading.again else "model is loading"
            return f"the {what} ({worker.loader.loading.progress.fraction:.0%})"
        if worker.loader.loaded is None and ("worker" in self.current.settings.roles or not self.slots()):
            return "no model is loaded"
        if engine_problem:
            return engine_problem
        if not any(self.connected(name) or self.elsewhere(name) for name in self.adapters):
            return "no platform is connected"
        return ""
