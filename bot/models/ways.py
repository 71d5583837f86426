"""List the ways to run a model on a machine: the engine, the format of its weights, the fit and the speed; rank them.

The ranking is what `inhouse models --fits`, `inhouse init` and the completions of /model share.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from bot.config.settings import Settings
from bot.models.decode_speed import tokens_per_second
from bot.models.fit import Fit, Verdict, fits
from bot.models.hardware import Hardware
from bot.models.model_spec import ModelSpec

ENGINES = {"auto": "in-process", "vllm": "vLLM", "llama.cpp": "llama.cpp"}
"""Values of INHOUSE_ENGINE that run a model on this machine, and how they are shown."""

CPU_PARAMETERS = 2_000_000_000
"""The largest number of parameters that a token may use on a CPU; more give only a few tokens per second."""
READABLE_TOKENS_S = 3.0
"""Speed below which an answer of a hundred words takes more than a minute."""

VERDICTS = (Verdict.FITS, Verdict.TIGHT, Verdict.UNKNOWN, Verdict.WONT_FIT, Verdict.NEEDS)
"""The verdicts, best first."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a model. spec: the variant of the engine. tokens_s: estimate for one conversation, 0 if unknown.

    quantization: the value of INHOUSE_QUANTIZATION. together: several answers are written at once.
    """

    spec: ModelSpec
    engine: str
    quantization: str
    fit: Fit
    tokens_s: float
    together: bool

    @property
    def weights(self) -> str:
        """The format of the weights: bfloat16, Q4_K_M, fp8, 4bit."""
        return self.fit.dtype if self.quantization == "none" or self.spec.quantization else self.quantization

    @property
    def usable(self) -> bool:
        """Whether the model runs this way, even if tightly."""
        return self.fit.verdict in (Verdict.FITS, Verdict.TIGHT)


def way(spec: ModelSpec, hardware: Hardware, settings: Settings, engine: str) -> Way:
    """The way to run a model with an engine, with the other settings as they are."""
    variant = spec.for_engine(engine)
    quantization = settings.quantization if engine == "auto" else "none"
    fit = fits(variant, hardware, settings.dtype, quantization, settings.gpu_layers, settings.kv_cache_mb, engine)
    pace = tokens_per_second(variant, hardware, fit.dtype, quantization, engine)
    on_gpu = bool(hardware.gpu) and settings.gpu_layers != 0
    return Way(variant, engine, quantization, fit, pace, engine != "auto" or variant.batches(on_gpu=on_gpu))


def best_way(spec: ModelSpec, hardware: Hardware, settings: Settings, engines: Iterable[str]) -> Way:
    """The best way to run a model with one of `engines`: fits, many answers at once, closest to the full precision.

    On a GPU vLLM comes first, and Inhouse's own process before llama.cpp; on a CPU llama.cpp is the last, too.
    """
    found = [way(spec, hardware, settings, engine) for engine in engines]
    order = ("vllm", "auto", "llama.cpp") if hardware.gpu else ("auto", "llama.cpp", "vllm")
    return min(found, key=lambda each: (VERDICTS.index(each.fit.verdict), not each.together, order.index(each.engine)))


def place(found: Way, hardware: Hardware, *, installed: bool) -> tuple[float, ...]:
    """The sort key of a model among others, best first.

    Models that fit come first, then general ones that need no account, then those that are quick enough and write
    several answers at once; among these the stronger one, and among slow ones the quicker one.
    """
    spec, slow = found.spec, is_slow(found, hardware)
    hindered = bool(spec.focus) or (spec.gated and not installed)
    return (
        VERDICTS.index(found.fit.verdict),
        hindered,
        slow,
        -found.tokens_s if slow else 0.0,
        not found.together,
        -strength(spec),
        spec.parameters,
    )


def is_slow(found: Way, hardware: Hardware) -> bool:
    """Whether a model is too slow to read along: by the estimate, or by its size on a CPU."""
    if 0 < found.tokens_s < READABLE_TOKENS_S:
        return True
    return not hardware.gpu and (found.spec.active or found.spec.parameters) > CPU_PARAMETERS


def strength(spec: ModelSpec) -> float:
    """How good a model's answers are: the catalog's figure, else its size in billions of parameters."""
    return spec.strength or spec.parameters / 1e9
