"""Estimate how fast a model writes: decoding one token reads all weights that it uses once.

In-process, each layer adds a fixed time for the launches of its operators. For vLLM and llama.cpp the estimate is an
upper bound: what the memory allows.
"""

from bot.models.fit import BYTES, layers_mb
from bot.models.hardware import MB, Hardware
from bot.models.model_spec import ModelSpec

LAYER_S = {"cuda": 1.3e-3, "cpu": 0.23e-3}
"""Seconds per layer and token besides the read, measured (docs/measurements.md: an H100, and 2 cores of a Xeon)."""


def tokens_per_second(spec: ModelSpec, hardware: Hardware, dtype: str, quantization: str, engine: str) -> float:
    """Estimated speed for one conversation; 0 if the model's size or the speed of the memory is unknown.

    dtype: as `Fit` shows it. quantization, engine: the settings of these names.
    """
    if not spec.parameters or not hardware.read_gb_s:
        return 0.0
    read_s = read_bytes(spec, dtype, quantization) / (hardware.read_gb_s * 1e9)
    layer_s = LAYER_S[hardware.device] if engine == "auto" else 0.0
    return 1 / (read_s + spec.layers * layer_s)


def read_bytes(spec: ModelSpec, dtype: str, quantization: str) -> float:
    """Bytes of the layers and the head that a token reads: of the embeddings one row, of experts the chosen ones."""
    used = min(spec.active / spec.parameters, 1.0) if spec.active else 1.0
    if dtype not in BYTES:  # stored quantized
        return spec.download * used
    head = (spec.embeddings if spec.tied else spec.embeddings / 2) * BYTES[dtype]
    layers = layers_mb(spec, dtype, quantization) * MB
    return layers * used + head


def speed(tokens_s: float) -> str:
    """Format an estimated speed in tokens/s with the precision that it has."""
    if not tokens_s:
        return "?"
    if tokens_s < 1:
        return "under 1"
    step = 1 if tokens_s < 20 else 5
    return str(round(tokens_s / step) * step)
