"""The machine: its GPU, or why the CPU is used, its memory, and the number type that suits it.

`detect` imports torch and must run where that is wanted; `probe` asks a one-shot process for the same. The rest
is plain data. Promise: a machine without a usable GPU is a fact with a reason, never an error.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

from bot.types.errors import ModelError

PROBE_TIMEOUT_S = 120
MB = 1 << 20


@dataclass(frozen=True, slots=True)
class CpuCapabilities:
    """The instructions of a CPU, and the kernels of a build of torch, that decide how weights are kept on it.

    fbgemm: FBGEMM's float16 kernels run. bf16: it has instructions for bfloat16 products. amx: matrix units for them.
    """

    fbgemm: bool = False
    bf16: bool = False
    amx: bool = False

    @classmethod
    def from_torch(cls, reported: Mapping[str, object], engines: Collection[str]) -> Self:
        """From what `torch.cpu.get_capabilities` and `torch.backends.quantized.supported_engines` report."""

        def has(name: str) -> bool:
            return bool(reported.get(name))

        return cls(
            fbgemm="fbgemm" in engines and all(map(has, ("avx2", "f16c", "fma3"))),
            bf16=any(map(has, ("avx512_bf16", "amx_bf16", "bf16"))),
            amx=has("amx_bf16"),
        )

    @property
    def packs(self) -> bool:
        """Whether float16 weights in FBGEMM's layout are fastest (`models.packing`): AMX is faster with bfloat16."""
        return self.fbgemm and not self.amx


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine. `gpu` is '' and `why_cpu` says why when the CPU is used. bf16: the one used has it in hardware.

    packs: the CPU is used, and it is fastest with weights in float16 (`models.packing`).
    """

    gpu: str
    cuda: str
    vram_total_mb: int
    vram_free_mb: int
    bf16: bool
    cpu: str
    cores: int
    ram_total_mb: int
    ram_free_mb: int
    why_cpu: str = ""
    packs: bool = False

    @property
    def device(self) -> str:
        """cuda or cpu."""
        return "cuda" if self.gpu else "cpu"


def choose_dtype(setting: str, hardware: Hardware, quantization: str = "none") -> str:
    """The number type of the weights: what was asked for; else float16 on a CPU that packs, bfloat16 if in hardware,
    float16 on a GPU, or float32.

    On a CPU without bfloat16 instructions even float32 is faster than that (measured: three times at eight
    conversations). Weights that are quantized are not packed.
    """
    if setting != "auto":
        return setting
    if hardware.packs and quantization == "none":
        return "float16"
    if hardware.bf16:
        return "bfloat16"
    return "float16" if hardware.gpu else "float32"


def is_packed(dtype: str, hardware: Hardware, quantization: str = "none") -> bool:
    """Whether weights of a chosen type are laid out anew for the CPU."""
    return dtype == "float16" and hardware.packs and quantization == "none"


def describe_hardware(hardware: Hardware) -> str:
    """Two or three lines for a person: the GPU or why there is none, the CPU, the memory."""
    cpu = f"CPU: {hardware.cpu}, {hardware.cores} cores"
    ram = f"RAM: {hardware.ram_total_mb:,} MB, {hardware.ram_free_mb:,} MB free"
    if not hardware.gpu:
        return f"The CPU is used: {hardware.why_cpu}.\n{cpu}\n{ram}"
    vram = f"{hardware.vram_total_mb:,} MB VRAM, {hardware.vram_free_mb:,} MB free"
    return f"GPU: {hardware.gpu}, CUDA {hardware.cuda}, {vram}\n{cpu}\n{ram}"


def cpu_capabilities() -> CpuCapabilities:
    """Detect this machine's; the only place that does. Imports torch."""
    import torch

    reported: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch tells nothing
    return CpuCapabilities.from_torch(reported, torch.backends.quantized.supported_engines)


def detect(device: str = "auto") -> Hardware:
    """Look at this machine; `device` is auto, cpu or cuda. Imports torch.

    Raises ModelError if cuda was asked for and cannot be had.
    """
    import torch

    able = cpu_capabilities()
    why_cpu = _why_cpu(device)
    if device == "cuda" and why_cpu:
        raise ModelError(f"A GPU was asked for (INHOUSE_DEVICE=cuda), and there is none to use: {why_cpu}.")
    gpu, cuda, total, free = "", "", 0, 0
    if not why_cpu:
        gpu, cuda = torch.cuda.get_device_name(0), torch.version.cuda or ""
        free, total = torch.cuda.mem_get_info(0)
    memory = psutil.virtual_memory()
    return Hardware(
        gpu=gpu,
        cuda=cuda,
        vram_total_mb=total // MB,
        vram_free_mb=free // MB,
        bf16=able.bf16 if why_cpu else torch.cuda.is_bf16_supported(including_emulation=False),
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        ram_total_mb=memory.total // MB,
        ram_free_mb=memory.available // MB,
        why_cpu=why_cpu,
        packs=bool(why_cpu) and able.packs,
    )


async def probe(device: str = "auto") -> Hardware:
    """As `detect`, in a one-shot process, so that torch is never loaded here; takes some seconds. Cancelling ends it.

    Raises ModelError if cuda was asked for and cannot be had, or if torch cannot be loaded at all.
    """
    command = [sys.executable, "-m", "bot.models.hardware", "--device", device]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=child_environment())
    try:
        told, errors = await asyncio.wait_for(process.communicate(), PROBE_TIMEOUT_S)
    except TimeoutError as error:
        raise ModelError(f"The hardware did not tell what it is within {PROBE_TIMEOUT_S} s.") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = told.decode().splitlines()
    if process.returncode or not lines:
        reason = (errors.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(reason if process.returncode == 1 else f"torch cannot be loaded here: {reason}")
    return Hardware(**json.loads(lines[-1]))


def child_environment(**more: str) -> dict[str, str]:
    """The environment for a process of ours that is started with -m, wherever this package was imported from."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def _why_cpu(device: str) -> str:
    """Why the GPU is not used; '' if it is."""
    import torch

    if device == "cpu":
        return "it was asked for"
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this build of torch ({torch.__version__}) has no CUDA"
    if not torch.cuda.is_available():
        return "no GPU answers: there is none, or its driver is missing or too old for this build of torch"
    return ""


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _main() -> int:
    parser = argparse.ArgumentParser(description="Print what this machine has, as JSON.")
    parser.add_argument("--device", default="auto")
    try:
        print(json.dumps(asdict(detect(parser.parse_args().device))))
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
