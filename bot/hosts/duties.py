"""What a host tells the others about itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from bot.config.settings import Settings
from bot.config.shared_settings import shared_settings
from bot.conversations.answer_times import AnswerTimes
from bot.generation.worker import Worker


@dataclass(frozen=True, slots=True)
class Duties:
    """What a host does: its roles, how many answers it writes at once, with which model, and seconds of one.

    models: those that it can load. settings: as `shared_settings` returns them.
    """

    roles: tuple[str, ...]
    slots: int
    model: str
    models: tuple[str, ...]
    answer_s: float | None
    settings: Mapping[str, str]


def duties_of(settings: Settings, worker: Worker, answer_times: AnswerTimes, models: tuple[str, ...]) -> Duties:
    """Return what this host does now. models: those that it can load; a host that stops has none."""
    answer_s = answer_times.of(worker.loader.name)
    works = "worker" in settings.roles and not worker.draining
    return Duties(
        settings.roles,
        worker.slots if works and worker.loader.loaded is not None else 0,
        worker.loader.name,
        models if works else (),
        None if answer_s is None else float(f"{answer_s:.2g}"),  # told again only when it differs
        shared_settings(settings),
    )
