"""Detect the machine's GPU, CPU and memory, and choose the dtype of the weights.

`detect` imports torch in the calling process; `probe` runs it in a one-shot process instead. A machine without a usable
GPU is not an error unless cuda was requested: `Hardware.why_cpu` gives the reason.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from bot.models import control_groups
from bot.types.errors import ModelError

PROBE_TIMEOUT_S = 120
MB = 1 << 20

READ_MB = 512
"""Size of the matrix that `read_speed` reads: more than a processor's caches hold."""
READS = 4

IDLE_GPU, IDLE_RAM = 0.95, 0.85
"""Shares of the memory that are free while only the system and its desktop run."""


@dataclass(frozen=True, slots=True)
class CpuCapabilities:
    """The CPU instructions and torch kernels that decide the format of the weights on a CPU.

    fbgemm: FBGEMM's float16 kernels run. bf16: the CPU has bfloat16 dot products. amx: it has matrix units for them.
    onednn: oneDNN's bfloat16 kernels may be used.
    """

    fbgemm: bool = False
    bf16: bool = False
    amx: bool = False
    onednn: bool = False

    @classmethod
    def from_torch(cls, reported: Mapping[str, object], engines: Collection[str], onednn: bool) -> Self:
        """Build from `torch.cpu.get_capabilities()`, `torch.backends.quantized.supported_engines` and oneDNN's word on
        bfloat16."""

        def has(name: str) -> bool:
            return bool(reported.get(name))

        return cls(
            fbgemm="fbgemm" in engines and all(map(has, ("avx2", "f16c", "fma3"))),
            bf16=any(map(has, ("avx512_bf16", "amx_bf16", "bf16"))),
            amx=has("amx_bf16"),
            onednn=onednn and reported.get("architecture") == "x86_64",  # its layout was not tried on others
        )

    @property
    def packs(self) -> tuple[str, ...]:
        """The dtypes in which weights can be packed (`bot.models.packing`), the one that is usually fastest first.

        bfloat16 with AMX, else float16.
        """
        able = ("float16",) * self.fbgemm + ("bfloat16",) * (self.onednn and self.bf16)
        return able[::-1] if self.amx else able


@dataclass(frozen=True, slots=True)
class Hardware:
    """One machine. If the CPU is used, `gpu` is '' and `why_cpu` is the reason. bf16: native on the device in use.

    packs: the dtypes in which weights can be packed if the CPU is used (`bot.models.packing`), fastest first.
    read_gb_s: how fast the device reads weights, GB/s; 0 if it was not measured.
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
    packs: tuple[str, ...] = ()
    read_gb_s: float = 0.0

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `dataclasses.asdict` made, read from JSON."""
        return cls(**{**data, "packs": tuple(data["packs"])})

    @property
    def device(self) -> str:
        """The torch device type: 'cuda' or 'cpu'."""
        return "cuda" if self.gpu else "cpu"

    @property
    def idle(self) -> "Hardware":
        """This machine while only its system runs, whatever runs now."""
        gpu, ram = int(IDLE_GPU * self.vram_total_mb), int(IDLE_RAM * self.ram_total_mb)
        return replace(self, vram_free_mb=gpu, ram_free_mb=ram)


def choose_dtype(setting: str, hardware: Hardware, quantization: str = "none") -> str:
    """Choose the dtype of the weights: the setting, or for 'auto' the first that applies of: the fastest packed one
    (CPU), bfloat16 (native), float16 (GPU), float32.

    On a CPU without bfloat16 instructions, float32 is three times as fast as bfloat16 (measured with eight
    conversations). Quantized weights are not packed.
    """
    if setting != "auto":
        return setting
    if hardware.packs and quantization == "none":
        return hardware.packs[0]
    if hardware.bf16:
        return "bfloat16"
    return "float16" if hardware.gpu else "float32"


def is_packed(dtype: str, hardware: Hardware, quantization: str = "none") -> bool:
    """Whether weights of this dtype are packed for the CPU (`bot.models.packing`)."""
    return dtype in hardware.packs and quantization == "none"


def describe_hardware(hardware: Hardware) -> str:
    """Two or three lines of text: the GPU or the reason for using the CPU, the CPU, the memory."""
    cpu = f"CPU: {hardware.cpu}, {hardware.cores} cores"
    ram = f"RAM: {hardware.ram_total_mb:,} MB, {hardware.ram_free_mb:,} MB free"
    if not hardware.gpu:
        return f"The CPU is used: {hardware.why_cpu}.\n{cpu}\n{ram}"
    vram = f"{hardware.vram_total_mb:,} MB VRAM, {hardware.vram_free_mb:,} MB free"
    return f"GPU: {hardware.gpu}, CUDA {hardware.cuda}, {vram}\n{cpu}\n{ram}"


def cpu_capabilities() -> CpuCapabilities:
    """Detect the capabilities of this CPU. Imports torch."""
    import torch

    reported: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # missing in older versions of torch
    onednn = False
    with contextlib.suppress(AttributeError):  # a build without oneDNN
        onednn = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return CpuCapabilities.from_torch(reported, torch.backends.quantized.supported_engines, onednn)


