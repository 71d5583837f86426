"""Estimate whether a model fits this machine, before it is downloaded or loaded.

The estimate is plain arithmetic and does not import torch, so the service can compute it on the event loop.

Memory = weights + KV cache + runtime. In Inhouse's own process, weights = parameters * bytes per value; bitsandbytes
does not quantize the embeddings, the head, or the layers that stay in RAM when the others are on a GPU. Weights that
are stored quantized, and those of GGUF files, take the size that they have on disk.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from bot.models.hardware import MB, Hardware, choose_dtype, is_packed
from bot.models.model_directory import QUANTIZERS, VLLM_METHODS, has_package, needs_gpu, quantization_advice
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

EXPANDED = ("fp8", "mxfp4")
"""Quantized formats that Inhouse's own process expands to 16 bits where the device does not support them."""

VLLM_SHARE = 0.9
"""Share of the memory that vLLM takes (its `gpu_memory_utilization`); what the weights leave becomes its KV cache."""
VLLM_RUNTIME_MB = 2500  # CUDA's context, captured graphs and the activations of a prefill
LLAMA_RUNTIME_MB = 700  # compute buffers, and on a GPU its context

COMFORTABLE = 0.9


class Verdict(StrEnum):
    """How well a model fits; the values are shown to users."""

    FITS = "fits"
    TIGHT = "tight"
    WONT_FIT = "won't fit"
    UNKNOWN = "unknown"
    NEEDS = "needs"
    """It cannot run with this engine or without a GPU; `Fit.needs` says what it needs."""


SEVERITY = (Verdict.FITS, Verdict.TIGHT, Verdict.WONT_FIT)


@dataclass(frozen=True, slots=True)
class Fit:
    """An estimate. needed_mb and available_mb are those of the limiting device (GPU or RAM).

    needs: with Verdict.NEEDS, an engine or 'a GPU'.
    """

    verdict: Verdict
    needed_mb: int
    available_mb: int
    dtype: str
    sentence: str
    needs: str = ""

    @property
    def words(self) -> str:
        """The verdict as it is shown: fits, tight, won't fit, unknown, needs vllm."""
        return f"{self.verdict} {self.needs}".rstrip()


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
    """Memory of a conversation of `tokens` tokens in the KV cache, in MB."""
    return spec.kv_bytes(tokens, BYTES[dtype]) // MB


def fits(
    spec: ModelSpec,
    hardware: Hardware,
    dtype: str = "auto",
    quantization: str = "none",
    gpu_layers: int | None = None,
    kv_cache_mb: int | None = None,
    engine: str = "auto",
) -> Fit:
    """Estimate whether a model fits; the arguments are the settings of the same names."""
    method = spec.quantization or quantization
    quantization = "none" if spec.quantization else quantization
    dtype = choose_dtype(dtype, hardware, method)
    stored = bool(spec.quantization) and spec.quantization not in EXPANDED
    shown = spec.quantization if spec.quantization and (stored or engine != "auto") else dtype
    needs, why = _needs(spec, hardware, engine)
    if needs:
        return Fit(Verdict.NEEDS, 0, _free(hardware, hardware.device), shown, why, needs)
    if not (spec.download if stored else spec.parameters):
        unknown = f"The size of {spec.name} is not known before it is fetched."
        return Fit(Verdict.UNKNOWN, 0, _free(hardware, hardware.device), shown, unknown)
    if engine == "vllm":
        return _vllm_fit(spec, hardware, dtype, shown, kv_cache_mb)
    if engine == "llama.cpp":
        return _llama_fit(spec, hardware, shown, gpu_layers, kv_cache_mb)
    packed = is_packed(dtype, hardware, method)
    weights = spec.download // MB if stored else weights_mb(spec, dtype, quantization, packed)
    kv = kv_cache_mb or _default_kv_mb(spec, hardware, dtype)
    if not hardware.gpu or gpu_layers == 0:
        return _verdict(spec, hardware, shown, [("cpu", weights + kv + CPU_RUNTIME_MB)])
    if gpu_layers is None or not spec.layers or gpu_layers >= spec.layers:
        return _verdict(spec, hardware, shown, [("cuda", weights + kv + GPU_RUNTIME_MB)])
    away = (spec.layers - gpu_layers) / spec.layers
    in_ram, on_gpu = layers_mb(spec, dtype, "none"), layers_mb(spec, dtype, quantization)
    if stored:
        in_ram = on_gpu = max(0, weights - int(_kept(spec) * BYTES[dtype] / MB))
    # accelerate copies a layer from RAM to the GPU to compute it, so the GPU needs room for one such layer.
    room = in_ram // spec.layers
    above = weights - int(on_gpu * away) + room + kv + GPU_RUNTIME_MB
    return _verdict(spec, hardware, shown, [("cuda", above), ("cpu", int(in_ram * away) + CPU_RUNTIME_MB)])


