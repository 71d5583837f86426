"""Recommend a model of the catalog for this machine, in the order of `inhouse models --fits`."""

from collections.abc import Sequence
from dataclasses import dataclass

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


def recommend(found: Sequence[Row], hardware: Hardware, disk_free: int) -> Recommendation | None:
    """The best general-purpose model that fits memory and disk at a readable speed; else the next best; else None.

    disk_free: bytes that are free where models are stored.
    """
    place = "the GPU's memory" if hardware.gpu else "this machine's memory"
    storable = [row for row in found if fits_disk(row, disk_free)]
    quick = [row for row in storable if not _is_unreadable(row)]
    chosen, unlimited = best(quick, hardware), best(found, hardware)
    if chosen is not None:
        passed_over = best([row for row in storable if _is_unreadable(row)], hardware)
        slower = passed_over.spec.name if passed_over is not None else ""
        return Recommendation(chosen, _why(unlimited or chosen, slower, hardware, place, disk_free))
    usable = [row for row in storable if not row.spec.gated and not row.spec.focus]
    for verdict, why in (
        (Verdict.FITS, "every model is slow on this machine, and this one is the fastest."),
        (Verdict.TIGHT, f"no model fits {place} with room to spare, and this one needs the least."),
    ):
        least = [row for row in usable if row.fit.verdict is verdict]
        if least:
            return Recommendation(min(least, key=lambda row: row.fit.needed_mb), why)
    return None


def _is_unreadable(row: Row) -> bool:
    return 0 < row.way.tokens_s < READABLE_TOKENS_S


def _why(unlimited: Row, slower: str, hardware: Hardware, place: str, disk_free: int) -> str:
    """One sentence. unlimited: the best model without regard to the disk. slower: one too slow to read, or ''."""
    if not fits_disk(unlimited, disk_free):
        size, free = human(unlimited.spec.download, "B"), human(disk_free, "B")
        return f"the best model for which there is disk: {unlimited.spec.name} needs {size}, and {free} are free."
    if hardware.gpu:
        return f"the best general-purpose model of the catalog that fits {place}."
    if slower:
        return (
            f"the best general-purpose model that fits {place} and gives {READABLE_TOKENS_S:g} tokens/s or more on "
            f"this machine; {slower} is slower."
        )
    limit = f"{CPU_PARAMETERS / 1e9:g} billion parameters"
    return f"the best general-purpose model that fits {place}; without a GPU, models above {limit} are slow."


def fits_disk(row: Row, disk_free: int) -> bool:
    """Whether the model is on this disk, or there is room for its download."""
    return row.installed or row.spec.download + SPARE_BYTES <= disk_free