def detect(device: str = "auto", *, measure: bool = False, cache_dir: Path | None = None) -> Hardware:
    """Detect the hardware; `device` is auto, cpu or cuda. measure: also measure `read_gb_s`. Imports torch.

    cache_dir: has the times that a load measured (`bot.models.format_choice`), which decide the order of `packs`.
    Raises ModelError if cuda was requested and is not available.
    """
    import torch

    why_cpu, cpu = _why_cpu(device), _cpu_name()
    packs = cpu_capabilities().packs if why_cpu else ()
    if cache_dir is not None and len(packs) > 1:
        from bot.models.format_choice import recorded

        packs = recorded(packs, cpu, cache_dir) or packs
    if device == "cuda" and why_cpu:
        raise ModelError(f"INHOUSE_DEVICE=cuda needs a GPU, and none can be used: {why_cpu}.")
    gpu, cuda, total, free = "", "", 0, 0
    if not why_cpu:
        gpu, cuda = torch.cuda.get_device_name(0), torch.version.cuda or ""
        free, total = torch.cuda.mem_get_info(0)
    ram_free, ram_total = control_groups.memory()
    return Hardware(
        gpu=gpu,
        cuda=cuda,
        vram_total_mb=total // MB,
        vram_free_mb=free // MB,
        bf16=cpu_capabilities().bf16 if why_cpu else torch.cuda.is_bf16_supported(including_emulation=False),
        cpu=cpu,
        cores=control_groups.core_count(),
        ram_total_mb=ram_total // MB,
        ram_free_mb=ram_free // MB,
        why_cpu=why_cpu,
        packs=packs,
        read_gb_s=read_speed("cpu" if why_cpu else "cuda") if measure else 0.0,
    )


def read_speed(device: str) -> float:
    """Measure how fast a device reads weights: GB/s of the best of READS products of a matrix and a vector.

    On a CPU the time that other processes take does not count. Returns 0 if there is no memory for it. Imports torch.
    """
    import torch

    free = control_groups.memory()[0] if device == "cpu" else torch.cuda.mem_get_info(0)[0]
    dtype = torch.float32 if device == "cpu" else torch.float16
    width = 4096
    height = min(READ_MB * MB, free // 8) // (width * dtype.itemsize)
    if not height:
        return 0.0
    matrix = torch.ones(height, width, dtype=dtype, device=device)
    vector = torch.ones(width, dtype=dtype, device=device)
    threads = 0 if device == "cuda" else torch.get_num_threads()
    times = []
    for _ in range(READS):
        began, thread, process = time.perf_counter(), time.thread_time(), time.process_time()
        torch.mv(matrix, vector)
        if device == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - began
        computed = max(time.thread_time() - thread, (time.process_time() - process) / max(threads, 1))
        times.append(min(took, computed) if threads and computed else took)
    return matrix.nbytes / min(times) / 1e9


async def probe(device: str, cache_dir: Path, *, measure: bool = False) -> Hardware:
    """Run `detect` in a one-shot process, so that this one does not import torch. Takes some seconds; cancellable.

    Raises ModelError if cuda was requested and is not available, if torch cannot be loaded, or after PROBE_TIMEOUT_S.
    """
    options = ("--device", device, "--cache-dir", str(cache_dir), *(("--measure",) if measure else ()))
    command = [sys.executable, "-m", "bot.models.hardware", *options]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=child_environment())
    try:
        told, errors = await asyncio.wait_for(process.communicate(), PROBE_TIMEOUT_S)
    except TimeoutError as error:
        raise ModelError(
            f"Detecting the hardware took more than {PROBE_TIMEOUT_S} s. Check the GPU's driver with nvidia-smi."
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = told.decode().splitlines()
    if process.returncode or not lines:
        reason = (errors.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(reason if process.returncode == 1 else f"torch cannot be loaded here: {reason}")
    return Hardware.from_data(json.loads(lines[-1]))


def child_environment(**more: str) -> dict[str, str]:
    """The environment for a child started with `python -m bot...`; PYTHONPATH includes this package's root.

    torch counts the machine's cores and knows no limit of CPU time; with more threads than that, some always wait.
    """
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    cores = control_groups.core_count()
    threads = {"OMP_NUM_THREADS": str(cores)} if cores < len(control_groups.usable_cores()) else {}
    return {**threads, **os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def _why_cpu(device: str) -> str:
    """The reason for using the CPU; '' if the GPU is used."""
    import torch

    if device == "cpu":
        return "it was asked for"
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this build of torch ({torch.__version__}) has no CUDA"
    if not torch.cuda.is_available():
        return "no GPU was found: there is none, or its driver is missing or too old for this build of torch"
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
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--measure", action="store_true")
    words = parser.parse_args()
    try:
        print(json.dumps(asdict(detect(words.device, measure=words.measure, cache_dir=words.cache_dir))))
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    gc.disable()  # a quarter of the time of importing torch
    status = _main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # without the tear-down of torch's modules
