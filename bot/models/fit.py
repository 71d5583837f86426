"""Estimate whether a model fits this machine, before it is downloaded or loaded.

The estimate is plain arithmetic and does not import torch, so the service can compute it on the event loop.

Memory = weights + KV cache + runtime. Weights = parameters * bytes per value. bitsandbytes does not quantize the
embeddings, the head, or the layers that stay in RAM when the others are on a GPU.
"""

from dataclasses import dataclass
from enum import StrEnum

from bot.models.hardware import MB, Hardware, choose_dtype, is_packed
from bot.models.model_spec import ModelSpec

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
QUANTIZED_BYTES = {"8bit": 1.0, "4bit": 0.5625}  # 4 bits plus one float32 scale per 64 weights
EMBEDDINGS_SHARE = 0.07
"""Share of the embeddings in all parameters, used when the catalog does not state it."""

CPU_KV_MB = 512
"""Default size of the KV cache on a CPU; INHOUSE_KV_CACHE_MB overrides it."""

GPU_RUNTIME_MB = 900  # CUDA's context, its libraries and the activations of a prefill
CPU_RUNTIME_MB = 700  # torch, transformers and the activations of a prefill
CONVERSATION_TOKENS = 4096
"""On a GPU the KV cache uses all memory that is left; this many tokens is the minimum that must fit."""

COMFORTABLE = 0.9


class Verdict(StrEnum):
    """How well a model fits; the values are shown to users."""

    FITS = "fits"
    TIGHT = "tight"
    WONT_FIT = "won't fit"
    UNKNOWN = "unknown"


SEVERITY = (Verdict.FITS, Verdict.TIGHT, Verdict.WONT_FIT)


@dataclass(frozen=True, slots=True)
class Fit:
    """An estimate. needed_mb and available_mb are those of the limiting device (GPU or RAM)."""

    verdict: Verdict
    needed_mb: int
    available_mb: int
    dtype: str
    sentence: str


def weights_mb(spec: ModelSpec, dtype: str, quantization: str = "none", packed: bool = False) -> int:
    """Memory of the loaded weights in MB; 0 if the number of parameters is unknown."""
    kept = _kept(spec) + (duplicated_parameters(spec) if packed else 0)
    return int(kept * BYTES[dtype] / MB) + layers_mb(spec, dtype, quantization)


def duplicated_parameters(spec: ModelSpec) -> int:
    """Parameters that packing duplicates: a packed head cannot share a tied matrix with the embeddings."""
    return spec.embeddings if spec.tied else 0


def layers_mb(spec: ModelSpec, dtype: str, quantization: str) -> int:
    """Memory of all decoder layers in MB."""
    return int((spec.parameters - _kept(spec)) * QUANTIZED_BYTES.get(quantization, BYTES[dtype]) / MB)


def _kept(spec: ModelSpec) -> float:
    """Parameters outside the decoder layers (embeddings and head)."""
    return min(spec.embeddings or spec.parameters * EMBEDDINGS_SHARE, spec.parameters)


def kv_mb(spec: ModelSpec, dtype: str, tokens: int) -> int:
    """Memory of `tokens` tokens in the KV cache, in MB."""
    return int(tokens * spec.kv_values_per_token * BYTES[dtype] / MB)


def fits(
    spec: ModelSpec,
    hardware: Hardware,
    dtype: str = "auto",
    quantization: str = "none",
    gpu_layers: int | None = None,
    kv_cache_mb: int | None = None,
) -> Fit:
    """Estimate whether a model fits; the arguments are the settings of the same names."""
    dtype = choose_dtype(dtype, hardware, quantization)
    if not spec.parameters:
        unknown = f"The size of {spec.name} is not known before it is fetched."
        return Fit(Verdict.UNKNOWN, 0, _free(hardware, hardware.device), dtype, unknown)
    weights = weights_mb(spec, dtype, quantization, is_packed(dtype, hardware, quantization))
    kv = kv_cache_mb or _default_kv_mb(spec, hardware, dtype)
    if not hardware.gpu or gpu_layers == 0:
        return _verdict(spec, hardware, dtype, [("cpu", weights + kv + CPU_RUNTIME_MB)])
    if gpu_layers is None or not spec.layers or gpu_layers >= spec.layers:
        return _verdict(spec, hardware, dtype, [("cuda", weights + kv + GPU_RUNTIME_MB)])
    away = (spec.layers - gpu_layers) / spec.layers
    in_ram = layers_mb(spec, dtype, "none")
    # accelerate copies a layer from RAM to the GPU to compute it, so the GPU needs room for one such layer.
    room = in_ram // spec.layers
    above = weights - int(layers_mb(spec, dtype, quantization) * away) + room + kv + GPU_RUNTIME_MB
    return _verdict(spec, hardware, dtype, [("cuda", above), ("cpu", int(in_ram * away) + CPU_RUNTIME_MB)])


def _default_kv_mb(spec: ModelSpec, hardware: Hardware, dtype: str) -> int:
    if not hardware.gpu:
        return CPU_KV_MB
    return kv_mb(spec, dtype, min(spec.context_window or CONVERSATION_TOKENS, CONVERSATION_TOKENS))


def _free(hardware: Hardware, device: str) -> int:
    return hardware.vram_free_mb if device == "cuda" else hardware.ram_free_mb


def _total(hardware: Hardware, device: str) -> int:
    return hardware.vram_total_mb if device == "cuda" else hardware.ram_total_mb


def _verdict(spec: ModelSpec, hardware: Hardware, dtype: str, needs: list[tuple[str, int]]) -> Fit:
    """The verdict for the limiting device."""
    found = [_verdict_on(spec, hardware, dtype, device, needed) for device, needed in needs]
    return max(found, key=lambda fit: (SEVERITY.index(fit.verdict), fit.needed_mb - fit.available_mb))


def _verdict_on(spec: ModelSpec, hardware: Hardware, dtype: str, device: str, needed: int) -> Fit:
    """The verdict for one device that must hold `needed` MB."""
    free, total = _free(hardware, device), _total(hardware, device)
    place = "GPU memory" if device == "cuda" else "RAM"
    facts = f"{spec.name} needs about {needed:,} MB of {place} in {dtype}"
    if needed <= COMFORTABLE * free:
        return Fit(Verdict.FITS, needed, free, dtype, f"{facts}; {free:,} MB are free.")
    if needed <= free:
        return Fit(Verdict.TIGHT, needed, free, dtype, f"{facts}; {free:,} MB are free, which is tight.")
    if needed <= COMFORTABLE * total:
        sentence = f"{facts}; only {free:,} of {total:,} MB are free: close other programs that use it."
        return Fit(Verdict.TIGHT, needed, free, dtype, sentence)
    return Fit(Verdict.WONT_FIT, needed, free, dtype, f"{facts}, and there are {total:,} MB.")
