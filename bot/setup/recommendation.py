"""Recommend a model of the catalog for this machine, and estimate its speed.

Decoding one token reads all weights once, so the time per token is that of the read plus a fixed time per layer for
the launches of its operators.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bot.config.settings import Settings
from bot.models.fit import BYTES, Verdict, layers_mb
from bot.models.hardware import MB, Hardware
from bot.models.hub_client import SPARE_BYTES
from bot.models.model_spec import ModelSpec
from bot.models.model_table import CPU_PARAMETERS, Row, best, human

LAYER_S = {"cuda": 1.3e-3, "cpu": 0.23e-3}
"""Seconds per layer and token besides the read, measured (docs/measurements.md: an H100, and 2 cores of a Xeon)."""

READABLE_TOKENS_S = 3.0
"""Speed below which an answer of a hundred words takes more than a minute, so a smaller model is recommended."""


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
    """Estimated speed for one conversation; 0 if the model's size or the speed of the memory is unknown.

    For vLLM and llama.cpp an upper bound: what the memory allows.
    """
    spec = row.spec
    if not spec.parameters or not hardware.read_gb_s:
        return 0.0
    read_s = _read_bytes(spec, row.fit.dtype, settings.quantization) / (hardware.read_gb_s * 1e9)
    layer_s = LAYER_S[hardware.device] if settings.engine == "auto" else 0.0
    return 1 / (read_s + spec.layers * layer_s)


def speed(tokens_s: float) -> str:
    """Format an estimated speed in tokens/s with the precision that it has."""
    if not tokens_s:
        return "?"
    if tokens_s < 1:
        return "under 1"
    step = 1 if tokens_s < 20 else 5
    return str(round(tokens_s / step) * step)


def _read_bytes(spec: ModelSpec, dtype: str, quantization: str) -> float:
    """Bytes of the layers and the head; of the embeddings only one row is read. dtype: as `Fit` shows it."""
    if dtype not in BYTES:  # stored quantized
        return spec.download
    head = spec.embeddings if spec.tied else spec.embeddings / 2
    return layers_mb(spec, dtype, quantization) * MB + head * BYTES[dtype]
