"""Check Python, memory, torch, and that the GPU, its driver and torch's CUDA build are compatible.

Uses the report of `torch_probe`, the files in /dev, /proc and /sys, and INHOUSE_DEVICE. A machine without a GPU is ok
unless INHOUSE_DEVICE=cuda is set.
"""

import asyncio
import platform
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.doctor.check_runner import Findings
from bot.doctor.torch_probe import Torch, run_probe
from bot.models import control_groups
from bot.models.hardware import MB
from bot.types.findings import Finding, State, ok, warning, wrong

OLDEST_PYTHON = (3, 11)
LEAST_RAM_MB = 1500
NVIDIA, DISPLAY = "0x10de", "0x03"
"""PCI vendor id of NVIDIA, and the prefix of the PCI class of display controllers."""

NO_CUDA = "Install a build of torch with CUDA (`make clean`, then `make run` without a TORCH_INDEX for CPUs)"
SEE_SMI = "Run `nvidia-smi`, and restart the machine if its driver was just updated."


class TorchProbeCache:
    """Caches the torch probe, so that several checks share one process."""

    def __init__(self, probe: Callable[[], Coroutine[Any, Any, Torch]] = run_probe) -> None:  # Any: asyncio's types
        self._probe = probe
        self._task: asyncio.Task[Torch] | None = None

    async def torch(self) -> Torch:
        """The probe's result. A check that is cancelled does not cancel the probe for the others."""
        if self._task is None:
            self._task = asyncio.create_task(self._probe())
        return await asyncio.shield(self._task)


@dataclass(frozen=True, slots=True)
class Card:
    """What the system shows of an NVIDIA GPU: the PCI card, its kernel driver, /dev/nvidia<N> and /dev/nvidia-uvm."""

    card: bool
    driver: bool
    device: bool
    uvm: bool

    @classmethod
    def of(cls, root: Path = Path("/")) -> "Card":
        """Read it from /sys, /proc and /dev below `root`."""
        slots = (root / "sys/bus/pci/devices").glob("*")
        device = any((root / "dev").glob("nvidia[0-9]*"))
        return cls(
            card=device or any(_read(slot / "vendor") == NVIDIA and _is_display(slot) for slot in slots),
            driver=(root / "proc/driver/nvidia/version").exists(),
            device=device,
            uvm=(root / "dev/nvidia-uvm").exists(),
        )


def python() -> Iterator[Finding]:
    """Check the version of Python and that it runs in a virtual environment."""
    found = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info < OLDEST_PYTHON:
        yield wrong("Python", found, "Inhouse needs 3.11 or newer: `make clean`, then `make run PYTHON=python3.11`.")
    elif sys.prefix == sys.base_prefix:
        yield warning(
            "Python", f"{found}, which is not a virtual environment", "Use a virtual environment; `make run` makes one."
        )
    else:
        yield ok("Python", found)


def memory() -> Iterator[Finding]:
    """Check that enough RAM is free for the smallest model."""
    free, total = control_groups.memory()
    found = f"{total // MB:,} MB, {free // MB:,} MB free"
    if free // MB < LEAST_RAM_MB:
        yield warning("memory", found, "The smallest model needs 1.5 GB: stop other programs.")
    else:
        yield ok("memory", found)


async def gpu(probe: TorchProbeCache, device: str, layers: int | None = None, root: Path = Path("/")) -> Findings:
    """Check torch and the GPU."""
    torch = await probe.torch()
    for finding in gpu_findings(torch, Card.of(root), device, layers):
        yield finding


def gpu_findings(torch: Torch, card: Card, device: str, layers: int | None = None) -> Iterator[Finding]:
    """Compare torch's report with the card, for INHOUSE_DEVICE=`device` and INHOUSE_GPU_LAYERS=`layers`."""
    if torch.hardware is None:
        yield wrong("torch", f"cannot be imported: {torch.trouble}", "Install it again: `make clean`, then `make run`.")
        return
    yield ok("torch", f"{torch.version}, built {f'for {torch.built_for}' if torch.cuda else 'without CUDA'}")
    if device == "cpu":
        yield ok("GPU", "not used, since INHOUSE_DEVICE=cpu is set")
    elif torch.gpus and not torch.trouble:
        hardware = torch.hardware
        count = f"the first of {len(torch.gpus)} is used; " if len(torch.gpus) > 1 else ""
        room = f"{hardware.vram_total_mb:,} MB, {hardware.vram_free_mb:,} MB free"
        driver = f"; its driver supports CUDA {torch.driver_cuda}" if torch.driver_cuda else ""
        yield ok("GPU", f"{torch.gpus[0]}, {count}{room}{driver}")
    elif not card.card and not torch.driver_cuda:
        if device == "cuda":
            yield wrong("GPU", "INHOUSE_DEVICE=cuda is set, but there is no GPU", "Set it to auto or cpu.")
        else:
            yield ok("GPU", "none; the CPU is used")
    else:
        yield _unusable_gpu(torch, card, State.WRONG if device == "cuda" else State.WARNING)
    if layers and "cpu" in (device, torch.hardware.device):
        yield warning("GPU layers", "INHOUSE_GPU_LAYERS has no effect, since the CPU is used", "Leave it empty.")
    if card.device and not card.uvm and device != "cpu":
        fix = (
            "`sudo modprobe nvidia-uvm` loads the module; systemd/modules-load.conf, as /etc/modules-load.d/"
            "inhouse.conf, does it at every boot."
        )
        yield warning("GPU memory", "/dev/nvidia-uvm is missing, and CUDA needs it", fix)


def _unusable_gpu(torch: Torch, card: Card, state: State) -> Finding:
    """Explain why an existing GPU cannot be used."""
    if not torch.cuda:
        return Finding("GPU", state, f"found, but torch {torch.version} was built without CUDA", f"{NO_CUDA}.")
    if not card.driver and not torch.driver_cuda:
        fix = "Install NVIDIA's driver, so that `nvidia-smi` shows the GPU; start a container with --gpus all."
        return Finding("GPU", state, "found, but its driver is not loaded", fix)
    if _major(torch.driver_cuda) < _major(torch.cuda):
        found = f"its driver supports CUDA up to {torch.driver_cuda or '?'}, but torch was built for {torch.cuda}"
        fix = f"Update NVIDIA's driver, or install a build of torch for CUDA {torch.driver_cuda or 'that it supports'}."
        return Finding("GPU", state, found, fix)
    if "kernel image" in torch.trouble:
        found = f"torch {torch.version} does not support this GPU ({', '.join(torch.gpus)})"
        return Finding("GPU", state, found, "Install a build of torch for a CUDA version that supports this GPU.")
    return Finding("GPU", state, f"torch cannot use it: {torch.trouble}", SEE_SMI)


def _major(version: str) -> int:
    return int(version.partition(".")[0]) if version[:1].isdecimal() else 0


def _is_display(slot: Path) -> bool:
    return _read(slot / "class").startswith(DISPLAY)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
