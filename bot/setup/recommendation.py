"""Recommend a model of the catalog for this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from bot.config.settings import Settings
from bot.models import decode_speed
from bot.models.fit import Verdict
from bot.models.hardware import Hardware
from bot.models.hub_client import SPARE_BYTES
from bot.models.model_table import Row, best, human
from bot.models.ways import CPU_PARAMETERS, READABLE_TOKENS_S


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A model, and one sentence that says why this one."""

    row: Row
    why: str


def recommend(found: Sequence[Row], hardware: Hardware, disk_free: int, settings: Settings) -> Recommendation | None:
    """The largest general-purpose model that fits memory and disk at a readable speed; else the next best; else None.

    disk_free: bytes that are free where models are stored.
    """
    place = "the GPU's memory" if hardware.gpu else "the free memory"
    storable = [row for row in found if fits_disk(row, disk_free)]
    quick = [row for row in storable if _is_readable(row, hardware, settings)]
    chosen, unlimited = best(quick, hardware), best(found, hardware)
    if chosen is not None:
        return Recommendation(chosen, _why(chosen, unlimited or chosen, hardware, place, disk_free))
    usable = [row for row in storable if not row.spec.gated and not row.spec.focus]
    for verdict, why in (
        (Verdict.FITS, "every model is slow on this machine, and this one is the fastest."),
        (Verdict.TIGHT, f"no model fits {place} with room to spare, and this one needs the least."),
    ):
        least = [row for row in usable if row.fit.verdict is verdict]
        if least:
            return Recommendation(min(least, key=lambda row: row.fit.needed_mb), why)
    return None


def _why(chosen: Row, unlimited: Row, hardware: Hardware, place: str, disk_free: int) -> str:
    """One sentence; unlimited: the best model by memory alone."""
    if not fits_disk(unlimited, disk_free):
        size, free = human(unlimited.spec.download, "B"), human(disk_free, "B")
        return f"the largest model for which there is disk: {unlimited.spec.name} needs {size}, and {free} are free."
    if hardware.gpu:
        return f"the largest general-purpose model of the catalog that fits {place}."
    if unlimited is not chosen:
        return (
            f"the largest general-purpose model that fits {place} and gives {READABLE_TOKENS_S:g} tokens/s or more on "
            "this machine."
        )
    limit = f"{CPU_PARAMETERS / 1e9:g} billion parameters"
    return f"the largest general-purpose model that fits {place}; without a GPU, models above {limit} are slow."


def _is_readable(row: Row, hardware: Hardware, settings: Settings) -> bool:
    pace = tokens_per_second(row, hardware, settings)
    return not pace or pace >= READABLE_TOKENS_S


def fits_disk(row: Row, disk_free: int) -> bool:
    """Whether the model is on this disk, or there is room for its download."""
    return row.installed or row.spec.download + SPARE_BYTES <= disk_free


def tokens_per_second(row: Row, hardware: Hardware, settings: Settings) -> float:
    """Estimated speed for one conversation; 0 if the model's size or the speed of the memory is unknown."""
    return decode_speed.tokens_per_second(row.spec, hardware, row.fit.dtype, settings.quantization, settings.engine)
