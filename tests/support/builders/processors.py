"""CPU capabilities as torch reports them, so that no test depends on the CPU it runs on."""

from collections.abc import Collection
from types import MappingProxyType

from bot.models.hardware import CpuCapabilities

_AVX = {"architecture": "x86_64", "sse4_2": True, "avx": True, "f16c": True}
_AVX2 = {**_AVX, "avx2": True, "fma3": True, "avx512_f": False, "amx_tile": False}
_AVX512 = {**_AVX2, "avx512_f": True, "avx512_bw": True, "avx512_dq": True, "avx512_vl": True, "avx512_bf16": False}
_VNNI = {**_AVX512, "avx512_vnni": True}
_BF16 = {**_VNNI, "avx512_bf16": True}
_AMX = {**_BF16, "amx_tile": True, "amx_bf16": True, "amx_int8": True, "amx_fp16": False}
_NEON = {"architecture": "aarch64", "neon": True, "fp16_arith": True, "dot": True, "bf16": False, "sve": False}

PROCESSORS = MappingProxyType(
    {
        "none": {},  # torch reports nothing for this CPU
        "sse4": {"architecture": "x86_64", "sse4_2": True},
        "avx": _AVX,  # Ivy Bridge
        "avx2": _AVX2,  # Haswell, Zen 3
        "avx512": _AVX512,  # Skylake-X
        "avx512_vnni": _VNNI,  # Ice Lake
        "avx512_bf16": _BF16,  # Zen 4, Zen 5
        "amx": _AMX,  # Sapphire Rapids
        "amx_fp16": {**_AMX, "amx_fp16": True},  # Granite Rapids
        "neon": _NEON,  # Neoverse N1, Apple M1
        "neon_bf16": {**_NEON, "bf16": True, "i8mm": True, "sve": True},  # Neoverse V1, Apple M2
    }
)
"""torch.cpu.get_capabilities() of each CPU, reduced to the keys that this code reads."""

ENGINES = {"x86_64": ("qnnpack", "onednn", "x86", "fbgemm"), "aarch64": ("qnnpack", "onednn")}
"""torch.backends.quantized.supported_engines of the standard builds, by architecture."""


def capabilities(processor: str, engines: Collection[str] | None = None) -> CpuCapabilities:
    """Capabilities of a CPU with torch's standard build, or with the given engines."""
    reported = PROCESSORS[processor]
    usual = ENGINES.get(str(reported.get("architecture")), ())
    onednn = bool(reported.get("avx512_bw") or reported.get("bf16"))
    return CpuCapabilities.from_torch(reported, usual if engines is None else engines, onednn)