def _needs(spec: ModelSpec, hardware: Hardware, engine: str) -> tuple[str, str]:
    """What a model needs to run that this engine or machine lacks, and a sentence about it; '' for nothing."""
    name, method = spec.name, spec.quantization
    if spec.engines and engine not in spec.engines:
        other = spec.engines[0] if hardware.gpu else spec.engines[-1]  # vLLM is for a GPU
        return other, f"{name} runs with {' or '.join(spec.engines)} only: set INHOUSE_ENGINE={other}."
    if engine == "llama.cpp":
        if spec.gguf:
            return "", ""
        return "a GGUF file", (
            f"{name} is not a GGUF file, which llama.cpp needs: choose one (owner/repo:Q4_K_M), or set"
            " INHOUSE_ENGINE=auto."
        )
    if spec.gguf:
        return "llama.cpp", f"{name} is a GGUF file, which llama.cpp runs: set INHOUSE_ENGINE=llama.cpp."
    if needs_gpu(method, engine) and not hardware.gpu:
        return "a GPU", (
            f"The weights of {name} are quantized with {method}, which needs a CUDA GPU here: choose the original"
            " repository of the model, or a GGUF file of it with INHOUSE_ENGINE=llama.cpp."
        )
    if engine == "auto" and not has_package(method):
        return "vllm" if method in VLLM_METHODS else QUANTIZERS[method], quantization_advice(name, method)
    if engine == "vllm" and method in QUANTIZERS and method not in VLLM_METHODS:
        return "another engine", (
            f"The weights of {name} are quantized with {method}, which vLLM does not load: set INHOUSE_ENGINE=auto, or"
            " use the original repository of the model."
        )
    return "", ""


def _vllm_fit(spec: ModelSpec, hardware: Hardware, dtype: str, shown: str, kv_cache_mb: int | None) -> Fit:
    """vLLM keeps weights as they are stored, and shortens the window to the KV cache that fits."""
    weights = spec.download // MB if spec.quantization and spec.download else weights_mb(spec, dtype)
    kv = kv_cache_mb or kv_mb(spec, "float16", min(spec.context_window or CONVERSATION_TOKENS, CONVERSATION_TOKENS))
    found = _verdict_on(spec, hardware, shown, hardware.device, weights + kv + VLLM_RUNTIME_MB, VLLM_SHARE)
    wanted, free = int(_total(hardware, hardware.device) * VLLM_SHARE), _free(hardware, hardware.device)
    if found.verdict is Verdict.FITS and kv_cache_mb is None and free < wanted:
        held = f"vLLM takes {wanted:,} MB, and only {free:,} are free: close other programs that use it"
        return replace(found, verdict=Verdict.TIGHT, sentence=f"{found.sentence.partition(';')[0]}; {held}.")
    return found


def _llama_fit(spec: ModelSpec, hardware: Hardware, shown: str, gpu_layers: int | None, kv_cache_mb: int | None) -> Fit:
    """llama.cpp keeps `gpu_layers` layers on the GPU; by default all, or as many as fit there."""
    weights = spec.download // MB
    least = kv_mb(spec, "float16", min(spec.context_window or CONVERSATION_TOKENS, CONVERSATION_TOKENS))
    kv = max(kv_cache_mb or (least if hardware.gpu else CPU_KV_MB), least)
    if not hardware.gpu or gpu_layers == 0:
        return _verdict(spec, hardware, shown, [("cpu", weights + kv + LLAMA_RUNTIME_MB)])
    if gpu_layers is not None and spec.layers:
        share = min(gpu_layers / spec.layers, 1)
        on_gpu = int((weights + kv) * share) + LLAMA_RUNTIME_MB
        return _verdict(spec, hardware, shown, [("cuda", on_gpu), ("cpu", int((weights + kv) * (1 - share)))])
    whole = _verdict(spec, hardware, shown, [("cuda", weights + kv + LLAMA_RUNTIME_MB)])
    both = COMFORTABLE * (whole.available_mb + hardware.ram_free_mb)
    if whole.verdict is Verdict.WONT_FIT and whole.needed_mb <= both:
        slow = "llama.cpp then keeps the other layers in RAM, which is slow"
        return replace(whole, verdict=Verdict.TIGHT, sentence=f"{whole.sentence.rstrip('.')}; {slow}.")
    return whole


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


def _verdict_on(spec: ModelSpec, hardware: Hardware, dtype: str, device: str, needed: int, share: float = 1.0) -> Fit:
    """The verdict for one device that must hold `needed` MB. share: of the device's memory, which may be used."""
    total = int(_total(hardware, device) * share)
    free = min(_free(hardware, device), total)
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
